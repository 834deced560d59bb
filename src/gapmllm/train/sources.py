"""Scenes by number: rooms that are built on the spot, or a data set on disk."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from gapmllm.scenes.manifest import Manifest
from gapmllm.scenes.records import Scene
from gapmllm.scenes.synth.scene import SynthOptions, make_scene
from gapmllm.scenes.visibility import with_visibility
from gapmllm.tasks import LOOKING
from gapmllm.train.recipe import Rooms, Source

_ROOMS = 32  # in memory: the last ones come again where there are few, or several clips of each
_RECORDINGS = 8  # likewise; they are larger


class Scenes(ABC):
    """The scenes of a source. name: for messages."""

    name: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Scene: ...

    def clips_of(self, task: str) -> tuple[tuple[int, int, int], ...]:
        """(scene, clip, number of questions) of all stored clips with questions of a task."""
        return ()

    def tasks_stored(self) -> str:
        """Which tasks have stored questions, for a message."""
        return "none"

    def check_askable(self, task: str) -> None:
        """ValueError if no question of this task can be made."""
        return


def open_source(source: Source, held_out: bool) -> Scenes:
    """ValueError for a data set that is not there, whose conventions are others or that has no such split."""
    if source.rooms is not None:
        return RoomScenes(source.rooms)
    assert source.dataset is not None
    return StoredScenes(source.dataset, source.split, source.hold_out, held_out)


class RoomScenes(Scenes):
    """Procedural rooms (`gapmllm.scenes.synth`)."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self.name = f"rooms of split {rooms.split}"

    def __len__(self) -> int:
        return self.rooms.count

    def __getitem__(self, index: int) -> Scene:
        rooms = self.rooms
        device: str = rooms.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda":  # of this process, or of the one whose batches this worker prepares
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        return _room(rooms.first + index, rooms.options(device))


@lru_cache(maxsize=_ROOMS)
def _room(number: int, options: SynthOptions) -> Scene:
    return make_scene(number, options)


class StoredScenes(Scenes):
    """A data set that `gapmllm data` made. hold_out: of each scene either all frames but every n-th, or these alone."""

    def __init__(self, folder: str, split: str | None, hold_out: int | None, held_out: bool) -> None:
        manifest = Manifest.read(folder)
        manifest.check_conventions(folder)
        from gapmllm.scenes.dataset import SceneDataset  # needs `datasets`, which training on rooms does without

        self.name = f"{folder}, split {split}" if split else folder
        self.counts = manifest.counts(split)
        self.hold_out, self.held_out = hold_out, held_out
        self._scenes = SceneDataset(folder, split)
        self._read = lru_cache(maxsize=_RECORDINGS)(self._open)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_read"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._read = lru_cache(maxsize=_RECORDINGS)(self._open)

    def __getitem__(self, index: int) -> Scene:
        return self._read(int(index))

    def _open(self, index: int) -> Scene:
        scene = self._scenes[index]
        if self.hold_out is None:
            return with_visibility(scene)
        chosen = [frame for place, frame in enumerate(scene.frames) if (place % self.hold_out == 0) == self.held_out]
        return with_visibility(replace(scene, frames=tuple(chosen), clips=()))

    def clips_of(self, task: str) -> tuple[tuple[int, int, int], ...]:
        return self._scenes.clips_of(task)

    def tasks_stored(self) -> str:
        return ", ".join(sorted(self.counts.questions)) or "none"

    def check_askable(self, task: str) -> None:
        needed = {"detection": self.counts.objects, "frame": self.counts.expressions}
        needed |= {"grounding": self.counts.expressions, "captioning": self.counts.expressions}
        needed |= {LOOKING: self.counts.objects}
        if task in needed and not needed[task]:
            what = "objects" if task in ("detection", LOOKING) else "descriptions of objects"
            raise ValueError(f"{self.name} has no {what}, which the task {task!r} asks about; leave the task out")
