"""Visual marks: coloured crosses drawn into frames, one per point that is asked for.

The paper marks one pixel with a red cross: arms of 10 pixels, 5 pixels thick, on the stored image before any resizing.
Several crosses of different colours let one encoding of the frames serve several questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gapmllm.scenes.records import Mark as Mark

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "orange": (255, 128, 0),
    "white": (255, 255, 255),
}
"""Names that prompts use -> RGB. The first K name K marks; red comes first, as in the paper."""


def draw_marks(
    frames: Sequence[NDArray[np.uint8]], marks: Sequence[Mark], arm: int = 10, thickness: int = 5
) -> list[NDArray[np.uint8]]:
    """Frames (H, W, 3) with the marks drawn in, clipped at the border. Marked frames are copies, others stay the same.

    arm: pixels from the centre to the end of each arm. thickness: odd, pixels. Later marks cover earlier ones.
    Raises ValueError for a frame that is not there, a pixel outside its frame, an unknown colour, an even thickness.
    """
    if arm < 0 or thickness < 1 or thickness % 2 == 0:
        raise ValueError(f"arm must be >= 0 and thickness odd and >= 1, got {arm} and {thickness}")
    result = list(frames)
    for mark in marks:
        _check(mark, frames)
        if result[mark.frame] is frames[mark.frame]:
            result[mark.frame] = frames[mark.frame].copy()
        _draw_cross(result[mark.frame], mark, arm, thickness // 2)
    return result


def mark_size(width: int, share: float) -> tuple[int, int]:
    """(arm, thickness) in pixels of the crosses in a frame of this width; share: of the arm, `GapMllmConfig.mark_arm`.

    Half as thick as an arm is long, as in the paper: 10 and 5 pixels of a frame 640 wide.
    """
    arm = max(1, round(share * width))
    return arm, arm // 2 if arm // 2 % 2 else arm // 2 + 1


def _draw_cross(image: NDArray[np.uint8], mark: Mark, arm: int, half: int) -> None:
    for reach_x, reach_y in ((arm, half), (half, arm)):
        rows = slice(max(mark.y - reach_y, 0), mark.y + reach_y + 1)
        columns = slice(max(mark.x - reach_x, 0), mark.x + reach_x + 1)
        image[rows, columns] = COLORS[mark.color]


def _check(mark: Mark, frames: Sequence[NDArray[np.uint8]]) -> None:
    if mark.color not in COLORS:
        raise ValueError(f"no mark colour {mark.color!r}, choose from {', '.join(COLORS)}")
    if not 0 <= mark.frame < len(frames):
        raise ValueError(f"mark on frame {mark.frame}, but the clip has {len(frames)} frames, counted from 0")
    image = frames[mark.frame]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"frames must be (H, W, 3) uint8 to be marked, got {image.shape} {image.dtype}")
    height, width = image.shape[:2]
    if not (0 <= mark.x < width and 0 <= mark.y < height):
        raise ValueError(f"pixel ({mark.x}, {mark.y}) lies outside frame {mark.frame} of {width}x{height} pixels")
