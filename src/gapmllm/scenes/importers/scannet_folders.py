"""ScanNet scans exported to folders of images, in the two layouts in use.

ScanNetExport     scene0000_00/color/0.jpg  depth/0.png  pose/0.txt  intrinsic/intrinsic_color.txt, intrinsic_depth.txt
PosedImages       posed_images/scene0000_00/00000.jpg  00000.png  00000.txt  intrinsic.txt  depth_intrinsic.txt

The first is what ScanNet's own reader writes; the second is shared by EmbodiedScan, Video-3D-LLM, VG-LLM, GAP-MLLM and
(without depth) mmdetection3d. Depth is in millimetres with a camera of its own. The root is one scan or a folder of
scans, for PosedImages also the folder that holds `posed_images`. Annotations: `scannet_annotations.read_annotations`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from gapmllm.scenes.importers.folders import subfolders
from gapmllm.scenes.importers.scannet_files import is_number, numbered
from gapmllm.scenes.importers.scannet_scan import ScanFiles, ScanFolders
from gapmllm.scenes.problems import Problems

_PICTURES = (".jpg", ".jpeg")  # of the flat layout, where .png is depth


class ScanNetExport(ScanFolders):
    """The folders that ScanNet's own reader writes. File numbers are the camera's frame numbers."""

    format: ClassVar[str] = "scannet-export"

    @classmethod
    def places(cls, root: Path) -> list[Path]:
        return [root, *subfolders(root)]

    @classmethod
    def is_scan(cls, folder: Path) -> bool:
        return (folder / "color").is_dir() and ((folder / "pose").is_dir() or (folder / "intrinsic").is_dir())

    @classmethod
    def is_part(cls, folder: Path) -> bool:
        return any((folder / name).is_dir() for name in ("color", "pose", "intrinsic"))

    @classmethod
    def files(cls, folder: Path, problems: Problems) -> ScanFiles:
        images, depths, poses = (folder / name for name in ("color", "depth", "pose"))
        return ScanFiles(
            numbered(images, problems),
            numbered(depths, problems),
            numbered(poses, problems, (".txt",)),
            depths,
            cls.camera(folder),
            folder / "intrinsic" / "intrinsic_depth.txt",
        )

    @classmethod
    def camera(cls, folder: Path) -> Path:
        return folder / "intrinsic" / "intrinsic_color.txt"


class PosedImages(ScanFolders):
    """The flat layout. A folder with information pickles beside it is left to the importers that read those."""

    format: ClassVar[str] = "posed-images"

    @classmethod
    def places(cls, root: Path) -> list[Path]:
        if any(root.glob("*scan*_infos*.pkl")):
            return []
        inside = root / "posed_images"
        return subfolders(inside) if inside.is_dir() else [root, *subfolders(root)]

    @classmethod
    def is_scan(cls, folder: Path) -> bool:
        return any(path.with_suffix(".txt").is_file() for path in _numbered_files(folder, _PICTURES))

    @classmethod
    def is_part(cls, folder: Path) -> bool:
        return cls.camera(folder).is_file() or any(_numbered_files(folder, (*_PICTURES, ".txt")))

    @classmethod
    def files(cls, folder: Path, problems: Problems) -> ScanFiles:
        images = numbered(folder, problems, _PICTURES)
        depths, poses = numbered(folder, problems, (".png",)), numbered(folder, problems, (".txt",))
        return ScanFiles(images, depths, poses, folder, cls.camera(folder), folder / "depth_intrinsic.txt")

    @classmethod
    def camera(cls, folder: Path) -> Path:
        return folder / "intrinsic.txt"


def _numbered_files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files named by a number, in no order, one by one: folders hold thousands, and the first often says it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if path.suffix.lower() in suffixes and is_number(path.stem):
                yield path
