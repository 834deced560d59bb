"""The texts of scenes as ScanRefer has them: ScanRefer_filtered_<split>.json, one entry a text.

What the format keeps: the text, the object's id and label (with underscores for spaces). What it cannot hold: what a
text rests on, whether it depends on the view, frames and boxes (the format `posed-images` holds those; both fit in one
folder, and are then read together).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from gapmllm.scenes.exporters.base import Exporter
from gapmllm.scenes.importers.base import read_json
from gapmllm.scenes.records import Scene


class ScanReferExporter(Exporter):
    """See the module."""

    format = "scanrefer"

    def export(self, scene: Scene, out: Path) -> None:
        """Add one scene's texts to the file of its split."""
        if not scene.expressions:
            raise ValueError(f"scene {scene.id} has no texts to export")
        path = out / f"ScanRefer_filtered_{scene.split}.json"
        entries = read_json(path) if path.exists() else []
        if any(entry["scene_id"] == scene.id for entry in entries):
            raise ValueError(f"{path} has texts about {scene.id} already; name another folder, or delete it first")
        entries += _entries(scene)
        out.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(entries, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(partial, path)


def _entries(scene: Scene) -> list[dict[str, object]]:
    labels = {item.id: item.label for item in scene.objects}
    return [
        {
            "scene_id": scene.id,
            "object_id": str(text.object_id),
            "object_name": labels[text.object_id].replace(" ", "_"),
            "ann_id": text.id.removeprefix(f"scanrefer-{text.object_id}-") or str(index),
            "description": text.text,
            "token": re.findall(r"\w+|[^\w\s]", text.text.lower()),
        }
        for index, text in enumerate(scene.expressions)
    ]
