"""The pictures and the GLB file of answers: boxes and points where the numbers say they are, seen with other eyes."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import trimesh
from PIL import Image

from gapmllm.tasks import COLORS, Answers, Description, Detection, Grounding, LabelledBox, LocatedPoint, Truth
from gapmllm.tasks import WatchedFrame as Frame
from gapmllm.viz.glb import TUBE
from gapmllm.viz.labels import label_color
from gapmllm.viz.look import Cloud, frame_pictures, top_picture, write_scene
from gapmllm.viz.things import GROUNDED, TRUTH, extent, shorten, things_of

CAMERA = ((100.0, 0.0, 49.5), (0.0, 100.0, 39.5), (0.0, 0.0, 1.0))
SHIFTED = ((1.0, 0.0, 0.0, 0.2), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
SAME = tuple(tuple(row) for row in np.eye(4).tolist())
BOX = (0.0, 0.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)  # its near face is 1.5 m away, from -0.5 to 0.5
GREY = np.full((80, 100, 3), 60, np.uint8)


def answers(**changes):
    """Two frames of 100x80 pixels; the second camera is 20 cm to the right of the first, which stands level."""
    frames = [
        Frame(name=f"{i}.png", time=i / 2, size=(100, 80), intrinsics=CAMERA, camera_to_first=pose)
        for i, pose in enumerate((SAME, SHIFTED))
    ]
    values = {"model": "nano", "trained": True, "source": "room.mp4", "frames": frames, "up": (0.0, -1.0, 0.0)}
    return Answers(**{**values, "intrinsics_from": "given", "poses_from": "folder", **changes})


def without_poses(**changes):
    bare = [frame.model_copy(update={"camera_to_first": None}) for frame in answers().frames]
    return answers(**{"frames": bare, "poses_from": None, **changes})


def drawn(found, images=(GREY, GREY)):
    return [np.asarray(picture) for picture in frame_pictures(found, images)]


def enlarged(pixel):
    """100 pixels become 700; the centre of the first is 3 pixels from the border's."""
    return round((pixel + 0.5) * 7 - 0.5)


def is_color(picture, color):
    return (picture == color).all(axis=-1)


CHAIR = Detection(label="chair", bbox_3d=BOX, score=0.8)


def test_a_box_is_drawn_where_its_corners_project():
    first, second = drawn(answers(detections=[CHAIR]))
    assert first.shape == (560, 700, 3)
    rows = slice(enlarged(20), enlarged(30))  # between its upper edge, at 39.5 - 33.3, and its label in the middle
    # by hand: the right side is at 49.5 + 100 * 0.5 / 1.5 = 82.83, from 20 cm to the right at 49.5 + 100 * 0.3 / 1.5
    for picture, right, left in ((first, 82.83, 16.17), (second, 69.5, 2.83)):
        lines = is_color(picture, label_color("chair"))
        assert lines[rows, enlarged(right)].all()
        assert lines[rows, enlarged(left)].all()
        assert not lines[:, enlarged(right) + 3 :].any()
        assert not lines[:, : enlarged(left) - 3].any()


def test_frames_of_all_sizes_become_pictures_of_sizes_that_can_be_read():
    for size, expected in (((96, 128), (672, 896)), ((128, 96), (640, 480)), ((1280, 720), (1280, 720))):
        assert _size_of(size) == expected
    assert _size_of((4000, 3000)) == (1920, 1440)
    assert _size_of((2, 900)) == (4, 1920)


def _size_of(size):
    frame = Frame(name="a", time=None, size=size, intrinsics=CAMERA, camera_to_first=None)
    image = np.zeros((size[1], size[0], 3), np.uint8)
    (picture,) = frame_pictures(answers(frames=[frame], detections=[CHAIR]), [image])
    return picture.size


def test_without_answers_a_picture_is_the_frame_and_its_number():
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    bare = drawn(answers(), (image, image))
    expected = np.asarray(Image.fromarray(image).resize((700, 560), Image.Resampling.LANCZOS))
    changed = (bare[1] != expected).any(axis=-1)
    assert changed[:20, :60].any()
    assert not changed[30:].any()
    assert not changed[:, 100:].any()


def test_what_a_text_asked_for_is_thick_in_its_frame_and_thin_in_others():
    asked = Grounding(text="the chair", frame=1, bbox_3d=BOX, score=0.5)
    first, second = drawn(answers(groundings=[asked]))
    row = enlarged(25)
    # in its own camera's frame: the right side is at 82.83; in the first camera it is 20 cm farther to the right
    assert is_color(second, GROUNDED)[row, enlarged(82.83) - 1 : enlarged(82.83) + 2].all()
    assert is_color(first, GROUNDED)[row, enlarged(82.83 + 13.33)]
    widths = [is_color(picture, GROUNDED)[row, 400:].sum() for picture in (first, second)]
    assert 1.5 * widths[0] < widths[1]
    first, second = drawn(without_poses(groundings=[asked]))
    assert not is_color(first, GROUNDED).any()
    assert is_color(second, GROUNDED)[row, enlarged(82.83)]


def test_points_have_a_cross_where_they_were_asked_and_a_ring_where_they_are_said():
    said = [LocatedPoint(frame=0, pixel=(20, 50), xyz=(x, 0.1, 1.0), label="desk", score=0.9) for x in (0.0, -0.3)]
    truth = Truth(points=[(-0.1, 0.1, 1.0)], point_labels=["desk"])
    first, second = drawn(answers(points=said, truth=truth))
    at = enlarged(50), enlarged(20)  # row, column
    assert (first[at] == COLORS["green"]).all()  # the second point lies over the first: same pixel
    # by hand: 0 at depth 1 is at 49.5, from 20 cm to the right at 29.5; rings are 12 pixels wide
    for picture, x in ((first, 49.5), (second, 29.5)):
        ring = is_color(picture, COLORS["red"])
        assert ring[enlarged(49.5) - 16 : enlarged(49.5) + 17, enlarged(x) + 12].any()
        assert not ring[enlarged(49.5), enlarged(x) + 2 : enlarged(x) + 9].any()  # hollow
    # the true point, from the right: 49.5 - 30 = 19.5
    assert is_color(second, COLORS["red"])[enlarged(49.5), enlarged(19.5)]
    assert not is_color(drawn(answers(points=said))[1], COLORS["red"])[enlarged(49.5), enlarged(19.5)]
    # a place that was described is in all frames
    place = answers(descriptions=[Description(xyz=(0, 0, 1), text="a desk")])
    assert [
        (picture != 60).any(axis=-1)[enlarged(39.5), enlarged(x) + 12]
        for picture, x in zip(drawn(place), (49.5, 29.5), strict=True)
    ] == [True, True]


def test_true_boxes_are_dashed():
    known = Truth(detections=[LabelledBox(label="chair", bbox_3d=BOX)])
    side = is_color(drawn(answers(detections=[], truth=known))[0], TRUTH)
    column = side[enlarged(10) : enlarged(70), enlarged(82.83)]
    assert 0.3 < column.mean() < 0.7
    assert np.abs(np.diff(column.astype(int))).sum() > 20  # on and off
    assert not is_color(drawn(answers(detections=[]))[0], TRUTH)[30:].any()
    # upright edges right of the picture; and a box of no size
    outside = [(3.0, *BOX[1:]), (*BOX[:3], 0.0, 0.0, 0.0, *BOX[6:])]
    known = Truth(detections=[LabelledBox(label="chair", bbox_3d=box) for box in outside])
    assert is_color(drawn(answers(truth=known))[0], TRUTH)[30:500].sum() < 10


def test_boxes_of_a_model_that_errs_are_drawn_in_no_time():
    """Through the camera, a kilometre long: nothing overflows, no dash is drawn where nobody sees it."""
    wild = (0.0, 0.0, 0.0, 1000.0, 1000.0, 1000.0, 1.0, 2.0, 3.0)
    found = [Detection(label="a b" * 30, bbox_3d=wild, score=0)] * 3
    both = answers(detections=found, truth=Truth(detections=[LabelledBox(label="x", bbox_3d=wild)]))
    assert len(drawn(both)) == 2
    assert top_picture(both, None).size == (1000, 1000)
    # one metre away all is still seen large: the view holds what is near, 8 m around the cameras
    near = answers(detections=[CHAIR, found[0]])
    assert np.abs(extent(near, None)).max() < 9


# From above


def test_from_above_things_lie_where_they_are():
    chair = Detection(label="chair", bbox_3d=(1.0, 0.0, 2.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0), score=0.8)
    lamp = Detection(label="lamp", bbox_3d=(-1.0, 0.0, 4.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0), score=0.8)
    picture = np.asarray(top_picture(answers(detections=[chair, lamp]), None))
    middles = {}
    for name, color in (("chair", label_color("chair")), ("lamp", label_color("lamp")), ("camera", (0, 160, 64))):
        rows, columns = np.nonzero(is_color(picture[:, :850], color))  # right of it: the legend
        middles[name] = np.array([np.median(columns), np.median(rows)])
    # by hand: from the camera at 0 to the lamp's end at 4.25, and 0.4 at each side, on 925 by 935 of 1000 pixels
    metre = np.array([925, -935]) / (4.25 + 0.8)  # x to the right, ahead is up
    np.testing.assert_allclose(middles["chair"] - middles["camera"], metre * (1, 2), atol=4)
    np.testing.assert_allclose(middles["lamp"] - middles["camera"], metre * (-1, 4), atol=4)


# The GLB file, read byte by byte


def read_glb(path):
    """Node name -> vertices (n, 3), by the glTF 2.0 specification; no library."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    content = json.loads(data[20 : 20 + size])
    binary = data[28 + size :]
    found = {}
    for node in content["nodes"]:
        if "mesh" not in node:
            continue
        assert not {"matrix", "translation", "rotation", "scale"} & set(node)
        accessor = content["accessors"][content["meshes"][node["mesh"]]["primitives"][0]["attributes"]["POSITION"]]
        assert (accessor["componentType"], accessor["type"]) == (5126, "VEC3")
        start = content["bufferViews"][accessor["bufferView"]].get("byteOffset", 0) + accessor.get("byteOffset", 0)
        values = np.frombuffer(binary, "<f4", 3 * accessor["count"], start).reshape(-1, 3).astype(float)
        found[node["name"]] = np.stack([values[:, 0], -values[:, 2], values[:, 1]], axis=1)  # y up -> z up
    return found


def corners_of(box, shift=0.0):
    """(8, 3) from nine numbers: R = Ry(c) Rx(b) Rz(a), written out here. shift: along x."""
    (a, b, c), signs = box[6:], np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1).T
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn_y = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    return np.array(box[:3]) + np.array([shift, 0, 0]) + (signs * box[3:6]) @ (turn_y @ turn_x @ turn_z).T


def test_a_box_in_the_glb_is_the_box_in_the_answers(tmp_path):
    """A camera that looks down by 30 degrees: what is said in its frame stands upright in the file."""
    tilt = np.radians(30)
    up = (0.0, -np.cos(tilt), -np.sin(tilt))
    turned = (0.3, 0.2, 2.5, 0.8, 0.5, 1.2, 0.4, -0.3, 0.2)
    said = answers(
        up=up,
        detections=[Detection(label="chair", bbox_3d=turned, score=0.5)],
        groundings=[Grounding(text="the lamp", frame=1, bbox_3d=turned, score=0.5)],
        truth=Truth(detections=[LabelledBox(label="chair", bbox_3d=BOX)]),
        points=[LocatedPoint(frame=0, pixel=(1, 2), xyz=(0.0, 0.0, 2.0), label="bed", score=0.5)],
    )
    cloud = Cloud(np.array([[0.0, 0.0, 2.0], [0.0, 1.0, 2.0]]), np.array([[255, 0, 0], [0, 0, 255]], np.uint8))
    write_scene(tmp_path / "scene.glb", said, cloud)
    nodes = read_glb(tmp_path / "scene.glb")
    boxes = ["boxes 1: the lamp", "boxes chair", "boxes point 1 bed", "boxes true chair"]
    assert sorted(nodes) == [*boxes, "camera 000", "camera 001", "points"]
    # written out: ahead is (0, cos, -sin) in the world, down in the picture is (0, -sin, -cos)
    level = np.array([[1, 0, 0], [0, -np.sin(tilt), np.cos(tilt)], [0, -np.cos(tilt), -np.sin(tilt)]])
    in_first = {"boxes chair": corners_of(turned), "boxes 1: the lamp": corners_of(turned, 0.2)}
    in_first["boxes true chair"] = corners_of(BOX)
    for name, corners in in_first.items():
        expected = corners @ level.T
        # each corner is the end of three tubes, and no tube goes farther
        gaps = np.linalg.norm(nodes[name][:, None] - expected, axis=-1)
        assert gaps.min(axis=0).max() < TUBE * np.sqrt(3) / 2 + 1e-6
        for side in (np.min, np.max):
            assert np.abs(side(nodes[name], axis=0) - side(expected, axis=0)).max() < TUBE
        assert np.abs(nodes[name] - expected.mean(axis=0)).max() < 1.2
    assert np.abs(nodes["points"] - [[0, 2 * np.cos(tilt), -1], [0, 1.2321, -1.866]]).max() < 1e-4
    assert np.abs(nodes["boxes point 1 bed"].mean(axis=0) - [0, 2 * np.cos(tilt), -1]).max() < 1e-4
    assert np.abs(nodes["camera 001"] - nodes["camera 000"] - (0.2, 0, 0)).max() < 1e-5
    material = trimesh.load(tmp_path / "scene.glb").geometry["boxes 1: the lamp"].visual.material
    assert np.abs(np.array(material.baseColorFactor).astype(int) - (255, 48, 0, 255)).max() <= 1  # GROUNDED, linear
    shifted = np.linalg.norm(nodes["boxes chair"][:, None] - corners_of(turned, 0.1) @ level.T, axis=-1)
    assert shifted.min(axis=0).max() > 2 * TUBE  # the comparison sees 10 cm


def test_what_has_no_place_in_the_world_is_not_in_the_glb(tmp_path):
    asked = Grounding(text="the lamp", frame=1, bbox_3d=BOX, score=0.5)
    write_scene(tmp_path / "scene.glb", without_poses(groundings=[asked]), None)
    assert sorted(read_glb(tmp_path / "scene.glb")) == ["camera 000"]


def test_names_are_short_lines():
    assert shorten("the  chair\n by\x07 the bed") == "the chair by the bed"
    assert shorten("x" * 100_000) == "x" * 31 + "…"
    assert shorten("a " * 16) == ("a " * 16).strip()
    things = things_of(answers(detections=[CHAIR], truth=Truth(groundings=[None, BOX])))
    assert [thing.plate for thing in things] == ["true 2", "chair 80%"]
    with pytest.raises(AssertionError, match="known points only"):
        Cloud(np.array([[np.nan, 0, 0]]), np.zeros((1, 3), np.uint8))
