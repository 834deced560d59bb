"""Similarity alignment of matched point sets."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gapmllm.geometry.camera import FloatArray


def align_similarity(source: ArrayLike, target: ArrayLike) -> tuple[float, FloatArray, FloatArray]:
    """Scale s, rotation R (3, 3) and translation t (3,) that minimise sum |target_i - (s R source_i + t)|^2.

    source, target: (N, 3) with source[i] matching target[i]. det R = +1 always: a mirrored cloud gets the best proper
    rotation. Raises ValueError for fewer than 3 points, NaN, or a source on one line (its rotation is undefined).
    Source: Umeyama, TPAMI 13(4), 1991, equations 40 to 43.
    """
    x, y = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 3:
        raise ValueError(f"source and target must both have shape (N, 3), got {x.shape} and {y.shape}")
    if len(x) < 3:
        raise ValueError(f"a similarity needs at least 3 matched points, got {len(x)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("points must be finite, got a NaN or infinity; drop unknown points first")
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    variances = np.linalg.eigvalsh((x - mean_x).T @ (x - mean_x) / len(x))  # along the principal axes, rising
    if variances[1] <= np.finfo(np.float64).eps * (x**2).sum(axis=1).mean():
        raise ValueError("all source points lie on one line or in one place, so no rotation can be found")
    left, singular, right = np.linalg.svd((y - mean_y).T @ (x - mean_x) / len(x))
    mirror = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = (left * mirror) @ right
    scale = float((singular * mirror).sum() / variances.sum())
    return scale, rotation, mean_y - scale * rotation @ mean_x
