"""What is left of a finished run: scores, budget, hardware, gates. One small file each, made to be kept.

PAGE/<row>-seed-<s>.json lies beside the page's pictures, in the repository: whoever has it writes the page and compares
new runs with old ones without the models, the records and the logs that it came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from gapmllm.ablation.study import Run, Study
from gapmllm.evaluation import Metric, Report, score_file
from gapmllm.evaluation.captions import MissingCaptionMetrics
from gapmllm.evaluation.headline import METRICS, headline
from gapmllm.run.folder import MODEL
from gapmllm.train.card import CARD
from gapmllm.train.checkpoints import differences
from gapmllm.train.metrics import FILE, read_rows

Scores = dict[str, Metric]
"""By the names of `gapmllm.evaluation.headline`."""
_HARDWARE = re.compile(r"^- hardware: (.*)$", re.MULTILINE)
_DIGITS = 5  # of samples: metres and shares


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(_Part):
    """What a run was trained with, all stages together."""

    steps: float
    clips: float
    questions: float
    frames: float
    """That went through the encoders."""
    hours: float


class _KeptMetric(Metric):
    samples: tuple[float | None, ...] = ()  # these are written: differences of rows need them


class Result(_Part):
    """A finished run."""

    version: Literal[1] = 1
    recipes: dict[str, dict[str, Any]]
    """Stage -> its recipe."""
    test: dict[str, Any]
    """How it was evaluated (`EvalSettings`)."""
    asked: dict[str, tuple[int, int]]
    """Task -> records and scenes."""
    scores: dict[str, dict[str, _KeptMetric]]
    """Of the model and of each baseline, by the names of `headline`, with their bootstrap samples."""
    notes: tuple[str, ...]
    """What a reader of the scores has to know."""
    budget: Budget
    hardware: tuple[str, ...]
    """What its stages were trained on."""
    gates: tuple[dict[str, Any], ...] | str | None = None
    """The table of its gates (`gate_maps`), or in words why there is none; None: not wanted."""


def keep(study: Study, run: Run) -> None:
    """Write what is kept of a run that is trained and evaluated."""
    test = study.settings.test
    reports = {who: _reports(run.evaluation / who) for who in (MODEL, *test.baselines)}
    result = Result(
        recipes=_recipes(run),
        test=test.model_dump(mode="json"),
        asked={task: (report.records, report.scenes) for task, report in reports[MODEL].items() if report},
        scores={who: _kept(found) for who, found in reports.items()},
        notes=tuple(
            f"{task} scores need pycocoevalcap: pip install 'gapmllm[captions]'"
            for task, report in reports[MODEL].items()
            if report is None
        ),
        budget=_budget(run),
        hardware=tuple(_hardware(run)),
        gates=_gates(study, run) if (run.row, run.seed) == (study.settings.gates, study.settings.seeds[0]) else None,
    )
    whole(run.kept, result.model_dump_json() + "\n")


def result_of(run: Run) -> Result | None:
    """What is kept of a run, None if it is not finished. ValueError for a file that is none, or of another run."""
    return _read(run.kept, run.kept.stat().st_mtime_ns) if run.is_done else None


@cache
def _read(path: Path, _changed: int) -> Result:
    try:
        return Result.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{path} is no result of a run ({place}: {first['msg']}): delete it to run it again"
        ) from error


def check_same(study: Study, run: Run) -> None:
    """ValueError for a finished run of another recipe or evaluation: what differs, and what to do."""
    found = result_of(run)
    if found is None:
        return
    changed = {
        f"recipe ({stage})": differences(found.recipes.get(stage, {}), recipe, ("out",))
        for stage, recipe in _recipes(run).items()
    }
    changed["evaluation"] = differences(found.test, study.settings.test.model_dump(mode="json"))
    for what, lines in changed.items():
        if lines:
            raise ValueError(
                "\n  ".join([f"{run.kept} belongs to another {what}", *lines])
                + "\nDelete it, and the run's folder, to run it again, or give the study another report"
            )


def _recipes(run: Run) -> dict[str, dict[str, Any]]:
    return {stage: recipe.model_dump(mode="json") for stage, recipe in run.recipes.items()}


@dataclass(frozen=True)
class Column:
    """A row of the study as the tables show it, or a baseline of one."""

    name: str
    title: str
    results: tuple[Result, ...]
    """Of its finished runs, in the order of seeds."""
    wanted: int
    """Seeds of the study."""
    scores: dict[str, list[Metric]]
    """Metric -> of each of these runs; without a value where a run does not have it."""

    @property
    def state(self) -> str:
        """In words, where it is not complete; else empty."""
        done = len(self.results)
        return "" if done == self.wanted else f"{done} of {self.wanted} seeds" if done else "not run yet"


def column_of(study: Study, row: str, who: str = MODEL) -> Column:
    """A row; who: of its evaluation's baselines one."""
    results = tuple(result for run in study.of(row) if (result := result_of(run)))
    found = [result.scores.get(who, {}) for result in results]
    names = dict.fromkeys(name for scores in found for name in scores)
    own = who == MODEL
    return Column(
        name=row if own else f"{row}: {who}",  # no row has this name
        title=study.settings.rows[row].title if own else f"the baseline `{who}`",
        results=results,
        wanted=len(study.settings.seeds),
        scores={name: [scores.get(name, Metric(value=None)) for scores in found] for name in names},
    )


def scores_of(folder: Path) -> Scores:
    """The headline scores of a folder of records, with their bootstrap samples."""
    return _headlines(_reports(folder))


def _headlines(reports: Mapping[str, Report | None]) -> Scores:
    return {
        name: metric
        for task, report in reports.items()
        if report is not None
        for name, metric in headline(task, report.metrics).items()
    }


def _kept(reports: Mapping[str, Report | None]) -> dict[str, _KeptMetric]:
    return {
        name: _KeptMetric(
            value=metric.value,
            low=metric.low,
            high=metric.high,
            samples=tuple(None if value is None else round(value, _DIGITS) for value in metric.samples),
        )
        for name, metric in _headlines(reports).items()
    }


def _reports(folder: Path) -> dict[str, Report | None]:
    """By task; None for captions without the package that scores them."""
    found: dict[str, Report | None] = {}
    for task in METRICS:
        path = folder / f"{task}.jsonl"
        if path.exists():
            try:
                found[task] = score_file(path, task, with_meteor=False)
            except MissingCaptionMetrics:
                found[task] = None
    return found


def check_comparable(runs: Iterable[Run]) -> None:
    """ValueError where finished runs were asked other questions."""
    sizes: dict[str, tuple[int, int]] = {}
    for run in runs:
        for task, size in (result.asked if (result := result_of(run)) else {}).items():
            if sizes.setdefault(task, size) != size:
                own, first = ("{} records of {} scenes".format(*each) for each in (size, sizes[task]))
                raise ValueError(
                    f"{run.kept} has {own} for {task}, the first run {first}: they cannot be compared. "
                    "Delete the one that is old, and run the study again"
                )


def mean_budget(results: Collection[Result]) -> Budget:
    """The mean over runs."""
    values = [vars(result.budget) for result in results]
    return Budget(**{name: sum(value[name] for value in values) / len(values) for name in values[0]})


def _budget(run: Run) -> Budget:
    """From its logs."""
    logs = [(recipe.batch, list(read_rows(Path(recipe.out) / FILE))) for recipe in run.recipes.values()]
    rows = [row for _, log in logs for row in log]
    return Budget(
        steps=len(rows),
        clips=sum(batch * len(log) for batch, log in logs),
        questions=sum(row["questions"] for row in rows),
        frames=sum(row["frames"] for row in rows),
        hours=sum(row["seconds"] for row in rows) / 3600,
    )


def _hardware(run: Run) -> list[str]:
    """As the cards of its models say."""
    cards = [Path(recipe.out) / CARD for recipe in run.recipes.values()]
    found = (_HARDWARE.search(card.read_text(encoding="utf-8")) for card in cards if card.exists())
    return sorted({match[1] for match in found if match})


def gates_picture(study: Study) -> Path:
    """Where the gate maps are drawn."""
    return study.settings.beside / "gates.png"


def _gates(study: Study, run: Run) -> tuple[dict[str, Any], ...] | str:
    from gapmllm.ablation.gates import gate_maps

    test, picture = study.settings.test, gates_picture(study)
    picture.parent.mkdir(parents=True, exist_ok=True)
    try:
        return tuple(gate_maps(run.model, test.data, test.split, picture))
    except ValueError as error:
        return str(error)


def whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # processes may share a study
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)
