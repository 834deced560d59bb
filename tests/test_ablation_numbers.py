"""Means over seeds, differences and verdicts, on records with a known difference, and with none; the picture."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from test_ablation import TWO_ROWS, study_in

from gapmllm.ablation.numbers import difference, mean_of, verdict
from gapmllm.ablation.page import write_page
from gapmllm.ablation.plot import REFERENCE, rows_plot
from gapmllm.ablation.results import keep, scores_of
from gapmllm.ablation.study import read_study
from gapmllm.ablation.words import sentence, summary
from gapmllm.evaluation import Metric, PointsRecord, write_records
from gapmllm.evaluation.markdown import cell
from gapmllm.evaluation.report import with_intervals

SCENES = 40
MEDIAN, LABELS = "points/median_error", "points/label_accuracy"


def records(errors, right):
    """One question a scene: the true point is (1, 0, 0), the answer so many metres beside it."""
    for scene, (error, is_right) in enumerate(zip(errors, right, strict=True)):
        label = "chair" if is_right else "desk"
        yield PointsRecord(
            version=1,
            task="points",
            id=str(scene),
            scene=f"scene {scene}",
            answer=f'{{"pointmap": [{1 + error:.3f}, 0.000, 0.000], "label": "{label}"}}',
            truth={"pointmap": (1.0, 0.0, 0.0), "label": "chair"},
        )


def scored(folder, errors, right=None):
    folder.mkdir(parents=True)
    write_records(folder / "points.jsonl", list(records(errors, np.ones(len(errors)) if right is None else right)))
    return scores_of(folder)


def of_scenes(values) -> Metric:
    """The mean of one value a scene, with its bootstrap samples."""
    values = np.asarray(values)
    return with_intervals(lambda draw: {"mean": float(values[draw].mean())}, len(values))["mean"]


@pytest.fixture
def scene_effects():
    """What scenes differ by: far more than rows do."""
    return np.random.default_rng(0).uniform(0, 2, SCENES)


# ---- means over seeds


def test_the_mean_of_one_seed_is_that_of_its_report(scene_effects):
    one = of_scenes(scene_effects)
    assert len(one.samples) == 1000
    assert "samples" not in one.model_dump_json()
    found = mean_of([one])
    assert (found.value, found.low, found.high) == (one.value, one.low, one.high)
    # by hand: the standard error of a mean of 40 values
    error = scene_effects.std() / np.sqrt(SCENES)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_seeds_that_differ_make_the_interval_wider():
    """All scenes alike: what is left is the spread of the seeds, 0.1 about their mean, by hand."""
    seeds = [of_scenes(np.full(SCENES, value)) for value in np.linspace(0.4, 0.6, 21)]
    found = mean_of(seeds)
    assert found.value == pytest.approx(0.5)
    spread = np.linspace(0.4, 0.6, 21).std(ddof=1) / np.sqrt(21)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    alike = mean_of([of_scenes(np.full(SCENES, 0.5))] * 3)
    assert (alike.low, alike.high) == (0.5, 0.5)


def test_three_seeds_spread_as_three_do():
    """The variance of drawn means is 2/3 of what it should be without the factor; by hand for -1, 0, 1."""
    samples = mean_of([of_scenes(np.full(SCENES, float(value))) for value in (-1, 0, 1)]).samples
    assert np.var(samples) == pytest.approx(1 / 3, rel=0.15)  # variance 1 over 3 seeds


def test_what_is_not_defined_has_no_number():
    some, none = of_scenes(np.arange(5.0)), Metric(value=None)
    assert mean_of([some, none]) == Metric(value=None)
    assert difference([none], [some]) == Metric(value=None)
    assert mean_of([Metric(value=1.0), Metric(value=2.0)]) == Metric(value=1.5)  # one scene: no interval


# ---- verdicts


def test_a_small_difference_in_all_scenes_is_found_though_scenes_differ_more(scene_effects, tmp_path):
    rng = np.random.default_rng(1)
    row, reference = (
        [scored(tmp_path / f"{shift}{seed}", scene_effects + shift + rng.normal(0, 0.01, SCENES)) for seed in range(3)]
        for shift in (0.3, 0.5)
    )
    ours, theirs = ([scores[MEDIAN] for scores in some] for some in (row, reference))
    found = difference(ours, theirs)
    assert found.value == pytest.approx(-0.2, abs=0.02)
    assert verdict(MEDIAN, found) == "better"  # an error: less is better
    assert verdict(MEDIAN, difference(theirs, ours)) == "worse"
    assert verdict(LABELS, found) == "worse"  # the same number of what should be more
    one, other = mean_of(ours), mean_of(theirs)
    assert other.low < one.high  # not paired, nothing would be decided


def test_no_difference_is_undecided(scene_effects):
    """Rows that differ by nothing but noise: of 40 pairs few may look decided. 5 % are meant to, and seeds are few."""
    wrong = 0
    for number in range(40):
        rng = np.random.default_rng(number)
        row, reference = ([of_scenes(scene_effects + rng.normal(0, 0.3, SCENES)) for _ in range(3)] for _ in range(2))
        wrong += verdict("x", difference(row, reference)) != "undecided"
    assert wrong <= 5


def test_a_difference_that_is_smaller_than_that_of_seeds_is_undecided(scene_effects):
    shifts = np.array([-0.3, 0.0, 0.3])
    row, reference = ([of_scenes(scene_effects + mean + shift) for shift in shifts] for mean in (0.1, 0.0))
    assert verdict("x", difference(row, reference)) == "undecided"
    assert verdict("x", difference(row[1:2], reference[1:2])) == "better"  # one seed each: as if seeds were all alike


def test_an_interval_that_ends_at_0_is_undecided():
    assert verdict("x", Metric(value=0.1, low=0.0, high=0.2)) == "undecided"
    assert verdict("x", Metric(value=0.1)) == "undecided"
    assert verdict("x", Metric(value=0.1, low=0.01, high=0.2)) == "better"


# ---- words


def test_verdicts_in_words():
    up, down = Metric(value=0.04, low=0.01, high=0.07), Metric(value=-0.04, low=-0.07, high=-0.01)
    flat = Metric(value=-0.0001, low=-0.02, high=0.02)
    assert sentence("acc", "paper", {"b": down, "c": up, "d": flat}) == (
        "acc: `paper` is better than `b` by 0.040 [0.010, 0.070]; worse than `c` by 0.040 [0.010, 0.070]; "
        "undecided at this size against `d` (+0.000 [-0.020, 0.020])."
    )
    assert sentence(MEDIAN, "paper", {"b": up}) == (
        "points/median_error (m, less is better): `paper` is better than `b` by 0.040 [0.010, 0.070]."
    )
    assert summary("paper", "b", {"x": down, "y": flat}) == (
        "Against `b`: better in 1 of 2 metrics (x), worse in 0, undecided in 1. "
        "That `paper` is better holds where it is decided."
    )
    nothing = Metric(value=None)
    assert sentence("acc", "paper", {"b": nothing}) == "acc: `paper` is not compared with `b` (no number)."
    assert summary("paper", "b", {"x": down, "y": nothing}).startswith("Against `b`: better in 1 of 1 metrics (x), ")
    assert summary("paper", "b", {"x": up, "y": flat}).endswith("That `paper` is better does not hold here.")
    assert summary("paper", "b", {"x": up, "y": down}).endswith("That `paper` is better holds in part.")
    assert summary("paper", "b", {"y": flat}).endswith("That `paper` is better is not decided at this size.")
    assert cell(Metric(value=-0.0001)) == "0.000"
    assert cell(Metric(value=None)) == "-"


# ---- the page


def test_the_page_says_what_the_records_do(scene_effects, tmp_path):
    """b errs 0.3 m more than a in every scene and names as many things right; c has one seed of two."""
    rows = {name: {"title": f"row {name}", "stages": ["adapt"]} for name in "abc"}
    study = read_study(study_in(tmp_path / "x", rows=rows, tables=[TWO_ROWS | {"rows": ["a", "b", "c"]}]))
    rng, shift = np.random.default_rng(2), {"a": 0.0, "b": 0.3, "c": 0.0}
    for run in study.runs:
        if (run.row, run.seed) != ("c", 1):
            errors = scene_effects + shift[run.row] + rng.normal(0, 0.01, SCENES)
            scored(run.evaluation / "model", errors, rng.random(SCENES) < 0.5)
            keep(study, run)
    write_page(study)
    page = (tmp_path / "x" / "docs" / "page.md").read_text()
    median = next(line for line in page.splitlines() if line.startswith(f"- {MEDIAN}"))
    assert "`a` is better than `b` by 0.3" in median
    assert "undecided at this size against `c`" in median
    assert "**worse**" in next(line for line in page.splitlines() if line.startswith(f"| {MEDIAN}") and "**" in line)
    labels = next(line for line in page.splitlines() if line.startswith(f"- {LABELS}"))
    assert labels.count("undecided at this size") == 2
    assert "| metric | `a` | `b` | `c` (1 of 2 seeds) |" in page
    assert "- `c`: 1 of 2 seeds" in page.split("## What is missing")[1]
    assert f"{SCENES} scenes, {SCENES} of points" in page


def test_runs_that_were_asked_other_questions_are_not_compared(tmp_path):
    study = read_study(study_in(tmp_path / "x"))
    for number, run in enumerate(study.runs):
        scored(run.evaluation / "model", np.ones(3 + (number == 2)))
        keep(study, run)
    with pytest.raises(ValueError, match="4 records of 4 scenes for points, the first run 3 records of 3 scenes"):
        write_page(study)


def test_the_picture_has_a_dot_and_an_interval_for_each_row():
    """The reference in blue, with a band; a row without a number leaves its place empty; light ground."""
    numbers = {"x": {"a": Metric(value=0.2, low=0.1, high=0.3), "b": Metric(value=0.8, low=0.7, high=0.9)}}
    image = np.asarray(Image.open(BytesIO(rows_plot(numbers, ["a", "b", "c"], "a"))).convert("RGB")).astype(int)
    blue = np.abs(image - np.array(REFERENCE) * 255).sum(axis=2) < 12
    dark = np.abs(image - 0.25 * 255).sum(axis=2) < 12
    assert blue.sum() > 50
    assert dark.sum() > 50
    assert np.argwhere(blue)[:, 0].mean() < np.argwhere(dark)[:, 0].mean()  # the first row on top
    left, right = (np.median(np.argwhere(pixels)[:, 1]) for pixels in (blue, dark))
    assert left < right
    assert (image > 240).all(axis=2).mean() > 0.8
    assert rows_plot(numbers, ["a", "b", "c"], "a") == rows_plot(numbers, ["a", "b", "c"], "a")
    with pytest.raises(ValueError, match="one metric at least"):
        rows_plot({}, ["a"], "a")
