"""Exact intersection volume and IoU of oriented boxes, vectorised over pairs, float64.

Method. One box of the pair (the smaller) is mapped to the unit cube, the other becomes a parallelepiped P. The volume
of P within the cube is the sum, over all vertical columns (x, y) of the cube, of the part of the column inside P:

    V = integral over (x, y) in [0, 1]^2 of  clamp(top of P) - clamp(bottom of P),      clamp to [0, 1].

Top and bottom are faces of P, so V is a sum over the faces f of P of the clamped height z_f over the shadow of f in the
(x, y) square, counted positive where the face looks up and negative where it looks down. Green's theorem turns each
shadow into its boundary, that is, into the four edges of the face:

    V = - sum over faces f, edges e of f, of  integral along e of G_f(x, clamp y) dx,
    G_f(x, Y) = integral from 0 to Y of clamp(z_f(x, y)) dy,      x within [0, 1].

Along an edge G_f is piecewise quadratic, with at most 8 known breakpoints, so Gauss' two-point rule on each piece is
exact. No polyhedron is built: there are no vertices to classify, no face is matched with another. Every term depends
continuously on the boxes, so touching, equal, parallel and nearly parallel faces need no case of their own and cost no
accuracy (errors stay near 1e-15 of the smaller volume). `tests/test_iou.py` holds the proof by numbers.
"""

from __future__ import annotations

import numpy as np

from gapmllm.geometry.boxes import Boxes
from gapmllm.geometry.camera import FloatArray

_CHUNK = 512  # pairs worked on at once: keeps the working arrays within the processor's cache
_STEEPEST = 1e30  # slope that stands for a vertical face: large against any box, small against float64's range


def _edge_table() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The 24 (edge, face) incidences of a box: signs at the edge's middle, the edge's axis, the face's axis, a weight.

    An edge along axis j lies on the faces of axes i and k, where (i, j, k) is cyclic. Going round a face
    counter-clockwise as seen from outside, face i passes the edge in direction -s_i s_k, face k in direction +s_i s_k.
    """
    signs, axes, faces, weights = [], [], [], []
    for j in range(3):
        i, k = (j - 1) % 3, (j + 1) % 3
        for s_i in (-1.0, 1.0):
            for s_k in (-1.0, 1.0):
                middle = np.zeros(3)
                middle[i], middle[k] = s_i, s_k
                for face, direction in ((i, -s_i * s_k), (k, s_i * s_k)):
                    signs.append(middle)
                    axes.append(j)
                    faces.append(face)
                    weights.append(-direction)  # the minus sign of Green's theorem
    return np.array(signs), np.array(axes), np.array(faces), np.array(weights)


_MIDDLE, _AXIS, _FACE, _WEIGHT = _edge_table()
_GAUSS = np.array([0.5 - np.sqrt(3) / 6, 0.5 + np.sqrt(3) / 6])


def iou_pairs(a: Boxes, b: Boxes) -> FloatArray:
    """Intersection over union of a[i] with b[i], (N,). 0 where either box has no volume."""
    if len(a) != len(b):
        raise ValueError(f"iou_pairs needs as many boxes on both sides, got {len(a)} and {len(b)}; see iou_matrix")
    return _iou(intersection_volumes(a, b), a.volumes(), b.volumes())


def iou_matrix(a: Boxes, b: Boxes) -> FloatArray:
    """Intersection over union of every a[i] with every b[j], (N, M). 0 where either box has no volume."""
    result = np.zeros((len(a), len(b)))
    rows_at_once = max(1, 2_000_000 // max(1, len(b)))
    for start in range(0, len(a), rows_at_once):
        part = a[start : start + rows_at_once]
        i, j = np.nonzero(_bounds_overlap(part, b, outer=True))
        result[start + i, j] = iou_pairs(part[i], b[j])
    return result


def intersection_volumes(a: Boxes, b: Boxes) -> FloatArray:
    """Volume shared by a[i] and b[i], (N,), cubic metres. Exact to float rounding for any pair of boxes."""
    volume = np.minimum(a.volumes(), b.volumes())
    pending = np.nonzero(_bounds_overlap(a, b) & (volume > 0))[0]
    result = np.zeros(len(a))
    for start in range(0, len(pending), _CHUNK):
        rows = pending[start : start + _CHUNK]
        center, half_axes = _in_unit_cube(a[rows], b[rows])
        result[rows] = volume[rows] * np.clip(_volume_in_unit_cube(center, half_axes), 0, 1)
    return result


def _iou(intersection: FloatArray, volume_a: FloatArray, volume_b: FloatArray) -> FloatArray:
    union = volume_a + volume_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def _bounds_overlap(a: Boxes, b: Boxes, outer: bool = False) -> np.ndarray:
    """Whether the axis-aligned bounds share volume: the cheap test that spares most pairs the integral."""
    reach_a, reach_b = (np.einsum("nij,nj->ni", np.abs(x.rotations), x.sizes / 2) for x in (a, b))
    center_a, center_b = a.centers, b.centers
    if outer:
        center_a, reach_a = center_a[:, None], reach_a[:, None]
    return (np.abs(center_a - center_b) < reach_a + reach_b).all(axis=-1)


def _in_unit_cube(a: Boxes, b: Boxes) -> tuple[FloatArray, FloatArray]:
    """The larger box of each pair where the smaller is [0, 1]^3: centre (N, 3), half axes (N, 3, 3) in columns."""
    swap = (a.volumes() < b.volumes())[:, None]
    cube_center, cube_size = np.where(swap, a.centers, b.centers), np.where(swap, a.sizes, b.sizes)
    to_cube = np.swapaxes(np.where(swap[..., None], a.rotations, b.rotations), 1, 2)
    offset = np.where(swap, b.centers, a.centers) - cube_center
    axes = np.where(swap[..., None], b.rotations, a.rotations) * np.where(swap, b.sizes, a.sizes)[:, None] / 2
    center = np.einsum("nij,nj->ni", to_cube, offset) / cube_size + 0.5
    return center, to_cube @ axes / cube_size[..., None]


def _volume_in_unit_cube(center: FloatArray, half_axes: FloatArray) -> FloatArray:
    """Volume of the parallelepiped center + half_axes @ [-1, 1]^3 within [0, 1]^3, (N,)."""
    step = 2 * half_axes.transpose(0, 2, 1)[:, _AXIS]  # (N, 24, 3) along each edge
    start = center[:, None] + _MIDDLE @ half_axes.transpose(0, 2, 1) - step / 2
    slope = _slopes_along_y(half_axes)[:, _FACE]
    # Only edges that enter the strip 0 <= x <= 1, y >= 0 contribute; the others are dropped before the real work.
    first, last = _parameter_range(start[..., 0], step[..., 0])
    active = (first < last) & (np.maximum(start[..., 1], start[..., 1] + step[..., 1]) > 0)
    pair, edge = np.nonzero(active)
    terms = _integrate_edges(start[active], step[active], slope[active], first[active], last[active])
    return np.bincount(pair, terms * step[active][:, 0] * _WEIGHT[edge], minlength=len(center))


def _slopes_along_y(half_axes: FloatArray) -> FloatArray:
    """dz/dy at constant x on the faces of each axis, (N, 3); vertical faces get the steepest slope there is."""
    normals = np.cross(half_axes[..., [1, 2, 0]], half_axes[..., [2, 0, 1]], axis=1)  # (N, 3, faces)
    normal_y, normal_z = normals[:, 1], normals[:, 2]
    least = np.abs(normal_y) / _STEEPEST
    normal_z = np.where(np.abs(normal_z) < least, least, normal_z)
    return np.divide(-normal_y, normal_z, out=np.zeros_like(normal_y), where=normal_z != 0)


def _parameter_range(start: FloatArray, step: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The part of t in [0, 1] where 0 <= start + t step <= 1; empty (first >= last) where there is none."""
    at_zero, at_one = _crossing(start, step, 0.0), _crossing(start, step, 1.0)
    return np.clip(np.minimum(at_zero, at_one), 0, 1), np.clip(np.maximum(at_zero, at_one), 0, 1)


def _crossing(start: FloatArray, step: FloatArray, level: float) -> FloatArray:
    """The t at which start + t step equals level; 0 where it never does."""
    with np.errstate(over="ignore"):
        return np.divide(level - start, step, out=np.zeros_like(start), where=step != 0)


def _integrate_edges(
    start: FloatArray, step: FloatArray, slope: FloatArray, first: FloatArray, last: FloatArray
) -> FloatArray:
    """Integral over t in [first, last] of G_f(x(t), clamp y(t)), (M,), for edge points start + t step, (M, 3)."""
    y, dy, z, dz = start[:, 1], step[:, 1], start[:, 2], step[:, 2]
    floor, dfloor = z - y * slope, dz - dy * slope  # height of the face above y = 0
    # G_f changes its formula where y, or the height at the edge, above y = 0 or above y = 1, passes 0 or 1.
    lines = ((y, dy), (z, dz), (floor, dfloor), (floor + slope, dfloor))
    breaks = [_crossing(value, change, level) for value, change in lines for level in (0.0, 1.0)]
    knots = np.stack([first, *breaks, last])
    knots = np.sort(np.clip(knots, first, last), axis=0)
    length = np.diff(knots, axis=0)
    total = np.zeros_like(first)
    for node in _GAUSS:
        t = knots[:-1] + node * length
        y_here = y + t * dy
        y_clamped = np.clip(y_here, 0, 1)
        z_here = z + t * dz
        mean = _mean_of_clamp(z_here - y_here * slope, z_here + (y_clamped - y_here) * slope)
        total += (y_clamped * mean * length).sum(axis=0) / 2
    return total


def _mean_of_clamp(a: FloatArray, b: FloatArray) -> FloatArray:
    """Mean of clamp(u, 0, 1) for u uniform between a and b. Sums of differences: nothing cancels when a is near b."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    low_in, high_in = np.clip(low, 0, 1), np.clip(high, 0, 1)
    span = high - low
    above = np.maximum(high, 1) - np.maximum(low, 1)
    area = (high_in - low_in) * (high_in + low_in) / 2 + above
    return np.divide(area, span, out=low_in, where=span > 0)
