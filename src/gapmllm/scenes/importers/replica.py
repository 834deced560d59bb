"""Replica as rendered for iMAP and NICE-SLAM: eight synthetic walks through scanned rooms.

    <scene>/results/frame000012.jpg, depth000012.png     depth: 16-bit, 6553.5 units a metre, 0 = unknown, registered
    <scene>/traj.txt                                     line k: 16 numbers, camera_to_world of frame k, row by row
    cam_params.json (beside the scenes, or in one)       w, h, fx, fy, cx, cy, scale; else 1200x680, 600, 599.5, 339.5

The rendering has no clock, so frames have no time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.importers.base import load_frame, pinhole, read_json, read_text
from gapmllm.scenes.importers.folders import FolderImporter, by_number
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame

CAMERA: dict[str, float] = {"w": 1200, "h": 680, "fx": 600, "fy": 600, "cx": 599.5, "cy": 339.5, "scale": 6553.5}
_FILES = r"(?P<kind>frame(?=.*jpg)|depth(?=.*png))(?P<number>[0-9]+)\.(?:jpg|png)"


class Replica(FolderImporter):
    """See the module."""

    format = "replica"
    layout = "traj.txt and results/ with frame000000.jpg and depth000000.png"

    @classmethod
    def parts(cls, folder: Path) -> Iterator[tuple[str, bool]]:
        yield "traj.txt", (folder / "traj.txt").is_file()
        yield "results/frame000000.jpg", any((folder / "results").glob("frame[0-9]*.jpg"))

    def frames(self, folder: Path, problems: Problems) -> list[Frame | None]:
        camera = _camera(folder)
        lines = read_text(folder / "traj.txt").rstrip().splitlines()  # blank ones within count: they are lost poses
        files = by_number(folder / "results", _FILES, problems)
        if len(lines) != len(files):
            message = f"{len(lines)} lines for {len(files)} frames; line k is taken for frame k, counted from 0"
            problems.add("other length", folder / "traj.txt", message)
        names = [list(files)[index] for index in self.options.chosen(len(files))]
        return [
            load_frame(
                problems,
                folder / "results" / f"frame{name}.jpg",
                partial(_pose, lines, int(name)),
                name=f"frame{name}",
                depth=folder / "results" / f"depth{name}.png",
                size=(camera["w"], camera["h"]),
                intrinsics=pinhole(*(camera[key] for key in ("fx", "fy", "cx", "cy"))),
                depth_scale=camera["scale"],
            )
            for name in names
        ]


def _camera(folder: Path) -> dict[str, float]:
    for path in (folder / "cam_params.json", folder.parent / "cam_params.json"):
        if path.is_file():
            try:
                values = read_json(path)["camera"]
                camera = {key: float(values[key]) for key in CAMERA}
                if not (np.isfinite(list(camera.values())).all() and 1 <= camera["scale"] <= 1e6):
                    raise ValueError(f"finite numbers and a scale of 1 to 1e6 units a metre, got {camera}")
                return camera
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"{path}: camera with {', '.join(CAMERA)} was expected: {error!r}") from error
    return CAMERA


def _pose(lines: list[str], number: int) -> FloatArray:
    if number >= len(lines):
        raise ValueError(f"traj.txt has {len(lines)} lines, none for frame {number}")
    words = lines[number].split()
    if len(words) != 16:
        raise ValueError(f"traj.txt, line {number + 1}: 16 numbers were expected, got {len(words)}")
    try:
        return np.array([float(word) for word in words]).reshape(4, 4)
    except ValueError as error:
        raise ValueError(f"traj.txt, line {number + 1}: {error}") from error
