"""The published VG-LLM and GAP-MLLM records, and the long JSON lists that hold them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import LEVEL
from scannet_data import kinds, load

from gapmllm.geometry import Boxes, invert_pose, transform_points
from gapmllm.scenes.images import encode_image
from gapmllm.scenes.importers import find_importer
from gapmllm.scenes.importers.base import ImportOptions
from gapmllm.scenes.importers.json_records import Span, parse_record, read_records, walk_records
from gapmllm.scenes.importers.released import ReleasedRecords
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Mark

# ---- long JSON lists


def test_records_are_found_and_read_across_the_chunks_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("gapmllm.scenes.importers.json_records._CHUNK", 7)
    values = [{"text": 'a "]}, ü 漢', "n": [1, {"b": []}]}, {}, {"text": "x" * 50}]
    path = tmp_path / "list.json"
    path.write_bytes(b"\xef\xbb\xbf \n" + json.dumps(values, ensure_ascii=False, indent=2).encode() + b"\n")
    spans = [span for span, _ in walk_records(path)]
    assert [span.number for span in spans] == [0, 1, 2]
    assert [parse_record(data) for _, data in read_records(path, spans[::-1])] == values[::-1]
    path.write_text("[ ]")
    assert list(walk_records(path)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list ends without ]"),
        ('{"a": 1}', "a JSON list of records was expected"),
        ('[{"a": 1}', "the list ends without ] at byte 9"),
        ('[{"a": 1}, {"b": ', "record 1 is damaged or cut short"),
        ('[{"a": 1} {"b": 2}]', "',' was expected before record 1, at byte 10"),
        ('[{"a": nope}]', "record 0 is damaged or cut short: .* byte 7"),
    ],
)
def test_a_list_that_is_none_says_where(tmp_path, text, message):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(walk_records(path))


def test_a_record_that_never_ends_is_not_read_to_the_end_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("gapmllm.scenes.importers.json_records._CHUNK", 10)
    monkeypatch.setattr("gapmllm.scenes.importers.json_records.MAX_RECORD", 100)
    path = tmp_path / "list.json"
    path.write_text('[{"a": "' + "x" * 1000 + '"}]')
    with pytest.raises(ValueError, match="record 0 is damaged or cut short"):
        list(walk_records(path))
    assert Span(0, 1, 2) == Span(number=0, start=1, length=2)


# ---- the published records


@pytest.fixture
def published(real, tmp_path):
    """The published record, with grey pictures in place of its images, which are not at hand."""
    record = json.loads((real / "gap_demo_sample" / "sample.json").read_text(encoding="utf-8"))[0]
    for image in record["images"]:
        path = tmp_path / image
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_image(np.full((968, 1296, 3), 128, np.uint8)))
    (tmp_path / "sample.json").write_text(json.dumps([record]), encoding="utf-8")
    return tmp_path, record


def test_the_published_record_is_a_clip_with_its_texts_verbatim(published):
    folder, record = published
    assert find_importer(folder) is find_importer(folder / "sample.json") is ReleasedRecords
    scene, problems = load(ReleasedRecords(folder))
    assert (scene.id, kinds(problems)) == ("scene0362_00", [])
    (clip,) = scene.clips
    (question,) = clip.questions
    assert [scene.frames[index].name for index in clip.frames] == record["images"]
    assert [scene.frames[index].time for index in clip.frames] == [350 / 30, 380 / 30, 410 / 30, 440 / 30]
    assert [question.prompt, question.answer] == [turn["value"] for turn in record["conversations"]]
    assert (question.task, question.target["euler"]) == ("detection", "zxy")
    assert question.target["objects"] == [
        {"label": item["label"], "bbox_3d": item["bbox_3d"]} for item in record["boxes"]
    ]


def test_the_boxes_of_the_published_record_stand_upright_in_the_aligned_world(published):
    folder, record = published
    scene, _ = load(ReleasedRecords(folder))
    assert [item.label for item in scene.objects] == [item["label"] for item in record["boxes"]]
    tilt = np.degrees([np.arctan2(np.hypot(*item.rotation[:2, 2]), item.rotation[2, 2]) for item in scene.objects])
    assert tilt.max() < 1e-3
    yaw = np.degrees([np.arctan2(item.rotation[1, 0], item.rotation[0, 0]) for item in scene.objects])
    # along the walls, as measured on the record's own numbers
    np.testing.assert_allclose(np.abs(yaw), [91.206, 0, 180, 1.312, 90, 0, 90, 0], atol=1e-3)


def test_both_conventions_of_the_same_boxes_give_the_same_target(real, tmp_path):
    source = real / "mmdet3d_scannet_scene0000_00"
    derived = json.loads((source / "det_2frames_derived.json").read_text(encoding="utf-8"))
    targets = {}
    for convention, key in (("zxy", "bbox_3d_zxy_extrinsic"), ("ZXY", "bbox_3d_ZXY_intrinsic")):
        folder = tmp_path / convention / "scene0000_00"
        folder.mkdir(parents=True)
        for name in derived["images"]:
            (folder / name).write_bytes((source / name).read_bytes())
        boxes = [{"label": item["label"], "bbox_3d": item[key]} for item in derived["boxes"]]
        record = {
            "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}],
            "images": [f"scene0000_00/{name}" for name in derived["images"]],
            "boxes": boxes,
            **{name: derived[name] for name in ("cam2img", "cam2global", "axis_align_matrix")},
        }
        (folder.parent / "det.json").write_text(json.dumps([record]))
        scene, problems = load(ReleasedRecords(folder.parent))
        assert kinds(problems) == []
        target = scene.clips[0].questions[0].target
        assert target["euler"] == convention
        targets[convention] = [item["bbox_3d"] for item in target["objects"]]
    first, second = (Boxes.from_euler(values, "zxy") for values in targets.values())
    np.testing.assert_allclose(first.corners(), second.corners(), atol=1e-5)


TILTED = LEVEL @ np.array([[1, 0, 0, 0], [0, 0.8, 0.6, 0], [0, -0.6, 0.8, 0], [0, 0, 0, 1.0]])
SHIFT = np.eye(4)
SHIFT[:3, 3] = 5, 6, 7


def conversation(answer, prompt="<image><image>What?"):
    return [{"from": "human", "value": prompt}, {"from": "gpt", "value": f"```json\n{json.dumps(answer)}\n```"}]


def released(folder, *records, cameras=True):
    """A list of records about two frames, 1 m apart; SHIFT is the alignment of the scan."""
    second = TILTED.copy()
    second[0, 3] = 1
    media = folder / "media" / "scannet" / "posed_images" / "scene0001_00"
    media.mkdir(parents=True, exist_ok=True)
    for name in ("00010", "00020"):
        (media / f"{name}.jpg").write_bytes(encode_image(np.full((6, 8, 3), 128, np.uint8)))
    common = {"images": [f"scannet/posed_images/scene0001_00/{name}.jpg" for name in ("00010", "00020")]}
    if cameras:
        common["cam2img"] = [[6, 0, 3.5, 0], [0, 6, 2.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        common["cam2global"] = [TILTED.tolist(), second.tolist()]
        common["axis_align_matrix"] = SHIFT.tolist()
    (folder / "train").mkdir(exist_ok=True)
    (folder / "train" / "records.json").write_text(json.dumps([common | record for record in records]))
    return ReleasedRecords(folder / "train" / "records.json")


METADATA = {"dataset": "scanrefer", "question_type": "unique", "ann_id": "0", "object_id": "12"}
WORLD = Boxes.from_axis_aligned(np.array([[5.0, 9, 7, 1, 2, 3]]))


def in_camera(index):
    pose = SHIFT @ TILTED
    pose[0, 3] += index
    return WORLD.transform(invert_pose(pose)).to_euler("zxy")[0].tolist()


def test_one_step_grounding_is_taken_to_the_first_camera(tmp_path):
    exact = in_camera(1)
    rounded = [round(value, 2) for value in exact]
    importer = released(
        tmp_path,
        {
            "conversations": conversation({"frame": 1, "bbox_3d": rounded}),
            "target": {"frame": 1, "bbox_3d": exact},
            "metadata": METADATA,
        },
    )
    scene, problems = load(importer)
    assert kinds(problems) == []
    (question,) = scene.clips[0].questions
    assert question.task == "grounding"
    expected = {"object_id": 12, "group": "unique", "frame": 1, "euler": "zxy"}
    assert {key: question.target[key] for key in expected} == expected
    np.testing.assert_allclose(question.target["bbox_3d"], in_camera(0), atol=1e-9)
    (item,) = scene.objects
    assert (item.id, item.label) == (12, "object")
    np.testing.assert_allclose(item.center, WORLD.centers[0], atol=1e-9)


def test_the_two_steps_of_grounding_are_two_tasks(tmp_path):
    box = {"gt_bbox": [5, 9, 7, 1, 2, 3, 0, 0, 0], "metadata": METADATA}
    rounded = [round(value, 2) for value in in_camera(0)]
    importer = released(
        tmp_path,
        {"conversations": conversation({"frame": 1}), **box},
        {"conversations": conversation({"bbox_3d": rounded}), **box},
    )
    scene, problems = load(importer)
    assert kinds(problems) == []
    first, second = (clip.questions[0] for clip in scene.clips)
    assert (first.task, first.target) == ("frame", {"frame": 1, "frames": [1], "object_id": 12, "group": "unique"})
    assert second.task == "grounding"
    np.testing.assert_allclose(second.target["bbox_3d"], in_camera(0), atol=1e-9)
    assert "frame" not in second.target
    assert len(scene.frames) == 2
    assert len(scene.objects) == 1


def test_captioning_gives_the_centre_in_the_first_camera(tmp_path):
    record = {
        "conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A chair."}],
        "input_box": [5, 9, 7, 1, 2, 3],
        "iou": 0.7,
        "annotations": ["a chair .", "it is a chair ."],
        "metadata": METADATA,
    }
    scene, _ = load(released(tmp_path, record))
    target = scene.clips[0].questions[0].target
    assert (target["references"], target["iou"], target["object_id"]) == (record["annotations"], 0.7, 12)
    np.testing.assert_allclose(transform_points(target["point"], SHIFT @ TILTED), [5, 9, 7], atol=1e-9)


def test_points_have_their_mark(tmp_path):
    answer = {"label": "chair", "pointmap": [0.5, -0.25, 2]}
    importer = released(
        tmp_path,
        {"conversations": conversation(answer), "pixel_coords": [1, 3, 2]},
        {"conversations": conversation({"pointmap": [0, 0, 1]}), "pixel_coords": [0, 8, 2]},
        {"conversations": conversation({"pointmap": [0, 0]}), "pixel_coords": [0, 0, 0]},
    )
    scene, problems = load(importer)
    (clip,) = scene.clips
    assert (clip.questions[0].task, clip.questions[0].target) == ("points", answer)
    assert clip.questions[0].mark == Mark(1, 3, 2, "red")
    assert [problem.message for problem in problems.found] == [
        "ValueError: its cross is at (8, 2) of 8x6 pixels; left out",
        "ValueError: its point is [0.0, 0.0]; three finite numbers were expected; left out",
    ]


def test_objects_of_several_records_are_the_same_where_their_boxes_agree(tmp_path):
    pose = SHIFT @ TILTED
    near = Boxes.from_axis_aligned([[5.001, 9, 7, 1, 2, 3]]).transform(invert_pose(pose)).to_euler("zxy")[0].tolist()
    far = Boxes.from_axis_aligned([[5.1, 9, 7, 1, 2, 3]]).transform(invert_pose(pose)).to_euler("zxy")[0].tolist()
    records = [
        {"conversations": conversation([]), "boxes": [{"label": "chair", "bbox_3d": box}]}
        for box in (in_camera(0), near, far)
    ]
    scene, _ = load(released(tmp_path, *records))
    assert [(item.id, item.label) for item in scene.objects] == [(0, "chair"), (1, "chair")]
    assert len(scene.clips) == 3


def test_boxes_upright_under_neither_convention_are_reported(tmp_path):
    box = [0, 0, 2, 1, 1, 1, 0.3, 0.4, 0.5]
    record = {"conversations": conversation([]), "boxes": [{"label": "chair", "bbox_3d": box}]}
    scene, problems = load(released(tmp_path, record))
    assert kinds(problems) == ["unsure angles"]
    assert scene.clips[0].questions[0].target["objects"][0]["bbox_3d"] == box


def test_cameras_may_lie_beside_the_images(tmp_path):
    record = {"conversations": conversation([]), "boxes": []}
    importer = released(tmp_path, record, cameras=False)
    scene, problems = load(importer)
    assert scene is None
    assert kinds(problems) == ["no alignment", "unusable record", "empty scene"]
    folder = tmp_path / "media" / "scannet" / "posed_images" / "scene0001_00"
    np.savetxt(folder / "intrinsic.txt", [[6, 0, 3.5, 0], [0, 6, 2.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for name in ("00010", "00020"):
        np.savetxt(folder / f"{name}.txt", TILTED)
    scan = tmp_path / "media" / "scannet" / "scans" / "scene0001_00"
    scan.mkdir(parents=True)
    (scan / "scene0001_00.txt").write_text("axisAlignment = " + " ".join(map(str, SHIFT.ravel())))
    scene, problems = load(importer)
    assert kinds(problems) == []
    np.testing.assert_allclose(scene.frames[0].camera_to_world, SHIFT @ TILTED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "IndexError"),
        ({"images": ["../../x/00010.jpg"]}, "leaves the data set's folder"),
        ({"cam2global": [np.eye(4).tolist()]}, "2 images need as many finite poses, got 1"),
        ({"cam2global": [TILTED.tolist(), (SHIFT @ TILTED).tolist()]}, "is another one than in record 0"),
        ({"conversations": []}, "one question and its answer were expected"),
        ({"conversations": conversation("what")}, "its answer is no JSON object"),
        ({"conversations": conversation({"frame": 2})}, "its answer is frame 2 of 2"),
        ({"boxes": [{"label": "x", "bbox_3d": [1, 2]}]}, "boxes must have shape"),
        ({"boxes": [{"bbox_3d": [0] * 9}]}, "KeyError: 'label'"),
        ({"boxes": [{"label": "\ud800", "bbox_3d": [0] * 9}]}, "UnicodeEncodeError"),
        ({"conversations": conversation({"frame": 1}, prompt="half \ud800")}, "holds half a character"),
        ({"metadata": METADATA | {"question_type": "\ud800"}}, "UnicodeEncodeError"),
        ({"images": ["\ud800/00010.jpg"]}, "Unicode"),
        ({"cam2global": [[10**400] * 16] * 2}, "OverflowError"),
        ({"cam2img": []}, "IndexError"),
    ],
)
def test_a_record_that_cannot_be_used_is_left_out_and_reported(tmp_path, change, message):
    good = {"conversations": conversation({"frame": 1}), "metadata": METADATA}
    importer = released(tmp_path, good, good | change)
    problems = Problems("")
    scenes = [importer.load(name, problems) for name in importer.scene_ids()]
    assert sum(len(scene.clips) for scene in scenes if scene) == 1
    (problem,) = [problem for problem in problems.found if problem.kind == "unusable record"]
    assert problem.file == "record 1"
    assert message in problem.message


def test_a_first_record_whose_path_leaves_the_folder_is_only_left_out(tmp_path):
    good = {"conversations": conversation({"frame": 0}), "metadata": METADATA}
    importer = released(tmp_path, good | {"images": ["/etc/scene0001_00/00010.jpg"]}, good)
    scene, problems = load(importer)
    assert scene is None
    assert kinds(problems) == ["unusable record", "missing file", "missing file", "empty scene"]


def test_a_missing_image_takes_its_records_along(tmp_path):
    good = {"conversations": conversation({"frame": 0}), "metadata": METADATA}
    importer = released(tmp_path, good)
    (tmp_path / "media" / "scannet" / "posed_images" / "scene0001_00" / "00020.jpg").unlink()
    scene, problems = load(importer)
    assert (len(scene.frames), scene.clips) == (1, ())
    assert kinds(problems) == ["missing file", "unusable record"]


def test_frames_of_released_records_cannot_be_thinned_out(tmp_path):
    importer = released(tmp_path, {"conversations": []})
    with pytest.raises(ValueError, match="every and max_frames do not apply"):
        ReleasedRecords(importer.root, ImportOptions(every=2)).scene_ids()


def test_a_folder_media_that_holds_other_things_is_passed_over(tmp_path):
    good = {"conversations": conversation({"frame": 0}), "metadata": METADATA}
    importer = released(tmp_path, good)
    (tmp_path / "train" / "media").mkdir()
    assert len(load(importer)[0].frames) == 2
    (tmp_path / "media").rename(tmp_path / "pictures")
    named = ReleasedRecords(tmp_path / "pictures", ImportOptions(annotations=importer.root))
    assert len(load(named)[0].frames) == 2
    assert load(importer)[0] is None
