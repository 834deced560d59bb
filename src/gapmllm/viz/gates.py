"""Where the fusion trusts geometry: the gate of each token (`gapmllm.model.gates`), drawn over the frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from gapmllm.geometry.camera import FloatArray
from gapmllm.viz.depth import COLOR_MAP, legend_height
from gapmllm.viz.labels import label_font

Pixels = NDArray[np.uint8]
Limits = tuple[float, float]

_SHARE = 0.6  # of the colours; the rest is the frame in grey, whose own colours would be taken for values
_CELL = 300  # pixels: width of one picture in the sheet
_GAP = 4  # pixels between pictures
_SUITS = 616  # pixels: the picture height that the font of the sheet suits


def draw_gates(image: Pixels, gates: ArrayLike, limits: Limits = (0.0, 1.0)) -> Pixels:
    """The frame in grey under the colours of its gates, and below it a legend.

    image: (H, W, 3) uint8 RGB. gates: (rows, cols) in [0, 1], 1 = appearance, 0 = geometry; the tokens share the frame
    evenly, as in the image grid "fit". limits: the gates at both ends of the colours; what lies beyond has theirs.
    Returns (H + legend, W, 3) uint8; the first H rows are the frame, pixel for pixel. ValueError for other input.
    """
    colored = _overlay(_checked_image(image, "the image"), _checked_gates(gates, "the gates", 2), limits)
    gap = np.zeros((2, *colored.shape[1:]), dtype=np.uint8)
    return np.concatenate([colored, gap, _legend(colored.shape[1], len(colored), limits)])


def gates_sheet(
    images: Sequence[Pixels], levels: Sequence[ArrayLike] | Mapping[str, ArrayLike], limits: Limits = (0.0, 1.0)
) -> Pixels:
    """All frames of a clip and their gates in one picture: a row for each frame, a column for each level.

    images: S frames of one size. levels: (S, rows, cols) each, under their names as `gapmllm.infer.gates` gives them
    for one clip, or without as `gapmllm.model.gates` does: DeepStack, then main. limits: see `draw_gates`. Above a
    level stand the smallest and the largest of its gates.
    Returns (height, width, 3) uint8. ValueError for other input, and for no frames or levels.
    """
    frames = [_checked_image(image, f"frame {index}") for index, image in enumerate(images)]
    if not isinstance(levels, Mapping):
        names = [*(f"DeepStack {index + 1}" for index in range(len(levels) - 1)), "main"]
        levels = dict(zip(names, levels, strict=False))
    gates = [_checked_gates(level, f"level {index}", 3) for index, level in enumerate(levels.values())]
    sizes = {f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames}
    if len(sizes) != 1 or not gates or any(len(level) != len(frames) for level in gates):
        raise ValueError(
            f"frames of one size, and levels of as many gates are needed; got {len(frames)} frames of "
            f"{', '.join(sorted(sizes)) or 'no size'}, levels of {[len(level) for level in gates]}"
        )
    height = max(1, round(_CELL * frames[0].shape[0] / frames[0].shape[1]))
    shown = [np.asarray(Image.fromarray(frame).resize((_CELL, height))) for frame in frames]
    columns = {"frames": shown}
    for name, level in zip(levels, gates, strict=True):
        caption = f"{name}: {level.min():.2f} to {level.max():.2f}"
        columns[caption] = [_overlay(frame, of_frame, limits) for frame, of_frame in zip(shown, level, strict=True)]
    return _sheet(columns, limits)


def _sheet(columns: dict[str, list[Pixels]], limits: Limits) -> Pixels:
    """Captions, below each its pictures, all of one size; the first column's are numbered. Below it all a legend."""
    font, (height, width) = label_font(_SUITS), next(iter(columns.values()))[0].shape[:2]
    legend = Image.fromarray(_legend(len(columns) * (width + _GAP) - _GAP, _SUITS, limits))
    tops = [legend.height + index * (height + _GAP) for index in range(len(next(iter(columns.values()))))]
    sheet = Image.new("RGB", (legend.width, tops[-1] + height + _GAP + legend.height), "white")
    sheet.paste(legend, (0, sheet.height - legend.height))
    draw = ImageDraw.Draw(sheet)
    for column, (caption, pictures) in enumerate(columns.items()):
        left = column * (width + _GAP)
        draw.text((left + width / 2, legend.height / 2), caption, fill="black", font=font, anchor="mm")
        for top, picture in zip(tops, pictures, strict=True):
            sheet.paste(Image.fromarray(picture), (left, top))
    for index, top in enumerate(tops):
        draw.text((_GAP, top + _GAP), str(index), fill="white", font=font, stroke_width=2, stroke_fill="black")
    return np.asarray(sheet)


def _overlay(image: Pixels, gates: FloatArray, limits: Limits) -> Pixels:
    """Each pixel has the colour of the token that holds it."""
    low, high = limits
    if not 0 <= low < high <= 1:
        raise ValueError(f"limits must be two gates, 0 <= low < high <= 1, got {limits}")
    shares = np.clip((gates - low) / (high - low), 0, 1)
    (height, width), (rows, cols) = image.shape[:2], gates.shape
    row, col = np.arange(height) * rows // height, np.arange(width) * cols // width
    colors = colormaps[COLOR_MAP](shares, bytes=True)[..., :3][row[:, None], col]
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return np.rint(_SHARE * colors + (1 - _SHARE) * grey).astype(np.uint8)


def _legend(width: int, picture_height: int, limits: Limits) -> Pixels:
    """The colours as they are over middle grey, named at both ends; a narrow one has the numbers alone."""
    grey = np.full((legend_height(picture_height), width, 3), 128, dtype=np.uint8)
    picture = Image.fromarray(_overlay(grey, np.linspace(*limits, width)[None], limits))
    draw, font = ImageDraw.Draw(picture), label_font(picture_height)
    numbers = [f"{limit:.3g}" for limit in limits]
    texts = [
        f"{numbers[0]} = {'more ' * (limits[0] > 0)}geometry",
        f"{numbers[1]} = {'more ' * (limits[1] < 1)}appearance",
    ]
    if sum(draw.textlength(text, font=font) for text in texts) > width - 4 * _GAP:
        texts = numbers
    middle = picture.height / 2
    draw.text((_GAP, middle), texts[0], fill="white", font=font, anchor="lm")
    draw.text((width - _GAP, middle), texts[1], fill="black", font=font, anchor="rm")
    return np.asarray(picture)


def _checked_image(image: Pixels, name: str) -> Pixels:
    values = np.asarray(image)
    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] != 3 or not values.size:
        raise ValueError(f"{name} must be (H, W, 3) uint8 RGB, got {values.dtype} {values.shape}")
    return values


def _checked_gates(gates: ArrayLike, name: str, axes: int) -> FloatArray:
    values = np.asarray(gates, dtype=np.float64)
    shape = "(rows, cols)" if axes == 2 else "(frames, rows, cols)"
    if values.ndim != axes or not values.size:
        raise ValueError(f"{name} must be {shape}, got {values.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{name} must lie in [0, 1], got {values.min()} to {values.max()}")
    return values
