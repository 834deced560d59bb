"""TUM RGB-D: Kinect recordings with poses from motion capture (Sturm et al. 2012), and all that is written like them.

    rgb.txt, depth.txt    lines "timestamp file"; # starts a comment; without depth.txt there is no depth, reported
    groundtruth.txt       lines "timestamp tx ty tz qx qy qz qw": camera_to_world of the colour camera
    rgb/, depth/          the files; depth is 16-bit, 5000 units a metre, 0 = unknown, registered to colour

Each picture gets the depth and the pose nearest in time, at most 0.02 s away; poses (100 Hz) are not interpolated, and
a depth image may serve two pictures where others were lost. A picture without such a pose is dropped, one without such
depth stays; both are reported. Frames come in the order of time, seconds.

Intrinsics: from K.txt (3x3) in the folder; else by "freiburg1", "freiburg2" or "freiburg3" (or "fr1", …) in the name of
the folder. The pictures of freiburg1 and 2 are not undistorted; the distortion is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gapmllm.geometry.camera import FloatArray
from gapmllm.geometry.rotation import quaternion_to_matrix
from gapmllm.scenes.importers.base import load_frame, pinhole, read_text, safe_path
from gapmllm.scenes.importers.folders import FolderImporter, own_camera
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame

SIZE = (640, 480)
CAMERAS = {
    "1": (517.3, 516.5, 318.6, 255.3),
    "2": (520.9, 521.0, 325.1, 249.7),
    "3": (535.4, 539.2, 320.1, 247.6),
}
DEPTH_SCALE = 5000.0
MOST_SECONDS = 0.02
"""Largest difference in time between a picture and its depth or pose."""


class Tum(FolderImporter):
    """See the module."""

    format = "tum"
    layout = "rgb.txt, groundtruth.txt, where there is depth depth.txt, and the files that they name"

    @classmethod
    def parts(cls, folder: Path) -> Iterator[tuple[str, bool]]:
        return ((name, (folder / name).is_file()) for name in ("rgb.txt", "groundtruth.txt"))

    def frames(self, folder: Path, problems: Problems) -> list[Frame | None]:
        size, intrinsics = _camera(folder)
        pictures = _read_list(folder, "rgb.txt", problems)
        depths = _read_depths(folder, problems)
        depth_times = np.array([time for time, _ in depths or ()])
        times, poses = _read_poses(folder / "groundtruth.txt", problems)
        frames: list[Frame | None] = []
        for time, path in (pictures[index] for index in self.options.chosen(len(pictures))):
            name = path.stem
            pose = _nearest(times, time)
            if pose is None:
                problems.add("no pose", name, f"no pose within {MOST_SECONDS} s; the frame is dropped")
                continue
            depth = _nearest(depth_times, time)
            if depth is None and depths is not None:
                problems.add("no depth", name, f"no depth within {MOST_SECONDS} s; the frame stays, without depth")
            frame = load_frame(
                problems,
                path,
                partial(_pose, poses[pose]),
                name=name,
                depth=None if depth is None or depths is None else depths[depth][1],
                size=size,
                intrinsics=intrinsics,
                depth_scale=DEPTH_SCALE,
                time=time,
            )
            frames.append(frame)
        return frames


def _camera(folder: Path) -> tuple[tuple[int, int] | None, FloatArray]:
    """(size that they belong to, if known; (3, 3) intrinsics)."""
    own = own_camera(folder)
    if own is not None:
        return None, own
    match = re.search(r"(?:freiburg|fr)([123])(?![0-9])", folder.resolve().name.lower())
    if match is None:
        raise ValueError(
            f"the intrinsics of {folder.name} are not known: its name holds neither freiburg1, freiburg2 nor "
            "freiburg3. Put a file K.txt with the 3x3 intrinsics into it"
        )
    return SIZE, pinhole(*CAMERAS[match[1]])


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, words) of all lines that say something."""
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [(number, line.split()) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]


def _read_list(folder: Path, name: str, problems: Problems) -> list[tuple[float, Path]]:
    """(time, file) in the order of time."""
    found = []
    for number, words in _rows(folder / name):
        try:
            time, file = words
            if not np.isfinite(float(time)):
                raise ValueError(f"the time is {time}")
            found.append((float(time), safe_path(folder, file)))
        except ValueError as error:
            problems.add(
                "bad line", name, f"line {number}: 'timestamp file' was expected: {error}; the line is skipped"
            )
    return sorted(found)


def _read_depths(folder: Path, problems: Problems) -> list[tuple[float, Path]] | None:
    """As `_read_list`; None, reported once, where there is no list or it cannot be read."""
    try:
        return _read_list(folder, "depth.txt", problems)
    except (OSError, ValueError) as error:
        problems.add("no depth", folder / "depth.txt", f"{error}; the frames stay, without depth")
        return None


def _read_poses(path: Path, problems: Problems) -> tuple[FloatArray, FloatArray]:
    """(n,) times and (n, 7) translations and quaternions x y z w."""
    found = []
    for number, words in _rows(path):
        try:
            row = [float(word) for word in words]
            if len(row) != 8 or not np.isfinite(row[0]):
                raise ValueError(f"got {' '.join(words)[:80]!r}")
            found.append(row)
        except ValueError as error:
            problems.add("bad line", path.name, f"line {number}: 8 numbers were expected: {error}; the line is skipped")
    table = np.array(found).reshape(-1, 8)
    return table[:, 0], table[:, 1:]


def _pose(row: NDArray[np.float64]) -> FloatArray:
    """tx ty tz qx qy qz qw -> (4, 4)."""
    pose = np.eye(4)
    pose[:3, 3] = row[:3]
    if not np.isfinite(row).all():
        return np.full((4, 4), np.nan)
    if abs(np.linalg.norm(row[3:]) - 1) > 0.01:  # files print four to six decimals
        raise ValueError(f"a unit quaternion was expected, got {row[3:].tolist()}")
    pose[:3, :3] = quaternion_to_matrix(row[3:])
    return pose


def _nearest(times: FloatArray, time: float) -> int | None:
    """Index of the nearest time, None if all are more than MOST_SECONDS away."""
    if not len(times):
        return None
    index = int(np.abs(times - time).argmin())
    return index if abs(times[index] - time) <= MOST_SECONDS else None
