"""Calibration: temperatures that can be computed by hand, what is right in each task, and the picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gapmllm.evaluation import RecordError, score_file
from gapmllm.evaluation.calibration import BINS, HIGHEST, LEAST, calibrate, judged
from gapmllm.viz.reliability import AFTER, BEFORE, reliability_plot

# Ten answers with probability 0.2, two of them right, and ten with 0.8, eight of them right: these mean what they say.
HONEST = np.repeat([0.2, 0.8], 10)
RIGHT = np.arange(20) % 10 < HONEST * 10

BOX, FAR = [0, 0, 2, 1, 1, 1, 0, 0, 0], [9, 9, 9, 1, 1, 1, 0, 0, 0]
COMMON = {"version": 1, "scene": "room", "truth_convention": "zxy", "answer_convention": "zxy"}


def moved(x):
    """The box, moved along x: with the other it has IoU (1 - x) / (1 + x)."""
    return [x, *BOX[1:]]


def written(path, rows):
    path.write_text("".join(json.dumps({**row, "id": str(i)}) + "\n" for i, row in enumerate(rows)), encoding="utf-8")
    return path


def test_honest_scores_stay_as_they_are():
    found = calibrate(HONEST, RIGHT)
    assert found.temperature == pytest.approx(1, abs=1e-4)
    assert (found.count, found.right) == (20, 10)
    assert [(bin.count, bin.score, bin.right) for bin in found.before.bins] == [
        (10, pytest.approx(0.2), 0.2),
        (10, pytest.approx(0.8), 0.8),
    ]
    for fit in (found.before, found.after):
        assert fit.ece == pytest.approx(0, abs=1e-4)
        assert fit.brier == pytest.approx(0.2 * 0.8, abs=1e-4)
        assert fit.log_loss == pytest.approx(-0.2 * np.log(0.2) - 0.8 * np.log(0.8), abs=1e-4)


@pytest.mark.parametrize("power", [0.25, 0.5, 3])
def test_the_temperature_undoes_a_power(power):
    # s = p^power; log p = log(s) / T with T = power
    found = calibrate(HONEST**power, RIGHT)
    assert found.temperature == pytest.approx(power, rel=1e-4)
    assert found.before.ece == pytest.approx(np.abs(HONEST**power - HONEST).mean())
    assert found.after.ece == pytest.approx(0, abs=1e-4)
    assert found.after.log_loss < found.before.log_loss
    assert found.after.brier < found.before.brier


def test_scores_that_have_a_temperature_already():
    # at temperature 2 they are honest; at temperature 1 they were the squares
    found = calibrate(HONEST, RIGHT, temperature=2)
    assert found.temperature == pytest.approx(2, rel=1e-4)
    again = calibrate(HONEST**2, RIGHT)
    assert again.temperature == pytest.approx(found.temperature)
    assert again.after.log_loss == pytest.approx(found.after.log_loss)


def test_no_temperature_has_less_log_loss():
    rng = np.random.default_rng(0)
    scores, right = rng.random(300), rng.random(300) < 0.4
    found = calibrate(scores, right)
    for factor in (0.9, 1.1):
        other = calibrate(scores ** (1 / (found.temperature * factor)), right)
        assert other.before.log_loss > found.after.log_loss
        assert other.temperature * found.temperature * factor == pytest.approx(found.temperature, rel=1e-3)


def test_bins_are_of_equal_counts_and_equal_scores_stay_together():
    scores, right = np.linspace(0.1, 0.9, 60), np.arange(60) % 2 == 0
    assert [bin.count for bin in calibrate(scores, right).after.bins] == [4] * BINS
    scores[10:50] = 0.5
    order = np.random.default_rng(0).permutation(60)
    found = calibrate(scores, right)
    assert 40 <= max(bin.count for bin in found.before.bins) <= 44
    assert [bin.count for bin in found.before.bins] == [bin.count for bin in found.after.bins]
    shuffled = calibrate(scores[order], right[order])
    assert shuffled.after.ece == pytest.approx(found.after.ece)


def test_scores_of_exactly_0_and_1_do_no_harm():
    scores = np.repeat([0.0, 0.5, 1.0], 10)
    right = np.arange(30) % 10 < 5
    found = calibrate(scores, right)
    assert 1 / HIGHEST <= found.temperature <= HIGHEST
    assert np.isfinite([found.before.log_loss, found.after.log_loss]).all()


@pytest.mark.parametrize(
    ("scores", "right", "temperature", "message"),
    [
        (HONEST[: LEAST - 1], RIGHT[: LEAST - 1], 1, "19 answers with a score, 10 of them right: .* needs 20 answers"),
        ([], [], 1, "0 answers with a score, 0 of them right"),
        (HONEST, np.ones(20, bool), 1, "20 of them right: .* some right and some wrong"),
        (HONEST, np.zeros(20, bool), 1, "0 of them right: .* some right and some wrong"),
        (HONEST, RIGHT[:5], 1, r"as many truths are needed, got \(20,\) and \(5,\)"),
        (HONEST * 2, RIGHT, 1, "between 0 and 1"),
        (HONEST * np.nan, RIGHT, 1, "between 0 and 1"),
        (HONEST, RIGHT, 0, "above 0, got 0"),
    ],
)
def test_what_determines_no_temperature_is_told(scores, right, temperature, message):
    scores, right = np.array(scores), np.array(right)
    order = np.argsort(-right.astype(int), kind="stable") if len(scores) == len(right) else slice(None)
    with pytest.raises(ValueError, match=message):
        calibrate(scores[order], right[order], temperature)


def test_a_detection_is_right_as_the_score_says(tmp_path):
    def answer(*objects):
        return json.dumps([{"label": label, "bbox_3d": box} for label, box in objects])

    truth = [{"label": "chair", "bbox_3d": BOX}]
    row = COMMON | {"task": "detection", "truth": truth}
    path = written(
        tmp_path / "a.jsonl",
        [
            row | {"answer": answer(("Chair", moved(0.5)), ("chair", BOX)), "scores": [0.3, 0.9]},  # the surer has it
            row | {"answer": answer(("bed", BOX), ("chair", moved(0.7))), "scores": [0.8, 0.7]},  # IoU 0.3 / 1.7
            row | {"answer": "[]", "scores": []},
            row | {"answer": answer(("chair", BOX))},  # without a score
        ],
    )
    scores, right = judged(path, "detection")
    assert scores.tolist() == [0.3, 0.9, 0.8, 0.7]
    assert right.tolist() == [False, True, False, False]
    written(path, [row | {"answer": "[]", "scores": []}, row | {"answer": "[]", "scores": [0.5]}])
    with pytest.raises(RecordError, match=r"a.jsonl:2: 1 scores for 0 objects"):
        judged(path, "detection")


def test_a_grounding_is_right_as_the_accuracy_says(tmp_path):
    row = COMMON | {"task": "grounding", "truth": BOX}
    boxes = [BOX, moved(0.59), moved(0.61), FAR]  # IoU 1, 0.258, 0.242, 0
    rows = [row | {"answer": json.dumps({"bbox_3d": box}), "score": i / 10} for i, box in enumerate(boxes)]
    path = written(tmp_path / "a.jsonl", [*rows, row | {"answer": "nothing", "score": 0.9}])
    scores, right = judged(path, "grounding")
    assert scores.tolist() == [0, 0.1, 0.2, 0.3, 0.9]
    assert right.tolist() == [True, True, False, False, False]
    assert right.mean() == score_file(path, "grounding").metrics["acc[overall]@0.25"].value
    assert [len(part) for part in judged(written(path, [row]), "grounding")] == [0, 0]


def test_a_point_is_right_whatever_its_label(tmp_path):
    row = {"version": 1, "scene": "room", "task": "points", "truth": {"pointmap": [0, 0, 2], "label": "chair"}}
    answers = [
        {"label": "bed", "pointmap": [0, 0.2, 2.1]},
        {"label": "chair", "pointmap": [0, 0.2, 2.2]},
        {"label": "chair"},
    ]
    rows = [row | {"answer": json.dumps(answer), "score": 0.5} for answer in answers]
    path = written(tmp_path / "a.jsonl", [*rows, row | {"answer": None, "score": 0.1}])
    scores, right = judged(path, "points")
    assert scores.tolist() == [0.5, 0.5, 0.5, 0.1]
    assert right.tolist() == [True, False, False, False]
    assert right.mean() == score_file(path, "points").metrics["within_0.25m"].value


def test_captions_have_no_scores(tmp_path):
    with pytest.raises(ValueError, match="no scores are made for task 'caption', choose from detection, grounding"):
        judged(tmp_path / "a.jsonl", "caption")


def dots(picture, color):
    """x and y of the pixels of exactly this colour, without the legend above and the texts to the left and below."""
    pixels = np.asarray(picture).astype(int)
    rows, columns = np.nonzero((np.abs(pixels - np.rint(np.array(color) * 255)) <= 2).all(axis=-1))
    keep = (rows > 0.25 * len(pixels)) & (rows < 0.85 * len(pixels)) & (columns > 0.17 * pixels.shape[1])
    return columns[keep], rows[keep]


def test_the_plot_shows_before_and_after():
    found = calibrate(HONEST**0.5, RIGHT)
    alone = reliability_plot({"points": found})
    assert reliability_plot({"points": found, "detection": found}).width == 2 * alone.width
    (before_x, before_y), (after_x, after_y) = dots(alone, BEFORE), dots(alone, AFTER)
    # the same bins, so the same heights; the scores were too high, so those before lie to the right
    assert before_x.min() > after_x.min() + 50
    assert before_y.max() == pytest.approx(after_y.max(), abs=3)
    shown = reliability_plot({"points": calibrate(HONEST, RIGHT)})
    assert len(dots(shown, BEFORE)[0]) < len(before_x) / 5  # hidden behind those after
    with pytest.raises(ValueError, match="one calibration at least, got none"):
        reliability_plot({})
