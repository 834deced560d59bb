"""Entries of other people's files: what damaged ones raise, and how one bad entry costs only itself."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from zipfile import BadZipFile

from gapmllm.scenes.problems import Problems

UNUSABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, MemoryError),
    *(RecursionError, NotImplementedError, csv.Error, zlib.error, BadZipFile),
)
"""What readers raise over files and values that are damaged, or of other kinds than expected."""


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries of a list by scene. One that names no scene is listed as "entry-<place>", without values."""

    values: dict[str, dict[str, Any]]
    problems: dict[str, list[str]] = field(default_factory=dict)
    """Scene -> what is wrong with the list about it."""

    def report(self, scene: str, file: str, problems: Problems) -> None:
        for message in self.problems.get(scene, ()):
            problems.add("bad entry", file, message)


def by_scene(rows: Iterable[Any], name: Callable[[Any], str]) -> Entries:
    """Rows by the scene that each names; of several alike the first. Raises the first error where none can be read."""
    found = Entries({})
    first: Exception | None = None
    good = False
    for index, row in enumerate(rows):
        try:
            scene = text_of(name(row))
            if not scene.strip():
                raise ValueError("the name is empty")
            if scene in found.values:
                found.problems.setdefault(scene, []).append(f"entry {index} is of the same scan; the first is taken")
            else:
                found.values[scene] = row
            good = True
        except UNUSABLE as error:
            first = first or error
            found.values[f"entry-{index}"] = {}
            found.problems[f"entry-{index}"] = [f"entry {index} names no scan: {type(error).__name__}: {error}"]
    if first is not None and not good:
        raise first
    return found


def text_of(value: Any) -> str:
    """The value, if it is a text that UTF-8 can hold. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"a text was expected, got {type(value).__name__} {str(value)[:40]}")
    value.encode()  # half a character raises UnicodeEncodeError, a ValueError
    return str(value)
