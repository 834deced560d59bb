"""A camera's way through a room: where one can walk, a walk there, and where the camera looks meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.synth.room import CameraPath, Room, RoomObject

MARGIN = 0.25
"""Least distance of the camera from objects and walls, metres."""
_CELL = 0.08  # of the walking grid
_SURFACES = frozenset({"floor", "ceiling", "wall"})
_NOT_WATCHED = _SURFACES | {"light", "rug"}
_TILTS = (-33, -7)  # degrees, at most
_CANDIDATES = 40  # first frames that are compared


@dataclass(frozen=True)
class Rig:
    """A camera and how it is carried. Pairs are the least and the most, drawn once a walk; metres and degrees."""

    view: tuple[float, float]
    """Width of the field of view."""
    off_centre: float
    """The principal point's distance from the picture's centre, at most, in widths and on each axis."""
    heights: tuple[float, float]
    low_heights: tuple[float, float]
    low_share: float
    """Share of the walks at `low_heights`."""
    sway: float
    """Height over and under that, while it walks."""
    tilt: tuple[float, float]
    """Up, of the line of sight."""
    nod: tuple[float, float]
    """Tilt over and under that."""
    roll: tuple[float, float]
    tremble: float
    """Standard deviation of all three angles, frame by frame."""


RIGS = {
    "hand": Rig((50, 85), 0.01, (1.28, 1.72), (1.0, 1.2), 0.15, 0.07, (-24, -14), (3, 9), (0.5, 3.0), 0.5),
    "robot": Rig((70, 70), 0, (1.4, 1.4), (1.4, 1.4), 0, 0, (-20, -20), (0, 0), (0, 0), 0),
}
"""hand: phones and cameras of all kinds, as people hold them. robot: one camera on the mast of one that drives, which
makes distances a matter of where something meets the floor."""


def camera_path(
    rng: np.random.Generator, room: Room, num_frames: int, size: tuple[int, int] = (256, 192), rig: Rig = RIGS["hand"]
) -> CameraPath:
    """A walk of this many frames, 2 to 4 a second, looking at the furniture.

    The camera keeps `MARGIN` from all objects and walls (less only where a room has no such place). size: (width,
    height) in pixels. Raises ValueError for less than one frame.
    """
    if num_frames < 1:
        raise ValueError(f"a camera path needs at least 1 frame, got {num_frames}")
    times = np.cumsum(rng.uniform(0.26, 0.44, num_frames))
    heights = _heights(rng, times, rig)
    grid = _Walkable(room, float(heights.min()), float(heights.max()))
    intrinsics = _intrinsics(rng, size, rig)
    view = 2 * np.arctan(size[0] / 2 / intrinsics[0, 0])
    watched = np.array([item.center for item in room.objects if item.label not in _NOT_WATCHED]).reshape(-1, 3)
    speed = rng.uniform(0.2, 0.6)
    start, yaw = _first_view(rng, grid, watched, room, float(view))
    place = grid.walk(rng, start, speed * (times - times[0]))
    eyes = np.column_stack([place, heights])
    gaze = _gaze(rng, eyes, yaw, watched, room, float(view), rig)
    return CameraPath(poses=_poses(rng, eyes, gaze, rig), intrinsics=intrinsics, size=size, times=times - times[0])


def _heights(rng: np.random.Generator, times: FloatArray, rig: Rig) -> FloatArray:
    """Metres, smooth: around one height, sometimes a low one."""
    middle = rng.uniform(*(rig.low_heights if rng.random() < rig.low_share else rig.heights))
    return middle + rig.sway * np.sin(2 * np.pi * (times / rng.uniform(4, 9) + rng.random()))


def _intrinsics(rng: np.random.Generator, size: tuple[int, int], rig: Rig) -> FloatArray:
    """Square pixels."""
    width, height = size
    focal = width / 2 / np.tan(np.radians(rng.uniform(*rig.view)) / 2)
    x, y = rng.uniform(-rig.off_centre, rig.off_centre, 2) * width
    return np.array([[focal, 0, (width - 1) / 2 + x], [0, focal, (height - 1) / 2 + y], [0, 0, 1]])


class _Walkable:
    """The places where the camera may be, as a grid over the floor; heights of the camera from `low` to `high`."""

    def __init__(self, room: Room, low: float, high: float) -> None:
        counts = np.maximum(2, np.floor((room.size[:2] - 2 * MARGIN) / _CELL).astype(int) + 1)
        spans = [
            np.linspace(-1, 1, n) * max(0.0, side / 2 - MARGIN) for n, side in zip(counts, room.size, strict=False)
        ]
        self.x, self.y = spans
        points = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1)
        tall = np.full(points.shape[:2], np.inf)
        any_height = tall.copy()
        for item in room.objects:
            bottom, top = item.pose[2, 3] + item.low[2], item.pose[2, 3] + item.high[2]
            if item.label in _SURFACES or top < 0.05:
                continue
            away = _distance(item, points)
            if bottom < high + MARGIN and top > low - MARGIN:
                tall = np.minimum(tall, away)
            if bottom < high + MARGIN:
                any_height = np.minimum(any_height, away)
        self.points = points
        self.free = _largest(any_height > MARGIN)
        if self.free.sum() * _CELL**2 < 0.6:  # hold the camera over low furniture
            self.free = _largest(tall > MARGIN)
        if not self.free.any():
            self.free = tall == tall.max()

    def walk(self, rng: np.random.Generator, at: int, distances: FloatArray) -> FloatArray:
        """(F, 2) places after these distances (metres, from 0, rising) of a walk from place to place.

        at: the start, as its number among the free cells.
        """
        cells = np.argwhere(self.free)
        graph = _graph(self.free)
        route = [at]
        length, needed = 0.0, float(distances[-1]) * 1.3 + 0.3
        for _ in range(12):
            reach, before = dijkstra(graph, indices=at, return_predecessors=True)
            options = rng.integers(len(cells), size=4)
            goal = int(options[np.argmax(np.where(np.isfinite(reach[options]), reach[options], 0))])
            leg = [goal]
            while leg[-1] != at and before[leg[-1]] >= 0:
                leg.append(int(before[leg[-1]]))
            if leg[-1] == at:
                route += leg[-2::-1]
                length, at = length + float(reach[goal]), goal
            if length > needed:
                break
        return self._along(self.points[tuple(cells[route].T)], distances)

    def _along(self, route: FloatArray, distances: FloatArray) -> FloatArray:
        """Places after these distances of a way along cells, its corners cut where that stays free."""
        smooth = ndimage.gaussian_filter1d(route, 5.0, axis=0, mode="nearest")
        inside = ndimage.binary_erosion(self.free, np.ones((3, 3)), border_value=0)
        for _ in range(len(route)):
            bad = ~inside[tuple(self._cell(smooth).T)]
            if not bad.any():
                break
            near = np.convolve(bad, np.ones(5), mode="same")[:, None] > 0
            if not (near & (np.abs(smooth - route) > 1e-4)).any():
                break
            smooth = np.where(near, smooth + 0.34 * (route - smooth), smooth)
        steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(smooth, axis=0), axis=1))])
        there = np.minimum(distances, steps[-1])
        return np.stack([np.interp(there, steps, smooth[:, k]) for k in (0, 1)], axis=-1)

    def _cell(self, places: FloatArray) -> NDArray[np.intp]:
        """Nearest cells (N, 2) of places (N, 2)."""
        corner = np.array([self.x[0], self.y[0]])
        step = np.array([self.x[1] - self.x[0], self.y[1] - self.y[0]])
        found = np.rint((places - corner) / np.maximum(step, 1e-9)).astype(np.intp)
        return np.clip(found, 0, np.array(self.free.shape) - 1)


def _distance(item: RoomObject, points: FloatArray) -> FloatArray:
    """Distance of places (…, 2) from the object's box as seen from above; 0 within it."""
    offset = points - item.pose[:2, 3]
    local = offset @ item.pose[:2, :2]
    beyond = np.maximum(np.maximum(item.low[:2] - local, local - item.high[:2]), 0)
    return np.hypot(beyond[..., 0], beyond[..., 1])


def _largest(free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = ndimage.label(free)
    if not count:
        return free
    return labels == np.bincount(labels.ravel())[1:].argmax() + 1


def _graph(free: NDArray[np.bool_]) -> coo_array:
    """Free cells, in order, joined with their eight neighbours (diagonals only where both corners are free)."""
    number = np.where(free, np.cumsum(free).reshape(free.shape) - 1, -1)
    rows, columns, costs = [], [], []
    for x, y in ((1, 0), (0, 1), (1, 1), (1, -1)):
        start = number[: free.shape[0] - x, max(0, -y) : free.shape[1] - max(0, y)]
        end = number[x:, max(0, y) : free.shape[1] + min(0, y)]
        both = (start >= 0) & (end >= 0)
        if x and y:
            one = number[x:, max(0, -y) : free.shape[1] - max(0, y)]
            other = number[: free.shape[0] - x, max(0, y) : free.shape[1] + min(0, y)]
            both &= (one >= 0) & (other >= 0)
        rows.append(start[both])
        columns.append(end[both])
        costs.append(np.full(both.sum(), _CELL * np.hypot(x, y)))
    i, j, cost = (np.concatenate(values) for values in (rows, columns, costs))
    count = int(free.sum())
    return coo_array((np.tile(cost, 2), (np.concatenate([i, j]), np.concatenate([j, i]))), shape=(count, count))


def _first_view(
    rng: np.random.Generator, grid: _Walkable, watched: FloatArray, room: Room, view: float
) -> tuple[int, float]:
    """Free cell and yaw of the best of some random first frames."""
    places = grid.points[grid.free]
    cells, yaws = rng.integers(len(places), size=_CANDIDATES), rng.uniform(-np.pi, np.pi, _CANDIDATES)
    scores = [_interest(places[cell], yaw, watched, room, view) for cell, yaw in zip(cells, yaws, strict=True)]
    best = int(np.argmax(scores))
    return int(cells[best]), float(yaws[best])


def _gaze(
    rng: np.random.Generator, eyes: FloatArray, yaw: float, watched: FloatArray, room: Room, view: float, rig: Rig
) -> FloatArray:
    """(F, 2) yaw (0 along +x, counter-clockwise) and tilt (up), radians.

    From a first yaw the camera turns to where there is most to see, and goes on when it has seen it for a while.
    """
    frames, news = len(eyes), np.ones(len(watched))
    rate, target, yaws = np.radians(rng.uniform(5, 16)), yaw, [yaw]
    for frame in range(1, frames):
        news[_ahead(eyes[frame, :2], yaw, watched, view)] *= 0.8
        if frame % 3 == 0:
            options = yaw + np.linspace(-np.pi, np.pi, 37)
            worth = [_interest(eyes[frame, :2], option, watched, room, view, news) for option in options]
            target = float(options[np.argmax(worth - 0.4 * np.abs(options - yaw))])
        yaw += float(np.clip(target - yaw, -rate, rate)) + rng.normal(0, 0.02)
        yaws.append(yaw)
    smooth = ndimage.gaussian_filter1d(np.array(yaws), 1.2, mode="nearest")
    phase = 2 * np.pi * (np.arange(frames) / rng.uniform(9, 24) + rng.random())
    tilt = np.radians(np.clip(rng.uniform(*rig.tilt) + rng.uniform(*rig.nod) * np.sin(phase), *_TILTS))
    return np.stack([smooth, tilt], axis=-1)


def _ahead(place: FloatArray, yaw: float, watched: FloatArray, view: float) -> NDArray[np.bool_]:
    """Which things at (N, 3) are within the camera's width and farther than 0.9 metres."""
    offset, direction = watched[:, :2] - place, np.array([np.cos(yaw), np.sin(yaw)])
    distance = np.maximum(np.linalg.norm(offset, axis=1), 1e-6)
    within: NDArray[np.bool_] = (offset @ direction / distance > np.cos(view / 2)) & (distance > 0.9)
    return within


def _interest(
    place: FloatArray, yaw: float, watched: FloatArray, room: Room, view: float, news: FloatArray | float = 1.0
) -> float:
    """How much furniture is seen from a place, and how far the view goes: a near wall or table top shows little.

    news: (N,) what each thing counts.
    """
    direction = np.array([np.cos(yaw), np.sin(yaw)])
    to_wall = float(np.min((room.size[:2] / 2 - np.sign(direction) * place) / np.maximum(np.abs(direction), 1e-9)))
    offset = watched[:, :2] - place
    distance = np.linalg.norm(offset, axis=1)
    close = (offset @ direction > 0.8 * distance) & (distance < 0.9)
    return float((_ahead(place, yaw, watched, view) * news).sum() - 1.5 * close.sum()) + 2 * min(to_wall, 3.0)


def _poses(rng: np.random.Generator, eyes: FloatArray, gaze: FloatArray, rig: Rig) -> FloatArray:
    """(F, 4, 4) camera_to_world from places and directions, with the roll and the tremble of a rig."""
    frames = len(eyes)
    tremble = np.radians(np.clip(rng.normal(0, rig.tremble, (frames, 3)), -1.2, 1.2))
    roll = np.radians(rng.uniform(*rig.roll)) * np.sin(np.arange(frames) * rng.uniform(0.2, 0.6) + rng.uniform(0, 6))
    yaw, tilt, roll = gaze[:, 0] + tremble[:, 0], gaze[:, 1] + tremble[:, 1], roll + tremble[:, 2]
    forward = np.stack([np.cos(tilt) * np.cos(yaw), np.cos(tilt) * np.sin(yaw), np.sin(tilt)], axis=-1)
    level = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros(frames)], axis=-1)
    below = np.cross(forward, level)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, 0], poses[:, :3, 1], poses[:, :3, 2] = c * level + s * below, c * below - s * level, forward
    poses[:, :3, 3] = eyes
    return poses
