"""EmbodiedScan: one pickle of cameras and oriented boxes for all scans of a split, and images of four data sets.

embodiedscan_infos_train.pkl     in the root or in its folder `embodiedscan`, or named by ImportOptions.annotations
scannet/posed_images/<scan>/%05d.jpg, .png             depth in mm, with a camera of its own
3rscan/<scan>/sequence/frame-%06d.color.jpg, .depth.pgm   depth in mm, registered, with fewer pixels
matterport3d/<building>/...                             depth in 1/4000 m, a camera an image
arkitscenes/{Training,Validation}/<scan>/...             (version 2) depth in mm, a camera an image

The pickle's paths are taken as they are, below the root. Scene ids are its `sample_idx` without "scannet/", other
slashes as "__": scene0000_00, matterport3d__<building>__region0. Object ids are `bbox_id`. Boxes are Euler "ZXY" in the
aligned world. A frame's `visible` holds the objects that the pickle lists for it, with the share of the image that they
cover here; listed objects that cover next to nothing (the lists are loose) are left out. ScanNet's file numbers give
times.

A pickle is read once a process while it does not change. In memory it takes about 0.7 kB an image: for a million images
0.7 GB in each process that imports.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gapmllm.geometry import Boxes, check_pose
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.images import ImageError, encode_gray16
from gapmllm.scenes.importers.base import Importer, load_frame, safe_path, usable
from gapmllm.scenes.importers.entries import UNUSABLE, Entries, by_scene, text_of
from gapmllm.scenes.importers.pgm import read_pgm
from gapmllm.scenes.importers.scannet_files import RAW_RATE, aligned, is_number, scaled_camera
from gapmllm.scenes.importers.unpickle import load_pickle
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame, Scene, SceneObject
from gapmllm.scenes.visibility import visible_objects

DEPTH_SCALES = {"matterport3d": 4000.0}
"""Stored units per metre, where they are not 1000."""


@dataclass(frozen=True, eq=False)
class _Infos:
    labels: dict[int, str]
    scans: Entries


class EmbodiedScan(Importer):
    """EmbodiedScan's data folder."""

    format: ClassVar[str] = "embodiedscan"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return bool(_pickles(root))

    def scene_ids(self) -> list[str]:
        return list(_infos(self._pickle()).scans.values)

    def load(self, scene_id: str, problems: Problems) -> Scene | None:
        path = self._pickle()
        infos = _infos(path)
        infos.scans.report(scene_id, path.name, problems)
        info = infos.scans.values[scene_id]
        try:
            alignment = _alignment(info, path, problems)
            by_place = _objects(info, infos.labels, path, problems)
            chosen = self.options.chosen(len(info["images"]))
            loaded = [self._frame_at(index, info, alignment, by_place, problems) for index in chosen]
        except UNUSABLE as error:
            problems.add("unreadable", path.name, f"{type(error).__name__}: {error}")
            return None
        frames = usable(problems, loaded)
        objects = tuple(by_place.values())
        if not frames:
            return None
        return Scene(id=scene_id, frames=frames, objects=objects, split=self.options.split, source=self.format)

    def _pickle(self) -> Path:
        if self.options.annotations is not None:
            return self.options.annotations
        found, name = _pickles(self.root), f"embodiedscan_infos_{self.options.split}.pkl"
        for path in found:
            if path.name == name:
                return path
        others = ", ".join(path.name for path in found) or "no embodiedscan_infos_*.pkl"
        raise ValueError(f"{self.root}: {name} is not in it, but {others}; choose another split or name the file")

    def _frame_at(
        self,
        index: int,
        info: dict[str, Any],
        alignment: FloatArray,
        by_place: dict[int, SceneObject],
        problems: Problems,
    ) -> Frame | None:
        """The image at a place of the scan's list, or None with the reason in `problems`."""
        image = info["images"][index]
        try:
            return self._frame(info, image, alignment, by_place, problems)
        except UNUSABLE as error:
            name = image.get("img_path") if isinstance(image, dict) else None
            file = name if isinstance(name, str) else f"image {index} of {info['sample_idx']}"
            problems.add("bad camera", file, f"{type(error).__name__}: {error}; the frame is dropped")
            return None

    def _frame(
        self,
        info: dict[str, Any],
        image: dict[str, Any],
        alignment: FloatArray,
        by_place: dict[int, SceneObject],
        problems: Problems,
    ) -> Frame | None:
        name = text_of(image["img_path"])
        source = info["sample_idx"].split("/")[0]
        try:
            picture = safe_path(self.root, name)
        except ValueError as error:
            problems.add("bad path", name, error)
            return None
        camera = np.asarray(info["cam2img"] if "cam2img" in info else image["cam2img"], dtype=np.float64)[:3, :3]
        depth, camera_of_depth = self._depth(info, image, camera, picture, problems)
        frame = load_frame(
            problems,
            picture,
            aligned(alignment, np.asarray(image["cam2global"], dtype=np.float64)),
            name=name,
            depth=depth,
            reread_depth=_pgm_as_png if depth is not None and depth.suffix == ".pgm" else None,
            intrinsics=camera,
            depth_intrinsics=camera_of_depth,
            depth_scale=DEPTH_SCALES.get(source, 1000.0),
            time=int(picture.stem) / RAW_RATE if source == "scannet" and is_number(picture.stem) else None,
        )
        if frame is None or "visible_instance_ids" not in image:
            return frame
        try:
            return replace(frame, visible=_visible(frame, image["visible_instance_ids"], by_place, problems))
        except UNUSABLE as error:
            reason = f"{type(error).__name__}: {error}; what is in view is computed from the boxes"
            problems.add("bad visibility", name, reason)
            return frame

    def _depth(
        self, info: dict[str, Any], image: dict[str, Any], camera: FloatArray, picture: Path, problems: Problems
    ) -> tuple[Path | None, FloatArray | None]:
        """File and camera of an image's depth; none, reported, where what the pickle says of them is damaged."""
        if not image.get("depth_path"):
            return None, None
        try:
            depth = safe_path(self.root, text_of(image["depth_path"]))
            return depth, _depth_camera(info, camera, picture, depth)
        except UNUSABLE as error:
            reason = f"{type(error).__name__}: {error}; the frame stays, without depth"
            problems.add("bad depth", text_of(image["img_path"]), reason)
            return None, None


def _pickles(root: Path) -> list[Path]:
    return sorted([*root.glob("embodiedscan_infos_*.pkl"), *root.glob("embodiedscan/embodiedscan_infos_*.pkl")])


def _infos(path: Path) -> _Infos:
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read(path: Path, _changed: int) -> _Infos:
    values = load_pickle(path)
    try:
        labels = {  # the objects of a category that is left out here are reported one by one
            number: str(name)
            for name, number in values["metainfo"]["categories"].items()
            if isinstance(number, int) and isinstance(name, str)
        }
        scans = by_scene(values["data_list"], lambda row: scene_name(row["sample_idx"]))
    except UNUSABLE as error:
        raise ValueError(f"{path}: not a pickle of EmbodiedScan: {type(error).__name__} {error}") from error
    return _Infos(labels, scans)


def scene_name(sample_idx: str) -> str:
    """Scene id for EmbodiedScan's name of a scan; a plain name, so that it can name a folder."""
    return sample_idx.removeprefix("scannet/").replace("/", "__")


def _alignment(info: dict[str, Any], path: Path, problems: Problems) -> FloatArray:
    if "axis_align_matrix" not in info:
        problems.add("no alignment", path.name, "the entry has none; the scan's own world is taken as it is")
        return np.eye(4)
    return check_pose(info["axis_align_matrix"], name="axis_align_matrix")


def _objects(info: dict[str, Any], labels: dict[int, str], path: Path, problems: Problems) -> dict[int, SceneObject]:
    """Place in the scan's list -> object; `visible_instance_ids` are such places."""
    found: dict[int, SceneObject] = {}
    seen: set[int] = set()
    if "instances" not in info:
        problems.add("no objects", path.name, "the entry has no boxes (a test scan?)")
    rows = info.get("instances", ())
    if not isinstance(rows, list | tuple):
        problems.add(
            "bad objects",
            path.name,
            f"instances: a list was expected, got {type(rows).__name__}; the scene has no objects",
        )
        return found
    for place, item in enumerate(rows):
        try:
            number = operator.index(item["bbox_id"])
            if number in seen:
                raise ValueError(f"its bbox_id {number} is that of an earlier one")
            box = Boxes.from_euler([item["bbox_3d"]], "ZXY")
            found[place] = SceneObject(
                id=number,
                label=labels[operator.index(item["bbox_label_3d"])],
                center=box.centers[0],
                size=box.sizes[0],
                rotation=box.rotations[0],
            )
            seen.add(number)
        except UNUSABLE as error:
            problems.add("bad object", path.name, f"instance {place}: {type(error).__name__}: {error}; dropped")
    return found


def _visible(frame: Frame, places: Any, by_place: dict[int, SceneObject], problems: Problems) -> dict[int, float]:
    listed = [operator.index(place) for place in places]
    unknown = [place for place in listed if place not in by_place]
    if unknown:
        problems.add("unknown object", frame.name, f"instances {unknown} are listed as visible, but are not there")
    return visible_objects(frame, [by_place[place] for place in listed if place in by_place])


def _depth_camera(info: dict[str, Any], camera: FloatArray, image: Path, depth: Path) -> FloatArray | None:
    """The scan's own camera of its depth images, else the image's camera brought to their size."""
    if "depth_cam2img" in info:
        own = np.asarray(info["depth_cam2img"], dtype=np.float64)[:3, :3]
        Frame(image=b"", intrinsics=own, camera_to_world=np.eye(4))  # raises for a camera that is none
        return own
    try:
        return scaled_camera(camera, image, depth)
    except (OSError, ImageError):
        return None  # load_frame says what is wrong with the file


def _pgm_as_png(data: bytes) -> bytes:
    return encode_gray16(read_pgm(data))
