"""Grounding scores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gapmllm.evaluation import GroundingRecord
from gapmllm.evaluation.grounding import score_grounding

BOX = [0, 0, 2, 1, 1, 1, 0, 0, 0]


def record(number=0, answer=None, scene="room", **more):
    values = {"version": 1, "task": "grounding", "id": str(number), "scene": scene, "truth": BOX}
    values |= {"truth_convention": "zxy", "answer_convention": "zxy", "answer": answer, **more}
    return GroundingRecord.model_validate_json(json.dumps(values))


def answer(x=0.0, **more):
    return json.dumps({**more, "bbox_3d": [x, *BOX[1:]]})


def value(report, name):
    return report.metrics[name].value


def test_scores_by_hand():
    # boxes moved by 0, 0.2, 0.5, and one answer missing: IoU 1, 2/3, 1/3, 0
    records = [record(i, a) for i, a in enumerate([answer(), answer(0.2), answer(0.5), None])]
    report = score_grounding(records)
    assert value(report, "mIoU[overall]") == pytest.approx((1 + 2 / 3 + 1 / 3) / 4)
    assert value(report, "acc[overall]@0.25") == 0.75
    assert value(report, "acc[overall]@0.5") == 0.5
    assert report.readings["answer"] == {"strict": 3, "lenient": 0, "unreadable": 0, "missing": 1}
    assert "mIoU[unique]" not in report.metrics
    assert "frame_accuracy" not in report.metrics


def test_an_overlap_of_exactly_the_threshold_is_a_hit():
    half = json.dumps({"bbox_3d": [0, 0, 2, 1, 1, 0.5, 0, 0, 0]})
    assert value(score_grounding([record(answer=half)]), "acc[overall]@0.5") == 1


def test_groups_are_reported_apart():
    records = [
        record(0, answer(), group="unique"),
        record(1, answer(9), group="multiple"),
        record(2, answer(), group="multiple"),
        record(3, answer(9)),
    ]
    report = score_grounding(records)
    assert [value(report, f"acc[{g}]@0.25") for g in ("overall", "unique", "multiple")] == [0.5, 1, 0.5]
    assert report.notes == ("1 of 4 records are neither unique nor multiple",)


def test_refinement_is_reported_apart_and_only_where_every_record_has_proposals():
    proposals = [[0.01, *BOX[1:]], [3, *BOX[1:]]]
    with_all = score_grounding(
        [record(0, answer(0.5), proposals=proposals), record(1, answer(20), proposals=proposals)]
    )
    assert value(with_all, "acc[overall]@0.5") == 0
    assert value(with_all, "acc[overall, refined]@0.5") == 0.5  # no proposal overlaps the second box: it stays
    some = score_grounding([record(0, answer(0.5), proposals=proposals), record(1, answer(0.5))])
    assert "acc[overall, refined]@0.5" not in some.metrics
    assert some.notes == ("no refined scores: 1 of 2 records have no proposals",)


def pose(x):
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix.tolist()


def test_the_box_moves_with_the_pose_of_the_frame_that_is_named():
    poses = [pose(0), pose(10)]
    for text, frame, hit in [
        (answer(-10, frame=1), None, 1),
        (answer(-10), 1, 1),
        (answer(-10, frame=0), 1, 0),  # the answer's own frame counts
        (answer(-10), None, 0),
        (answer(-10, frame=2), None, 0),
    ]:
        report = score_grounding([record(answer=text, camera_to_world=poses, frame=frame)])
        assert value(report, "acc[overall]@0.5") == hit
    assert report.problems == {"frame": 1}


def test_frame_accuracy_counts_step_one_or_the_one_step_answer():
    frames = {"truth_frames": [1, 2]}
    records = [
        record(0, answer(), frame_answer='{"frame": 1}', **frames),
        record(1, answer(), frame_answer="none", **frames),
        record(2, answer(frame=2), **frames),
        record(3, None, **frames),
        record(4, answer(frame=2)),
    ]
    report = score_grounding(records)
    assert value(report, "frame_accuracy") == 0.5
    assert report.readings["frame_answer"] == {"strict": 1, "lenient": 0, "unreadable": 1, "missing": 0}


def golden_record(case, convention):
    poses = [(np.array(case["axis_align_matrix"]) @ np.array(pose)).tolist() for pose in case["cam2global"]]
    return record(
        case["id"],
        case["prediction_text"],
        scene=str(case["id"]),
        truth=case["gt_bbox"],
        truth_convention=convention,
        answer_convention=convention,
        camera_to_world=poses,
    )


@pytest.mark.parametrize(
    ("convention", "euler", "key"), [("ZXY", "stated", "iou"), ("zxy", "released", "legacy_snapshot_iou")]
)
def test_golden_cases(golden_json, convention, euler, key):
    for case in golden_json("scanrefer_eval/cases.json")["cases"]:
        report = score_grounding([golden_record(case, convention)], "released", euler)
        assert value(report, "mIoU[overall]") == pytest.approx(case[key], abs=1e-6), case["kind"]


def test_golden_accuracy(golden_json):
    data = golden_json("scanrefer_eval/cases.json")
    report = score_grounding([golden_record(case, "ZXY") for case in data["cases"]], "released")
    assert value(report, "mIoU[overall]") == pytest.approx(data["accuracy"]["mean_iou"], abs=1e-6)
    assert value(report, "acc[overall]@0.25") * 100 == pytest.approx(data["accuracy"]["iou25"])
    assert value(report, "acc[overall]@0.5") * 100 == pytest.approx(data["accuracy"]["iou50"])


def test_the_lenient_reader_adds_only_the_frame_written_as_text(golden_json):
    for case in golden_json("scanrefer_eval/cases.json")["cases"]:
        iou = value(score_grounding([golden_record(case, "ZXY")]), "mIoU[overall]")
        if case["kind"] == "frame_as_string":
            assert iou > case["iou"] == 0
        else:
            assert iou == pytest.approx(case["iou"], abs=1e-6)
