"""Detection scores: numbers by hand, and the recorded results of independent code."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gapmllm.evaluation import CLASS_LISTS, DetectionRecord, RecordError
from gapmllm.evaluation.detection import _Measure, _Tally, average_precision, score_detection

BOX = (0, 0, 2, 1, 1, 1, 0, 0, 0)


def item(label, x=0.0):
    return {"label": label, "bbox_3d": [x, *BOX[1:]]}


def record(truth, answer, scene="room", **more):
    """A record whose answer is a list of objects, or a text as it stands, or None."""
    text = answer if answer is None or isinstance(answer, str) else json.dumps(answer)
    values = {
        "version": 1,
        "task": "detection",
        "id": str(record.count),
        "scene": scene,
        "answer": text,
        "truth": truth,
    }
    record.count += 1
    conventions = {"truth_convention": "zxy", "answer_convention": "zxy"}
    return DetectionRecord.model_validate_json(json.dumps({**values, **conventions, **more}))


record.count = 0


def row(report, name, threshold=0.25):
    (found,) = [r for r in report.tables["per_class"] if r["class"] == name and r["iou"] == threshold]
    return found


def counts(report, name, threshold=0.25):
    return tuple(row(report, name, threshold)[key] for key in ("tp", "fp", "fn"))


def test_counts_by_hand():
    truth = [item("chair"), item("chair", 5), item("bed", 9)]
    # chairs moved by 0.5 and 0.2: IoU 0.5 / 1.5 = 0.33 and 0.8 / 1.2 = 0.67; the bed is taken for a lamp
    report = score_detection([record(truth, [item("chair", 0.5), item("chair", 5.2), item("lamp", 9)])])
    assert counts(report, "chair") == (2, 0, 0)
    assert counts(report, "chair", 0.5) == (1, 1, 1)
    assert counts(report, "bed") == (0, 0, 1)
    assert counts(report, "lamp") == (0, 1, 0)
    assert report.metrics["f1[present]@0.25"].value == pytest.approx(0.5)  # chair 1, bed 0
    assert report.metrics["f1[8]@0.25"].value == pytest.approx(1 / 8)
    assert report.metrics["recall[20]@0.25"].value == pytest.approx(1 / 20)
    assert report.metrics["f1[31-released]@0.25"].value == pytest.approx(1 / 31)
    assert report.metrics["f1[31-corrected]@0.25"].value == pytest.approx(1 / 30)


def test_the_lists_are_the_released_ones_and_a_corrected_one(golden_json):
    released = golden_json("detection_metrics/categories.json")
    assert [list(CLASS_LISTS[name]) for name in ("8", "20", "31-released")] == [
        released[name] for name in ("cate8", "cate20", "cate31")
    ]
    corrected = CLASS_LISTS["31-corrected"]
    assert len(corrected) == len(set(corrected)) == 30
    assert set(corrected) - set(released["cate31"]) == {"towel"}


def test_an_overlap_of_exactly_the_threshold_is_no_match():
    half = {"label": "chair", "bbox_3d": [0, 0, 2, 1, 1, 0.5, 0, 0, 0]}  # within the true box: IoU 0.5
    assert counts(score_detection([record([item("chair")], [half])]), "chair", 0.5) == (0, 1, 1)


def test_claims_match_in_the_order_written_without_scores_and_by_score_with_them():
    far, near = item("chair", 0.5), item("chair", 0.1)
    without = score_detection([record([item("chair")], [far, near])])
    assert counts(without, "chair", 0.5) == (1, 1, 0)  # far takes nothing at 0.5, so near may
    assert counts(without, "chair", 0.25) == (1, 1, 0)
    assert "mAP[present]@0.25" not in without.metrics
    assert without.notes == ("no AP: 1 of 1 records have no scores",)
    by_score = score_detection([record([item("chair")], [far, near], scores=[0.2, 0.9])])
    assert row(by_score, "chair")["ap"] == 1.0  # near comes first and is right
    reverse = score_detection([record([item("chair")], [far, near], scores=[0.9, 0.2])])
    assert row(reverse, "chair", 0.5)["ap"] == 0.5  # wrong, then right


def test_each_true_box_is_used_once():
    report = score_detection([record([item("chair")], [item("chair"), item("chair", 0.01)])])
    assert counts(report, "chair") == (1, 1, 0)


def test_average_precision_by_hand():
    # right, wrong, right of 4 true ones: recall 1/4, 1/4, 2/4 at precision 1, 1/2, 2/3
    ap = average_precision(np.array([0.25, 0.25, 0.5]), np.array([1, 0.5, 2 / 3]))
    assert ap == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)


def test_precision_recall_curves_are_interpolated():
    report = score_detection(
        [
            record(
                [item("chair"), item("chair", 5)],
                [item("chair"), item("chair", 9), item("chair", 5)],
                scores=[0.9, 0.8, 0.7],
            )
        ]
    )
    curve = report.curves["chair@0.25"]
    assert curve["precision"][0] == curve["precision"][50] == 1.0
    assert curve["precision"][51] == curve["precision"][100] == pytest.approx(2 / 3)
    assert row(report, "chair")["ap"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_unreadable_and_missing_answers_are_misses():
    truth = [item("chair")]
    report = score_detection([record(truth, "no idea"), record(truth, None), record(truth, truth), record([], "[]")])
    assert counts(report, "chair") == (1, 0, 2)
    assert report.readings["answer"] == {"strict": 2, "lenient": 0, "unreadable": 1, "missing": 1}
    assert report.problems == {"nothing": 1}


def test_nothing_there_and_nothing_claimed():
    report = score_detection([record([], "[]")])
    assert report.tables["per_class"] == []
    assert report.metrics["f1[8]@0.25"].value == 0
    assert report.metrics["f1[present]@0.25"].value is None


def test_an_unusable_box_is_a_false_positive():
    report = score_detection([record([item("chair")], [item("chair"), {"label": "chair", "bbox_3d": [1, 2]}])])
    assert counts(report, "chair") == (1, 1, 0)


def test_labels_compare_without_case_except_to_the_released_reader():
    records = [record([item("Coffee  table")], [item(" coffee table")])]
    assert counts(score_detection(records), "coffee table") == (1, 0, 0)
    assert counts(score_detection(records, reader="released"), "Coffee  table") == (0, 0, 1)


def test_scores_must_fit_the_objects():
    with pytest.raises(RecordError, match="1 scores for 2 objects"):
        score_detection([record([], [item("chair"), item("bed")], scores=[0.5])])


def test_scores_stay_with_their_objects_when_one_between_them_is_unusable():
    broken, nameless = {"label": "chair", "bbox_3d": [1]}, {"bbox_3d": list(BOX)}
    answer = [broken, nameless, item("chair", 9), item("chair")]
    report = score_detection([record([item("chair")], answer, scores=[0.1, 0.9, 0.2, 0.8])])
    assert row(report, "chair")["ap"] == 1  # the right one has the best score of the chairs
    assert counts(report, "chair") == (1, 2, 0)
    assert {r["class"] for r in report.tables["per_class"]} == {"chair"}


def test_the_mixed_pair_of_the_released_evaluators_has_a_name():
    turned = {"label": "chair", "bbox_3d": [0, 0, 2, 2, 0.5, 1, 0.5, 0.9, -0.7]}
    moved = {"label": "chair", "bbox_3d": [0, 0, 2, 2, 0.5, 1, 0.9, 0.9, -0.7]}
    fair, mixed = (score_detection([record([turned], [moved])], euler=euler) for euler in ("stated", "released"))
    # Both turn the box by 0.4 about z; only about which z differs, and so does the overlap.
    assert fair.euler == "stated"
    assert mixed.euler == "released"
    stated_zxy = score_detection([record([turned], [moved], truth_convention="ZXY", answer_convention="ZXY")])
    assert mixed.tables == stated_zxy.tables
    with pytest.raises(RecordError, match="this record states 'ZXY'"):
        score_detection([record([turned], [moved], truth_convention="ZXY")], euler="released")


def test_the_released_reader_counts_what_it_could_read():
    one_line = json.dumps([item("chair"), item("bed")])
    report = score_detection([record([item("chair")], one_line), record([item("chair")], [item("chair")])], "released")
    assert report.readings["answer"] == {"strict": 2, "lenient": 0, "unreadable": 0, "missing": 0, "released": 0}
    line = score_detection([record([item("chair")], json.dumps(item("chair")))], "released")
    assert line.readings["answer"]["released"] == 1


def test_labels_that_a_model_invents_cost_a_row_each_and_no_table():
    answer = [item(f"thing {i}") for i in range(500)]
    tally = _Tally("lenient", "stated")
    tally.add([record([item("chair")], answer, scene=f"room {k}") for k in range(2)])
    measure = _Measure(tally)
    assert measure.claimed.shape == (2, 1)
    assert len(measure.per_class()) == 2 * 501
    assert counts(tally.report(), "thing 7") == (0, 2, 0)
    assert counts(tally.report(), "chair") == (0, 0, 2)


def golden_records(golden_json):
    for scene in golden_json("detection_metrics/scenes.json"):
        name = str(scene["scene"])
        conventions = {"truth_convention": "ZXY", "answer_convention": "ZXY"}
        yield scene, record(scene["ground_truth"], scene["prediction_text"], scene=name, **conventions)


@pytest.mark.parametrize("reader", ["lenient", "released"])
def test_golden_scores(golden_json, reader):
    expected = golden_json("detection_metrics/results.json")
    report = score_detection([r for _, r in golden_records(golden_json)], reader)
    for name, values in expected["per_category"].items():
        if values["tp"] + values["fp"] + values["fn"]:
            found = row(report, name)
            assert {key: found[key] for key in values} == pytest.approx(values, abs=1e-12)
    lists = {"cate8": "8", "cate20": "20", "cate31": "31-released"}
    for split, values in expected["splits"].items():
        for metric, value in values.items():
            assert report.metrics[f"{metric}[{lists[split]}]@0.25"].value == pytest.approx(value, abs=1e-12)
    f1 = report.metrics["f1[20]@0.25"]
    assert f1.low < f1.value < f1.high


def test_golden_counts_of_each_scene(golden_json):
    for scene, one in golden_records(golden_json):
        report = score_detection([one], "released")
        found = {
            r["class"]: {k: r[k] for k in ("tp", "fp", "fn")} for r in report.tables["per_class"] if r["iou"] == 0.25
        }
        assert found == scene["expected"]


def test_golden_parsing_counts(golden_json):
    data = golden_json("detection_metrics/parsing.json")
    for case in data["cases"]:
        conventions = {"truth_convention": "ZXY", "answer_convention": "ZXY"}
        report = score_detection([record(data["ground_truth_for_counts"], case["text"], **conventions)], "released")
        found = {
            r["class"]: {k: r[k] for k in ("tp", "fp", "fn")} for r in report.tables["per_class"] if r["iou"] == 0.25
        }
        assert found == case["counts"], case["name"]


def test_the_batch_size_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    truth = [[item(str(rng.choice(["chair", "bed"])), float(rng.uniform(0, 5))) for _ in range(5)] for _ in range(20)]
    records = [record(t, [item(x["label"], x["bbox_3d"][0] + float(rng.normal(0, 0.3))) for x in t]) for t in truth]
    whole = score_detection(records)
    monkeypatch.setattr("gapmllm.evaluation.records.BATCH", 3)
    assert score_detection(records) == whole
