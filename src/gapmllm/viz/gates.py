"""Where the fusion trusts geometry: the gate of each token (`gapmllm.model.gates`), drawn over the frames."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib import colormaps
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from gapmllm.geometry.camera import FloatArray
from gapmllm.viz.depth import COLOR_MAP, legend_height
from gapmllm.viz.labels import label_font

Pixels = NDArray[np.uint8]

_SHARE = 0.6  # of the colours; the rest is the frame in grey, whose own colours would be taken for values
_CELL = 300  # pixels: width of one picture in the sheet
_GAP = 4  # pixels between pictures
_TEXT_FOR = 616  # pixels: the picture height that the font of the sheet suits


def draw_gates(image: Pixels, gates: ArrayLike, limits: tuple[float, float] = (0.0, 1.0)) -> Pixels:
    """The frame in grey under the colours of its gates, and below it a legend.

    image: (H, W, 3) uint8 RGB. gates: (rows, cols) in [0, 1], one for each token, 1 = appearance, 0 = geometry; the
    tokens share the frame evenly, as in the image grid "fit". limits: the gates that the ends of the colours stand for.
    Returns (H + legend, W, 3) uint8; the first H rows are the frame, pixel for pixel. ValueError for other input.
    """
    colored = _overlay(_checked_image(image, "the image"), _checked_gates(gates, "the gates"), limits)
    legend = _legend(image.shape[1], legend_height(len(image)), len(image), limits)
    return np.concatenate([colored, legend])


def gates_sheet(
    images: Sequence[Pixels], levels: Sequence[ArrayLike], limits: tuple[float, float] = (0.0, 1.0)
) -> Pixels:
    """All frames of a clip and their gates in one picture: a row for each frame, a column for each level.

    images: S frames of one size. levels: (S, rows, cols) each, in the order of `gapmllm.model.gates`: DeepStack, then
    main. limits: see `draw_gates`. Above each level stand the smallest and the largest of its gates.
    Returns (height, width, 3) uint8. ValueError for other input, as nothing to draw or frames of several sizes.
    """
    frames = [_checked_image(image, f"frame {index}") for index, image in enumerate(images)]
    if not frames or not len(levels) or {frame.shape for frame in frames} != {frames[0].shape}:
        sizes = sorted({f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames})
        raise ValueError(f"frames of one size and their levels are needed, got {len(levels)} levels, sizes {sizes}")
    names = [f"DeepStack {index}" for index in range(1, len(levels))] + ["main"]
    gates = [_checked_level(level, name, len(frames)) for level, name in zip(levels, names, strict=True)]
    height = round(_CELL * frames[0].shape[0] / frames[0].shape[1])
    frames = [np.asarray(Image.fromarray(frame).resize((_CELL, max(height, 1)))) for frame in frames]
    rows = [
        [frame, *(_overlay(frame, level[index], limits) for level in gates)] for index, frame in enumerate(frames)
    ]
    captions = [f"{name}: {level.min():.2f} to {level.max():.2f}" for name, level in zip(names, gates, strict=True)]
    return _sheet(rows, ["frames", *captions], limits)


def _sheet(rows: list[list[Pixels]], captions: list[str], limits: tuple[float, float]) -> Pixels:
    """Captions, the rows of pictures of one size, a legend."""
    strip, (height, width) = legend_height(_TEXT_FOR), rows[0][0].shape[:2]
    total = len(captions) * (width + _GAP) - _GAP
    sheet = Image.new("RGB", (total, 2 * strip + len(rows) * (height + _GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), label_font(_TEXT_FOR)
    for column, caption in enumerate(captions):
        left = column * (width + _GAP)
        draw.text((left + width / 2, strip / 2), caption, fill="black", font=font, anchor="mm")
        for index, row in enumerate(rows):
            sheet.paste(Image.fromarray(row[column]), (left, strip + index * (height + _GAP)))
    for index in range(len(rows)):
        corner = (_GAP, strip + index * (height + _GAP) + _GAP)
        draw.text(corner, str(index), fill="white", font=font, stroke_width=2, stroke_fill="black")
    sheet.paste(Image.fromarray(_legend(total, strip, _TEXT_FOR, limits)), (0, sheet.height - strip))
    return np.asarray(sheet)


def _overlay(image: Pixels, gates: FloatArray, limits: tuple[float, float]) -> Pixels:
    """Each pixel gets the colour of the token that holds it."""
    edges = [np.arange(2 * size + 1)[1::2] for size in image.shape[:2]]
    row, col = (middle * count // (2 * size) for middle, count, size in zip(edges, gates.shape, image.shape[:2]))
    colors = _colors(gates, limits)[row[:, None], col]
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float64)[..., None]
    return np.rint(_SHARE * colors + (1 - _SHARE) * grey).astype(np.uint8)


def _colors(gates: FloatArray, limits: tuple[float, float]) -> FloatArray:
    low, high = limits
    if not 0 <= low < high <= 1:
        raise ValueError(f"limits must be two gates, 0 <= low < high <= 1, got {limits}")
    share = np.clip((gates - low) / (high - low), 0, 1)
    return np.asarray(colormaps[COLOR_MAP](share)[..., :3] * 255, dtype=np.float64)


def _legend(width: int, height: int, picture_height: int, limits: tuple[float, float]) -> Pixels:
    """The colours as they look over middle grey; what does not fit is left out, the words first."""
    grey = np.full((height, width, 3), 128, dtype=np.uint8)
