"""Boxes that a 3D segmentation proposes, for Scan2Cap's protocol and for grounding with proposals.

mask/<scan>.mask.npz        LEO's Mask3D masks: a sparse matrix (scipy), a row a proposal, a column a vertex
scannet_val_pred_box.json   {"scannet/<scan>": [[cx, cy, cz, sx, sy, sz], ...]}, aligned world (Video-3D-LLM)

LEO's clouds (.pth) are pickles of torch and are not read: the vertices of `<scan>_vh_clean_2.ply`, from which they were
made, take their place. The masks are looked for first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import load_npz

from gapmllm.geometry import Boxes
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.importers.base import read_json
from gapmllm.scenes.importers.entries import UNUSABLE
from gapmllm.scenes.importers.scannet_annotations import box_around
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import boxes_of

MAX_PROPOSALS = 50
"""LEO's evaluation looks at so many masks of a scan, the first ones."""


def read_proposals(folders: Sequence[Path], scan: str, vertices: FloatArray | None, problems: Problems) -> Boxes | None:
    """Proposals for a scan in the aligned world from the first of the folders that has some, or None.

    vertices: (V, 3) of the scan's mesh, aligned. What cannot be used is reported.
    """
    for folder in folders:
        masks, boxes = folder / "mask" / f"{scan}.mask.npz", folder / "scannet_val_pred_box.json"
        try:
            if masks.is_file():
                return _from_masks(masks, vertices)
            if boxes.is_file():
                return _from_boxes(boxes, scan)
        except UNUSABLE as error:
            reason = f"{type(error).__name__}: {error}"
            problems.add("bad proposals", masks if masks.is_file() else boxes, reason)
    return None


def _from_masks(path: Path, vertices: FloatArray | None) -> Boxes:
    if vertices is None:
        raise ValueError(f"{path}: masks of vertices, but the scan has no _vh_clean_2.ply")
    masks = load_npz(path)
    if masks.shape[1] != len(vertices):
        raise ValueError(f"{path}: masks of {masks.shape[1]} vertices, but the mesh has {len(vertices)}")
    if masks.format not in ("csr", "csc", "coo"):
        raise ValueError(f"{path}: a sparse matrix in csr, csc or coo was expected, got {masks.format}")
    if masks.format != "coo":  # scipy's compiled code trusts these indices; coo is checked as it is made
        masks.check_format(full_check=True)
        if (np.diff(masks.indptr) < 0).any():  # it does not look at those of a matrix that says it is empty
            raise ValueError(f"{path}: its row pointers go back")
    masks = masks.tocsr()
    masks.eliminate_zeros()
    rows = [slice(*masks.indptr[index : index + 2]) for index in range(min(MAX_PROPOSALS, masks.shape[0]))]
    inside = [vertices[masks.indices[row]] for row in rows]
    return boxes_of(box_around(index, "proposal", points) for index, points in enumerate(inside) if len(points))


def _from_boxes(path: Path, scan: str) -> Boxes | None:
    scans = _read_boxes(path, path.stat().st_mtime_ns)
    if f"scannet/{scan}" not in scans:
        return None
    return Boxes.from_axis_aligned(np.asarray(scans[f"scannet/{scan}"], dtype=np.float64).reshape(-1, 6))


@lru_cache(maxsize=2)
def _read_boxes(path: Path, _changed: int) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a JSON object of scans was expected")
    return values
