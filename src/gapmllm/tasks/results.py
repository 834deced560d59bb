"""What users get: typed results, and the whole of what was found in one recording (`answers.json`).

Lengths are metres, angles radians. A place belongs to the camera of one frame (x right, y down, z forward): detections,
points and descriptions to that of frame 0, a grounding's box to that of the frame it names. Frames are counted from 0.
Scores are between 0 and 1; how they come about stands in `gapmllm.infer.confidence`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gapmllm.geometry import Boxes
from gapmllm.geometry.camera import FloatArray
from gapmllm.tasks.answers import Box9, Label, Point3, write_json

Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Row3 = tuple[_Finite, _Finite, _Finite]
_Row4 = tuple[_Finite, _Finite, _Finite, _Finite]
Matrix3 = tuple[_Row3, _Row3, _Row3]
Matrix4 = tuple[_Row4, _Row4, _Row4, _Row4]


class Result(BaseModel):
    """Base: immutable; `model_dump_json()` gives JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelledBox(Result):
    """A name and an oriented box: centre, full sizes, Euler angles "zxy"."""

    label: Label
    bbox_3d: Box9

    @property
    def center(self) -> Point3:
        return self.bbox_3d[:3]

    @property
    def size(self) -> Point3:
        return self.bbox_3d[3:6]

    def __str__(self) -> str:
        return f"{self.label} {_place(self.bbox_3d)}"


class Detection(LabelledBox):
    """One object that was found; its box is in the camera of frame 0."""

    score: Score

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.score:.0%})"


class Grounding(Result):
    """The object that a text describes."""

    text: str
    frame: int
    """The frame that shows it best; `bbox_3d` is in its camera."""
    bbox_3d: Box9
    score: Score

    def __str__(self) -> str:
        return f"{self.text!r}: frame {self.frame}, {_place(self.bbox_3d)} ({self.score:.0%})"


class LocatedPoint(Result):
    """The 3D point under a pixel, in the camera of frame 0, and the name of what is there."""

    frame: int
    pixel: tuple[int, int]
    """x, y: column and row; (0, 0) is the centre of the top-left pixel."""
    xyz: Point3
    label: str
    score: Score

    def __str__(self) -> str:
        return f"frame {self.frame}, pixel {self.pixel}: {self.label} at {write_json(self.xyz)} ({self.score:.0%})"


class Description(Result):
    """What a model says about the object at a point in the camera of frame 0."""

    xyz: Point3
    text: str


class FreeAnswer(Result):
    """A question of the user's own, and the answer."""

    question: str
    answer: str


class WatchedFrame(Result):
    """One of the frames that were looked at."""

    name: str
    """File name, or place in the video."""
    time: float | None
    """Seconds from the beginning, where it is known."""
    size: tuple[int, int]
    """Width, height in pixels."""
    intrinsics: Matrix3
    """Pixels of this frame."""
    camera_to_first: Matrix4 | None
    """From this frame's camera to that of frame 0; None where nothing says where the camera was."""


class Truth(Result):
    """What is true, where it is known, in the order of the answers; None or empty: not known."""

    detections: tuple[LabelledBox, ...] = ()
    """All objects in view, in the camera of frame 0; not in the order of the detections."""
    groundings: tuple[Box9 | None, ...] = ()
    """In the camera of frame 0."""
    points: tuple[Point3 | None, ...] = ()
    """In the camera of frame 0."""
    point_labels: tuple[str | None, ...] = ()
    descriptions: tuple[tuple[str, ...], ...] = ()
    """References of each description."""


class Answers(Result):
    """All that was asked about one recording and what came out: the content of `answers.json`, version 1."""

    version: Literal[1] = 1
    model: str
    """What was loaded: a preset, a folder or a hub id."""
    trained: bool
    """False: the weights are random, and so are the answers."""
    source: str
    """Name of the video, folder or images."""
    frames: tuple[WatchedFrame, ...]
    intrinsics_from: Literal["given", "folder", "estimated", "assumed"]
    """Given by the user, read from the folder, estimated by VGGT's camera head, or a field of view was assumed."""
    poses_from: Literal["folder", "estimated"] | None
    up: Point3
    """Unit vector against gravity in the camera of frame 0: from the folder's world, else guessed from the cameras."""
    detections: tuple[Detection, ...] | None = None
    """None: was not asked for."""
    groundings: tuple[Grounding, ...] = ()
    points: tuple[LocatedPoint, ...] = ()
    descriptions: tuple[Description, ...] = ()
    answers: tuple[FreeAnswer, ...] = ()
    truth: Truth | None = None
    notes: tuple[str, ...] = ()
    """What a reader of the answers has to know: random weights, an estimated camera, a video that was cut off."""

    def point_errors(self) -> tuple[float | None, ...]:
        """Metres between each located point and the true one, None where that is not known."""
        true = self.truth.points if self.truth and self.truth.points else (None,) * len(self.points)
        pairs = zip(self.points, true, strict=True)
        return tuple(None if there is None else math.dist(point.xyz, there) for point, there in pairs)

    def poses(self) -> FloatArray | None:
        """camera_to_first (S, 4, 4), or None where a frame has none."""
        poses = [frame.camera_to_first for frame in self.frames]
        return None if None in poses else np.array(poses)

    def to_first(self, frame: int) -> FloatArray | None:
        """(4, 4), from the camera of a frame to that of frame 0."""
        pose = self.frames[frame].camera_to_first
        return np.eye(4) if frame == 0 else None if pose is None else np.array(pose)

    def level(self) -> FloatArray:
        """(4, 4) from the camera of frame 0 to a world with z up and the first camera looking along y, at its place."""
        up = np.array(self.up) / np.linalg.norm(self.up)
        ahead = np.array([0.0, 0.0, 1.0]) - up[2] * up
        if np.linalg.norm(ahead) < 1e-6:  # it looks straight up or down: the top of the picture is ahead
            ahead = np.array([0.0, -1.0, 0.0]) + up[1] * up
        ahead /= np.linalg.norm(ahead)
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([np.cross(ahead, up), ahead, up])
        return matrix


def _place(box: Box9) -> str:
    return f"at {write_json(box[:3])}, size {write_json(box[3:6])}"


def boxes_of_results(boxes: Iterable[Box9]) -> Boxes:
    """Nine numbers "zxy" each -> Boxes; none: an empty one."""
    return Boxes.from_euler(list(boxes), "zxy")
