"""Our oriented-box overlap against a loop over scipy's HalfspaceIntersection and ConvexHull."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection

from gapmllm.geometry import Boxes, intersection_volumes

Array = NDArray[np.float64]
T = TypeVar("T")


def bench_iou(pairs: Path | None = None, rounds: int = 7) -> dict[str, Any]:
    """Pairs per second of both sides, in turn, median of the rounds; and how far their volumes are apart.

    pairs: JSON list of {"a": [9], "b": [9]} with "ZXY" angles; None makes 300 pairs of furniture-sized boxes.
    scipy needs a point inside the intersection before it can start, found by a linear program as its documentation
    does; "ratio" counts that, the ratio with points given leaves it out, which flatters scipy.
    """
    a, b = _read(pairs) if pairs else _make()
    rows = [np.concatenate([_halfspaces(a, i), _halfspaces(b, i)]) for i in range(len(a))]
    times: dict[str, list[float]] = {"ours": [], "points": [], "volumes": []}
    for _ in range(rounds):
        ours = _timed(times["ours"], lambda: intersection_volumes(a, b))
        points = _timed(times["points"], lambda: [_interior_point(h) for h in rows])
        scipy = _timed(times["volumes"], lambda: list(map(_scipy_volume, rows, points)))  # noqa: B023  used at once
    seconds = {name: median(values) for name, values in times.items()}
    return {
        "pairs": len(a),
        "pairs that overlap": int((ours > 0).sum()),
        "gapmllm, pairs/s": len(a) / seconds["ours"],
        "scipy loop, pairs/s": len(a) / (seconds["points"] + seconds["volumes"]),
        "scipy loop with interior points given, pairs/s": len(a) / seconds["volumes"],
        "ratio": (seconds["points"] + seconds["volumes"]) / seconds["ours"],
        "ratio with interior points given": seconds["volumes"] / seconds["ours"],
        "largest difference, m3": float(np.abs(ours - np.array(scipy)).max()),
    }


def _timed(times: list[float], work: Callable[[], T]) -> T:
    start = time.perf_counter()
    result = work()
    times.append(time.perf_counter() - start)
    return result


def _read(path: Path) -> tuple[Boxes, Boxes]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        a, b = (Boxes.from_euler([row[side] for row in rows], "ZXY") for side in "ab")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: a JSON list of {{"a": [9 numbers], "b": [9 numbers]}} was expected ({error!r})'
        ) from error
    if not len(a):
        raise ValueError(f"{path}: the list is empty")
    return a, b


def _make() -> tuple[Boxes, Boxes]:
    """300 pairs, half a metre apart on average."""
    rng = np.random.default_rng(0)
    shape = (2, 300, 3)
    rows = np.concatenate([rng.normal(0, 0.3, shape), rng.uniform(0.05, 2, shape), rng.uniform(-3, 3, shape)], axis=2)
    return Boxes.from_euler(rows[0], "zxy"), Boxes.from_euler(rows[1], "zxy")


def _halfspaces(boxes: Boxes, i: int) -> Array:
    """(6, 4): rows [n, d] with n x + d <= 0 inside."""
    normals = np.concatenate([boxes.rotations[i].T, -boxes.rotations[i].T])
    return np.column_stack([normals, -normals @ boxes.centers[i] - np.tile(boxes.sizes[i] / 2, 2)])


def _interior_point(halfspaces: Array) -> Array | None:
    """Centre of the largest ball inside (a linear program), or None if there is none of a micrometre's radius."""
    rows = np.column_stack([halfspaces[:, :3], np.ones(len(halfspaces))])
    bounds = [(None, None)] * 3 + [(0, None)]
    result = linprog([0, 0, 0, -1], A_ub=rows, b_ub=-halfspaces[:, 3], bounds=bounds)
    return np.array(result.x[:3]) if result.success and result.x[3] > 1e-6 else None


def _scipy_volume(halfspaces: Array, interior: Array | None) -> float:
    if interior is None:
        return 0.0
    return float(ConvexHull(HalfspaceIntersection(halfspaces, interior).intersections).volume)
