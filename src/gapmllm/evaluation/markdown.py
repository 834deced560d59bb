"""Scores as tables in Markdown, for pages and model cards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gapmllm.evaluation.report import Metric


def scores_table(path: Path) -> Iterator[str]:
    """The `scores.json` of `gapmllm eval`: a row for each metric, a column for each who answered; then its notes."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    scores = {who: {name: Metric(**m) for name, m in found.items()} for who, found in stored["scores"].items()}
    names = dict.fromkeys(name for found in scores.values() for name in found)
    yield from markdown(
        {"metric": label(name)} | {who: cell(found.get(name)) for who, found in scores.items()} for name in names
    )
    if stored["notes"]:
        yield from (*(f"- {note}" for note in stored["notes"]), "")


def markdown(rows: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """A table of rows that share their keys, and an empty line."""
    for number, row in enumerate(rows):
        if number == 0:
            yield f"| {' | '.join(row)} |"
            yield f"|---|{'---:|' * (len(row) - 1)}"
        yield f"| {' | '.join(row.values())} |"
    yield ""


def label(name: str) -> str:
    """A metric's name for readers."""
    return f"{name} (m, less is better)" if less_is_better(name) else name


def less_is_better(name: str) -> bool:
    """Of a metric's name: errors, in metres."""
    return name.endswith("_error")


def cell(metric: Metric | None, *, sign: bool = False) -> str:
    """A value with its interval. sign: a plus before what is above 0."""
    if metric is None or metric.value is None:
        return "-"
    interval = "" if metric.low is None else f" [{number(metric.low)}, {number(metric.high)}]"
    return f"{'+' if sign and metric.value > 0 else ''}{number(metric.value)}{interval}"


def number(value: float | None) -> str:
    """Three decimals."""
    assert value is not None
    return f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no -0.000
