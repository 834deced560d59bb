"""What to ask about a scene, how often, over which frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gapmllm.geometry import invert_pose
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.records import NOT_OBJECTS, Frame, Scene, SceneObject, boxes_of, evenly
from gapmllm.tasks import COLORS, TASKS


@dataclass(frozen=True, kw_only=True)
class QuestionPlan:
    """The choices; the same plan, scene and seed give the same questions."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Names in `gapmllm.tasks.TASKS`."""
    seed: int = 0
    window_frames: int = 4
    """Frames of a clip for points and detection (paper: 4)."""
    window_seconds: float = 1.0
    """Between the frames of a window; neighbours where the recording has no times."""
    windows: int = 10
    """Windows of a scene at most, evenly spaced over the recording."""
    points: int = 8
    """Marked pixels of a window, one colour each."""
    canonical_frames: int = 32
    """Evenly spaced frames that all grounding and captioning questions of a scene share (paper: 32)."""
    neighbours: int = 9
    """Grounding, step 2: frames before and after the chosen one, each (paper: 9)."""
    texts: int | None = None
    """Texts of a scene that grounding asks for, at most, drawn at random; None: all, of a room about 100."""
    min_share: float = 1e-3
    """Objects that cover less of a frame's image are not asked for: 50 pixels of 256x192."""

    def __post_init__(self) -> None:
        unknown = set(self.tasks) - set(TASKS)
        if unknown or not self.tasks:
            raise ValueError(f"tasks must be some of {', '.join(TASKS)}; got {', '.join(sorted(unknown)) or 'none'}")
        for name in ("window_frames", "windows", "points", "canonical_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.texts is not None and self.texts < 1:
            raise ValueError(f"texts must be 1 or more, or None for all, got {self.texts}")
        if self.points > len(COLORS):
            raise ValueError(f"points must be at most {len(COLORS)}, one mark colour each; got {self.points}")
        if self.neighbours < 0 or self.window_seconds <= 0:
            raise ValueError(f"got neighbours {self.neighbours} and window_seconds {self.window_seconds}")


def windows(scene: Scene, plan: QuestionPlan) -> list[tuple[int, ...]]:
    """Frame indices of the windows; a recording shorter than one window gives one with all its frames."""
    count = len(scene.frames)
    stride = min(_stride(scene, plan.window_seconds), max(1, (count - 1) // max(1, plan.window_frames - 1)))
    length = min(count, plan.window_frames)
    starts = np.arange(count - stride * (length - 1))
    if len(starts) > plan.windows:
        starts = starts[evenly(len(starts), plan.windows)]
    return [tuple(int(start) + stride * i for i in range(length)) for start in starts]


def asked_objects(scene: Scene) -> dict[int, SceneObject]:
    """The objects that questions are about, by id: not walls, floors, ceilings."""
    return {item.id: item for item in scene.objects if item.label not in NOT_OBJECTS}


def boxes_in_camera(objects: Iterable[SceneObject], frame: Frame) -> dict[int, list[float]]:
    """Object id -> nine numbers of its box, Euler "zxy", in the frame's camera."""
    items = list(objects)
    numbers = boxes_of(items).transform(invert_pose(frame.camera_to_world)).to_euler("zxy").tolist()
    return {item.id: box for item, box in zip(items, numbers, strict=True)}


def in_view(frame: Frame, plan: QuestionPlan) -> dict[int, float]:
    """Object id -> share of the image, of what is large enough to be asked for."""
    return {key: share for key, share in (frame.visible or {}).items() if share >= plan.min_share}


def times(scene: Scene) -> FloatArray | None:
    """(F,) seconds, or None where a frame has none."""
    values = [frame.time for frame in scene.frames]
    return None if None in values else np.array(values, dtype=np.float64)


def _stride(scene: Scene, seconds: float) -> int:
    known = times(scene)
    if known is None or len(known) < 2:
        return 1
    return max(1, round(seconds / max(float(np.median(np.diff(known))), 1e-6)))
