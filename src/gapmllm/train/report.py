"""What a run tells: its terminal and logs, files of numbers, curves, TensorBoard."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from gapmllm.train.display import Display
from gapmllm.train.logs import LOG
from gapmllm.train.metrics import EVALUATIONS, FILE, RowLog, read_rows
from gapmllm.train.recipe import Recipe

CURVES = "curves.png"
BOARD = "tensorboard"


class Report:
    """Files are written by the main process; the others' reports have lines in their own logs.

    step: of the checkpoint that the run goes on from; later steps are taken back. ImportError where the recipe wants
    TensorBoard and it is not there.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, step: int) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.out, self.main = Path(recipe.out), accelerator.is_main_process
        if recipe.track is not None:
            _start_board(accelerator, step)
        if self.main:
            self.rows, self.evaluations = RowLog(self.out / FILE, step), RowLog(self.out / EVALUATIONS, step)
        self.display = Display(recipe.stage, recipe.steps, step, bar=self.main)
        self._due = False  # to be drawn

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.close()
        if self.main:
            self._draw()
            self.rows.close()
            self.evaluations.close()

    def step(self, row: dict[str, Any]) -> None:
        """A finished step."""
        row = row | {"memory": memory(self.accelerator.device)}
        self.display.step(row)
        if not self.main:
            return
        if self._due:  # once for a checkpoint and an evaluation of the same step
            self._draw()
        self.rows.write(row)
        self.accelerator.log(_flat(row), step=row["step"])
        self._due = row["step"] % self.recipe.save.every == 0

    def evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Scores by name, such as "points/median_error"; of the main process, the others' are not looked at."""
        if not self.main:
            return
        if step > self.evaluations.last:  # a run that was killed after its last evaluation has it again
            self.accelerator.log({f"evaluation/{name}": value for name, value in scores.items()}, step=step)
        self.evaluations.write({"step": step, "scores": scores})
        self.say(f"evaluation after step {step}: " + ", ".join(f"{name} {scores[name]:.3g}" for name in scores))
        self._due = True

    def say(self, text: str) -> None:
        """A line for the log of this process; the main one's comes on the terminal, too."""
        self.display.line()
        LOG.info(text)

    def _draw(self) -> None:
        """The curves so far. A run does not end for want of its picture."""
        self._due = False
        rows = list(read_rows(self.out / FILE))
        if not rows:
            return
        try:
            from gapmllm.viz.curves import curves_figure

            phases = [start for start, _ in self.recipe.schedule()[1:]]
            figure = curves_figure(rows, list(read_rows(self.out / EVALUATIONS)), phases)
            partial = self.out / (CURVES + ".part")
            figure.savefig(partial, format="png")
            os.replace(partial, self.out / CURVES)
        except (ImportError, OSError) as error:
            self.say(f"{CURVES} is not drawn: {error}")


def memory(device: torch.device) -> int:
    """Bytes that this process holds: on a GPU the most since the start, else what the system counts for it now.

    The processes that prepare data are not in it (`display.workers_memory`): to look for them takes too long.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def _start_board(accelerator: Accelerator, step: int) -> None:
    """What an earlier try wrote of the steps that come now is hidden."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ImportError('track: tensorboard needs a package: pip install "gapmllm[track]"') from error
    accelerator.init_trackers(BOARD, init_kwargs={BOARD: {"purge_step": step + 1 if step else 0}})


def _flat(row: dict[str, Any]) -> dict[str, float]:
    """{"loss": 1, "lr": {"llm": 2}} -> {"train/loss": 1, "lr/llm": 2}; without the step."""
    flat = {f"train/{key}": value for key, value in row.items() if not isinstance(value, dict) and key != "step"}
    for table, values in row.items():
        if isinstance(values, dict):
            flat |= {f"{table}/{name}": value for name, value in values.items()}
    return flat
