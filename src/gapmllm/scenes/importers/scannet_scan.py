"""What the two folder layouts of ScanNet scans share: from the files of a scan to its scene."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.importers.base import Importer, load_frame, usable
from gapmllm.scenes.importers.folders import by_name, check_name
from gapmllm.scenes.importers.scannet_annotations import read_annotations
from gapmllm.scenes.importers.scannet_files import (
    RAW_RATE,
    are_raw_numbers,
    depth_camera,
    pose_reader,
    read_camera,
)
from gapmllm.scenes.importers.scanrefer import with_language
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame, Scene


@dataclass(frozen=True)
class ScanFiles:
    """Where one scan's frames lie: frame number -> file."""

    images: dict[int, Path]
    depths: dict[int, Path]
    poses: dict[int, Path]
    depth_folder: Path
    camera: Path
    depth_camera: Path

    def numbers(self) -> list[int]:
        """Of the frames of which enough is there to tell that they were: so that a lost picture is noticed."""
        rest = set(self.poses) & set(self.depths) if self.depths else set(self.poses)
        return sorted(rest | set(self.images))


class ScanFolders(Importer):
    """What both layouts share."""

    @classmethod
    @abstractmethod
    def places(cls, root: Path) -> list[Path]:
        """Folders that may be scans, in order."""

    @classmethod
    @abstractmethod
    def is_scan(cls, folder: Path) -> bool:
        """Whether a folder looks like a scan of this layout."""

    @classmethod
    @abstractmethod
    def is_part(cls, folder: Path) -> bool:
        """Whether it holds anything of a scan: enough to be listed, and reported, beside whole ones."""

    @classmethod
    @abstractmethod
    def files(cls, folder: Path, problems: Problems) -> ScanFiles:
        """The files of one scan."""

    @classmethod
    @abstractmethod
    def camera(cls, folder: Path) -> Path:
        """The file of a scan's intrinsics."""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return root.is_dir() and any(
            cls.is_scan(folder) and cls.camera(folder).is_file() for folder in cls.places(root)
        )

    @cached_property
    def _scans(self) -> dict[str, Path]:
        """Scan -> its folder, by name."""
        places = self.places(self.root) if self.root.is_dir() else []
        found = {folder for folder in places if self.is_scan(folder)}
        if found and self.root not in found:
            found |= {folder for folder in places if folder not in found and self.is_part(folder)} - {self.root}
        return by_name((folder.resolve().name, folder) for folder in places if folder in found)

    def scene_ids(self) -> list[str]:
        if not self._scans:
            raise ValueError(f"{self.root}: no scan in the layout {self.format} in it")
        return list(self._scans)

    def load(self, scene_id: str, problems: Problems) -> Scene | None:
        folder = self._scans[scene_id]
        try:
            check_name(folder.resolve().name)
            annotations = read_annotations(folder, scene_id, problems)
            frames = usable(problems, self._frames(self.files(folder, problems), annotations.alignment, problems))
        except (OSError, ValueError) as error:
            problems.add("bad scene", folder, f"{error}; the scene is dropped")
            return None
        if not frames:
            return None
        scene = Scene(
            id=scene_id, frames=frames, objects=annotations.objects, split=self.options.split, source=self.format
        )
        return with_language(scene, self.root, self.options, annotations.vertices, problems)

    def _frames(self, files: ScanFiles, alignment: FloatArray, problems: Problems) -> list[Frame | None]:
        for what, there in (("pictures", files.images), ("poses", files.poses)):
            if not there:
                raise ValueError(f"{problems.scene} has no {what}")
        camera = read_camera(files.camera)
        camera_of_depth = depth_camera(files.depth_camera, problems) if files.depths else None
        if not files.depths:
            problems.add("no depth", problems.scene, "the scan has no depth images")
        numbers = files.numbers()
        timed = are_raw_numbers(numbers)
        frames = []
        for number in (numbers[index] for index in self.options.chosen(len(numbers))):
            image, pose, depth = files.images.get(number), files.poses.get(number), None
            if image is None:
                problems.add("missing file", f"frame {number}", "its picture is not there; the frame is dropped")
                continue
            name = image.name
            if pose is None:
                problems.add("no pose", name, "the image has no pose; dropped")
                continue
            if camera_of_depth is not None:
                depth = files.depths.get(number, files.depth_folder / f"{image.stem}.png")
            frames.append(
                load_frame(
                    problems,
                    image,
                    pose_reader(alignment, pose),
                    name=name,
                    depth=depth,
                    intrinsics=camera,
                    depth_intrinsics=camera_of_depth,
                    time=number / RAW_RATE if timed else None,
                )
            )
        return frames
