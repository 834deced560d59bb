"""What a user brings to be looked at: a video, a folder, pictures. Read into frames of one size, upright, in order.

read_footage("kitchen.mp4", num_frames=8)        frames of a video
read_footage("scans/scene0000_00")               a recording in a known format: with cameras and depth
read_footage("holiday/")                         a folder of pictures, and K.txt if it is there
read_footage([picture, picture])                 arrays, PIL images or files
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.choosing import MAX_FRAMES, Choice, chosen, thumbnail
from gapmllm.scenes.importers import importers
from gapmllm.scenes.importers.base import Importer, ImportOptions, pinhole, read_text
from gapmllm.scenes.importers.entries import UNUSABLE
from gapmllm.scenes.pictures import SUFFIXES, Picture, is_picture, read_picture
from gapmllm.scenes.problems import Problems, storable
from gapmllm.scenes.records import Frame
from gapmllm.scenes.video import Cut, read_video

T = TypeVar("T")
_Thing = Path | Image.Image | NDArray[Any]

DEFAULT_FRAMES = 4
"""Of a video or a folder; what models are trained with."""
_CANDIDATES = 4  # for each frame that is wanted: among so many pictures is chosen by coverage
_CAMERA_FILES = ("K.txt", "intrinsic.txt", "intrinsics.txt")
_VIDEOS = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".ts", ".wmv", ".flv"})
_SHOWN = 5  # names in a message


@dataclass(frozen=True, kw_only=True, eq=False)
class Footage:
    """Frames to look at, and what is known about their cameras."""

    images: tuple[NDArray[np.uint8], ...]
    """(H, W, 3) RGB each, all of one size, in order of time; upright, but of a recording as its camera saw them."""
    names: tuple[str, ...]
    """File name, or "clip.mp4 1.20 s"."""
    times: tuple[float | None, ...]
    """Seconds: of a video from its beginning, of a recording from its first frame here."""
    intrinsics: FloatArray | None = None
    """(S, 3, 3) pixels of the images; None: not known."""
    camera_to_world: FloatArray | None = None
    """(S, 4, 4) metres; None: not known."""
    z_up: bool = False
    """Whether that world has z up."""
    recorded: tuple[Frame, ...] | None = None
    """The recording's own frames, where its format is known: they have its depth."""
    source: str
    """Name for messages and pages; no absolute path."""
    notes: tuple[str, ...] = ()
    """What users must know: "the video ends after 3.2 of 9.9 s", …"""
    intrinsics_from: Literal["given", "folder"] | None = None

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.names) == len(self.times) > 0
        for image, name in zip(self.images, self.names, strict=True):
            if image.shape != self.images[0].shape:
                raise ValueError(
                    f"{self.source}: frames must have one size, but {self.names[0]} has {_size(self.images[0])} pixels "
                    f"and {name} {_size(image)}; scale or cut them, or look at them one by one"
                )


def read_footage(
    source: str | Path | Image.Image | NDArray[Any] | Sequence[str | Path | Image.Image | NDArray[Any]],
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    start: float = 0,
    end: float | None = None,
    choose: Choice = "even",
    intrinsics: ArrayLike | None = None,
) -> Footage:
    """Frames from a video file, a folder, a picture, or several pictures (files, PIL images, uint8 or uint16 arrays).

    num_frames: of a video or folder DEFAULT_FRAMES, of pictures that are named one by one all, unless it is given.
    fps, start, end: of a video, see `Cut`; with fps alone all frames that it gives. choose: "even", or "coverage" for
    those that differ most. intrinsics: (3, 3) or (S, 3, 3) of the upright images, instead of the folder's own. A
    scene in a data set of several is named folder/scene. Raises ValueError or OSError that name the file.
    """
    cut = Cut(num_frames=num_frames, fps=fps, start=start, end=end, choose=choose)
    if source is None or (isinstance(source, str) and not source.strip()):
        raise ValueError(f"nothing to look at: {source!r}; name a video, a folder, or pictures")
    alone = isinstance(source, str | Path | Image.Image) or (isinstance(source, np.ndarray) and source.ndim < 4)
    things: list[Any] = [source] if alone else list(source)  # type: ignore[arg-type]
    if not things:
        raise ValueError("no pictures given; name a video, a folder, or pictures")
    if len(things) == 1 and isinstance(things[0], str | Path):
        footage = _from_path(Path(things[0]), cut)
    else:
        footage = _pictures([_named(index, thing) for index, thing in enumerate(things)], cut)
    if intrinsics is None:
        return footage
    return replace(footage, intrinsics=_cameras(intrinsics, footage.images, "intrinsics"), intrinsics_from="given")


def _from_path(path: Path, cut: Cut) -> Footage:
    if path.is_dir():
        return _folder(path, cut)
    if not path.exists():
        return _recording(*_scene_in_folder(path), cut)
    if not path.is_file():
        raise ValueError(f"{path}: a video, a picture or a folder is needed, this is a pipe or a device")
    if is_picture(path):
        return _pictures([_named(0, path)], cut)
    kind = None if path.suffix.lower() in _VIDEOS else _importer(path)  # imports much
    return _video(path, cut) if kind is None else _recording(kind, path, None, cut)


def _video(path: Path, cut: Cut) -> Footage:
    if cut.num_frames is None and cut.fps is None:
        cut = replace(cut, num_frames=DEFAULT_FRAMES)
    frames = read_video(path, cut)
    name = storable(path.name)
    names = tuple(f"{name} {time:.2f} s" for time in frames.times)
    return Footage(images=frames.images, names=names, times=frames.times, source=name, notes=frames.notes)


def _pictures(pictures: Sequence[tuple[str, _Thing]], cut: Cut, source: str = "", notes: Sequence[str] = ()) -> Footage:
    """Pictures with their names. source: "" names it after them."""
    _refuse_times(cut)
    wanted = cut.num_frames or len(pictures)
    if wanted > MAX_FRAMES:
        raise ValueError(f"{len(pictures)} pictures, at most {MAX_FRAMES} are looked at; give num_frames")
    picked = _picked(pictures, wanted, cut.choose, lambda picture: _read(*picture).pixels)
    read = [_read(*picture) for picture in picked]
    names = tuple(name for name, _ in picked)
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return Footage(
        images=tuple(picture.pixels for picture in read),
        names=names,
        times=(None,) * len(names),
        source=source or names[0] + others,
        notes=tuple(dict.fromkeys((*notes, *(note for picture in read for note in picture.notes)))),
    )


def _folder(path: Path, cut: Cut) -> Footage:
    if (path / "manifest.json").is_file() and any((path / "data").glob("*.parquet")):
        raise ValueError(f"{path} is a data set that `gapmllm data` made: `gapmllm eval MODEL {path}` reads it")
    kind = _importer(path)
    if kind is not None:
        return _recording(kind, path, None, cut)
    files = sorted((file for file in path.iterdir() if not file.name.startswith(".")), key=_natural)
    named = [file for file in files if file.suffix.lower() in SUFFIXES]
    pictures = [file for file in named if "depth" not in file.name.lower()]
    if not pictures:
        raise ValueError(_why_no_pictures(path, files))
    notes = [f"not read as a recording: {missing}" for missing in _nearly(path)]
    if len(pictures) < len(named):
        notes.append(f"left out as depth, by their names: {len(named) - len(pictures)} files")
    cut = replace(cut, num_frames=cut.num_frames or DEFAULT_FRAMES)
    footage = _pictures([_named(0, file) for file in pictures], cut, storable(path.resolve().name), notes)
    camera = next((path / name for name in _CAMERA_FILES if (path / name).is_file()), None)
    if camera is None:
        return footage
    return replace(
        footage, intrinsics=_cameras(_camera_file(camera), footage.images, camera.name), intrinsics_from="folder"
    )


def _recording(kind: type[Importer], root: Path, scene: str | None, cut: Cut) -> Footage:
    """Frames of one scene of a known format. scene: None takes the only one."""
    _refuse_times(cut)
    wanted = cut.num_frames or DEFAULT_FRAMES
    most = wanted if cut.choose == "even" else wanted * _CANDIDATES
    importer = kind(root, ImportOptions(max_frames=most) if kind.chooses_frames else ImportOptions())
    try:
        scenes = importer.scene_ids() if scene is None else [scene]
        if len(scenes) != 1:
            raise ValueError(f"it holds {len(scenes)} scenes ({_listed(scenes)}): name one, as {root}/SCENE")
        name = scenes[0]
        problems = Problems(name)
        loaded = importer.load(name, problems)
    except UNUSABLE as error:
        raise ValueError(f"{root}, read as {kind.format}: {error}") from error
    notes = [f"{problem.file}: {problem.message}" for problem in problems.found]
    if len(notes) > _SHOWN:
        notes[_SHOWN:] = [f"and {len(notes) - _SHOWN} more problems of the recording"]
    if loaded is None:
        hint = "to look at its pictures alone, name them one by one"
        raise ValueError(f"{root}, read as {kind.format}: no frame can be used: {notes[0]}; {hint}")
    frames = _picked(loaded.frames, wanted, cut.choose, Frame.pixels)
    since = frames[0].time
    return Footage(
        images=tuple(frame.pixels() for frame in frames),
        names=tuple(frame.name for frame in frames),
        times=tuple(None if frame.time is None or since is None else frame.time - since for frame in frames),
        intrinsics=np.stack([frame.intrinsics for frame in frames]),
        camera_to_world=np.stack([frame.camera_to_world for frame in frames]),
        z_up=True,
        recorded=tuple(frames),
        source=name,
        notes=tuple(notes),
        intrinsics_from="folder",
    )


def _picked(things: Sequence[T], wanted: int, choose: Choice, pixels: Callable[[T], NDArray[np.uint8]]) -> list[T]:
    """The things that are wanted; only coverage looks at the pictures, and at so many candidates."""
    if choose == "even":
        return [things[index] for index in chosen(len(things), wanted)]
    candidates = [things[index] for index in chosen(len(things), wanted * _CANDIDATES)]
    features = [thumbnail(pixels(thing)) for thing in candidates]
    return [candidates[index] for index in chosen(len(candidates), wanted, features)]


def _named(index: int, thing: str | Path | Image.Image | NDArray[Any]) -> tuple[str, _Thing]:
    """A picture and what to call it."""
    if isinstance(thing, str | Path):
        return storable(Path(thing).name), Path(thing)
    return f"picture {index}", thing if isinstance(thing, Image.Image) else np.asarray(thing)


def _read(name: str, thing: _Thing) -> Picture:
    try:
        return read_picture(thing)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _refuse_times(cut: Cut) -> None:
    if cut.fps is not None or cut.start or cut.end is not None:
        raise ValueError("fps, start and end are for videos; of pictures num_frames and choose take some")


def _importer(path: Path) -> type[Importer] | None:
    """The format of a recording; None for what is no recording. Raises ValueError where there are several."""
    found = [kind for kind in importers().values() if kind.recognises(path)]
    if len(found) > 1:
        formats = " and ".join(kind.format for kind in found)
        raise ValueError(f"{path} holds recordings of several formats ({formats}): name one of the folders in it")
    return found[0] if found else None


def _scene_in_folder(path: Path) -> tuple[type[Importer], Path, str]:
    """(format, folder, scene) of a path that is no file: the rest of it names a scene. Raises ValueError."""
    for root in [parent for parent in path.parents if parent.is_dir()][:2]:  # ids have two parts at most
        scene = path.relative_to(root).as_posix()
        with contextlib.suppress(*UNUSABLE):
            kind = _importer(root)
            if kind is not None and scene in kind(root).scene_ids():
                return kind, root, scene
    raise ValueError(f"{path}: there is no such file or folder")


def _why_no_pictures(path: Path, files: Sequence[Path]) -> str:
    if not files:
        return f"{path}: the folder is empty"
    videos = [file.name for file in files if file.suffix.lower() in _VIDEOS]
    if videos:
        return f"{path}: a folder of videos ({_listed(videos)}): name one of them"
    why = "; ".join(["no pictures in it, and no recording in a known format", *_nearly(path)])
    return f"{path}: {why}; it holds {_listed([file.name for file in files])}"


def _nearly(path: Path) -> list[str]:
    """What a folder lacks to be a recording, for each format of which it has parts."""
    return [f"{kind.format}, but {why}" for kind in importers().values() if (why := kind.nearly(path))]


def _natural(path: Path) -> list[str | int]:
    """Sorts picture2 before picture10."""
    parts = re.split("([0-9]+)", path.name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:_SHOWN], f"… ({len(names)} in all)"] if len(names) > _SHOWN else names)


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _camera_file(path: Path) -> FloatArray:
    """(3, 3) from a text file of 3x3 or 4x4 numbers, or of fx fy cx cy."""
    try:
        values = np.array([float(word) for word in read_text(path).split()])
    except ValueError as error:
        raise ValueError(f"{path.name}: numbers were expected: {error}") from error
    if values.size == 4:
        return pinhole(*values)
    if values.size not in (9, 16):
        raise ValueError(f"{path.name}: 3x3 or 4x4 numbers, or fx fy cx cy were expected, got {values.size} numbers")
    side = 3 if values.size == 9 else 4
    return values.reshape(side, side)[:3, :3]


def _cameras(values: ArrayLike, images: Sequence[NDArray[np.uint8]], what: str) -> FloatArray:
    """(3, 3) or (S, 3, 3) -> (S, 3, 3) that fit the images. what: name for messages."""
    matrices = np.asarray(values, dtype=np.float64)
    count = len(images)
    if matrices.shape not in ((3, 3), (count, 3, 3)):
        raise ValueError(f"{what}: (3, 3) or ({count}, 3, 3) was expected, got shape {matrices.shape}")
    height, width, _ = images[0].shape
    for matrix in np.broadcast_to(matrices, (count, 3, 3)):
        try:  # the same rules as for recordings
            Frame(image=b"", intrinsics=matrix, camera_to_world=np.eye(4))
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error
        x, y = matrix[:2, 2]
        if not (0 < x < width and 0 < y < height):
            raise ValueError(
                f"{what}: the principal point ({x:g}, {y:g}) is outside {_size(images[0])} pixels: it belongs to "
                "another image size, or the pictures are turned"
            )
    return np.array(np.broadcast_to(matrices, (count, 3, 3)))
