"""Where a trained model trusts geometry: a picture of the gates of one clip, and their means over some scenes."""

from __future__ import annotations

from collections import defaultdict
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapmllm.geometry.camera import FloatArray
from gapmllm.infer import clip_pixels
from gapmllm.infer.gates import clip_gates
from gapmllm.model import IGNORE, ClipPixels, load
from gapmllm.scenes.dataset import SceneDataset
from gapmllm.scenes.records import NOT_OBJECTS, Clip, Scene, evenly
from gapmllm.train.samples import Sample
from gapmllm.train.targets import CLASSES, classes_target, depth_target
from gapmllm.viz.gates import gates_sheet

SCENES = 20
"""The first ones, at most: about 4,000 tokens a level at 48 a frame, and no single room decides."""
FRAMES = 4
"""Of each scene, evenly spaced: as `watch` takes them."""
SHOWN = 3
"""Of the first scene, in the picture: more would make it hard to read."""
NEAR, FAR = 2.0, 4.0
"""Metres along z at a token's centre."""


def gate_maps(model_folder: str | Path, data: str | Path, split: str, path: Path) -> list[dict[str, Any]]:
    """Draws the gates of the first scene of a data set's split into a PNG file; returns a table row for each level.

    A gate is that of `clip_gates`: 1 = the visual token alone, 0 = geometry alone. A row: the level; over all tokens
    the mean gate and the 5th and 95th percentiles; the mean by what covers most of a token, where instance maps are
    there ("object": any class of `CLASSES` that is an object), and by its depth, where that is there; None for the mean
    of no tokens. The same input gives the same. ValueError for a fusion without gates, and for data not there.
    """
    model, scenes = load(model_folder), SceneDataset(data, split)
    levels: dict[str, list[FloatArray]] = defaultdict(list)
    kinds: dict[str, list[NDArray[np.bool_]]] = defaultdict(list)
    for number in range(min(SCENES, len(scenes))):
        sample = _sample(scenes[number])
        clip = clip_pixels(model.config, [frame.pixels() for frame in sample.frames])
        found = clip_gates(model, clip)
        if number == 0:
            _draw(sample, found, path)
        for name, gates in found.items():
            levels[name].append(gates.ravel())
        for name, mask in (_covers(sample, clip) | _distances(sample, clip)).items():
            kinds[name].append(mask.ravel())
    masks = {name: np.concatenate(some) for name, some in kinds.items()}
    return [_row(name, np.concatenate(some), masks) for name, some in levels.items()]


def _sample(scene: Scene) -> Sample:
    frames = tuple(evenly(len(scene.frames), FRAMES))
    return Sample(scene, Clip(id="even", frames=frames, questions=()), "")


def _draw(sample: Sample, levels: dict[str, FloatArray], path: Path) -> None:
    """One scale for all levels: from the lowest gate to the highest, rounded outwards to 1/20, to see steps."""
    shown = {name: gates[:SHOWN] for name, gates in levels.items()}
    low = min(floor(20 * min(gates.min() for gates in shown.values())), 19)
    high = max(ceil(20 * max(gates.max() for gates in shown.values())), low + 1)
    pictures = [frame.pixels() for frame in sample.frames[:SHOWN]]
    Image.fromarray(gates_sheet(pictures, shown, (low / 20, high / 20))).save(path, format="png")


def _covers(sample: Sample, clip: ClipPixels) -> dict[str, NDArray[np.bool_]]:
    """What covers most of a token -> which tokens (S, rows, cols)."""
    numbers = classes_target(sample, clip).numpy()
    names = np.where(numbers == IGNORE, "", np.array(CLASSES)[numbers.clip(0)])
    is_object = ~np.isin(names, ["", *NOT_OBJECTS])
    return {"wall": names == "wall", "floor": names == "floor", "object": is_object}


def _distances(sample: Sample, clip: ClipPixels) -> dict[str, NDArray[np.bool_]]:
    """How far the centre of a token is -> which tokens (S, rows, cols)."""
    depth = depth_target(sample, clip).numpy()
    height, width = depth.shape[1:]
    rows, cols = ((2 * np.arange(n) + 1) * size // (2 * n) for n, size in ((clip.rows, height), (clip.cols, width)))
    depth = depth[:, rows[:, None], cols]
    return {f"under {NEAR:g} m": (depth > 0) & (depth < NEAR), f"over {FAR:g} m": depth > FAR}


def _row(name: str, gates: FloatArray, masks: dict[str, NDArray[np.bool_]]) -> dict[str, Any]:
    low, high = np.percentile(gates, (5, 95)).tolist()
    means = {kind: float(gates[mask].mean()) if mask.any() else None for kind, mask in masks.items()}
    return {"level": name, "gate": float(gates.mean()), "5 %": low, "95 %": high, **means}
