"""ScanNet's annotations of a scan: the axis alignment, and the objects with their boxes.

scene0000_00.txt                            "axisAlignment = " and 16 numbers; test scans have none
scene0000_00.aggregation.json               objects as lists of segments, with their names
scene0000_00_vh_clean_2.0.010000.segs.json  the segment of each vertex
scene0000_00_vh_clean_2.ply                 the vertices, in the scan's own world

An object's box is the smallest one along the axes of the *aligned* world that holds its vertices, as ScanRefer and the
detection benchmarks have it. Its id is the aggregation's `objectId`, which ScanRefer, Nr3D and Sr3D name.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from gapmllm.geometry import check_pose, transform_points
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.importers.base import MAX_TEXT, read_json, read_text
from gapmllm.scenes.importers.entries import UNUSABLE, text_of
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import SceneObject


@dataclass(frozen=True, eq=False)
class Annotations:
    """What ScanNet says about one scan."""

    alignment: FloatArray
    """(4, 4): takes the scan's own world to the aligned one."""
    objects: tuple[SceneObject, ...]
    vertices: FloatArray | None
    """(V, 3) of the decimated mesh in the aligned world; None without mesh."""


def read_annotations(images: Path, scan: str, problems: Problems) -> Annotations:
    """Annotations of a scan from where releases and exports keep them, seen from the folder of its images.

    That is: this folder; `scans/<scan>` or `scans_test/<scan>` beside this folder or one or two levels above it.
    What is missing is reported: without alignment it is the identity, without the other three there are no objects.
    """
    folder = _annotation_folder(images, scan)
    alignment = read_alignment(images, scan, problems)
    try:
        vertices = _vertices(folder / f"{scan}_vh_clean_2.ply", alignment, problems)
        objects = () if vertices is None else tuple(_objects(folder, scan, vertices, problems))
    except UNUSABLE as error:
        problems.add("bad annotations", folder, error)
        vertices, objects = None, ()
    return Annotations(alignment, objects, vertices)


def read_alignment(images: Path, scan: str, problems: Problems) -> FloatArray:
    """(4, 4) axis alignment of a scan, found as `read_annotations` does; the identity, reported, if there is none."""
    path = _annotation_folder(images, scan) / f"{scan}.txt"
    if not path.is_file():
        problems.add("no alignment", path, "is not there; the scan's own world is taken as it is")
        return np.eye(4)
    try:
        for line in read_text(path).splitlines():
            key, _, values = line.partition("=")
            if key.strip() == "axisAlignment":
                numbers = [float(word) for word in values.split()]
                return check_pose(np.reshape(numbers, (4, 4)), name="axisAlignment")
        problems.add("no alignment", path, "has no line axisAlignment (a test scan?); the scan's own world is taken")
    except UNUSABLE as error:
        problems.add("no alignment", path, f"{error}; the scan's own world is taken as it is")
    return np.eye(4)


def _annotation_folder(images: Path, scan: str) -> Path:
    places = [images, *(above / name / scan for above in list(images.parents)[:3] for name in ("scans", "scans_test"))]
    for name in (f"{scan}.txt", f"{scan}.aggregation.json"):
        for place in places:
            if (place / name).is_file():
                return place
    return images


def _vertices(path: Path, alignment: FloatArray, problems: Problems) -> FloatArray | None:
    if not path.is_file():
        problems.add("no objects", path, "is not there; the scene has no objects")
        return None
    if path.stat().st_size > MAX_TEXT:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, at most {MAX_TEXT} are read")
    try:
        mesh: Any = trimesh.load_mesh(path, process=False)  # unprocessed: vertices keep their order
        points = np.asarray(mesh.vertices, dtype=np.float64)
    except Exception as error:  # the reader raises whatever a damaged file trips over
        raise ValueError(f"{path}: not a PLY file that can be read: {type(error).__name__}: {error}") from error
    if not np.isfinite(points).all():
        raise ValueError(f"{path}: holds vertices that are not finite")
    return transform_points(points, alignment)


def _objects(folder: Path, scan: str, vertices: FloatArray, problems: Problems) -> Iterator[SceneObject]:
    aggregation, segments = folder / f"{scan}.aggregation.json", folder / f"{scan}_vh_clean_2.0.010000.segs.json"
    for path in (aggregation, segments):
        if not path.is_file():
            problems.add("no objects", path, "is not there; the scene has no objects")
            return
    of_vertex = _segment_of_vertex(segments, len(vertices))
    seen: set[int] = set()
    for place, group in enumerate(_list_of(aggregation, "segGroups")):
        try:
            number, label = operator.index(group["objectId"]), text_of(group["label"])
            inside = vertices[np.isin(of_vertex, [operator.index(value) for value in group["segments"]])]
            if number in seen or not len(inside):
                reason = "its objectId is that of an earlier one" if number in seen else "none of the vertices is in it"
                problems.add("bad object", aggregation, f"object {number} ({label}): {reason}; dropped")
                continue
            yield box_around(number, label, inside)
            seen.add(number)
        except UNUSABLE as error:
            reason = f"{type(error).__name__}: {error}"
            problems.add(
                "bad object", aggregation, f"object {place} of the list: {reason}, in {str(group)[:80]}; dropped"
            )


def box_around(number: int, label: str, points: FloatArray) -> SceneObject:
    """The smallest object along the axes of the world that holds the points (P, 3)."""
    low, high = points.min(axis=0), points.max(axis=0)
    return SceneObject(id=number, label=label, center=(low + high) / 2, size=high - low)


def _segment_of_vertex(path: Path, vertices: int) -> NDArray[np.int64]:
    values = np.asarray(_list_of(path, "segIndices"))
    if values.shape != (vertices,) or values.dtype.kind != "i":
        raise ValueError(f"{path}: needs one whole number for each of the {vertices} vertices, got {values.shape}")
    return values.astype(np.int64)


def _list_of(path: Path, key: str) -> list[Any]:
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get(key), list):
        raise ValueError(f"{path}: a JSON object with a list {key!r} was expected")
    return values[key]
