"""Scores that mean what they say: of the answers with score 0.7, about 70 % should be right.

A score is s = exp(l / T): l is the mean log-probability of an answer's tokens, T the temperature of its task. From
answers that are known to be right or wrong, on rooms kept out of training, comes the T > 0 of the least log loss
(Guo et al. 2017, arXiv 1706.04599, section 4.2, for a probability instead of logits). As a function of 1 / T the loss
is convex: there is one minimum. Dividing l by T keeps the order of scores, and with it average precision.

Right is, as in the metrics of the same names: a point within 0.25 m, whatever its label (`within_0.25m`); a grounding
with IoU >= 0.25 (`acc[overall]@0.25`); a detection that is matched to an object of its label with IoU > 0.25.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict
from scipy.optimize import minimize_scalar

from gapmllm.evaluation.detection import judge_claims
from gapmllm.evaluation.grounding import answer_ious
from gapmllm.evaluation.records import DetectionRecord, GroundingRecord, PointsRecord, RecordFile
from gapmllm.evaluation.score import with_line
from gapmllm.geometry.camera import FloatArray
from gapmllm.tasks import POINTS

Judged = tuple[FloatArray, NDArray[np.bool_]]
"""Scores of answers, (N,), and which of them are right, (N,)."""
NEAR, OVERLAP = 0.25, 0.25
"""Metres of a point that is right; IoU of a box that is."""
LEAST = 20
"""Answers that a temperature needs."""
BINS = 15
MARGIN = 1e-6
"""Scores count as at least this far from 0 and 1: a sure answer that is wrong costs much, not infinitely much."""
HIGHEST = 100.0
"""Temperatures lie between 1 / HIGHEST and HIGHEST."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Bin(_Part):
    """Answers of similar scores."""

    count: int
    score: float
    """Their mean."""
    right: float
    """Share that is right; equal to `score` where scores mean what they say."""


class Fit(_Part):
    """How well scores foretell what is right; less is better."""

    log_loss: float
    brier: float
    """Mean squared difference of score and right (1) or wrong (0)."""
    ece: float
    """Expected calibration error: mean |score - right| of the bins, by their counts."""
    bins: tuple[Bin, ...]
    """At most BINS, of equal counts as far as equal scores, which share a bin, allow it. From low to high scores."""


class Calibration(_Part):
    """The temperature of a task, and what it changes."""

    temperature: float
    count: int
    right: int
    before: Fit
    """The scores as given."""
    after: Fit


def calibrate(scores: ArrayLike, right: ArrayLike, temperature: float = 1.0) -> Calibration:
    """The temperature of the least log loss. ValueError where the answers determine none.

    scores: (N,) in [0, 1], made with `temperature`. right: (N,) bool.
    """
    given, truth = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    if given.ndim != 1 or given.shape != truth.shape or not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"scores between 0 and 1 and as many truths are needed, got {given.shape} and {truth.shape}")
    if not 0 < temperature < np.inf:
        raise ValueError(f"the temperature of the scores must be above 0, got {temperature}")
    if len(given) < LEAST or truth.all() or not truth.any():
        raise ValueError(
            f"{len(given)} answers with a score, {int(truth.sum())} of them right: a temperature needs {LEAST} answers "
            "at least, some right and some wrong. Evaluate more clips"
        )
    logs, bins = temperature * np.log(np.clip(given, MARGIN, 1 - MARGIN)), _bins(given)
    limit = np.log(HIGHEST)
    best = minimize_scalar(lambda x: _log_loss(logs / np.exp(x), truth), bounds=(-limit, limit), method="bounded")
    fitted = float(np.exp(best.x))
    return Calibration(
        temperature=fitted,
        count=len(given),
        right=int(truth.sum()),
        before=_fit(logs / temperature, truth, bins),
        after=_fit(logs / fitted, truth, bins),
    )


def judged(path: Path, task: str) -> Judged:
    """The answers in a file of records.

    task: "points", "grounding" or "detection", where each object is an answer. What has no score is left out.
    ValueError for another task; RecordError, which is one, for a file that cannot be scored.
    """
    if task == "detection":
        return with_line(RecordFile(path, DetectionRecord), judge_claims)
    if task == "grounding":
        return with_line(RecordFile(path, GroundingRecord), _judge_boxes)
    if task == "points":
        return with_line(RecordFile(path, PointsRecord), _judge_points)
    raise ValueError(f"no scores are made for task {task!r}, choose from detection, grounding, points")


def _judge_boxes(records: Iterable[GroundingRecord]) -> Judged:
    scored = [record for record in records if record.score is not None]
    return np.array([record.score for record in scored], dtype=np.float64), answer_ious(scored) >= OVERLAP


def _judge_points(records: Iterable[PointsRecord]) -> Judged:
    """An answer without a point is wrong."""
    scores, right = [], []
    for record in records:
        if record.score is not None:
            answer = POINTS.read(record.answer or "").answer
            point = answer.pointmap if answer else None
            scores.append(record.score)
            right.append(point is not None and math.dist(point, record.truth.pointmap) <= NEAR)
    return np.array(scores, dtype=np.float64), np.array(right, dtype=bool)


def _log_loss(logs: FloatArray, right: NDArray[np.bool_]) -> float:
    """Mean of -log s where right, -log(1 - s) where wrong; logs: of the scores, below 0."""
    return float(-np.where(right, logs, np.log(-np.expm1(logs))).mean())


def _bins(scores: FloatArray) -> NDArray[np.intp]:
    """The bin of each score, from 0, none of them empty. A temperature, which keeps the order, changes no bin."""
    edges = np.quantile(scores, np.arange(1, BINS) / BINS, method="higher")
    return np.unique(np.searchsorted(np.unique(edges), scores, side="right"), return_inverse=True)[1]


def _fit(logs: FloatArray, right: NDArray[np.bool_], bins: NDArray[np.intp]) -> Fit:
    scores, counts = np.exp(logs), np.bincount(bins)
    means, shares = np.bincount(bins, scores) / counts, np.bincount(bins, right) / counts
    return Fit(
        log_loss=_log_loss(logs, right),
        brier=float(np.square(scores - right).mean()),
        ece=float((counts * np.abs(means - shares)).sum() / len(scores)),
        bins=tuple(
            Bin(count=int(count), score=float(mean), right=float(share))
            for count, mean, share in zip(counts, means, shares, strict=True)
        ),
    )
