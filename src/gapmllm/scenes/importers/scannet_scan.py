"""What the two folder layouts of ScanNet scans share: from the files of a scan to its scene."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.importers.base import Importer, load_frame, usable
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


class ScanFolders(Importer):
    """What both layouts share."""

    @classmethod
    @abstractmethod
    def scans(cls, root: Path) -> dict[str, Path]:
        """Scan -> its folder, by name."""

    @classmethod
    @abstractmethod
    def files(cls, folder: Path) -> ScanFiles:
        """The files of one scan."""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return root.is_dir() and bool(cls.scans(root))

    def scene_ids(self) -> list[str]:
        found = self.scans(self.root) if self.root.is_dir() else {}
        if not found:
            raise ValueError(f"{self.root}: no scan in the layout {self.format} in it")
        return list(found)

    def load(self, scene_id: str, problems: Problems) -> Scene | None:
        folder = self.scans(self.root)[scene_id]
        annotations = read_annotations(folder, scene_id, problems)
        try:
            frames = usable(problems, self._frames(self.files(folder), annotations.alignment, problems))
        except (OSError, ValueError) as error:
            problems.add("unreadable", folder, error)
            return None
        if not frames:
            return None
        scene = Scene(
            id=scene_id, frames=frames, objects=annotations.objects, split=self.options.split, source=self.format
        )
        return with_language(scene, self.root, self.options, annotations.vertices, problems)

    def _frames(self, files: ScanFiles, alignment: FloatArray, problems: Problems) -> list[Frame | None]:
        camera = read_camera(files.camera)
        camera_of_depth = depth_camera(files.depth_camera, problems) if files.depths else None
        if not files.depths:
            problems.add("no depth", problems.scene, "the scan has no depth images")
        numbers = list(files.images)
        timed = are_raw_numbers(numbers)
        frames = []
        for number in (numbers[index] for index in self.options.chosen(len(numbers))):
            pose, depth = files.poses.get(number), None
            name = files.images[number].name
            if pose is None:
                problems.add("no pose", name, "the image has no pose; dropped")
                continue
            if camera_of_depth is not None:
                depth = files.depths.get(number, files.depth_folder / f"{files.images[number].stem}.png")
            frames.append(
                load_frame(
                    problems,
                    files.images[number],
                    pose_reader(alignment, pose),
                    name=name,
                    depth=depth,
                    intrinsics=camera,
                    depth_intrinsics=camera_of_depth,
                    time=number / RAW_RATE if timed else None,
                )
            )
        return frames
