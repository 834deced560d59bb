"""What a recording is to this package: frames with cameras, objects with boxes, texts about them, and questions.

    Scene ── frames       tuple[Frame]        image, camera, optional depth
          ├─ objects      tuple[SceneObject]  label and box, in the world
          ├─ expressions  tuple[Expression]   texts that describe an object
          └─ clips        tuple[Clip]         some of the frames, by index, with the Questions about them

The world has z up, metres; conventions in `geometry/camera.py`. Images stay encoded until someone looks at them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapmllm.geometry import Boxes, check_pose, nearest_rotation
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.images import decode_depth, decode_gray16, decode_image, image_size

MAX_METRES = 1e6
"""From the origin: numbers beyond are damage, not places."""
MAX_PIXELS = 1e6
"""Of a focal length or a principal point."""
NOT_OBJECTS = frozenset({"wall", "floor", "ceiling", "object"})
"""Labels that detection leaves out, as EmbodiedScan's benchmark does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One picture and its camera. Raises ValueError for a camera that is none."""

    image: bytes
    """JPEG or PNG, RGB."""
    intrinsics: FloatArray
    """(3, 3), pixels of `image`."""
    camera_to_world: FloatArray
    """(4, 4). The rotation is made exactly orthonormal: files print it rounded."""
    depth: bytes | None = None
    """16-bit grey PNG, metres along z times `depth_scale`, 0 = unknown; seen from the same camera as the image."""
    depth_scale: float = 1000.0
    """Stored units per metre."""
    depth_intrinsics: FloatArray | None = None
    """(3, 3), pixels of `depth`; None: the same pixel grid as the image."""
    instances: bytes | None = None
    """16-bit grey PNG on the image's pixel grid: object id + 1, 0 = none known."""
    visible: dict[int, float] | None = None
    """Object id -> share of the image that it covers, for the objects in view; None: not known."""
    time: float | None = None
    """Seconds; only differences within one scene mean anything."""
    name: str = ""
    """Where it came from, for messages and file names."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "intrinsics", _check_intrinsics(self.intrinsics, "intrinsics"))
        if self.depth_intrinsics is not None:
            matrix = _check_intrinsics(self.depth_intrinsics, "depth_intrinsics")
            object.__setattr__(self, "depth_intrinsics", matrix)
        pose = check_pose(self.camera_to_world).copy()
        pose[:3, :3] = nearest_rotation(pose[:3, :3], name="rotation of camera_to_world")
        object.__setattr__(self, "camera_to_world", pose)
        if self.time is not None and not np.isfinite(self.time):
            raise ValueError(f"time must be a finite number of seconds or None, got {self.time}")
        if np.abs(pose[:3, 3]).max() > MAX_METRES:
            raise ValueError(
                f"camera_to_world is {np.abs(pose[:3, 3]).max():.3g} m from the origin; metres are expected"
            )
        if not 1 <= self.depth_scale <= 1e6:
            raise ValueError(f"depth_scale must be 1 to 1e6 units per metre, got {self.depth_scale}")
        _check_text(self.name, "a frame's name")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image in pixels, from its header."""
        return image_size(self.image)

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB."""
        return decode_image(self.image)

    def depth_map(self) -> NDArray[np.float32] | None:
        """(h, w) metres along z on the depth image's own grid, 0 = unknown; None without depth."""
        return None if self.depth is None else decode_depth(self.depth, self.depth_scale)

    def depth_camera(self) -> FloatArray:
        """(3, 3) intrinsics of the depth image."""
        return self.intrinsics if self.depth_intrinsics is None else self.depth_intrinsics

    def instance_map(self) -> NDArray[np.int32] | None:
        """(H, W) object ids on the image's grid, -1 where none is known; None without instances."""
        return None if self.instances is None else decode_gray16(self.instances).astype(np.int32) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneObject:
    """One thing in the room, with its box in the world."""

    id: int
    """Unique in the scene, 0 to 65,534; the data set's own id where it has one."""
    label: str
    """One line; other white space becomes single spaces."""
    center: FloatArray
    """(3,) metres."""
    size: FloatArray
    """(3,) full edge lengths along the box's own axes, metres."""
    rotation: FloatArray = field(default_factory=lambda: np.eye(3))
    """(3, 3) from the box's own axes to the world."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Colour, material, the data set's raw category, …"""

    def __post_init__(self) -> None:
        if not 0 <= self.id < 65_535:
            raise ValueError(f"object id must be 0 to 65534, got {self.id}")
        if not self.label.strip():
            raise ValueError(f"object {self.id} has no label")
        object.__setattr__(self, "label", " ".join(self.label.split()))
        for text in (self.label, *self.attributes, *self.attributes.values()):
            _check_text(text, f"a text of object {self.id}")
        box = Boxes(
            np.reshape(self.center, (1, 3)), np.reshape(self.size, (1, 3)), np.reshape(self.rotation, (1, 3, 3))
        )
        if max(np.abs(box.centers).max(), box.sizes.max()) > MAX_METRES:
            raise ValueError(f"object {self.id} lies or reaches more than {MAX_METRES:g} m away; metres are expected")
        for name, values in (("center", box.centers), ("size", box.sizes), ("rotation", box.rotations)):
            object.__setattr__(self, name, values[0])


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A text that describes one object (ScanRefer, Nr3D, or our own)."""

    object_id: int
    text: str
    id: str = ""
    """The data set's own annotation id."""
    kind: str = ""
    """What it rests on: attribute, nearest, between, on, left, …"""
    view_dependent: bool | None = None
    """Whether it is true only from the viewpoint that it names; None: not known."""
    unique: bool | None = None
    """Whether it fits no other object of the scene, by construction; None: not known. References are no expressions
    to ground by: a caption may fit two chairs."""

    def __post_init__(self) -> None:
        for text in (self.text, self.id, self.kind):
            _check_text(text, f"a text about object {self.object_id}")


@dataclass(frozen=True)
class Mark:
    """A cross at pixel (x, y) = (column, row) of one frame of a clip, frames counted from 0."""

    frame: int
    x: int
    y: int
    color: str = "red"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a clip, with its true answer as text and as values."""

    task: str
    """A name in `gapmllm.tasks.TASKS`."""
    prompt: str
    answer: str
    target: dict[str, Any]
    """The truth in full precision, JSON values: what `gapmllm.evaluation.records` calls truth, and what else belongs
    to it. Boxes are nine numbers, Euler "zxy", in the camera frame of the clip's first frame."""
    id: str
    """Unique in the scene."""
    mark: Mark | None = None
    """The cross to draw before the frames are shown."""

    def __post_init__(self) -> None:
        for text in (self.prompt, self.answer, self.id):
            _check_text(text, f"a text of question {self.id!r}")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Frames of a scene and the questions about them: the unit of work in training and inference.

    The first frame's camera is the coordinate frame of all its answers.
    """

    id: str
    """Unique in the scene."""
    frames: tuple[int, ...]
    """Indices into the scene's frames, in the order in which they are shown."""
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One recorded or rendered room. Raises ValueError where ids repeat or point at nothing."""

    id: str
    frames: tuple[Frame, ...]
    objects: tuple[SceneObject, ...] = ()
    expressions: tuple[Expression, ...] = ()
    clips: tuple[Clip, ...] = ()
    proposals: Boxes | None = None
    """Boxes of a 3D segmentation, in the world (Scan2Cap's protocol)."""
    split: str = "train"
    source: str = ""
    """The format that it was imported from, or "synth"."""

    def __post_init__(self) -> None:
        _check_text(self.id, "a scene's id")
        ids = {item.id for item in self.objects}
        if len(ids) != len(self.objects):
            raise ValueError(f"scene {self.id}: two objects have the same id")
        for text in self.expressions:
            if text.object_id not in ids:
                raise ValueError(f"scene {self.id}: a text describes object {text.object_id}, which is not there")
        for clip in self.clips:
            if not clip.frames or not all(0 <= index < len(self.frames) for index in clip.frames):
                raise ValueError(
                    f"scene {self.id}, clip {clip.id}: frames {clip.frames} of {len(self.frames)}, counted from 0"
                )

    def boxes(self) -> Boxes:
        """Boxes of all objects, in order, in the world."""
        return boxes_of(self.objects)

    def clip_frames(self, clip: Clip) -> list[Frame]:
        """The frames of one clip, in its order."""
        return [self.frames[index] for index in clip.frames]


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices of `count` things, evenly spaced, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()


def boxes_of(objects: Iterable[SceneObject]) -> Boxes:
    """Boxes of the objects, in order, in the world."""
    rows = list(objects)
    if not rows:
        return Boxes.from_euler([], "zxy")
    return Boxes(*(np.stack([getattr(row, name) for row in rows]) for name in ("center", "size", "rotation")))


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds half a character, which UTF-8 cannot store: {text!r}") from error


def _check_intrinsics(matrix: FloatArray, name: str) -> FloatArray:
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape != (3, 3) or not np.isfinite(values).all():
        raise ValueError(f"{name} must be a finite (3, 3) matrix, got shape {values.shape}")
    fx, fy = values[0, 0], values[1, 1]
    expected = np.array([[fx, 0, values[0, 2]], [0, fy, values[1, 2]], [0, 0, 1]])
    sane = min(fx, fy) >= 0.1 and np.abs(values).max() <= MAX_PIXELS
    if not (sane and np.allclose(values, expected, atol=1e-6)):
        raise ValueError(
            f"{name} must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels, fx and fy 0.1 to {MAX_PIXELS:g}; "
            f"got {values.tolist()}"
        )
    return expected
