"""Texts about ScanNet objects, and boxes of 3D segmentations, added to the scenes that other importers read.

ScanRefer_filtered_<split>.json   ScanRefer: descriptions of objects
nr3d.csv, sr3d.csv                Nr3D and Sr3D (ReferIt3D)
mask/<scan>.mask.npz and scannet_val_pred_box.json   proposals, see `proposals.py`

The one rule of where they are looked for: in the data set's root, and at `ImportOptions.annotations`, which names one
such file or a folder of them. They belong to importers whose object ids are ScanNet's own `objectId` (.sens, exports).
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.importers.base import ImportOptions, read_json, read_text
from gapmllm.scenes.importers.proposals import read_proposals
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Expression, Scene

# The words by which ReferIt3D's evaluation tells the descriptions that hold from one viewpoint only.
_VIEW_WORDS = frozenset(
    ("front", "behind", "back", "right", "left", "facing", "leftmost", "rightmost", "looking", "across")
)


def with_language(
    scene: Scene, root: Path, options: ImportOptions, vertices: FloatArray | None, problems: Problems
) -> Scene:
    """The scene with the texts and the proposals that lie beside it. vertices: (V, 3) of its mesh, aligned world."""
    folders = [root if root.is_dir() else root.parent]
    files: list[Path] = []
    if options.annotations is not None:
        (folders if options.annotations.is_dir() else files).append(options.annotations)
    names = (f"ScanRefer_filtered_{options.split}.json", "nr3d.csv", "sr3d.csv")
    files += [folder / name for folder in folders for name in names if (folder / name).is_file()]
    for path in dict.fromkeys(path.resolve() for path in files):
        try:
            scene = add_scanrefer(scene, read_texts(path).get(scene.id, ()), problems)
        except (OSError, ValueError) as error:
            problems.add("bad texts", path, error)
    proposals = read_proposals(folders, scene.id, vertices, problems)
    return scene if proposals is None else replace(scene, proposals=proposals)


def add_scanrefer(scene: Scene, entries: Iterable[Expression], problems: Problems) -> Scene:
    """The scene with texts added; those about objects that it does not have are reported and left out."""
    known, added = {item.id for item in scene.objects}, []
    for entry in entries:
        if entry.object_id in known and entry.text:
            added.append(entry)
        elif not entry.text:
            problems.add("no text", entry.id, f"the text about object {entry.object_id} is empty; left out")
        else:
            problems.add(
                "unknown object", entry.id, f"describes object {entry.object_id}, which is not there; left out"
            )
    return replace(scene, expressions=(*scene.expressions, *added))


def read_texts(path: Path) -> dict[str, tuple[Expression, ...]]:
    """Scan -> texts about it, from a ScanRefer JSON or an Nr3D or Sr3D CSV. Raises ValueError, OSError.

    A file is read once while it does not change: it holds the texts of all scans.
    """
    return _read_texts(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_texts(path: Path, _changed: int) -> dict[str, tuple[Expression, ...]]:
    scans: defaultdict[str, list[Expression]] = defaultdict(list)
    if path.suffix == ".csv":
        rows: Iterable[Any] = csv.DictReader(io.StringIO(read_text(path)))
    else:
        rows = read_json(path)
        if not isinstance(rows, list):
            raise ValueError(f"{path}: a JSON list of descriptions was expected")
    reader = _referit3d if path.suffix == ".csv" else _scanrefer
    for index, row in enumerate(rows):
        try:
            scan, expression = reader(row, index)
        except (KeyError, TypeError, ValueError) as error:
            message = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path}: entry {index}: {message}; is this ScanRefer, Nr3D or Sr3D?") from error
        scans[scan].append(expression)
    return {scan: tuple(texts) for scan, texts in scans.items()}


def _scanrefer(row: Mapping[str, str], _: int) -> tuple[str, Expression]:
    """{"scene_id", "object_id", "object_name", "ann_id", "description", "token"}; ids are texts."""
    number = int(row["object_id"])
    name = f"scanrefer-{number}-{row['ann_id']}"
    return row["scene_id"], Expression(object_id=number, text=row["description"].strip(), id=name)


def _referit3d(row: Mapping[str, str], index: int) -> tuple[str, Expression]:
    """Sr3D names the relation that it rests on; in Nr3D a word list decides on the view. Both as the benchmark does."""
    text, relation = row["utterance"].strip(), row.get("reference_type") or ""
    words = set(re.findall(r"[a-z]+", relation.lower() if relation else text.lower()))
    expression = Expression(
        object_id=int(row["target_id"]),
        text=text,
        id=f"{row.get('dataset') or 'nr3d'}-{index}",
        kind=relation,
        view_dependent=bool(words & _VIEW_WORDS),
    )
    return row["scan_id"], expression
