"""Oriented 3D boxes: a centre, full sizes and a rotation matrix each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gapmllm.geometry.camera import FloatArray, check_pose
from gapmllm.geometry.rotation import EulerConvention, euler_to_matrix, matrix_to_euler, nearest_rotation

# Signs of the local (x, y, z) of the eight corners: around the face x = -1, then around the face x = +1.
CORNER_SIGNS = np.array(
    [[-1, -1, -1], [-1, -1, 1], [-1, 1, 1], [-1, 1, -1], [1, -1, -1], [1, -1, 1], [1, 1, 1], [1, 1, -1]],
    dtype=np.float64,
)
# Pairs of corners that an edge joins, in that order.
BOX_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
_QUADS = np.array([[0, 1, 2, 3], [4, 7, 6, 5], [0, 4, 5, 1], [3, 2, 6, 7], [0, 3, 7, 4], [1, 5, 6, 2]])
# (12, 3) Two triangles for each face, corners in the same order, counter-clockwise seen from outside.
BOX_TRIANGLES = np.concatenate([_QUADS[:, [0, 1, 2]], _QUADS[:, [0, 2, 3]]])


@dataclass(frozen=True, eq=False)
class Boxes:
    """N oriented boxes in one coordinate frame, float64.

    A point p of the box in its own axes (|p_i| <= size_i / 2) is at centre + rotation @ p in the frame.
    Raises ValueError for wrong shapes, NaN, negative sizes, rotations that are none. Size 0 is allowed (volume 0).
    """

    centers: FloatArray
    """(N, 3) metres."""
    sizes: FloatArray
    """(N, 3) full edge lengths along the box's own axes, metres."""
    rotations: FloatArray
    """(N, 3, 3) from the box's own axes to the frame."""

    def __post_init__(self) -> None:
        for name in ("centers", "sizes"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.ndim != 2 or values.shape[1] != 3:
                raise ValueError(f"box {name} must have shape (N, 3), got {values.shape}")
            if not np.isfinite(values).all():
                raise ValueError(f"box {name} must be finite, box {_first_bad(~np.isfinite(values))} is not")
            object.__setattr__(self, name, values)
        if (self.sizes < 0).any():
            raise ValueError(f"box sizes must not be negative, box {_first_bad(self.sizes < 0)} has one")
        rotations = nearest_rotation(self.rotations, name="box rotations")
        if not len(self.centers) == len(self.sizes) == len(rotations):
            raise ValueError(f"got {len(self.centers)} centres, {len(self.sizes)} sizes, {len(rotations)} rotations")
        object.__setattr__(self, "rotations", rotations)

    @classmethod
    def from_euler(cls, values: ArrayLike | Sequence[ArrayLike], convention: EulerConvention) -> Boxes:
        """(N, 9) centre, full sizes, Euler angles in radians -> boxes. See `rotation.py` for the conventions."""
        rows = np.asarray(values, dtype=np.float64)
        if rows.size == 0:
            rows = rows.reshape(0, 9)
        if rows.ndim != 2 or rows.shape[1] != 9:
            raise ValueError(f"boxes must have shape (N, 9): centre, sizes, angles; got {rows.shape}")
        if not np.isfinite(rows).all():
            raise ValueError(f"boxes must be finite, box {_first_bad(~np.isfinite(rows))} is not")
        return cls(rows[:, :3], rows[:, 3:6], euler_to_matrix(rows[:, 6:], convention))

    @classmethod
    def from_axis_aligned(cls, values: ArrayLike) -> Boxes:
        """(N, 6) centre and full sizes -> boxes along the axes of their frame (ScanNet, ScanRefer)."""
        rows = np.asarray(values, dtype=np.float64)
        return cls(rows[:, :3], rows[:, 3:6], np.broadcast_to(np.eye(3), (len(rows), 3, 3)))

    @classmethod
    def concatenate(cls, parts: Sequence[Boxes]) -> Boxes:
        """All boxes of the parts, in order; no parts give no boxes."""
        parts = [cls.from_euler([], "zxy"), *parts]
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("centers", "sizes", "rotations")))

    def to_euler(self, convention: EulerConvention) -> FloatArray:
        """Inverse of `from_euler`: (N, 9)."""
        return np.concatenate([self.centers, self.sizes, matrix_to_euler(self.rotations, convention)], axis=1)

    def __len__(self) -> int:
        return len(self.centers)

    def __getitem__(self, index: slice | ArrayLike) -> Boxes:
        """The boxes at a slice, an index array or a mask."""
        return Boxes(self.centers[index], self.sizes[index], self.rotations[index])  # type: ignore[index]

    def corners(self) -> FloatArray:
        """(N, 8, 3) in the order of `CORNER_SIGNS`."""
        offsets = CORNER_SIGNS * self.sizes[:, None] / 2
        return self.centers[:, None] + offsets @ np.swapaxes(self.rotations, 1, 2)

    def volumes(self) -> FloatArray:
        """(N,) cubic metres."""
        return self.sizes.prod(axis=1)

    def transform(self, matrix: ArrayLike) -> Boxes:
        """The same boxes in another frame: matrix (4, 4), rigid, takes this frame to the other."""
        pose = check_pose(matrix, name="matrix")
        rotation = pose[:3, :3]
        return Boxes(self.centers @ rotation.T + pose[:3, 3], self.sizes, rotation @ self.rotations)


def _first_bad(bad: NDArray[np.bool_]) -> int:
    return int(np.argwhere(bad)[0, 0])
