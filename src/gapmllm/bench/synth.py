"""Frames per second of the renderer over furnished rooms."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
import torch

from gapmllm.scenes.synth.render import render
from gapmllm.scenes.synth.room import CameraPath, Room

_SIZE = (256, 192)
_ROOMS = 5


def devices() -> list[str]:
    """What this machine can render on."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def bench_synth(frames: int = 16, device: str = "cpu") -> dict[str, Any]:
    """Median and range over rooms, each rendered twice and timed the second time, pictures back on the CPU.

    device: one of `devices()`, else ValueError.
    """
    from gapmllm.scenes.synth.layout import build_room

    if device not in devices():
        raise ValueError(f"device {device!r}: this machine can render on {' and '.join(devices())}")
    rooms = [build_room(np.random.default_rng(seed)) for seed in range(_ROOMS)]
    rates = [_frames_per_second(room, _turn(room, frames), device) for room in rooms]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "rooms": _ROOMS,
        "primitives, median": median(sum(len(item.parts) for item in room.objects) for room in rooms),
        "frames per room": frames,
        "size": f"{_SIZE[0]}x{_SIZE[1]}",
        "frames/s, median": median(rates),
        "frames/s, slowest room": min(rates),
        "frames/s, fastest room": max(rates),
    }


def _frames_per_second(room: Room, path: CameraPath, device: str) -> float:
    render(room, path, seed=0, device=device)
    start = time.perf_counter()
    render(room, path, seed=0, device=device)
    return len(path.poses) / (time.perf_counter() - start)


def _turn(room: Room, frames: int) -> CameraPath:
    """A full turn in the middle of the room, at eye height, looking a little down, 65 degrees wide."""
    poses = np.tile(np.eye(4), (frames, 1, 1))
    for pose, turn in zip(poses, np.linspace(0, 2 * np.pi, frames, endpoint=False), strict=True):
        forward = np.array([np.cos(turn), np.sin(turn), -0.35]) / np.hypot(1, 0.35)
        right = np.array([np.sin(turn), -np.cos(turn), 0])
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = 0, 0, min(1.5, room.size[2] - 0.3)
    width, height = _SIZE
    intrinsics = np.array([[200.0, 0, (width - 1) / 2], [0, 200.0, (height - 1) / 2], [0, 0, 1]])
    return CameraPath(poses=poses, intrinsics=intrinsics, size=_SIZE, times=np.arange(frames) / 10)
