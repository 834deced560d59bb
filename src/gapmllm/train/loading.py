"""Batches of a run: each optimiser step's clips, dealt out over processes and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from gapmllm.train.batch import Batch, MakeBatch
from gapmllm.train.recipe import Recipe
from gapmllm.train.samples import Samples
from gapmllm.train.signals import held_back


@dataclass(frozen=True)
class Shares:
    """How the clips of a step are dealt out: batch = processes * accumulation * micro_batch."""

    batch: int
    micro_batch: int
    processes: int
    rank: int

    @classmethod
    def of(cls, recipe: Recipe, processes: int, rank: int) -> Shares:
        """ValueError where batch cannot be dealt out evenly."""
        if recipe.batch % processes:
            raise ValueError(
                f"batch {recipe.batch} cannot be dealt out to {processes} processes: make it a multiple of {processes}"
            )
        share = recipe.batch // processes
        micro = recipe.micro_batch or share
        if share % micro:
            raise ValueError(
                f"each process gets {share} clips of a step (batch {recipe.batch}, {processes} processes): micro_batch "
                f"must divide that, got {micro}"
            )
        return cls(recipe.batch, micro, processes, rank)

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step, in each process."""
        return self.batch // self.processes // self.micro_batch

    def indices(self, step: int) -> Iterator[list[int]]:
        """Of one step, the sample numbers of each of this process's micro-batches."""
        start = step * self.batch + self.rank * self.accumulation * self.micro_batch
        for _ in range(self.accumulation):
            yield list(range(start, start + self.micro_batch))
            start += self.micro_batch


class _Batches(Sampler[list[int]]):
    """The sample numbers of all micro-batches from a step on, up to another."""

    def __init__(self, shares: Shares, first: int, last: int) -> None:
        self.shares, self.first, self.last = shares, first, last

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            yield from self.shares.indices(step)

    def __len__(self) -> int:
        return (self.last - self.first) * self.shares.accumulation


@dataclass(frozen=True)
class _Prepared(Dataset[Batch | Exception]):
    """Sample numbers -> their batch. An error that a user can mend is handed over as it is: torch would put the
    traceback of the other process into its text."""

    samples: Samples
    make: MakeBatch

    def __getitem__(self, indices: list[int]) -> Batch | Exception:
        try:
            return self.make([self.samples[index] for index in indices])
        except (ValueError, OSError, ImportError) as error:
            return error


def batches(samples: Samples, make: MakeBatch, shares: Shares, first: int, last: int, workers: int) -> Iterator[Batch]:
    """The micro-batches of the steps first … last - 1 of this process; `workers` processes prepare them ahead."""
    loader: DataLoader[Batch | Exception] = DataLoader(
        _Prepared(samples, make),
        batch_size=None,
        sampler=_Batches(shares, first, last),
        collate_fn=_same,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # a fork would copy the state of torch's threads
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # without one of its own it draws from the run's
    )
    with held_back() if workers else nullcontext():  # what stops a run must not end its workers before it
        made = iter(loader)
    try:
        for batch in made:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    finally:
        if workers:  # else they end with the garbage, and that is kept with an error's traceback
            made._shutdown_workers()  # type: ignore[attr-defined]


def _same(batch: Any) -> Any:
    return batch
