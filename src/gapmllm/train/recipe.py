"""Recipes: what a run trains, on what, how long. YAML files, read into frozen classes; unknown keys are errors.

`recipes/` holds the package's own. Relative names of model folders (`init: ../align`) start at the run's own folder
`out`, so a stage finds the one before it wherever runs are kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gapmllm.model import PARTS, TRAINED
from gapmllm.scenes.synth.scene import SynthOptions
from gapmllm.tasks import COLORS, TASKS
from gapmllm.tasks.looking import LOOKING
from gapmllm.tasks.questions import QuestionPlan
from gapmllm.train.reading import error_lines, read_table


def _no_bool(value: Any) -> Any:
    """YAML reads yes and on as true, which would pass for 1."""
    if isinstance(value, bool):
        raise ValueError(f"a number is needed, got {str(value).lower()}")
    return value


_Float = Annotated[float, BeforeValidator(_no_bool), Field(le=1e6, allow_inf_nan=False)]
Positive = Annotated[_Float, Field(gt=0)]
Share = Annotated[_Float, Field(ge=0, le=1)]
Weight = Annotated[_Float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000, strict=True)]
Text = Annotated[str, Field(min_length=1)]
MOST_CLIPS = 50_000_000
"""Of a run: what is listed in memory before it starts, 10 bytes each."""

LOSSES = {
    "geometry": ("camera", "depth", "points"),
    **dict.fromkeys(
        ("language", "align", "adapt"),
        ("answers", "centers", "classes", "labels", "marks", "places", "pointing", "points", "yaws"),
    ),
}
"""Stage -> the losses that it may have (`gapmllm.train.stages`)."""
ASKABLE = (*TASKS, LOOKING)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rooms(_Part):
    """Procedural rooms, built and filmed while training runs; nothing on disk."""

    split: str = "train"
    """Seed space: train, val or test share no room."""
    first: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    """Number of the first room."""
    count: Annotated[int, Field(ge=1, le=10_000_000, strict=True)] = 1_000_000
    """Rooms, at most; after the last one the first comes again."""
    frames: Annotated[int, Field(ge=4, le=64)] = 8
    """Frames that each is filmed with."""
    width: Annotated[int, Field(ge=16, le=4096)] = 256
    height: Annotated[int, Field(ge=16, le=4096)] = 192
    camera: str = "hand"
    """hand: all kinds of cameras, held in the hand; robot: always the same one, on a mast."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where rooms are rendered; auto: on a GPU if there is one."""

    def options(self, device: str) -> SynthOptions:
        """How they are filmed. device: where they are rendered."""
        return SynthOptions(
            split=self.split,
            frames=self.frames,
            width=self.width,
            height=self.height,
            camera=self.camera,
            device=device,
        )

    @model_validator(mode="after")
    def _can_be_filmed(self) -> Self:
        self.options("cpu")
        return self


class Source(_Part):
    """Where scenes come from, and what is asked about them. Exactly one of rooms and dataset."""

    rooms: Rooms | None = None
    dataset: str | None = None
    """Folder or URL of a data set (`gapmllm data …`); relative to where the command runs."""
    split: str | None = "train"
    """Of the data set; null: all of it."""
    tasks: dict[str, Positive] = {}
    """Task -> its weight in the mixture of all sources. The stage geometry has no tasks."""
    weight: Positive = 1.0
    """Of the source where it has no tasks (stage geometry)."""
    ask: Literal["anew", "stored"] = "anew"
    """anew: questions are made from the scene each time; stored: those that the data set brings are used, each clip
    once an epoch."""
    hold_out: Annotated[int, Field(ge=2)] | None = None
    """Every n-th frame of each scene is kept out of training and used by `evaluate` alone."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.rooms is None) == (self.dataset is None):
            raise ValueError("a source needs rooms or dataset, one of the two")
        if unknown := sorted(set(self.tasks) - set(ASKABLE)):
            raise ValueError(f"no task {', '.join(unknown)}; choose from {', '.join(ASKABLE)}")
        if self.ask == "stored" and self.dataset is None:
            raise ValueError('ask: "stored" needs a dataset; rooms bring no questions')
        if self.ask == "stored" and LOOKING in self.tasks:
            raise ValueError(f"questions of {LOOKING} are made anew; no data set stores them")
        if self.hold_out is not None and (self.rooms or self.ask == "stored"):
            raise ValueError(
                "hold_out keeps frames of a dataset whose questions are asked anew; rooms hold out the split val, and "
                "stored questions are about all frames"
            )
        return self


class Data(_Part):
    """What clips look like and what is asked about them."""

    sources: tuple[Source, ...]
    frames: Count = 4
    """Of a clip for geometry, points, detection and looking (paper: 4)."""
    marks: Annotated[int, Field(ge=1, le=len(COLORS))] = 8
    """Marked pixels of a clip, at most, one colour each."""
    questions: Count = 16
    """Of a clip, at most; of more, some are drawn."""
    canonical_frames: Count = 32
    """Frames that a scene's grounding and captioning questions share (paper: 32)."""
    neighbours: Annotated[int, Field(ge=0)] = 9
    """Grounding, step 2: frames before and after the chosen one, each (paper: 9)."""
    min_share: Share = QuestionPlan.min_share
    """Objects that cover less of every frame's image are not asked for."""
    points: Literal["both", "point", "label"] = "both"
    """What the answer to a points question holds."""
    clips_per_scene: Count = 1
    """Clips that are drawn each time a scene is opened or built."""

    @model_validator(mode="after")
    def _has_sources(self) -> Self:
        if not self.sources:
            raise ValueError("data needs at least one source")
        return self


class Evaluate(_Part):
    """Held-out questions, answered and scored while training runs."""

    every: Count = 500
    """Steps between; and once at the end."""
    at_start: bool = False
    """Before the first step, too."""
    clips: Count = 16
    """Clips, of all tasks together."""
    questions: Count = 8
    """Of each clip, at most."""
    max_tokens: Count = 1280
    """Of an answer, at most; what is cut off counts as it reads (released models: 1280)."""
    sources: tuple[Source, ...] = ()
    """Default: those of `data`, with rooms and data sets of split val, or the frames that `hold_out` keeps."""


class Save(_Part):
    """Checkpoints of the run."""

    every: Count = 500
    """Steps between."""
    keep: Count = 2
    """The last so many stay."""


Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Lora(_Part):
    """Low-rank adapters on the LLM's linear layers instead of its own weights (peft; arXiv 2106.09685)."""

    rank: Count = 16
    alpha: Count = 32
    dropout: Share = 0.0
    targets: tuple[Linear, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Phase(_Part):
    """A piece of a curriculum: for so many steps, some of the recipe's settings are others."""

    steps: Count
    data: dict[str, Any] = {}
    """Fields of `data`."""
    losses: dict[str, Weight] | None = None


class Recipe(_Part):
    """All of a run. `read_recipe` reads one."""

    stage: Literal["geometry", "language", "align", "adapt"]
    out: Annotated[Text, AfterValidator(os.path.expanduser)]
    """The run's folder: log, checkpoints, and at the end the model. Relative to where the command runs."""
    init: Text
    """The model to start from: a preset, a hub id, or a folder; "../language": beside the run's own folder."""
    geometry: Text | None = None
    """Where the geometry encoder comes from, for an `init` without one: a run of the stage geometry, or a VGGT."""
    model: dict[str, Any] = {}
    """Fields of `GapMllmConfig` that replace those of `init`, such as fusion; new levels then start anew."""
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0

    steps: Count
    """Optimiser steps."""
    batch: Count = 8
    """Clips of an optimiser step, over all processes."""
    micro_batch: Count | None = None
    """Clips that a process runs at once; the rest of its share follows by accumulation. Default: all of its share."""
    packing: bool = True
    """A clip and all of its questions in one row; false: a row for each question. The gradients are the same."""
    data: Data
    phases: tuple[Phase, ...] = ()
    """A curriculum; the phases' steps add up to `steps`."""
    losses: dict[str, Weight] = {}
    """Loss -> its weight; default: answers, or camera, depth and points, with weight 1."""

    lr: Positive | dict[str, Positive]
    """Of everything that the stage trains; or by part of the model, and no other parts are trained. `probes`, the
    heads of the dense losses, go by the largest unless named."""
    weight_decay: Weight = 0.01
    warmup: Share = 0.03
    """Share of the steps; then a cosine to 0."""
    clip_norm: Positive = 1.0
    """Of the gradient."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: mixed, weights and their updates stay float32."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """With several processes: each holds all weights, or a share of them. A trained encoder under fsdp2 needs clips of
    one size, or micro_batch 1."""
    lora: Lora | None = None
    workers: Annotated[int, Field(ge=0)] = 1
    """Processes that prepare batches, for each training process."""
    save: Save = Save()
    evaluate: Evaluate | None = Evaluate()
    track: Literal["tensorboard"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.steps * self.batch > MOST_CLIPS:
            raise ValueError(f"steps * batch is {self.steps * self.batch:,} clips; {MOST_CLIPS:,} are allowed")
        self._check_losses()
        self._check_parts()
        if self.phases and sum(phase.steps for phase in self.phases) != self.steps:
            total = sum(phase.steps for phase in self.phases)
            raise ValueError(f"the phases have {total} steps, and steps is {self.steps}: make them equal")
        self._check_sources("data.sources", self.data.sources)
        self._check_sources("evaluate.sources", self.evaluate.sources if self.evaluate else ())
        for number, phase in enumerate(self.phases):
            try:
                changed = self._with(phase)  # each must be a valid recipe
            except ValidationError as error:
                raise ValueError(f"phases.{number}.data: " + "; ".join(error_lines(error))) from error
            self._check_sources(f"phases.{number}.data.sources", changed.data.sources)
        return self

    def _check_sources(self, place: str, sources: tuple[Source, ...]) -> None:
        for number, source in enumerate(sources):
            if bool(source.tasks) == (self.stage == "geometry"):
                needed = "has no tasks" if source.tasks else "needs tasks, such as {points: 1}"
                raise ValueError(f"the stage {self.stage} {needed} ({place}.{number})")

    def _check_losses(self) -> None:
        known = LOSSES[self.stage]
        for losses in (self.losses, *(phase.losses or {} for phase in self.phases)):
            if unknown := sorted(set(losses) - set(known)):
                raise ValueError(f"the stage {self.stage} has no loss {', '.join(unknown)}; it has {', '.join(known)}")
            if not self.packing and any(losses.get(name) for name in known if name != "answers"):
                raise ValueError("packing: false shows a clip once a question; dense losses would count it so often")
            if losses.get("pointing") and not losses.get("answers"):
                raise ValueError("pointing is where the LLM looks while it answers: give the loss answers a weight")
            if losses and not any(losses.values()):
                raise ValueError("all losses have weight 0: nothing would be trained")

    def _check_parts(self) -> None:
        if isinstance(self.lr, dict) and (unknown := sorted(set(self.lr) - {*PARTS, "probes"})):
            raise ValueError(f"lr: no part {', '.join(unknown)}; a model has {', '.join(PARTS)}, and probes")
        if not set(self.parts()) & set(TRAINED[self.stage]):
            raise ValueError(
                f"lr trains {', '.join(self.parts()) or 'no part'}: the stage {self.stage} is about "
                f"{', '.join(TRAINED[self.stage])}, give one of these a learning rate"
            )
        if self.lora is not None and "llm" not in self.parts():
            raise ValueError(f"lora adapts the LLM, and this run trains {', '.join(self.parts())}")

    def parts(self) -> tuple[str, ...]:
        """The parts of the model that are trained."""
        if isinstance(self.lr, dict):
            return tuple(part for part in PARTS if part in self.lr)
        return TRAINED[self.stage]

    def loss_weights(self) -> dict[str, float]:
        """Loss -> weight, without those of weight 0."""
        default = LOSSES["geometry"] if self.stage == "geometry" else ("answers",)
        weights = self.losses or dict.fromkeys(default, 1.0)
        return {name: weight for name, weight in weights.items() if weight > 0}

    def schedule(self) -> list[tuple[int, Recipe]]:
        """(first step, the recipe from there on), for each phase; one entry without phases."""
        if not self.phases:
            return [(0, self)]
        starts = [sum(phase.steps for phase in self.phases[:index]) for index in range(len(self.phases))]
        return [(start, self._with(phase)) for start, phase in zip(starts, self.phases, strict=True)]

    def _with(self, phase: Phase) -> Recipe:
        data = self.data.model_dump(exclude_unset=True) | phase.data
        losses = self.losses if phase.losses is None else phase.losses
        return self.model_copy(update={"data": Data.model_validate(data), "losses": losses, "phases": ()})

    def folder(self, name: str) -> str:
        """A model's name as `load` takes it: relative folders start at `out`."""
        if name.startswith("."):
            return str((Path(self.out) / name).resolve())
        return name


def read_recipe(path: Path, settings: Sequence[str] = (), data: str | None = None) -> Recipe:
    """A YAML file, with settings such as "batch=4" or "data.marks=2" on top of it; values are YAML, too.

    data: a data set that takes the place of the recipe's own. ValueError that names the file and the key.
    """
    return recipe_of(read_table(path, settings, data), path)


def recipe_of(values: dict[str, Any], source: str | Path) -> Recipe:
    """The recipe of a table of values; ValueError that names the source and each key that is wrong."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = error_lines(error)
        raise ValueError("\n  ".join([f"{source}: {len(lines)} of its keys cannot be used", *lines])) from error
