"""The manifest of a data set on disk: what is in it, how it was made, and the hash of every shard."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import fsspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gapmllm import __version__

FILE = "manifest.json"
CONVENTIONS = (
    "camera axes x right, y down, z forward; world z up; metres, radians; pixel (0, 0) is the centre of the top-left "
    "pixel; camera_to_world acts on columns; depth along z, 0 = unknown; boxes are centre, full size, rotation matrix; "
    'boxes in answers are nine numbers, Euler "zxy", in the camera frame of the clip\'s first frame'
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counts(_Part):
    """How much of everything."""

    scenes: int = 0
    frames: int = 0
    clips: int = 0
    expressions: int = 0
    objects: dict[str, int] = {}
    """By label."""
    questions: dict[str, int] = {}
    """By task."""
    labels_asked: dict[str, dict[str, int]] = {}
    """By task: how often each label is part of a true answer."""

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """The sum of the parts."""
        rows = [part.model_dump() for part in parts]
        return cls.model_validate({name: _added([row[name] for row in rows]) for name in cls.model_fields if rows})


class Shard(_Part):
    """One Parquet file."""

    file: Annotated[str, Field(pattern=r"^data/[\w.-]+$")]
    """Relative to the manifest, and in its folder."""
    split: str
    bytes: int
    sha256: str
    scene_ids: tuple[str, ...]
    counts: Counts


class Dropped(_Part):
    """What could not be used: all of one kind in one scene."""

    scene: str
    kind: str
    count: int
    example: str
    """The first message of the kind."""


class Manifest(_Part):
    """`manifest.json`"""

    version: Literal[1] = 1
    package: str = f"gapmllm {__version__}"
    conventions: str = CONVENTIONS
    made_by: dict[str, Any]
    """Command and options; a data set is continued only by the same."""
    vocabulary: tuple[str, ...] | None = None
    """The labels that may occur; None: any."""
    complete: bool = False
    shards: tuple[Shard, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    unusable: tuple[str, ...] = ()
    """Scenes of which nothing could be used; they are tried again when the data set is continued."""

    def counts(self, split: str | None = None) -> Counts:
        """Of all shards, or of one split's."""
        return Counts.total(shard.counts for shard in self.shards if split in (None, shard.split))

    def splits(self) -> list[str]:
        """Names of the splits, in the order of their first shards."""
        return list(dict.fromkeys(shard.split for shard in self.shards))

    def check_conventions(self, name: str | Path) -> None:
        """ValueError for a data set, called `name`, that follows other conventions than this package."""
        if self.conventions != CONVENTIONS:
            raise ValueError(
                f"{name} follows other conventions than this package. It says: {self.conventions}\n"
                f"needed: {CONVENTIONS}\nMake it again with this version (gapmllm data import)"
            )

    def done(self) -> set[str]:
        """Ids of the scenes that need not be made again."""
        return {scene for shard in self.shards for scene in shard.scene_ids}

    def to_continue(self) -> Manifest:
        """The manifest of a data set that is being written again: not complete, unusable scenes forgotten."""
        kept = tuple(entry for entry in self.dropped if entry.scene not in self.unusable)
        return self.model_copy(update={"complete": False, "unusable": (), "dropped": kept})

    def dropped_by_kind(self) -> dict[str, int]:
        """How many of each kind could not be used."""
        total: Counter[str] = Counter()
        for entry in self.dropped:
            total[entry.kind] += entry.count
        return dict(total)

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest in one step: a reader sees the old one or the new one."""
        values = {**self.model_dump(mode="json"), "counts": self.counts().model_dump()}
        partial = folder / (FILE + ".part")
        partial.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, folder / FILE)

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """From a folder, or a URL of one (hf://datasets/…, s3://…). Raises ValueError where there is none."""
        place = f"{folder}/{FILE}"
        try:
            with fsspec.open(place, "rb") as file:
                values = json.load(file)
            values.pop("counts", None)  # written for people; the shards' own counts are what is read
            return cls.model_validate(values)
        except FileNotFoundError as error:
            raise ValueError(f"{folder} is no data set: it has no {FILE}; make one with `gapmllm data`") from error
        except (ValidationError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{place} is no manifest that this version reads: {' '.join(str(error).split())}"
            ) from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(folder: str | Path) -> str:
    """Of a data set, by its manifest, which holds the hashes of all shards. FileNotFoundError where there is none."""
    with fsspec.open(f"{folder}/{FILE}", "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:16]


def _added(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: _added([value[name] for value in values if name in value]) for name in names}
    return sum(values)
