"""The data set on disk: Parquet shards of scenes, and a manifest.

rooms/manifest.json                   what it is, how it was made, SHA-256 of every shard
rooms/data/train-00000.parquet, …     one row a scene, with its encoded images

with DatasetWriter(folder, made_by={...}) as writer:       continues where a killed run stopped
    if scene_id not in writer.done: writer.add(make(scene_id))
for scene in stream_scenes(folder, "train"): ...           a few scenes in memory at a time; also from a hub or bucket
scenes = SceneDataset(folder, "train"); scenes[7]          memory-mapped, any order
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import pyarrow as pa
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, load_dataset
from datasets.table import InMemoryTable
from filelock import FileLock, Timeout

from gapmllm.scenes.manifest import FILE, Counts, Dropped, Manifest, Shard, file_hash
from gapmllm.scenes.problems import Problem, storable
from gapmllm.scenes.records import Clip, Scene
from gapmllm.scenes.rows import FEATURES, clip_from_row, scene_from_row, scene_to_row

SHARD_BYTES = 64 * 2**20
"""A shard is written when its scenes reach this size: what a killed run loses at most, and what is held in memory."""
_LOCK = ".lock"
_GROUP_BYTES = 16 * 2**20  # of one row group: what a reader holds in memory


@dataclass(frozen=True)
class _Row:
    """A scene that waits for its shard, as it will be stored: Python's own text and numbers take ten times as much."""

    scene_id: str
    table: pa.Table
    counts: Counts


class DatasetWriter:
    """Writes a data set, shard by shard. Each shard and the manifest appear whole or not at all.

    An existing folder is continued if it was made the same way (`made_by`), else ValueError; so if another process
    writes to it. `done` are the ids of the scenes that it has already; unusable ones are tried again.
    """

    def __init__(self, folder: Path, made_by: dict[str, Any], vocabulary: Iterable[str] | None = None) -> None:
        names = None if vocabulary is None else tuple(sorted(set(vocabulary)))
        fresh = Manifest(made_by=made_by, vocabulary=names)
        self.folder = folder
        if not (folder / FILE).exists() and folder.exists() and any(path.name != _LOCK for path in folder.iterdir()):
            raise ValueError(f"{folder} holds other files and no {FILE}: choose a folder that is new or empty")
        self._pending: dict[str, list[_Row]] = {}
        self._problems: list[Problem] = []
        self._unusable: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / _LOCK, timeout=0)
        try:
            self._lock.acquire()
            self.manifest = self._continued(fresh)
            self.done = self.manifest.done()
            self.manifest.write(folder)
        except Timeout as error:
            raise ValueError(f"{folder} is being written by another process: wait for it, or stop it") from error
        except BaseException:
            self._lock.release()
            raise

    def _continued(self, fresh: Manifest) -> Manifest:
        """The manifest to go on with: that of the folder, if it has one, else a fresh one."""
        if not (self.folder / FILE).exists():
            return fresh
        found = Manifest.read(self.folder)
        old, new = ({**m.made_by, "package": m.package, "vocabulary": m.vocabulary} for m in (found, fresh))
        if old != new:
            changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
            raise ValueError(
                f"{self.folder} was made with other options ({', '.join(changed)}): give the same ones to continue it, "
                "or another folder"
            )
        return found.to_continue()

    def add(self, scene: Scene, problems: Sequence[Problem] = ()) -> None:
        """Take one scene, and what of it could not be used. Raises ValueError for a scene that is there already."""
        if scene.id in self.done:
            raise ValueError(f"{self.folder} has a scene {scene.id!r} already; see `done`")
        self.done.add(scene.id)
        rows = self._pending.setdefault(scene.split, [])
        table = pa.Table.from_pylist([scene_to_row(scene)], schema=FEATURES.arrow_schema)
        rows.append(_Row(scene.id, table, count_scene(scene)))
        self._problems += problems
        if sum(row.table.nbytes for row in rows) >= SHARD_BYTES:
            self._write_shard(scene.split)

    def drop(self, scene_id: str, problems: Sequence[Problem]) -> None:
        """Note a scene of which nothing can be used."""
        self._unusable.append(storable(scene_id))
        self._problems += problems

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for split in list(self._pending):  # also when stopped half-way: whole scenes are worth keeping
                self._write_shard(split)
            self._update(complete=kind is None)
        finally:
            self._lock.release()

    def _write_shard(self, split: str) -> None:
        rows = self._pending.pop(split)
        index = sum(shard.split == split for shard in self.manifest.shards)
        file = f"data/{split}-{index:05d}.parquet"
        partial = self.folder / (file + ".part")
        partial.parent.mkdir(exist_ok=True)
        table = pa.concat_tables([row.table for row in rows])
        group = max(1, _GROUP_BYTES * len(rows) // table.nbytes)
        with _without_bars():
            Dataset(InMemoryTable(table)).to_parquet(partial, batch_size=group)
        shard = Shard(
            file=file,
            split=split,
            bytes=partial.stat().st_size,
            sha256=file_hash(partial),
            scene_ids=tuple(row.scene_id for row in rows),
            counts=Counts.total(row.counts for row in rows),
        )
        os.replace(partial, self.folder / file)
        self._update(shards=(*self.manifest.shards, shard))

    def _update(self, **changes: Any) -> None:
        """Write the manifest with the changes and with what was dropped of the scenes that are in it."""
        manifest = self.manifest.model_copy(update={**changes, "unusable": (*self.manifest.unusable, *self._unusable)})
        settled = manifest.done() | set(manifest.unusable)
        entries = summarise([problem for problem in self._problems if problem.scene in settled])
        self.manifest = manifest.model_copy(update={"dropped": (*manifest.dropped, *entries)})
        self._problems = [problem for problem in self._problems if problem.scene not in settled]
        self._unusable = []
        self.manifest.write(self.folder)


def stream_scenes(folder: str | Path, split: str | None = None) -> Iterator[Scene]:
    """Scenes one after another, in the order in which they were written, a few in memory at a time.

    folder: a folder or a URL (hf://datasets/user/name, s3://…). split: None for all. Raises ValueError for no data set.
    """
    manifest = Manifest.read(folder)
    for row in load_dataset("parquet", data_files=_files(folder, manifest, split), split="train", streaming=True):
        yield scene_from_row(row)


def read_scene(folder: str | Path, which: str) -> Scene:
    """One scene by its id, or by its place in the data set, from "0"; reads no other shard."""
    manifest = Manifest.read(folder)
    places = [(shard.file, row) for shard in manifest.shards for row in range(len(shard.scene_ids))]
    names = [name for shard in manifest.shards for name in shard.scene_ids]
    if which not in names and not (which.isdecimal() and int(which) < len(names)):
        raise ValueError(f"{folder} has no scene {which!r}; it has {len(names)}, counted from 0, or named by their ids")
    file, row = places[names.index(which) if which in names else int(which)]
    rows = load_dataset("parquet", data_files=_escaped(folder, file), split="train", streaming=True)
    return scene_from_row(next(iter(rows.skip(row))))


class SceneDataset(Sequence[Scene]):
    """The scenes of a split (None: of all), by index.

    Memory-mapped: `datasets` keeps a copy in its Arrow cache, which takes as much disk again. folder: a folder or a
    URL, as for `stream_scenes`. Raises ValueError for no data set and for a split that it does not have.
    """

    def __init__(self, folder: str | Path, split: str | None = None) -> None:
        self.manifest = Manifest.read(folder)
        with _without_bars():
            self._table = load_dataset("parquet", data_files=_files(folder, self.manifest, split), split="train")

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scene]: ...
    def __getitem__(self, index: int | slice) -> Scene | list[Scene]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return scene_from_row(self._table[index])

    def clips_of(self, task: str) -> tuple[tuple[int, int, int], ...]:
        """(scene, clip, number of questions) of all clips with questions of a task, by place; reads no images."""
        rows = self._table.select_columns("clips")
        return tuple(
            (scene, clip, count)
            for scene, row in enumerate(rows)
            for clip, entry in enumerate(row["clips"])
            if (count := sum(question["task"] == task for question in entry["questions"]))
        )

    def clips(self) -> Iterator[tuple[int, int, Clip]]:
        """(scene, clip, the clip itself) of all clips, by place; reads no images."""
        for scene, row in enumerate(self._table.select_columns("clips")):
            yield from ((scene, place, clip_from_row(entry)) for place, entry in enumerate(row["clips"]))


def count_scene(scene: Scene) -> Counts:
    """What the manifest says about one scene."""
    questions = [question for clip in scene.clips for question in clip.questions]
    asked: dict[str, Counter[str]] = {}
    for question in questions:
        asked.setdefault(question.task, Counter()).update(_labels(question.target))
    return Counts(
        scenes=1,
        frames=len(scene.frames),
        clips=len(scene.clips),
        expressions=len(scene.expressions),
        objects=dict(Counter(item.label for item in scene.objects)),
        questions=dict(Counter(question.task for question in questions)),
        labels_asked={task: dict(labels) for task, labels in asked.items()},
    )


def _escaped(folder: str | Path, file: str) -> str:
    """Path of a shard; `datasets` would take brackets and stars in it for a pattern."""
    return glob.escape(f"{folder}/{file}")


@contextmanager
def _without_bars() -> Iterator[None]:
    """`datasets` draws a progress bar for each shard; the command line shows its own."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _labels(target: dict[str, Any]) -> list[str]:
    """The labels of a question's target: of its objects, or its own."""
    entries = target.get("objects", [target])
    return [entry["label"] for entry in entries if entry.get("label")]


def _files(folder: str | Path, manifest: Manifest, split: str | None) -> list[str]:
    if split is not None and split not in manifest.splits():
        raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(manifest.splits()) or 'none yet'}")
    files = [_escaped(folder, shard.file) for shard in manifest.shards if split in (None, shard.split)]
    if not files:
        raise ValueError(f"{folder} holds no scenes yet")
    return files


def summarise(problems: Sequence[Problem]) -> list[Dropped]:
    """One entry for each scene and kind."""
    counts = Counter((problem.scene, problem.kind) for problem in problems)
    first: dict[tuple[str, str], str] = {}
    for problem in problems:
        first.setdefault((problem.scene, problem.kind), f"{problem.file}: {problem.message}")
    return [Dropped(scene=key[0], kind=key[1], count=count, example=first[key]) for key, count in counts.items()]
