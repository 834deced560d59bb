"""How callers of this package show how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""(items, how many, what they are) -> the items: `gapmllm.cli.progress.track` draws a bar."""


def untracked(items: Iterable[Any], _total: int, _what: str) -> Iterable[Any]:
    """Draws nothing."""
    return items
