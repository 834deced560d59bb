"""Damage to one part of a recording in one of the RGB-D layouts costs that part alone, and is reported."""

from __future__ import annotations

import numpy as np
import pytest
from rgbd_data import (
    frame,
    kinds,
    load,
    pose,
    scene,
    text,
    write_all,
    write_arkit,
    write_redwood,
    write_replica,
    write_rgbd,
)

from gapmllm.scenes.exporters.seven_scenes import SevenScenesExporter
from gapmllm.scenes.exporters.tum import TumExporter
from gapmllm.scenes.importers import find_importer
from gapmllm.scenes.importers.arkitscenes import ArkitScenes
from gapmllm.scenes.importers.base import load_frame
from gapmllm.scenes.importers.redwood import Redwood
from gapmllm.scenes.importers.replica import Replica
from gapmllm.scenes.importers.rgbd_folder import RgbdFolder
from gapmllm.scenes.importers.seven_scenes import SevenScenes
from gapmllm.scenes.importers.tum import Tum
from gapmllm.scenes.problems import Problems


def assert_poses(found, expected):
    """The frames have the poses of these indices."""
    got = [f.camera_to_world for f in found.frames]
    np.testing.assert_allclose(got, [pose(index) for index in expected], atol=1e-9)


# ---- the depth's camera


@pytest.mark.parametrize("camera", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.eye(2), np.diag([9.0, 9, 1])])
def test_a_damaged_depth_camera_costs_the_depth_alone(camera):
    whole, problems = frame(), Problems("s")
    fields = {"name": "f", "intrinsics": whole.intrinsics, "depth": whole.depth}
    got = load_frame(problems, whole.image, pose(), depth_intrinsics=camera, **fields)
    assert (got.image, got.depth, got.depth_intrinsics) == (whole.image, None, None)
    assert kinds(problems.found) == ["bad depth"]
    good = load_frame(problems, whole.image, pose(), depth_intrinsics=whole.intrinsics, **fields)
    np.testing.assert_array_equal(good.depth_intrinsics, whole.intrinsics)
    assert (good.depth, len(problems.found)) == (whole.depth, 1)


@pytest.mark.parametrize(
    ("camera", "reported"),
    [
        ("", ["no depth camera"]),
        ("\0", ["no depth camera"]),
        ("0 0 0\n" * 3, ["bad depth"] * 3),
        ("nan nan nan\n" * 3, ["bad depth"] * 3),
    ],
)
def test_seven_scenes_with_a_damaged_depth_camera_keeps_its_frames(camera, reported, tmp_path):
    SevenScenesExporter().export([scene()], tmp_path)
    (tmp_path / "room" / "K_depth.txt").write_text(camera)
    found, problems = load(SevenScenes, tmp_path)
    assert [f.depth for f in found.frames] == [None] * 3
    assert kinds(problems) == reported
    assert "without depth" in problems[0].message


# ---- poses


@pytest.mark.parametrize("line", ["", "   ", "1 2 3", "x " * 16])
def test_a_blank_or_damaged_line_of_replica_costs_its_frame_and_shifts_no_other(line, tmp_path):
    root = write_replica(tmp_path / "office0")
    lines = (root / "traj.txt").read_text().splitlines()
    (root / "traj.txt").write_text(f"{lines[0]}\n{line}\n{lines[2]}\n\n\n")
    found, problems = load(Replica, root)
    assert [f.name for f in found.frames] == ["frame000000", "frame000002"]
    assert_poses(found, [0, 2])
    assert kinds(problems) == ["bad camera"]
    assert "traj.txt, line 2" in problems[0].message


def test_replica_says_where_lines_and_frames_differ_in_number(tmp_path):
    root = write_replica(tmp_path / "office0")
    (root / "traj.txt").write_text("\n" + (root / "traj.txt").read_text())
    _, problems = load(Replica, root)
    assert kinds(problems) == ["other length", "bad camera"]
    assert "4 lines for 3 frames" in problems[0].message


# Lines of the log: 0, 5 and 10 are the first of blocks, the others rows.
LOG = {
    "a number": lambda log: [*log[:7], "a b c d", *log[8:]],
    "a row cut": lambda log: [*log[:7], "1 0", *log[8:]],
    "a row cut to three whole numbers": lambda log: [*log[:7], "0 0 1", *log[8:]],
    "a row lost": lambda log: log[:7] + log[8:],
    "a row doubled": lambda log: log[:7] + log[6:],
    "the number of the frame": lambda log: [*log[:5], "x 1 2", *log[6:]],
    "the first line lost": lambda log: log[:5] + log[6:],
    "two that differ": lambda log: [*log[:10], log[5], *log[1:5], *log[10:]],
}


@pytest.mark.parametrize("damage", LOG.values(), ids=LOG)
@pytest.mark.parametrize("first", [0, 1])
def test_a_damaged_block_of_redwood_costs_its_frame_alone(first, damage, tmp_path):
    root = write_redwood(tmp_path / "a", first)
    path = root / "trajectory.log"
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    found, problems = load(Redwood, root)
    assert_poses(found, [0, 2])
    assert "bad block" in kinds(problems)
    assert problems[-1].file == f"{first + 1:05d}"


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda log: log[:-2], [0, 1]),
        (lambda log: ["x", *log[1:]], [1, 2]),
        (lambda log: log[1:], [1, 2]),
        (lambda log: log + log[5:10], [0, 1, 2]),
        (lambda log: [*log[:5], "stray", *log[5:]], [0, 1, 2]),
        (lambda log: ["stray", *log], [0, 1, 2]),
    ],
    ids=["last cut", "first damaged", "first lost", "the same twice", "stray line", "stray first"],
)
@pytest.mark.parametrize("first", [0, 1])
def test_damage_at_the_ends_of_redwoods_log_shifts_no_pose(first, damage, left, tmp_path):
    root = write_redwood(tmp_path / "a", first)
    path = root / "trajectory.log"
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    found, problems = load(Redwood, root)
    assert_poses(found, left)
    assert "bad block" in kinds(problems)


# ---- annotations, lists


@pytest.mark.parametrize("data", [b'{"data": [', b"\xff\xfe\0", b'{"data": null}', b"[]", b"", b'{"data": 5}'])
def test_arkitscenes_with_damaged_annotations_keeps_its_frames(data, tmp_path):
    path = write_arkit(tmp_path / "4711") / "4711_3dod_annotation.json"
    path.write_bytes(data)
    found, problems = load(ArkitScenes, tmp_path)
    assert (len(found.frames), found.objects) == (3, ())
    assert [(problem.kind, problem.file) for problem in problems] == [("no boxes", str(path))]
    assert "the scene has no objects" in problems[0].message


@pytest.mark.parametrize("data", [None, b"\xff\xfe\0"])
def test_tum_without_a_readable_list_of_depth_keeps_its_pictures(data, tmp_path):
    TumExporter().export([scene()], tmp_path)
    path = tmp_path / "room" / "depth.txt"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    assert find_importer(tmp_path) is Tum
    found, problems = load(Tum, tmp_path)
    assert [f.depth for f in found.frames] == [None] * 3
    assert [(problem.kind, problem.file) for problem in problems] == [("no depth", str(path))]


def test_seven_scenes_takes_the_file_that_is_named_as_the_others_of_its_frame(tmp_path):
    SevenScenesExporter().export([scene()], tmp_path)
    (tmp_path / "room" / "seq-01" / "frame-0.color.png").write_bytes(b"stray")
    found, problems = load(SevenScenes, tmp_path)
    assert_poses(found, [0, 1, 2])
    assert [(problem.kind, problem.file) for problem in problems] == [("same number", "frame-0.color.png")]


def test_a_picture_and_a_pose_whose_numbers_are_written_in_two_ways_are_one_frame(tmp_path):
    root = write_rgbd(tmp_path / "own")
    (root / "00001.jpg").rename(root / "1.jpg")
    found, problems = load(RgbdFolder, root)
    assert ([f.name for f in found.frames], problems) == (["00000", "00001", "00002"], [])


# ---- what a folder nearly is


def test_a_camera_file_alone_does_not_make_a_folder_nearly_rgbd(tmp_path):
    folders = write_all(tmp_path)
    (folders[Tum] / "rgb.txt").unlink()
    for path in folders[SevenScenes].glob("seq-01/*.pose.txt"):
        path.unlink()
    for kind in (Tum, SevenScenes):
        assert (folders[kind] / "K.txt").is_file()
        with pytest.raises(ValueError, match=f"; nearly {kind.format}, but") as caught:
            find_importer(folders[kind])
        assert str(caught.value).count("; nearly") == 1
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "K.txt").write_text(text(np.eye(3)))
    assert RgbdFolder.nearly(tmp_path / "empty") == ""
