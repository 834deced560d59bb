"""7-Scenes and TUM RGB-D written: what comes back is what went out, and nothing half-written stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rgbd_data import (
    CAMERA,
    frame,
    load,
    pixels,
    scene,
    units,
)
from scipy.spatial.transform import Rotation

from gapmllm.scenes.exporters.base import as_depth, new_folder
from gapmllm.scenes.exporters.seven_scenes import SevenScenesExporter
from gapmllm.scenes.exporters.tum import TumExporter
from gapmllm.scenes.images import decode_gray16, encode_gray16, encode_image
from gapmllm.scenes.importers.seven_scenes import SevenScenes
from gapmllm.scenes.importers.tum import Tum
from gapmllm.scenes.records import SceneObject


@pytest.mark.parametrize(
    ("exporter", "kind", "scale"), [(SevenScenesExporter(), SevenScenes, 1000.0), (TumExporter(), Tum, 5000.0)]
)
def test_what_is_exported_is_imported_the_same(exporter, kind, scale, tmp_path):
    rotations = Rotation.random(20, rng=np.random.default_rng(0)).as_matrix()
    frames = []
    for i, rotation in enumerate(rotations):
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation, np.array([1 / 3, -2 / 7, 1e-7]) * i
        frames.append(frame(i, camera_to_world=matrix, depth_scale=scale, image=encode_image(pixels(i))))
    before = scene(frames=tuple(frames), split="test")
    exporter.export([before], tmp_path)
    after, problems = load(kind, tmp_path, up="z", split="test")
    assert problems == []
    assert after.split == "test"
    for old, new in zip(before.frames, after.frames, strict=True):
        np.testing.assert_allclose(new.camera_to_world, old.camera_to_world, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(new.pixels(), old.pixels())
        np.testing.assert_array_equal(new.intrinsics, old.intrinsics)
        assert new.depth == old.depth
        assert new.depth_scale == old.depth_scale
        assert new.time == pytest.approx(old.time, abs=1e-12)


def test_tum_holds_millimetres_exactly_and_seven_scenes_rounds_to_half_of_one(tmp_path):
    millimetres = scene(frames=(frame(depth=encode_gray16(units(most=13_000)), depth_scale=1000.0),))
    fifths = scene(frames=(frame(),))
    TumExporter().export([millimetres], tmp_path / "tum")
    SevenScenesExporter().export([fifths], tmp_path / "seven")
    (exact,), (rounded,) = (load(k, tmp_path / n)[0].frames for k, n in ((Tum, "tum"), (SevenScenes, "seven")))
    np.testing.assert_array_equal(exact.depth_map(), millimetres.frames[0].depth_map())
    difference = np.abs(rounded.depth_map() - fifths.frames[0].depth_map())
    assert 0 < difference.max() <= 0.0005 + 1e-6
    # by hand: 14 m times 5000 is more than 16 bits hold
    assert (
        decode_gray16(as_depth(frame(depth=encode_gray16(np.uint16([[14_000]])), depth_scale=1000.0), 5000))[0, 0] == 0
    )


def test_depth_of_another_camera_stays_in_seven_scenes_and_is_refused_by_tum(tmp_path):
    other = replace(frame(), depth_intrinsics=CAMERA * [[0.9], [0.9], [1]])
    SevenScenesExporter().export([scene(frames=(other,))], tmp_path)
    (got,) = load(SevenScenes, tmp_path)[0].frames
    np.testing.assert_array_equal(got.depth_intrinsics, other.depth_intrinsics)
    with pytest.raises(ValueError, match="this depth has a camera of its own; export to 7scenes"):
        TumExporter().export([scene(frames=(other,))], tmp_path / "tum")


def test_frames_without_depth_and_without_times_are_written_all_the_same(tmp_path):
    bare = scene(frames=tuple(frame(i, depth=None, time=None) for i in range(2)))
    TumExporter().export([bare], tmp_path / "tum")
    SevenScenesExporter().export([bare], tmp_path / "seven")
    for kind, name in ((Tum, "tum"), (SevenScenes, "seven")):
        found, problems = load(kind, tmp_path / name)
        assert problems == []
        assert [f.time for f in found.frames] == [0, 1 / 30]
        assert not any(f.depth_map().any() for f in found.frames)


def test_seven_scenes_numbers_follow_a_30_hz_clock_where_each_frame_has_its_own(tmp_path):
    for name, times, expected in (("a", (5, 6, 8), [0, 1, 3]), ("b", (0, 0.01, 0.02), [0, 1 / 30, 2 / 30])):
        SevenScenesExporter().export(
            [scene(frames=tuple(frame(i, time=t) for i, t in enumerate(times)))], tmp_path / name
        )
        assert [f.time for f in load(SevenScenes, tmp_path / name)[0].frames] == pytest.approx(expected)


@pytest.mark.parametrize("exporter", [SevenScenesExporter(), TumExporter()])
def test_exports_are_whole_or_not_at_all(exporter, tmp_path):
    exporter.export([scene()], tmp_path)
    with pytest.raises(ValueError, match="room is there already; name another folder, or delete it"):
        exporter.export([scene()], tmp_path)
    with pytest.raises(ValueError, match=r"'\.\./x' cannot be the name of a folder"):
        exporter.export([scene(id="../x")], tmp_path)
    with pytest.raises(ValueError, match="has no frames to export"):
        exporter.export([scene(id="empty", frames=())], tmp_path)
    with pytest.raises(ValueError, match="one camera for all frames, these have several"):
        exporter.export(
            [scene(id="two", frames=(frame(0), frame(1, intrinsics=CAMERA + np.eye(3) * [1, 1, 0])))], tmp_path
        )
    broken = (frame(0), frame(1, depth=b"no image", depth_scale=7.0))
    with pytest.raises(ValueError, match="not an image in JPEG or PNG"):
        exporter.export([scene(id="broken", frames=broken)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["room"]


def test_tum_refuses_equal_times(tmp_path):
    with pytest.raises(ValueError, match="two frames have the same time"):
        TumExporter().export([scene(frames=(frame(0), frame(1, time=0.0)))], tmp_path)


def test_a_new_folder_is_readable_by_others_as_the_umask_allows(tmp_path):
    with new_folder(tmp_path / "new") as folder:
        (folder / "x").write_text("x")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_boxes_are_no_reason_to_refuse(tmp_path):
    TumExporter().export(
        [scene(objects=(SceneObject(id=0, label="bed", center=np.zeros(3), size=np.ones(3)),))], tmp_path
    )
    assert load(Tum, tmp_path)[0].objects == ()
