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

import re
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
_LOST = np.full((4, 4), np.nan)
_COLOR = r"(?P<number>[0-9]+)(?P<kind>)\.(?:jpe?g|png)"
_DEPTH = r"(?P<number>[0-9]+)(?P<kind>)\.png"


class Redwood(FolderImporter):
    """See the module."""

    format = "redwood"
    layout = "trajectory.log, color/ (or image/) and depth/"
    common = ("depth/",)  # TUM RGB-D's and ScanNet's folders are called so too

    @classmethod
    def parts(cls, folder: Path) -> Iterator[tuple[str, bool]]:
        yield "trajectory.log", (folder / "trajectory.log").is_file()
        yield "color/ (or image/)", (folder / "color").is_dir() or (folder / "image").is_dir()
        yield "depth/", (folder / "depth").is_dir()

    def frames(self, folder: Path, problems: Problems) -> list[Frame | None]:
        size, intrinsics = _camera(folder)
        pictures = folder / ("color" if (folder / "color").is_dir() else "image")
        colors, depths = _numbered(pictures, _COLOR, problems), _numbered(folder / "depth", _DEPTH, problems)
        numbers = sorted({*colors, *depths})
        poses = _matched(_read_log(folder / "trajectory.log", problems), numbers)
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


def _numbered(folder: Path, pattern: str, problems: Problems) -> dict[int, Path]:
    return {int(name): kinds[""] for name, kinds in by_number(folder, pattern, problems).items()}


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


def _read_log(path: Path, problems: Problems) -> dict[int, FloatArray]:
    """Frame number -> camera_to_world; NaN, reported, where its block is damaged or another has its number.

    Damaged blocks keep their number: which block belongs to which picture rests on all numbers (see `_matched`).
    """
    poses: dict[int, FloatArray] = {}
    damaged: set[int] = set()
    for number, rows in _blocks(path, problems):
        try:
            matrix = np.array(rows[:4], dtype=np.float64)
            if matrix.shape != (4, 4):
                raise ValueError(f"got {len(rows)} rows, {matrix.size} numbers")
        except ValueError as error:
            problems.add("bad block", path, f"frame {number}: four rows of four numbers were expected: {error}")
            damaged.add(number)
            continue
        if rows[4:]:
            problems.add("bad block", path, f"frame {number}: {len(rows) - 4} lines too many follow; skipped")
        if rows[7:]:  # the next block, without its first line
            damaged.add(number + 1)
        if number in poses:
            problems.add("bad block", path, f"frame {number} is there twice; it is kept only where both say the same")
            matrix = matrix if np.array_equal(matrix, poses[number]) else _LOST
        poses[number] = matrix
    return {number: _LOST for number in damaged} | poses


def _blocks(path: Path, problems: Problems) -> list[tuple[int, list[list[str]]]]:
    """(frame number, words of the lines that follow) wherever a line holds three whole numbers, "i i i+1"."""
    before: list[list[str]] = []
    found: list[tuple[int, list[list[str]]]] = []
    for line in read_text(path).splitlines():
        words = line.split()
        if len(words) == 3 and all(re.fullmatch(r"-?[0-9]{1,18}", word) for word in words):
            found.append((int(words[0]), []))
        elif words:
            (found[-1][1] if found else before).append(words)
    if before:
        problems.add("bad block", path, f"{len(before)} lines before the first line 'i i i+1'; skipped")
    if before[3:] and found and found[0][0] > 0:  # the first block, without its first line
        found.insert(0, (found[0][0] - 1, []))
    return found


def _matched(poses: dict[int, FloatArray], numbers: list[int]) -> dict[int, FloatArray]:
    """Number of the picture -> pose. See the module for how they are matched."""
    blocks = sorted(poses)
    starts = numbers[:1] + blocks[:1]
    if len(numbers) == len(blocks) and _gap_free(numbers) and _gap_free(blocks) and set(starts) <= {0, 1}:
        return dict(zip(numbers, (poses[block] for block in blocks), strict=True))
    return poses


def _gap_free(numbers: list[int]) -> bool:
    return not numbers or numbers[-1] - numbers[0] + 1 == len(numbers)
