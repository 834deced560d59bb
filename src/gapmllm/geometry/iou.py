"""Exact intersection volume and IoU of oriented boxes, vectorised over pairs, float64.

Method. One box of the pair (the smaller) is mapped to the unit cube, the other becomes a parallelepiped P. The volume
of P within the cube is the sum, over all vertical columns (x, y) of the cube, of the part of the column inside P:

    V = integral over (x, y) in [0, 1]^2 of  clamp(top of P) - clamp(bottom of P),      clamp to [0, 1].

Top and bottom are faces of P, so V is a sum over the faces f of P of the clamped height z_f over the shadow of f in the
(x, y) square, counted positive where the face looks up and negative where it looks down. Green's theorem turns each
shadow into its boundary, that is, into the four edges of the face:

    V = - sum over faces f, edges e of f, of  integral along e of G_f(x, clamp y) dx,
    G_f(x, Y) = integral from 0 to Y of clamp(z_f(x, y)) dy,      x within [0, 1].

Along an edge G_f is piecewise quadratic, with at most 7 known breakpoints, so Gauss' two-point rule on each piece is
exact. No polyhedron is built: there are no vertices to classify, no face is matched with another. Every term depends
continuously on the boxes, so touching, equal, parallel and nearly parallel faces need no case of their own and cost no
accuracy. What is left is the rounding of coordinates: a share of the smaller volume of about 1e-16 times the extent of
the pair over the thickness of the thinner box. `tests/test_iou.py` holds the proof by numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapmllm.geometry.boxes import Boxes
from gapmllm.geometry.camera import FloatArray

_CHUNK = 512  # pairs worked on at once: keeps the working arrays within the processor's cache
_NOISE = 1e-14  # of the smaller volume: boxes that share less than rounding can tell share nothing
_THINNEST = 1e-100  # metres: what is thinner has no volume, and its reciprocal no number
_STEEPEST = 1e30  # slope that stands for a vertical face: large against any box, small against float64's range


def _edge_table() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The 12 edges of a box: corner signs at the middle, own axis, axes of the two faces, weight of the first face.

    An edge along axis j lies on a face of axis i and one of axis k, where (i, j, k) is cyclic. Going round a face
    counter-clockwise as seen from outside, face i passes the edge in direction -s_i s_k, face k in direction +s_i s_k;
    Green's theorem turns the sign.
    """
    middle, weight = np.zeros((12, 3)), np.zeros(12)
    axis = np.repeat([0, 1, 2], 4)
    faces = np.stack([(axis - 1) % 3, (axis + 1) % 3])
    for edge in range(12):
        signs = ((-1, -1), (-1, 1), (1, -1), (1, 1))[edge % 4]
        middle[edge, faces[:, edge]] = signs
        weight[edge] = signs[0] * signs[1]
    return middle, axis, faces, weight


_MIDDLE, _AXIS, _FACES, _WEIGHT = _edge_table()
_GAUSS = np.array([0.5 - np.sqrt(3) / 6, 0.5 + np.sqrt(3) / 6])


def iou_pairs(a: Boxes, b: Boxes) -> FloatArray:
    """Intersection over union of a[i] with b[i], (N,). 0 where either box has no volume."""
    return _over_union(intersection_volumes(a, b), a.volumes(), b.volumes())


def iou_matrix(a: Boxes, b: Boxes) -> FloatArray:
    """Intersection over union of every a[i] with every b[j], (N, M). 0 where either box has no volume."""
    result = np.zeros((len(a), len(b)))
    rows_at_once = max(1, 2_000_000 // max(1, len(b)))
    both, bounds_a, bounds_b = Boxes.concatenate([a, b]), _bounds(a), _bounds(b)
    for start in range(0, len(a), rows_at_once):
        center, reach = (x[start : start + rows_at_once, None] for x in bounds_a)
        i, j = np.nonzero(_overlap((center, reach), bounds_b))
        result[start + i, j] = _intersections(both, start + i, len(a) + j)
    return _over_union(result, a.volumes()[:, None], b.volumes())


def intersection_volumes(a: Boxes, b: Boxes) -> FloatArray:
    """Volume shared by a[i] and b[i], (N,), cubic metres. Exact but for the rounding of coordinates."""
    if len(a) != len(b):
        raise ValueError(f"pairs need as many boxes on both sides, got {len(a)} and {len(b)}; see iou_matrix")
    result = np.zeros(len(a))
    rows = np.nonzero(_overlap(_bounds(a), _bounds(b)))[0]
    result[rows] = _intersections(Boxes.concatenate([a, b]), rows, len(a) + rows)
    return result


def _over_union(intersection: FloatArray, volume_a: FloatArray, volume_b: FloatArray) -> FloatArray:
    union = volume_a + volume_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def _bounds(boxes: Boxes) -> tuple[FloatArray, FloatArray]:
    """Centre and half extents of the axis-aligned bounds, each (N, 3)."""
    return boxes.centers, (np.abs(boxes.rotations) @ boxes.sizes[..., None])[..., 0] / 2


def _overlap(a: tuple[FloatArray, FloatArray], b: tuple[FloatArray, FloatArray]) -> NDArray[np.bool_]:
    """Whether two bounds share volume: the cheap test that spares most pairs the integral."""
    within: NDArray[np.bool_] = np.all(np.abs(a[0] - b[0]) < a[1] + b[1], axis=-1)
    return within


def _intersections(boxes: Boxes, i: NDArray[np.intp], j: NDArray[np.intp]) -> FloatArray:
    """Volume that boxes i and j share, (N,)."""
    volumes = boxes.volumes()
    smaller = np.where(volumes[i] < volumes[j], i, j)
    larger = i + j - smaller
    result = np.zeros(len(i))
    pending = np.nonzero(boxes.sizes.min(axis=1)[smaller] > _THINNEST)[0]
    for start in range(0, len(pending), _CHUNK):
        rows = pending[start : start + _CHUNK]
        share = _volume_in_unit_cube(*_in_unit_cube(boxes, larger[rows], smaller[rows]))
        result[rows] = volumes[smaller[rows]] * np.where(share < _NOISE, 0.0, np.minimum(share, 1))
    return result


def _in_unit_cube(boxes: Boxes, i: NDArray[np.intp], cube: NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
    """Boxes i where box `cube` is [0, 1]^3: centre (N, 3), half axes (N, 3, 3) in columns."""
    to_cube = np.swapaxes(boxes.rotations[cube], 1, 2) / boxes.sizes[cube][..., None]
    offset = to_cube @ (boxes.centers[i] - boxes.centers[cube])[..., None]
    return offset[..., 0] + 0.5, to_cube @ (boxes.rotations[i] * (boxes.sizes[i] / 2)[:, None])


def _volume_in_unit_cube(center: FloatArray, half_axes: FloatArray) -> FloatArray:
    """Volume of the parallelepiped center + half_axes @ [-1, 1]^3 within [0, 1]^3, (N,)."""
    (x, y, z), (dx, dy, dz) = _edges(center, half_axes)
    # Only the part of an edge over the half strip 0 <= x <= 1, y >= 0 contributes.
    first, last = _range_above(x, dx, *_range_above(1 - x, -dx, *_range_above(y, dy, 0.0, 1.0)))
    active = np.flatnonzero(first < last)
    pair, edge = np.divmod(active, 12)
    edges = np.stack([values.ravel()[active] for values in (y, dy, z, dz, first, last)])
    slopes = _slopes_along_y(half_axes)[pair, _FACES[:, edge]]  # of the two faces that meet at the edge
    face, row, terms = _integrate(edges, slopes)
    weight = dx.ravel()[active] * _WEIGHT[edge]
    volume = np.bincount(pair[row], terms * weight[row] * (1 - 2 * face), minlength=len(center))
    return volume.astype(np.float64)  # of no pieces at all, bincount makes integers


def _edges(center: FloatArray, half_axes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Start and step of the edges, each (3 coordinates, N, 12)."""
    axes = half_axes.transpose(1, 0, 2)  # (coordinate, N, axis)
    step = 2 * axes[..., _AXIS]
    return center.T[..., None] + axes @ _MIDDLE.T - step / 2, step


def _slopes_along_y(half_axes: FloatArray) -> FloatArray:
    """dz/dy at constant x on the faces of each axis, (N, 3); vertical faces get the steepest slope there is."""
    x, y, z = half_axes.transpose(1, 0, 2)
    one, two = [1, 2, 0], [2, 0, 1]  # the axes that span the face
    normal_y = z[:, one] * x[:, two] - x[:, one] * z[:, two]
    normal_z = x[:, one] * y[:, two] - y[:, one] * x[:, two]
    least = np.abs(normal_y) / _STEEPEST
    normal_z = np.where(np.abs(normal_z) < least, least, normal_z)
    return np.divide(-normal_y, normal_z, out=np.zeros_like(normal_y), where=normal_z != 0)


def _inverse(step: FloatArray) -> FloatArray:
    """1 / step; 0 for a step that is none, so that the crossing which is never reached falls on t = 0."""
    return np.divide(1.0, step, out=np.zeros_like(step), where=np.abs(step) > 1e-200)


def _range_above(
    value: FloatArray, step: FloatArray, first: FloatArray | float, last: FloatArray | float
) -> tuple[FloatArray, FloatArray]:
    """The part of first <= t <= last where value + t step >= 0; empty (first >= last) where there is none."""
    inverse = _inverse(step)
    crossing = -value * inverse
    low = np.where(inverse > 0, np.maximum(first, crossing), first)
    high = np.where(inverse < 0, np.minimum(last, crossing), last)
    return low, np.where((inverse == 0) & (value < 0), low, high)


def _integrate(edges: FloatArray, slopes: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """Pieces of the integrals over t of G_f(x(t), clamp y(t)) along edges, for both faces f of each.

    edges: (6, M) y, dy, z, dz, first t, last t. slopes: (2, M) dz/dy of the faces. Returns face, edge and value of each
    piece; pieces of no length are left out, and so are faces that lie below the cube, where G_f is 0.
    """
    y, dy, z, dz, first, last = edges
    floor, dfloor = z - y * slopes, dz - dy * slopes  # height of the face above y = 0
    ends = (z + first * dz, z + last * dz, floor + first * dfloor, floor + last * dfloor)
    face, edge = np.nonzero(np.maximum(np.maximum(ends[0], ends[1]), np.maximum(ends[2], ends[3])) > 0)
    y, dy, z, dz, first, last = edges[:, edge]
    slope, floor, dfloor = slopes[face, edge], floor[face, edge], dfloor[face, edge]
    # G_f changes its formula where y passes 1, and where the height passes 0 or 1 at the edge, above y = 0 or y = 1.
    per_y, per_z, per_floor = _inverse(np.stack([dy, dz, dfloor]))
    knots = np.empty((len(edge), 9))
    knots[:, 0], knots[:, 1] = first, last
    knots[:, 2] = (1 - y) * per_y
    knots[:, 3], knots[:, 4] = -z * per_z, (1 - z) * per_z
    knots[:, 5], knots[:, 6] = -floor * per_floor, (1 - floor) * per_floor
    knots[:, 7], knots[:, 8] = knots[:, 5] - slope * per_floor, knots[:, 6] - slope * per_floor
    np.maximum(knots, first[:, None], out=knots)
    np.minimum(knots, last[:, None], out=knots)
    knots.sort(axis=1)
    length = np.diff(knots, axis=1).ravel()
    pieces = np.flatnonzero(length > 0)
    row, column = np.divmod(pieces, 8)
    start, length = knots[row, column], length[pieces]
    t = start + _GAUSS[:, None] * length
    y_here = y[row] + t * dy[row]
    z_here = z[row] + t * dz[row]
    y_clamped = np.minimum(y_here, 1)
    mean = _mean_of_clamp(z_here - y_here * slope[row], z_here + (y_clamped - y_here) * slope[row])
    return face[row], edge[row], (y_clamped * mean).sum(axis=0) * length / 2


def _mean_of_clamp(a: FloatArray, b: FloatArray) -> FloatArray:
    """Mean of clamp(u, 0, 1) for u uniform between a and b. Sums of differences: nothing cancels when a is near b."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    low_over, high_over = np.maximum(low, 1), np.maximum(high, 1)
    low_in, high_in = np.maximum(np.minimum(low, 1), 0), np.maximum(np.minimum(high, 1), 0)
    area = (high_in - low_in) * (high_in + low_in) / 2 + (high_over - low_over)
    span = high - low
    return np.divide(area, span, out=low_in, where=span > 0)
