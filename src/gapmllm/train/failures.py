"""What a run says and saves where it cannot go on: a loss that is no number, a GPU that is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite

from gapmllm.train.batch import Batch
from gapmllm.train.recipe import Recipe
from gapmllm.train.stages import StepOutput
from gapmllm.train.tally import StepResult


def check_finite(
    recipe: Recipe, step: int, result: StepResult, gradient: float, done: list[tuple[Batch, StepOutput]]
) -> None:
    """ValueError if the step's loss or gradient is no number."""
    if isfinite(result.loss) and isfinite(gradient):
        return
    raise ValueError(f"step {step}: loss {result.loss}, gradient {gradient}")


@contextmanager
def memory_advice(recipe: Recipe) -> Iterator[None]:
    yield
