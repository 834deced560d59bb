"""How surfaces look: normals of the points that are seen, textures, lights with hard shadows.

Textures lie on each face of a primitive at true size, so that they stick to the thing. Each is a share of the
material's second colour, 0 to 1, as a function of (u, v) on the face, in periods. u runs along a flat face's longer
side, or along the axis of a curved side.

Letters of shapes: T tiles of Q rays, N = T Q points, P primitives, L lights. Colours are linear RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.synth.raycast import Primitives, Tiles, Views, blocked
from gapmllm.scenes.synth.room import Part, Room

_LIFT = 1e-3  # metres off the surface, from where shadow rays look at the light
_HIGHLIGHT = 32.0  # exponent of the highlight
_NOISE_SIDE = 256  # texels of the noise table, which repeats
_PER_PERIOD = 32  # texels that make one period of noise
_ROWS = {
    "rotation": 9,
    "center": 3,
    "size": 3,
    "color": 3,
    "change": 3,
    "gloss": 1,
    "glow": 1,
    "texture": 1,
    "period": 1,
}


class Palette:
    """Placement and material of every primitive, one column each, and a last column for "nothing"."""

    def __init__(self, parts: list[Part], primitives: Primitives) -> None:
        columns = [_column(parts[i]) for i in primitives.part.tolist()] + [_column(None)]
        self._table = primitives.tensor(np.array(columns).T.copy())
        self.primitives = primitives

    def look_up(self, owner: Tensor) -> dict[str, Tensor]:
        """The rows of `_ROWS` for primitives (N,): (rows, N) each, rotations as (9, N), row by row."""
        columns = self._table.index_select(1, owner)
        return dict(zip(_ROWS, torch.split(columns, list(_ROWS.values())), strict=True))


def _column(part: Part | None) -> FloatArray:
    if part is None:
        return np.concatenate([np.eye(3).ravel(), np.zeros(3), np.ones(3), np.zeros(9), [1.0]])
    material, color = part.material, np.array(part.material.color)
    second = 0.55 * color if material.second is None else np.array(material.second)
    texture = _TEXTURES.index(material.texture)
    own = [material.gloss, material.glow, texture, material.period]
    return np.concatenate([part.rotation.ravel(), part.center, part.size, color, second - color, own])


@dataclass(frozen=True, eq=False)
class Surface:
    """What is seen at N points; where nothing is, the owner is P and the rest is finite but means nothing."""

    owner: Tensor
    """(N,) primitive."""
    points: Tensor
    """(3, N) world."""
    normals: Tensor
    """(3, N) world, unit, outwards."""
    local: Tensor
    """(3, N) metres along the primitive's own axes, from its centre."""
    face: Tensor
    """(N,) the axis that a flat face is perpendicular to; 3 on a curved side."""
    rows: dict[str, Tensor]
    """The palette's rows for each point."""


def surface_at(palette: Palette, owner: Tensor, points: Tensor) -> Surface:
    """The surfaces of primitives (N,) at points (3, N) on them."""
    rows = palette.look_up(owner)
    turn = rows["rotation"].view(3, 3, -1)
    local = (turn * (points - rows["center"])[:, None]).sum(dim=0)
    beyond = local.abs() - rows["size"] / 2
    face = torch.where(beyond[1] > beyond[0], 1, 0)
    face = torch.where(beyond[2] > torch.maximum(beyond[0], beyond[1]), 2, face)
    axes = torch.arange(3, device=face.device)[:, None]
    normals = torch.where(axes == face, local.sign(), 0.0)
    box, _, _ = palette.primitives.slices
    curved = ((owner >= box.stop) & (owner < palette.primitives.count)).nonzero()[:, 0]
    if len(curved):
        bent, flat = _curved_normals(palette.primitives, owner[curved], local[:, curved], rows["size"][:, curved])
        normals[:, curved], face[curved] = bent, torch.where(flat, 2, 3)
    return Surface(owner, points, (turn * normals).sum(dim=1), local, face, rows)


def _curved_normals(primitives: Primitives, owner: Tensor, local: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Normals (3, N) in the own axes of frustums and ellipsoids, and where they are those of a frustum's flat end."""
    unit = local / size
    _, frustum, _ = primitives.slices
    is_frustum = owner < frustum.stop
    reach = primitives.radius[owner] + primitives.slope[owner] * unit[2]
    # In metres, how far outside of the side and of the ends the point is: rounding apart, one is 0, the other below.
    beyond_side = (torch.hypot(unit[0], unit[1]) - reach) * torch.minimum(size[0], size[1])
    flat = is_frustum & ((unit[2].abs() - 0.5) * size[2] > beyond_side)
    gradient = unit.clone()
    gradient[2] = torch.where(is_frustum, -primitives.slope[owner] * reach, unit[2])
    gradient = gradient / size
    bent = _unit(gradient)
    ends = torch.stack([torch.zeros_like(reach), torch.zeros_like(reach), unit[2].sign()])
    return torch.where(flat, ends, bent), flat


def radiance(room: Room, palette: Palette, surface: Surface, eyes: Tensor, pixel_size: Tensor, rays: int) -> Tensor:
    """Light that reaches the camera from N points: (3, N); 0 where nothing is.

    eyes: (3, N) camera positions. pixel_size: (N,) metres that a pixel covers across the ray. rays: Q.
    """
    rows, normals = surface.rows, surface.normals
    toward = _unit(eyes - surface.points)
    footprint = pixel_size / (normals * toward).sum(dim=0).clamp(min=0.1)
    weights = _texture_weights(
        rows["texture"][0], rows["period"][0], surface.local, surface.face, rows["size"], footprint
    )
    color = rows["color"] + rows["change"] * weights
    ambient = palette.primitives.tensor(np.array(room.ambient))[:, None] * _openness(room, surface)
    total = ambient * color
    if room.lights:
        spots = palette.primitives.tensor(np.array([light.position for light in room.lights]))
        shades = _shadows(palette.primitives, spots, surface, rays)
        for light, spot, lit in zip(room.lights, spots, shades, strict=True):
            diffuse, highlight = _reflected(spot, surface, toward)
            received = palette.primitives.tensor(np.array(light.color))[:, None] * lit
            total += received * (color * diffuse + rows["gloss"] * highlight)
    total += rows["glow"] * color
    return torch.where(surface.owner < palette.primitives.count, total, 0.0)


def _openness(room: Room, surface: Surface) -> Tensor:
    """How much of the light from everywhere a point gets, (N,), about 1.

    More from above, a little more from one side, so that walls at a corner differ; less in the room's own corners.
    """
    points, normals = surface.points, surface.normals
    share = 1 + 0.12 * normals[2] + 0.1 * normals[0] + 0.05 * normals[1]
    for axis, side in enumerate(room.size.tolist()):
        middle = side / 2 if axis == 2 else 0.0
        gap = (side / 2 - (points[axis] - middle).abs()).clamp(min=0)
        share = share * (1 - 0.5 * torch.exp(gap * -4) * (1 - normals[axis].abs()))
    return share


def _reflected(spot: Tensor, surface: Surface, toward: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of a light that come back evenly and as a highlight, (N,) each: Lambert's cosine law, Blinn (1977)."""
    offset = spot[:, None] - surface.points
    square = (offset * offset).sum(dim=0).clamp(min=0.01)  # a lamp is no point: nothing gets closer than 10 cm
    direction = offset * square.rsqrt()
    diffuse = (surface.normals * direction).sum(dim=0).clamp(min=0)
    share = (surface.normals * _unit(direction + toward)).sum(dim=0).clamp(min=0)
    return diffuse / square, 0.6 * share.pow(_HIGHLIGHT) / square


def _shadows(primitives: Primitives, spots: Tensor, surface: Surface, rays: int) -> Tensor:
    """Where lights at (L, 3) reach the surface: (L, N) bool. What glows, and what holds the light, lets it pass."""
    points = (surface.points + _LIFT * surface.normals).view(3, -1, rays)  # (3, T, Q)
    normals = surface.normals.view(3, -1, rays)
    offsets = points - spots[:, :, None, None]  # (L, 3, T, Q)
    seen = (surface.owner < primitives.count).view(-1, rays)
    lit = ((offsets * normals).sum(dim=1) < 0) & seen  # (L, T, Q)
    tiles, allowed = _light_tiles(primitives, spots, points, offsets.transpose(1, 2), lit)
    origins = spots.double().cpu().numpy()
    views = Views(origins, np.broadcast_to(np.eye(3), (len(origins), 3, 3)))
    opaque = torch.as_tensor(~(primitives.glows | primitives.contains(origins)), device=spots.device)
    shaded = blocked(primitives, views, tiles, (allowed & opaque[:, None]).flatten(0, 1))
    return (lit & ~shaded.view_as(lit)).flatten(1)


def _light_tiles(
    primitives: Primitives, spots: Tensor, points: Tensor, offsets: Tensor, lit: Tensor
) -> tuple[Tiles, Tensor]:
    """Bounds of the ways from each light to each tile's lit points: planes, and (L, T, P) which primitives' boxes meet.

    points: (3, T, Q). offsets: (L, T, 3, Q) from the light. lit: (L, T, Q).
    """
    mask = lit[:, :, None]
    axis = _unit(torch.where(mask, offsets, 0.0).sum(dim=3), dim=2)
    pole = torch.where(axis[..., 2:].abs() < 0.8, axis.new_tensor([0.0, 0.0, 1.0]), axis.new_tensor([1.0, 0.0, 0.0]))
    right = _unit(torch.linalg.cross(axis, pole), dim=2)
    basis = torch.stack([right, torch.linalg.cross(axis, right), axis], dim=2)  # (L, T, 3, 3), rows
    along = sum(basis[..., i : i + 1] * offsets[:, :, i : i + 1] for i in range(3))  # (L, T, 3, Q)
    assert isinstance(along, Tensor)
    far = along[:, :, 2]
    slopes = along[:, :, :2] / far[:, :, None].clamp(min=1e-3)
    low = torch.where(mask, slopes, torch.inf).amin(dim=3)[..., None]  # (L, T, 2, 1)
    high = torch.where(mask, slopes, -torch.inf).amax(dim=3)[..., None]
    sides, forward = basis[:, :, :2], axis[:, :, None]
    normals = torch.cat([sides - high * forward, low * forward - sides, forward], dim=2)
    reach = torch.where(lit, far, 0.0).amax(dim=2)
    ends = torch.cat([torch.zeros_like(normals[:, :, :4, 0]), reach[..., None]], dim=2)
    # Lit points beside or behind the light: no pyramid around the axis holds them, so nothing is excluded.
    sound = (~lit | (far > 1e-3)).all(dim=2) & lit.any(dim=2)
    normals = torch.where(sound[..., None, None], normals, 0.0)
    return Tiles(offsets.flatten(0, 1), normals, ends), _boxes_meet(primitives, spots, points, lit)


def _boxes_meet(primitives: Primitives, spots: Tensor, points: Tensor, lit: Tensor) -> Tensor:
    """(L, T, P): whether a primitive's bounding box meets that of a light and a tile's lit points, (L, T, Q)."""
    meet = lit.any(dim=2)[:, :, None]
    for axis in range(3):
        spot = spots[:, axis, None]
        low = torch.where(lit, points[axis], torch.inf).amin(dim=2).minimum(spot)
        high = torch.where(lit, points[axis], -torch.inf).amax(dim=2).maximum(spot)
        bounds = primitives.bounds[:, :, axis]
        meet = meet & (bounds[:, 0] < high[..., None]) & (bounds[:, 1] > low[..., None])
    return meet


def _unit(vectors: Tensor, dim: int = 0) -> Tensor:
    """Vectors along a dimension, at length 1. (Several times as fast as torch's own norm over a short dimension.)"""
    return vectors * (vectors * vectors).sum(dim=dim, keepdim=True).clamp(min=1e-20).rsqrt()


def _texture_weights(
    texture: Tensor, period: Tensor, local: Tensor, face: Tensor, size: Tensor, footprint: Tensor
) -> Tensor:
    """Shares of the second colour, (N,).

    texture: (N,) index into _TEXTURES. period: (N,) metres. local: (3, N) metres from the primitive's centre.
    face: (N,) axis of a flat face, 3 for a curved side. size: (3, N) of the primitive. footprint: (N,) metres that a
    pixel covers: a pattern too fine for it fades to its mean instead of flickering.
    """
    weights = torch.zeros_like(period)
    for index, (pattern, mean, finest) in enumerate(_PATTERNS.values()):
        where = (texture == index).nonzero()[:, 0] if index else texture.new_zeros(0, dtype=torch.int64)
        if not len(where):
            continue
        u, v = _on_face(local[:, where], face[where], size[:, where])
        scale = period[where]
        fade = (1.6 - 1.2 * footprint[where] / (finest * scale)).clamp(0, 1)
        weights[where] = mean + fade * (pattern(u / scale, v / scale) - mean)
    return weights


def _on_face(local: Tensor, face: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """u and v, metres."""
    curved = face == 3
    first, second = (face + 1) % 3, (face + 2) % 3
    swap = size.gather(0, first[None])[0] < size.gather(0, second[None])[0]
    first, second = torch.where(swap, second, first), torch.where(swap, first, second)
    u, v = local.gather(0, first[None])[0], local.gather(0, second[None])[0]
    around = torch.atan2(local[1] / size[1], local[0] / size[0]) * (size[0] + size[1]) / 4
    return torch.where(curved, local[2], u), torch.where(curved, around, v)


def _plain(u: Tensor, _v: Tensor) -> Tensor:
    return torch.zeros_like(u)


def _wood(u: Tensor, v: Tensor) -> Tensor:
    """Boards one period wide and ten long, each with its own tone and grain."""
    board = torch.floor(v + 0.5)
    shift = _noise(board * 0.37, board * 0.61)
    number = torch.floor(u / 10 + shift * 7)
    tone = _noise(number * 0.53 + shift, board * 0.29)
    across, along = v + 3.1 * tone, u + 5 * shift
    grain = 0.6 * _noise(along * 0.08, across * 0.9) + 0.4 * _noise(along * 0.3, across * 4)
    edge = (v + 0.5 - board).minimum(board + 0.5 - v) < 0.018
    return torch.where(edge, 1.0, 0.75 * grain + 0.4 * (tone - 0.4)).clamp(0, 1)


def _checker(u: Tensor, v: Tensor) -> Tensor:
    return (torch.floor(u) + torch.floor(v)).remainder(2)


def _stripes(u: Tensor, _v: Tensor) -> Tensor:
    return (u.remainder(1) < 0.5).to(u.dtype)


def _tiles(u: Tensor, v: Tensor) -> Tensor:
    """One tile a period; the joints in the second colour, tiles a little different."""
    tone = 0.12 * _noise(torch.floor(u) * 0.37, torch.floor(v) * 0.73)
    joint = torch.minimum(u.remainder(1), v.remainder(1)) < 0.035
    return torch.where(joint, 1.0, tone)


def _noise(u: Tensor, v: Tensor) -> Tensor:
    """Cloudy, 0 to 1, evenly spread; detail down to 1/32 of a period."""
    row, column = (torch.floor(w * _PER_PERIOD).remainder(_NOISE_SIDE).long() for w in (u, v))
    return _noise_table(str(u.device))[row * _NOISE_SIDE + column]


def _weave(u: Tensor, v: Tensor) -> Tensor:
    """Threads half a period wide that pass over and under each other; the gaps are darker."""
    over = (torch.floor(2 * u) + torch.floor(2 * v)).remainder(2)
    return 0.15 + 0.7 * torch.where(over > 0, torch.cos(2 * torch.pi * u), torch.cos(2 * torch.pi * v)).square()


@cache
def _noise_table(device: str) -> Tensor:
    """(_NOISE_SIDE ** 2,) periodic noise, weaker at high frequencies, its values spread evenly over 0 to 1."""
    noise = np.random.default_rng(0).standard_normal((_NOISE_SIDE, _NOISE_SIDE))
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(_NOISE_SIDE, 1 / _NOISE_SIDE)] * 2))
    spectrum = np.fft.fft2(noise) / np.maximum(frequency, 4.0) ** 1.4
    ranks = np.fft.ifft2(spectrum).real.ravel().argsort().argsort()
    return torch.as_tensor((ranks + 0.5) / _NOISE_SIDE**2, dtype=torch.float32, device=device)


# Pattern, its mean, and its finest detail in periods.
_PATTERNS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float, float]] = {
    "plain": (_plain, 0.0, 1.0),
    "wood": (_wood, 0.42, 0.25),
    "checker": (_checker, 0.5, 0.5),
    "stripes": (_stripes, 0.5, 0.5),
    "tiles": (_tiles, 0.12, 0.15),
    "noise": (_noise, 0.5, 0.25),
    "weave": (_weave, 0.5, 0.5),
}
_TEXTURES = tuple(_PATTERNS)
