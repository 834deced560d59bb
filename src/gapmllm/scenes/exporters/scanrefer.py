"""The texts of scenes as ScanRefer has them: ScanRefer_filtered_<split>.json, one entry a text.

What the format keeps: the text, the object's id and label (with underscores for spaces). What it cannot hold: captions,
which may fit several objects (readers of the format ask for the one object that a text describes); what a text rests
on, whether it depends on the view; frames and boxes (the format `scannet` holds those; both fit in one folder, and are
then read together).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from gapmllm.scenes.exporters.base import Exporter
from gapmllm.scenes.records import Scene

_OPEN = "[\n"


class ScanReferExporter(Exporter):
    """See the module."""

    format = "scanrefer"

    def export(self, scenes: Iterable[Scene], out: Path) -> None:
        """Write the texts into one new file a split, entry by entry; scenes without texts add nothing."""
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            files: dict[str, IO[str]] = {}
            for scene in scenes:
                entries = _entries(scene)
                if entries and scene.split not in files:
                    path = out / f"ScanRefer_filtered_{scene.split}.json"
                    files[scene.split] = stack.enter_context(_new_list(path))
                for entry in entries:
                    file = files[scene.split]
                    file.write(",\n" if file.tell() > len(_OPEN) else "")
                    file.write(json.dumps(entry, ensure_ascii=False))
        if not files:
            raise ValueError("no scene has texts to export")


@contextmanager
def _new_list(path: Path) -> Iterator[IO[str]]:
    """A JSON list that is written into a file beside `path` and takes its name once it is closed."""
    if path.exists():
        raise ValueError(f"{path} is there already; name another folder, or delete it first")
    partial = path.with_suffix(".part")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(_OPEN)
            yield file
            file.write("\n]\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
        if text.kind != "caption" and text.unique is not False
    ]
