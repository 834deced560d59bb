"""What the runs of a study have left on disk: scores, budgets, hardware, gate maps."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gapmllm.ablation.study import Run, Study
from gapmllm.evaluation import Metric, Report, score_file
from gapmllm.evaluation.captions import MissingCaptionMetrics
from gapmllm.evaluation.headline import METRICS, headline
from gapmllm.run.folder import MODEL
from gapmllm.train.card import CARD
from gapmllm.train.metrics import FILE, read_rows

Scores = dict[str, Metric]
"""By the names of `gapmllm.evaluation.headline`."""
_HARDWARE = re.compile(r"^- hardware: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Budget:
    """What a run was trained with."""

    steps: float
    clips: float
    questions: float
    frames: float
    """That went through the encoders."""
    hours: float


@dataclass(frozen=True)
class Column:
    """A row of the study as the tables show it, or a baseline of one."""

    name: str
    title: str
    runs: tuple[Run, ...]
    """That are evaluated, in the order of seeds."""
    wanted: int
    """Seeds of the study."""
    scores: dict[str, list[Metric]]
    """Metric -> of each of these runs; without a value where a run does not have it."""

    @property
    def state(self) -> str:
        """In words, where it is not complete; else empty."""
        done = len(self.runs)
        return "" if done == self.wanted else f"{done} of {self.wanted} seeds" if done else "not run yet"


def column_of(study: Study, row: str, who: str = MODEL) -> Column:
    """A row; who: of its evaluation's baselines one."""
    runs = tuple(run for run in study.of(row) if run.is_evaluated)
    found = [scores_of(run.evaluation / who) for run in runs]
    names = dict.fromkeys(name for scores in found for name in scores)
    own = who == MODEL
    return Column(
        name=row if own else f"{row}: {who}",  # no row has this name
        title=study.settings.rows[row].title if own else f"the baseline `{who}`",
        runs=runs,
        wanted=len(study.settings.seeds),
        scores={name: [scores.get(name, Metric(value=None)) for scores in found] for name in names},
    )


def scores_of(folder: Path) -> Scores:
    """The headline scores of a folder of records, with their bootstrap samples."""
    return {
        name: metric
        for task, report in _reports(folder)
        if report is not None
        for name, metric in headline(task, report.metrics).items()
    }


def problems(runs: Iterable[Run]) -> list[str]:
    """What a reader has to know of the records of finished runs. ValueError where runs were asked other questions."""
    notes: set[str] = set()
    sizes: dict[str, str] = {}
    for run in runs:
        for task, report in _reports(run.evaluation / MODEL):
            if report is None:
                notes.add(f"{task} scores need pycocoevalcap: pip install 'gapmllm[captions]'")
                continue
            size = f"{report.records} records of {report.scenes} scenes"
            if sizes.setdefault(task, size) != size:
                raise ValueError(
                    f"{run.evaluation} has {size} for {task}, the first run {sizes[task]}: they cannot be compared. "
                    "Delete the one that is old, and run the study again"
                )
    return sorted(notes)


def asked(runs: Iterable[Run]) -> dict[str, Report]:
    """Task -> the report of any finished run: how many records and scenes there are."""
    for run in runs:
        return {task: report for task, report in _reports(run.evaluation / MODEL) if report is not None}
    return {}


def _reports(folder: Path) -> Iterator[tuple[str, Report | None]]:
    for task in METRICS:
        path = folder / f"{task}.jsonl"
        if path.exists():
            yield task, _report(path, task, path.stat().st_mtime_ns)


@cache
def _report(path: Path, task: str, _changed: int) -> Report | None:
    """None for captions without the package that scores them. Kept: a page is written after each run."""
    try:
        return score_file(path, task, with_meteor=False)
    except MissingCaptionMetrics:
        return None


def budget_of(runs: Collection[Run]) -> Budget:
    """What all stages of a run took, from their logs; the mean over the runs."""
    logs = [(recipe.batch, list(read_rows(Path(recipe.out) / FILE))) for run in runs for recipe in run.recipes.values()]
    rows = [row for _, log in logs for row in log]
    return Budget(
        steps=len(rows) / len(runs),
        clips=sum(batch * len(log) for batch, log in logs) / len(runs),
        questions=sum(row["questions"] for row in rows) / len(runs),
        frames=sum(row["frames"] for row in rows) / len(runs),
        hours=sum(row["seconds"] for row in rows) / 3600 / len(runs),
    )


def hardware_of(runs: Iterable[Run]) -> list[str]:
    """What the models were trained on, as their cards say."""
    cards = [Path(recipe.out) / CARD for run in runs for recipe in run.recipes.values()]
    found = (_HARDWARE.search(card.read_text(encoding="utf-8")) for card in cards if card.exists())
    return sorted({match[1] for match in found if match})


@dataclass(frozen=True)
class Gates:
    """The gate maps of a run."""

    picture: Path
    rows: list[dict[str, Any]]


def gates_of(study: Study) -> Gates | str | None:
    """Drawn once and kept beside the run. In words why there are none; None where none are wanted."""
    row = study.settings.gates
    if row is None:
        return None
    run = next((run for run in study.of(row) if run.is_evaluated), None)
    if run is None:
        return f"the gate maps: `{row}` is not run yet"
    picture, table = run.folder / "gates.png", run.folder / "gates.json"
    if not (picture.exists() and table.exists()):
        from gapmllm.ablation.gates import gate_maps

        test = study.settings.test
        try:
            rows = gate_maps(run.model, test.data, test.split, picture)
        except ValueError as error:
            return f"the gate maps of `{row}`: {error}"
        whole(table, json.dumps(rows, indent=1) + "\n")
    return Gates(picture, json.loads(table.read_text(encoding="utf-8")))


def whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # processes may share a study
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)
