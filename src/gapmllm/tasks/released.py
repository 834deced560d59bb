"""How the released evaluators read answers: kept as a named mode, to compare with printed tables.

Line by line, one Python literal per line; a list on one line, two objects on one line or a pretty-printed object give
nothing. The released code runs Python's eval on each line; here `ast.literal_eval` reads the same literals and executes
nothing. Every text gives a result, none raises. `tests/test_readers.py` checks it against recorded results.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Collection
from itertools import islice
from typing import Any

MAX_LINE = 2_000
"""Longer lines are dropped: one object takes about 100 characters."""
MAX_LINES = 1_000
"""Lines read at most, of those that hold one of the words looked for."""


def released_objects(text: str) -> list[tuple[str, tuple[float, ...]]]:
    """Detection: (label, numbers) of every readable line, in order. The count of numbers is not checked."""
    objects = []
    for values in literal_objects(text, ("bbox_3d", "label")):
        box = _numbers(values.get("bbox_3d"))
        label = values.get("label")
        if isinstance(label, str) and box is not None:
            objects.append((label, box))
    return objects


def released_grounding(text: str) -> tuple[int | None, tuple[float, ...]] | None:
    """Grounding: (frame, nine numbers) of the first line with a box; frame is None where the line has none.

    None if that line cannot be read, has not exactly nine numbers, or has a frame that is no non-negative integer.
    """
    line = next((line for line in text.splitlines() if "bbox_3d" in line), "")
    values = _literal(line)
    box = _numbers(values.get("bbox_3d"))
    frame = values.get("frame")
    is_index = isinstance(frame, int) and not isinstance(frame, bool) and frame >= 0
    if box is None or len(box) != 9 or not (frame is None or is_index):
        return None
    return frame, box


def released_point(text: str) -> tuple[str | None, tuple[float, ...]] | None:
    """Points: (label, three numbers) of the first line with a pointmap, or None."""
    values = next(iter(literal_objects(text, ("pointmap",))), {})
    point, label = _numbers(values.get("pointmap")), values.get("label")
    if point is None or len(point) != 3:
        return None
    return (label if isinstance(label, str) else None), point


def literal_objects(text: str, keys: Collection[str]) -> list[dict[str, Any]]:
    """The dictionaries among the lines that hold one of the keys, each line read as a Python literal."""
    body = text.strip("\n").strip("`").strip("json").strip("\n")  # any of the letters j s o n, as the released code
    lines = islice((line for line in body.split("\n") if any(key in line for key in keys)), MAX_LINES)
    return [values for values in map(_literal, lines) if values]


def _literal(line: str) -> dict[str, Any]:
    """The dictionary that the line spells, or an empty one."""
    source = line.strip().strip(",").strip()
    if len(source) > MAX_LINE:
        return {}
    try:
        with warnings.catch_warnings(action="ignore"):  # odd escapes in a model's text are no concern of the user
            value = ast.literal_eval(source)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _numbers(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list | tuple):
        return None
    try:
        numbers = tuple(float(v) for v in value)
    except (ValueError, TypeError, OverflowError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
