"""ARKitScenes, the 3D detection part (3DOD): iPad videos with LiDAR depth and boxes (Baruch et al. 2021).

    Training/ or Validation/ <id>/            (or the folder of one video, or a folder of such)
        <id>_3dod_annotation.json             boxes, in a world with z up
        <id>_frames/lowres_wide/<id>_<t>.png            256x192
                    lowres_depth/<id>_<t>.png           16-bit, millimetres along z, 0 = unknown, registered
                    lowres_wide_intrinsics/<id>_<t>.pincam   w h fx fy cx cy; its t may be off by 1 ms
                    lowres_wide.traj          lines t, axis-angle (3), translation (3): WORLD to camera

Each picture gets the pose nearest in time, at most 5 ms away; others are dropped and reported. t is the time, seconds.
Pictures stay as the sensor took them: where the tablet was held upright they lie on their side, and so do their
cameras. LiDAR confidence is not used. A box's axes are the rows of normalizedAxes; a mirrored set of axes has its last
one turned round, which is the same box. An object's id is its place in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from gapmllm.geometry import invert_pose
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.importers.base import load_frame, pinhole, read_json, read_text
from gapmllm.scenes.importers.folders import FolderImporter, subfolders
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame, SceneObject

SPLITS = {"Training": "train", "Validation": "val"}
MOST_SECONDS = 0.005
"""Largest difference in time between a picture and its pose."""


class ArkitScenes(FolderImporter):
    """See the module."""

    format = "arkitscenes"
    layout = (
        "<id>_frames/ with lowres_wide/, lowres_wide_intrinsics/ and lowres_wide.traj, and <id>_3dod_annotation.json"
    )
    z_up = True

    @classmethod
    def parts(cls, folder: Path) -> Iterator[tuple[str, bool]]:
        frames = folder / f"{folder.resolve().name}_frames"
        yield frames.name, frames.is_dir()
        yield f"{frames.name}/lowres_wide.traj", (frames / "lowres_wide.traj").is_file()
        yield f"{frames.name}/lowres_wide/", (frames / "lowres_wide").is_dir()

    @classmethod
    def places(cls, root: Path) -> Iterator[tuple[str, Path]]:
        yield from super().places(root)
        for split in SPLITS:
            yield from ((folder.name, folder) for folder in subfolders(root / split))

    def split(self, folder: Path, problems: Problems) -> str:
        return SPLITS.get(folder.resolve().parent.name, self.options.split)

    def frames(self, folder: Path, problems: Problems) -> list[Frame | None]:
        video = folder.resolve().name
        base = folder / f"{video}_frames"
        times, poses = _read_trajectory(base / "lowres_wide.traj", problems)
        stamps = _stamps(base, video)
        return [
            self._frame(base, f"{video}_{stamps[index]}", times, poses, problems)
            for index in self.options.chosen(len(stamps))
        ]

    def _frame(self, base: Path, name: str, times: FloatArray, poses: FloatArray, problems: Problems) -> Frame | None:
        time = float(name.rpartition("_")[2])
        index = int(np.abs(times - time).argmin()) if len(times) else None
        if index is None or abs(times[index] - time) > MOST_SECONDS:
            problems.add("no pose", name, f"no pose within {MOST_SECONDS} s; the frame is dropped")
            return None
        try:
            size, intrinsics = _camera(base / "lowres_wide_intrinsics", name)
        except (OSError, ValueError) as error:
            problems.add("bad camera", name, f"{error}; the frame is dropped")
            return None
        return load_frame(
            problems,
            base / "lowres_wide" / f"{name}.png",
            partial(_pose, poses[index]),
            name=name,
            depth=base / "lowres_depth" / f"{name}.png",
            size=size,
            intrinsics=intrinsics,
            time=time,
        )

    def objects(self, folder: Path, problems: Problems) -> tuple[SceneObject, ...]:
        path = folder / f"{folder.resolve().name}_3dod_annotation.json"
        if not path.is_file():
            problems.add("no boxes", path, "the file is not there; the scene has no objects")
            return ()
        try:
            rows = list(read_json(path)["data"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"JSON with a list 'data' was expected: {error!r}; the scene has no objects"
            problems.add("no boxes", path, message)
            return ()
        return tuple(item for item in (_object(i, row, path, problems) for i, row in enumerate(rows)) if item)


def _stamps(base: Path, video: str) -> list[str]:
    """Time stamps of all pictures and depth images, as written, in the order of time."""
    folders = (base / "lowres_wide", base / "lowres_depth")
    names = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
    matches = (re.fullmatch(rf"{re.escape(video)}_([0-9]+\.[0-9]+)\.png", name) for name in names)
    return sorted((match[1] for match in matches if match), key=float)


def _read_trajectory(path: Path, problems: Problems) -> tuple[FloatArray, FloatArray]:
    """(n,) times and (n, 6) axis-angles and translations, world to camera."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = [float(word) for word in line.split()]
            if len(row) != 7 or not np.isfinite(row[0]):
                raise ValueError(f"got {line[:80]!r}")
            rows.append(row)
        except ValueError as error:
            problems.add("bad line", path, f"line {number}: 7 numbers were expected: {error}; the line is skipped")
    table = np.array(rows).reshape(-1, 7)
    return table[:, 0], table[:, 1:]


def _pose(row: FloatArray) -> FloatArray:
    """Axis-angle and translation of world_to_camera -> camera_to_world; NaN where they are not finite."""
    if not np.isfinite(row).all():
        return np.full((4, 4), np.nan)
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = Rotation.from_rotvec(row[:3]).as_matrix()
    world_to_camera[:3, 3] = row[3:]
    return invert_pose(world_to_camera)


def _camera(folder: Path, name: str) -> tuple[tuple[float, float], FloatArray]:
    """((width, height), (3, 3) intrinsics) from the .pincam file of the frame, or of one 1 ms off."""
    video, _, stamp = name.rpartition("_")
    names = [name, *(f"{video}_{float(stamp) + shift:.3f}" for shift in (-0.001, 0.001))]
    path = next((folder / f"{name}.pincam" for name in names if (folder / f"{name}.pincam").is_file()), None)
    if path is None:
        raise ValueError(f"no {name}.pincam, nor one 1 ms off")
    try:
        width, height, fx, fy, cx, cy = (float(word) for word in read_text(path).split())
    except ValueError as error:
        raise ValueError(f"{path}: six numbers w h fx fy cx cy were expected: {error}") from error
    return (width, height), pinhole(fx, fy, cx, cy)


def _object(index: int, row: Any, path: Path, problems: Problems) -> SceneObject | None:
    """One annotated box; id: its place in the file."""
    try:
        label, uid, box = row["label"], row.get("uid"), row["segments"]["obbAligned"]
        if not isinstance(label, str):
            raise TypeError(f"label must be a text, got {label!r}")
        rotation = np.array(box["normalizedAxes"], dtype=np.float64).reshape(3, 3).T
        if np.linalg.det(rotation) < 0:
            rotation[:, 2] *= -1
        return SceneObject(
            id=index,
            label=label.replace("_", " "),
            center=np.array(box["centroid"], dtype=np.float64),
            size=np.array(box["axesLengths"], dtype=np.float64),
            rotation=rotation,
            attributes={"category": label, "uid": "" if uid is None else str(uid)},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        problems.add("bad box", path, f"box {index}: {error!r}; the box is left out")
        return None
