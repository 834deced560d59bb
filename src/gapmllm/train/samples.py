"""Which clip is the i-th of a run: a function of the recipe and of i, so there is no position to lose.

The mixture draws a (source, task) for every index by weight. Within a source, scenes come in a new random order every
epoch; a scene that is opened gives `clips_per_scene` clips, taking turns with others. Stored questions come once an
epoch each. All else that is random (the window of frames, the marks, which questions) is drawn from the recipe's seed
and i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Clip, Frame, Question, Scene
from gapmllm.tasks import LOOKING
from gapmllm.tasks.questions import QuestionPlan, make_clips
from gapmllm.tasks.questions.looking import looking_questions
from gapmllm.tasks.questions.points import ask_only
from gapmllm.train.recipe import Data, Source
from gapmllm.train.sources import Scenes, open_source

WINDOWED = ("points", "detection", LOOKING, "")
"""Tasks whose clips are a few neighbouring frames; "": the stage geometry, which asks nothing."""
_TRIES = 100
MIXED = 8
"""Scenes that are open at a time where each gives several clips."""


@dataclass(frozen=True)
class Sample:
    """A clip, ready to be drawn: its frames, and the questions that are asked."""

    scene: Scene
    clip: Clip
    task: str
    """"" in the stage geometry."""

    @property
    def name(self) -> str:
        """For messages: scene, clip and questions."""
        asked = ", ".join(question.id for question in self.questions)
        return f"{self.scene.id}/{self.clip.id}" + (f" ({asked})" if asked else "")

    @cached_property
    def frames(self) -> list[Frame]:
        return self.scene.clip_frames(self.clip)

    @property
    def questions(self) -> tuple[Question, ...]:
        return self.clip.questions


@dataclass(frozen=True)
class _Entry:
    """A (source, task) of the mixture. Units are scenes, or parts of stored clips."""

    scenes: Scenes
    task: str
    weight: float
    clips: int
    """In a row from each unit."""
    stored: tuple[tuple[int, int, slice], ...] | None
    """(scene, clip, which of its shuffled questions); None: questions are made anew, the units are scenes."""

    def __len__(self) -> int:
        return len(self.scenes) if self.stored is None else len(self.stored)


class Samples(Dataset[Sample]):
    """The clips of a run by index, of which there is no end; `count` is how many there will be.

    held_out: the sources of an evaluation: of scenes with `hold_out` the frames that training does not see.
    ValueError for a source that is not there or a task without data.
    """

    def __init__(self, data: Data, *, seed: int, count: int, held_out: bool = False) -> None:
        self.data, self.seed, self.count = data, seed, count
        self.entries = [entry for source in data.sources for entry in _entries(source, data, held_out)]
        weights = np.array([entry.weight for entry in self.entries])
        rng = np.random.default_rng([seed, 0])
        self._which = rng.choice(len(weights), size=count, p=weights / weights.sum()).astype(np.int16)
        self._turn = np.zeros(count, dtype=np.int64)  # how many samples of its entry came before
        for number in range(len(weights)):
            of_it = self._which == number
            self._turn[of_it] = np.arange(int(of_it.sum()))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[self._which[index]]
        rng = np.random.default_rng([self.seed, 1, index])
        turn = _spread(int(self._turn[index]), entry.clips)
        problems: dict[str, None] = {}
        others = np.random.default_rng([self.seed, 4, index])
        for attempt in range(_TRIES):
            unit = int(others.integers(len(entry))) if attempt else _shuffled(len(entry), turn, self.seed)
            if attempt and len(entry) <= _TRIES:  # each once
                unit = (_shuffled(len(entry), turn, self.seed) + attempt) % len(entry)
            number = unit if entry.stored is None else entry.stored[unit][0]
            try:
                sample = self._draw(entry, unit, rng)
            except ValueError as error:
                raise ValueError(f"{entry.scenes.name}, scene {number}: {error}") from error
            if sample is not None:
                return sample
            problems[str(number)] = None
        raise ValueError(
            f"{entry.scenes.name}: of {len(problems)} scenes ({', '.join(problems)}) none has a clip for "
            f"{'the task ' + repr(entry.task) if entry.task else 'geometry: frames with depth are needed'}"
        )

    def _draw(self, entry: _Entry, unit: int, rng: np.random.Generator) -> Sample | None:
        """A clip of one unit, None where it has none: an empty corner of a room, a scene without descriptions."""
        if entry.stored is not None:
            number, position, part = entry.stored[unit]
            scene = entry.scenes[number]
            order = np.random.default_rng([self.seed, 3, number, position])  # the same for all parts
            return _asked(scene, scene.clips[position], entry.task, order, part)
        scene = entry.scenes[unit]
        if entry.task in WINDOWED:
            scene = _window(scene, self.data.frames, rng)
        if not entry.task:
            if not scene.frames or any(frame.depth is None for frame in scene.frames):
                return None
            return Sample(scene, Clip(id="all", frames=tuple(range(len(scene.frames))), questions=()), "")
        asked = "points" if entry.task == LOOKING else entry.task
        plan = self._plan(asked, rng)
        if entry.task == LOOKING:  # that many crosses, or down to half of them: their number is asked for, too
            plan = replace(plan, points=int(rng.integers((plan.points + 1) // 2, plan.points + 1)))
        clips = make_clips(scene, plan, Problems(scene.id))
        clips = [clip for clip in clips if clip.questions and clip.questions[0].task == asked]
        if not clips:
            return None
        clip = clips[int(rng.integers(len(clips)))]
        sample = _asked(scene, clip, asked, rng, slice(self.data.questions))
        questions: Sequence[Question] = sample.questions
        if entry.task == LOOKING:  # of the questions that are left: a count is of the crosses that are drawn
            questions = looking_questions(sample.clip, sample.frames, rng)[: self.data.questions]
        elif entry.task == "points" and self.data.points != "both":
            questions = [ask_only(question, self.data.points) for question in questions]
        return Sample(scene, replace(sample.clip, questions=tuple(questions)), entry.task)

    def _plan(self, task: str, rng: np.random.Generator) -> QuestionPlan:
        data = self.data
        return QuestionPlan(
            tasks=(task,),
            seed=int(rng.integers(2**31)),
            window_frames=data.frames,
            windows=1,
            points=data.marks,
            canonical_frames=data.canonical_frames,
            neighbours=data.neighbours,
            min_share=data.min_share,
        )


def _asked(scene: Scene, clip: Clip, task: str, rng: np.random.Generator, part: slice) -> Sample:
    """The clip with a part of its questions of the task, in random order."""
    questions = [question for question in clip.questions if question.task == task]
    chosen = rng.permutation(len(questions))[part]
    return Sample(scene, replace(clip, questions=tuple(questions[i] for i in chosen)), task)


def _entries(source: Source, data: Data, held_out: bool) -> list[_Entry]:
    scenes = open_source(source, held_out)
    if not source.tasks:
        return [_Entry(scenes, "", source.weight, data.clips_per_scene, None)]
    if source.ask == "stored":
        return [_stored_entry(scenes, task, weight, data.questions) for task, weight in source.tasks.items()]
    for task in source.tasks:
        scenes.check_askable(task)
    return [_Entry(scenes, task, weight, data.clips_per_scene, None) for task, weight in source.tasks.items()]


def _stored_entry(scenes: Scenes, task: str, weight: float, most: int) -> _Entry:
    """Clips with more than `most` questions come in several parts, about as large as each other."""
    stored = tuple(
        (scene, clip, slice(part, None, parts))
        for scene, clip, questions in scenes.clips_of(task)
        for parts in [-(-questions // most)]
        for part in range(parts)
    )
    if not stored:
        raise ValueError(f"{scenes.name} stores no questions of the task {task!r}; it has {scenes.tasks_stored()}")
    return _Entry(scenes, task, weight, 1, stored)


def _window(scene: Scene, count: int, rng: np.random.Generator) -> Scene:
    """Some frames of the scene, evenly apart: a random start, a random stride that fits.

    Each doubling of the stride is as likely: of a long recording, neighbours as well as frames far apart.
    """
    total = len(scene.frames)
    count = min(count, total)
    most = max(1, (total - 1) // max(1, count - 1))
    stride = int(np.exp(rng.uniform(0, np.log(most + 1))))
    start = int(rng.integers(total - stride * (count - 1)))
    return replace(scene, frames=scene.frames[start : start + stride * (count - 1) + 1 : stride], clips=())


def _spread(turn: int, clips: int) -> int:
    """Which scene the turn-th clip is of, where each gives so many: MIXED scenes take turns, so steps mix them."""
    if clips == 1:
        return turn
    block, place = divmod(turn, MIXED * clips)
    return block * MIXED + place % MIXED


def _shuffled(count: int, turn: int, seed: int) -> int:
    """The turn-th of an endless row of permutations of `count` things."""
    epoch, place = divmod(turn, count)
    return int(_permutation(count, epoch, seed)[place])


@lru_cache(maxsize=8)
def _permutation(count: int, epoch: int, seed: int) -> Any:
    return np.random.default_rng([seed, 2, epoch]).permutation(count)
