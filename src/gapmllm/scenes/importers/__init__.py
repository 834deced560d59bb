"""Data sets of the field, one small file a family, all giving the same records."""

from __future__ import annotations

from pathlib import Path

from gapmllm.scenes.importers.base import Importer


def importers() -> dict[str, type[Importer]]:
    """All importers by the name of their format."""
    from gapmllm.scenes.importers.arkitscenes import ArkitScenes
    from gapmllm.scenes.importers.embodiedscan import EmbodiedScan
    from gapmllm.scenes.importers.mmdet3d import MMDetection3D
    from gapmllm.scenes.importers.redwood import Redwood
    from gapmllm.scenes.importers.released import ReleasedRecords
    from gapmllm.scenes.importers.replica import Replica
    from gapmllm.scenes.importers.rgbd_folder import RgbdFolder
    from gapmllm.scenes.importers.scannet_folders import PosedImages, ScanNetExport
    from gapmllm.scenes.importers.scannet_sens import ScanNetSens
    from gapmllm.scenes.importers.seven_scenes import SevenScenes
    from gapmllm.scenes.importers.tum import Tum

    kinds: tuple[type[Importer], ...] = (
        *(RgbdFolder, SevenScenes, Tum, Redwood, Replica, ArkitScenes),
        *(ScanNetSens, ScanNetExport, PosedImages, MMDetection3D, EmbodiedScan, ReleasedRecords),
    )
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
    if found:
        what = f"looks like {' and '.join(kind.format for kind in found)}"
    else:
        nearly = [f"; nearly {kind.format}, but {missing}" for kind in known.values() if (missing := kind.nearly(root))]
        what = f"is in none of the known formats{''.join(nearly)}"
    raise ValueError(f"{root} {what}; name the format: {', '.join(known)}")
