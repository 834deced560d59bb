"""What a recipe would do, before it does: nothing is trained, fetched or built.

`Plan` says what is known, what is estimated, and what is missing. The formulas are those of `gapmllm.train.costs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gapmllm.model import PARTS
from gapmllm.train.checkpoints import latest, read_state
from gapmllm.train.costs import memory, multiplication_rate, operations
from gapmllm.train.evaluate import HeldOut
from gapmllm.train.finish import is_finished
from gapmllm.train.forecast import ClipLoad, TaskForecast, forecast
from gapmllm.train.loading import Shares
from gapmllm.train.metrics import FILE, read_rows
from gapmllm.train.optimizer import parameter_groups
from gapmllm.train.outline import outline
from gapmllm.train.recipe import Recipe
from gapmllm.train.stages import Stage

Row = dict[str, Any]
GIB = 2**30
_PROCESSES = (2, 4, 8)
_LAST = 100  # steps of a log that its speed is taken from


@dataclass(frozen=True)
class Plan:
    """Tables are rows that share their keys; empty where the model's sizes are not known."""

    about: dict[str, str]
    missing: list[str]
    """What must be there before the run can start, and what to do."""
    parameters: list[Row]
    """Of each part of the model, and in all."""
    rates: list[Row]
    """The optimiser's groups."""
    losses: list[Row]
    data: list[Row]
    """Each source and task of the mixture."""
    clips: list[Row]
    """What a clip of each holds, on average. An estimate."""
    steps: list[Row]
    """What a step takes, for each phase. An estimate."""
    memory: list[Row]
    """What one process needs, GiB; with activations go the frozen encoders, whichever are more. An estimate."""
    time: dict[str, float]
    """An estimate, but where the name says measured."""

    def tables(self) -> Iterator[tuple[str, list[Row]]]:
        """Title and rows of all but `about` and `missing`."""
        yield "parameters", self.parameters
        yield "optimiser", self.rates
        yield "losses", self.losses
        yield "data", self.data
        yield "a clip, on average (estimate)", self.clips
        yield "a step (estimate)", self.steps
        yield "memory of one process (estimate)", self.memory
        figures = [{"figure": name, "value": value} for name, value in self.time.items()]
        yield "time (estimate, without loading data and evaluation)", figures


def make_plan(recipe: Recipe, recipes: Path | None = None) -> Plan:
    """recipes: the folder of the recipe's file, for the sizes of a stage before it that is not trained yet.

    ValueError for a recipe that cannot run on any machine; what is only not there yet is `missing`.
    """
    found = outline(recipe, recipes)
    stage = None
    if found.model is not None:
        with torch.device("meta"):
            stage = Stage(found.model, recipe)
    config = None if found.model is None else found.model.config
    ends = [start for start, _ in recipe.schedule()[1:]] + [recipe.steps]
    phases = [
        _Phase(start, end, phase, forecast(phase, config, found.prompts))
        for (start, phase), end in zip(recipe.schedule(), ends, strict=True)
    ]
    tasks = [task for phase in phases for task in phase.tasks]
    looked_at = "; ".join(dict.fromkeys(task.basis for task in tasks))
    missing = list(dict.fromkeys(task.missing for task in tasks if task.missing))
    return Plan(
        about=_about(recipe, found.sources) | {"clips estimated from": looked_at},
        missing=missing + _evaluation_problems(recipe, missing),
        parameters=[] if stage is None else _parameters(stage, recipe),
        rates=[] if stage is None else _rates(stage, recipe),
        losses=[row for phase in phases for row in phase.losses()],
        data=[row for phase in phases for row in phase.data()],
        clips=[row for phase in phases for row in phase.clips()],
        steps=[] if stage is None else [phase.step() for phase in phases],
        memory=[] if stage is None else _memory(stage, recipe, [load for phase in phases for _, load in phase.loads()]),
        time=_time(stage, recipe, phases),
    )


@dataclass(frozen=True)
class _Phase:
    """A piece of a curriculum, or all of a run."""

    start: int
    end: int
    recipe: Recipe
    tasks: list[TaskForecast]

    def named(self, row: Row) -> Row:
        """With the steps of the phase, where there are several."""
        whole = (self.start, self.end) == (0, self.recipe.steps)
        return row if whole else {"from step": self.start} | row

    def losses(self) -> Iterator[Row]:
        for name, weight in self.recipe.loss_weights().items():
            yield self.named({"loss": name, "weight": weight})

    def loads(self) -> list[tuple[float, ClipLoad]]:
        """(share of the clips, what one holds)."""
        return [(task.share, task.load) for task in self.tasks if task.load is not None]

    def data(self) -> Iterator[Row]:
        clips = (self.end - self.start) * self.recipe.batch
        for task in self.tasks:
            opened = clips * task.share / self.recipe.data.clips_per_scene
            yield self.named(
                {
                    "source": task.source,
                    "task": task.task or "-",
                    "share": task.share,
                    "scenes": task.scenes,
                    "questions": "anew" if task.stored is None else task.stored,
                    "clips of the run": round(clips * task.share),
                    "epochs": None if task.units is None else opened / task.units,
                }
            )

    def clips(self) -> Iterator[Row]:
        for task in self.tasks:
            if (load := task.load) is not None:
                yield self.named(
                    {
                        "task": task.task or "-",
                        "frames": load.frames,
                        "tokens of a frame": f"{load.rows}x{load.cols}",
                        "questions": load.questions,
                        "tokens": load.tokens,
                        "answer tokens": load.answers,
                    }
                )

    def step(self) -> Row:
        batch = self.recipe.batch
        visual, tokens, frames, questions = (
            batch * sum(share * getattr(load, name) for share, load in self.loads())
            for name in ("visual", "tokens", "frames", "questions")
        )
        return self.named(
            {
                "steps": self.end - self.start,
                "clips": batch,
                "questions": questions,
                "frames": frames,
                "visual tokens": visual,
                "tokens": tokens,
                "tokens of all steps": round(tokens * (self.end - self.start)),
            }
        )


def _about(recipe: Recipe, sources: dict[str, str]) -> dict[str, str]:
    newest = latest(recipe.out)
    if is_finished(recipe):
        state = "holds this run, finished"
    else:
        state = f"goes on from step {read_state(newest)['step']}" if newest else "new"
    how = [recipe.precision, "gradient checkpointing" if recipe.checkpointing else "no gradient checkpointing"]
    warmup = f"{round(recipe.warmup * recipe.steps)} of warm-up, then a cosine to 0"
    return {
        "stage": recipe.stage,
        "out": f"{recipe.out}: {state}",
        **sources,
        "steps": f"{recipe.steps}, {warmup}",
        "arithmetic": ", ".join(how),
    }


def _evaluation_problems(recipe: Recipe, missing: list[str]) -> list[str]:
    """What would stop the run when it opens what it is evaluated on; that may be what is known to be missing."""
    if recipe.evaluate is None or (missing and not recipe.evaluate.sources):
        return []
    if any("://" in (source.dataset or "") for source in recipe.evaluate.sources):
        return ["evaluate: a data set behind a URL is not looked at: a plan fetches nothing"]
    try:
        HeldOut(recipe)
    except ValueError as error:
        return [f"evaluate: {error}"]
    return []


def _parameters(stage: Stage, recipe: Recipe) -> list[Row]:
    parts = {part: stage.model.modules_of(part) for part in PARTS} | {"probes": [stage.probes]}
    rows = []
    for part, modules in parts.items():
        parameters = {id(p): p for module in modules for p in module.parameters()}.values()  # tied weights once
        if parameters:
            trained = sum(p.numel() for p in parameters if p.requires_grad)
            row: Row = {"part": part, "parameters": sum(p.numel() for p in parameters), "trained": trained}
            row["frozen"] = row["parameters"] - trained
            rows.append(row if recipe.lora is None else row | {"adapters": trained if part == "llm" else 0})
    return [*rows, {key: "in all" if key == "part" else sum(row[key] for row in rows) for key in rows[0]}]


def _rates(stage: Stage, recipe: Recipe) -> list[Row]:
    return [
        {
            "part": group["name"],
            "learning rate": group["peak"],
            "weight decay": group["weight_decay"],
            "tensors": len(group["params"]),
            "parameters": sum(parameter.numel() for parameter in group["params"]),
        }
        for group in parameter_groups(stage, recipe)
    ]


def _memory(stage: Stage, recipe: Recipe, loads: list[ClipLoad]) -> list[Row]:
    """For the task with the longest rows: one process, then several that share the weights."""
    load = max(loads, key=lambda load: load.tokens)
    Shares.of(recipe, 1, 0)  # says what is wrong with batch and micro_batch
    needs: dict[str, dict[str, float]] = {}
    for processes in (1, *_PROCESSES):
        with suppress(ValueError):  # a batch that cannot be dealt out to so many
            clips = Shares.of(recipe, processes, 0).micro_batch
            need = memory(stage, recipe, load, clips, processes)
            needs["1 process" if processes == 1 else f"{processes}, fsdp2"] = {
                "clips at once": clips,
                "weights": need.weights / GIB,
                "gradients": need.gradients / GIB,
                "optimiser": need.optimizer / GIB,
                "activations": need.kept / GIB,
                "activations, checkpointing": need.kept_checkpointing / GIB,
                "frozen encoders": need.encoders / GIB,
                "in all, as the recipe is": need.total(recipe.checkpointing) / GIB,
            }
    names = next(iter(needs.values()))
    return [{"GiB": name} | {column: values[name] for column, values in needs.items()} for name in names]


def _time(stage: Stage | None, recipe: Recipe, phases: list[_Phase]) -> dict[str, float]:
    """Operations over the rate of a large multiplication, which no step reaches; and the speed of the run's own log."""
    figures: dict[str, float] = {}
    if stage is not None:
        total = sum(
            (phase.end - phase.start) * recipe.batch * share * operations(stage, recipe, load)
            for phase in phases
            for share, load in phase.loads()
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rate = multiplication_rate(device, getattr(torch, recipe.precision))
        figures["floating-point operations of a step, TFLOP"] = total / recipe.steps / 1e12
        figures[f"a large multiplication here ({device.type}, {recipe.precision}), measured, TFLOP/s"] = rate / 1e12
        figures["a step at that rate, s, at best"] = total / recipe.steps / rate
        figures["all steps at that rate, hours, at best"] = total / rate / 3600
    if rows := list(read_rows(Path(recipe.out) / FILE)):
        seconds = median(row["seconds"] for row in rows[-_LAST:])
        figures["a step, measured in this run, s"] = seconds
        figures["the steps that are left, as measured, hours"] = (recipe.steps - rows[-1]["step"]) * seconds / 3600
    return figures
