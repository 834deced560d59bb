"""What every importer shares: listing scenes, loading one, and never dropping anything without a word."""

from __future__ import annotations

import io
import json
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.images import ImageError, decode_gray16, decode_image
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame, Scene, evenly

UpAxis = Literal["auto", "x", "-x", "y", "-y", "z", "-z"]
_UNSURE = 30.0  # degrees from an axis, beyond which a guess is worth a look
MAX_TEXT = 512 * 2**20
"""Largest file that is read whole: text, annotations, an image."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What a user can choose, for all importers alike."""

    split: str = "train"
    every: int = 1
    """Keep every n-th frame."""
    max_frames: int | None = None
    """Of those, keep this many at most, evenly spaced."""
    up: UpAxis = "auto"
    """World axis that points up, for recordings that do not say; auto: the one nearest to the cameras' mean up."""
    annotations: Path | None = None
    """File or folder of annotations, where they do not lie in the data set's folder."""

    def __post_init__(self) -> None:
        if self.every < 1 or (self.max_frames is not None and self.max_frames < 1):
            raise ValueError(f"every and max_frames must be 1 or more, got {self.every} and {self.max_frames}")
        if self.up not in get_args(UpAxis):
            raise ValueError(f"up must be one of {', '.join(get_args(UpAxis))}; got {self.up!r}")

    def chosen(self, count: int) -> list[int]:
        """Indices of the frames to keep, of `count` in all."""
        kept = np.arange(0, count, self.every)
        if self.max_frames is not None and len(kept) > self.max_frames:
            kept = kept[evenly(len(kept), self.max_frames)]
        return [int(index) for index in kept]


@dataclass(frozen=True)
class Importer(ABC):
    """One family of data on disk. Small and picklable: scenes are loaded in other processes."""

    root: Path
    options: ImportOptions = ImportOptions()

    format: ClassVar[str]
    """Name on the command line."""
    chooses_frames: ClassVar[bool] = True
    """Whether `every` and `max_frames` apply; not where annotations name the frames."""

    @classmethod
    @abstractmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder (or file) looks like this format. Cheap: looks at names, opens little."""

    @classmethod
    def nearly(cls, root: Path) -> str:
        """What is missing for the folder to be recognised, in words; "" where nothing in it is of this format."""
        return ""

    @abstractmethod
    def scene_ids(self) -> list[str]:
        """Ids of all scenes, in order, without loading them. Raises ValueError that says what is missing."""

    @abstractmethod
    def load(self, scene_id: str, problems: Problems) -> Scene | None:
        """One scene. What cannot be used goes to `problems`; None if nothing usable is left (also said there)."""


def safe_path(root: Path, relative: str) -> Path:
    """root / relative for a path that came out of a file. Raises ValueError if it leaves the data set's folder."""
    parts = PurePosixPath(relative.replace("\\", "/"))
    if not parts.parts or "\0" in relative or parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise ValueError(f"path {relative!r} leaves the data set's folder {root.name}; refused")
    return root / parts


def read_bytes(path: Path) -> bytes:
    """A regular file, whole and bounded: a pipe would wait for ever, a device never end.

    Raises ValueError that says what is wrong with it but does not name it, OSError where it is not there.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a file was expected, this is a folder, a pipe or a device")
    if status.st_size > MAX_TEXT:
        raise ValueError(f"{status.st_size} bytes, at most {MAX_TEXT} are read")
    with path.open("rb") as stream:
        return stream.read(status.st_size)


def read_text(path: Path) -> str:
    """A text file, bounded. Raises ValueError that names it."""
    try:
        return io.TextIOWrapper(io.BytesIO(read_bytes(path)), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds, bounded. Raises ValueError that names it."""
    try:
        return json.loads(read_text(path))
    except RecursionError as error:
        raise ValueError(f"{path}: JSON nested too deep") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error


def read_matrix(path: Path, rows: int, columns: int) -> FloatArray:
    """A text file of rows x columns numbers (more rows or columns of a 4x4 than asked for are cut off)."""
    try:
        values = np.array(
            [[float(word) for word in line.split()] for line in read_text(path).splitlines() if line.strip()]
        )
    except ValueError as error:
        raise ValueError(f"{path}: {rows}x{columns} numbers were expected: {error}") from error
    if values.ndim != 2 or values.shape[0] < rows or values.shape[1] < columns:
        raise ValueError(f"{path}: {rows}x{columns} numbers were expected, got shape {values.shape}")
    return values[:rows, :columns]


def pinhole(fx: float, fy: float, cx: float, cy: float) -> FloatArray:
    """(3, 3) intrinsics."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def load_frame(
    problems: Problems,
    image: Path | bytes,
    pose: ArrayLike | Callable[[], ArrayLike],
    *,
    name: str,
    depth: Path | bytes | None = None,
    depth_intrinsics: FloatArray | None = None,
    reread_depth: Callable[[bytes], bytes] | None = None,
    size: tuple[float, float] | None = None,
    **fields: Any,
) -> Frame | None:
    """A frame whose image and depth were decoded once to be sure, or None with the reason in `problems`.

    pose: camera_to_world, or a function that reads it (and may raise). reread_depth: turns encoded depth of the data
    set into a 16-bit PNG with 0 = unknown, where it is not one. size: (width, height) that the intrinsics belong to,
    where that is known. fields: the other fields of Frame. A frame whose depth is missing, damaged, or of a size that
    does not fit its camera, or whose depth camera is none, stays, without depth, and is reported.
    """
    try:
        with np.errstate(over="ignore"):  # 1e308 is refused as what it gives, infinity
            matrix = np.asarray(pose() if callable(pose) else pose, dtype=np.float64)
        if not np.isfinite(matrix).all():
            problems.add("lost tracking", name, "the pose is not finite; the frame is dropped")
            return None
        data = image if isinstance(image, bytes) else _read_image(image)
        height, width, _ = decode_image(data).shape
        if size is not None and size != (width, height):
            raise ValueError(f"the picture has {width}x{height} pixels, its intrinsics are for {size[0]:g}x{size[1]:g}")
        with np.errstate(over="ignore"):
            frame = Frame(image=data, camera_to_world=matrix, name=name, **fields)
        _check_principal_point(frame.intrinsics, (width, height))
        return _with_depth(problems, frame, (width, height), depth, depth_intrinsics, reread_depth)
    except ImageError as error:
        problems.add("bad image", name if isinstance(image, bytes) else image, f"{error}; the frame is dropped")
    except OSError as error:
        problems.add("missing file", name, f"{error.filename or image!s}: {error.strerror}; the frame is dropped")
    except ValueError as error:
        problems.add("bad camera", name, f"{error}; the frame is dropped")
    return None


def _read_image(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except ValueError as error:
        raise ImageError(str(error)) from error


def _with_depth(
    problems: Problems,
    frame: Frame,
    size: tuple[int, int],
    depth: Path | bytes | None,
    depth_intrinsics: FloatArray | None,
    reread: Callable[[bytes], bytes] | None,
) -> Frame:
    """The frame with its depth and the depth's camera; as it is where either cannot be used, reported."""
    if depth is None:
        return frame
    file = frame.name if isinstance(depth, bytes) else depth
    try:
        data = depth if isinstance(depth, bytes) else _read_image(depth)
        data = data if reread is None else reread(data)
        height, width = decode_gray16(data).shape
        if depth_intrinsics is None and (width, height) != size:
            raise ImageError(f"{width}x{height} pixels, the picture has {size[0]}x{size[1]}")
        with_depth = replace(frame, depth=data, depth_intrinsics=depth_intrinsics)
        _check_principal_point(with_depth.depth_camera(), (width, height))
        return with_depth
    except FileNotFoundError:
        problems.add("no depth", file, "the file is not there; the frame stays, without depth")
    except (ValueError, OSError) as error:
        problems.add("bad depth", file, f"{error}; the frame stays, without depth")
    return frame


def _check_principal_point(intrinsics: FloatArray, size: tuple[int, int]) -> None:
    x, y = intrinsics[:2, 2]
    if not (0 < x < size[0] and 0 < y < size[1]):
        raise ValueError(
            f"the intrinsics have their principal point at ({x:g}, {y:g}), outside {size[0]}x{size[1]} pixels: "
            "they belong to another image size"
        )


def usable(problems: Problems, frames: list[Frame | None]) -> tuple[Frame, ...]:
    """The frames that are there, without those that repeat the time of an earlier one (reported)."""
    kept: list[Frame] = []
    times: dict[float, str] = {}
    for frame in frames:
        if frame is None:
            continue
        if frame.time is not None and frame.time in times:
            problems.add("same time", frame.name, f"time {frame.time} is that of {times[frame.time]}; dropped")
            continue
        if frame.time is not None:
            times[frame.time] = frame.name
        kept.append(frame)
    if not kept:
        problems.add("empty scene", problems.scene, "no frame of the scene can be used; the scene is dropped")
    return tuple(kept)


def upright(frames: Sequence[Frame], up: UpAxis, problems: Problems) -> tuple[Frame, ...]:
    """The frames in a world turned so that z is up; a guess that is worth a look is reported."""
    if not frames:
        return ()
    poses = np.stack([frame.camera_to_world for frame in frames])
    turned = world_with_z_up(poses, up)
    mean_up = turned[:3, :3] @ -poses[:, :3, 1].mean(axis=0)
    angle = np.degrees(np.arctan2(np.hypot(*mean_up[:2]), mean_up[2]))
    if up == "auto" and angle > _UNSURE:
        problems.add(
            "unsure up",
            problems.scene,
            f"the cameras' mean up is {angle:.0f} degrees from the nearest world axis; name the axis that points up",
        )
    return tuple(replace(frame, camera_to_world=turned @ frame.camera_to_world) for frame in frames)


def world_with_z_up(poses: FloatArray, up: UpAxis) -> FloatArray:
    """(4, 4) rotation from the recording's world to one with z up, for camera_to_world poses (N, 4, 4).

    auto takes the signed world axis nearest to the cameras' mean up direction (minus their y axis): people hold
    cameras upright. The turn about the vertical is the one that keeps most axes.
    """
    names = get_args(UpAxis)[1:]
    directions = np.repeat(np.eye(3), 2, axis=0) * np.tile([1, -1], 3)[:, None]  # x, -x, y, -y, z, -z
    chosen = int((directions @ -poses[:, :3, 1].mean(axis=0)).argmax()) if up == "auto" else names.index(up)
    turned = np.eye(4)
    turned[:3, :3] = _rotation_to_z(directions[chosen])
    return turned


def _rotation_to_z(up: FloatArray) -> FloatArray:
    """Smallest rotation that takes the signed unit axis `up` to z."""
    z = np.array([0.0, 0.0, 1.0])
    if up @ z < 0:
        return np.diag([1.0, -1.0, -1.0])
    axis = np.cross(up, z)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + up @ z)
