"""Microsoft 7-Scenes: hand-held Kinect, poses from KinectFusion (Shotton et al. 2013).

    <scene>/seq-01/frame-000012.{color.png,depth.png,pose.txt}
    <scene>/TrainSplit.txt, TestSplit.txt      lines "sequence1": which sequences are which

A sequence is one scene of ours, called "<scene>_seq-01". Depth is in millimetres, 65535 and 0 are unknown. The numbers
count the frames of a 30 Hz video: time is number / 30 seconds.

The pose is that of the depth camera, and colour is NOT registered to depth: the two cameras have their own intrinsics
(depth 585, 585, 320, 240; colour about 525, 525, 320, 240) and stand about 2.5 cm apart, which the data set does not
tell. Both intrinsics are kept; the offset is not corrected, so colour is off by a few pixels at close range.
Files K.txt (colour) and K_depth.txt (depth), 3x3, beside the sequences take the place of these numbers: our exporter
writes them, since a rendered room has other cameras than the Kinect. The same numbers in both: depth is registered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.images import decode_gray16, encode_gray16
from gapmllm.scenes.importers.base import load_frame, pinhole, read_matrix, read_text
from gapmllm.scenes.importers.folders import FolderImporter, by_number, own_camera, subfolders
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame

SIZE = (640, 480)
COLOR = (525.0, 525.0, 320.0, 240.0)
DEPTH = (585.0, 585.0, 320.0, 240.0)
UNKNOWN = 65_535
FRAME_RATE = 30.0
_FILES = r"frame-(?P<number>[0-9]+)\.(?P<kind>color(?=\.png)|depth(?=\.png)|pose(?=\.txt))\.\w+"


class SevenScenes(FolderImporter):
    """See the module."""

    format = "7scenes"
    layout = "folders seq-01, seq-02, … with frame-000000.color.png, .depth.png and .pose.txt"

    @classmethod
    def parts(cls, folder: Path) -> Iterator[tuple[str, bool]]:
        if re.fullmatch(r"seq-[0-9]+", folder.name):
            yield "name seq-01", True  # an empty sequence is a lost one
            for kind in ("color.png", "pose.txt"):
                yield f"frame-000000.{kind}", any(folder.glob(f"frame-*.{kind}"))

    @classmethod
    def places(cls, root: Path) -> Iterator[tuple[str, Path]]:
        for scene in [root, *subfolders(root)]:
            yield from ((f"{scene.resolve().name}_{folder.name}", folder) for folder in subfolders(scene))

    def split(self, folder: Path, problems: Problems) -> str:
        number = int(folder.name.removeprefix("seq-"))
        for name, split in (("TrainSplit.txt", "train"), ("TestSplit.txt", "test")):
            path = folder.parent / name
            try:
                if path.is_file() and number in map(int, re.findall(r"[0-9]+", read_text(path))):
                    return split
            except (OSError, ValueError) as error:
                problems.add("no split", path, f"{error}; what it says of the split is not known")
        return self.options.split

    def frames(self, folder: Path, problems: Problems) -> list[Frame | None]:
        own = own_camera(folder.parent)
        color = pinhole(*COLOR) if own is None else own
        depth = _depth_camera(folder.parent, problems)
        files = by_number(folder, _FILES, problems)
        names = [list(files)[index] for index in self.options.chosen(len(files))]
        return [
            load_frame(
                problems,
                folder / f"frame-{name}.color.png",
                partial(read_matrix, folder / f"frame-{name}.pose.txt", 4, 4),
                name=f"frame-{name}",
                depth=None if depth is None else folder / f"frame-{name}.depth.png",
                reread_depth=without_mark,
                size=SIZE if own is None else None,
                intrinsics=color,
                depth_intrinsics=None if depth is None or np.array_equal(color, depth) else depth,
                time=int(name) / FRAME_RATE,
            )
            for name in names
        ]


def _depth_camera(folder: Path, problems: Problems) -> FloatArray | None:
    """(3, 3) intrinsics of depth; None, reported, where their file cannot be read."""
    try:
        own = own_camera(folder, "K_depth.txt")
        return pinhole(*DEPTH) if own is None else own
    except (OSError, ValueError) as error:
        problems.add("no depth camera", folder / "K_depth.txt", f"{error}; the frames stay, without depth")
        return None


def without_mark(data: bytes) -> bytes:
    """16-bit depth image with 65535 = unknown -> PNG with 0 = unknown; bytes without that mark are kept."""
    values = decode_gray16(data)
    return (
        encode_gray16(np.where(values == UNKNOWN, 0, values).astype(np.uint16)) if (values == UNKNOWN).any() else data
    )
