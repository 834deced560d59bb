"""A procedural room as a scene: built, filmed, described. Every room has a number in its split's own seed space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.images import encode_depth, encode_gray16, encode_image
from gapmllm.scenes.pipeline import Outcome
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame, Scene, SceneObject
from gapmllm.scenes.synth.camera_path import RIGS, camera_path
from gapmllm.scenes.synth.furniture import FURNITURE
from gapmllm.scenes.synth.language import describe_room
from gapmllm.scenes.synth.layout import build_room
from gapmllm.scenes.synth.render import render
from gapmllm.scenes.synth.room import CameraPath, Room, RoomObject
from gapmllm.scenes.visibility import MIN_SHARE

SPLITS = {"train": 0, "val": 1, "test": 2}
"""The first word of each seed: no two splits share a room."""
DEPTH_SCALE = 5000.0
"""Units per metre: steps of 0.2 mm, up to 13 m."""
_ROOM, _PATH, _LANGUAGE, _NOISE = range(4)  # the last word: one stream of random numbers for each purpose


@dataclass(frozen=True, kw_only=True)
class SynthOptions:
    """How rooms are filmed."""

    split: str = "train"
    frames: int = 16
    width: int = 256
    height: int = 192
    camera: str = "hand"
    """One of `camera_path.RIGS`."""
    device: str = "cpu"
    """Where frames are rendered."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {self.split!r}")
        if self.camera not in RIGS:
            raise ValueError(f"camera must be one of {', '.join(RIGS)}; got {self.camera!r}")
        if not 4 <= self.frames <= 64:
            raise ValueError(f"rooms are filmed with 4 to 64 frames, got {self.frames}")
        if not (16 <= self.width <= 4096 and 16 <= self.height <= 4096):
            raise ValueError(f"frames must be 16x16 to 4096x4096 pixels, got {self.width}x{self.height}")


def scene_id(split: str, number: int) -> str:
    """Id of the room with this number."""
    return f"synth-{split}-{number:07d}"


@dataclass(frozen=True)
class MakeRoom:
    """Makes rooms by their ids, for `pipeline.write_scenes`."""

    options: SynthOptions
    finish: Callable[[Scene, Problems], Scene]
    """Adds what the command asks for: the questions."""

    def __call__(self, name: str) -> Outcome:
        problems = Problems(name)
        scene = self.finish(make_scene(int(name.rsplit("-", 1)[1]), self.options), problems)
        return Outcome(name, scene, tuple(problems.found))


def room_of(split: str, number: int) -> Room:
    """The room with this number, from 0, in the split's own seed space."""
    return build_room(_rng(split, number, _ROOM))


def make_scene(number: int, options: SynthOptions) -> Scene:
    """Build, film and describe a room. Same number and options: same bytes (on one platform)."""
    split = options.split
    room = room_of(split, number)
    size = (options.width, options.height)
    path = camera_path(_rng(split, number, _PATH), room, options.frames, size, RIGS[options.camera])
    noise = int(_rng(split, number, _NOISE).integers(2**63))
    rendering = render(room, path, seed=noise, device=options.device)
    return Scene(
        id=scene_id(split, number),
        frames=tuple(
            _frame(path, index, rendering.images[index], rendering.depth[index], rendering.ids[index])
            for index in range(options.frames)
        ),
        objects=tuple(map(_scene_object, room.objects)),
        expressions=describe_room(room, _rng(split, number, _LANGUAGE)),
        split=split,
        source="synth",
    )


def _frame(path: CameraPath, index: int, image: NDArray[np.uint8], depth: FloatArray, ids: NDArray[np.int32]) -> Frame:
    present, counts = np.unique(ids[ids >= 0], return_counts=True)
    shares = dict(zip(present.tolist(), (counts / ids.size).tolist(), strict=True))
    return Frame(
        image=encode_image(image),
        intrinsics=path.intrinsics,
        camera_to_world=path.poses[index],
        depth=encode_depth(depth, DEPTH_SCALE),
        depth_scale=DEPTH_SCALE,
        instances=encode_gray16((ids + 1).astype(np.uint16)),
        visible={key: share for key, share in shares.items() if share >= MIN_SHARE},
        time=float(path.times[index]),
        name=f"{index:05d}",
    )


def _scene_object(item: RoomObject) -> SceneObject:
    return SceneObject(
        id=item.id,
        label=item.label,
        center=item.center,
        size=item.size,
        rotation=item.pose[:3, :3],
        attributes=item.attributes,
    )


def _rng(split: str, number: int, purpose: int) -> np.random.Generator:
    if not 0 <= number < 2**32:  # one word of the seed
        raise ValueError(f"a room number must be 0 to {2**32 - 1}, got {number}")
    return np.random.default_rng([SPLITS[split], number, purpose])


def labels() -> set[str]:
    """Every label that a room may hold."""
    return {"wall", "floor", "ceiling", *FURNITURE}
