"""A user's pictures, folders and recordings, read to be looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import board_scene
from PIL import Image

from gapmllm.scenes import footage as footage_module
from gapmllm.scenes.footage import read_footage

K = [[50, 0, 31.5], [0, 50, 23.5], [0, 0, 1]]


def picture(level: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def levels(footage) -> list[int]:
    return [int(image[0, 0, 0]) for image in footage.images]


def save(path: Path, values: np.ndarray, **options) -> Path:
    Image.fromarray(values).save(path, **options)
    return path


def folder(path: Path, count: int = 12) -> Path:
    """1.png, 2.png, …, each with ten times its number as its level."""
    path.mkdir()
    for number in range(1, count + 1):
        save(path / f"{number}.png", picture(10 * number))
    return path


def recording(path: Path, frames: int = 8) -> Path:
    """The boards in our own layout, with K.txt."""
    path.mkdir(parents=True)
    for number, frame in enumerate(board_scene(frames=frames).frames):
        (path / f"{number:05d}.png").write_bytes(frame.image)
        (path / f"{number:05d}.depth.png").write_bytes(frame.depth)
        np.savetxt(path / f"{number:05d}.pose.txt", frame.camera_to_world)
    np.savetxt(path / "K.txt", frame.intrinsics)
    return path


def test_of_pictures_all_are_taken_unless_a_number_is_given(tmp_path):
    arrays = [picture(level) for level in range(0, 70, 10)]
    found = read_footage(arrays)
    assert levels(found) == [0, 10, 20, 30, 40, 50, 60]
    assert found.names[:2] == ("picture 0", "picture 1")
    assert found.times == (None,) * 7
    assert (found.source, found.intrinsics, found.camera_to_world, found.recorded) == (
        "picture 0 and 6 more",
        None,
        None,
        None,
    )
    assert levels(read_footage(arrays, num_frames=3)) == [0, 30, 60]
    assert levels(read_footage([Image.fromarray(array) for array in arrays[:2]])) == [0, 10]
    assert levels(read_footage(np.stack(arrays))) == levels(found)
    path = save(tmp_path / "one.png", picture(7))
    for source in (path, str(path), [path], Image.open(path), picture(7)):
        assert levels(read_footage(source)) == [7]


def test_a_folder_is_read_in_natural_order_without_hidden_files_and_depth(tmp_path):
    path = folder(tmp_path / "holiday")
    for name in ("._1.png", "1.depth.png", "notes.txt"):
        (path / name).write_bytes(b"no picture")
    found = read_footage(path, num_frames=12)
    assert levels(found) == list(range(10, 130, 10))
    assert (found.source, found.names[1], found.names[9]) == ("holiday", "2.png", "10.png")
    assert levels(read_footage(path)) == [10, 50, 80, 120]  # by hand: of 0 to 11 the places 0, 3.7, 7.3, 11


def test_even_choice_decodes_only_what_it_takes(tmp_path):
    path = folder(tmp_path / "holiday")
    (path / "2.png").write_bytes(b"no picture")
    assert levels(read_footage(path)) == [10, 50, 80, 120]
    with pytest.raises(ValueError, match=r"2.png: not a picture in JPEG, PNG, WEBP, TIFF, BMP \(starts with b'no"):
        read_footage(path, num_frames=12)


def test_coverage_takes_the_pictures_that_differ_most(tmp_path):
    pictures = [picture(level) for level in (100, 101, 102, 200, 101, 0, 100, 199)]
    assert levels(read_footage(pictures, num_frames=3, choose="coverage")) == [100, 200, 0]
    for number, values in enumerate(pictures):
        save(tmp_path / f"{number}.png", values)
    assert levels(read_footage(tmp_path, num_frames=3, choose="coverage")) == [100, 200, 0]


ROWS = ("50 0 31.5", "0 50 23.5", "0 0 1", "0 0 0 1")


@pytest.mark.parametrize("text", ["\n".join(ROWS[:3]), "50 50 31.5 23.5", " 0\n".join(ROWS)])
@pytest.mark.parametrize("name", ["K.txt", "intrinsic.txt", "intrinsics.txt"])
def test_a_folder_may_hold_its_camera(tmp_path, name, text):
    path = folder(tmp_path / "holiday", 2)
    (path / name).write_text(text, encoding="utf-8")
    found = read_footage(path)
    np.testing.assert_array_equal(found.intrinsics, [K, K])
    assert found.intrinsics_from == "folder"
    given = read_footage(path, intrinsics=[[70, 0, 30], [0, 70, 20], [0, 0, 1]])
    assert (given.intrinsics[1, 0, 0], given.intrinsics_from) == (70, "given")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "K.txt: 3x3 or 4x4 numbers, or fx fy cx cy were expected, got 3 numbers"),
        ("a b c d", "K.txt: numbers were expected"),
        ("500 500 320 20", r"K.txt: the principal point \(320, 20\) is outside 64x48 pixels"),
        ("500 500 20 240", r"K.txt: the principal point \(20, 240\) is outside 64x48 pixels"),
        ("-5 5 30 20", "K.txt: intrinsics must be"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(tmp_path, text, message):
    path = folder(tmp_path / "holiday", 2)
    (path / "K.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_footage(path)


def test_given_intrinsics_are_one_or_one_for_each_picture():
    pictures = [picture(0), picture(1)]
    one = read_footage(pictures, intrinsics=K)
    assert one.intrinsics.shape == (2, 3, 3)
    assert one.intrinsics_from == "given"
    assert read_footage(pictures, intrinsics=[K, K]).intrinsics.shape == (2, 3, 3)
    with pytest.raises(ValueError, match=r"intrinsics: \(3, 3\) or \(2, 3, 3\) was expected, got shape \(3, 3, 3\)"):
        read_footage(pictures, intrinsics=[K] * 3)


def test_a_recording_comes_with_cameras_depth_and_times(tmp_path):
    path = recording(tmp_path / "room")
    (path / "00001.png").write_bytes(b"not decoded where it is not chosen")
    found = read_footage(path, num_frames=3)
    assert found.notes == ()
    assert found.names == ("00000", "00004", "00007")
    assert found.source == "room"
    assert found.z_up
    assert found.intrinsics_from == "folder"
    np.testing.assert_allclose(found.camera_to_world[:, 0, 3], [0, 0.2, 0.35])  # by hand: 5 cm a frame
    assert found.recorded[1].depth_map().shape == (96, 128)
    np.testing.assert_array_equal(found.images[1], found.recorded[1].pixels())
    assert read_footage(path, num_frames=2, choose="coverage").names[0] == "00000"


def test_what_is_wrong_with_a_recording_is_told(tmp_path):
    path = recording(tmp_path / "room", 4)
    (path / "00001.depth.png").write_bytes(b"no picture")
    assert "the frame stays, without depth" in read_footage(path).notes[0]
    for file in path.glob("*[0-9].png"):
        file.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"room, read as rgbd: no frame can be used: .*name them one by one"):
        read_footage(path)


def test_a_scene_of_several_is_named_by_its_folder_or_its_id(tmp_path):
    for name in ("hall", "kitchen"):
        recording(tmp_path / "rooms" / name, 2)
    with pytest.raises(ValueError, match=r"it holds 2 scenes \(hall, kitchen\): name one, as .*rooms/SCENE"):
        read_footage(tmp_path / "rooms")
    assert read_footage(tmp_path / "rooms" / "kitchen").source == "kitchen"
    parts = recording(tmp_path / "chess" / "seq-01", 2)
    for number in range(2):  # 7-Scenes calls its scenes after two folders
        (parts / f"{number:05d}.png").rename(parts / f"frame-{number:06d}.color.png")
        (parts / f"{number:05d}.pose.txt").rename(parts / f"frame-{number:06d}.pose.txt")
    (parts / "K.txt").rename(parts.parent / "K.txt")
    assert read_footage(tmp_path / "chess" / "chess_seq-01").names == ("frame-000000", "frame-000001")
    with pytest.raises(ValueError, match="chess_seq-02: there is no such file or folder"):
        read_footage(tmp_path / "chess" / "chess_seq-02")


def test_nearly_a_recording_is_a_folder_of_pictures_and_told(tmp_path):
    path = recording(tmp_path / "room", 2)
    (path / "K.txt").unlink()
    found = read_footage(path)
    assert found.names == ("00000.png", "00001.png")
    assert found.recorded is None
    assert found.notes == (
        "not read as a recording: rgbd, but room has no K.txt",
        "left out as depth, by their names: 2 files",
    )


def test_real_recordings(real):
    for name, frames in (("dvmvs_hololens_000", 4), ("mmdet3d_scannet_scene0000_00", 3), ("open3d_testdata_rgbd", 4)):
        found = read_footage(real / name)
        assert len(found.images) == len(found.recorded) == frames
        assert found.z_up
        assert found.intrinsics.shape == (frames, 3, 3)
        assert str(real) not in "".join((found.source, *found.names, *found.notes))
    assert read_footage(real / "open3d_testdata_rgbd" / "color").intrinsics is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "home: the folder is empty"),
        (("b.mp4", "a.mov"), r"home: a folder of videos \(a.mov, b.mp4\): name one of them"),
        (("a.txt",), r"home: no pictures in it, and no recording in a known format; it holds a.txt"),
        (("manifest.json", "data/train-00000.parquet"), "a data set that `gapmllm data` made: `gapmllm eval MODEL"),
    ],
)
def test_folders_that_cannot_be_looked_at(tmp_path, names, message):
    (tmp_path / "home.mp4" / "data").mkdir(parents=True)  # a folder, whatever its name
    path = (tmp_path / "home.mp4").rename(tmp_path / "home")
    for name in names:
        (path / name).touch()
    if not any((path / "data").iterdir()):
        (path / "data").rmdir()
    with pytest.raises(ValueError, match=message):
        read_footage(path)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("/nowhere/clip.mp4", {}, "/nowhere/clip.mp4: there is no such file or folder"),
        ("/dev/null", {}, "this is a pipe or a device"),
        ([], {}, "no pictures given"),
        ([picture(0)], {"fps": 2}, "fps, start and end are for videos"),
        ([picture(0)], {"start": 2}, "fps, start and end are for videos"),
        ([picture(0)], {"num_frames": 0}, "number of frames must be 1 to 512"),
        ([picture(0), picture(0, 32)], {}, "but picture 0 has 64x48 pixels and picture 1 32x48; scale or cut them"),
        ([picture(0), picture(0) / 255], {}, "picture 1: an array of uint8 or uint16 was expected, got float64"),
        ([np.zeros((2, 2, 2, 2), np.uint8)], {}, r"picture 0: an array \(height, width, 3\) was expected, got shape"),
    ],
)
def test_wrong_sources_are_refused(source, options, message):
    with pytest.raises(ValueError, match=message):
        read_footage(source, **options)


def test_too_many_pictures_are_refused(monkeypatch):
    monkeypatch.setattr(footage_module, "MAX_FRAMES", 3)
    assert len(read_footage([picture(0)] * 4, num_frames=3).images) == 3
    with pytest.raises(ValueError, match="4 pictures, at most 3 are looked at; give num_frames"):
        read_footage([picture(0)] * 4)


def test_a_note_is_given_once(tmp_path):
    assert len(read_footage([np.zeros((4, 4), np.uint16)] * 3).notes) == 1


def test_importing_it_is_light():
    code = "import sys, gapmllm.scenes.footage; print([n for n in ('av', 'torch', 'datasets') if n in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
