"""RGB-D recordings: each layout known by its importer alone, real ones read right, bad frames named."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from rgbd_data import (
    ALL,
    CAMERA,
    frame,
    kinds,
    load,
    pixels,
    pose,
    text,
    units,
    write_all,
    write_rgbd,
)
from scipy.spatial.transform import Rotation

from gapmllm.geometry import invert_pose
from gapmllm.scenes.consistency import depth_disagreement
from gapmllm.scenes.exporters.tum import TumExporter
from gapmllm.scenes.images import decode_depth, decode_gray16, encode_gray16, encode_image
from gapmllm.scenes.importers.arkitscenes import ArkitScenes
from gapmllm.scenes.importers.base import safe_path, upright
from gapmllm.scenes.importers.redwood import Redwood
from gapmllm.scenes.importers.replica import Replica
from gapmllm.scenes.importers.rgbd_folder import RgbdFolder
from gapmllm.scenes.importers.seven_scenes import SevenScenes
from gapmllm.scenes.importers.tum import Tum
from gapmllm.scenes.problems import Problems

# ---- all formats


def test_each_layout_is_recognised_by_its_importer_alone_as_a_scene_and_as_a_folder_of_scenes(tmp_path):
    for kind, folder in write_all(tmp_path / "all").items():
        parent = tmp_path / kind.format
        parent.mkdir()
        shutil.copytree(folder, parent / folder.name)
        for root in (folder, parent):
            assert [other for other in ALL if other.recognises(root)] == [kind], root
            assert len(kind(root).scene_ids()) == 1


def test_scannet_layouts_and_other_folders_are_not_taken(tmp_path):
    exported, flat = tmp_path / "exported", tmp_path / "flat"
    for name in ("color", "depth", "pose", "intrinsic"):
        (exported / name).mkdir(parents=True)
    flat.mkdir()
    for path in (exported / "color" / "0.jpg", flat / "00000.jpg"):
        path.write_bytes(encode_image(pixels()))
    for path in (exported / "depth" / "0.png", flat / "00000.png"):
        path.write_bytes(encode_gray16(units()))
    for path in (exported / "pose" / "0.txt", flat / "00000.txt", flat / "intrinsic.txt"):
        path.write_text(text(np.eye(4)))
    for root in (exported, flat, tmp_path, tmp_path / "nothing", flat / "00000.jpg"):
        assert not [kind for kind in ALL if kind.recognises(root)]


@pytest.mark.parametrize("kind", ALL)
def test_an_empty_folder_is_refused_with_what_was_expected(kind, tmp_path):
    with pytest.raises(ValueError, match=f"holds no scene of format {kind.format}; a scene's folder holds"):
        kind(tmp_path).scene_ids()


def test_every_layout_gives_the_same_frames(tmp_path):
    scales = {RgbdFolder: 1000, SevenScenes: 1000, Tum: 5000, Redwood: 1000, Replica: 6553.5, ArkitScenes: 1000}
    for kind, folder in write_all(tmp_path).items():
        found, problems = load(kind, folder)
        assert found is not None
        assert problems == []
        assert found.source == kind.format
        assert len(found.frames) == 3
        for i, got in enumerate(found.frames):
            np.testing.assert_allclose(got.camera_to_world, pose(i), atol=1e-9)
            np.testing.assert_array_equal(got.intrinsics, CAMERA)
            assert got.depth_scale == scales[kind]
            assert got.depth_intrinsics is None
            assert np.abs(got.pixels().astype(int) - pixels(i)).mean() < (0.1 if got.image[:4] == b"\x89PNG" else 40)
        if kind in (RgbdFolder, Redwood, Replica):  # the same stored units, bytes kept
            assert [got.depth for got in found.frames] == [encode_gray16(units(i)) for i in range(3)]


def test_every_and_max_frames_choose_frames_and_an_unknown_scene_is_refused(tmp_path):
    root = write_rgbd(tmp_path / "own", count=7)
    assert [f.name for f in load(RgbdFolder, root, every=3)[0].frames] == ["00000", "00003", "00006"]
    assert [f.name for f in load(RgbdFolder, root, max_frames=2)[0].frames] == ["00000", "00006"]
    with pytest.raises(ValueError, match="has no scene 'other'; it has own"):
        RgbdFolder(root).load("other", Problems("other"))


# ---- the plain folder, and what goes wrong in any format


def test_frames_come_in_numeric_order_and_unpadded_names_do_too(tmp_path):
    root = write_rgbd(tmp_path / "own")
    for old, new in (("00001", "9"), ("00002", "10")):
        for end in (".jpg", ".depth.png", ".pose.txt"):
            (root / f"{old}{end}").rename(root / f"{new}{end}")
    assert [f.name for f in load(RgbdFolder, root)[0].frames] == ["00000", "9", "10"]


def test_a_world_with_y_up_is_turned(tmp_path):
    root = write_rgbd(tmp_path / "own")
    turn = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # z goes to y, y to -z
    for i in range(3):
        (root / f"{i:05d}.pose.txt").write_text(text(turn @ pose(i)))
    for up in ("auto", "y"):
        for i, got in enumerate(load(RgbdFolder, root, up=up)[0].frames):
            np.testing.assert_allclose(got.camera_to_world, pose(i), atol=1e-12)
    np.testing.assert_allclose(load(RgbdFolder, root, up="z")[0].frames[0].camera_to_world, turn @ pose(0), atol=1e-12)


def test_an_unsure_guess_of_up_is_reported():
    tilted = pose()
    tilted[:3, :3] = tilted[:3, :3] @ Rotation.from_euler("x", -40, degrees=True).as_matrix()
    problems = Problems("s")
    upright([frame(camera_to_world=tilted)], "auto", problems)
    assert kinds(problems.found) == ["unsure up"]
    assert "40 degrees from the nearest world axis" in problems.found[0].message
    upright([frame(camera_to_world=tilted)], "z", problems)
    assert len(problems.found) == 1


def bomb():
    """A PNG of 13 kB that would decode to 100 megapixels."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    return buffer.getvalue()


SHEARED = pose(1) + np.array([[0, 0.1, 0, 0]] + [[0] * 4] * 3)
LOST = np.full((4, 4), -np.inf)
DROPPED = {
    "lost tracking": [(".pose.txt", text(LOST).encode()), (".pose.txt", text(LOST * np.nan).encode())],
    "bad camera": [
        (".pose.txt", text(SHEARED).encode()),
        (".pose.txt", text(pose(1)[:3]).encode()),
        (".pose.txt", text(np.diag([1.0, 1, -1, 1])).encode()),
        (".pose.txt", text(1e308 * pose(1)).encode()),
        (".pose.txt", text(pose(1) + 1e300 * np.eye(4)[:, 3:] * np.eye(4)[3]).encode()),
        (".pose.txt", b"no numbers"),
        (".pose.txt", b""),
        (".pose.txt", b"\xff\xfe"),
    ],
    "missing file": [(".pose.txt", None), (".jpg", None)],
    "bad image": [(".jpg", encode_image(pixels(1))[:-40]), (".jpg", b"GIF?"), (".jpg", bomb())],
}
WITHOUT_DEPTH = {
    "no depth": [None],
    "bad depth": [
        encode_image(pixels(1), quality=None),
        encode_gray16(units()[:5]),
        encode_gray16(units())[:-30],
        b"",
    ],
}


@pytest.mark.parametrize(("kind", "end", "data"), [(k, *case) for k, cases in DROPPED.items() for case in cases])
def test_a_frame_that_cannot_be_used_is_dropped_and_named(kind, end, data, tmp_path):
    root = write_rgbd(tmp_path / "own")
    path = root / f"00001{end}"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    found, problems = load(RgbdFolder, root)
    assert [f.name for f in found.frames] == ["00000", "00002"]
    assert kinds(problems) == [kind]
    assert str(problems[0]).startswith("own: ")
    assert "00001" in str(problems[0])
    assert "dropped" in problems[0].message


@pytest.mark.parametrize(("kind", "data"), [(k, case) for k, cases in WITHOUT_DEPTH.items() for case in cases])
def test_a_frame_without_usable_depth_stays_and_is_named(kind, data, tmp_path):
    root = write_rgbd(tmp_path / "own")
    path = root / "00001.depth.png"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    found, problems = load(RgbdFolder, root)
    assert [f.depth is None for f in found.frames] == [False, True, False]
    assert kinds(problems) == [kind]
    assert "00001.depth.png" in str(problems[0])
    assert "the frame stays, without depth" in problems[0].message


def test_poses_printed_with_few_decimals_are_made_exact(tmp_path):
    root = write_rgbd(tmp_path / "own")
    (root / "00001.pose.txt").write_text(text(pose(1), "%.4f"))
    found, problems = load(RgbdFolder, root)
    rotation = found.frames[1].camera_to_world[:3, :3]
    assert problems == []
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(rotation, pose(1)[:3, :3], atol=1e-4)


def test_intrinsics_of_another_image_size_are_noticed_and_an_unusable_scene_is_none(tmp_path):
    root = write_rgbd(tmp_path / "own")
    (root / "K.txt").write_text(text([[525.0, 0, 319.5], [0, 525, 239.5], [0, 0, 1]]))
    found, problems = load(RgbdFolder, root)
    assert found is None
    assert kinds(problems) == ["bad camera"] * 3 + ["empty scene"]
    assert r"principal point at (319.5, 239.5), outside 8x6 pixels" in problems[0].message


def test_a_scene_without_readable_intrinsics_is_dropped_and_the_others_stay(tmp_path):
    write_rgbd(tmp_path / "a")
    write_rgbd(tmp_path / "b")
    (tmp_path / "a" / "K.txt").write_text("1 2 3")
    found, problems = load(RgbdFolder, tmp_path, "a")
    assert found is None
    assert kinds(problems) == ["bad scene"]
    assert "K.txt: 3x3 numbers were expected, got shape (1, 3)" in problems[0].message
    assert load(RgbdFolder, tmp_path, "b")[0] is not None


def test_hidden_folders_are_no_scenes(tmp_path):
    write_rgbd(tmp_path / "own")
    write_rgbd(tmp_path / ".own.half-written")
    assert RgbdFolder(tmp_path).scene_ids() == ["own"]


@pytest.mark.parametrize("stray", ["00001.png", "1.jpg", "1.depth.png", "000001.pose.txt"])
def test_of_two_files_of_the_same_frame_one_is_taken_and_the_other_named(stray, tmp_path):
    whole, _ = load(RgbdFolder, write_rgbd(tmp_path / "whole" / "own"))
    root = write_rgbd(tmp_path / "own")
    (root / stray).write_bytes(b"not this one")
    found, problems = load(RgbdFolder, root)
    assert [(f.name, f.image, f.depth) for f in found.frames] == [(f.name, f.image, f.depth) for f in whole.frames]
    assert [(problem.kind, problem.file) for problem in problems] == [("same number", stray)]
    assert "has the number of 00001." in problems[0].message


@pytest.mark.parametrize("path", ["", ".", "/etc/passwd", "../x", "a/../../x", "C:\\x", "a\0b"])
def test_paths_out_of_the_data_set_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="leaves the data set's folder"):
        safe_path(tmp_path, path)


# ---- real recordings


def median_error(a, b):
    errors = depth_disagreement(a, b)
    assert len(errors) > 1000
    return float(np.median(errors))


def test_hololens_office(real):
    found, problems = load(RgbdFolder, real / "dvmvs_hololens_000")
    assert problems == []
    assert len(found.frames) == 25
    ups = np.array([-f.camera_to_world[:3, 1] for f in found.frames]).mean(axis=0)
    assert ups[2] / np.linalg.norm(ups) > 0.98
    by_name = {f.name: f for f in found.frames}
    burst = [by_name[f"{number:05d}"] for number in range(130, 146, 2)]
    for a, b in pairwise(burst):
        assert median_error(a, b) < 0.005
        assert median_error(b, a) < 0.005
    # The test can fail: with poses taken the wrong way round, depth does not agree.
    wrong = [replace(f, camera_to_world=invert_pose(f.camera_to_world)) for f in burst[:2]]
    assert median_error(*wrong) > 0.02


def test_open3d_frames(real):
    found, problems = load(Redwood, real / "open3d_testdata_rgbd")
    assert problems == []
    assert [f.name for f in found.frames] == [f"{i:05d}" for i in range(5)]
    assert found.frames[0].intrinsics[:2, 2].tolist() == [319.5, 239.5]
    assert all(-f.camera_to_world[2, 1] > 0.99 for f in found.frames)
    for a in (0, 4):
        assert median_error(found.frames[a], found.frames[4 - a]) < 0.005
    wrong = [replace(f, camera_to_world=invert_pose(f.camera_to_world)) for f in found.frames]
    assert median_error(wrong[0], wrong[4]) > 0.02


def test_depth_encodings_of_tum_and_sun(real):
    """Medians in the recordings' own README: TUM 2.4 m; SUN 2.7 m with its bits turned back, 21 m without."""
    folder = real / "open3d_testdata_rgbd" / "other_formats"
    tum = decode_depth((folder / "TUM_depth.png").read_bytes(), 5000)
    assert np.median(tum[tum > 0]) == pytest.approx(2.4, abs=0.1)
    plain = decode_gray16((folder / "SUN_depth.png").read_bytes())
    turned = encode_gray16((plain >> 3) | (plain << 13))
    for data, metres in ((turned, 2.7), (encode_gray16(plain), 21)):
        depth = decode_depth(data, 1000)
        assert np.median(depth[depth > 0]) == pytest.approx(metres, rel=0.05)


def test_a_real_recording_survives_tum(real, tmp_path):
    before, _ = load(RgbdFolder, real / "dvmvs_hololens_000", max_frames=2)
    TumExporter().export([before], tmp_path)
    after, problems = load(Tum, tmp_path)
    assert problems == []
    for old, new in zip(before.frames, after.frames, strict=True):
        np.testing.assert_allclose(new.camera_to_world, old.camera_to_world, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(new.pixels(), old.pixels())
        np.testing.assert_array_equal(new.depth_map(), old.depth_map())
