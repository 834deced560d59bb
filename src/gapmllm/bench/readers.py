"""How long the answer readers take on a megabyte of hostile text."""

from __future__ import annotations

import time
from typing import Any

from gapmllm.tasks import TASKS

_OBJECT = '{"label": "chair", "bbox_3d": [1, 2, 3, 4, 5, 6, 1, 1, 1]},'
HOSTILE = {
    "open lists": "{[",
    "open objects": "{",
    "pairs": "{}",
    "closers": "{]}",
    "quotes": '{"',
    "escaped quotes": '{\\"',
    "open strings": '{"\n',
    "comments": "{#\n",
    "words": "{a b:",
    "numbers": "{1,",
    "prose": "a chair, ",
    "literals": f'{{"label": [{"1, " * 640}]}},\n',
    "objects": _OBJECT,
    "objects in an open list": f"[{_OBJECT}",
}


def bench_readers(size: int = 1_000_000) -> list[dict[str, Any]]:
    """Seconds that each task's reader takes for `size` characters of each kind of text."""
    rows = []
    for kind, pattern in HOSTILE.items():
        text = (pattern * (size // len(pattern) + 1))[:size]
        row: dict[str, Any] = {"text": kind}
        for name, task in TASKS.items():
            start = time.perf_counter()
            task.read(text)
            row[name] = time.perf_counter() - start
        rows.append(row)
    return rows
