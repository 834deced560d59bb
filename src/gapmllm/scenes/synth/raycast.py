"""Ray casting over the primitives of a room, exact and without meshes, the same code on CPU and GPU.

Rays come in views (a camera's frame, or a light), each cut into tiles of rays that go roughly the same way. Primitives
that a tile's bounding planes exclude are left out; then step k tests the k-th remaining primitive of every tile at
once. Letters of shapes: V views, S tiles per view, Q rays per tile, P primitives, K planes, n pairs of a tile and a
primitive.

Directions are not normalised: distances t are in units of the direction's length. A camera's directions have z = 1, so
t is the depth; a light's directions reach to the lit point, so t = 1 is that point. Everything that depends on a view
and a primitive alone is computed in float64; the rays are float32. No sum runs over rays, so no result depends on
threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.synth.room import Part

_SHAPES = ("box", "frustum", "ellipsoid")
_SLACK = 1e-4  # metres by which a bounding plane is eased, far above float32 rounding in a room
_TINY = 1e-20  # keeps a direction parallel to a face from dividing by zero, without moving any other
_NEARER = 1 - 1e-5  # of faces in one plane the first primitive's is seen, not a mottle of both


class Primitives:
    """P parts as arrays, grouped by shape: `part[i]` is the index, in the given order, of primitive i."""

    def __init__(self, parts: Sequence[Part], device: str) -> None:
        kinds = np.array([_SHAPES.index(part.shape) for part in parts], dtype=np.int64)
        order = np.argsort(kinds, kind="stable")
        rows = [parts[i] for i in order]
        self.count = len(rows)
        ends = np.cumsum(np.bincount(kinds, minlength=3)).tolist()
        self.slices = [slice(a, b) for a, b in zip([0, *ends[:2]], ends, strict=True)]
        self.device = device
        self.part = torch.as_tensor(order, device=device)
        self.centers = np.array([row.center for row in rows]).reshape(-1, 3)
        self.sizes = np.array([row.size for row in rows]).reshape(-1, 3)
        self.rotations = np.array([row.rotation for row in rows]).reshape(-1, 3, 3)
        self.ends = np.array([(row.bottom, row.top) for row in rows]).reshape(-1, 2)
        self.glows = np.array([row.material.glow > 0 for row in rows], dtype=bool)
        bounds = np.array([row.bounds() for row in rows]).reshape(-1, 2, 3)
        self.bounds = torch.as_tensor(bounds, dtype=torch.float32, device=device)
        # Radius of the unit frustum at p_z = 0, and its growth along p_z.
        self.radius = self.tensor(self.ends.sum(axis=1) / 4)
        self.slope = self.tensor((self.ends[:, 1] - self.ends[:, 0]) / 2)

    def tensor(self, values: FloatArray) -> Tensor:
        """float32 on the device."""
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)

    def local(self, points: FloatArray) -> FloatArray:
        """World points (..., 3) in the unit axes of every primitive: (..., P, 3)."""
        offsets = points[..., None, :] - self.centers
        return np.einsum("pji,...pj->...pi", self.rotations, offsets) / self.sizes

    def contains(self, points: FloatArray) -> np.ndarray:
        """Whether each primitive's solid holds each point (..., 3): (..., P)."""
        p = self.local(points)
        across, beyond = np.linalg.norm(p[..., :2], axis=-1), np.abs(p).max(axis=-1)
        reach = self.ends.sum(axis=1) / 4 + p[..., 2] * (self.ends[:, 1] - self.ends[:, 0]) / 2
        box, frustum, ellipsoid = beyond <= 0.5, across <= reach, np.linalg.norm(p, axis=-1) <= 0.5
        inside = box.copy()
        inside[..., self.slices[1]] &= (frustum & (np.abs(p[..., 2]) <= 0.5))[..., self.slices[1]]
        inside[..., self.slices[2]] &= ellipsoid[..., self.slices[2]]
        return inside


@dataclass(frozen=True, eq=False)
class Views:
    """V origins of rays, with the axes that their directions are given in."""

    origins: FloatArray
    """(V, 3) world."""
    rotations: FloatArray
    """(V, 3, 3) from the view's axes to the world."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """V x S tiles of Q rays each."""

    directions: Tensor
    """(V * S, 3, Q) in the view's axes; or (S, 3, Q), the same for every view."""
    normals: Tensor
    """(V, S, K, 3) in the view's axes: every point that matters is at normal . x <= offset from the view's origin."""
    offsets: Tensor
    """(V, S, K)"""


class _Scene:
    """The primitives as seen from the views: the unit axes' map of directions, and the origins in them."""

    def __init__(self, primitives: Primitives, views: Views) -> None:
        turned = np.einsum("vji,pjk->vpik", views.rotations, primitives.rotations)  # columns: axes seen from the view
        offsets = np.einsum("vji,vpj->vpi", views.rotations, primitives.centers - views.origins[:, None])
        maps = np.swapaxes(turned, 2, 3) / primitives.sizes[:, :, None]
        self.primitives = primitives
        self.maps = primitives.tensor(maps.reshape(-1, 3, 3))  # (V P, 3, 3)
        self.origins = primitives.tensor(primitives.local(views.origins).reshape(-1, 3))  # (V P, 3)
        self.centers = primitives.tensor(offsets)  # (V, P, 3)
        self.halves = primitives.tensor(turned * primitives.sizes[:, None, :] / 2)  # (V, P, 3, 3), columns

    def near(self, tiles: Tiles, allowed: Tensor | None) -> Tensor:
        """(V S, P): which primitives a tile's planes do not exclude. allowed: the same shape, or None."""
        views, count, planes = tiles.offsets.shape
        normals = tiles.normals.reshape(views, count * planes, 3)
        middle = normals @ self.centers.transpose(1, 2)
        along = [normals @ self.halves[..., axis].transpose(1, 2) for axis in range(3)]
        shares = self.primitives.tensor(self.primitives.ends)
        reach = torch.empty_like(middle)
        for kind, part in zip(_SHAPES, self.primitives.slices, strict=True):
            x, y, z = (values[..., part] for values in along)
            reach[..., part] = _reach(kind, x, y, z, shares[part])
        out = middle - reach > tiles.offsets.reshape(views, -1, 1) + _SLACK
        keep = ~out.reshape(views * count, planes, -1).any(dim=1)
        return keep if allowed is None else keep & allowed

    def intervals(self, tiles: Tiles, near: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Step by step: tile indices (n,), primitives (n,), and t of entry and exit (n, Q); no hit: entry > exit.

        No tile comes twice in one step.
        """
        per_view, total = tiles.offsets.shape[1], self.primitives.count
        solvers: tuple[Callable[..., tuple[Tensor, Tensor]], ...] = (_through_box, _through_frustum, _through_ellipsoid)
        for part, solve in zip(self.primitives.slices, solvers, strict=True):
            for tile, found in _steps(near[:, part]):
                primitive = found + part.start
                pair = tile // per_view * total + primitive
                world = tiles.directions[tile % len(tiles.directions)]
                directions = _apply(self.maps[pair], world)
                shape = self.primitives.radius[primitive, None], self.primitives.slope[primitive, None]
                yield tile, primitive, *solve(self.origins[pair, :, None], directions, *shape)


def first_hits(primitives: Primitives, views: Views, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """What each ray meets first: t (V S, Q), infinite where nothing; primitive (V S, Q) int64, P where nothing."""
    scene = _Scene(primitives, views)
    shape = (tiles.offsets.shape[0] * tiles.offsets.shape[1], tiles.directions.shape[2])
    nearest = torch.full(shape, torch.inf, device=primitives.device)
    owner = torch.full(shape, primitives.count, device=primitives.device)
    for tile, primitive, entry, leave in scene.intervals(tiles, scene.near(tiles, None)):
        before = nearest[tile]
        hit = (entry <= leave) & (entry > 0) & (entry < before * _NEARER)
        nearest[tile] = torch.where(hit, entry, before)
        owner[tile] = torch.where(hit, primitive[:, None], owner[tile])
    return nearest, owner


def blocked(primitives: Primitives, views: Views, tiles: Tiles, allowed: Tensor) -> Tensor:
    """Whether a primitive lies on the way to t = 1: (V S, Q) bool.

    allowed: (V S, P) bool, the primitives that may block a tile.
    """
    scene = _Scene(primitives, views)
    shape = (tiles.offsets.shape[0] * tiles.offsets.shape[1], tiles.directions.shape[2])
    result = torch.zeros(shape, dtype=torch.bool, device=primitives.device)
    for tile, _, entry, leave in scene.intervals(tiles, scene.near(tiles, allowed)):
        result[tile] |= (entry <= leave) & (entry < 1) & (leave > 0)
    return result


def _reach(kind: str, x: Tensor, y: Tensor, z: Tensor, shares: Tensor) -> Tensor:
    """How far a shape reaches from its centre against a direction, whose products with its half axes are x, y, z."""
    if kind == "box":
        return x.abs() + y.abs() + z.abs()
    if kind == "ellipsoid":
        return (x * x + y * y + z * z).sqrt()
    disk = (x * x + y * y).sqrt()
    return torch.maximum(disk * shares[:, 0] + z, disk * shares[:, 1] - z)


def _steps(near: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(tiles, P) bool -> the k-th primitive of every tile that has one, for k = 0, 1, …: two (n,) index tensors."""
    tile, primitive = near.nonzero(as_tuple=True)
    if not len(tile):
        return
    counts = near.sum(dim=1)
    rank = torch.arange(len(tile), device=near.device) - (counts.cumsum(0) - counts)[tile]
    order = rank.argsort(stable=True)
    lengths = rank.bincount().tolist()
    yield from zip(torch.split(tile[order], lengths), torch.split(primitive[order], lengths), strict=True)


def _apply(maps: Tensor, vectors: Tensor) -> Tensor:
    """(n, 3, 3) times (n, 3, Q), written out: a library's product may round by batch size or threads."""
    result = maps[:, :, 0:1] * vectors[:, 0:1]
    result.addcmul_(maps[:, :, 1:2], vectors[:, 1:2])
    return result.addcmul_(maps[:, :, 2:3], vectors[:, 2:3])


def _through_box(origins: Tensor, directions: Tensor, _radius: Tensor, _slope: Tensor) -> tuple[Tensor, Tensor]:
    """Slabs |p_i| <= 1/2: the latest entry, the earliest exit. Source: Kay and Kajiya (1986)."""
    inverse = directions.add_(_TINY).reciprocal_()
    middle = inverse * -origins
    half = inverse.abs_()
    return torch.sub(middle, half, alpha=0.5).amax(dim=1), middle.add_(half, alpha=0.5).amin(dim=1)


def _closest(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """t (n, 1, Q) where a ray is nearest to the unit shape's centre, and that point (n, 3, Q).

    Quadratics are solved from there: from afar, float32 loses the difference of two large squares.
    """
    x, y, z = directions.unbind(1)
    square = (x * x).addcmul_(y, y).addcmul_(z, z)
    a, b, c = origins.unbind(1)
    t = (x * a).addcmul_(y, b).addcmul_(z, c).div_(square).neg_()[:, None]
    return t, torch.addcmul(origins, t, directions)


def _through_ellipsoid(origins: Tensor, directions: Tensor, _radius: Tensor, _slope: Tensor) -> tuple[Tensor, Tensor]:
    """|p| <= 1/2. At the nearest point the quadratic has no linear term."""
    t, nearest = _closest(origins, directions)
    x, y, z = directions.unbind(1)
    a, b, c = nearest.unbind(1)
    room = 0.25 - (a * a).addcmul_(b, b).addcmul_(c, c)
    half = (room / (x * x).addcmul_(y, y).addcmul_(z, z)).sqrt_()  # NaN where it misses, which no comparison accepts
    return t[:, 0] - half, t[:, 0] + half


def _through_frustum(origins: Tensor, directions: Tensor, radius: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """|p_z| <= 1/2 and p_x^2 + p_y^2 <= (radius + slope p_z)^2."""
    start, nearest = _closest(origins, directions)
    x, y, z = directions.unbind(1)
    a, b, c = nearest.unbind(1)
    inverse = (z + _TINY).reciprocal_()
    middle, half = -c * inverse, inverse.abs() * 0.5
    low, high = middle - half, middle + half  # between the two end planes
    reach = radius + slope * c
    square = x * x + y * y - (slope * z) ** 2
    square = torch.where(square.abs() < 1e-12, 1e-12, square)
    linear = x * a + y * b - slope * z * reach
    constant = a * a + b * b - reach * reach
    root = (linear * linear - square * constant).sqrt()  # NaN: misses
    q = -(linear + torch.where(linear < 0, -root, root))
    one, two = q / square, constant / torch.where(q == 0, _TINY, q)
    first, last = torch.minimum(one, two), torch.maximum(one, two)
    # A ray steeper than the side is inside before the first root or after the last: the one between the end planes.
    steep, after = square < 0, last <= high
    entry = torch.where(steep, torch.where(after, torch.maximum(low, last), low), torch.maximum(low, first))
    leave = torch.where(steep, torch.where(after, high, torch.minimum(high, first)), torch.minimum(high, last))
    return entry + start[:, 0], leave + start[:, 0]
