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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.importers.base import ImportOptions, read_json, read_text
from gapmllm.scenes.importers.entries import UNUSABLE, text_of
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
            texts = read_texts(path)
            for message in (*texts.bad.get(scene.id, ()), *texts.bad.get(None, ())):
                problems.add("bad text", path, message)
            scene = add_texts(scene, texts.by_scan.get(scene.id, ()), problems)
        except UNUSABLE as error:
            problems.add("bad texts", path, error)
    proposals = read_proposals(folders, scene.id, vertices, problems)
    return scene if proposals is None else replace(scene, proposals=proposals)


def add_texts(scene: Scene, entries: Iterable[Expression], problems: Problems) -> Scene:
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


@dataclass(frozen=True, eq=False)
class Texts:
    """What a file of texts holds."""

    by_scan: dict[str, list[Expression]] = field(default_factory=lambda: defaultdict(list))
    bad: dict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Scan -> what is wrong with entries about it; None: entries that name no scan."""


def read_texts(path: Path) -> Texts:
    """The texts of a ScanRefer JSON or an Nr3D or Sr3D CSV. Raises ValueError, OSError where none can be read.

    A file is read once while it does not change: it holds the texts of all scans.
    """
    return _read_texts(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_texts(path: Path, _changed: int) -> Texts:
    if path.suffix == ".csv":
        rows, key = _csv_rows(path), "scan_id"
    else:
        rows, key = read_json(path), "scene_id"
        if not isinstance(rows, list):
            raise ValueError(f"{path}: a JSON list of descriptions was expected")
    reader = _referit3d if path.suffix == ".csv" else _scanrefer
    found = Texts()
    for index, row in enumerate(rows):
        scan = row.get(key) if isinstance(row, dict) else None
        try:
            expression = reader(row, index)
            found.by_scan[text_of(row[key])].append(expression)
        except UNUSABLE as error:
            message = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            found.bad[scan if isinstance(scan, str) else None].append(f"entry {index}: {message}; left out")
    if found.bad and not found.by_scan:
        first = next(iter(found.bad.values()))[0].removesuffix("; left out")
        raise ValueError(f"{path}: {first}; is this ScanRefer, Nr3D or Sr3D?")
    return found


def _csv_rows(path: Path) -> Iterator[Any]:
    """A dictionary a row; for a row that cannot be split what is wrong with it, as text."""
    rows = csv.DictReader(io.StringIO(read_text(path)))
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield str(error)


def _scanrefer(row: Any, _: int) -> Expression:
    """{"scene_id", "object_id", "object_name", "ann_id", "description", "token"}; ids are texts."""
    number = int(str(row["object_id"]))  # through text, so that 3.7 is no number
    name = f"scanrefer-{number}-{row['ann_id']}"
    return Expression(object_id=number, text=text_of(row["description"]).strip(), id=name)


def _referit3d(row: Any, index: int) -> Expression:
    """Sr3D names the relation that it rests on; in Nr3D a word list decides on the view, and texts by which the
    listener chose another object are left out. All as the benchmark does."""
    if isinstance(row, str):
        raise ValueError(row)
    if str(row.get("correct_guess") or "").strip().lower() == "false":
        raise ValueError("no listener found the object by this text (correct_guess is False)")
    text, relation = text_of(row["utterance"]).strip(), row.get("reference_type") or ""
    words = set(re.findall(r"[a-z]+", relation.lower() if relation else text.lower()))
    return Expression(
        object_id=int(row["target_id"]),
        text=text,
        id=f"{row.get('dataset') or 'nr3d'}-{index}",
        kind=relation,
        view_dependent=bool(words & _VIEW_WORDS),
    )
