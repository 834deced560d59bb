"""Point scores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gapmllm.evaluation import PointsRecord
from gapmllm.evaluation.points import aligned_cloud_distances, cloud_distances, score_points

TRUTH = [[0, 0, 2], [1, 0, 2], [0, 1, 2], [0, 0, 3]]


def record(number, answer, scene="room", truth=None, label="chair", **more):
    point = {"pointmap": TRUTH[number % 4] if truth is None else truth, "label": label}
    values = {
        "version": 1,
        "task": "points",
        "id": f"{scene}{number}",
        "scene": scene,
        "answer": answer,
        "truth": point,
    }
    return PointsRecord.model_validate_json(json.dumps({**values, **more}))


def answer(point, label="chair"):
    return json.dumps({"label": label, "pointmap": list(point)})


def value(report, name):
    return report.metrics[name].value


def test_scores_by_hand():
    # errors 0, 0.2, 0.4, and one answer that cannot be read
    records = [
        record(0, answer([0, 0, 2])),
        record(1, answer([1, 0.2, 2], "Chair ")),
        record(2, answer([0, 1, 2.4], "bed")),
        record(3, "somewhere"),
    ]
    report = score_points(records)
    assert value(report, "median_error") == pytest.approx(0.3)  # of 0, 0.2, 0.4, infinity
    assert value(report, "mean_error_of_read") == pytest.approx(0.2)
    assert value(report, "read") == 0.75
    assert [value(report, f"within_{d}m") for d in (0.1, 0.25, 0.5)] == [0.25, 0.5, 0.75]
    assert value(report, "label_accuracy") == 0.5
    assert report.readings["answer"] == {"strict": 3, "lenient": 0, "unreadable": 1, "missing": 0}
    # raw cloud: predicted to truth 0, 0.2, 0.4; truth to predicted 0, 0.2, 0.4, and (0, 0, 3) is 1 from (0, 0, 2)
    assert value(report, "accuracy[raw]") == pytest.approx(0.2)
    assert value(report, "completion[raw]") == pytest.approx(0.4)
    assert value(report, "overall[raw]") == pytest.approx(0.3)
    assert report.tables["per_scene"][0]["points"] == 4


def test_alignment_takes_out_scale_and_motion():
    records = [record(i, answer((2.0 * np.array(p) + 1).tolist())) for i, p in enumerate(TRUTH)]
    report = score_points(records)
    assert value(report, "accuracy[raw]") > 0.5
    assert value(report, "accuracy[aligned]") == pytest.approx(0, abs=1e-9)


def test_more_misses_than_answers_leave_no_median():
    report = score_points([record(0, answer([0, 0, 2])), record(1, None), record(2, None)])
    assert value(report, "median_error") is None
    assert value(report, "within_0.1m") == pytest.approx(1 / 3)


def test_scenes_without_a_cloud_are_counted():
    records = [
        record(0, None, "a"),
        record(0, answer([0, 0, 2]), "b"),
        *(record(i, answer(p), "c") for i, p in enumerate(TRUTH)),
    ]
    report = score_points(records)
    assert report.notes == (
        "1 of 3 scenes have no raw cloud: no readable point",
        "2 of 3 scenes have no aligned cloud: fewer than 3 readable points, or all on one line",
    )
    assert report.tables["per_scene"][0]["accuracy[raw]"] is None


def test_points_of_different_cameras_meet_in_the_frame_of_the_scene():
    moved = np.eye(4)
    moved[0, 3] = 5
    records = [
        record(0, answer([0, 0, 2]), truth=[0, 0, 2]),
        record(1, answer([-5, 0, 2.5]), truth=[-5, 0, 2.5], camera_to_world=moved.tolist()),
    ]
    swapped = [records[0], record(1, answer([0, 0, 2]), truth=[-5, 0, 2.5], camera_to_world=moved.tolist())]
    assert value(score_points(records), "accuracy[raw]") == 0
    assert value(score_points(swapped), "accuracy[raw]") == pytest.approx(np.sqrt(25 + 0.25) / 2, abs=0.3)


def test_a_label_that_is_unknown_or_missing():
    records = [record(0, answer([0, 0, 2]), label=None), record(1, '{"pointmap": [1, 0, 2]}')]
    assert value(score_points(records), "label_accuracy") == 0
    assert value(score_points(records[:1]), "label_accuracy") is None


def test_the_released_reader_wants_one_line():
    pretty = json.dumps({"label": "chair", "pointmap": [0, 0, 2]}, indent=1)
    assert value(score_points([record(0, pretty)]), "read") == 1
    assert value(score_points([record(0, pretty)], "released"), "read") == 0
    assert value(score_points([record(0, answer([0, 0, 2]))], "released"), "label_accuracy") == 1


def test_golden_clouds(golden, golden_json):
    points = np.load(golden / "pointmap_metrics" / "points.npz")
    for pair in golden_json("pointmap_metrics/results.json")["pairs"]:
        predicted, truth = points[f"pred_{pair['pair']}"], points[f"gt_{pair['pair']}"]
        before = cloud_distances(predicted, truth)
        after = aligned_cloud_distances(predicted[: pair["matched_points"]], truth)
        assert before == pytest.approx(pair["before_alignment"], abs=1e-6)
        assert after == pytest.approx(pair["after_alignment"], abs=1e-6)
