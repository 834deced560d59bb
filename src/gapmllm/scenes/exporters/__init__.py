"""Our records written in the formats of other code bases."""

from __future__ import annotations

from gapmllm.scenes.exporters.base import Exporter


def exporters() -> dict[str, Exporter]:
    """All exporters by the name of their format."""
    from gapmllm.scenes.exporters.embodiedscan import EmbodiedScanExporter
    from gapmllm.scenes.exporters.scannet import ScanNetExporter
    from gapmllm.scenes.exporters.scanrefer import ScanReferExporter
    from gapmllm.scenes.exporters.seven_scenes import SevenScenesExporter
    from gapmllm.scenes.exporters.tum import TumExporter

    kinds = (ScanNetExporter, EmbodiedScanExporter, ScanReferExporter, SevenScenesExporter, TumExporter)
    return {kind.format: kind() for kind in kinds}


def find_exporter(name: str) -> Exporter:
    """The exporter of a format, by name. Raises ValueError that lists them."""
    known = exporters()
    if name not in known:
        raise ValueError(f"no export format {name!r}; choose from {', '.join(known)}")
    return known[name]
