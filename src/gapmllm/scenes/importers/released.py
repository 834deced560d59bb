"""The published annotations of VG-LLM and GAP-MLLM: JSON lists of conversations about frames of ScanNet scans.

train/scannet_det_train_4frames.json, …     records, see `released_records.py`
media/scannet/posed_images/<scan>/00350.jpg   the images, by paths relative to `media`

The root is the JSON file (or a folder that holds just one such file); the images are in the nearest folder `media`
above it that has the folder of the first one, else beside the file. Or the root is the folder of images and
ImportOptions.annotations the file. A scene is what the records of one image folder tell of, and has its name. A record
becomes a clip with one question, its texts as they are.

Cameras come from the record (cam2img, cam2global, axis_align_matrix), else from the files beside the images
(intrinsic.txt, %05d.txt, and <scan>.txt as `scannet_annotations.read_alignment` finds it); a record without is reported
and left out. Depth (%05d.png, depth_intrinsic.txt) is taken where it lies beside the image. Objects of different
records are the same if their labels are and their boxes agree to 1 cm. A file of gigabytes is walked through once, then
read scene by scene.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from gapmllm.geometry import check_pose
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.images import image_size
from gapmllm.scenes.importers.base import Importer, load_frame, read_bytes, safe_path, usable
from gapmllm.scenes.importers.entries import UNUSABLE, text_of
from gapmllm.scenes.importers.json_records import Span, parse_record, read_records, walk_records
from gapmllm.scenes.importers.released_records import BoxedObject, Content, Record, read_content
from gapmllm.scenes.importers.scannet_annotations import read_alignment
from gapmllm.scenes.importers.scannet_files import (
    RAW_RATE,
    are_raw_numbers,
    depth_camera,
    is_number,
    read_camera,
    read_pose,
)
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Clip, Frame, Question, Scene, SceneObject

_NO_SCENE = "records-without-images"
_SAME_PIXEL = 1.0  # pixels: intrinsics are rounded in some files
_SAME = 0.01  # metres: annotations of the same object in different cameras differ by rounding only


class ReleasedRecords(Importer):
    """A JSON list of conversations, and the images that it speaks of."""

    format: ClassVar[str] = "released"
    chooses_frames: ClassVar[bool] = False

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return bool(_files(root))

    def scene_ids(self) -> list[str]:
        if self.options.every != 1 or self.options.max_frames is not None:  # better than not doing what was asked
            raise ValueError("every and max_frames do not apply to released records: each record names its frames")
        return list(_index(self._file()))

    def load(self, scene_id: str, problems: Problems) -> Scene | None:
        path, records, cameras = self._file(), [], _Cameras(self._media(), problems)
        for span, data in read_records(path, _index(path)[scene_id]):
            name = f"record {span.number}"
            try:
                records.append((span, _record(name, parse_record(data), cameras)))
            except UNUSABLE as error:
                problems.add("unusable record", name, f"{type(error).__name__}: {error}; left out")
        frames = usable(problems, cameras.load())
        if not frames:
            return None
        clips, objects = _clips(records, frames, problems)
        return Scene(
            id=scene_id, frames=frames, objects=objects, clips=clips, split=self.options.split, source=self.format
        )

    def _file(self) -> Path:
        if self.options.annotations is not None:
            return self.options.annotations
        found = _files(self.root)
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise ValueError(f"{self.root}: one JSON file of conversations was expected, found {names}; name the file")
        return found[0]

    def _media(self) -> Path:
        if self.options.annotations is not None and self.root.is_dir():
            return self.root
        file = self._file()
        first = next((_first_image(values) for _, values in walk_records(file)), "")
        above = [folder / "media" for folder in list(file.parents)[:4]]
        return next((folder for folder in above if _holds(folder, first)), file.parent)


class _Cameras:
    """The distinct images of a scene's records, each with its camera and the record that gave it first."""

    def __init__(self, media: Path, problems: Problems) -> None:
        self._media, self._problems = media, problems
        self._found: dict[str, tuple[FloatArray, FloatArray, str]] = {}
        self._alignments: dict[Path, tuple[FloatArray, bool]] = {}

    def add(self, name: str, values: dict[str, Any]) -> tuple[list[FloatArray], bool]:
        """Poses (4, 4) of a record's images, and whether they are in the aligned world.

        Raises if an image has no usable camera, or another one than before; then none of the record's images is kept.
        """
        images = values["images"]
        paths = [safe_path(self._media, text_of(image)) for image in images]  # refused before any of them is opened
        folder = paths[0].parent
        if "axis_align_matrix" in values:
            alignment, known = check_pose(values["axis_align_matrix"], name="axis_align_matrix"), True
        else:
            alignment, known = self._alignment(folder)
        camera = (
            np.asarray(values["cam2img"], dtype=np.float64)[:3, :3]
            if "cam2img" in values
            else read_camera(folder / "intrinsic.txt")
        )
        poses = [alignment @ pose for pose in self._poses(values, images)]
        new: dict[str, tuple[FloatArray, FloatArray, str]] = {}
        for image, path, pose in zip(images, paths, poses, strict=True):
            if image not in self._found:
                _check_camera(path, camera, pose)
            other_camera, other, first = self._found.get(image) or new.setdefault(image, (camera, pose, name))
            if not (
                np.allclose(pose, other, rtol=0, atol=1e-3)
                and np.allclose(camera, other_camera, rtol=0, atol=_SAME_PIXEL)
            ):
                raise ValueError(f"its camera of {image} is another one than in {first}, which is kept")
        self._found |= new
        return poses, known

    def _alignment(self, folder: Path) -> tuple[FloatArray, bool]:
        """Of the scan whose images lie there, and whether it was found."""
        if folder not in self._alignments:
            before = len(self._problems.found)
            alignment = read_alignment(folder, folder.name, self._problems)
            self._alignments[folder] = alignment, len(self._problems.found) == before
        return self._alignments[folder]

    def _poses(self, values: dict[str, Any], images: Sequence[str]) -> list[FloatArray]:
        if "cam2global" in values:
            poses = [np.asarray(matrix, dtype=np.float64).reshape(4, 4) for matrix in values["cam2global"]]
        else:
            poses = [read_pose(safe_path(self._media, image).with_suffix(".txt")) for image in images]
        if len(poses) != len(images) or not np.isfinite(poses).all():
            raise ValueError(f"{len(images)} images need as many finite poses, got {len(poses)}")
        return poses

    def load(self) -> list[Frame | None]:
        """The frames, by path; what is missing or damaged is reported."""
        numbers = [int(stem) for stem in (PurePosixPath(image).stem for image in self._found) if is_number(stem)]
        timed = len(numbers) == len(self._found) and are_raw_numbers(numbers)
        frames = []
        cameras: dict[Path, FloatArray | None] = {}
        for image, (camera, pose, _) in sorted(self._found.items()):
            path = safe_path(self._media, image)
            depth, depth_file = path.with_suffix(".png"), path.parent / "depth_intrinsic.txt"
            has_depth = path.suffix != ".png" and depth.is_file() and depth_file.is_file()
            if has_depth and depth_file not in cameras:
                cameras[depth_file] = depth_camera(depth_file, self._problems)
            depth_intrinsics = cameras.get(depth_file) if has_depth else None
            frames.append(
                load_frame(
                    self._problems,
                    path,
                    pose,
                    name=image,
                    depth=None if depth_intrinsics is None else depth,
                    depth_intrinsics=depth_intrinsics,
                    intrinsics=camera,
                    time=int(path.stem) / RAW_RATE if timed else None,
                )
            )
        return frames


def _check_camera(path: Path, camera: FloatArray, pose: FloatArray) -> None:
    """Raises ValueError for a camera that is none, or is one of another image size: it would stand for its image."""
    Frame(image=b"", intrinsics=camera, camera_to_world=pose)
    try:
        width, height = image_size(read_bytes(path))
    except (OSError, ValueError):
        return  # `load_frame` says what is wrong with the file
    x, y = camera[:2, 2]
    if not (0 < x < width and 0 < y < height):
        raise ValueError(f"its principal point of {path.name} is ({x:g}, {y:g}), outside {width}x{height} pixels")


def _holds(media: Path, image: str) -> bool:
    """Whether the folder of an image is in a media folder."""
    try:
        return safe_path(media, image).parent.is_dir()
    except ValueError:
        return False


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if _holds_conversations(root) else []
    return [path for path in sorted(root.glob("*.json")) if _holds_conversations(path)]


def _holds_conversations(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(2**16)
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[") and b'"conversations"' in head


def _index(path: Path) -> dict[str, list[Span]]:
    return _walk(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _walk(path: Path, _changed: int) -> dict[str, list[Span]]:
    """Scene -> where its records lie; some 200 bytes a record."""
    scenes: defaultdict[str, list[Span]] = defaultdict(list)
    for span, values in walk_records(path):
        scenes[PurePosixPath(_first_image(values)).parent.name or _NO_SCENE].append(span)
    return dict(scenes)


def _first_image(values: Any) -> str:
    """Path of the first image of a record as `walk_records` gives it, or "" where there is none."""
    images = values.get("images") if isinstance(values, dict) else None
    first = images[0] if isinstance(images, list) and images and isinstance(images[0], str) else ""
    return first.encode("latin1", "replace").decode("utf-8", "replace")


def _record(name: str, values: dict[str, Any], cameras: _Cameras) -> Record:
    turns = values["conversations"]
    if [turn["from"] for turn in turns] not in (["human", "gpt"], ["human"]):
        raise ValueError(f"one question and its answer were expected, got {[turn['from'] for turn in turns]}")
    if not all(isinstance(turn["value"], str) for turn in turns):
        raise ValueError("a question and its answer must be texts")
    poses, known = cameras.add(name, values)
    return Record(name, values, turns[0]["value"], turns[1]["value"] if len(turns) > 1 else "", poses, known)


def _clips(
    records: list[tuple[Span, Record]], frames: tuple[Frame, ...], problems: Problems
) -> tuple[tuple[Clip, ...], tuple[SceneObject, ...]]:
    place = {frame.name: index for index, frame in enumerate(frames)}
    clips: list[Clip] = []
    found: list[BoxedObject] = []
    for span, record in records:
        images = record.values["images"]
        missing = [image for image in images if image not in place]
        try:
            if missing:
                raise ValueError(f"its frame {missing[0]} cannot be used")
            content = read_content(record, problems)
            _check_mark(content, [frames[place[image]] for image in images])
            question = _question(f"{span.number:06d}", record, content)
        except UNUSABLE as error:
            problems.add("unusable record", record.name, f"{type(error).__name__}: {error}; left out")
            continue
        found += content.objects
        clips.append(Clip(id=question.id, frames=tuple(place[image] for image in images), questions=(question,)))
    return tuple(clips), merged(found)


def _question(number: str, record: Record, content: Content) -> Question:
    json.dumps(content.target, ensure_ascii=False, allow_nan=False).encode()  # raises for what cannot be stored
    return Question(
        task=content.task,
        prompt=record.prompt,
        answer=record.answer,
        target=content.target,
        id=number,
        mark=content.mark,
    )


def _check_mark(content: Content, frames: list[Frame]) -> None:
    if content.mark is not None:
        width, height = frames[content.mark.frame].size
        if not (0 <= content.mark.x < width and 0 <= content.mark.y < height):
            raise ValueError(f"its cross is at ({content.mark.x}, {content.mark.y}) of {width}x{height} pixels")


def merged(found: list[BoxedObject]) -> tuple[SceneObject, ...]:
    """One object for each that the records tell of. Own ids are kept; the others take the numbers that are free."""
    taken = {item.id for item in found if item.id is not None}
    objects: dict[int, SceneObject] = {}
    free = (number for number in range(65_535) if number not in taken)
    for item in found:
        center, size, rotation = item.box.centers[0], item.box.sizes[0], item.box.rotations[0]
        if item.id is None:
            same = (
                other.label == item.label
                and np.abs(other.center - center).max() < _SAME
                and np.abs(other.size - size).max() < _SAME
                for other in objects.values()
            )
            if any(same):
                continue
        number = next(free) if item.id is None else item.id
        objects.setdefault(
            number, SceneObject(id=number, label=item.label, center=center, size=size, rotation=rotation)
        )
    return tuple(objects.values())
