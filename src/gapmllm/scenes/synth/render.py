"""Pictures, depth, object ids and normals of a procedural room along a camera path, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gapmllm.geometry import resize_intrinsics
from gapmllm.scenes.records import evenly
from gapmllm.scenes.synth.raycast import Primitives, Tiles, Views, first_hits
from gapmllm.scenes.synth.room import CameraPath, Room
from gapmllm.scenes.synth.shading import Palette, Surface, radiance, surface_at

_TILE = 16  # pixels along a tile's side
_CHUNK = {"cpu": 1 << 17, "cuda": 1 << 21}  # rays at a time: what stays in a CPU's cache, what fills a GPU
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear sRGB, IEC 61966-2-1
_MIDDLE = 1.05  # what a perfect white in middling light is exposed to
_WHITE = 2.2  # what becomes pure white
_NOISE_SHIFTS = 64
_PREVIEW = 4  # frames that the exposure is measured on, at an eighth of the size


@dataclass(frozen=True, eq=False)
class Rendering:
    """F frames of H x W. Everything but the colours is exact for the ray through the pixel's centre."""

    images: NDArray[np.uint8]
    """(F, H, W, 3) sRGB."""
    depth: NDArray[np.float32]
    """(F, H, W) metres along z; 0 where a ray meets nothing."""
    ids: NDArray[np.int32]
    """(F, H, W) object id, -1 where nothing."""
    normals: NDArray[np.float32]
    """(F, H, W, 3) in the world, unit, towards the camera; 0 where nothing."""
    parts: NDArray[np.int32]
    """(F, H, W) index into the parts of all objects, in order; -1 where nothing."""


def render(room: Room, path: CameraPath, *, seed: int, device: str = "cpu") -> Rendering:
    """Render all frames of a path. The same arguments give the same bytes, whatever the number of threads.

    seed: of the sensor's noise and the exposure's small error. device: as torch names it.
    Raises ValueError for a room without parts, and a device that cannot be used.
    """
    _check_device(device)
    parts = [part for item in room.objects for part in item.parts]
    if not parts:
        raise ValueError("the room has no parts to render: give it at least one object")
    caster = _Caster(room, device)
    with _workers(device) as workers:
        exposure = workers.submit(caster.exposure, path).result()
        sensor = _Sensor(exposure, path, seed, device)
        pieces = list(workers.map(lambda frames: _develop(caster, path, frames, sensor), _chunks(path, device)))
    fields = [np.concatenate(values) for values in zip(*pieces, strict=True)]
    return Rendering(*fields)


def _check_device(device: str) -> None:
    try:
        if torch.device(device).type in _CHUNK:
            torch.zeros(1, device=device)
            return
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    raise ValueError(f"device {device!r}: rooms are rendered on {' or '.join(_CHUNK)}")


@contextmanager
def _workers(device: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that render chunks side by side, as many as torch would use; every operation stays within its thread.

    torch's own way, each operation cut into one piece per thread, waits thousands of times a second for the slowest
    thread: many times slower on a machine that does something else as well.
    """
    threads = torch.get_num_threads()
    count = threads if torch.device(device).type == "cpu" else 1
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # torch lets new threads inherit the last number that was set in any


def _chunks(path: CameraPath, device: str) -> Iterator[slice]:
    width, height = path.size
    step = max(1, _CHUNK[torch.device(device).type] // (width * height))
    return (slice(start, start + step) for start in range(0, len(path.poses), step))


@dataclass(frozen=True, eq=False)
class _Hits:
    """What the rays of F frames meet, in tiles: the surface, and depth (F T Q,), infinite where nothing."""

    surface: Surface
    depth: Tensor
    light: Tensor
    """(3, F T Q) linear RGB."""


class _Caster:
    """A room ready to be seen."""

    def __init__(self, room: Room, device: str) -> None:
        parts = [part for item in room.objects for part in item.parts]
        self.room = room
        self.device = device
        self.primitives = Primitives(parts, device)
        self.palette = Palette(parts, self.primitives)
        part = [*self.primitives.part.tolist(), -1]
        owners = [item.id for item in room.objects for _ in item.parts]
        self.part_of = torch.tensor(part, dtype=torch.int32, device=device)
        self.object_of = torch.tensor([owners[i] for i in part[:-1]] + [-1], dtype=torch.int32, device=device)

    def look(self, path: CameraPath) -> _Hits:
        """Cast the rays of all frames and light what they meet."""
        origins, rotations = path.poses[:, :3, 3], path.poses[:, :3, :3]
        tiles = _camera_tiles(path, self.primitives)
        depth, owner = first_hits(self.primitives, Views(origins, rotations), tiles)
        frames, (_, _, rays) = len(origins), tiles.directions.shape
        depth, owner = depth.view(frames, -1), owner.view(frames, -1)
        turns = self.primitives.tensor(rotations)[..., None]
        flat = tiles.directions.transpose(0, 1).flatten(1)  # (3, T Q)
        world = turns[:, :, 0] * flat[0] + turns[:, :, 1] * flat[1] + turns[:, :, 2] * flat[2]
        eyes = self.primitives.tensor(origins)[:, :, None].expand_as(world)
        reached = torch.where(depth.isfinite(), depth, 1.0)
        points = (eyes + world * reached[:, None]).transpose(0, 1).flatten(1)
        surface = surface_at(self.palette, owner.flatten(), points)
        pixel = reached.flatten() / float(path.intrinsics[0, 0])
        light = radiance(self.room, self.palette, surface, eyes.transpose(0, 1).flatten(1), pixel, rays)
        return _Hits(surface, depth.flatten(), light)

    def exposure(self, path: CameraPath) -> float:
        """Factor on the light of a whole clip, found as a light meter does: from the light that falls on things.

        So white things come out white and black ones black in every room, as the words for their colours say.
        """
        width, height = (max(1, side // 8) for side in path.size)
        some = evenly(len(path.poses), _PREVIEW)
        small = replace(
            path,
            poses=path.poses[some],
            times=path.times[some],
            intrinsics=resize_intrinsics(path.intrinsics, path.size, (width, height)),
            size=(width, height),
        )
        hits = self.look(small)
        rows = hits.surface.rows
        reflected, color, glow = (values.cpu().double().numpy() for values in (hits.light, rows["color"], rows["glow"]))
        usable = (_LUMINANCE @ reflected > 0) & (_LUMINANCE @ color > 0.02) & (glow[0] == 0)
        if not usable.any():
            return 1.0
        falling = (_LUMINANCE @ reflected)[usable] / (_LUMINANCE @ color)[usable]
        return _MIDDLE / float(np.exp(np.log(falling).mean()))


def _camera_tiles(path: CameraPath, primitives: Primitives) -> Tiles:
    """Tiles over the picture, row by row; those at the right and bottom may reach beyond it."""
    width, height = path.size
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    matrix = path.intrinsics
    x = ((np.arange(columns * _TILE) - matrix[0, 2]) / matrix[0, 0]).reshape(columns, _TILE)
    y = ((np.arange(rows * _TILE) - matrix[1, 2]) / matrix[1, 1]).reshape(rows, _TILE)
    directions = np.ones((rows, columns, 3, _TILE, _TILE))
    directions[:, :, 0] = x[None, :, None, :]
    directions[:, :, 1] = y[:, None, :, None]
    normals = np.zeros((rows, columns, 5, 3))
    for plane, (axis, sign, edge) in enumerate(
        [(0, 1, x[:, -1]), (0, -1, x[:, 0]), (1, 1, y[:, -1, None]), (1, -1, y[:, 0, None])]
    ):
        normals[:, :, plane, axis] = sign
        normals[:, :, plane, 2] = -sign * edge
    normals[:, :, 4, 2] = -1  # in front of the camera
    frames = len(path.poses)
    planes = primitives.tensor(normals.reshape(1, -1, 5, 3)).expand(frames, -1, -1, -1)
    rays = primitives.tensor(directions.reshape(rows * columns, 3, _TILE * _TILE))
    return Tiles(rays, planes, torch.zeros_like(planes[..., 0]))


def _to_frames(values: Tensor, frames: int, size: tuple[int, int]) -> Tensor:
    """Values in tiles (..., F T Q) -> (F, H, W, ...), contiguous."""
    width, height = size
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    grid = values.view(*values.shape[:-1], frames, rows, columns, _TILE, _TILE).transpose(-3, -2)
    grid = grid.flatten(-2).flatten(-3, -2)[..., :height, :width]
    return (grid.movedim(0, -1) if values.ndim == 2 else grid).contiguous()


class _Sensor:
    """Turns light into pixels: exposure, vignette, tone curve, a little blur, noise."""

    def __init__(self, exposure: float, path: CameraPath, seed: int, device: str) -> None:
        rng = np.random.Generator(np.random.Philox(seed))
        self.exposure = exposure * float(rng.uniform(0.85, 1.15))
        self.level = float(rng.uniform(0.006, 0.02))
        self.size = width, height = path.size
        x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
        self.vignette = torch.as_tensor(1 - 0.12 * (x * x + y * y), dtype=torch.float32, device=device)[..., None]
        # Noise is drawn once, on the CPU so that a GPU gets the same, and cut out somewhere else for every frame.
        sheet = rng.standard_normal((height + _NOISE_SHIFTS, width + _NOISE_SHIFTS, 3), dtype=np.float32)
        self.sheet = torch.as_tensor(sheet, device=device)
        self.corners = rng.integers(_NOISE_SHIFTS, size=(len(path.poses), 2))

    def expose(self, light: Tensor, frames: slice) -> Tensor:
        """Linear light (F, H, W, 3) of these frames of the path -> sRGB (F, H, W, 3) uint8."""
        light = light * (self.exposure * self.vignette)
        light = light * (1 + light / _WHITE**2) / (1 + light)  # Reinhard et al. (2002), eq. 4
        light = _blurred(_blurred(light, 1), 2)
        light = light + self.level * (light + 0.01).sqrt() * self._noise(frames)
        light = light.clamp(0, 1)
        srgb = torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.pow(1 / 2.4) - 0.055)  # IEC 61966-2-1
        return (srgb * 255 + 0.5).to(torch.uint8)

    def _noise(self, frames: slice) -> Tensor:
        width, height = self.size
        return torch.stack([self.sheet[y : y + height, x : x + width] for y, x in self.corners[frames].tolist()])


def _blurred(image: Tensor, axis: int) -> Tensor:
    """Each pixel with an eighth of both neighbours along an axis: the softness of a lens, which also hides stairs."""
    size = image.shape[axis]
    steps = torch.arange(size, device=image.device)
    before, after = (steps - 1).clamp(min=0), (steps + 1).clamp(max=size - 1)
    return 0.75 * image + 0.125 * (image.index_select(axis, before) + image.index_select(axis, after))


def _develop(caster: _Caster, path: CameraPath, frames: slice, sensor: _Sensor) -> tuple[NDArray[np.generic], ...]:
    """The fields of a Rendering for some frames of a path."""
    some = replace(path, poses=path.poses[frames], times=path.times[frames])
    hits = caster.look(some)
    surface, seen = hits.surface, hits.depth.isfinite()
    tiled = (
        hits.light,
        torch.where(seen, hits.depth, 0.0),
        caster.object_of[surface.owner],
        torch.where(seen, surface.normals, 0.0),
        caster.part_of[surface.owner],
    )
    light, *rest = (_to_frames(values, len(some.poses), path.size) for values in tiled)
    return tuple(field.cpu().numpy() for field in (sensor.expose(light, frames), *rest))
