"""Reads a data set once, whole, and says what is wrong with it, scene by scene."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from gapmllm.scenes.consistency import depth_disagreement
from gapmllm.scenes.dataset import count_scene
from gapmllm.scenes.manifest import Counts, Manifest, Shard, file_hash
from gapmllm.scenes.problems import Problem, Problems
from gapmllm.scenes.records import Scene, evenly
from gapmllm.scenes.rows import scene_from_row

MAX_TILT = 1.0
"""Degrees by which a box may lean: objects stand upright in the world."""
MAX_DISAGREEMENT = 0.05
"""Median relative difference of depth where two neighbouring frames overlap."""
_MIN_OVERLAP = 0.1  # of a frame's depth pixels: less says little
_PAIRS = 12  # pairs of neighbouring frames that are compared in one scene


@dataclass(frozen=True)
class ShardReport:
    """What was read of one shard, and what is wrong."""

    file: str
    scenes: int
    frames: int
    pairs: int
    """Pairs of frames whose depth was compared."""
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class CheckShard:
    """Checks one shard of a data set; picklable, for other processes."""

    folder: Path
    vocabulary: frozenset[str] | None
    more: Callable[[Scene, Problems], None]
    """Checks what this package does not know of: the questions."""

    def __call__(self, shard: Shard) -> ShardReport:
        path = self.folder / shard.file
        own = Problems("-")  # of the shard, not of one of its scenes
        found: list[Problem] = []
        counts: list[Counts] = []
        names: list[str] = []
        pairs = 0
        try:
            if file_hash(path) != shard.sha256:
                own.add("hash", shard.file, "SHA-256 differs from the manifest's: the file was changed")
            for row in _rows(path):
                problems = Problems(str(row.get("id")))
                try:
                    scene = scene_from_row(row)
                    counts.append(count_scene(scene))
                    names.append(scene.id)
                    pairs += self._check(scene, shard, problems)
                except Exception as error:  # whatever a tampered row makes its reader raise is what is wrong with it
                    problems.add("bad record", shard.file, f"{type(error).__name__}: {error}")
                found += problems.found
            if names != list(shard.scene_ids):
                own.add("scenes differ", shard.file, f"{len(names)} scenes were read, not those of the manifest")
            elif Counts.total(counts) != shard.counts:
                own.add("counts differ", shard.file, "the manifest counts something else than what is there")
        except (OSError, ValueError, pa.ArrowException) as error:
            own.add("unreadable shard", shard.file, error)
        frames = sum(part.frames for part in counts)
        return ShardReport(shard.file, len(names), frames, pairs, (*own.found, *found))

    def _check(self, scene: Scene, shard: Shard, problems: Problems) -> int:
        if scene.split != shard.split:
            problems.add("split", shard.file, f"the scene says {scene.split}, the manifest {shard.split}")
        self.more(scene, problems)
        return check_scene(scene, self.vocabulary, problems)


def checker(folder: Path, more: Callable[[Scene, Problems], None]) -> tuple[Manifest, CheckShard]:
    """The manifest of a data set, and what checks its shards. Raises ValueError where there is no data set."""
    manifest = Manifest.read(folder)
    vocabulary = None if manifest.vocabulary is None else frozenset(manifest.vocabulary)
    return manifest, CheckShard(folder, vocabulary, more)


def check_manifest(folder: Path, manifest: Manifest) -> list[Problem]:
    """What needs no shard to be read: shards and scenes that are listed twice, files that are not listed."""
    problems = Problems("-")
    listed = {shard.file for shard in manifest.shards}
    for path in sorted((folder / "data").glob("*.parquet")):
        if f"data/{path.name}" not in listed:
            problems.add("not listed", path, "the manifest does not list this file; nobody reads it")
    for what, names in (
        ("shard", [shard.file for shard in manifest.shards]),
        ("scene", [name for shard in manifest.shards for name in shard.scene_ids]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                problems.add("listed twice", "manifest.json", f"{what} {name} is listed {count} times")
    return problems.found


def check_scene(scene: Scene, vocabulary: frozenset[str] | None, problems: Problems) -> int:
    """Add what is wrong with the scene to `problems`; returns how many pairs of frames were compared."""
    before = len(problems.found)
    _check_images(scene, problems)
    readable = len(problems.found) == before
    _check_order(scene, problems)
    _check_objects(scene, vocabulary, problems)
    return _check_depth(scene, problems) if readable else 0


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a shard, one in memory at a time."""
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=1):
        yield from batch.to_pylist()


def _check_images(scene: Scene, problems: Problems) -> None:
    for index, frame in enumerate(scene.frames):
        place = f"frame {index} {frame.name}".strip()
        try:
            height, width = frame.pixels().shape[:2]
            instances = frame.instance_map()
            if instances is not None and instances.shape != (height, width):
                problems.add("size", place, f"image of {width}x{height}, instances of {instances.shape[::-1]}")
            depth = frame.depth_map()
            if depth is not None and frame.depth_intrinsics is None and depth.shape != (height, width):
                size = f"image of {width}x{height}, depth of {depth.shape[::-1]}"
                problems.add("size", place, f"{size}: depth of another size needs depth_intrinsics")
        except ValueError as error:
            problems.add("bad image", place, error)


def _check_order(scene: Scene, problems: Problems) -> None:
    if not scene.frames:
        problems.add("empty scene", "-", "the scene has no frames")
    known = [(index, frame.time) for index, frame in enumerate(scene.frames) if frame.time is not None]
    for (first, before), (second, after) in pairwise(known):
        if after <= before:
            message = f"frame {second} has time {after:g}, frame {first} before it {before:g}; times must rise"
            problems.add("frames out of order", f"frame {second}", message)


def _check_objects(scene: Scene, vocabulary: frozenset[str] | None, problems: Problems) -> None:
    known = {item.id for item in scene.objects}
    for index, frame in enumerate(scene.frames):
        visible = frame.visible or {}
        if not (visible.keys() <= known and all(0 <= share <= 1 for share in visible.values())):
            place = f"frame {index} {frame.name}".strip()
            message = f"unknown objects {sorted(visible.keys() - known)}, or a share outside 0 to 1"
            problems.add("bad visibility", place, message)
    boxes = scene.boxes()
    upright = np.abs(boxes.rotations[:, 2, :]).max(axis=1, initial=0)  # cosine between one of a box's axes and z
    for item, cosine in zip(scene.objects, upright, strict=True):
        place = f"object {item.id} {item.label!r}"
        tilt = float(np.degrees(np.arccos(min(1.0, cosine))))
        if tilt > MAX_TILT:
            problems.add("tilted box", place, f"the box leans by {tilt:.1f} degrees; is the world's z axis up?")
        if vocabulary is not None and item.label not in vocabulary:
            problems.add("unknown label", place, f"{item.label!r} is not in the data set's vocabulary")


def _check_depth(scene: Scene, problems: Problems) -> int:
    """Neighbouring frames must agree where they overlap, seen from at least one of the two: things hide things.

    Returns how many pairs overlapped enough, seen from both.
    """
    frames = [frame for frame in scene.frames if frame.depth is not None]
    if len(frames) < 2:
        return 0
    compared = 0
    for start in evenly(len(frames) - 1, _PAIRS):
        a, b = frames[start], frames[start + 1]
        medians = [
            float(np.median(errors))
            for errors, seen in ((depth_disagreement(a, b), a), (depth_disagreement(b, a), b))
            if len(errors) >= _MIN_OVERLAP * seen.depth_map().size  # type: ignore[union-attr]
        ]
        if len(medians) < 2:
            continue
        compared += 1
        if min(medians) > MAX_DISAGREEMENT:
            message = f"depth differs by {min(medians):.0%} (median) where the two overlap: pose, intrinsics or scale?"
            problems.add("depth disagrees", f"frames {a.name} and {b.name}", message)
    return compared
