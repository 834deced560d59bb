"""TUM RGB-D, written: rgb/, depth/, rgb.txt, depth.txt, groundtruth.txt. See `importers/tum.py`.

What the format keeps: pixels (PNG, lossless), times, poses (quaternions of 17 digits: the same to 1e-15), depth at 5000
units a metre (bytes as they are where that is their scale, else rounded, 0.1 mm at most; what is farther than 13.1 m
becomes unknown; 0 = unknown). What it cannot hold: boxes, texts, questions, depth on another pixel grid than colour.
Frames without times get 30 a second. K.txt lies beside the lists, which our importer reads; other code must be told.
"""

from __future__ import annotations

from pathlib import Path

from gapmllm.geometry.rotation import matrix_to_quaternion
from gapmllm.scenes.exporters.base import (
    FolderExporter,
    as_depth,
    as_png,
    matrix_text,
    new_folder,
    one_camera,
    scene_folder,
)
from gapmllm.scenes.importers.tum import DEPTH_SCALE
from gapmllm.scenes.records import Frame, Scene

FRAME_RATE = 30.0


class TumExporter(FolderExporter):
    """See the module."""

    format = "tum"

    def write(self, scene: Scene, out: Path) -> None:
        """Write out/<scene id>. A frame without depth gets one in which all is unknown, so that it takes no other's."""
        target = scene_folder(scene, out)
        times = _times(scene)
        intrinsics = one_camera(scene)
        if any(frame.depth_intrinsics is not None for frame in scene.frames):
            raise ValueError(
                f"scene {scene.id}: TUM RGB-D has depth on the picture's pixel grid, this depth has a camera of its "
                "own; export to 7scenes, which can hold it"
            )
        with new_folder(target) as folder:
            (folder / "K.txt").write_text(matrix_text(intrinsics), encoding="utf-8")
            lists: dict[str, list[str]] = {"rgb": [], "depth": [], "groundtruth": []}
            for name in ("rgb", "depth"):
                (folder / name).mkdir()
            for index, (time, frame) in enumerate(zip(times, scene.frames, strict=True)):
                file = f"{index:06d}.png"
                (folder / "rgb" / file).write_bytes(as_png(frame.image))
                (folder / "depth" / file).write_bytes(as_depth(frame, DEPTH_SCALE))
                lists["rgb"].append(f"{time} rgb/{file}")
                lists["depth"].append(f"{time} depth/{file}")
                lists["groundtruth"].append(f"{time} {_pose_text(frame)}")
            for name, lines in lists.items():
                (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _times(scene: Scene) -> list[str]:
    """Time of each frame in seconds, 17 digits."""
    times = [frame.time for frame in scene.frames]
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        known = [index / FRAME_RATE for index in range(len(times))]
    if len(set(known)) < len(known):
        raise ValueError(f"scene {scene.id}: two frames have the same time; TUM RGB-D tells frames apart by it")
    return [f"{time:.17g}" for time in known]


def _pose_text(frame: Frame) -> str:
    pose = frame.camera_to_world
    return " ".join(f"{value:.17g}" for value in (*pose[:3, 3], *matrix_to_quaternion(pose[:3, :3])))
