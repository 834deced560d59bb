"""Batches of a run: each optimiser step's clips, dealt out over processes and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch.utils.data import DataLoader, Sampler

from gapmllm.train.batch import Batch, MakeBatch
from gapmllm.train.recipe import Recipe
from gapmllm.train.samples import Sample, Samples


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


def batches(samples: Samples, make: MakeBatch, shares: Shares, first: int, last: int, workers: int) -> Iterator[Batch]:
    """The micro-batches of the steps first … last - 1 of this process; `workers` processes prepare them ahead."""
    loader: DataLoader[Sample] = DataLoader(
        samples,
        batch_sampler=_Batches(shares, first, last),
        collate_fn=make,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # a fork would copy the state of torch's threads
        prefetch_factor=4 if workers else None,
    )
    yield from loader
