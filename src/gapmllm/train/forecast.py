"""What the clips of a run hold, before it runs: frames, questions, tokens, of each task of the mixture.

Where a data set is here, a few of its clips are looked at; else a few small rooms, whose questions read alike. Without
the model's tokenizer, texts are counted in pieces (a word, a digit or a run of signs), into which Qwen's tokenizer cuts
a text first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from gapmllm.model import GapMllmConfig, Prompts
from gapmllm.scenes.manifest import Manifest
from gapmllm.train.recipe import Data, Recipe, Rooms, Source
from gapmllm.train.samples import WINDOWED, Sample, Samples

SAMPLED = 2
"""Clips of each task that are looked at."""
_ROOMS = Rooms(count=SAMPLED, width=128, height=96)
_USUAL = (640, 480)  # pixels of a frame where none can be looked at
_PIECE = re.compile(r" ?[^\W\d_]+|\d| ?[^\w\s]+|\s+|_")
PREFIX, FRAME, TURN = 14, 2, 5
"""Tokens of the chat format: system line and the user's turn; start and end of a frame; the assistant's turn."""


@dataclass(frozen=True)
class ClipLoad:
    """What one clip of a task costs, on average."""

    frames: float
    rows: int
    cols: int
    """Visual tokens of a frame."""
    questions: float
    sequences: float
    """Rows of the LLM's batch: 1 with packing, else one for each question; 0 in the stage geometry."""
    length: float
    """Tokens of a row."""
    answers: float
    """Answer tokens, which the loss is over."""

    @property
    def visual(self) -> float:
        return self.frames * self.rows * self.cols

    @property
    def tokens(self) -> float:
        """Of the LLM; in the stage geometry visual tokens."""
        return self.sequences * self.length or self.visual


@dataclass(frozen=True)
class TaskForecast:
    """A (source, task) of the mixture."""

    source: str
    task: str
    share: float
    """Of the clips."""
    scenes: int | None
    """None where the data is not here."""
    units: int | None
    """What is drawn once an epoch: scenes, or stored clips."""
    stored: int | None
    """Questions that the data set brings; None: they are made anew."""
    load: ClipLoad | None
    """None where the model's sizes are not known."""
    basis: str
    """What the load was estimated from."""
    missing: str | None
    """Why the data cannot be used now, and what to do."""


def forecast(recipe: Recipe, config: GapMllmConfig | None, prompts: Prompts | None) -> list[TaskForecast]:
    """Of all tasks of a recipe without phases (`Recipe.schedule` gives these). Deterministic."""
    data = recipe.data
    pairs = [
        (source, task, weight)
        for source in data.sources
        for task, weight in (source.tasks or {"": source.weight}).items()
    ]
    total = sum(weight for _, _, weight in pairs)
    return [_one(recipe, source, task, weight / total, config, prompts) for source, task, weight in pairs]


def _one(
    recipe: Recipe, source: Source, task: str, share: float, config: GapMllmConfig | None, prompts: Prompts | None
) -> TaskForecast:
    data, alone = recipe.data, source.model_copy(update={"tasks": {task: share} if task else {}})
    seen = _look_at(data, alone)
    clips = seen.clips or _look_at(data, Source(rooms=_ROOMS, tasks=alone.tasks)).clips
    frames = _frames(data, task) if seen.missing else fmean(len(clip.frames) for clip in clips)
    load = None if config is None else _load(recipe, config, prompts, clips, frames, seen.size)
    basis = seen.basis + ("" if prompts or not task else ", text in pieces without the tokenizer")
    name = f"rooms, {source.rooms.split}" if source.rooms else f"{source.dataset}, {source.split or 'all'}"
    return TaskForecast(name, task, share, seen.scenes, seen.units, seen.stored, load, basis, seen.missing)


@dataclass(frozen=True)
class _Seen:
    """What a look at one source and task shows."""

    clips: list[Sample]
    size: tuple[int, int]
    """Of a frame, pixels."""
    basis: str
    scenes: int | None = None
    units: int | None = None
    stored: int | None = None
    missing: str | None = None


def _look_at(data: Data, source: Source) -> _Seen:
    """source: of one task, or of none."""
    if (rooms := source.rooms) is not None:
        small = rooms.model_copy(update={"width": _ROOMS.width, "height": _ROOMS.height, "device": "cpu"})
        samples = _samples(data, source.model_copy(update={"rooms": small}))
        clips, size = [samples[index] for index in range(SAMPLED)], (rooms.width, rooms.height)
        return _Seen(clips, size, "a few clips of small rooms", rooms.count, rooms.count)
    assert source.dataset is not None
    try:
        _check_here(source.dataset)
        samples = _samples(data, source)
        clips = [samples[index] for index in range(SAMPLED)]
    except ValueError as error:
        return _Seen([], _USUAL, f"rooms and frames of {_USUAL[0]}x{_USUAL[1]}", missing=str(error))
    (entry,) = samples.entries
    (task,) = source.tasks or ("",)
    questions = Manifest.read(source.dataset).counts(source.split).questions.get(task, 0)
    stored = questions if source.ask == "stored" else None
    return _Seen(clips, clips[0].frames[0].size, "a few clips of the data", len(entry.scenes), len(entry), stored)


def _check_here(dataset: str) -> None:
    if "://" in dataset:
        raise ValueError(f"{dataset} is not looked at: a plan fetches nothing")
    if not Path(dataset).exists():
        raise ValueError(f"{dataset} is not there yet; gapmllm data import RECORDINGS --out {dataset} makes it")


def _samples(data: Data, source: Source) -> Samples:
    return Samples(data.model_copy(update={"sources": (source,), "clips_per_scene": 1}), seed=0, count=SAMPLED)


def _frames(data: Data, task: str) -> int:
    """Of a clip, at most."""
    if task in WINDOWED:
        return data.frames
    return 1 + 2 * data.neighbours if task == "grounding" else data.canonical_frames


def _load(
    recipe: Recipe,
    config: GapMllmConfig,
    prompts: Prompts | None,
    clips: list[Sample],
    frames: float,
    size: tuple[int, int],
) -> ClipLoad:
    rows, cols = config.grid.size(*size)
    asked = [question for clip in clips for question in clip.questions]
    questions = len(asked) / len(clips)
    if not asked:
        return ClipLoad(frames, rows, cols, questions=0, sequences=0, length=0, answers=0)
    prefix = (len(prompts.prefix([])) if prompts else PREFIX) + frames * (rows * cols + FRAME)
    answer = fmean(len(prompts.answer(q.answer)) if prompts else pieces(q.answer) + 1 for q in asked)
    question = fmean(len(prompts.question(q.prompt)) if prompts else pieces(q.prompt) + TURN for q in asked)
    in_a_row = questions if recipe.packing else 1
    return ClipLoad(
        frames=frames,
        rows=rows,
        cols=cols,
        questions=questions,
        sequences=questions / in_a_row,
        length=prefix + in_a_row * (question + answer),
        answers=questions * answer,
    )


def pieces(text: str) -> int:
    """How many pieces Qwen's tokenizer cuts a text into, about; most are one token."""
    return len(_PIECE.findall(text))
