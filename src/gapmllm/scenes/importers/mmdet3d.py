"""ScanNet as mmdetection3d prepares it: a pickle of boxes for all scans of a split, and posed images.

scannet_infos_train.pkl                       boxes of the 18 benchmark classes, in the aligned world
posed_images/scene0000_00/00000.jpg, 00000.txt, intrinsic.txt     up to 300 frames of a scan, no depth

Both schemas are read: the old one (a list; `annos.gt_boxes_upright_depth`) and the one since version 1.1 (`metainfo`,
`data_list`, `instances`). Which pickle: `ImportOptions.annotations`, else scannet_infos_<split>.pkl, else the first by
name. Frames are those that the pickle lists, with its poses; where it lists none, those of posed_images/<scan>. Images
are looked for where the pickle says, then beside it under their bare names. File numbers count samples: they give no
time. Object ids are positions in the pickle's list, not ScanNet's own: texts about ScanNet objects are not attached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gapmllm.geometry import check_pose
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.importers.base import Importer, load_frame, safe_path, usable
from gapmllm.scenes.importers.entries import UNUSABLE, Entries, by_scene, text_of
from gapmllm.scenes.importers.scannet_files import aligned, numbered, pose_reader, read_camera
from gapmllm.scenes.importers.unpickle import load_pickle
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame, Scene, SceneObject

CLASSES = (
    *("cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter", "desk"),
    *("curtain", "refrigerator", "showercurtrain", "toilet", "sink", "bathtub", "garbagebin"),
)
"""mmdetection3d's 18 ScanNet classes by number, in its own spelling."""


@dataclass(frozen=True, eq=False)
class _Shot:
    """One image to load."""

    image: Path
    pose: Callable[[], FloatArray]
    intrinsics: FloatArray


class MMDetection3D(Importer):
    """A data folder of mmdetection3d, or one of its pickles."""

    format: ClassVar[str] = "mmdet3d"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return bool(_pickles(root))

    def scene_ids(self) -> list[str]:
        return list(_scans(self._pickle()).values)

    def load(self, scene_id: str, problems: Problems) -> Scene | None:
        path = self._pickle()
        others = [other.name for other in _pickles(self.root) if other != path]
        if self.options.annotations is None and others and f"_{self.options.split}." not in path.name:
            problems.add("other annotations", path.name, f"taken; {', '.join(others)} not (annotations chooses one)")
        try:
            scans = _scans(path)
            scans.report(scene_id, path.name, problems)
            info = scans.values[scene_id]
            annotations = info.get("annos", info)
            alignment = _alignment(annotations, path, problems)
            shots = list(self._shots(info, scene_id, alignment, problems))
            objects = tuple(_objects(annotations, _metainfo(path), path, problems))
        except UNUSABLE as error:
            problems.add("unreadable", path.name, f"{type(error).__name__}: {error}")
            return None
        loaded = [None if shot is None else _load(shot, problems) for shot in shots]
        frames = usable(problems, loaded)
        if not frames:
            return None
        return Scene(id=scene_id, frames=frames, objects=objects, split=self.options.split, source=self.format)

    def _pickle(self) -> Path:
        found = _pickles(self.root)
        if self.options.annotations is not None:
            return self.options.annotations
        if not found:
            raise ValueError(f"{self.root}: no scannet_infos_*.pkl in it")
        return next((path for path in found if path.name == f"scannet_infos_{self.options.split}.pkl"), found[0])

    def _shots(
        self, info: dict[str, Any], scan: str, alignment: FloatArray, problems: Problems
    ) -> Iterator[_Shot | None]:
        """The chosen images; None for those that `problems` tells of."""
        if "img_paths" not in info:
            yield from self._posed_images(scan, alignment, problems)
            return
        camera = np.asarray(info["intrinsics"], dtype=np.float64)[:3, :3]
        names, poses = info["img_paths"], info["extrinsics"]
        if len(names) != len(poses):
            raise ValueError(f"{len(names)} images and {len(poses)} extrinsics; as many were expected")
        for index in self.options.chosen(len(names)):
            try:
                yield self._listed(text_of(names[index]), np.asarray(poses[index], dtype=np.float64), alignment, camera)
            except UNUSABLE as error:
                reason = f"{type(error).__name__}: {error}; the frame is dropped"
                problems.add("bad camera", f"image {index} of {scan}", reason)
                yield None

    def _listed(self, name: str, pose: FloatArray, alignment: FloatArray, camera: FloatArray) -> _Shot:
        folder = self.root if self.root.is_dir() else self.root.parent
        inside, matrix = safe_path(folder, name), aligned(alignment, pose)
        beside = folder / inside.name
        return _Shot(beside if beside.is_file() and not inside.is_file() else inside, lambda: matrix, camera)

    def _posed_images(self, scan: str, alignment: FloatArray, problems: Problems) -> Iterator[_Shot]:
        folder = self.root if self.root.is_dir() else self.root.parent
        place = folder / "posed_images" / scan
        if not place.is_dir() and len(_scans(self._pickle()).values) == 1:
            place = folder
        camera = read_camera(place / "intrinsic.txt")
        paths = list(numbered(place, problems, (".jpg", ".jpeg")).values())
        for index in self.options.chosen(len(paths)):
            yield _Shot(paths[index], pose_reader(alignment, paths[index].with_suffix(".txt")), camera)


def _load(shot: _Shot, problems: Problems) -> Frame | None:
    return load_frame(problems, shot.image, shot.pose, name=shot.image.name, intrinsics=shot.intrinsics)


def _pickles(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.name.startswith("scannet_infos") and root.suffix == ".pkl" else []
    return sorted(root.glob("scannet_infos*.pkl"))


def _scans(path: Path) -> Entries:
    return _read(path, path.stat().st_mtime_ns)[1]


def _metainfo(path: Path) -> dict[str, Any]:
    return _read(path, path.stat().st_mtime_ns)[0]


@lru_cache(maxsize=2)
def _read(path: Path, _changed: int) -> tuple[dict[str, Any], Entries]:
    """(metainfo, entries by scan). Once for a file while it does not change: it holds all scans."""
    values = load_pickle(path)
    try:
        if isinstance(values, dict):
            scans = by_scene(values["data_list"], lambda row: Path(row["lidar_points"]["lidar_path"]).stem)
            return values["metainfo"], scans
        return {}, by_scene(values, lambda row: row["point_cloud"]["lidar_idx"])
    except UNUSABLE as error:
        raise ValueError(f"{path}: not a pickle of mmdetection3d's ScanNet: {type(error).__name__} {error}") from error


def _alignment(annotations: dict[str, Any], path: Path, problems: Problems) -> FloatArray:
    if "axis_align_matrix" not in annotations:
        problems.add("no alignment", path.name, "the entry has none (a test scan?); the scan's own world is taken")
        return np.eye(4)
    return check_pose(annotations["axis_align_matrix"], name="axis_align_matrix")


def _objects(
    annotations: dict[str, Any], metainfo: dict[str, Any], path: Path, problems: Problems
) -> Iterator[SceneObject]:
    names = {number: name for name, number in metainfo.get("categories", {}).items()} or dict(enumerate(CLASSES))
    is_new = "instances" in annotations
    try:
        rows: list[Any] = list(annotations["instances"]) if is_new else list(_old_rows(annotations))
    except UNUSABLE as error:
        problems.add("bad objects", path.name, f"{type(error).__name__}: {error}; the scene has no objects")
        return
    if not rows:
        problems.add("no objects", path.name, "the entry has no boxes")
    for number, row in enumerate(rows):
        try:
            box, label = (row["bbox_3d"], names[row["bbox_label_3d"]]) if is_new else row
            values = np.asarray(box, dtype=np.float64)
            if values.shape != (6,):
                raise ValueError(f"a box of 6 numbers was expected, got shape {values.shape}")
            yield SceneObject(id=number, label=text_of(label), center=values[:3], size=values[3:])
        except UNUSABLE as error:
            problems.add("bad object", path.name, f"object {number}: {type(error).__name__}: {error}; dropped")


def _old_rows(annotations: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    return zip(annotations.get("gt_boxes_upright_depth", ()), annotations.get("name", ()), strict=True)
