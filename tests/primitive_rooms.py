"""Rooms of bare primitives and cameras in them, for the renderer's tests."""

from __future__ import annotations

import numpy as np

from gapmllm.geometry import euler_to_matrix
from gapmllm.scenes.synth.room import CameraPath, Light, Material, Part, Room, RoomObject

GRAY = Material(color=(0.5, 0.5, 0.5))
NORTH = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # a camera's axes in the world: it looks along +y, level


def part(shape, center, size, material=GRAY, **more):
    return Part(shape=shape, center=np.array(center, float), size=np.array(size, float), material=material, **more)


def room_of(*parts, lights=(), ambient=(0.2, 0.2, 0.2)):
    """Every part an object of its own, ids from 10 on."""
    objects = [RoomObject.build([p], np.eye(4), id=10 + i, label="thing") for i, p in enumerate(parts)]
    return Room(objects=tuple(objects), lights=tuple(lights), ambient=ambient, size=np.array([8.0, 8, 3]))


def camera(*poses, size=(33, 25), focal=30.0):
    """The principal point is the middle pixel."""
    intrinsics = np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1]])
    poses = np.array(poses or [pose_at((0, 0, 0))])
    return CameraPath(poses=poses, intrinsics=intrinsics, size=size, times=np.arange(len(poses)) / 10)


def pose_at(position, rotation=NORTH):
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, position
    return pose


def looking(eye, at):
    forward = np.subtract(at, eye) / np.linalg.norm(np.subtract(at, eye))
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    return pose_at(eye, np.stack([right, np.cross(forward, right), forward], axis=1))


def random_room(seed, count=25, shapes=("box", "frustum", "ellipsoid")):
    """Primitives of all shapes, turned any way, in a shell of 6 x 6 x 3 metres."""
    rng = np.random.default_rng(seed)
    walls = [part("box", c, s) for c, s in [((0, 0, -0.1), (6, 6, 0.2)), ((0, 3.1, 1.5), (6, 0.2, 3))]]
    parts = []
    for _ in range(count):
        ends = [1.0, rng.choice([1.0, 0.6, 0.0])]
        rng.shuffle(ends)
        shape = str(rng.choice(shapes))
        rotation = euler_to_matrix(rng.uniform(-3, 3, 3), "zxy")
        place, size = rng.uniform((-2, -1, 0.2), (2, 2.5, 2.5)), rng.choice([0.03, 0.2, 0.8], 3) * rng.uniform(0.7, 1.2)
        texture = str(rng.choice(["plain", "wood", "checker", "stripes", "tiles", "noise", "weave"]))
        material = Material(color=tuple(rng.uniform(0.1, 0.9, 3)), texture=texture, gloss=0.5)
        more = {"bottom": ends[0], "top": ends[1]} if shape == "frustum" else {}
        parts.append(part(shape, place, size, material, rotation=rotation, **more))
    lights = [Light(position=(0, 0, 2.9), color=(4, 4, 4)), Light(position=(2, -2, 2), color=(2, 1.5, 1))]
    return room_of(*walls, *parts, lights=lights)


def random_path(seed, frames=2, size=(48, 36)):
    rng = np.random.default_rng(seed + 1000)
    eyes, aims = (
        rng.uniform((-2.5, -3, 0.8), (2.5, -2, 2), (frames, 3)),
        rng.uniform((-1, 0, 0), (1, 2, 1.5), (frames, 3)),
    )
    return camera(*map(looking, eyes, aims), size=size, focal=0.8 * size[0])


def planes_of(shape, thing):
    """(n, 4) half-spaces a . p <= b of the unit shape, a round side as 180 tangent planes."""
    signs = np.concatenate([np.eye(3), -np.eye(3)])
    if shape == "box":
        return np.column_stack([signs, np.full(6, 0.5)])
    angle = np.arange(180) * (2 * np.pi / 180)
    slope = (thing.top - thing.bottom) / 2
    sides = np.column_stack(
        [np.cos(angle), np.sin(angle), np.full(180, -slope), np.full(180, (thing.bottom + thing.top) / 4)]
    )
    return np.concatenate([sides, np.column_stack([signs[[2, 5]], [0.5, 0.5]])])


def reference_part(thing, eye, rays):
    """Entry into one part, in units of the ray, inf: none; and the outward normal there. float64, rays (N, 3)."""
    origin, d = (eye - thing.center) @ thing.rotation / thing.size, rays @ thing.rotation / thing.size
    if thing.shape == "ellipsoid":
        a, b, c = (d * d).sum(1), d @ origin, origin @ origin - 0.25
        with np.errstate(invalid="ignore"):
            entry = (-b - np.sqrt(b * b - a * c)) / a
        entry = np.where(entry > 0, entry, np.inf)
        gradient = origin + np.where(np.isfinite(entry), entry, 0)[:, None] * d
    else:
        planes = planes_of(thing.shape, thing)
        speed, room = d @ planes[:, :3].T, planes[:, 3] - planes[:, :3] @ origin
        with np.errstate(divide="ignore", invalid="ignore"):
            t = room / speed
        enter, leave = np.where(speed < 0, t, -np.inf), np.where(speed > 0, t, np.inf)
        entry, last = enter.max(1), enter.argmax(1)
        entry = np.where((entry <= leave.min(1)) & (entry > 0), entry, np.inf)
        gradient = planes[last, :3]
    normal = (gradient / thing.size) @ thing.rotation.T
    return entry, normal / np.linalg.norm(normal, axis=1, keepdims=True)
