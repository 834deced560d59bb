"""What the layouts that hold ScanNet's images share: numbered frames, cameras in text files, depth on its own grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gapmllm.geometry import resize_intrinsics
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.images import image_size
from gapmllm.scenes.importers.base import read_bytes, read_matrix
from gapmllm.scenes.importers.pgm import read_pgm
from gapmllm.scenes.problems import Problems

RAW_RATE = 30.0
"""Frames a second of ScanNet's camera: a raw frame number / 30 is a time in seconds."""
MOST_SAMPLES = 300
"""mmdetection3d exports at most so many frames of a scan and numbers them from 0."""
_SUFFIXES = (".jpg", ".jpeg", ".png")


def is_number(stem: str) -> bool:
    """Whether a file's name counts: ASCII digits alone."""
    return stem.isascii() and stem.isdecimal()


def numbered(folder: Path, problems: Problems, suffixes: tuple[str, ...] = _SUFFIXES) -> dict[int, Path]:
    """Frame number -> file, by number, for the files whose name is a number; none where there is no such folder.

    Of two files with the same number the first by name is taken, reported.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in suffixes and is_number(path.stem):
            taken = found.setdefault(int(path.stem), path)
            if taken is not path:
                problems.add("same number", path.name, f"has the number of {taken.name}, which is taken instead")
    return dict(sorted(found.items()))


def are_raw_numbers(numbers: list[int]) -> bool:
    """Whether the numbers in file names count the camera's own frames, so that they tell the time.

    EmbodiedScan's `posed_images` do (every 10th frame), mmdetection3d's do not (up to 300 samples numbered from 0).
    The rule: all are multiples of 10, or the largest is past what mmdetection3d reaches.
    """
    return bool(numbers) and (all(number % 10 == 0 for number in numbers) or max(numbers) >= MOST_SAMPLES)


def read_camera(path: Path) -> FloatArray:
    """(3, 3) intrinsics from a text file of 3x3 or 4x4 numbers."""
    return read_matrix(path, 3, 3)


def read_pose(path: Path) -> FloatArray:
    """(4, 4) camera_to_world from a text file; Python spells lost poses -inf or nan."""
    return read_matrix(path, 4, 4)


def scaled_camera(intrinsics: FloatArray, image: Path, depth: Path) -> FloatArray | None:
    """(3, 3) camera of a depth image that shows what the image shows, with fewer pixels; None where sizes are equal.

    Raises OSError or ImageError.
    """
    (width, height), (columns, rows) = _size(image), _size(depth)
    if (width, height) == (columns, rows):
        return None
    return resize_intrinsics(intrinsics, (width, height), (columns, rows))


def _size(path: Path) -> tuple[int, int]:
    data = read_bytes(path)
    if path.suffix != ".pgm":
        return image_size(data)
    height, width = read_pgm(data).shape
    return width, height


def depth_camera(path: Path, problems: Problems) -> FloatArray | None:
    """(3, 3) intrinsics of the depth images from their file; None, reported, if it is not there or damaged."""
    try:
        return read_camera(path)
    except (OSError, ValueError) as error:
        problems.add("no depth camera", path.name, f"{error}; the frames stay, without depth")
        return None


def aligned(alignment: FloatArray, pose: FloatArray) -> FloatArray:
    """alignment @ pose, (4, 4); a lost pose comes back as it is, for `load_frame` to report."""
    return alignment @ pose if np.isfinite(pose).all() else pose


def pose_reader(alignment: FloatArray, path: Path) -> Callable[[], FloatArray]:
    """Reads a pose file, aligned, when `load_frame` asks for it, so that what is wrong with it is reported there."""
    return lambda: aligned(alignment, read_pose(path))
