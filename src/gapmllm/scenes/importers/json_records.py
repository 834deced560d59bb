"""A JSON list of records that is too long to hold in memory: walked through once for where its records lie, then read
record by record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAX_RECORD = 32 * 2**20
"""Largest record, bytes."""
_CHUNK = 2**20
_EXPONENT = 3  # characters of "e+1", the longest piece without which a number still reads as one
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Span:
    """Where a record lies in its file."""

    number: int
    """Its place in the list, from 0."""
    start: int
    length: int
    """Both in bytes."""


def walk_records(path: Path) -> Iterator[tuple[Span, Any]]:
    """Every record of a JSON list, with its place. Texts beyond ASCII come garbled; `parse_record` has them.

    Raises ValueError that says where the file is no such list, or ends.
    """
    with path.open("rb") as stream:
        window = _Window(stream, path)
        if window.next_sign() != "[":
            raise ValueError(f"{path}: a JSON list of records was expected")
        window.position += 1
        number = 0
        while window.next_sign() != "]":
            if number:
                window.expect(",", number)
            window.next_sign()
            start = window.offset
            value = window.decode(number)
            yield Span(number, start, window.offset - start), value
            number += 1


def read_records(path: Path, spans: list[Span]) -> Iterator[tuple[Span, bytes]]:
    """The bytes of the records at the given places, for `parse_record`."""
    with path.open("rb") as stream:
        for span in spans:
            stream.seek(span.start)
            yield span, stream.read(span.length)


def parse_record(data: bytes) -> dict[str, Any]:
    """A record. Raises ValueError for one that is not in UTF-8, or no JSON object."""
    values = json.loads(data.decode("utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"a JSON object was expected, got {type(values).__name__} {str(values)[:40]}")
    return values


class _Window:
    """A piece of the file as text, one character a byte, so that places in it are bytes of the file."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path, self._decoder = stream, path, json.JSONDecoder()
        self._text, self._base = "", 0
        self.position = 0
        if self._more() and self._text.startswith("\xef\xbb\xbf"):  # a byte order mark
            self.position = 3

    @property
    def offset(self) -> int:
        """Byte of the file at the current position."""
        return self._base + self.position

    def next_sign(self) -> str:
        """The next character that is no space; the position then points at it."""
        while True:
            match = _SPACE.match(self._text, self.position)
            assert match is not None
            self.position = match.end()
            if self.position < len(self._text):
                return self._text[self.position]
            if not self._more():
                raise ValueError(f"{self._path}: the list ends without ] at byte {self.offset} (a file cut short?)")

    def expect(self, sign: str, number: int) -> None:
        if self.next_sign() != sign:
            raise ValueError(f"{self._path}: {sign!r} was expected before record {number}, at byte {self.offset}")
        self.position += 1

    def decode(self, number: int) -> Any:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self.position)
                length = end - self.position
                if isinstance(value, int | float) and end > len(self._text) - _EXPONENT and self._more():
                    continue  # a number may go on in what was not read yet
                self.position += length
                return value
            except json.JSONDecodeError as error:
                place = self._base + error.pos
                if len(self._text) - self.position > MAX_RECORD or not self._more():
                    raise ValueError(
                        f"{self._path}: record {number} is damaged or cut short: {error.msg}, byte {place}"
                    ) from error
            except ValueError as error:  # a whole number of more than 4300 digits
                raise ValueError(f"{self._path}: record {number} cannot be read: {error}") from error
            except RecursionError as error:
                raise ValueError(f"{self._path}: record {number} is nested too deep") from error

    def _more(self) -> bool:
        """Read on, as much again as is held, and let go of what is done with; False at the end of the file."""
        held = len(self._text) - self.position
        data = self._stream.read(max(_CHUNK, held))
        self._base += self.position
        self._text, self.position = self._text[self.position :] + data.decode("latin1"), 0
        return bool(data)
