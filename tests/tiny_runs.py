"""Runs that take a second: the recipe, and its log without what the clock says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gapmllm.train.metrics import read_rows

ROOMS = {"rooms": {"count": 2, "frames": 4, "width": 64, "height": 48}, "tasks": {"looking": 1}}
CLOCK = ("seconds", "wait", "memory")


def tiny(out: Path, **changes: Any) -> dict[str, Any]:
    """Two clips a step: questions about two small rooms, and the classes of their patches."""
    values = {
        "stage": "language",
        "out": str(out),
        "init": "new debug",
        "model": {"fusion": "none"},
        "steps": 6,
        "batch": 2,
        "data": {"frames": 2, "marks": 2, "questions": 2, "sources": [ROOMS]},
        "losses": {"answers": 1, "classes": 1},
        "lr": 2e-3,
        "workers": 0,
        "save": {"every": 3},
        "evaluate": None,
    }
    return values | changes


def losses(out: Path) -> list[dict[str, Any]]:
    """Of each step all that must not depend on the clock or the machine's memory."""
    rows = read_rows(out / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]
