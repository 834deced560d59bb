"""What furniture is built with: boxes, posts, rods, balls, and `Piece`, the built thing before it has a place.

All lengths are metres, in the object's own axes: z up, front towards -y, back towards +y, x to the right of who looks
at the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.synth.room import Material, Part

Point = tuple[float, float, float]


class Top(NamedTuple):
    """A level surface on which things can be put."""

    x: tuple[float, float]
    y: tuple[float, float]
    z: float


class Seat(NamedTuple):
    """A place for a chair at a table's edge."""

    x: float
    y: float
    turn: float
    """The chair's turn about z against the table's, radians; 0: it looks towards -y."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """A built thing: its parts around the origin, standing on z = 0, and what the room has to know of it."""

    parts: tuple[Part, ...]
    attributes: dict[str, str]
    has_front: bool = False
    tops: tuple[Top, ...] = ()
    seats: tuple[Seat, ...] = ()

    @cached_property
    def low(self) -> FloatArray:
        """(3,) lowest x, y, z."""
        return np.min([part.bounds()[0] for part in self.parts], axis=0)

    @cached_property
    def high(self) -> FloatArray:
        """(3,) highest x, y, z."""
        return np.max([part.bounds()[1] for part in self.parts], axis=0)


def assemble(
    parts: Sequence[Part],
    attributes: dict[str, str],
    *,
    has_front: bool = False,
    tops: Sequence[Top] = (),
    seats: Sequence[Seat] = (),
) -> Piece:
    """A piece of parts that may stand anywhere: shifted so that its footprint is centred and its bottom at z = 0."""
    bounds = [part.bounds() for part in parts]
    low, high = np.min([b[0] for b in bounds], axis=0), np.max([b[1] for b in bounds], axis=0)
    (x, y), z = ((low + high) / 2)[:2].tolist(), float(low[2])
    return Piece(
        parts=tuple(replace(part, center=part.center - (x, y, z)) for part in parts),
        attributes=attributes,
        has_front=has_front,
        tops=tuple(Top((t.x[0] - x, t.x[1] - x), (t.y[0] - y, t.y[1] - y), t.z - z) for t in tops),
        seats=tuple(Seat(s.x - x, s.y - y, s.turn) for s in seats),
    )


def box(material: Material, low: Point, high: Point, name: str) -> Part:
    """A box from its lowest to its highest corner."""
    a, b = np.array(low, dtype=np.float64), np.array(high, dtype=np.float64)
    return Part(shape="box", center=(a + b) / 2, size=b - a, material=material, name=name)


def post(
    material: Material,
    at: tuple[float, float],
    z: tuple[float, float],
    width: float | tuple[float, float],
    name: str,
    *,
    bottom: float = 1.0,
    top: float = 1.0,
) -> Part:
    """An upright cylinder or cone stump. width: diameter, or the two of an ellipse; bottom, top: shares of it."""
    across = (width, width) if isinstance(width, float) else width
    return Part(
        shape="frustum",
        center=np.array([*at, (z[0] + z[1]) / 2]),
        size=np.array([*across, z[1] - z[0]]),
        material=material,
        bottom=bottom,
        top=top,
        name=name,
    )


def rod(material: Material, start: Point, end: Point, width: float, name: str, *, taper: float = 1.0) -> Part:
    """A round bar between two points; taper: its width at the start as a share of that at the end."""
    a, b = np.array(start, dtype=np.float64), np.array(end, dtype=np.float64)
    length = float(np.linalg.norm(b - a))
    return Part(
        shape="frustum",
        center=(a + b) / 2,
        size=np.array([width, width, length]),
        material=material,
        rotation=_towards((b - a) / length),
        bottom=taper,
        name=name,
    )


def ball(material: Material, center: Point, size: Point, name: str, rotation: FloatArray | None = None) -> Part:
    """An ellipsoid of these full extents."""
    turn = np.eye(3) if rotation is None else rotation
    return Part(
        shape="ellipsoid", center=np.array(center), size=np.array(size), material=material, rotation=turn, name=name
    )


def turn_x(angle: float) -> FloatArray:
    """Rotation about x that leans what is upright back, towards +y, by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def turn_z(angle: float) -> FloatArray:
    """Rotation about z, counter-clockwise seen from above, radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def leaned(part: Part, angle: float, about: Point) -> Part:
    """The part leaned back by an angle (radians) about the line along x through a point."""
    turn, pivot = turn_x(angle), np.array(about)
    return replace(part, center=turn @ (part.center - pivot) + pivot, rotation=turn @ part.rotation)


def four_legs(
    material: Material, half: tuple[float, float], z: float, width: float, *, round_: bool, splay: float = 0.0
) -> list[Part]:
    """Legs at (+-half x, +-half y) from the ground to z. splay: how far the feet of round legs stand out."""
    legs = []
    for x in (-half[0], half[0]):
        for y in (-half[1], half[1]):
            if round_:
                foot = (x + np.sign(x) * splay, y + np.sign(y) * splay, 0.0)
                legs.append(rod(material, foot, (x, y, z), width, "leg", taper=0.7))
            else:
                legs.append(box(material, (x - width / 2, y - width / 2, 0), (x + width / 2, y + width / 2, z), "leg"))
    return legs


def fronts(
    material: Material,
    handle: Material,
    x: tuple[float, float],
    y: float,
    z: tuple[float, float],
    grid: tuple[int, int],
    *,
    name: str,
    knob: bool,
) -> list[Part]:
    """Drawer fronts or doors in columns x rows, on the plane y, towards -y, with a handle each.

    Doors (name "door") get upright handles at the edge where they open, in pairs; drawers get level ones.
    """
    parts, gap, thick = [], 0.006, 0.018
    columns, rows = grid
    width, height = (x[1] - x[0]) / columns, (z[1] - z[0]) / rows
    for column in range(columns):
        for row in range(rows):
            left, bottom = x[0] + column * width, z[0] + row * height
            low, high = (left + gap, y - thick, bottom + gap), (left + width - gap, y, bottom + height - gap)
            parts.append(box(material, low, high, name))
            middle = (left + width / 2, bottom + height / 2)
            if name == "door":
                side = width / 2 - 0.05 if column % 2 == 0 else 0.05 - width / 2
                parts.append(
                    _handle(handle, (middle[0] + side, middle[1]), y - thick, knob, (0.012, min(height, 0.6) / 4))
                )
            else:
                parts.append(_handle(handle, middle, y - thick, knob, (min(width / 4, 0.12), 0.012)))
    return parts


def _handle(material: Material, at: tuple[float, float], y: float, knob: bool, size: tuple[float, float]) -> Part:
    x, z = at
    if knob:
        return ball(material, (x, y - 0.012, z), (0.034, 0.03, 0.034), "knob")
    return box(material, (x - size[0] / 2, y - 0.02, z - size[1] / 2), (x + size[0] / 2, y, z + size[1] / 2), "handle")


def _towards(direction: FloatArray) -> FloatArray:
    """A rotation whose third column is a unit direction."""
    helper = np.array([1.0, 0, 0]) if abs(direction[0]) < 0.9 else np.array([0, 1.0, 0])
    first = np.cross(helper, direction)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(direction, first), direction], axis=1)
