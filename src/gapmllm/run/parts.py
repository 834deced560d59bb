"""What has been answered so far, clip by clip: a run that is killed at any moment goes on where it was.

OUT/.parts/model-0.jsonl   {"clip": "points/3/0", "records": ["{...}", ...]}, one line a clip, of process 0

A line that was not written to its end is dropped. Records are kept as the text that the final file holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from gapmllm.evaluation.records import Record

PARTS = ".parts"
HALF = ".half"
"""Ends the name of a file that is being written; it is renamed when it is whole."""


class Parts:
    """The clips that one subject has answered, in the files of all processes; this process appends to its own."""

    def __init__(self, out: Path, who: str, rank: int = 0) -> None:
        self.folder, self.who = out / PARTS, who
        self.folder.mkdir(exist_ok=True)
        self.path = self.folder / f"{who}-{rank}.jsonl"
        if self.path.exists():
            drop_torn_line(self.path)
        self._places = {key: (path, start) for path in self.files() for key, start in _lines(path)}

    def __contains__(self, clip: str) -> bool:
        return clip in self._places

    def files(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.who}-[0-9]*.jsonl"))

    def add(self, clip: str, records: Sequence[Record]) -> None:
        """The clip is answered. Handed to the operating system at once: killing the process does not lose it."""
        texts = [record.model_dump_json(exclude_none=True) for record in records]
        with self.path.open("ab") as file:
            file.write(json.dumps({"clip": clip, "records": texts}).encode() + b"\n")

    def merge(self, clips: Iterable[str], path: Path) -> None:
        """Write the records of these clips, in this order, to a file that appears whole or not at all."""
        partial = path.with_name(path.name + HALF)
        with partial.open("w", encoding="utf-8") as file:
            for clip in clips:
                file.writelines(text + "\n" for text in self._texts(clip))
        os.replace(partial, path)

    def clear(self, tasks: Collection[str]) -> None:
        """Delete the files, unless they hold clips of other tasks; a folder that is empty then, too."""
        if {clip.partition("/")[0] for clip in self._places} <= set(tasks):
            for path in self.files():
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _texts(self, clip: str) -> list[str]:
        assert clip in self._places, f"{clip} has no answer"
        path, start = self._places[clip]
        with path.open("rb") as file:
            file.seek(start)
            texts: list[str] = json.loads(file.readline())["records"]
        return texts


def drop_torn_line(path: Path) -> None:
    """Cut off what stands behind the last line end."""
    with path.open("rb+") as file:
        file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """(clip, first byte) of each whole line."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)["clip"], start
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}:{number} is damaged: delete this file and give the same command again; its clips are "
                    "answered anew"
                ) from error
            start += len(line)
