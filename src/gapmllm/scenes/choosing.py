"""Which frames are looked at, of all that there are: evenly spaced ones, or those that differ most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.records import evenly

T = TypeVar("T")

Choice = Literal["even", "coverage"]
MAX_FRAMES = 512
"""Most frames that are taken of one recording."""
THUMBNAIL = (16, 12)
"""Width and height of the pictures by which views are told apart."""
_HELD, _MOST = 128 * 2**20, 256  # bytes, and things, among which is chosen; but two for each that is wanted


def thumbnail(pixels: NDArray[np.uint8]) -> FloatArray:
    """(H, W, 3) RGB -> (N,), the features of a view, of the same length for all."""
    return np.asarray(Image.fromarray(pixels).resize(THUMBNAIL, Image.Resampling.BOX), dtype=np.float64).ravel()


def chosen(count: int, wanted: int, features: Sequence[FloatArray] | None = None) -> list[int]:
    """At most `wanted` indices of `count` things in a row, rising, the first among them.

    Without features evenly spaced, the last among them. With features (N,) each, those that differ most: again and
    again the one whose nearest chosen one is farthest away. Source: Gonzalez (1985), farthest-point clustering.
    """
    if features is None or not features:
        return evenly(count, wanted)
    rows, found = np.stack(features), [0]
    distances = np.linalg.norm(rows - rows[0], axis=1)
    while len(found) < min(wanted, count):
        distances[found[-1]] = -1  # of equal ones none is chosen twice
        found.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(rows - rows[found[-1]], axis=1))
    return sorted(found)


class Kept(Generic[T]):
    """Things that come one by one, nobody knows how many, of which some are wanted in the end: holds but a few.

    When there are too many, every second one goes, or, with features, the half that differs least from the others.
    """

    def __init__(self, wanted: int | None) -> None:
        """wanted: None keeps all, and raises ValueError if they are more than MAX_FRAMES."""
        self.wanted = wanted
        self._held: list[tuple[T, FloatArray | None]] = []
        self._last: tuple[T, FloatArray | None] | None = None
        self._count, self._stride = 0, 1

    def add(self, thing: T, size: int, features: FloatArray | None = None) -> None:
        """size: bytes that it takes. features: (N,), for all or for none."""
        self._last = (thing, features)
        if self._count % self._stride == 0:
            self._held.append(self._last)
        self._count += 1
        if self.wanted is None and len(self._held) > MAX_FRAMES:
            raise ValueError(f"more than {MAX_FRAMES} frames; give num_frames, a lower fps, or an earlier end")
        if self.wanted is not None and len(self._held) > max(min(_HELD // size, _MOST), 2 * self.wanted):
            if features is None:
                self._held, self._stride = self._held[::2], 2 * self._stride
            else:
                self._held = self._best(self._held, len(self._held) // 2)

    def take(self) -> list[T]:
        """Those that are wanted, in order; nothing is held any longer."""
        if self._last is not None and self._last is not self._held[-1]:
            self._held.append(self._last)
        best = self._best(self._held, self.wanted or len(self._held))
        self._held, self._last = [], None
        return [thing for thing, _ in best]

    @staticmethod
    def _best(held: list[tuple[T, FloatArray | None]], wanted: int) -> list[tuple[T, FloatArray | None]]:
        features = [row for _, row in held if row is not None]
        return [held[index] for index in chosen(len(held), wanted, features)]
