"""A clip's frames as both encoders see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gapmllm.model import ClipPixels, GapMllmConfig
from gapmllm.scenes.records import Mark
from gapmllm.tasks import draw_marks
from gapmllm.tasks.marks import mark_size


def clip_pixels(config: GapMllmConfig, frames: Sequence[NDArray[np.uint8]], marks: Sequence[Mark] = ()) -> ClipPixels:
    """S frames (H, W, 3) -> their pixels: with the crosses of the marks for the vision tower, without for VGGT.

    ValueError for what `draw_marks` and `ImageGrid.prepare` refuse.
    """
    if not marks:
        return config.grid.prepare(frames)
    arm, thickness = mark_size(frames[0].shape[1], config.mark_arm)
    return config.grid.prepare(draw_marks(frames, marks, arm, thickness), frames)
