"""ScanNet scans exported to folders of images, in the two layouts in use.

ScanNetExport     scene0000_00/color/0.jpg  depth/0.png  pose/0.txt  intrinsic/intrinsic_color.txt, intrinsic_depth.txt
PosedImages       posed_images/scene0000_00/00000.jpg  00000.png  00000.txt  intrinsic.txt  depth_intrinsic.txt

The first is what ScanNet's own reader writes; the second is shared by EmbodiedScan, Video-3D-LLM, VG-LLM, GAP-MLLM and
(without depth) mmdetection3d. Depth is in millimetres with a camera of its own. The root is one scan or a folder of
scans, for PosedImages also the folder that holds `posed_images`. Annotations: `scannet_annotations.read_annotations`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from gapmllm.scenes.importers.scannet_files import numbered
from gapmllm.scenes.importers.scannet_scan import ScanFiles, ScanFolders


class ScanNetExport(ScanFolders):
    """The folders that ScanNet's own reader writes. File numbers are the camera's frame numbers."""

    format: ClassVar[str] = "scannet-export"

    @classmethod
    def scans(cls, root: Path) -> dict[str, Path]:
        return {
            folder.resolve().name: folder
            for folder in [root, *sorted(root.glob("*/"))]
            if (folder / "intrinsic" / "intrinsic_color.txt").is_file() and (folder / "color").is_dir()
        }

    @classmethod
    def files(cls, folder: Path) -> ScanFiles:
        images, depths, poses = (folder / name for name in ("color", "depth", "pose"))
        return ScanFiles(
            numbered(images),
            numbered(depths) if depths.is_dir() else {},
            numbered(poses, (".txt",)) if poses.is_dir() else {},
            depths,
            folder / "intrinsic" / "intrinsic_color.txt",
            folder / "intrinsic" / "intrinsic_depth.txt",
        )


class PosedImages(ScanFolders):
    """The flat layout. A folder with information pickles beside it is left to the importers that read those."""

    format: ClassVar[str] = "posed-images"

    @classmethod
    def scans(cls, root: Path) -> dict[str, Path]:
        if any(root.glob("*scan*_infos*.pkl")):
            return {}
        inside = root / "posed_images"
        folders = sorted(inside.glob("*/")) if inside.is_dir() else [root, *sorted(root.glob("*/"))]
        return {folder.resolve().name: folder for folder in folders if _is_posed(folder)}

    @classmethod
    def files(cls, folder: Path) -> ScanFiles:
        images = numbered(folder, (".jpg", ".jpeg"))
        depths, poses = numbered(folder, (".png",)), numbered(folder, (".txt",))
        return ScanFiles(images, depths, poses, folder, folder / "intrinsic.txt", folder / "depth_intrinsic.txt")


def _is_posed(folder: Path) -> bool:
    if not (folder / "intrinsic.txt").is_file():
        return False
    with os.scandir(folder) as entries:  # stops at the first one: folders hold thousands
        paths = (Path(entry.path) for entry in entries if entry.name.endswith(".jpg"))
        return any(path.stem.isdigit() and path.with_suffix(".txt").is_file() for path in paths)
