"""RGB-D recordings whose scenes are folders: what their importers share. Each then only says how its files are read."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
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
    common: ClassVar[tuple[str, ...]] = ()
    """Parts that folders of other formats have too: alone they do not make a folder nearly a scene."""
    z_up: ClassVar[bool] = False
    """Whether the format says that its worlds have z up."""

    @classmethod
    @abstractmethod
    def parts(cls, folder: Path) -> Iterator[tuple[str, bool]]:
        """(name, whether it is there) of all that a scene's folder must hold, by the names in it; the cheap first.

        None at all where the folder cannot be a scene, whatever it holds.
        """

    @abstractmethod
    def frames(self, folder: Path, problems: Problems) -> list[Frame | None]:
        """The chosen frames, None for those that `problems` tells of. ValueError, OSError: the scene cannot be read."""

    def objects(self, folder: Path, problems: Problems) -> tuple[SceneObject, ...]:
        """The annotated objects, in a world with z up."""
        return ()

    def split(self, folder: Path, problems: Problems) -> str:
        return self.options.split

    @classmethod
    def places(cls, root: Path) -> Iterator[tuple[str, Path]]:
        """(scene id, folder) wherever a scene may be, in order."""
        if cls.is_scene(root):
            yield root.resolve().name, root
        else:
            yield from ((folder.name, folder) for folder in subfolders(root))

    @classmethod
    def is_scene(cls, folder: Path) -> bool:
        """Whether the folder has all parts of a scene; stops at the first that is missing."""
        return next(cls.parts(folder), None) is not None and all(there for _, there in cls.parts(folder))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return any(cls.is_scene(folder) for _, folder in cls.places(root))

    @classmethod
    def nearly(cls, root: Path) -> str:
        for folder in (root, *(folder for _, folder in islice(cls.places(root), 10))):  # a look, not a search
            parts = list(cls.parts(folder))
            if any(there and name not in cls.common for name, there in parts):
                return _missing(folder, parts)
        return ""

    @cached_property
    def _folders(self) -> dict[str, tuple[Path, str]]:
        """Scene id -> folder and why it cannot be used, "" if it can. A folder with some parts of a scene is listed."""
        if not self.recognises(self.root):
            nearly = self.nearly(self.root)
            raise ValueError(
                f"{self.root} holds no scene of format {self.format}{nearly and f' ({nearly})'}; a scene's folder "
                f"holds {self.layout}. Name that folder, or the one that holds the scenes"
            )
        parts = {folder: list(self.parts(folder)) for _, folder in self.places(self.root)}
        some = ((name, folder) for name, folder in self.places(self.root) if any(there for _, there in parts[folder]))
        return {scene: (folder, _missing(folder, parts[folder])) for scene, folder in by_name(some).items()}

    def scene_ids(self) -> list[str]:
        return list(self._folders)

    def load(self, scene_id: str, problems: Problems) -> Scene | None:
        if scene_id not in self._folders:
            raise ValueError(f"{self.root} has no scene {scene_id!r}; it has {', '.join(self._folders)}")
        folder, reason = self._folders[scene_id]
        try:
            check_name(folder.resolve().name)
            if reason:
                raise ValueError(reason)
            frames = usable(problems, self.frames(folder, problems))
            frames = frames if self.z_up else upright(frames, self.options.up, problems)
            objects = self.objects(folder, problems) if frames else ()
            split = self.split(folder, problems)
        except (OSError, ValueError) as error:
            problems.add("bad scene", folder, f"{error}; the scene is dropped")
            return None
        if not frames:
            return None
        return Scene(id=scene_id, frames=frames, objects=objects, split=split, source=self.format)


def _missing(folder: Path, parts: list[tuple[str, bool]]) -> str:
    missing = [name for name, there in parts if not there]
    return f"{folder.resolve().name} has no {' and no '.join(missing)}" if missing else ""


def subfolders(root: Path) -> list[Path]:
    """Folders in a folder, by name, without hidden ones (half-written exports); none where there is no such folder."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def by_name(places: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Scene id -> its file or folder. Raises ValueError where two have one name.

    A name that is not UTF-8 is listed as text that is; `check_name` then tells of it.
    """
    found: dict[str, Path] = {}
    for name, path in places:
        scene = os.fsencode(name).decode("utf-8", "backslashreplace")
        if scene in found:
            raise ValueError(f"two scenes are called {scene}: {found[scene]} and {path}; import them apart")
        found[scene] = path
    return found


def check_name(name: str) -> None:
    """Raises ValueError for the name of a file or folder that is not UTF-8: it could name no scene."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError("its name is not in UTF-8, rename it") from None


def own_camera(folder: Path, name: str = "K.txt") -> FloatArray | None:
    """(3, 3) intrinsics from a file in the folder, None where there is none: formats that leave them out are given
    them so by our exporters, or by hand."""
    return read_matrix(folder / name, 3, 3) if (folder / name).is_file() else None


def by_number(folder: Path, pattern: str, problems: Problems) -> dict[str, dict[str, Path]]:
    """Frame name -> kind -> file, in numeric order of the names.

    pattern: a regular expression over whole file names; its groups `number` and `kind` say to which frame a file
    belongs and what it is of the frame. A frame is listed if any file of it is there, so that a lost one is noticed.
    Of two files that want to be the same thing, the one whose number is written as in most files of the frame is
    taken (of equals the first by name), reported.
    """
    matches: dict[int, list[re.Match[str]]] = {}
    for name in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []:
        if match := re.fullmatch(pattern, name):
            matches.setdefault(int(match["number"]), []).append(match)
    found: dict[str, dict[str, Path]] = {}
    for _, same in sorted(matches.items()):
        usual = Counter(match["number"] for match in same)
        same.sort(key=lambda match: -usual[match["number"]])
        kinds = found.setdefault(same[0]["number"], {})
        for match in same:
            path = folder / match.string
            taken = kinds.setdefault(match["kind"], path)
            if taken is not path:
                problems.add("same number", path.name, f"has the number of {taken.name}, which is taken instead")
    return found
