"""What could not be used of a scene: named, counted, never dropped without a word."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One thing that could not be used."""

    scene: str
    file: str
    kind: str
    """Short name to count by: "no depth", "lost tracking", "bad pose", "bad image", "same time", …"""
    message: str
    """What was found, what was expected."""

    def __str__(self) -> str:
        return f"{self.scene}: {self.file}: {self.message}"


@dataclass
class Problems:
    """Collects what could not be used of one scene."""

    scene: str
    found: list[Problem] = field(default_factory=list)

    def add(self, kind: str, file: Path | str, message: object) -> None:
        self.found.append(Problem(_plain(self.scene), _plain(file), kind, _plain(message)))


def _plain(text: object) -> str:
    """One line that UTF-8 can hold: messages quote what broken files say."""
    return " ".join(str(text).encode("utf-8", "backslashreplace").decode().split())
