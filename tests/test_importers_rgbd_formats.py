"""What is particular to 7-Scenes, TUM RGB-D, Redwood, Replica and ARKitScenes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rgbd_data import (
    BOX,
    frame,
    kinds,
    load,
    pose,
    scene,
    text,
    units,
    write_arkit,
    write_redwood,
    write_replica,
)

from gapmllm.scenes.exporters.seven_scenes import SevenScenesExporter
from gapmllm.scenes.exporters.tum import TumExporter
from gapmllm.scenes.images import encode_gray16, encode_image
from gapmllm.scenes.importers.arkitscenes import ArkitScenes
from gapmllm.scenes.importers.redwood import Redwood
from gapmllm.scenes.importers.replica import Replica
from gapmllm.scenes.importers.seven_scenes import SevenScenes, without_mark
from gapmllm.scenes.importers.tum import Tum
from gapmllm.scenes.visibility import with_visibility

# ---- 7-Scenes


def test_seven_scenes_has_two_cameras_and_65535_is_unknown(tmp_path):
    sequence = tmp_path / "chess" / "seq-03"
    sequence.mkdir(parents=True)
    values = np.full((480, 640), 1500, np.uint16)
    values[:100], values[100:200] = 65_535, 0
    (sequence / "frame-000012.color.png").write_bytes(encode_image(np.zeros((480, 640, 3), np.uint8), quality=None))
    (sequence / "frame-000012.depth.png").write_bytes(encode_gray16(values))
    (sequence / "frame-000012.pose.txt").write_text(text(pose()))
    (tmp_path / "chess" / "TrainSplit.txt").write_text("sequence1\n")
    (tmp_path / "chess" / "TestSplit.txt").write_text("sequence3\n")
    found, problems = load(SevenScenes, tmp_path)
    assert (found.id, found.split, problems) == ("chess_seq-03", "test", [])
    (got,) = found.frames
    assert got.time == 12 / 30
    assert (got.intrinsics[0, 0], got.depth_intrinsics[0, 0]) == (525, 585)
    assert got.intrinsics[:2, 2].tolist() == got.depth_intrinsics[:2, 2].tolist() == [320, 240]
    np.testing.assert_array_equal(got.depth_map()[::50, 0], np.float32([0] * 4 + [1.5] * 6))


def test_a_split_file_that_cannot_be_read_costs_the_split_alone(tmp_path):
    SevenScenesExporter().export([scene()], tmp_path)
    (tmp_path / "room" / "TrainSplit.txt").write_bytes(b"\xff\xfe")
    found, problems = load(SevenScenes, tmp_path, split="val")
    assert (len(found.frames), found.split) == (3, "val")
    assert kinds(problems) == ["no split"]
    assert "TrainSplit.txt: not a text file in UTF-8" in problems[0].message


def test_depth_without_the_mark_keeps_its_bytes():
    data = encode_gray16(units())
    assert without_mark(data) is data


def test_pictures_that_the_kinects_numbers_do_not_fit_are_dropped(tmp_path):
    SevenScenesExporter().export([scene()], tmp_path)
    (tmp_path / "room" / "K.txt").unlink()
    found, problems = load(SevenScenes, tmp_path)
    assert found is None
    assert "the picture has 8x6 pixels, its intrinsics are for 640x480" in problems[0].message


def test_a_lost_colour_file_is_noticed(tmp_path):
    SevenScenesExporter().export([scene()], tmp_path)
    (tmp_path / "room" / "seq-01" / "frame-000001.color.png").unlink()
    found, problems = load(SevenScenes, tmp_path)
    assert len(found.frames) == 2
    assert kinds(problems) == ["missing file"]


# ---- TUM RGB-D


def write_tum(root, name="rgbd_dataset_freiburg1_desk", **fields):
    TumExporter().export([scene(id=name, **fields)], root)
    return root / name


@pytest.mark.parametrize(
    ("name", "fx"), [("rgbd_dataset_freiburg1_desk", 517.3), ("fr2_xyz", 520.9), ("rgbd_dataset_freiburg3_x", 535.4)]
)
def test_tum_intrinsics_come_from_the_name(name, fx, tmp_path):
    large = encode_image(np.zeros((480, 640, 3), np.uint8), quality=None)
    folder = write_tum(tmp_path, name, frames=(frame(image=large, depth=None),))
    (folder / "K.txt").unlink()
    found, problems = load(Tum, folder)
    assert found.frames[0].intrinsics[0, 0] == fx
    assert problems == []


def test_tum_without_known_intrinsics_says_what_to_do(tmp_path):
    folder = write_tum(tmp_path, "my_freiburg12_walk")
    (folder / "K.txt").unlink()
    found, problems = load(Tum, folder)
    assert found is None
    assert kinds(problems) == ["bad scene"]
    assert "Put a file K.txt with the 3x3 intrinsics into it" in problems[0].message


def test_tum_pictures_get_what_is_nearest_in_time(tmp_path):
    folder = write_tum(tmp_path, frames=tuple(frame(i, time=float(i)) for i in range(4)))
    (folder / "depth.txt").write_text(
        "# timestamp file\n0.015 depth/000000.png\n0.985 depth/000001.png\n2.021 depth/000002.png\n3 depth/000003.png\n"
    )
    lines = (folder / "groundtruth.txt").read_text().splitlines()
    nearer = " ".join(["0.001", *lines[2].split()[1:]])
    far = " ".join(["3.03", *lines[3].split()[1:]])
    (folder / "groundtruth.txt").write_text("\n".join([far, *lines[:3], nearer, "0.5 nan 0 0 0 0 0 1"]))
    rgb = (folder / "rgb.txt").read_text().replace("\n0 ", "\n0.002 ")
    (folder / "rgb.txt").write_text(rgb.replace("0 rgb/000000", "0.0015 rgb/000000"))
    found, problems = load(Tum, folder)
    assert [f.time for f in found.frames] == [0.0015, 1, 2]
    np.testing.assert_allclose(found.frames[0].camera_to_world, pose(2), atol=1e-9)  # 0.5 ms away, not 1.5 ms
    assert [f.depth is None for f in found.frames] == [False, False, True]
    assert kinds(problems) == ["no depth", "no pose"]
    assert "000003: no pose within 0.02 s" in str(problems[1])


def test_tum_bad_lines_are_named_and_skipped(tmp_path):
    folder = write_tum(tmp_path)
    with (folder / "rgb.txt").open("a") as file:
        file.write("7 ../../secret.png\nnan rgb/000000.png\n8\n\n# 9 x\n")
    with (folder / "groundtruth.txt").open("a") as file:
        file.write("1 2 3\n")
    found, problems = load(Tum, folder)
    assert len(found.frames) == 3
    assert kinds(problems) == ["bad line"] * 4
    assert "line 4" in problems[0].message
    assert "leaves the data set's folder" in problems[0].message
    assert problems[3].file == "groundtruth.txt"


def test_tum_lost_tracking_bad_quaternions_and_equal_times_are_dropped(tmp_path):
    folder = write_tum(tmp_path)
    lines = (folder / "groundtruth.txt").read_text().splitlines()
    lines[1] = f"{lines[1].split()[0]} nan nan nan nan nan nan nan"
    lines[2] = f"{lines[2].split()[0]} 0 0 0 0 0 0 0"
    (folder / "groundtruth.txt").write_text("\n".join(lines))
    with (folder / "rgb.txt").open("a") as file:
        file.write("0 rgb/000001.png\n")
    found, problems = load(Tum, folder)
    assert [f.name for f in found.frames] == ["000000"]
    assert sorted(kinds(problems)) == ["bad camera", "lost tracking", "same time"]
    assert any("a unit quaternion was expected" in problem.message for problem in problems)


# ---- Redwood


def test_redwood_matches_by_number_or_in_order(tmp_path):
    whole, excerpt, from_one = (write_redwood(tmp_path / n, first) for n, first in (("a", 0), ("b", 0), ("c", 1)))
    (excerpt / "color" / "00000.jpg").unlink()
    (excerpt / "depth" / "00000.png").unlink()
    for root, expected in ((whole, [0, 1, 2]), (excerpt, [1, 2]), (from_one, [0, 1, 2])):
        found, problems = load(Redwood, root)
        assert problems == []
        for got, index in zip(found.frames, expected, strict=True):
            np.testing.assert_allclose(got.camera_to_world, pose(index), atol=1e-12)


def test_redwood_numbers_with_a_gap_are_not_matched_in_order(tmp_path):
    """Frame 2 is lost, and so is the last block: as many pictures as blocks."""
    root = write_redwood(tmp_path / "a")
    for name in ("color/{}.jpg", "depth/{}.png"):
        (root / name.format("00002")).rename(root / name.format("00003"))
        (root / name.format("00001")).rename(root / name.format("00002"))
    found, problems = load(Redwood, root)
    assert [f.name for f in found.frames] == ["00000", "00002"]
    np.testing.assert_allclose([f.camera_to_world for f in found.frames], [pose(0), pose(2)], atol=1e-12)
    assert [(problem.kind, problem.file) for problem in problems] == [("no pose", "00003")]


def test_redwood_frames_beyond_the_trajectory_and_broken_blocks_are_named(tmp_path):
    root = write_redwood(tmp_path / "a")
    log = (root / "trajectory.log").read_text().splitlines()
    (root / "trajectory.log").write_text("\n".join(log[:10]))
    found, problems = load(Redwood, root)
    assert len(found.frames) == 2
    assert kinds(problems) == ["no pose"]
    assert problems[0].file == "00002"
    (root / "trajectory.log").write_text("\n".join(log[:9]))
    found, problems = load(Redwood, root)
    assert [f.name for f in found.frames] == ["00000"]
    assert kinds(problems) == ["bad block", "lost tracking", "no pose"]
    assert "frame 1: four rows of four numbers were expected: got 3 rows, 12 numbers" in problems[0].message


def test_redwood_pictures_that_are_lost_are_named(tmp_path):
    root = write_redwood(tmp_path / "a")
    (root / "color" / "00001.jpg").unlink()
    found, problems = load(Redwood, root)
    assert [f.name for f in found.frames] == ["00000", "00002"]
    assert kinds(problems) == ["missing file"]


def test_redwood_without_a_camera_file_takes_the_primesense_and_its_size(tmp_path):
    found, problems = load(Redwood, write_redwood(tmp_path / "a", camera=False))
    assert found is None
    assert "its intrinsics are for 640x480" in problems[0].message


# ---- Replica


def test_replica_lines_that_are_missing_or_short_are_named(tmp_path):
    root = write_replica(tmp_path / "office0")
    lines = (root / "traj.txt").read_text().splitlines()
    (root / "traj.txt").write_text(f"{lines[0]}\n1 2 3\n")
    found, problems = load(Replica, root)
    assert [f.name for f in found.frames] == ["frame000000"]
    assert kinds(problems) == ["other length"] + ["bad camera"] * 2
    assert "2 lines for 3 frames" in problems[0].message
    assert "line 2: 16 numbers were expected, got 3" in problems[1].message
    assert "traj.txt has 2 lines, none for frame 2" in problems[2].message


@pytest.mark.parametrize("content", ["{", '{"camera": {"w": 3}}', '{"camera": 5}', "[" * 100_000])
def test_replica_with_a_broken_camera_file_is_dropped(content, tmp_path):
    root = write_replica(tmp_path / "office0")
    (tmp_path / "cam_params.json").write_text(content)
    found, problems = load(Replica, root)
    assert found is None
    assert kinds(problems) == ["bad scene"]
    assert "cam_params.json" in problems[0].message


@pytest.mark.parametrize("values", [{"scale": float("inf")}, {"scale": 1e-320}, {"scale": float("nan")}, {"fx": 1e999}])
def test_replica_numbers_that_are_no_camera_are_named_with_their_file(values, tmp_path):
    root = write_replica(tmp_path / "office0")
    camera = json.loads((tmp_path / "cam_params.json").read_text())["camera"]
    (tmp_path / "cam_params.json").write_text(json.dumps({"camera": camera | values}))
    found, problems = load(Replica, root)
    assert (found, kinds(problems)) == (None, ["bad scene"])
    assert "cam_params.json" in problems[0].message
    assert "a scale of 1 to 1e6 units a metre, got" in problems[0].message


# ---- ARKitScenes


def test_arkitscenes_boxes_labels_times_and_splits(tmp_path):
    mirrored = BOX | {"normalizedAxes": [0, 1, 0, 1, 0, 0, 0, 0, 1], "centroid": [-50.0, 0, 0]}
    write_arkit(tmp_path / "Validation" / "4711", boxes=(BOX, mirrored))
    found, problems = load(ArkitScenes, tmp_path)
    assert problems == []
    assert (found.id, found.split) == ("4711", "val")
    assert [f.time for f in found.frames] == [10.0, 10.1, 10.2]
    near, far = found.objects
    assert (near.id, near.label, near.attributes) == (0, "tv monitor", {"category": "tv_monitor", "uid": "u0"})
    # Rows are axes: the box's first axis (2 m) lies along the world's y, its second (1 m) along -x.
    np.testing.assert_allclose(near.rotation[:, 0], [0, 1, 0])
    np.testing.assert_allclose(np.ptp(found.boxes().corners()[0], axis=0), [1, 2, 1.5])
    np.testing.assert_allclose(np.ptp(found.boxes().corners()[1], axis=0), [1, 2, 1.5])
    assert np.linalg.det(far.rotation) == pytest.approx(1)
    # Depth is 3 m all over. Of the four pixels looked at (every 4th), (4, 4) is 0.21 m right of and 0.64 m below the
    # near box's centre, so inside; the other three are outside. The far box is behind the camera.
    assert with_visibility(found).frames[0].visible == {0: 0.25}


def test_arkitscenes_frames_without_pose_or_camera_are_dropped_and_bad_boxes_left_out(tmp_path):
    broken = [BOX | {"axesLengths": [1, -1, 1]}, {"centroid": [0, 0, 0]}, BOX | {"normalizedAxes": [1] * 9}]
    root = write_arkit(tmp_path / "4711", boxes=(*broken, BOX))
    frames = root / "4711_frames"
    rows = (frames / "lowres_wide.traj").read_text().splitlines()
    rows[0] = " ".join(["10.006", *rows[0].split()[1:]])  # 6 ms away
    (frames / "lowres_wide.traj").write_text("\n".join([*rows, "1 2 3"]))
    (frames / "lowres_wide_intrinsics" / "4711_10.101.pincam").rename(
        frames / "lowres_wide_intrinsics" / "4711_10.102.pincam"
    )
    (frames / "lowres_depth" / "4711_10.200.png").unlink()
    found, problems = load(ArkitScenes, root)
    assert [f.name for f in found.frames] == ["4711_10.200"]
    assert [item.id for item in found.objects] == [3]
    assert kinds(problems) == ["bad line", "no pose", "bad camera", "no depth"] + ["bad box"] * 3


def test_arkitscenes_without_annotation_has_no_objects_and_says_so(tmp_path):
    root = write_arkit(tmp_path / "4711")
    (root / "4711_3dod_annotation.json").unlink()
    found, problems = load(ArkitScenes, root)
    assert found.objects == ()
    assert kinds(problems) == ["no boxes"]
    assert with_visibility(found).frames[0].visible is None


@pytest.mark.parametrize("label", [None, 5, ["chair"], "", "\ud800"])
def test_arkitscenes_boxes_without_a_label_are_left_out(label, tmp_path):
    path = write_arkit(tmp_path / "4711", boxes=(BOX, BOX)) / "4711_3dod_annotation.json"
    data = json.loads(path.read_text())["data"]
    data[0]["label"], data[1]["uid"] = label, None
    path.write_text(json.dumps({"data": data}))
    found, problems = load(ArkitScenes, tmp_path)
    assert [item.attributes["uid"] for item in found.objects] == [""]
    assert [(problem.kind, problem.file) for problem in problems] == [("bad box", str(path))]
    assert problems[0].message.startswith("box 0: ")


@pytest.mark.parametrize("camera", ["1e-300 7 3.5 2.5", "7 1e308 3.5 2.5", "7 inf 3.5 2.5", "7 7 nan 2.5"])
def test_arkitscenes_one_impossible_camera_costs_one_frame(camera, tmp_path):
    root = write_arkit(tmp_path / "4711")
    (root / "4711_frames" / "lowres_wide_intrinsics" / "4711_10.200.pincam").write_text(f"8 6 {camera}")
    found, problems = load(ArkitScenes, root)
    assert [f.name for f in found.frames] == ["4711_10.000", "4711_10.100"]
    assert [(problem.kind, problem.file) for problem in problems] == [("bad camera", "4711_10.200")]


def test_two_videos_of_one_name_are_refused(tmp_path):
    for split in ("Training", "Validation"):
        write_arkit(tmp_path / split / "4711")
    with pytest.raises(ValueError, match="two scenes are called 4711"):
        ArkitScenes(tmp_path).scene_ids()
