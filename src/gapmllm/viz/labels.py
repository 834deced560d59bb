"""Labels in pictures: a colour for each class name, and plates of text that do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from zlib import crc32

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.images import srgb_to_linear

Color = tuple[int, int, int]
"""sRGB, 0 to 255."""
Rectangle = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are outside."""

# The palette is made so that each colour is as far as can be from all before it: what stands first and what often
# stands together in a room differs most.
COMMON_LABELS = (
    *("chair", "table", "bed", "couch", "cabinet", "desk", "window", "door", "pillow", "lamp", "shelf", "picture"),
    *("curtain", "bin", "plant", "monitor", "rug", "book", "sink", "toilet", "refrigerator", "stand", "ottoman"),
    *("tv", "mirror", "light", "dresser", "bathtub", "stove", "computer", "keyboard", "towel", "backpack", "bottle"),
    *("whiteboard", "microwave", "box", "sofa", "bookshelf", "counter", "stool", "nightstand", "wardrobe", "clock"),
    *("bag", "cup", "bowl", "vase", "bench", "laptop", "radiator", "blinds", "basket", "oven", "armchair", "printer"),
    *("clothes", "shoes", "telephone", "fan"),
)
_OTHERS = 64  # colours for all other names, none of them one of a common name's
# DejaVu, which matplotlib brings along, writes the languages of Europe; Pillow's own font has no accents.
_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
_PLATE_PAD = 2  # pixels between the text and the border of its plate
_REACH = 4  # plates shift by at most this many of their heights
_LIGHTNESS, _CHROMA = (42.0, 90.0), 38.0  # CIELAB: neither lost in shadow or white walls, nor grey like them


def label_color(label: str) -> Color:
    """A vivid colour that depends on the label alone, the same in every picture and run.

    The common names (`COMMON_LABELS`) have well separated colours, each its own; any two other names may share one.
    """
    place = _COMMON.get(label.strip().lower())
    if place is None:
        place = len(_COMMON) + crc32(label.strip().lower().encode()) % _OTHERS
    red, green, blue = _palette()[place].tolist()
    return red, green, blue


_COMMON = {name: i for i, name in enumerate(COMMON_LABELS)}


@cache
def _palette() -> NDArray[np.uint8]:
    """Colours (P, 3), each the vivid one that is farthest in CIELAB from all before it; red is the first."""
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = srgb_to_lab(grid)
    vivid = (np.hypot(lab[:, 1], lab[:, 2]) >= _CHROMA) & (lab[:, 0] >= _LIGHTNESS[0]) & (lab[:, 0] <= _LIGHTNESS[1])
    grid, lab = grid[vivid], lab[vivid]
    chosen = [int(np.argmin(np.abs(grid - (255, 60, 60)).sum(axis=1)))]
    gap = np.full(len(grid), np.inf)
    while len(chosen) < len(COMMON_LABELS) + _OTHERS:
        gap = np.minimum(gap, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(gap.argmax()))
    return grid[chosen].astype(np.uint8)


def srgb_to_lab(colors: NDArray[np.integer]) -> FloatArray:
    """sRGB (..., 3), 0 to 255 -> CIELAB (..., 3) for the white of D65, where distances are about as people see them."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    share = srgb_to_linear(colors) @ (to_xyz / to_xyz.sum(axis=1, keepdims=True)).T
    f = np.where(share > (6 / 29) ** 3, np.cbrt(share), share / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def label_font(picture_height: int) -> ImageFont.FreeTypeFont:
    """A font in proportion to the picture, never too small to read."""
    return ImageFont.truetype(_FONT, max(11, round(picture_height / 44)))


def place_labels(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[int, int]],
    picture: tuple[int, int],
    avoid: Sequence[Rectangle] = (),
) -> list[Rectangle | None]:
    """Where plates of the given sizes (width, height) go: centred at their anchors, or shifted to a place near by.

    Earlier plates come first. A plate stays inside the picture (width, height) and covers neither another plate nor
    what is to be avoided; one that would have to shift by more than a few times its height finds no place: None.
    """
    placed: list[Rectangle | None] = []
    for anchor, size in zip(anchors, sizes, strict=True):
        taken = [*avoid, *(rectangle for rectangle in placed if rectangle is not None)]
        options = _places(anchor, size, picture)
        placed.append(next((option for option in options if not any(_overlap(option, other) for other in taken)), None))
    return placed


def _places(anchor: tuple[float, float], size: tuple[int, int], picture: tuple[int, int]) -> list[Rectangle]:
    """Places for one plate inside the picture, the nearest to its anchor first."""
    width, height = size
    if width > picture[0] or height > picture[1]:
        return []
    steps = np.arange(-_REACH, _REACH + 1)
    across, down = (grid.ravel() for grid in np.meshgrid(steps * max(height, width // 3), steps * (height + 1)))
    order = np.argsort(np.hypot(across, down), kind="stable")
    left = np.clip(np.rint(anchor[0] - width / 2 + across[order]), 0, picture[0] - width).astype(int).tolist()
    top = np.clip(np.rint(anchor[1] - height / 2 + down[order]), 0, picture[1] - height).astype(int).tolist()
    return [(x, y, x + width, y + height) for x, y in zip(left, top, strict=True)]


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def draw_labels(
    picture: Image.Image,
    anchors: Sequence[tuple[float, float]],
    labels: Sequence[str],
    colors: Sequence[Color] | None = None,
    *,
    font_height: int | None = None,
    avoid: Sequence[Rectangle] = (),
) -> list[Rectangle | None]:
    """Draw plates with the labels into the picture (changed in place), near their anchors; returns where they are.

    anchors: pixels (x, y). colors: of the plates; None: `label_color`. font_height: picture height that the font
    suits, if not this one. A plate that had to shift is joined to its anchor by a line. Order and `avoid`: see
    `place_labels`.
    """
    labels = [" ".join(label.split()) for label in labels]  # Pillow draws no two lines about a middle
    draw = ImageDraw.Draw(picture)
    font = label_font(font_height or picture.height)
    boxes = [draw.textbbox((0, 0), label, font=font, anchor="lt") for label in labels]
    tall = max((box[3] for box in boxes), default=0) + 2 * _PLATE_PAD  # one height for all: a calmer picture
    sizes = [(int(box[2]) + 2 * _PLATE_PAD, int(tall)) for box in boxes]
    placed = place_labels(anchors, sizes, picture.size, avoid)
    shown = [i for i, rectangle in enumerate(placed) if rectangle is not None]
    plate_colors = [label_color(label) for label in labels] if colors is None else colors
    for i in shown:  # all lines before all plates, so that no line crosses a text
        _leader(draw, anchors[i], placed[i], plate_colors[i])
    for i in shown:
        _plate(draw, placed[i], labels[i], plate_colors[i], font)
    return placed


def _leader(draw: ImageDraw.ImageDraw, anchor: tuple[float, float], plate: Rectangle | None, color: Color) -> None:
    if plate is None or (plate[0] <= anchor[0] < plate[2] and plate[1] <= anchor[1] < plate[3]):
        return
    middle = ((plate[0] + plate[2]) // 2, (plate[1] + plate[3]) // 2)
    x, y = round(anchor[0]), round(anchor[1])
    draw.line([(x, y), middle], fill=color, width=1)
    draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=color, outline="black")


def _plate(
    draw: ImageDraw.ImageDraw,
    plate: Rectangle | None,
    label: str,
    color: Color,
    font: ImageFont.FreeTypeFont,
) -> None:
    if plate is None:
        return
    bright = srgb_to_lab(np.array(color))[0] > 55
    draw.rectangle((plate[0], plate[1], plate[2] - 1, plate[3] - 1), fill=color)
    middle = ((plate[0] + plate[2]) / 2, (plate[1] + plate[3]) / 2)
    draw.text(middle, label, fill="black" if bright else "white", font=font, anchor="mm")
