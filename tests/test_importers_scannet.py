"""ScanNet as streams and as folders: tiny data, round trips, and what is broken."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from scannet_data import (
    DEPTH,
    DEPTH_CAMERA,
    IMAGE,
    TURN,
    ZIPPED,
    check_same,
    kinds,
    load,
    lying,
    scannet_export,
    sens,
    sens_scan,
    small_scene,
)

from gapmllm.scenes.exporters.scannet import ScanNetExporter
from gapmllm.scenes.images import decode_gray16, encode_gray16
from gapmllm.scenes.importers import find_importer
from gapmllm.scenes.importers.base import ImportOptions
from gapmllm.scenes.importers.scannet_folders import PosedImages, ScanNetExport
from gapmllm.scenes.importers.scannet_sens import ScanNetSens
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import SceneObject

# ---- .sens


def test_a_stream_is_read_frame_by_frame_with_lost_frames_dropped(tmp_path):
    lost = np.full((4, 4), -np.inf)
    frames = [(lying(0), IMAGE, ZIPPED), (lost, IMAGE, ZIPPED), (lying(2), IMAGE, b""), (lying(3), IMAGE, ZIPPED)]
    root = sens_scan(tmp_path, sens(frames))
    assert find_importer(root) is ScanNetSens
    scene, problems = load(ScanNetSens(root))
    assert [frame.name for frame in scene.frames] == ["00000", "00002", "00003"]
    assert kinds(problems) == ["no objects", "lost tracking"]
    first, without, last = scene.frames
    assert (first.image, without.depth, last.time) == (IMAGE, None, 3 / 30)
    np.testing.assert_allclose(last.camera_to_world, TURN @ lying(3), atol=1e-6)
    np.testing.assert_allclose(first.depth_map(), DEPTH / 1000)
    np.testing.assert_array_equal(first.depth_camera(), DEPTH_CAMERA)
    kept, _ = load(ScanNetSens(root / "scene0002_00" / "scene0002_00.sens", ImportOptions(every=3)))
    assert [frame.name for frame in kept.frames] == ["00000", "00003"]


def test_raw_depth_is_read_and_damaged_frames_are_told_apart(tmp_path):
    frames = [
        (lying(0), IMAGE, DEPTH.tobytes()),
        (lying(1), IMAGE[:-200], DEPTH.tobytes()),
        (lying(2), IMAGE, DEPTH.tobytes()[:-2]),
    ]
    scene, problems = load(ScanNetSens(sens_scan(tmp_path, sens(frames, depth=0), with_alignment=False)))
    assert kinds(problems) == ["no alignment", "no objects", "bad image", "bad depth"]
    assert "22 bytes, 24 were expected for 4x3" in str(problems.found[-1])
    np.testing.assert_array_equal(decode_gray16(scene.frames[0].depth), DEPTH)


@pytest.mark.parametrize("cut", [1, 50, 700])
def test_a_stream_cut_short_keeps_the_frames_before_the_cut(tmp_path, cut):
    whole = sens([(lying(x), IMAGE, ZIPPED) for x in range(3)], claimed=2**60)
    per_frame = 96 + len(IMAGE) + len(ZIPPED)
    scene, problems = load(ScanNetSens(sens_scan(tmp_path, whole[:-cut])))
    assert len(scene.frames) == 3 - -(-cut // per_frame)
    assert kinds(problems) == ["no objects", "truncated"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sens([], depth=2), "depth is stored as occi_ushort; only raw_ushort and zlib_ushort are read"),
        (sens([], color=0), "colour is stored as raw; only png and jpeg are read"),
        (sens([], size=(8, 6, 100_000, 100_000)), "depth of 100000x100000 cannot be"),
        (struct.pack("<IQ", 4, 2**63), "no .sens file of version 4"),
        (b"\x03" + sens([])[1:], "version 3"),
        (sens([])[:100], "ends inside its header"),
    ],
)
def test_a_stream_that_cannot_be_read_is_refused_with_its_reason(tmp_path, data, message):
    scene, problems = load(ScanNetSens(sens_scan(tmp_path, data)))
    assert scene is None
    assert message in str(problems.found[-1])
    assert "scene0002_00.sens" in str(problems.found[-1])


def test_a_frame_of_absurd_size_costs_itself_and_what_follows_alone(tmp_path):
    data = sens([(lying(x), IMAGE, ZIPPED) for x in range(2)], claimed=5)
    data += np.eye(4, dtype="<f4").tobytes() + struct.pack("<4Q", 0, 0, 2**62, 0) + bytes(500)
    scene, problems = load(ScanNetSens(sens_scan(tmp_path, data)))
    assert [frame.name for frame in scene.frames] == ["00000", "00001"]
    assert kinds(problems) == ["no objects", "damaged"]
    assert "damaged from frame 2, which claims 4611686018427387904 bytes" in problems.found[-1].message
    assert "3 of 5 frames are lost" in problems.found[-1].message


def test_a_compressed_depth_map_is_not_unpacked_beyond_its_size(tmp_path):
    bomb = zlib.compress(bytes(10_000_000))
    scene, problems = load(ScanNetSens(sens_scan(tmp_path, sens([(lying(0), IMAGE, bomb)]))))
    assert scene.frames[0].depth is None
    assert "25 bytes, 24 were expected" in str(problems.found[-1])


# ---- folders, and round trips


def test_posed_images_come_back_as_they_were_written(tmp_path):
    scene = small_scene()
    ScanNetExporter().export([scene], tmp_path)
    assert find_importer(tmp_path) is PosedImages
    for root in (tmp_path, tmp_path / "posed_images", tmp_path / "posed_images" / scene.id):
        found, problems = load(PosedImages(root))
        assert kinds(problems) == []
        check_same(found, scene)
        assert [frame.time for frame in found.frames] == pytest.approx([0, 1 / 3, 2 / 3])


def test_an_oriented_box_is_written_as_the_box_around_it(tmp_path):
    quarter = np.array([[np.sqrt(0.5), -np.sqrt(0.5), 0], [np.sqrt(0.5), np.sqrt(0.5), 0], [0, 0, 1]])
    item = SceneObject(id=0, label="desk", center=np.zeros(3), size=np.array([2.0, 1, 0.5]), rotation=quarter)
    ScanNetExporter().export([small_scene(objects=(item,))], tmp_path)
    found, _ = load(PosedImages(tmp_path))
    # by hand: a 2 x 1 rectangle at 45 degrees reaches (2 + 1) / 2 * sqrt(1/2) to each side
    np.testing.assert_allclose(found.objects[0].size, [3 * np.sqrt(0.5), 3 * np.sqrt(0.5), 0.5])


def test_depth_in_other_units_is_rounded_to_millimetres(tmp_path):
    frame = replace(small_scene().frames[0], depth=encode_gray16(DEPTH + 1), depth_scale=5000.0)
    ScanNetExporter().export([small_scene(frames=(frame,))], tmp_path)
    found, _ = load(PosedImages(tmp_path))
    assert np.abs(found.frames[0].depth_map() - (DEPTH + 1) / 5000).max() <= 0.0005 + 1e-7


def test_an_export_never_mixes_with_an_older_one(tmp_path):
    ScanNetExporter().export([small_scene()], tmp_path)
    with pytest.raises(ValueError, match="is there already"):
        ScanNetExporter().export([small_scene()], tmp_path)
    assert not [path for path in (tmp_path / "posed_images").iterdir() if path.name.startswith(".")]


def test_the_folders_of_scannets_own_reader_are_read(tmp_path):
    scan = scannet_export(tmp_path)
    assert find_importer(scan) is find_importer(scan.parent) is ScanNetExport
    found, problems = load(ScanNetExport(scan))
    assert kinds(problems) == []
    check_same(found, small_scene())
    assert [frame.name for frame in found.frames] == ["0.jpg", "10.jpg", "20.jpg"]


def test_missing_and_damaged_files_of_a_scan_are_reported(tmp_path):
    scan = scannet_export(tmp_path)
    (scan / "depth" / "0.png").unlink()
    (scan / "pose" / "10.txt").unlink()
    (scan / "color" / "20.jpg").write_bytes(IMAGE[:200])
    aggregation = scan / "scene0003_00.aggregation.json"
    aggregation.write_text(aggregation.read_text().replace('"segments": [1]', '"segments": [99]'))
    found, problems = load(ScanNetExport(scan))
    assert kinds(problems) == ["bad object", "no depth", "no pose", "bad image"]
    assert "object 2 (lamp): none of the vertices is in it" in str(problems.found[0])
    assert "20.jpg" in str(problems.found[-1])
    assert (len(found.frames), len(found.objects)) == (1, 1)


def test_a_mesh_that_does_not_fit_its_segments_gives_no_objects(tmp_path):
    scan = scannet_export(tmp_path)
    (scan / "scene0003_00_vh_clean_2.0.010000.segs.json").write_text('{"segIndices": [0, 1]}')
    found, problems = load(ScanNetExport(scan))
    assert found.objects == ()
    assert "one whole number for each of the 16 vertices" in str(problems.found[0])


def test_a_scan_without_usable_frames_is_dropped(tmp_path):
    scan = scannet_export(tmp_path)
    for path in (scan / "pose").iterdir():
        path.write_text("-inf -inf -inf -inf\n" * 4)
    found, problems = load(ScanNetExport(scan))
    assert found is None
    assert kinds(problems) == ["lost tracking"] * 3 + ["empty scene"]


def test_times_are_read_off_file_numbers_only_where_they_count_raw_frames(tmp_path):
    ScanNetExporter().export([small_scene()], tmp_path)
    folder = tmp_path / "posed_images" / "scene0003_00"
    for suffix in ("jpg", "png", "txt"):
        (folder / f"00020.{suffix}").rename(folder / f"00021.{suffix}")
    found, _ = load(PosedImages(tmp_path))
    assert [frame.time for frame in found.frames] == [None] * 3
    for suffix in ("jpg", "png", "txt"):
        (folder / f"00021.{suffix}").rename(folder / f"00301.{suffix}")
    found, _ = load(PosedImages(tmp_path))
    assert found.frames[2].time == 301 / 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "a text was expected, got NoneType"),
        ({"label": 3}, "a text was expected, got int 3"),
        ({"label": "\ud800"}, "UnicodeEncodeError"),
        ({"objectId": 3.7}, "'float' object cannot be interpreted as an integer"),
        ({"objectId": 10**400}, "object id must be 0 to 65534"),
        ({"segments": [0.9]}, "'float' object cannot be interpreted as an integer"),
        ({"segments": 1}, "not iterable"),
    ],
)
def test_a_bad_object_of_an_aggregation_costs_itself_alone(tmp_path, change, message):
    scan = scannet_export(tmp_path)
    path = scan / "scene0003_00.aggregation.json"
    groups = json.loads(path.read_text())["segGroups"]
    groups[1] |= change
    path.write_text(json.dumps({"segGroups": groups}))
    scene, problems = load(ScanNetExport(scan))
    assert [item.id for item in scene.objects] == [7]
    assert kinds(problems) == ["bad object"]
    assert "object 1 of the list" in problems.found[0].message
    assert message in problems.found[0].message


def test_a_lost_picture_and_a_repeated_number_are_reported(tmp_path):
    ScanNetExporter().export([small_scene()], tmp_path)
    folder = tmp_path / "posed_images" / "scene0003_00"
    (folder / "00010.jpg").unlink()
    shutil.copy(folder / "00020.jpg", folder / "20.jpg")
    scene, problems = load(PosedImages(tmp_path))
    assert [frame.name for frame in scene.frames] == ["00000.jpg", "00020.jpg"]
    assert [(problem.kind, problem.file) for problem in problems.found] == [
        ("same number", "20.jpg"),
        ("missing file", "frame 10"),
    ]
    scan = scannet_export(tmp_path / "other")
    (scan / "color" / "10.jpg").unlink()
    (scan / "depth" / "40.png").write_bytes(b"")  # alone it tells of no frame
    scene, problems = load(ScanNetExport(scan))
    assert (len(scene.frames), kinds(problems)) == (2, ["missing file"])


@pytest.mark.parametrize("layout", [PosedImages, ScanNetExport])
def test_a_scan_without_intrinsics_is_listed_and_reported_and_a_half_written_one_is_not(tmp_path, layout):
    scan = scannet_export(tmp_path)
    scan = scan if layout is ScanNetExport else tmp_path / "flat" / "posed_images" / "scene0003_00"
    for name in ("scene0004_00", ".scene0005_00.abc"):
        shutil.copytree(scan, scan.parent / name)
    layout.camera(scan.parent / "scene0004_00").unlink()
    importer = layout(scan.parent)
    assert find_importer(scan.parent) is layout
    assert importer.scene_ids() == ["scene0003_00", "scene0004_00"]
    problems = Problems("scene0004_00")
    assert importer.load("scene0004_00", problems) is None
    assert kinds(problems)[-1] == "bad scene"
    assert "intrinsic" in problems.found[-1].message


def lose(scan, *patterns):
    """Takes away what the patterns name."""
    for path in [path for pattern in patterns for path in scan.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("layout", "patterns", "what"),
    [
        (PosedImages, ["*.jpg"], "pictures"),
        (PosedImages, ["0*.txt"], "poses"),
        (PosedImages, ["*.jpg", "*intrinsic.txt"], "pictures"),
        (PosedImages, ["*.jpg", "0*.txt"], "pictures"),
        (ScanNetExport, ["color"], "pictures"),
        (ScanNetExport, ["color/*"], "pictures"),
        (ScanNetExport, ["color", "intrinsic"], "pictures"),
        (ScanNetExport, ["pose"], "poses"),
        (ScanNetExport, ["pose", "intrinsic"], "poses"),
    ],
)
def test_a_scan_that_lost_a_part_is_listed_and_reported_beside_a_whole_one(tmp_path, layout, patterns, what):
    scan = scannet_export(tmp_path)
    scan = scan if layout is ScanNetExport else tmp_path / "flat" / "posed_images" / "scene0003_00"
    shutil.copytree(scan, scan.parent / "scene0004_00")
    (scan.parent / "notes").mkdir()
    lose(scan.parent / "scene0004_00", *patterns)
    assert find_importer(scan.parent) is layout
    importer = layout(scan.parent)
    assert importer.scene_ids() == ["scene0003_00", "scene0004_00"]
    problems = Problems("scene0004_00")
    assert importer.load("scene0004_00", problems) is None
    assert (problems.found[-1].kind, problems.found[-1].message) == (
        "bad scene",
        f"scene0004_00 has no {what}; the scene is dropped",
    )
    lose(scan, *patterns)
    assert layout.recognises(scan.parent) == (patterns in (["color/*"], ["pose"]))


def test_folders_in_a_scan_are_no_scans_of_their_own(tmp_path):
    ScanNetExporter().export([small_scene()], tmp_path)
    scan = tmp_path / "posed_images" / "scene0003_00"
    (scan / "previews").mkdir()
    shutil.copy(scan / "00000.jpg", scan / "previews")
    assert PosedImages(scan).scene_ids() == ["scene0003_00"]


def test_posed_images_may_end_in_jpeg(tmp_path):
    ScanNetExporter().export([small_scene()], tmp_path)
    for path in list((tmp_path / "posed_images" / "scene0003_00").glob("*.jpg")):
        path.rename(path.with_suffix(".jpeg"))
    assert find_importer(tmp_path) is PosedImages
    assert len(load(PosedImages(tmp_path))[0].frames) == 3


@pytest.mark.parametrize("layout", [PosedImages, ScanNetExport, ScanNetSens])
def test_a_scan_whose_name_is_not_utf8_is_listed_and_reported(tmp_path, layout):
    if layout is ScanNetSens:
        (tmp_path / "good.sens").write_bytes(sens([(lying(0), IMAGE, ZIPPED)]))
        shutil.copy(tmp_path / "good.sens", tmp_path / os.fsdecode(b"s\xff.sens"))
        root = tmp_path
    else:
        scan = scannet_export(tmp_path)
        scan = scan if layout is ScanNetExport else tmp_path / "flat" / "posed_images" / "scene0003_00"
        root = scan.parent
        scan.rename(root / "good")
        shutil.copytree(root / "good", root / os.fsdecode(b"s\xff"))
    importer = layout(root)
    assert importer.scene_ids() == ["good", r"s\xff"]
    assert importer.load("good", Problems("good")) is not None
    problems = Problems(r"s\xff")
    assert importer.load(r"s\xff", problems) is None
    assert kinds(problems) == ["bad scene"]
    assert problems.found[0].message == "its name is not in UTF-8, rename it; the scene is dropped"


def test_frames_closer_than_the_camera_takes_them_are_numbered_by_place(tmp_path):
    times = (0.0, 0.01, 1.0)
    frames = tuple(replace(frame, time=time) for frame, time in zip(small_scene().frames, times, strict=True))
    ScanNetExporter().export([small_scene(frames=frames)], tmp_path)
    assert sorted(path.name for path in (tmp_path / "posed_images" / "scene0003_00").glob("*.jpg")) == [
        f"{number:05d}.jpg" for number in range(3)
    ]
