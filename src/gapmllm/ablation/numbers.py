"""Comparing rows: means over seeds, differences, and which of them are more than chance.

A row is trained with several seeds and asked about the same test scenes. Both vary: which scenes, and which seeds. So a
bootstrap sample draws scenes (`gapmllm.evaluation.report`: the i-th sample holds the same scenes for all runs) and, of
these runs, as many seeds as there are, with replacement. In a difference both rows have the same scenes, and each draws
its own seeds.

The variance of means of S drawn seeds is that of means of S seeds times (S - 1) / S, which for few seeds is much too
small; so what the drawing of seeds changes is taken sqrt(S / (S - 1)) times.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Literal

import numpy as np

from gapmllm.evaluation import Metric
from gapmllm.evaluation.markdown import less_is_better
from gapmllm.evaluation.report import metric_of
from gapmllm.geometry.camera import FloatArray

Verdict = Literal["better", "worse", "undecided"]


def mean_of(seeds: Sequence[Metric]) -> Metric:
    """One metric of several seeds -> its mean with the 95 % interval over scenes and seeds.

    No value where one of them has none; no interval where one has no samples. ValueError for runs that were asked about
    other scenes.
    """
    samples = _samples(seeds, np.random.default_rng(0))
    return metric_of(_mean(seeds), () if samples is None else samples.tolist())


def difference(row: Sequence[Metric], reference: Sequence[Metric]) -> Metric:
    """Row minus reference, a metric of the seeds of each; as `mean_of`, sample by sample over the same scenes."""
    rng = np.random.default_rng(0)
    value, minus = _mean(row), _mean(reference)
    if value is None or minus is None:
        return Metric(value=None)
    one, other = _samples(row, rng), _samples(reference, rng)
    both = () if one is None or other is None else (one - other).tolist()
    return metric_of(value - minus, both)


def verdict(name: str, found: Metric) -> Verdict:
    """Of a difference: whether its interval lies on one side of 0, and on which."""
    if found.low is None or found.high is None or found.low <= 0 <= found.high:
        return "undecided"
    return "better" if (found.low > 0) != less_is_better(name) else "worse"


def _mean(seeds: Sequence[Metric]) -> float | None:
    values = [seed.value for seed in seeds if seed.value is not None]
    return float(np.mean(values)) if values and len(values) == len(seeds) else None


def _samples(seeds: Sequence[Metric], rng: np.random.Generator) -> FloatArray | None:
    """(draws,) means of drawn seeds, each over the same scenes; None where some are not defined."""
    if not seeds or any(not seed.samples or None in seed.samples for seed in seeds):
        return None
    values = np.array([seed.samples for seed in seeds], dtype=np.float64)
    count, draws = values.shape
    centre: FloatArray = values.mean(axis=0)
    if count == 1:
        return centre
    drawn = rng.integers(count, size=(count, draws))
    deviation: FloatArray = np.take_along_axis(values, drawn, axis=0).mean(axis=0) - centre
    return centre + sqrt(count / (count - 1)) * deviation
