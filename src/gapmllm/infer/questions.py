"""The questions that a view answers; a plain text is a question of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Detect:
    """All objects, or those with one of the labels."""

    labels: Sequence[str] = ()
    max_objects: int = 64


@dataclass(frozen=True)
class Ground:
    """The object that a text describes.

    one_step: frame and box in one answer, for a few frames; else the paper's two steps: which frame shows it best,
    then the box from that frame and its neighbours.
    """

    text: str
    one_step: bool = False


@dataclass(frozen=True)
class Locate:
    """The 3D point and the object under a pixel (x, y) = (column, row) of a frame, counted from 0."""

    frame: int
    pixel: tuple[float, float]


@dataclass(frozen=True)
class Describe:
    """The object at a point x, y, z: metres, in the camera of frame 0."""

    xyz: tuple[float, float, float]


AnyQuestion = Detect | Ground | Locate | Describe | str
