"""A plain folder of posed RGB-D frames: the layout to bring one's own recording in.

    00012.jpg (or .png)   the picture
    00012.depth.png       optional; 16-bit grey, millimetres along z, 0 = unknown, registered to the picture
    00012.pose.txt        camera_to_world, 4x4, OpenCV camera axes, metres
    K.txt                 3x3 intrinsics of all pictures

Frames come in the order of their numbers. The numbers are no clock, so frames have no time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gapmllm.scenes.importers.base import load_frame, read_matrix
from gapmllm.scenes.importers.folders import FolderImporter, by_number
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame

_PICTURE = r"[0-9]+\.(?:jpe?g|png)"
_FILES = r"(?P<number>[0-9]+)(?P<kind>|\.depth|\.pose)(?:(?<=[0-9])\.(?:jpe?g|png)|(?<=depth)\.png|(?<=pose)\.txt)"


class RgbdFolder(FolderImporter):
    """See the module."""

    format = "rgbd"
    layout = "K.txt, 00000.jpg (or .png), 00000.pose.txt and, where there is depth, 00000.depth.png"
    common = ("K.txt",)  # our exporters of TUM RGB-D and 7-Scenes write one

    @classmethod
    def parts(cls, folder: Path) -> Iterator[tuple[str, bool]]:
        camera = (folder / "K.txt").is_file()
        yield "K.txt", camera
        posed = any(folder.glob("[0-9]*.pose.txt"))
        yield "00000.pose.txt", posed
        if camera or posed:  # numbered pictures alone could be anything
            yield "00000.jpg (or .png)", any(re.fullmatch(_PICTURE, path.name) for path in folder.glob("[0-9]*.*g"))

    def frames(self, folder: Path, problems: Problems) -> list[Frame | None]:
        intrinsics = read_matrix(folder / "K.txt", 3, 3)
        files = by_number(folder, _FILES, problems)
        names = [list(files)[index] for index in self.options.chosen(len(files))]
        return [
            load_frame(
                problems,
                files[name].get("", folder / f"{name}.jpg"),
                partial(read_matrix, folder / f"{name}.pose.txt", 4, 4),
                name=name,
                depth=folder / f"{name}.depth.png",
                intrinsics=intrinsics,
            )
            for name in names
        ]
