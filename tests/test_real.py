"""Real recordings: a published GAP-MLLM record, and ScanNet frames with boxes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from gapmllm.evaluation import DetectionRecord
from gapmllm.evaluation.detection import score_detection
from gapmllm.geometry import Boxes, invert_pose, iou_pairs, project
from gapmllm.tasks import DETECTION
from gapmllm.viz import draw_boxes
from gapmllm.viz.overlay import label_color


@pytest.fixture(scope="module")
def gap_record(real):
    return json.loads((real / "gap_demo_sample" / "sample.json").read_text(encoding="utf-8"))[0]


def tilt_in_degrees(gap_record, convention):
    """Angle between each box's own z axis and the vertical of the aligned world."""
    boxes = Boxes.from_euler([item["bbox_3d"] for item in gap_record["boxes"]], convention)
    to_world = np.array(gap_record["axis_align_matrix"]) @ np.array(gap_record["cam2global"][0])
    up = to_world[:3, :3] @ boxes.rotations[..., 2].T
    return np.degrees(np.arctan2(np.linalg.norm(up[:2], axis=0), up[2]))


def test_the_boxes_of_a_published_record_stand_upright_under_zxy_and_not_under_ZXY(gap_record):
    assert tilt_in_degrees(gap_record, "zxy").max() < 1e-4
    assert tilt_in_degrees(gap_record, "ZXY").min() > 20


def test_the_answer_of_a_published_record_is_read_and_scores_full(gap_record):
    text = gap_record["conversations"][1]["value"]
    reading = DETECTION.read(text)
    assert (reading.how, reading.problems) == ("lenient", ())
    truth = [{"label": item["label"], "bbox_3d": item["bbox_3d"]} for item in gap_record["boxes"]]
    record = {"version": 1, "task": "detection", "id": "0", "scene": "scene0362_00", "answer": text, "truth": truth}
    conventions = {"truth_convention": "zxy", "answer_convention": "zxy"}
    report = score_detection([DetectionRecord.model_validate_json(json.dumps(record | conventions))])
    assert report.metrics["f1[present]@0.5"].value == 1


@pytest.fixture(scope="module")
def scannet(real):
    folder = real / "mmdet3d_scannet_scene0000_00"
    scene = json.loads((folder / "scene.json").read_text(encoding="utf-8"))
    boxes = Boxes.from_axis_aligned([item["bbox_aligned"] for item in scene["boxes"]])
    poses = np.array(scene["axis_align_matrix"]) @ np.array(scene["cam2global"])
    points = np.fromfile(folder / "scene0000_00_points.bin", np.float32).reshape(-1, 6)[:, :3].astype(float)
    aligned = points @ np.array(scene["axis_align_matrix"])[:3, :3].T + np.array(scene["axis_align_matrix"])[:3, 3]
    return folder, scene, boxes, poses, np.array(scene["cam2img"])[:3, :3], aligned


def test_scannet_boxes_hold_the_points_and_the_frames_see_them_as_recorded(scannet):
    """The recorded counts take a margin of 1 cm around a box, and pixels from 0 up to the size of the image."""
    _, scene, boxes, poses, intrinsics, points = scannet
    for i, item in enumerate(scene["boxes"]):
        inside = points[(np.abs(points - boxes.centers[i]) <= boxes.sizes[i] / 2 + 0.01).all(axis=1)]
        assert len(inside) == item["n_points"]
        pixels = [project(inside, intrinsics, pose)[0] for pose in poses]
        seen = [((p >= 0) & (p < [scene["width"], scene["height"]])).all(axis=1).sum() for p in pixels]
        assert seen == item["n_points_in_frustum"]


def test_the_two_conventions_of_the_derived_boxes_are_the_same_boxes(scannet):
    folder, *_ = scannet
    items = json.loads((folder / "det_2frames_derived.json").read_text(encoding="utf-8"))["boxes"]
    extrinsic = Boxes.from_euler([item["bbox_3d_zxy_extrinsic"] for item in items], "zxy")
    intrinsic = Boxes.from_euler([item["bbox_3d_ZXY_intrinsic"] for item in items], "ZXY")
    np.testing.assert_allclose(extrinsic.corners(), intrinsic.corners(), atol=1e-5)
    np.testing.assert_allclose(iou_pairs(extrinsic, intrinsic), 1, atol=1e-4)
    wrong = Boxes.from_euler(extrinsic.to_euler("zxy"), "ZXY")
    assert iou_pairs(extrinsic, wrong).max() < 0.9


def test_boxes_drawn_into_a_scannet_frame(scannet, tmp_path):
    folder, scene, boxes, poses, intrinsics, _ = scannet
    labels = [item["label"] for item in scene["boxes"]]
    for name, pose in zip(scene["images"], poses, strict=True):
        image = Image.open(folder / name)
        picture = draw_boxes(image, boxes, intrinsics, pose, labels)
        picture.save(tmp_path / f"{name}.png")
        assert picture.size == image.size
        changed = (np.asarray(picture) != np.asarray(image.convert("RGB"))).any(axis=-1)
        assert 0.002 < changed.mean() < 0.2


def test_an_edge_is_drawn_where_its_points_project():
    boxes = Boxes.from_axis_aligned([[0, 0, 2, 1, 1, 1]])
    intrinsics = np.array([[100.0, 0, 100], [0, 100, 100], [0, 0, 1]])
    picture = np.asarray(draw_boxes(Image.new("RGB", (201, 201)), boxes, intrinsics, labels=["box"], width=1))
    # by hand: the near face is at depth 1.5, so its edges lie 100 * 0.5 / 1.5 = 33.3 pixels from the middle
    assert (picture[100, [67, 133]] == label_color("box")).all()
    assert (picture[[67, 133], 110] == label_color("box")).all()
    assert not picture[:60].any()


def test_what_is_behind_the_camera_is_cut_off_or_left_out():
    intrinsics = np.array([[100.0, 0, 100], [0, 100, 100], [0, 0, 1]])
    behind = Boxes.from_axis_aligned([[0, 0, -2, 1, 1, 1]])
    assert not np.asarray(draw_boxes(Image.new("RGB", (201, 201)), behind, intrinsics, labels=["box"])).any()
    around = Boxes.from_axis_aligned([[0, 0, 0, 2, 2, 4]])  # the camera is inside; its far face is at depth 2
    picture = np.asarray(draw_boxes(Image.new("RGB", (201, 201)), around, intrinsics, width=1))
    assert (picture[100, [50, 150]] == label_color("")).all()  # 100 * 1 / 2 from the middle
    assert (picture[90, 10] == 0).all()


def test_a_pose_moves_the_picture_not_the_box():
    boxes = Boxes.from_axis_aligned([[0, 0, 2, 1, 1, 1]])
    intrinsics = np.array([[100.0, 0, 100], [0, 100, 100], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, 3] = (0.3, -0.2, 0.1)
    moved = boxes.transform(invert_pose(pose))
    blank = Image.new("RGB", (201, 201))
    assert draw_boxes(blank, boxes, intrinsics, pose) == draw_boxes(blank, moved, intrinsics)
