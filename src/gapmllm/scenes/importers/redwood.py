"""Redwood and Open3D recordings: frames beside a trajectory.log.

    color/ or image/ 00000.jpg    (or .png; any number of digits)
    depth/00000.png               16-bit, millimetres along z, 0 = unknown, registered to colour
    trajectory.log                blocks of a line "i i i+1" and four lines of camera_to_world
    camera_primesense.json        size and column-major intrinsic_matrix; without it 525, 525, 319.5, 239.5 at 640x480

A block belongs to the picture with its number i. Where pictures and blocks are equally many and both numbered without
a gap, the ones from 0 and the others from 1, they are matched in order. File numbers of excerpts are no clock, so
frames have no time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.importers.base import load_frame, pinhole, read_json, read_text
from gapmllm.scenes.importers.folders import FolderImporter, by_number
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame

SIZE = (640, 480)
CAMERA = (525.0, 525.0, 319.5, 239.5)
_COLOR = r"(?P<number>[0-9]+)(?P<kind>)\.(?:jpe?g|png)"
_DEPTH = r"(?P<number>[0-9]+)(?P<kind>)\.png"


class Redwood(FolderImporter):
    """See the module."""

    format = "redwood"
    layout = "trajectory.log, color/ (or image/) and depth/"

    @classmethod
    def parts(cls, folder: Path) -> Iterator[tuple[str, bool]]:
        yield "trajectory.log", (folder / "trajectory.log").is_file()
        yield "color/ (or image/)", (folder / "color").is_dir() or (folder / "image").is_dir()
        yield "depth/", (folder / "depth").is_dir()

    def frames(self, folder: Path, problems: Problems) -> list[Frame | None]:
        size, intrinsics = _camera(folder)
        pictures = folder / ("color" if (folder / "color").is_dir() else "image")
        colors, depths = _numbered(pictures, _COLOR), _numbered(folder / "depth", _DEPTH)
        numbers = sorted({*colors, *depths})
        poses = _matched(_read_log(folder / "trajectory.log"), numbers)
        frames: list[Frame | None] = []
        for number in (numbers[index] for index in self.options.chosen(len(numbers))):
            name = (colors.get(number) or depths[number]).stem
            if number not in poses:
                problems.add("no pose", name, "trajectory.log has no such frame; the frame is dropped")
                continue
            frame = load_frame(
                problems,
                colors.get(number, pictures / f"{name}.jpg"),
                poses[number],
                name=name,
                depth=depths.get(number, folder / "depth" / f"{name}.png"),
                size=size,
                intrinsics=intrinsics,
            )
            frames.append(frame)
        return frames


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    return {int(name): kinds[""] for name, kinds in by_number(folder, pattern).items()}


def _camera(folder: Path) -> tuple[tuple[float, float], FloatArray]:
    """((width, height), (3, 3) intrinsics)."""
    path = folder / "camera_primesense.json"
    if not path.is_file():
        return SIZE, pinhole(*CAMERA)
    try:
        camera = read_json(path)
        matrix = np.array(camera["intrinsic_matrix"], dtype=np.float64).reshape(3, 3).T
        return (float(camera["width"]), float(camera["height"])), matrix
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: width, height and 9 numbers intrinsic_matrix were expected: {error!r}") from error


def _read_log(path: Path) -> dict[int, FloatArray]:
    """Frame number -> camera_to_world."""
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    poses: dict[int, FloatArray] = {}
    for start in range(0, len(lines), 5):
        block = lines[start : start + 5]
        try:
            number, rows = int(block[0][0]), np.array(block[1:], dtype=np.float64)
            if rows.shape != (4, 4) or len(block[0]) != 3:
                raise ValueError(f"got shapes {len(block[0])} and {rows.shape}")
        except ValueError as error:
            where = f"{path}: block {start // 5 + 1}"
            raise ValueError(
                f"{where}: a line 'i i i+1' and four rows of four numbers were expected: {error}"
            ) from error
        if number in poses:
            raise ValueError(f"{path}: frame {number} is there twice")
        poses[number] = rows
    return poses


def _matched(poses: dict[int, FloatArray], numbers: list[int]) -> dict[int, FloatArray]:
    """Number of the picture -> pose. See the module for how they are matched."""
    blocks = sorted(poses)
    starts = numbers[:1] + blocks[:1]
    if len(numbers) == len(blocks) and _gap_free(numbers) and _gap_free(blocks) and set(starts) <= {0, 1}:
        return dict(zip(numbers, (poses[block] for block in blocks), strict=True))
    return poses


def _gap_free(numbers: list[int]) -> bool:
    return not numbers or numbers[-1] - numbers[0] + 1 == len(numbers)
