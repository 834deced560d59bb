"""ScanNet's .sens streams (version 4): images, depth and poses of a scan in one file, read frame by frame.

scans/scene0000_00/scene0000_00.sens        the stream; the annotations beside it are read too, if they are there

A frame's pose is that of colour and depth alike: ScanNet's extrinsics between the two are about the identity, and its
own tools leave them out. Times are frame number / 30 s; the stream's own time stamps are mostly 0.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.images import MAX_PIXELS, ImageError, encode_gray16
from gapmllm.scenes.importers.base import Importer, load_frame, usable
from gapmllm.scenes.importers.folders import by_name, check_name, subfolders
from gapmllm.scenes.importers.scannet_annotations import read_annotations
from gapmllm.scenes.importers.scannet_files import RAW_RATE, aligned
from gapmllm.scenes.importers.scanrefer import with_language
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame, Scene

MAX_BLOB = 64 * 2**20
"""Largest encoded image or depth map of one frame, bytes."""
_COLORS = {-1: "unknown", 0: "raw", 1: "png", 2: "jpeg"}
_DEPTHS = {-1: "unknown", 0: "raw_ushort", 1: "zlib_ushort", 2: "occi_ushort"}
_FRAME = struct.Struct("<16f4Q")  # camera_to_world, two time stamps, bytes of colour and of depth


@dataclass(frozen=True, eq=False)
class SensHeader:
    """What a .sens file says before its frames."""

    color_intrinsics: FloatArray
    """(3, 3), pixels of the colour images."""
    depth_intrinsics: FloatArray
    """(3, 3), pixels of the depth images."""
    depth_compression: str
    depth_size: tuple[int, int]
    """(width, height)"""
    depth_shift: float
    """Stored units per metre."""
    frames: int
    """How many frames the file claims to hold."""


@dataclass(frozen=True, eq=False)
class SensEntry:
    """Where one frame lies in the file."""

    number: int
    """Frame number, from 0."""
    pose: FloatArray
    """(4, 4) camera_to_world in the scan's own world; not finite where tracking was lost."""
    offset: int
    color_bytes: int
    depth_bytes: int


class ScanNetSens(Importer):
    """A .sens file, a folder of them, or a folder of scans (`scans/`)."""

    format: ClassVar[str] = "scannet-sens"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return bool(_streams(root))

    def scene_ids(self) -> list[str]:
        streams = _streams(self.root)
        if not streams:
            raise ValueError(f"{self.root}: no .sens file in it, nor in its folders")
        return list(streams)

    def load(self, scene_id: str, problems: Problems) -> Scene | None:
        path = _streams(self.root)[scene_id]
        try:
            check_name(path.stem)
        except ValueError as error:
            problems.add("bad scene", path, f"{error}; the scene is dropped")
            return None
        annotations = read_annotations(path.parent, scene_id, problems)
        try:
            with path.open("rb") as stream:
                header = read_header(stream, path)
                entries = list(index_frames(stream, header, path, problems))
                chosen = (entries[index] for index in self.options.chosen(len(entries)))
                loaded = [_load(stream, header, entry, annotations.alignment, problems) for entry in chosen]
        except (OSError, ValueError) as error:
            problems.add("unreadable", path, error)
            return None
        frames = usable(problems, loaded)
        if not frames:
            return None
        scene = Scene(
            id=scene_id, frames=frames, objects=annotations.objects, split=self.options.split, source=self.format
        )
        return with_language(scene, self.root, self.options, annotations.vertices, problems)


def _streams(root: Path) -> dict[str, Path]:
    """Scan -> its .sens file, by name."""
    if root.is_file():
        return {root.stem: root} if root.suffix == ".sens" else {}
    paths = [path for folder in (root, *subfolders(root)) for path in folder.glob("*.sens")] if root.is_dir() else []
    return by_name((path.stem, path) for path in sorted(paths))


def read_header(stream: BinaryIO, path: Path) -> SensHeader:
    """The header; the stream then stands at the first frame. Raises ValueError for what cannot be used."""

    def take(layout: str) -> tuple[float, ...]:
        data = stream.read(struct.calcsize(layout))
        if len(data) < struct.calcsize(layout):
            raise ValueError(f"{path}: ends inside its header (a download cut short?)")
        return struct.unpack(layout, data)

    version, name = take("<IQ")
    if version != 4 or name > 4096:
        raise ValueError(f"{path}: no .sens file of version 4 (version {version}, a sensor name of {name} bytes)")
    take(f"<{name}s")
    color, _, depth, _ = np.array(take("<64f")).reshape(4, 4, 4)  # of each camera the intrinsics, then the extrinsics
    color_code, depth_code, *sizes = (int(value) for value in take("<2i4I"))
    (shift, frames) = take("<fQ")
    if color_code not in (1, 2):
        found = _COLORS.get(color_code, color_code)
        raise ValueError(f"{path}: colour is stored as {found}; only png and jpeg are read. Convert the stream first")
    if depth_code not in (0, 1):
        found = _DEPTHS.get(depth_code, depth_code)
        raise ValueError(f"{path}: depth is stored as {found}; only raw_ushort and zlib_ushort are read")
    if not all(0 < width * height <= MAX_PIXELS for width, height in (sizes[:2], sizes[2:])):
        found = f"images of {sizes[0]}x{sizes[1]} and depth of {sizes[2]}x{sizes[3]}"
        raise ValueError(f"{path}: {found} cannot be; 1 to {MAX_PIXELS} pixels were expected")
    size = (sizes[2], sizes[3])
    return SensHeader(color[:3, :3], depth[:3, :3], _DEPTHS[depth_code], size, shift, int(frames))


def index_frames(stream: BinaryIO, header: SensHeader, path: Path, problems: Problems) -> Iterator[SensEntry]:
    """Where the complete frames lie, skipping over their images. A file cut short or damaged is reported where it ends:
    what comes after cannot be found.
    """
    end = os.fstat(stream.fileno()).st_size
    for number in range(header.frames):
        data = stream.read(_FRAME.size)
        offset, left = stream.tell(), header.frames - number
        if len(data) == _FRAME.size:
            *numbers, color, depth = _FRAME.unpack(data)
            if max(color, depth) > MAX_BLOB:
                claim = f"which claims {color} bytes of colour and {depth} of depth"
                problems.add(
                    "damaged", path, f"damaged from frame {number}, {claim}; {left} of {header.frames} frames are lost"
                )
                return
        if len(data) < _FRAME.size or offset + color + depth > end:
            problems.add("truncated", path, f"ends inside frame {number}; {left} of {header.frames} frames are missing")
            return
        yield SensEntry(number, np.array(numbers[:16]).reshape(4, 4), offset, color, depth)
        stream.seek(offset + color + depth)


def _load(
    stream: BinaryIO, header: SensHeader, entry: SensEntry, alignment: FloatArray, problems: Problems
) -> Frame | None:
    stream.seek(entry.offset)
    color, depth = stream.read(entry.color_bytes), stream.read(entry.depth_bytes)
    return load_frame(
        problems,
        color,
        aligned(alignment, entry.pose),
        name=f"{entry.number:05d}",
        depth=depth or None,
        reread_depth=partial(depth_png, header),
        intrinsics=header.color_intrinsics,
        depth_scale=header.depth_shift,
        depth_intrinsics=header.depth_intrinsics,
        time=entry.number / RAW_RATE,
    )


def depth_png(header: SensHeader, data: bytes) -> bytes:
    """A stored depth map as 16-bit PNG. Raises ImageError if it has not exactly the header's size."""
    width, height = header.depth_size
    needed = 2 * width * height
    if header.depth_compression == "zlib_ushort":
        try:
            data = zlib.decompressobj().decompress(data, needed + 1)
        except zlib.error as error:
            raise ImageError(f"depth is damaged: {error}") from error
    if len(data) != needed:
        raise ImageError(f"depth has {len(data)} bytes, {needed} were expected for {width}x{height}")
    return encode_gray16(np.frombuffer(data, dtype="<u2").reshape(height, width))
