"""EmbodiedScan and mmdetection3d: the real sample, tiny data, round trips, and what is broken."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from scannet_data import CAMERA, CAMERA4, IMAGE, TURN, check_same, kinds, load, lying, small_scene

from gapmllm.geometry import Boxes, project, transform_points
from gapmllm.scenes.exporters.embodiedscan import EmbodiedScanExporter
from gapmllm.scenes.images import ImageError, encode_gray16
from gapmllm.scenes.importers import find_importer
from gapmllm.scenes.importers.base import ImportOptions
from gapmllm.scenes.importers.embodiedscan import EmbodiedScan
from gapmllm.scenes.importers.mmdet3d import MMDetection3D
from gapmllm.scenes.importers.pgm import read_pgm
from gapmllm.scenes.problems import Problems


@pytest.mark.parametrize("pickled", [None, "8529c1ef", "ef8bedb6", "head"])
def test_the_real_scan_has_27_boxes_and_3_frames_in_every_schema(real, pickled):
    folder = real / "mmdet3d_scannet_scene0000_00"
    options = ImportOptions(annotations=None if pickled is None else folder / f"scannet_infos_{pickled}.pkl")
    assert find_importer(folder) is MMDetection3D
    scene, problems = load(MMDetection3D(folder, options))
    assert (scene.id, len(scene.frames), len(scene.objects)) == ("scene0000_00", 3, 27)
    assert kinds(problems) == (["other annotations"] if pickled is None else [])
    align, pose = (np.loadtxt(folder / name) for name in ("axis_align_matrix.txt", "00011.txt"))
    np.testing.assert_allclose(scene.frames[1].camera_to_world, align @ pose, atol=1e-5)
    assert [item.label for item in scene.objects][2:4] == ["table", "counter"]
    assert [frame.time for frame in scene.frames] == [None] * 3


def test_the_boxes_of_the_real_scan_are_seen_by_its_frames_as_recorded(real):
    folder = real / "mmdet3d_scannet_scene0000_00"
    scene, _ = load(MMDetection3D(folder))
    seen = [set() for _ in scene.frames]
    for item in scene.objects:
        for names, frame in zip(seen, scene.frames, strict=True):
            pixel, _ = project(item.center, frame.intrinsics, frame.camera_to_world)
            if (pixel >= 0).all() and (pixel < frame.size).all():
                names.add(item.label)
    assert {"table", "cabinet"} <= seen[0]
    assert {"desk", "garbagebin"} <= seen[1]
    assert {"sofa", "table", "cabinet"} <= seen[2]
    assert "sofa" not in seen[0] | seen[1]


def mmdet_folder(folder, **changes):
    images = folder / "posed_images" / "scene0001_00"
    images.mkdir(parents=True)
    for number in (0, 1):
        (images / f"{number:05d}.jpg").write_bytes(IMAGE)
        np.savetxt(images / f"{number:05d}.txt", lying(number))
    np.savetxt(images / "intrinsic.txt", CAMERA4)
    info = {
        "point_cloud": {"num_features": 6, "lidar_idx": "scene0001_00"},
        "img_paths": [f"posed_images/scene0001_00/{number:05d}.jpg" for number in (0, 1)],
        "intrinsics": CAMERA4,
        "extrinsics": [lying(0), lying(1)],
        "annos": {
            "gt_boxes_upright_depth": np.array([[0.0, 3, 1, 1, 1, 1], [0, 4, 1, 1, 1, 1]]),
            "name": np.array(["chair", "desk"]),
            "axis_align_matrix": TURN,
        },
        **changes,
    }
    (folder / "scannet_infos_val.pkl").write_bytes(pickle.dumps([info]))
    return folder


def test_a_data_folder_of_mmdetection3d_is_told_apart_and_read(tmp_path):
    mmdet_folder(tmp_path)
    assert find_importer(tmp_path) is MMDetection3D
    scene, problems = load(MMDetection3D(tmp_path, ImportOptions(split="val")))
    assert (kinds(problems), scene.split) == ([], "val")
    np.testing.assert_allclose(scene.frames[1].camera_to_world, TURN @ lying(1))
    np.testing.assert_array_equal(scene.objects[1].center, [0, 4, 1])


@pytest.mark.parametrize(
    ("changes", "kind", "left"),
    [
        ({"extrinsics": [np.full((4, 4), -np.inf), lying(1)]}, "lost tracking", 1),
        ({"extrinsics": [np.diag([1, 2, 1, 1.0]), lying(1)]}, "bad camera", 1),
        ({"img_paths": ["posed_images/gone.jpg", "posed_images/scene0001_00/00001.jpg"]}, "missing file", 1),
        ({"img_paths": ["../../secret.jpg", "posed_images/scene0001_00/00001.jpg"]}, "bad camera", 1),
        ({"img_paths": [], "extrinsics": []}, "empty scene", 0),
        ({"annos": {}}, "no alignment", 2),
        ({"annos": {"gt_boxes_upright_depth": np.array([[0.0, 0, 0, -1, 1, 1]]), "name": ["x"]}}, "bad object", 2),
    ],
)
def test_what_is_wrong_with_an_entry_is_reported(tmp_path, changes, kind, left):
    scene, problems = load(MMDetection3D(mmdet_folder(tmp_path, **changes)))
    assert kind in kinds(problems)
    assert len(scene.frames if scene else ()) == left


# ---- EmbodiedScan


def test_embodiedscan_comes_back_with_oriented_boxes_exactly(tmp_path):
    box = Boxes.from_euler([[0.1, 3, 1, 0.7, 0.6, 0.9, 0.3, 0.2, -0.1]], "ZXY")
    item = replace(small_scene().objects[0], rotation=box.rotations[0])
    scene = small_scene(objects=(item, small_scene().objects[1]))
    EmbodiedScanExporter().export([scene], tmp_path)
    EmbodiedScanExporter().export([replace(scene, id="scene0004_00")], tmp_path)
    assert find_importer(tmp_path) is EmbodiedScan
    importer = EmbodiedScan(tmp_path)
    assert importer.scene_ids() == ["scene0003_00", "scene0004_00"]
    problems = Problems("")
    found = importer.load("scene0003_00", problems)
    assert kinds(problems) == []
    check_same(found, scene)
    assert [frame.time for frame in found.frames] == pytest.approx([0, 1 / 3, 2 / 3])
    assert found.frames[0].visible == {}  # the chair is in view there too, but not listed
    assert set(found.frames[1].visible) <= {7}
    plain = pickle.loads((tmp_path / "embodiedscan_infos_train.pkl").read_bytes())
    assert type(plain["data_list"][0]["cam2img"]) is np.ndarray


def test_a_missing_split_of_embodiedscan_is_named(tmp_path):
    EmbodiedScanExporter().export([small_scene()], tmp_path)
    with pytest.raises(ValueError, match=r"embodiedscan_infos_val.pkl is not in it, but embodiedscan_infos_train.pkl"):
        EmbodiedScan(tmp_path, ImportOptions(split="val")).scene_ids()


def embodied(folder, sample, images, **changes):
    info = {
        "sample_idx": sample,
        "axis_align_matrix": TURN,
        "cam2img": CAMERA4,
        "images": images,
        "instances": [
            {"bbox_3d": [0, 3, 1, 1, 1, 1, 0.5, 0, 0], "bbox_label_3d": 4, "bbox_id": 40},
            {"bbox_3d": [0, 3, 1, 1, 1, 1, 0.5, 0, 0], "bbox_label_3d": 9, "bbox_id": 41},
            {"bbox_3d": [-1.5, 2, 4, 4, 4, 4, 0, 0, 0], "bbox_label_3d": 4, "bbox_id": 12},
        ],
        **changes,
    }
    infos = {"metainfo": {"categories": {"chair": 4}}, "data_list": [info]}
    folder.mkdir(exist_ok=True)
    (folder / "embodiedscan_infos_train.pkl").write_bytes(pickle.dumps(infos))
    return folder


def test_3rscan_of_embodiedscan_has_pgm_depth_and_boxes_by_position(tmp_path):
    sequence = tmp_path / "3rscan" / "abc" / "sequence"
    sequence.mkdir(parents=True)
    (sequence / "frame-000000.color.jpg").write_bytes(IMAGE)
    depth = np.full((3, 4), 2500, ">u2")
    (sequence / "frame-000000.depth.pgm").write_bytes(b"P5\n# mm\n4 3\n4000\n" + depth.tobytes())
    image = {
        "img_path": "3rscan/abc/sequence/frame-000000.color.jpg",
        "depth_path": "3rscan/abc/sequence/frame-000000.depth.pgm",
        "cam2global": lying(0),
        "visible_instance_ids": [2, 1, 8],
    }
    scene, problems = load(EmbodiedScan(embodied(tmp_path, "3rscan/abc", [image])))
    assert (scene.id, scene.source) == ("3rscan__abc", "embodiedscan")
    assert kinds(problems) == ["bad object", "unknown object"]
    assert "instance 1: KeyError: 9" in str(problems.found[0])
    assert "instances [1, 8]" in str(problems.found[1])
    (frame,) = scene.frames
    np.testing.assert_array_equal(frame.depth_map(), np.full((3, 4), 2.5, np.float32))
    # by hand: half the pixels, the same picture, so a corner at -0.5 stays at -0.5
    np.testing.assert_allclose(frame.depth_camera(), [[3, 0, 1.5], [0, 3, 1], [0, 0, 1]])
    assert [item.id for item in scene.objects] == [40, 12]
    # by hand: place 2 is object 12, 2.5 m before the camera that TURN puts at (1, 2, 4), looking along -x
    assert set(frame.visible) == {12}


def test_matterport_of_embodiedscan_has_a_camera_an_image_and_its_own_depth_unit(tmp_path):
    folder = tmp_path / "matterport3d" / "hall"
    folder.mkdir(parents=True)
    (folder / "x_i0_0.jpg").write_bytes(IMAGE)
    (folder / "x_d0_0.png").write_bytes(encode_gray16(np.full((6, 8), 4000, np.uint16)))
    image = {
        "img_path": "matterport3d/hall/x_i0_0.jpg",
        "depth_path": "matterport3d/hall/x_d0_0.png",
        "cam2global": lying(0),
        "cam2img": CAMERA4,
    }
    root = embodied(tmp_path, "matterport3d/hall/region0", [image])
    infos = pickle.loads((root / "embodiedscan_infos_train.pkl").read_bytes())
    del infos["data_list"][0]["cam2img"], infos["data_list"][0]["instances"]
    (root / "embodiedscan_infos_train.pkl").write_bytes(pickle.dumps(infos))
    scene, problems = load(EmbodiedScan(root))
    assert (scene.id, kinds(problems)) == ("matterport3d__hall__region0", ["no objects"])
    assert (scene.frames[0].depth_map() == 1).all()
    assert (scene.frames[0].depth_intrinsics, scene.frames[0].visible, scene.frames[0].time) == (None, None, None)


def test_what_is_wrong_with_an_image_of_embodiedscan_is_reported(tmp_path):
    good = {"img_path": "scannet/posed_images/s/00010.jpg", "depth_path": None, "cam2global": lying(0)}
    (tmp_path / "scannet" / "posed_images" / "s").mkdir(parents=True)
    (tmp_path / good["img_path"]).write_bytes(IMAGE)
    images = [
        good,
        good | {"cam2global": np.full((4, 4), np.nan)},
        good | {"img_path": "/etc/passwd"},
        good | {"img_path": "scannet/../../x.jpg"},
        good | {"img_path": "scannet/gone.jpg"},
    ]
    scene, problems = load(EmbodiedScan(embodied(tmp_path, "scannet/s", images)))
    assert kinds(problems)[1:] == ["lost tracking", "bad path", "bad path", "missing file"]
    assert [frame.time for frame in scene.frames] == [10 / 30]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"P5\n4 3\n255\n" + bytes(11), "does not fit"),
        (b"P5\n400000 400000\n65535\n", "does not fit"),
        (b"P2\n1 1\n255\n0", "not a binary PGM"),
    ],
)
def test_a_pgm_that_is_none_is_refused(data, message):
    with pytest.raises(ImageError, match=message):
        read_pgm(data)


def test_a_small_pgm_of_bytes_is_read():
    assert read_pgm(b"P5 2 1 255\n\x01\x02").tolist() == [[1, 2]]


def test_aligned_poses_and_aligned_boxes_agree():
    """What the alignment does to a point of the scan it does to the camera that sees it."""
    point = np.array([0.2, 3.0, 1.1])
    before, _ = project(point, CAMERA, lying(0))
    after, _ = project(transform_points(point, TURN), CAMERA, TURN @ lying(0))
    np.testing.assert_allclose(before, after)


def test_a_scene_without_frames_is_no_export(tmp_path):
    with pytest.raises(ValueError, match="scene scene0003_00 has no frames to export"):
        EmbodiedScanExporter().export([small_scene(frames=())], tmp_path)
