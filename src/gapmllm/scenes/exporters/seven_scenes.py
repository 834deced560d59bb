"""7-Scenes, written: <scene>/seq-01/frame-000000.{color.png,depth.png,pose.txt}. See `importers/seven_scenes.py`.

What the format keeps: pixels (PNG, lossless), poses (17 digits), depth in millimetres (bytes as they are where they are
in millimetres, else rounded, 0.5 mm at most; 0 = unknown). What it cannot hold: boxes, texts, questions. Times become
frame numbers of a 30 Hz video where each frame then has its own, else frames are numbered in order.
Beside the sequence lie K.txt and K_depth.txt, which our importer reads; other code must be told the intrinsics.
TrainSplit.txt names the sequence for the split "train", TestSplit.txt for all other splits.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from gapmllm.scenes.exporters.base import (
    FolderExporter,
    as_depth,
    as_png,
    matrix_text,
    new_folder,
    one_camera,
    scene_folder,
    video_numbers,
)
from gapmllm.scenes.importers.seven_scenes import FRAME_RATE
from gapmllm.scenes.records import Scene

DEPTH_SCALE = 1000.0


class SevenScenesExporter(FolderExporter):
    """See the module."""

    format = "7scenes"

    def write(self, scene: Scene, out: Path) -> None:
        """Write out/<scene id>. A frame without depth gets one in which all is unknown: the format wants one."""
        target = scene_folder(scene, out)
        cameras = {"K.txt": one_camera(scene), "K_depth.txt": one_camera(scene, depth=True)}
        with new_folder(target) as folder:
            for name, matrix in cameras.items():
                (folder / name).write_text(matrix_text(matrix), encoding="utf-8")
            split = "TrainSplit.txt" if scene.split == "train" else "TestSplit.txt"
            (folder / split).write_text("sequence1\n", encoding="utf-8")
            sequence = folder / "seq-01"
            sequence.mkdir()
            for number, frame in zip(_numbers(scene), scene.frames, strict=True):
                stem = f"frame-{number:06d}"
                (sequence / f"{stem}.color.png").write_bytes(as_png(frame.image))
                (sequence / f"{stem}.depth.png").write_bytes(as_depth(frame, DEPTH_SCALE))
                (sequence / f"{stem}.pose.txt").write_text(matrix_text(frame.camera_to_world), encoding="utf-8")


def _numbers(scene: Scene) -> list[int]:
    """Number of each frame in a 30 Hz video that starts with the first; 0, 1, … where that is not one to one."""
    numbers = video_numbers(scene, FRAME_RATE)
    if numbers and all(a < b for a, b in pairwise(numbers)) and numbers[-1] < 1_000_000:
        return numbers
    return list(range(len(scene.frames)))
