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
        file, message = (" ".join(storable(str(text)).split()) for text in (file, message))  # one line each
        self.found.append(Problem(storable(self.scene), file, kind, message))


def storable(text: str) -> str:
    """The text with what UTF-8 cannot hold spelled out: names and messages quote what broken files say."""
    return text.encode("utf-8", "backslashreplace").decode()
