"""Puts pieces into a room so that nothing intersects, doors stay free and one can walk about.

Walls are numbered by the direction in which they lie: 0 +x, 1 +y, 2 -x, 3 -y. Two boxes may overlap only where a piece
is put to another on purpose (a chair pushed under a table, a pillow before a headboard); then their parts may not.
Rugs are 8 mm thick and lie under everything: furniture stands on the floor, through them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from scipy import ndimage

from gapmllm.geometry import Boxes, iou_matrix
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.synth.furniture import KINDS
from gapmllm.scenes.synth.furniture_parts import Piece, Seat
from gapmllm.scenes.synth.room import Part, RoomObject

_TOUCH = 5e-4  # metres that boxes may share: rounding, not an intersection
_CELL, _BODY = 0.1, 0.22  # of the walking grid; half the width of who walks
_OUTWARD = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))


def upright_pose(x: float, y: float, z: float, turn: float) -> FloatArray:
    """Pose of an object at a place, turned about z; quarter turns are exact."""
    pose = np.eye(4)
    c, s = (round(v) if abs(v - round(v)) < 1e-12 else v for v in (float(np.cos(turn)), float(np.sin(turn))))
    pose[:2, :2] = [[c, -s], [s, c]]
    pose[:3, 3] = x, y, z
    return pose


def parts_meet(a: Sequence[Part], b: Sequence[Part]) -> bool:
    """Whether any part of one may share volume with any of the other: "no" is sure, "yes" may err for round parts.

    Two proofs that a pair is apart: the boxes along the parts' own axes, and those along the world's.
    """
    own = iou_matrix(_part_boxes(a), _part_boxes(b)) > 1e-9
    (low_a, high_a), (low_b, high_b) = (np.stack([part.bounds() for part in parts], axis=1) for parts in (a, b))
    shared = np.minimum(high_a[:, None], high_b) - np.maximum(low_a[:, None], low_b)
    return bool((own & (shared > _TOUCH).all(axis=-1)).any())


def _part_boxes(parts: Sequence[Part]) -> Boxes:
    return Boxes(*(np.stack([getattr(part, name) for part in parts]) for name in ("center", "size", "rotation")))


class _Slabs:
    """Upright boxes: footprints with a lowest and a highest z, each belonging to an object."""

    def __init__(self) -> None:
        self.rows = np.zeros((0, 9))  # centre x y, unit x axis x y, half x y, z low high, owner

    def add(self, row: FloatArray) -> None:
        self.rows = np.vstack([self.rows, row])

    def clashes(self, row: FloatArray) -> list[int]:
        """Owners of the slabs that share volume with this one: separating axes, seen from above."""
        rows = self.rows
        apart = rows[:, :2] - row[:2]
        a = np.array([row[2:4], (-row[3], row[2])])
        b = np.stack([rows[:, 2:4], np.stack([-rows[:, 3], rows[:, 2]], axis=1)], axis=1)
        turn = np.abs(b @ a.T)  # (N, their axes, our axes)
        ours = np.abs(apart @ a.T) - row[4:6] - np.einsum("nk,nka->na", rows[:, 4:6], turn)
        theirs = np.abs(np.einsum("nki,ni->nk", b, apart)) - rows[:, 4:6] - turn @ row[4:6]
        high = np.minimum(rows[:, 7], row[7]) - np.maximum(rows[:, 6], row[6])
        hit = (ours < -_TOUCH).all(axis=1) & (theirs < -_TOUCH).all(axis=1) & (high > _TOUCH)
        return [int(owner) for owner in rows[hit, 8]]


def _slab(low: FloatArray, high: FloatArray, pose: FloatArray, owner: int) -> FloatArray:
    center = pose[:3, :3] @ ((low + high) / 2) + pose[:3, 3]
    half = (high - low) / 2
    z = pose[2, 3]
    return np.array([*center[:2], *pose[:2, 0], *half[:2], z + low[2], z + high[2], owner])


class Placer:
    """A room that is being furnished. Every method that places gives the object's id, or None: there was no room."""

    def __init__(self, rng: np.random.Generator, size: FloatArray) -> None:
        self.rng, self.size = rng, size
        self.objects: list[RoomObject] = []
        self.pieces: dict[int, Piece] = {}
        self.walls: dict[int, int] = {}
        """Object id -> the wall at which it stands or hangs."""
        self.wall_ids = (2, 3, 4, 5)
        self._solids, self._kept_free = _Slabs(), _Slabs()
        self._blocked = np.zeros(np.ceil(size[:2] / _CELL).astype(int), dtype=bool)
        self._entrances: list[tuple[int, int]] = []

    def build(self, name: str, seed: int | None = None) -> Piece:
        """A new piece of this kind; to be placed, once or several times. seed: instead of the room's random numbers."""
        return KINDS[name].build(self.rng if seed is None else np.random.default_rng(seed))

    def chance(self, share: float) -> bool:
        """True in this share of the calls."""
        return bool(self.rng.random() < share)

    def add(self, label: str, piece: Piece, pose: FloatArray, support: int | None) -> int:
        """Add an object without asking whether there is room for it."""
        item = RoomObject.build(
            piece.parts,
            pose,
            id=len(self.objects),
            label=label,
            attributes=dict(piece.attributes),
            support=support,
            has_front=piece.has_front,
        )
        self.objects.append(item)
        self.pieces[item.id] = piece
        return item.id

    def put(
        self,
        name: str,
        piece: Piece,
        pose: FloatArray,
        support: int,
        *,
        near: Collection[int] = (),
        clear: float = 0.0,
    ) -> int | None:
        """Place a piece if it is within the room and free. near: objects whose boxes it may enter, but not their parts.

        clear: metres before its front that are to stay free, from the floor up.
        """
        row = _slab(piece.low, piece.high, pose, len(self.objects))
        if not self._inside(row) or not self._is_free(row, piece, pose, near):
            return None
        stands = support == 0
        if stands:
            if set(self._kept_free.clashes(row)) - set(near):
                return None
            if not self._block(row):
                return None
        item = self.add(KINDS[name].label, piece, pose, support)
        self._solids.add(row)
        if clear:
            self.keep_free(item, clear)
        return item

    def keep_free(self, item: int, depth: float) -> None:
        """Keep the floor before an object's front free of whatever stands."""
        piece, pose = self.pieces[item], self.objects[item].pose
        low, high = piece.low.copy(), piece.high.copy()
        low[1], high[1], low[2], high[2] = low[1] - depth, low[1], 0.0, 2.0
        self._kept_free.add(
            _slab(low, high, upright_pose(float(pose[0, 3]), float(pose[1, 3]), 0, self.turn(item)), item)
        )

    def enter_at(self, item: int) -> None:
        """A door: the floor before it must stay connected with the rest of the free floor."""
        place = self.objects[item].center[:2] + 0.5 * self.objects[item].front[:2]
        x, y = (int(v) for v in (place + self.size[:2] / 2) / _CELL)
        self._entrances.append((x, y))

    def turn(self, item: int) -> float:
        """An object's turn about z, radians."""
        pose = self.objects[item].pose
        return float(np.arctan2(pose[1, 0], pose[0, 0]))

    def at_wall(
        self,
        name: str,
        *,
        piece: Piece | None = None,
        wall: int | None = None,
        along: float | None = None,
        z: float | tuple[float, float] = 0.0,
        hung: bool = False,
        corner: bool = False,
        clear: float = 0.0,
        tries: int = 14,
    ) -> int | None:
        """Place a piece with its back at a wall (any, or this one), somewhere along it, or at a place from its middle.

        along: metres to the right of who looks at the wall. z: of its bottom, or a range. corner: at a wall's end.
        """
        piece = piece or self.build(name)
        for _ in range(tries):
            number = int(self.rng.integers(4)) if wall is None else wall
            length = self.size[0] if number % 2 else self.size[1]
            least, most = -length / 2 - piece.low[0] + 0.01, length / 2 - piece.high[0] - 0.01
            if least > most:
                continue
            spot = float(self.rng.uniform(least, most)) if along is None else along
            if corner:
                spot = float(least if self.rng.random() < 0.5 else most)
            level = z if isinstance(z, float | int) else float(self.rng.uniform(*z))
            gap = 0.0 if hung else float(self.rng.uniform(0.005, 0.03))
            pose = self.wall_pose(number, spot, float(piece.high[1]) + gap, level)
            support = self.wall_ids[number] if hung else 0
            item = self.put(name, piece, pose, support, clear=clear)
            if item is not None:
                self.walls[item] = number
                return item
        return None

    def wall_pose(self, wall: int, along: float, away: float, z: float) -> FloatArray:
        """Pose of what has its back to a wall: `along` it to the right, its origin `away` from it."""
        outward = np.array(_OUTWARD[wall])
        turn = wall * np.pi / 2
        right = np.array([outward[1], -outward[0]])
        place = outward * (self.size[wall % 2] / 2 - away) + right * along
        return upright_pose(place[0], place[1], z, -np.pi / 2 + turn)

    def along(self, item: int) -> float:
        """Where an object stands along its wall, metres to the right of the wall's middle."""
        outward = _OUTWARD[self.walls[item]]
        return float(self.objects[item].center[:2] @ (outward[1], -outward[0]))

    def by(
        self,
        other: int,
        name: str,
        x: float,
        y: float,
        *,
        piece: Piece | None = None,
        turn: float = 0.0,
        near: Collection[int] = (),
        clear: float = 0.0,
    ) -> int | None:
        """Place a piece on the floor at (x, y) in the axes of another object, turned against it."""
        piece = piece or self.build(name)
        pose = self.objects[other].pose @ upright_pose(x, y, 0, turn)
        pose[2, 3] = 0
        return self.put(name, piece, pose, 0, near=near, clear=clear)

    def beside(self, other: int, name: str, side: int, *, gap: float = 0.04, piece: Piece | None = None) -> int | None:
        """Place a piece at the right (+1) or left (-1) of another, their backs in one line."""
        piece, base = piece or self.build(name), self.pieces[other]
        x = base.high[0] + gap - piece.low[0] if side > 0 else base.low[0] - gap - piece.high[0]
        item = self.by(other, name, x, base.high[1] - piece.high[1], piece=piece)
        if item is not None and other in self.walls:
            self.walls[item] = self.walls[other]
        return item

    def at_seat(self, table: int, seat: Seat, name: str, piece: Piece) -> int | None:
        """Place a chair at a table, facing it: pushed in as far as it goes, or pulled out a little."""
        turned = seat.turn + float(self.rng.normal(0, 0.08))
        away = np.array([np.sin(seat.turn), -np.cos(seat.turn)]) * -1  # from the table to the chair's back
        for pushed in (*sorted(self.rng.uniform(-0.1, 0.3, 2), reverse=True), -0.05, -0.15):
            x, y = np.array([seat.x, seat.y]) + away * (-float(piece.low[1]) - pushed)
            item = self.by(table, name, x, y, piece=piece, turn=turned, near=(table,))
            if item is not None:
                return item
        return None

    def on(
        self,
        support: int,
        name: str,
        *,
        piece: Piece | None = None,
        x: float | None = None,
        y: float | None = None,
        turn: float | None = None,
        tries: int = 6,
    ) -> int | None:
        """Place a piece on the first level top of another; x, y: shares of the room there,

        0 left or front, 1 right or back; None: anywhere.
        """
        piece = piece or self.build(name)
        if not self.pieces[support].tops:
            return None
        top, rng = self.pieces[support].tops[0], self.rng
        for _ in range(tries):
            spin = (
                turn
                if turn is not None
                else float(rng.normal(0, 0.12) if piece.has_front else rng.uniform(0, 2 * np.pi))
            )
            c, s = abs(np.cos(spin)), abs(np.sin(spin))
            half_x, half_y = piece.high[0] * c + piece.high[1] * s, piece.high[0] * s + piece.high[1] * c
            low, high = (top.x[0] + half_x, top.y[0] + half_y), (top.x[1] - half_x, top.y[1] - half_y)
            if low[0] > high[0] or low[1] > high[1]:
                return None
            share_x, share_y = rng.random() if x is None else x, rng.random() if y is None else y
            place = (low[0] + share_x * (high[0] - low[0]), low[1] + share_y * (high[1] - low[1]))
            pose = self.objects[support].pose @ upright_pose(*place, top.z, spin)
            item = self.put(name, piece, pose, support, near=(support,))
            if item is not None:
                return item
        return None

    def lay(self, name: str, x: float, y: float, turn: float) -> int | None:
        """Lay a rug; whatever stands there stands through it."""
        piece, pose = self.build(name), upright_pose(x, y, 0, turn)
        if not self._inside(_slab(piece.low, piece.high, pose, 0)):
            return None
        return self.add(KINDS[name].label, piece, pose, 0)

    def _inside(self, row: FloatArray) -> bool:
        reach = np.abs(row[2:4]) * row[4] + np.abs(row[[3, 2]]) * row[5]
        within = (np.abs(row[:2]) + reach <= self.size[:2] / 2 + 1e-6).all()
        return bool(within and row[6] >= -1e-6 and row[7] <= self.size[2] + 1e-6)

    def _is_free(self, row: FloatArray, piece: Piece, pose: FloatArray, near: Collection[int]) -> bool:
        hit = self._solids.clashes(row)
        if set(hit) - set(near):
            return False
        parts = [part.moved(pose) for part in piece.parts] if hit else []
        return not any(parts_meet(parts, self.objects[item].parts) for item in hit)

    def _block(self, row: FloatArray) -> bool:
        """Mark the floor under a slab as taken, unless that would cut the free floor in two."""
        blocked = self._blocked | self._cells(row)
        labels, count = ndimage.label(~blocked)
        if count:
            sizes = np.bincount(labels.ravel())[1:]
            largest = int(sizes.argmax()) + 1
            cut_off = any(labels[place] != largest for place in self._entrances)
            if cut_off or sizes[largest - 1] < 0.85 * sizes.sum():
                return False
        self._blocked = blocked
        return bool(count)

    def _cells(self, row: FloatArray) -> FloatArray:
        """Cells of the walking grid whose middle is nearer than half a body to a slab's footprint."""
        steps = [
            (np.arange(n) + 0.5) * _CELL - side / 2 for n, side in zip(self._blocked.shape, self.size, strict=False)
        ]
        x, y = steps[0][:, None] - row[0], steps[1][None] - row[1]
        along, across = np.abs(x * row[2] + y * row[3]), np.abs(y * row[2] - x * row[3])
        return (along < row[4] + _BODY) & (across < row[5] + _BODY)
