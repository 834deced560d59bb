"""ScanNet's flat layout, written: posed_images/<scan>/ with images, depth and cameras, scans/<scan>/ with annotations.

What the format keeps: JPEG bytes, poses and cameras (17 digits), depth in millimetres (bytes as they are where they are
in that unit, else rounded, 0.5 mm at most), the objects' labels and ids. What it cannot hold: a PNG picture becomes a
JPEG; an oriented box becomes the smallest one along the axes of the world that holds it (the format `embodiedscan`
keeps it); texts (the format `scanrefer` holds them), questions and instance maps. File numbers are frame numbers at 30
a second where that gives each frame its own (from 300 on, unless they are multiples of 10: by that the importer knows
that they are times, `scannet_files.are_raw_numbers`), else places.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gapmllm.geometry import BOX_TRIANGLES, CORNER_SIGNS
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.exporters.base import (
    FolderExporter,
    as_depth,
    matrix_text,
    new_folder,
    one_camera,
    scene_folder,
    video_numbers,
)
from gapmllm.scenes.images import decode_image, encode_image
from gapmllm.scenes.importers.scannet_files import MOST_SAMPLES, RAW_RATE, are_raw_numbers
from gapmllm.scenes.records import Scene


class ScanNetExporter(FolderExporter):
    """See the module."""

    format = "scannet"

    def write(self, scene: Scene, out: Path) -> None:
        """Write out/posed_images/<scene id> and out/scans/<scene id>; the alignment is the identity."""
        images = scene_folder(scene, out / "posed_images")
        with new_folder(images) as folder, new_folder(out / "scans" / scene.id) as scan:
            write_frames(scene, folder, frame_numbers(scene, step=1))
            _write_annotations(scene, scan)


def frame_numbers(scene: Scene, step: int) -> list[int]:
    """A number for each frame's files: its time since the first at 30 a second; its place times `step` where that is
    not one to one. Numbers that the importer would not take for times start higher."""
    numbers = video_numbers(scene, RAW_RATE)
    if numbers is None or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        return list(range(0, step * len(scene.frames), step))
    return numbers if are_raw_numbers(numbers) else [MOST_SAMPLES + number for number in numbers]


def write_frames(scene: Scene, folder: Path, numbers: list[int]) -> None:
    """%05d.jpg, .png, .txt of each frame, intrinsic.txt and depth_intrinsic.txt, into a folder that is there."""
    (folder / "intrinsic.txt").write_text(_matrix4(one_camera(scene)), encoding="utf-8")
    if any(frame.depth is not None for frame in scene.frames):
        (folder / "depth_intrinsic.txt").write_text(_matrix4(one_camera(scene, depth=True)), encoding="utf-8")
    for number, frame in zip(numbers, scene.frames, strict=True):
        stem = f"{number:05d}"
        (folder / f"{stem}.jpg").write_bytes(_as_jpeg(frame.image))
        (folder / f"{stem}.txt").write_text(matrix_text(frame.camera_to_world), encoding="utf-8")
        depth = None if frame.depth is None else as_depth(frame, 1000.0)
        if depth is not None:
            (folder / f"{stem}.png").write_bytes(depth)


def _write_annotations(scene: Scene, folder: Path) -> None:
    """A mesh of the boxes alone: each box a segment, each segment an object."""
    identity = " ".join(f"{value:g}" for value in np.eye(4).ravel())
    (folder / f"{scene.id}.txt").write_text(f"axisAlignment = {identity}\n", encoding="utf-8")
    if not scene.objects:
        return
    corners = scene.boxes().corners()
    low, high = corners.min(axis=1), corners.max(axis=1)
    vertices = np.where(CORNER_SIGNS > 0, high[:, None], low[:, None]).reshape(-1, 3)
    segments = [index for index in range(len(scene.objects)) for _ in CORNER_SIGNS]
    groups = [
        {"id": index, "objectId": item.id, "segments": [index], "label": item.label}
        for index, item in enumerate(scene.objects)
    ]
    name = f"{scene.id}_vh_clean_2"
    (folder / f"{name}.ply").write_text(_ply(vertices), encoding="ascii")
    for file, values in (
        (f"{name}.0.010000.segs.json", {"sceneId": scene.id, "segIndices": segments}),
        (f"{scene.id}.aggregation.json", {"sceneId": scene.id, "segGroups": groups}),
    ):
        (folder / file).write_text(json.dumps(values), encoding="utf-8")


def _ply(vertices: FloatArray) -> str:
    faces = [[corner + 8 * box for corner in face] for box in range(len(vertices) // 8) for face in BOX_TRIANGLES]
    header = [
        "ply",
        "format ascii 1.0",
        f"element vertex {len(vertices)}",
        *(f"property double {axis}" for axis in "xyz"),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    lines = [f"3 {a} {b} {c}" for a, b, c in faces]
    return "\n".join(header) + "\n" + matrix_text(vertices) + "\n".join(lines) + "\n"


def _matrix4(intrinsics: FloatArray) -> str:
    matrix = np.eye(4)
    matrix[:3, :3] = intrinsics
    return matrix_text(matrix)


def _as_jpeg(image: bytes) -> bytes:
    return image if image.startswith(b"\xff\xd8") else encode_image(decode_image(image), quality=95)
