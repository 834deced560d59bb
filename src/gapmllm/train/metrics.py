"""Logs of numbers: one JSON object a line, one line a step. A resumed run takes back the steps that it repeats."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"
EVALUATIONS = "evaluation.jsonl"


class RowLog:
    """Appends rows {"step": …, …} to a file, steps in order; starts by dropping what lies behind `step`.

    A row whose step is there already takes the place of that row and of all behind it.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._keep(step)

    def _keep(self, step: int) -> None:
        """The rows up to a step; a run that starts anew, at step 0, has none."""
        kept = [row for row in read_rows(self.path) if row["step"] <= step] if step else []
        partial = self.path.with_name(self.path.name + ".part")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(partial, self.path)
        self.last = kept[-1]["step"] if kept else -1
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        if row["step"] <= self.last:
            self._file.close()
            self._keep(row["step"] - 1)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self.last = row["step"]

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log; lines that are none are passed over, as a last one that was cut off by a kill."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and ("losses" in row or "scores" in row):
            yield row
