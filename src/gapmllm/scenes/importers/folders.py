"""RGB-D recordings whose scenes are folders: what their importers share. Each then only says how its files are read."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.importers.base import Importer, read_matrix, upright, usable
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame, Scene, SceneObject


class FolderImporter(Importer):
    """Scenes are folders: the root itself is one, or the folders in it are.

    The world is turned so that z is up (ImportOptions.up), unless the format says that it is.
    """

    layout: ClassVar[str]
    """What a scene's folder holds, for messages."""
    z_up: ClassVar[bool] = False
    """Whether the format says that its worlds have z up."""

    @classmethod
    @abstractmethod
    def is_scene(cls, folder: Path) -> bool:
        """Whether the folder is one scene, by the names in it."""

    @abstractmethod
    def frames(self, folder: Path, problems: Problems) -> list[Frame | None]:
        """The chosen frames, None for those that `problems` tells of. ValueError, OSError: the scene cannot be read."""

    def objects(self, folder: Path, problems: Problems) -> tuple[SceneObject, ...]:
        """The annotated objects, in a world with z up."""
        return ()

    def split(self, folder: Path) -> str:
        return self.options.split

    @classmethod
    def folders(cls, root: Path) -> Iterator[tuple[str, Path]]:
        """(scene id, folder) of all scenes, in order."""
        if cls.is_scene(root):
            yield root.resolve().name, root
        else:
            yield from ((folder.name, folder) for folder in subfolders(root) if cls.is_scene(folder))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return next(cls.folders(root), None) is not None

    @cached_property
    def _folders(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for scene_id, folder in self.folders(self.root):
            if scene_id in found:
                raise ValueError(f"two scenes are called {scene_id}: {found[scene_id]} and {folder}; import them apart")
            found[scene_id] = folder
        if not found:
            raise ValueError(
                f"{self.root} holds no scene of format {self.format}; a scene's folder holds {self.layout}. "
                "Name that folder, or the one that holds the scenes"
            )
        return found

    def scene_ids(self) -> list[str]:
        return list(self._folders)

    def load(self, scene_id: str, problems: Problems) -> Scene | None:
        if scene_id not in self._folders:
            raise ValueError(f"{self.root} has no scene {scene_id!r}; it has {', '.join(self._folders)}")
        folder = self._folders[scene_id]
        try:
            frames = usable(problems, self.frames(folder, problems))
            frames = frames if self.z_up else upright(frames, self.options.up, problems)
            objects = self.objects(folder, problems) if frames else ()
            split = self.split(folder)
        except (OSError, ValueError) as error:
            problems.add("bad scene", folder, f"{error}; the scene is dropped")
            return None
        if not frames:
            return None
        return Scene(id=scene_id, frames=frames, objects=objects, split=split, source=self.format)


def subfolders(root: Path) -> list[Path]:
    """Folders in a folder, by name, without hidden ones (half-written exports); none where there is no such folder."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def own_camera(folder: Path, name: str = "K.txt") -> FloatArray | None:
    """(3, 3) intrinsics from a file in the folder, None where there is none: formats that leave them out are given
    them so by our exporters, or by hand."""
    return read_matrix(folder / name, 3, 3) if (folder / name).is_file() else None


def by_number(folder: Path, pattern: str) -> dict[str, dict[str, Path]]:
    """Frame name -> kind -> file, in numeric order of the names.

    pattern: a regular expression over whole file names; its groups `number` and `kind` say to which frame a file
    belongs and what it is of the frame. A frame is listed if any file of it is there, so that a lost one is noticed.
    Raises ValueError where two files want to be the same thing.
    """
    found: dict[int, dict[str, Path]] = {}
    names: dict[int, str] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (match := re.fullmatch(pattern, path.name)) is None:
            continue
        number, kind = int(match["number"]), match["kind"]
        kinds = found.setdefault(number, {})
        if kind in kinds:
            raise ValueError(f"{kinds[kind].name} and {path.name} in {folder} are the same frame; keep one of them")
        kinds[kind] = path
        names.setdefault(number, match["number"])
    return {names[number]: found[number] for number in sorted(found)}
