"""How a run looks while it runs: a bar on a terminal, a line every few seconds elsewhere and in the logs."""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta
from statistics import median
from typing import Any

import psutil
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from gapmllm.train.logs import FILE_ONLY, LOG, TERMINAL

EVERY = 10.0
"""Seconds between two lines."""
_STEPS = 20  # numbers are means over so many last steps
_HELPERS = 50e6  # bytes: Python's own helper processes hold less


class Display:
    """Steps in, a bar or lines out. bar: draw one, if stderr is a terminal. Without it lines go to the log alone."""

    def __init__(self, name: str, steps: int, step: int, bar: bool) -> None:
        self.steps = steps
        self._rows: deque[dict[str, Any]] = deque(maxlen=_STEPS)
        self._line_at, self._line_step, self._workers = 0.0, step, 0
        self._progress = Progress(
            TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"), console=TERMINAL
        )
        self._task = self._progress.add_task(name, total=steps, completed=step, left="")
        self._live: Live | None = None
        if bar and TERMINAL.is_terminal and not TERMINAL.is_dumb_terminal:
            self._live = Live(self._progress, console=TERMINAL)
            self._live.start()

    def step(self, row: dict[str, Any]) -> None:
        """A finished step: a row of metrics.jsonl."""
        self._rows.append(row)
        if time.monotonic() - self._line_at >= EVERY:
            self.line()
        if self._live is not None:
            self._progress.update(self._task, completed=row["step"], left=self._left())
            self._live.update(Group(self._progress, Text(self._losses()), Text(self._speed())))

    def close(self) -> None:
        """The last step's line; the bar stays as it is."""
        self.line()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self) -> None:
        """The last step's line, if it has none yet."""
        if not self._rows or self._rows[-1]["step"] == self._line_step:
            return
        self._line_at, self._line_step = time.monotonic(), self._rows[-1]["step"]
        self._workers = workers_memory()
        text = f"step {self._line_step}/{self.steps}, {self._left()} · {self._losses()} · {self._speed()}"
        LOG.info(text, extra=FILE_ONLY if self._live is not None else None)

    def _left(self) -> str:
        """Evaluations and checkpoints that are still to come are not in it."""
        seconds = (self.steps - self._rows[-1]["step"]) * median(row["seconds"] for row in self._rows)
        return f"{timedelta(seconds=round(seconds))} left"

    def _losses(self) -> str:
        """The mean, and where there are several also by loss and by task."""
        parts = [f"loss {self._sum('loss') / len(self._rows):.4g}"]
        for kind in ("losses", "tasks"):
            names = sorted({name for row in self._rows for name in row[kind]})
            means = [(name, [row[kind][name] for row in self._rows if name in row[kind]]) for name in names]
            if len(means) > 1:
                parts.append(", ".join(f"{name} {sum(values) / len(values):.3g}" for name, values in means))
        return " · ".join(parts)

    def _speed(self) -> str:
        seconds = self._sum("seconds")
        rates = [f"{_short(self._sum(name) / seconds)} {name}/s" for name in ("questions", "frames", "tokens")]
        waiting = f"{self._sum('wait') / seconds:.0%} waiting for data"
        memory = f"{self._rows[-1]['memory'] / 1e9:.2f} GB"
        if self._workers > _HELPERS:
            memory += f" + {self._workers / 1e9:.2f} GB in workers"
        return " · ".join([", ".join(rates), waiting, memory])

    def _sum(self, name: str) -> float:
        return sum(row[name] for row in self._rows)


def workers_memory() -> int:
    """Bytes that the processes started by this one hold; what they share counts in each. Takes milliseconds."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.Error:  # it ended meanwhile
            continue
    return total


def _short(value: float) -> str:
    return f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.3g}"
