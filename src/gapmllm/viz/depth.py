"""Depth maps as pictures, with a legend in metres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from gapmllm.viz.labels import label_font

COLOR_MAP = "viridis"
"""Matplotlib's: lightness rises evenly, so far is bright, near is dark, and steps are seen as they are."""
UNKNOWN = (60, 60, 60)
"""Grey: no colour of the map."""


def depth_range(maps: Sequence[ArrayLike]) -> tuple[float, float]:
    """Limits (near, far) in metres that suit all the maps: from 0 to what all but 1 % of the pixels stay below.

    From 0, so that the colours of different recordings compare. Nothing known: 0 to 1.
    """
    known = [values[np.isfinite(values) & (values > 0)] for values in (np.asarray(depth) for depth in maps)]
    values = np.concatenate([*known, np.zeros(0)])
    return 0.0, float(np.percentile(values, 99)) if len(values) else 1.0


def depth_colors(depth: ArrayLike, limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Depth (H, W) in metres along z, 0 or NaN = unknown -> colours (H, W, 3). limits: near and far, metres.

    What lies beyond a limit has the colour of the limit.
    """
    near, far = limits
    if not near < far:
        raise ValueError(f"limits must be near < far in metres, got {limits}")
    values = np.asarray(depth, dtype=np.float64)
    known = np.isfinite(values) & (values > 0)
    share = np.clip((np.where(known, values, near) - near) / (far - near), 0, 1)
    colors = colormaps[COLOR_MAP](share, bytes=True)[..., :3]
    return np.where(known[..., None], colors, np.array(UNKNOWN, dtype=np.uint8))


def draw_depth(depth: ArrayLike, limits: tuple[float, float] | None = None) -> Image.Image:
    """The depth map (H, W) as a picture, and below it a legend in metres. limits: see `depth_colors`; None: fitting.

    The first H rows are the map, pixel for pixel.
    """
    limits = depth_range([depth]) if limits is None else limits
    colors = depth_colors(depth, limits)
    height, width = colors.shape[:2]
    picture = Image.new("RGB", (width, height + legend_height(height)), "black")
    picture.paste(Image.fromarray(colors), (0, 0))
    _draw_legend(picture, height, limits)
    return picture


def legend_height(map_height: int) -> int:
    """Pixels that the legend of a map adds below it."""
    return int(label_font(map_height).getbbox("0")[3]) + 8


def _draw_legend(picture: Image.Image, top: int, limits: tuple[float, float]) -> None:
    """Numbers on the bar itself: it stays small, and each number stands on its own colour."""
    draw, font = ImageDraw.Draw(picture), label_font(top)
    bar = depth_colors(np.linspace(max(limits[0], 1e-9), limits[1], picture.width)[None], limits)
    picture.paste(Image.fromarray(np.repeat(bar, picture.height - top - 2, axis=0)), (0, top + 2))
    middle, room = (top + 2 + picture.height) / 2, picture.width
    for share, anchor in ((0, "lm"), (0.25, "mm"), (0.5, "mm"), (0.75, "mm"), (1, "rm")):
        text = f"{limits[0] + share * (limits[1] - limits[0]):.1f} m"
        x = min(max(share * room, 4), room - 4)
        draw.text((x, middle), text, fill="white" if share < 0.6 else "black", font=font, anchor=anchor)
