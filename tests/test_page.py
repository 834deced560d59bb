"""The page: one file that needs nothing else, tells the numbers, and takes any text for a text."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image
from test_look_pictures import BOX, CHAIR, answers, without_poses

from gapmllm.geometry import transform_points
from gapmllm.tasks import (
    Answers,
    Description,
    Detection,
    FreeAnswer,
    Grounding,
    LabelledBox,
    LocatedPoint,
    Truth,
)
from gapmllm.viz.page import answers_json, write_page
from gapmllm.viz.page_scene import MAX_POINTS, scene_json
from gapmllm.viz.page_tables import safe
from gapmllm.viz.things import Cloud

VOID = {"meta", "img", "br", "input"}
PARTS = files("gapmllm.viz") / "page_parts"


class Page(HTMLParser):
    """Elements in order, the text outside scripts, the content of scripts by id; every element is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.scripts, self.open = [], [], {}, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "script":
            self.scripts[attributes.get("id")] = data
        elif tag != "style":
            self.texts.append(data.strip())

    def shown(self):
        return [text for text in self.texts if text]


def written(tmp_path, found, cloud=None):
    pictures = [Image.new("RGB", frame.size) for frame in found.frames]
    write_page(tmp_path / "index.html", found, pictures, Image.new("RGB", (100, 100)), cloud)
    return (tmp_path / "index.html").read_text(encoding="utf-8")


def everything():
    """All kinds of answers with their truth; 20 cm lie between the cameras."""
    half_off = (0.5, *BOX[1:])
    return answers(
        detections=[CHAIR, Detection(label="lamp", bbox_3d=BOX, score=0.25)],
        groundings=[Grounding(text="the chair by the bed", frame=1, bbox_3d=BOX, score=0.75)],
        points=[LocatedPoint(frame=1, pixel=(30, 40), xyz=(0.0, 0.0, 2.0), label="bed", score=0.5)],
        descriptions=[Description(xyz=(1.0, 0.0, 2.0), text="a brown chair")],
        answers=[FreeAnswer(question="How many?", answer="Two & a half.")],
        truth=Truth(
            detections=[LabelledBox(label="Chair", bbox_3d=half_off), LabelledBox(label="sink", bbox_3d=BOX)],
            groundings=[BOX],
            points=[(0.3, 0.4, 2.0)],
            point_labels=["pillow"],
            descriptions=[["this is a chair.", "it is brown."]],
        ),
        notes=["the video ends in the middle"],
    )


def test_the_page_needs_no_network_and_no_other_file(tmp_path):
    text = written(tmp_path, everything())
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    links = [(tag, row[name]) for tag, row in page.elements for name in ("src", "href") if name in row]
    assert [tag for tag, _ in links] == ["img"] * 3
    assert all(link.startswith("data:image/jpeg;base64,") for _, link in links)
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    assert "@import" not in text
    assert "url(" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html"]


def test_pictures_have_words_for_those_who_do_not_see_them(tmp_path):
    page = Page(written(tmp_path, everything()))
    alts = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    assert "Frame 1: 1.png, 0.50 s, with the answers drawn in" in alts
    assert sum(not alt for alt in alts) == 1  # the large one, which the script fills


def test_the_answers_come_back_from_the_page(tmp_path):
    found = everything()
    page = Page(written(tmp_path, found))
    assert Answers.model_validate_json(page.scripts["answers"]) == found
    assert "    [1.0, 0.0, 0.0, 0.2],\n" in re.sub(r"\n +\[1", "\n    [1", answers_json(found))


def test_a_list_of_numbers_is_one_line_and_a_text_that_looks_like_one_stays():
    found = answers(answers=[FreeAnswer(question="[\n 1,\n 2]", answer="[ 1,  2 ]")])
    assert Answers.model_validate_json(answers_json(found)) == found
    assert '"up": [0.0, -1.0, 0.0]' in answers_json(found)
    assert '"answer": "[ 1,  2 ]"' in answers_json(found)


def test_tables_hold_the_numbers_and_the_truth(tmp_path):
    texts = Page(written(tmp_path, everything())).shown()

    def row(first, count):
        return texts[texts.index(first) : texts.index(first) + count]

    # shifted by half of its width: IoU is 0.5 / 1.5
    expected = ["chair", "80%", "0.00, 0.00, 2.00", "1.00, 1.00, 1.00", "2.00 m", "0.50 m", "0.33 ✓"]
    assert row("chair", 7) == expected
    assert row("lamp", 7)[-2:] == ["\N{EN DASH}"] * 2
    assert any("2 objects are in view. Not found: sink." in text for text in texts)
    # 20 cm to the right of its truth: 0.8 / 1.2
    assert row("the chair by the bed", 7) == [
        *("the chair by the bed", "75%", "1", "0.00, 0.00, 2.00", "1.00, 1.00, 1.00", "0.20 m", "0.67 ✓")
    ]
    expected = ["bed", "50%", "1: 30, 40", "0.00, 0.00, 2.00", "2.00 m", "0.30, 0.40, 2.00", "0.50 m", "pillow ✗"]
    assert row("bed", 8) == expected
    assert row("1.00, 0.00, 2.00", 4) == ["1.00, 0.00, 2.00", "a brown chair", "this is a chair.", "it is brown."]
    assert row("How many?", 2) == ["How many?", "Two & a half."]
    assert "the video ends in the middle" in texts


def test_without_truth_there_is_no_column_for_it(tmp_path):
    texts = Page(written(tmp_path, everything().model_copy(update={"truth": None}))).shown()
    assert not {"Off by", "IoU", "True place", "True label", "What people would say"} & set(texts)
    assert {"Score", "Distance"} <= set(texts)
    unplaced = without_poses(groundings=everything().groundings, truth=everything().truth)
    texts = Page(written(tmp_path, unplaced)).shown()
    assert texts[texts.index("the chair by the bed") + 5] == "\N{EN DASH}"  # nobody knows where its camera was


def test_each_true_object_is_matched_once_and_in_all_nearest(tmp_path):
    places = (0.0, 1.0)
    said = [Detection(label="chair", bbox_3d=(x, *BOX[1:]), score=0.9 - x / 10) for x in (0.6, 1.1)]
    true = Truth(detections=[LabelledBox(label="chair", bbox_3d=(x, *BOX[1:])) for x in places])
    texts = Page(written(tmp_path, answers(detections=said, truth=true))).shown()
    # the first is nearer to 1, but that one is the second's: 0.6 + 0.1 is less than 0.4 + 1.1
    assert [text for text in texts if re.fullmatch(r"0\.\d\d m", text)] == ["0.60 m", "0.10 m"]


def test_random_weights_are_said_plainly(tmp_path):
    sentence = "The weights of this model are random: the answers mean nothing"
    assert sentence not in written(tmp_path, answers())
    assert sentence in written(tmp_path, answers(trained=False))


def test_no_text_becomes_markup(tmp_path):
    evil = "</script><script>alert('1')</script><!-- \" & \x07\u202e\x00"
    found = answers(
        source=evil,
        model=evil,
        notes=[evil],
        detections=[Detection(label=evil, bbox_3d=BOX, score=0.5)],
        groundings=[Grounding(text=evil, frame=0, bbox_3d=BOX, score=0.5)],
        points=[LocatedPoint(frame=0, pixel=(1, 1), xyz=(0, 0, 1), label=evil, score=0.5)],
        descriptions=[Description(xyz=(0, 0, 1), text=evil)],
        answers=[FreeAnswer(question=evil, answer=evil)],
        truth=Truth(points=[None], point_labels=[evil], descriptions=[[evil]]),
    )
    found = found.model_copy(update={"frames": tuple(f.model_copy(update={"name": evil}) for f in found.frames)})
    text = written(tmp_path, found)
    page = Page(text)
    plain = Page(written(tmp_path, everything()))
    for parsed in (page, plain):
        assert [tag for tag, _ in parsed.elements].count("script") == 4
    assert "<script>alert" not in text
    assert not {"\x07", "\u202e", "\x00"} & set("".join(page.texts))
    assert Answers.model_validate_json(page.scripts["answers"]) == found
    assert sum("alert('1')" in piece for piece in page.texts) >= 8  # shown as they are
    assert safe("a\nb\t<") == "a\nb\ufffd&lt;"


def test_a_long_text_is_folded_and_all_there(tmp_path):
    long = "why is it so? " * 7000  # 98,000 characters
    page = Page(written(tmp_path, answers(answers=[FreeAnswer(question=long, answer="no")])))
    assert sum(tag == "details" for tag, _ in page.elements) == 2  # and the one for answers.json
    assert any(text == long.strip() for text in page.texts)
    assert "All of it, 98,000 characters" in page.texts
    assert sorted(len(text) for text in page.texts if text.startswith("why"))[0] <= 400


# The 3D view


def test_the_view_shows_the_boxes_of_the_answers_in_the_level_world(tmp_path):
    up = (0.0, -0.8, -0.6)
    found = everything().model_copy(update={"up": up})
    scene = json.loads(Page(written(tmp_path, found)).scripts["scene"])
    corners = {thing["id"]: np.array(thing["corners"]) for thing in scene["things"]}
    assert sorted(corners) == ["detection-0", "detection-1", "grounding-0", "truth-0", "truth-1", "truth-2"]
    # the camera looks down, 3 in 5: a point 2 m ahead is 1.6 m before it and 1.2 m below
    np.testing.assert_allclose(corners["detection-0"].mean(axis=0), [0, 1.6, -1.2], atol=1e-4)
    np.testing.assert_allclose(corners["grounding-0"].mean(axis=0), [0.2, 1.6, -1.2], atol=1e-4)
    edges = corners["detection-0"][np.array(scene["edges"])]
    np.testing.assert_allclose(np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1), 1, atol=1e-3)
    (spot, place) = scene["spots"]
    np.testing.assert_allclose(spot["xyz"], [0, 1.6, -1.2], atol=1e-4)
    np.testing.assert_allclose(spot["true"], transform_points([0.3, 0.4, 2], found.level()), atol=1e-4)
    assert place["true"] is None
    assert np.shape(scene["cameras"]) == (2, 10, 2, 3)
    np.testing.assert_allclose(scene["view"]["forward"], [0, 0.8, -0.6], atol=1e-4)
    assert scene["view"]["fov"] == pytest.approx(2 * np.arctan(0.4), abs=1e-4)
    ids = {row["data-id"] for _, row in Page(written(tmp_path, found)).elements if "data-id" in row}
    assert ids == {"detection-0", "detection-1", "grounding-0", "point-0", "description-0"}


def test_points_are_packed_within_a_tenth_of_a_millimetre_and_strays_left_out():
    rng = np.random.default_rng(0)
    room = rng.uniform((-2, -1, 0), (2, 1, 4), (1000, 3))
    points = np.concatenate([room, [[5000.0, 0, 0]]])
    colors = rng.integers(0, 256, (1001, 3), dtype=np.uint8)
    packed = scene_json(answers(), Cloud(points, colors))["points"]
    values = np.frombuffer(base64.b64decode(packed["xyz"]), "<i2").reshape(-1, 3)
    assert packed["count"] == len(values) == 1000
    world = packed["origin"] + np.array(packed["step"]) * values
    assert np.abs(world - transform_points(room, answers().level())).max() < 1e-4
    assert (np.frombuffer(base64.b64decode(packed["rgb"]), np.uint8).reshape(-1, 3) == colors[:1000]).all()


def test_a_large_cloud_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    cloud = Cloud(rng.uniform(0, 3, (MAX_POINTS + 5000, 3)), np.zeros((MAX_POINTS + 5000, 3), np.uint8))
    assert scene_json(answers(), cloud)["points"]["count"] == MAX_POINTS
    assert len(written(tmp_path, answers(), cloud)) < 1_000_000  # 9 bytes a point, times 4 / 3


def test_the_switches_are_those_of_what_there_is(tmp_path):
    def switches(found, cloud=None):
        page = Page(written(tmp_path, found, cloud))
        return [attributes["data-show"] for _, attributes in page.elements if "data-show" in attributes]

    cloud = Cloud(np.zeros((1, 3)), np.zeros((1, 3), np.uint8))
    assert switches(answers()) == ["cameras", "names"]
    assert switches(everything(), cloud) == ["points", "boxes", "places", "truth", "cameras", "names"]


def test_answers_without_anything_make_a_page(tmp_path):
    bare = without_poses()
    page = Page(written(tmp_path, bare))
    assert "2" in page.texts  # frames
    assert len(json.loads(page.scripts["scene"])["cameras"]) == 1
    assert np.isfinite(json.loads(page.scripts["scene"])["view"]["low"]).all()
    looked = Page(written(tmp_path, answers(detections=[])))
    assert "Objects" in looked.texts
    assert "None." in looked.texts
    assert "Objects" not in page.texts


@pytest.mark.parametrize("name", ["webgl.js", "viewer.js", "page.js"])
def test_the_scripts_are_javascript_and_short(name, tmp_path):
    text = (PARTS / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 300
    assert "</" not in text
    if not shutil.which("node"):
        pytest.skip("node is not there")
    for content, status in ((text, 0), (text + "}", 1)):
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert subprocess.run(["node", "--check", tmp_path / name], capture_output=True).returncode == status
