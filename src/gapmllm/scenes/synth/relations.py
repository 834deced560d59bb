"""The scene graph of a room: which attributes and relations hold, do not hold, or are better left unsaid.

Every statement has three values. TRUE and FALSE are kept for cases on which people would agree; whatever lies between
the two thresholds is UNKNOWN, and language that rests on an unknown is not used. Arrays of relations are
`[target, anchor]`. Lengths are metres; distances are seen from above; "gap" is that of two footprints (0: they touch).

    on           TRUE: it stands on the anchor (`support`), or over 70 % of it is on a rug.
    with         on, the other way round: something of the anchor's class is on it.
    under        TRUE: stands on the floor, over 60 % within the footprint, ends 0.05 below the top (a bin under a
                 desk); or the anchor is above it. FALSE: no overlap, or not below.
    above        TRUE: higher than all of the anchor, by less than 1.5, and over 80 % of it over the footprint + 0.25.
    next to      TRUE: gap below 0.35, at the same height. FALSE: gap over 0.7, or on it. Of windows, doors: 0.6, 1.2.
    near         TRUE: gap below 0.9. FALSE: gap over 1.8.
    in front of  (behind) by the anchor's own front. TRUE: its centre is 0.1 beyond the front edge and within the
                 anchor's width, gap below 1. FALSE: its centre is not beyond that edge, or far off to a side.
    left, right  of who faces the anchor, or sits on it: as `in front of`, by the anchor's sides. From the door: beyond
                 the anchor's side, and its direction 6 degrees off the anchor's.
    left side    (right side) of the room, from the door: 0.4 off the middle, and off the viewer's own line.
    between      TRUE: in the middle half of the line between two centres, at most 0.4 beside it.
    corner       TRUE: below 0.3 from two walls, its centre below 1.2 from both. FALSE: over 0.7 from one.
    wall         TRUE: stands on the floor below 0.15 from a wall. FALSE: over 0.4. hung: the same, above the floor.
    ceiling      TRUE: it ends below 0.05 under the ceiling. FALSE: over 0.5.
    middle of the room  TRUE: its centre in the inner third of both lengths. FALSE: outside of the inner half of one.

Superlatives compare the objects that everything else said leaves over: nearest and farthest (centre distance and gap,
both by 15 % + 0.1), largest and smallest (volume by 30 %, longest edge by 10 %), tallest and lowest (15 % + 0.05,
standing equally high), leftmost, rightmost, middle of three (from the door: 0.3 and 8 degrees; facing something: 0.4
and half the difference in depth).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.records import NOT_OBJECTS
from gapmllm.scenes.synth.room import Room, RoomObject

Truth = NDArray[np.int8]
TRUE, UNKNOWN, FALSE = 1, 0, -1
OPENINGS = frozenset({"door", "window"})


def decide(true: NDArray[np.bool_], false: NDArray[np.bool_]) -> Truth:
    """TRUE where true (and not false), FALSE where false, else UNKNOWN."""
    return np.where(false, FALSE, np.where(true, TRUE, UNKNOWN)).astype(np.int8)


class SceneGraph:
    """Truth of predicates over all objects of a room, by their position in `room.objects`. N objects."""

    def __init__(self, room: Room) -> None:
        self.room, self.objects = room, room.objects
        self.index = {item.id: k for k, item in enumerate(self.objects)}
        self.centers = np.array([item.center for item in self.objects]).reshape(-1, 3)
        self.corners = np.array([item.footprint() for item in self.objects]).reshape(-1, 4, 2)
        self.sizes = np.array([item.size for item in self.objects]).reshape(-1, 3)
        self.bottom = self.centers[:, 2] - self.sizes[:, 2] / 2
        self.top = self.centers[:, 2] + self.sizes[:, 2] / 2
        self.is_object = np.array([item.label not in NOT_OBJECTS for item in self.objects], dtype=bool)
        self.flat = self.sizes[:, 2] < 0.05
        self._between: dict[tuple[int, int], Truth] = {}

    # What is measured ------------------------------------------------------------------------------------------------

    @cached_property
    def _local(self) -> FloatArray:
        """(anchor, target, 4, 2) corners of the target in the anchor's own axes, from its box's centre."""
        turn = np.array([item.pose[:2, :2] for item in self.objects])
        return np.einsum("atkx,axy->atky", self.corners[None] - self.centers[:, None, None, :2], turn)

    @cached_property
    def gap(self) -> FloatArray:
        """(N, N) distance of the footprints."""
        half = self.sizes[:, None, :2] / 2
        apart = np.maximum(self._local.min(2) - half, -half - self._local.max(2)).max(-1)
        reach = np.linalg.norm(np.maximum(np.abs(self._local) - half[:, :, None], 0), axis=-1).min(-1)
        disjoint = np.maximum(apart, apart.T) > 0  # separating axis theorem
        return np.where(disjoint, np.minimum(reach, reach.T), 0.0)

    @cached_property
    def _rise(self) -> FloatArray:
        """(N, N) vertical gap; negative: they overlap in height."""
        return np.maximum(self.bottom[:, None] - self.top, self.bottom - self.top[:, None])

    def _cover(self, pad: float) -> FloatArray:
        """(target, anchor) share of the target's footprint within the anchor's, widened by pad on all sides."""
        steps = (np.arange(7) + 0.5) / 7
        a, b = (grid.reshape(-1, 1) for grid in np.meshgrid(steps, steps))
        first, second, _, last = self._local.transpose(2, 0, 1, 3)[..., None, :]
        points = first + a * (second - first) + b * (last - first)
        return (np.abs(points) <= self.sizes[:, None, None, :2] / 2 + pad).all(-1).mean(-1).T

    @cached_property
    def _direct(self) -> NDArray[np.bool_]:
        """(target, anchor): stands on it or hangs at it."""
        rows = [[target.support == anchor.id for anchor in self.objects] for target in self.objects]
        return np.array(rows, dtype=bool).reshape(len(rows), len(rows))

    @cached_property
    def _supports(self) -> NDArray[np.bool_]:
        """(target, anchor): stands on it, directly or on something that does."""
        return self._direct | (self._direct @ self._direct)

    # Relations of two ------------------------------------------------------------------------------------------------

    @cached_property
    def pairs(self) -> dict[str, Truth]:
        """Name -> (target, anchor), for the relations that need no viewpoint."""
        same = np.eye(len(self.objects), dtype=bool)
        direct = self._direct
        cover, wide = self._cover(0.0), self._cover(0.25)
        low, high = self.bottom[:, None], self.top[:, None]
        rug = self.flat & (self.bottom < 0.05) & (self._standing()[:, None])
        touches = (wide > 0) & (np.abs(low - self.top) < 0.1)
        on = decide(direct | (rug & (cover > 0.7)), same | ~(touches | self._supports))
        above = decide(
            (low > self.top - 0.05) & (self._rise < 1.5) & (wide > 0.8) & ~self.flat & ~self._supports & (on == FALSE),
            same | direct | (low < self.top - 0.15) | (wide == 0),
        )
        below = (high < self.top - 0.05) & (cover > 0.6) & ~direct & ~direct.T & ~self._supports & ~self.flat
        under = decide(
            below & (self._standing() & ~self.flat)[:, None], same | direct | (wide == 0) | (low > self.top - 0.02)
        )
        opening = np.array([item.label in OPENINGS for item in self.objects], dtype=bool)
        level = (self._rise < 0.1) & ~((cover > 0.5) | (cover.T > 0.5))
        beside = decide(
            level & (self.gap < np.where(opening, 0.6, 0.35)),
            same | direct | direct.T | (self.gap > np.where(opening, 1.2, 0.7)),
        )
        near = decide((self.gap < 0.9) & (self._rise < 0.5), same | direct | direct.T | (self.gap > 1.8))
        sides = {"in front of": (1, -1), "behind": (1, 1), "face left": (0, -1), "face right": (0, 1)}
        result = {name: self._beyond(axis, sign) for name, (axis, sign) in sides.items()}
        result |= {"sit left": result["face right"], "sit right": result["face left"]}
        return result | {"on": on, "above": above, "under": np.maximum(under, above.T), "next to": beside, "near": near}

    def _standing(self) -> NDArray[np.bool_]:
        return self.bottom < 0.1

    def _beyond(self, axis: int, sign: int) -> Truth:
        """(target, anchor): the target is beyond the anchor's box along one of the anchor's own axes."""
        middle, half = self._local.mean(2), self.sizes[:, None, :2] / 2
        beyond = sign * middle[..., axis] - half[..., axis]
        slip = np.abs(middle[..., 1 - axis]) - half[..., 1 - axis]
        true = ((beyond > 0.1) & (slip < 0)).T & (self.gap < 1.0) & (self._rise < 0.1)
        false = ((beyond < -0.05) | (slip > 0.4 + 0.5 * np.maximum(beyond, 0))).T | np.eye(
            len(self.objects), dtype=bool
        )
        has_front = np.array([item.has_front for item in self.objects], dtype=bool)
        return np.where(has_front, decide(true, false), UNKNOWN).astype(np.int8)

    def between(self, first: int, second: int) -> Truth:
        """(N,) whether each is between two objects, given by position."""
        key = (min(first, second), max(first, second))
        if key not in self._between:
            start, line = self.centers[key[0], :2], self.centers[key[1], :2] - self.centers[key[0], :2]
            length = max(float(np.linalg.norm(line)), 1e-6)
            offset = self.centers[:, :2] - start
            along = offset @ line / length**2
            aside = np.abs(offset @ (line[1], -line[0])) / length
            level = (self._rise[:, list(key)] < 0.1).all(1) & (self.gap[:, list(key)] > 0).all(1) & ~self.flat
            true = (np.abs(along - 0.5) < 0.25) & (aside < min(0.4, 0.25 * length)) & level & (length < 4)
            false = (np.abs(along - 0.5) > 0.45) | (aside > 0.6 * length)
            false[list(key)] = True
            self._between[key] = decide(true, false)
        return self._between[key]

    # Relations to the room and from viewpoints -----------------------------------------------------------------------

    @cached_property
    def walls(self) -> FloatArray:
        """(N, 4) distance of each footprint from the walls at -x, +x, -y, +y; negative: it reaches into the wall."""
        half = self.room.size[:2] / 2
        low, high = self.corners.min(1) + half, half - self.corners.max(1)
        return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)

    @cached_property
    def places(self) -> dict[str, Truth]:
        """Name -> (N,), for the relations to the room itself."""
        near_x, near_y = self.walls[:, :2].min(1), self.walls[:, 2:].min(1)
        inside = self.room.size[:2] / 2 - np.abs(self.centers[:, :2])
        loose = np.array([s.support is None or self._is_surface(s.support) for s in self.objects], dtype=bool)
        share = np.abs(self.centers[:, :2]) / (self.room.size[:2] / 2)
        wall, standing, roof = self.walls.min(1), self._standing(), self.room.size[2]
        corner = (np.maximum(near_x, near_y) < 0.3) & (inside.max(1) < 1.2) & standing
        return {
            "corner": decide(corner, np.maximum(near_x, near_y) > 0.7),
            "wall": decide(standing & loose & (wall < 0.15) & ~self.flat, (wall > 0.4) | (loose & (self.bottom > 0.5))),
            "hung": decide(loose & (wall < 0.1) & (self.bottom > 0.4), (wall > 0.4) | ~loose | standing),
            "ceiling": decide(roof - self.top < 0.05, (roof - self.top > 0.5) | ~loose),
            "middle of the room": decide((share < 1 / 3).all(1) & standing, (share > 0.5).any(1)),
        }

    def _is_surface(self, object_id: int) -> bool:
        return object_id in self.index and not self.is_object[self.index[object_id]]

    def into_room(self, k: int) -> FloatArray:
        """(2,) unit direction in which a door or window leads into the room: across it, towards the room's middle."""
        ahead = self.objects[k].front[:2]
        return -ahead if ahead @ self.centers[k, :2] > 0 else ahead

    def seen(self, view: str, k: int) -> FloatArray:
        """(N, 3) where each centre is, seen from object k: metres to the right, metres ahead, angle to the right."""
        item: RoomObject = self.objects[k]
        ahead = self.into_room(k) if item.label in OPENINGS else item.front[:2]
        ahead = -ahead if view == "face" else ahead
        offset = self.centers[:, :2] - self.centers[k, :2]
        right, depth = offset @ (ahead[1], -ahead[0]), offset @ ahead
        return np.stack([right, depth, np.arctan2(right, np.maximum(depth, 0.05))], axis=1)

    def from_door(self, door: int, sign: int) -> Truth:
        """(target, anchor): left (sign -1) or right (+1) of the anchor for who stands in the door and looks in."""
        ahead = self.into_room(door)
        across = sign * (self.corners - self.centers[door, :2]) @ (ahead[1], -ahead[0])
        deep = self.corners @ ahead
        right, depth, angle = (self.seen("door", door) * (sign, 1, sign)).T
        turn = np.degrees(angle[:, None] - angle)
        slip = np.abs(depth[:, None] - depth) - np.ptp(deep, axis=1) / 2
        true = (
            (right[:, None] - across.max(1) > 0.1) & (slip < 0.3) & (self.gap < 1.0) & (turn > 6) & (self._rise < 0.1)
        )
        return decide(true, (right[:, None] - right < 0.05) & (turn < 0.5) | np.eye(len(right), dtype=bool))

    def side_of_room(self, door: int, sign: int) -> Truth:
        """(N,) on the left (-1) or right (+1) side of the room for who stands in the door and looks in."""
        ahead = self.into_room(door)
        off_middle = sign * self.centers[:, :2] @ (ahead[1], -ahead[0])
        off_viewer = sign * self.seen("door", door)[:, 0]
        least, most = np.minimum(off_middle, off_viewer), np.maximum(off_middle, off_viewer)
        return decide(least > 0.4, most < -0.2)
