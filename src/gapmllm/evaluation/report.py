"""What scoring returns: metrics with intervals, tables, and how the answers could be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from gapmllm.tasks import Reading
from gapmllm.tasks.answers import AnswerT, Task

Reader = Literal["lenient", "released"]
"""How answers are read: strictly or else leniently; or as the released evaluators do (`tasks/released.py`)."""
Euler = Literal["stated", "released"]
"""Which rotation nine numbers mean: what the record states; or the mixed pair of the released evaluators, which take
angles that were written as "zxy" for "ZXY" when they compute an overlap."""

DRAWS = 1_000
"""Bootstrap samples for an interval."""

Measure = Callable[[NDArray[np.intp]], dict[str, float | None]]
"""Scene indices (each may occur several times) -> metrics; None where a metric is not defined."""


class Metric(BaseModel):
    """A value, and the 95 % interval from resampling scenes; None where there is none."""

    model_config = ConfigDict(frozen=True)

    value: float | None
    low: float | None = None
    high: float | None = None
    samples: tuple[float | None, ...] = Field(default=(), exclude=True, repr=False)
    """What the interval is of: the value of each bootstrap sample. The i-th holds the same scenes for all records of
    the same scenes, so runs can be compared sample by sample. Not written to JSON."""


class Report(BaseModel):
    """Scores of one file of records."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    task: str
    reader: Reader
    euler: Euler
    records: int
    scenes: int
    readings: dict[str, dict[str, int]]
    """By kind of answer: how many were read strictly, leniently, not at all, or were missing; and where the released
    reader made the scores, how many it could read."""
    problems: dict[str, int]
    """Answers that had each kind of problem."""
    metrics: dict[str, Metric]
    tables: dict[str, list[dict[str, Any]]] = {}
    curves: dict[str, dict[str, list[float]]] = {}
    notes: tuple[str, ...] = ()
    """What the reader of the numbers has to know, such as a metric that could not be computed, and why."""

    def write(self, path: Path) -> None:
        """As JSON; the file appears whole or not at all."""
        if path.exists() and not path.is_file():  # a pipe or a device is written to, not replaced
            path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
            return
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


class ReadingTally(Generic[AnswerT]):
    """Reads answers of one task and counts how that went."""

    def __init__(self, task: Task[AnswerT]) -> None:
        self.task = task
        self.readings = Counter({"strict": 0, "lenient": 0, "unreadable": 0, "missing": 0})
        self.problems: Counter[str] = Counter()

    def read(self, answer: str | None) -> Reading[AnswerT]:
        """An answer that is missing reads as nothing."""
        if answer is None:
            self.readings["missing"] += 1
            return Reading(None, "unreadable")
        reading = self.task.read(answer)
        self.readings[reading.how] += 1
        self.problems.update(sorted({problem.kind for problem in reading.problems}))
        return reading

    def count_released(self, was_read: bool) -> None:
        """Count what the released reader, which is none of ours, could read."""
        self.readings["released"] += was_read


class SceneIndex:
    """Numbers scenes in the order in which they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, scene: str) -> int:
        return self._numbers.setdefault(scene, len(self._numbers))

    @property
    def names(self) -> list[str]:
        return list(self._numbers)


def with_intervals(measure: Measure, num_scenes: int) -> dict[str, Metric]:
    """Each metric over all scenes, with its 95 % percentile bootstrap interval over scenes.

    No interval for fewer than two scenes, or where a metric is undefined in some samples.
    Source: Efron & Tibshirani (1993), chapter 13.
    """
    values = measure(np.arange(num_scenes))
    if num_scenes < 2:
        return {name: Metric(value=value) for name, value in values.items()}
    rng = np.random.default_rng(0)  # the same samples in every run
    samples = [measure(rng.integers(num_scenes, size=num_scenes)) for _ in range(DRAWS)]
    return {name: metric_of(value, [sample[name] for sample in samples]) for name, value in values.items()}


def weighted_mean(values: NDArray[Any], weights: NDArray[Any]) -> float | None:
    """Mean of values (N,) under weights (N,), None if they sum to 0."""
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else None


def metric_of(value: float | None, samples: Sequence[float | None]) -> Metric:
    """A value with the 95 % percentile interval of its bootstrap samples, none if some are not defined."""
    if value is None or not samples or None in samples:
        return Metric(value=value, samples=tuple(samples))
    low, high = np.percentile(np.asarray(samples, dtype=np.float64), [2.5, 97.5])
    return Metric(value=value, low=float(low), high=float(high), samples=tuple(samples))
