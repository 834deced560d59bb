"""Rows of dictionaries as tables on the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapmllm.evaluation import Metric

MOST_ROWS = 40
_NAME = re.compile(r"(?P<name>[^\[@]+)(\[(?P<group>.+)\])?(?P<at>@.+)?")


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows that share their keys; of a long table the first rows, and how many more there are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table()
    for i, key in enumerate(rows[0]):
        table.add_column(Text(key), justify="left" if i == 0 else "right", overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(*(Text(_cell(value)) for value in row.values()))  # Text: names are no markup
    console = Console()
    console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"... and {len(rows) - MOST_ROWS} more rows; --out writes them all")


def pivot(metrics: Mapping[str, Metric]) -> Iterable[list[dict[str, Any]]]:
    """Metrics named "name[group]@threshold" as tables: a row for each name@threshold, a column for each group."""
    plain: list[dict[str, Any]] = []
    grouped: dict[str, dict[str, Any]] = {}
    for full_name, metric in metrics.items():
        match = _NAME.fullmatch(full_name)
        assert match, full_name
        name = match["name"] + (match["at"] or "")
        if match["group"]:
            grouped.setdefault(name, {"metric": name})[match["group"]] = metric
        else:
            plain.append({"metric": name, "value": metric})
    groups = list(dict.fromkeys(key for row in grouped.values() for key in row))
    yield [{key: row.get(key) for key in groups} for row in grouped.values()]
    yield plain


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    if hasattr(value, "low"):
        interval = "" if value.low is None else f"\n{value.low:.3f}-{value.high:.3f}"
        return _cell(value.value) + interval
    from gapmllm.evaluation.records import printable

    return printable(str(value))  # a label is a model's text: it may hold anything
