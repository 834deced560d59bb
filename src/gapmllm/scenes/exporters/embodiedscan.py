"""EmbodiedScan's layout, written: embodiedscan_infos_<split>.pkl and scannet/posed_images/<scan>/. See the importer.

What the format keeps: JPEG bytes, poses and cameras exactly, boxes with their orientation (Euler "ZXY": rotations to
1e-12), labels, ids, which objects each frame shows, depth in millimetres. What it cannot hold: a PNG picture becomes a
JPEG; how much of a frame an object covers (computed anew on import), texts, questions, instance maps, proposals. File
numbers are frame numbers at 30 a second, 10 apart where that is not one to one. Label numbers are our own, in order
of appearance.

The pickle holds all scenes of a split and is written anew for each (protocol 4, plain containers and numpy arrays).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gapmllm.scenes.exporters.base import Exporter, new_folder, one_camera, scene_folder
from gapmllm.scenes.exporters.scannet import frame_numbers, write_frames
from gapmllm.scenes.importers.unpickle import load_pickle
from gapmllm.scenes.records import Scene


class EmbodiedScanExporter(Exporter):
    """See the module."""

    format = "embodiedscan"

    def export(self, scenes: Iterable[Scene], out: Path) -> None:
        """Add the scenes to the pickles of their splits, as scannet/<scene id>. Pickles are written at the end, also
        when it comes early: they hold the scenes whose images are there."""
        out.mkdir(parents=True, exist_ok=True)
        pickles: dict[Path, Any] = {}
        try:
            for scene in scenes:
                path = out / f"embodiedscan_infos_{scene.split}.pkl"
                if path not in pickles:
                    pickles[path] = _read(path)
                target = scene_folder(scene, out / "scannet" / "posed_images")
                numbers = frame_numbers(scene, step=10)
                info = _info(scene, numbers, pickles[path]["metainfo"]["categories"])
                with new_folder(target) as folder:
                    write_frames(scene, folder, numbers)
                pickles[path]["data_list"].append(info)
        finally:
            for path, infos in pickles.items():
                partial = path.with_suffix(".part")
                partial.write_bytes(pickle.dumps(infos, protocol=4))
                os.replace(partial, path)


def _read(path: Path) -> dict[str, Any]:
    """What the pickle holds already, if it is there. Raises ValueError for one that is not of this format."""
    if not path.exists():
        return {"metainfo": {"categories": {}}, "data_list": []}
    infos = load_pickle(path)
    metainfo = infos.get("metainfo") if isinstance(infos, dict) else None
    categories = metainfo.get("categories") if isinstance(metainfo, dict) else None
    if not isinstance(categories, dict) or not isinstance(infos.get("data_list"), list):
        raise ValueError(f"{path} is there already, but is no EmbodiedScan pickle; name another folder, or move it")
    return infos


def _info(scene: Scene, numbers: list[int], categories: dict[str, int]) -> dict[str, Any]:
    """The scene's entry; labels that are new get the next numbers in `categories`, from 1."""
    for item in scene.objects:
        categories.setdefault(item.label, len(categories) + 1)
    place = {item.id: index for index, item in enumerate(scene.objects)}
    info: dict[str, Any] = {
        "sample_idx": f"scannet/{scene.id}",
        "axis_align_matrix": np.eye(4),
        "cam2img": _matrix4(one_camera(scene)),
        "images": [],
        "instances": [
            {"bbox_3d": box, "bbox_label_3d": categories[item.label], "bbox_id": item.id}
            for item, box in zip(scene.objects, scene.boxes().to_euler("ZXY").tolist(), strict=True)
        ],
    }
    if any(frame.depth is not None for frame in scene.frames):
        info["depth_cam2img"] = _matrix4(one_camera(scene, depth=True))
    for number, frame in zip(numbers, scene.frames, strict=True):
        stem = f"scannet/posed_images/{scene.id}/{number:05d}"
        image: dict[str, Any] = {"img_path": f"{stem}.jpg", "cam2global": frame.camera_to_world}
        if frame.depth is not None:
            image["depth_path"] = f"{stem}.png"
        if frame.visible is not None:
            image["visible_instance_ids"] = [place[key] for key in frame.visible if key in place]
        info["images"].append(image)
    return info


def _matrix4(intrinsics: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = intrinsics
    return matrix
