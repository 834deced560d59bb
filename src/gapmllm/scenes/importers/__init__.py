"""Data sets of the field, one small file a family, all giving the same records."""

from __future__ import annotations

from pathlib import Path

from gapmllm.scenes.importers.base import Importer


def importers() -> dict[str, type[Importer]]:
    """All importers by the name of their format."""
    from gapmllm.scenes.importers import (
        arkitscenes,
        embodiedscan,
        mmdet3d,
        redwood,
        released,
        replica,
        rgbd_folder,
        scannet_folders,
        scannet_sens,
        seven_scenes,
        tum,
    )

    modules = (
        rgbd_folder,
        seven_scenes,
        tum,
        redwood,
        replica,
        arkitscenes,
        scannet_sens,
        scannet_folders,
        mmdet3d,
        embodiedscan,
        released,
    )
    kinds = [kind for module in modules for kind in vars(module).values() if _is_importer(kind, module.__name__)]
    return {kind.format: kind for kind in kinds}


def find_importer(root: Path, name: str = "auto") -> type[Importer]:
    """The importer of a format, or the one that recognises the files.

    Raises ValueError that lists the formats where none or several do.
    """
    known = importers()
    if name != "auto":
        if name not in known:
            raise ValueError(f"no format {name!r}; choose from auto, {', '.join(known)}")
        return known[name]
    found = [kind for kind in known.values() if kind.recognises(root)]
    if len(found) == 1:
        return found[0]
    what = f"looks like {' and '.join(kind.format for kind in found)}" if found else "is in none of the known formats"
    raise ValueError(f"{root} {what}; name the format: {', '.join(known)}")


def _is_importer(value: object, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Importer) and value.__module__ == module
