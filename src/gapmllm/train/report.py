"""What a run tells: a log of every step, and the terminal."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from gapmllm.train.metrics import FILE, MetricsLog
from gapmllm.train.recipe import Recipe


class Report:
    """Written by the main process; the others' reports do nothing."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, step: int) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.log = MetricsLog(Path(recipe.out) / FILE, step) if accelerator.is_main_process else None

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.log is not None:
            self.log.close()

    def step(self, row: dict[str, Any]) -> None:
        """A finished step."""
        if self.log is not None:
            self.log.write(row | {"memory": memory(self.accelerator.device)})
            if row["step"] % 10 == 0:
                print(
                    row["step"],
                    f"{row['loss']:.4f}",
                    {k: round(v, 3) for k, v in row["losses"].items()},
                    f"{row['seconds']:.2f} {row['wait']:.3f}",
                )

    def evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Scores of the held-out clips after so many steps."""
        self.say(f"evaluation after step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))

    def say(self, text: str) -> None:
        """A line for the terminal and the log of this process."""
        if self.log is not None:
            print(text)


def memory(device: torch.device) -> int:
    """Bytes that this process holds: on a GPU the most since the start, else what the system counts for it now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)
