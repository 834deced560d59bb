"""Where the model trusts geometry: the gates of a clip's tokens, level by level, under names that say what is mixed."""

from __future__ import annotations

import numpy as np

from gapmllm.geometry.camera import FloatArray
from gapmllm.model import ClipPixels, GapMllm, gates


def clip_gates(model: GapMllm, clip: ClipPixels) -> dict[str, FloatArray]:
    """Name of a level -> (S, rows, cols), the gate g of each token: the mean over the channels of g in
    out = g LN(visual) + (1 - g) LN(geometry), so 1 = the visual token alone, 0 = geometry alone.

    Levels as in `gapmllm.model.gates`: DeepStack, shallow to deep, then the visual tokens that the LLM reads first;
    each with the VGGT block that is mixed in, counted from 0. ValueError for a fusion without gates.
    """
    (levels,) = gates(model, [clip])
    places = [*(f"DeepStack {number}" for number in range(1, len(levels))), "visual tokens"]
    names = [f"{place} (VGGT {block})" for place, block in zip(places, model.config.geometry_layers, strict=True)]
    return {name: level.cpu().numpy().astype(np.float64) for name, level in zip(names, levels, strict=True)}
