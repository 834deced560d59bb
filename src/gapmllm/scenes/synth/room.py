"""What a procedural room is made of: objects of oriented primitives, lights, cameras. No pixels here.

An object is built in its own axes: origin at the centre of its footprint on the ground, z up, its front towards -y, its
back (what stands at a wall) towards +y, x to the right of who looks at the front. All lengths are metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from gapmllm.geometry import CORNER_SIGNS, invert_pose, transform_points
from gapmllm.geometry.camera import FloatArray

Shape = Literal["box", "frustum", "ellipsoid"]
Texture = Literal["plain", "wood", "checker", "stripes", "tiles", "noise", "weave"]
Color = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Material:
    """How a surface looks. Colours are linear RGB, 0 to 1."""

    color: Color
    second: Color | None = None
    """The texture's other colour; None: a darker shade of the first."""
    texture: Texture = "plain"
    period: float = 0.1
    """Size of the texture's pattern, metres."""
    gloss: float = 0.0
    """Strength of the highlight, 0 (matt) to 1."""
    glow: float = 0.0
    """Light that the surface sends out itself, in units of its colour (lamp shades, windows, screens)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One primitive: the set rotation @ (size * p) + center for the points p of a unit shape.

    box: |p_x|, |p_y|, |p_z| <= 1/2. ellipsoid: |p| <= 1/2. frustum: |p_z| <= 1/2 and
    sqrt(p_x^2 + p_y^2) <= radius(p_z), which goes linearly from bottom / 2 at p_z = -1/2 to top / 2 at p_z = +1/2.
    """

    shape: Shape
    center: FloatArray
    """(3,)"""
    size: FloatArray
    """(3,) full extents of the unit shape along the part's own axes, all > 0."""
    material: Material
    rotation: FloatArray = field(default_factory=lambda: np.eye(3))
    """(3, 3) from the part's own axes."""
    bottom: float = 1.0
    """Frustum only: diameter at the bottom, as a share of size; 1 and 1 make a cylinder. The larger of the two is 1."""
    top: float = 1.0
    name: str = ""
    """What it is of the object: leg, seat, back, …"""

    def moved(self, pose: FloatArray) -> Part:
        """The part in another frame: pose (4, 4), rigid."""
        return replace(
            self, center=transform_points(self.center, pose), rotation=np.asarray(pose)[:3, :3] @ self.rotation
        )

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest x, y, z of the solid, exact for all three shapes."""
        axes = self.rotation * self.size  # columns: the part's axes at full size
        if self.shape == "box":
            reach = np.abs(axes).sum(axis=1) / 2
            return self.center - reach, self.center + reach
        if self.shape == "ellipsoid":
            reach = np.linalg.norm(axes, axis=1) / 2
            return self.center - reach, self.center + reach
        radial = np.linalg.norm(axes[:, :2], axis=1) / 2  # a disk's extent along each world axis
        ends = [(side * axes[:, 2] / 2, share * radial) for side, share in ((-1, self.bottom), (1, self.top))]
        low = np.minimum(*(middle - reach for middle, reach in ends))
        high = np.maximum(*(middle + reach for middle, reach in ends))
        return self.center + low, self.center + high


@dataclass(frozen=True, kw_only=True, eq=False)
class RoomObject:
    """A piece of the room: furniture, a thing on it, or the room's own wall, floor, ceiling, door, window."""

    id: int
    label: str
    parts: tuple[Part, ...]
    """In the world."""
    pose: FloatArray
    """(4, 4) from the object's own axes to the world; a turn about z and a shift."""
    low: FloatArray
    """(3,) lowest and highest coordinates of all parts, in the object's own axes: its tight box."""
    high: FloatArray
    attributes: dict[str, str] = field(default_factory=dict)
    """color and material always, both as words of the language ("brown", "wooden"); also size, shape where they say
    something ("large", "round")."""
    support: int | None = None
    """Id of the object that it stands on or hangs at (the floor, a table, a wall); None: the room's own surfaces."""
    has_front: bool = False
    """Whether people would agree on where its front is (a chair, a desk, a cabinet; not a round table)."""

    @classmethod
    def build(cls, parts: Sequence[Part], pose: FloatArray, **fields: object) -> RoomObject:
        """From parts in the object's own axes: `low` and `high` are measured, the parts moved into the world."""
        bounds = [part.bounds() for part in parts]
        low, high = np.min([b[0] for b in bounds], axis=0), np.max([b[1] for b in bounds], axis=0)
        moved = tuple(part.moved(pose) for part in parts)
        return cls(parts=moved, pose=pose, low=low, high=high, **fields)  # type: ignore[arg-type]

    @property
    def center(self) -> FloatArray:
        """(3,) centre of the box, in the world."""
        return transform_points((self.low + self.high) / 2, self.pose)

    @property
    def size(self) -> FloatArray:
        """(3,) full sizes of the box along the object's own axes."""
        return self.high - self.low

    @property
    def front(self) -> FloatArray:
        """(3,) unit direction, horizontal, in which the front looks, in the world."""
        return -self.pose[:3, 1]

    def footprint(self) -> FloatArray:
        """(4, 2) corners of the box seen from above, around it, in the world."""
        corners = (CORNER_SIGNS[[0, 4, 7, 3]] * self.size / 2) + (self.low + self.high) / 2
        return transform_points(corners, self.pose)[:, :2]

    def local(self, points: FloatArray) -> FloatArray:
        """World points (..., 3) in the object's own axes."""
        return transform_points(points, invert_pose(self.pose))


@dataclass(frozen=True, kw_only=True)
class Light:
    """A point light."""

    position: tuple[float, float, float]
    color: Color
    """Light received at 1 metre distance; falls off with the square of the distance."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Room:
    """A furnished room. Its world has z up, the floor's upper side at z = 0, walls along x and y, the origin at the
    middle of the floor."""

    objects: tuple[RoomObject, ...]
    lights: tuple[Light, ...]
    ambient: Color
    size: FloatArray
    """(3,) inner length along x, along y, height."""

    def object(self, object_id: int) -> RoomObject:
        """The object with this id."""
        return self._by_id[object_id]

    @property
    def _by_id(self) -> dict[int, RoomObject]:
        return {item.id: item for item in self.objects}


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraPath:
    """A camera's way through a room. F frames."""

    poses: FloatArray
    """(F, 4, 4) camera_to_world."""
    intrinsics: FloatArray
    """(3, 3), the same for all frames."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    times: FloatArray
    """(F,) seconds, rising."""
