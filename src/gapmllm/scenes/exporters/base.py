"""What every exporter shares: a scene is written whole or not at all, and numbers keep their digits.

The formats of other code bases hold frames, poses and depth; which of them hold boxes, each exporter says.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.images import decode_gray16, decode_image, encode_depth, encode_gray16, encode_image
from gapmllm.scenes.records import Frame, Scene


class Exporter(ABC):
    """One family of data on disk, written."""

    format: ClassVar[str]
    """Name on the command line."""

    @abstractmethod
    def export(self, scenes: Iterable[Scene], out: Path) -> None:
        """Write scenes, one after another, under the folder `out`.

        Raises ValueError for what the format cannot hold, or if a scene is there already. The scenes before it stay,
        nothing half-written does.
        """


class FolderExporter(Exporter):
    """A format in which every scene has files of its own."""

    def export(self, scenes: Iterable[Scene], out: Path) -> None:
        """See the base class."""
        for scene in scenes:
            self.write(scene, out)

    @abstractmethod
    def write(self, scene: Scene, out: Path) -> None:
        """Write one scene."""


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to write into; it takes that name when all went well, else it is removed.

    Raises ValueError if `folder` is there already: exports never mix with older files.
    """
    if folder.exists():
        raise ValueError(f"{folder} is there already; name another folder, or delete it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner can read
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def scene_folder(scene: Scene, out: Path) -> Path:
    """out / the scene's id. Raises ValueError for an id that is no plain name, or a scene without frames."""
    if not scene.id or scene.id in (".", "..") or any(mark in scene.id for mark in "/\\:\0"):
        raise ValueError(f"scene id {scene.id!r} cannot be the name of a folder")
    if not scene.frames:
        raise ValueError(f"scene {scene.id} has no frames to export")
    return out / scene.id


def matrix_text(matrix: ArrayLike) -> str:
    """One row a line, 17 significant digits: what is read back is the same float64."""
    return "".join(" ".join(f"{value:.17g}" for value in row) + "\n" for row in np.asarray(matrix, dtype=np.float64))


def video_numbers(scene: Scene, rate: float) -> list[int] | None:
    """Number of each frame in a video of `rate` Hz that starts with the first; None where a time is not known."""
    times = [frame.time for frame in scene.frames if frame.time is not None]
    if len(times) < len(scene.frames):
        return None
    return [round((time - times[0]) * rate) for time in times]


def one_camera(scene: Scene, *, depth: bool = False) -> FloatArray:
    """(3, 3) intrinsics that all frames share, of the image or of the depth. Raises ValueError where they differ."""
    matrices = [frame.depth_camera() for frame in scene.frames if frame.depth is not None] if depth else []
    matrices = matrices or [frame.intrinsics for frame in scene.frames]
    sizes = {frame.size for frame in scene.frames}
    if len(sizes) > 1 or any(not np.array_equal(matrix, matrices[0]) for matrix in matrices):
        raise ValueError(f"scene {scene.id}: this format has one camera for all frames, these have several")
    return matrices[0]


def as_png(image: bytes) -> bytes:
    """The same pixels as PNG; bytes of a PNG are kept."""
    return image if image.startswith(b"\x89PNG") else encode_image(decode_image(image), quality=None)


def as_depth(frame: Frame, scale: float) -> bytes:
    """Depth of a frame as 16-bit PNG of `scale` units per metre; all unknown (0) for a frame without depth.

    Bytes are kept where the scale is that already. Else depths are rounded to the nearest unit (half a unit at most:
    0.5 mm at 1000, 0.1 mm at 5000), and what lies beyond 65,535 units (65.5 m, 13.1 m) becomes unknown.
    """
    if frame.depth is None:
        return encode_gray16(np.zeros(frame.size[::-1], dtype=np.uint16))
    if frame.depth_scale == scale:
        return frame.depth
    return encode_depth(decode_gray16(frame.depth) / frame.depth_scale, scale)


def _umask() -> int:
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    return mask
