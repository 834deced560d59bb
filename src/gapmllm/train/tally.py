"""What the micro-batches of a step add up to, over all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from gapmllm.model import IGNORE
from gapmllm.train.batch import Batch
from gapmllm.train.stages import StepOutput


def add_up(values: Mapping[str, float], accelerator: Accelerator) -> dict[str, float]:
    """The sums over all processes, which must give the same names."""
    vector = torch.tensor(list(values.values()), dtype=_widest(accelerator.device), device=accelerator.device)
    return dict(zip(values, accelerator.reduce(vector, "sum").tolist(), strict=True))


def _widest(device: torch.device) -> torch.dtype:
    """float64 but on Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class StepResult:
    """A step's losses, as means over the global batch."""

    loss: float
    """Weighted sum of the losses."""
    losses: dict[str, float]
    tasks: dict[str, float]
    """Task -> mean loss of its answer tokens."""
    questions: int
    frames: int
    tokens: int
    stop: bool
    """Whether any process was asked to stop before the step ended."""

    def row(self) -> dict[str, Any]:
        """For the log."""
        return {name: value for name, value in vars(self).items() if name != "stop"}


class Tally:
    """Adds up the micro-batches of a step in this process. tasks: all that may occur in any process."""

    def __init__(self, weights: Mapping[str, float], tasks: Sequence[str]) -> None:
        self.weights, self.tasks = weights, tasks
        names = [f"loss {name}" for name in weights]
        names += [f"{what} {task}" for task in tasks for what in ("sum", "number")]
        self.sums: dict[str, Any] = dict.fromkeys([*names, "questions", "frames", "tokens", "stop"], 0.0)

    def add(self, batch: Batch, out: StepOutput) -> None:
        for name, value in out.sums.items():
            self.sums[f"loss {name}"] += value.to(_widest(value.device))  # stays there: no waiting for a GPU
        if out.token_losses is not None:
            for row, losses in enumerate(losses_by_row(batch, out.token_losses)):
                task = batch.tasks[batch.rows[row]]
                self.sums[f"sum {task}"] += losses.sum(dtype=_widest(losses.device))
                self.sums[f"number {task}"] += len(losses)
        self.sums["questions"] += batch.questions
        self.sums["frames"] += batch.num_frames
        self.sums["tokens"] += batch.num_tokens

    def result(self, counts: Mapping[str, float], accelerator: Accelerator, stop: bool = False) -> StepResult:
        """Of all processes."""
        self.sums["stop"] = float(stop)
        sums = add_up({name: float(value) for name, value in self.sums.items()}, accelerator)
        losses = {name: sums[f"loss {name}"] / max(counts[name], 1.0) for name in self.weights}
        return StepResult(
            loss=sum(weight * losses[name] for name, weight in self.weights.items()),
            losses=losses,
            tasks={task: sums[f"sum {task}"] / sums[f"number {task}"] for task in self.tasks if sums[f"number {task}"]},
            questions=int(sums["questions"]),
            frames=int(sums["frames"]),
            tokens=int(sums["tokens"]),
            stop=sums["stop"] > 0,
        )


def losses_by_row(batch: Batch, token_losses: torch.Tensor) -> Sequence[torch.Tensor]:
    """The losses of each row's answer tokens."""
    assert batch.pack is not None
    lengths = (batch.pack.labels[:, 1:] != IGNORE).sum(dim=1).tolist()
    return token_losses.split(lengths)
