"""Small shapes drawn into pictures, with dark edges: they are seen on any ground. line: pixels of thickness."""

from __future__ import annotations

import numpy as np
from PIL import ImageDraw

from gapmllm.geometry.camera import FloatArray
from gapmllm.viz.labels import Color, Rectangle

Pixel = tuple[float, float]
_DARK: Color = (0, 0, 0)


def draw_cross(draw: ImageDraw.ImageDraw, at: Pixel, color: Color, line: int) -> Rectangle:
    """Returns what it covers."""
    x, y = round(at[0]), round(at[1])
    for shade, edge in ((_DARK, 1), (color, 0)):
        long, half = 5 * line + edge, line + edge
        draw.rectangle((x - long, y - half, x + long, y + half), fill=shade)
        draw.rectangle((x - half, y - long, x + half, y + long), fill=shade)
    return _around(at, 5 * line + 1)


def draw_ring(draw: ImageDraw.ImageDraw, at: Pixel, color: Color, line: int, corners: int = 48) -> Rectangle:
    """A ring, or with 4 corners a diamond. Returns what it covers."""
    angles = np.linspace(0, 2 * np.pi, corners + 1)
    outline = np.array(at) + 6 * line * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for shade, edge in ((_DARK, 2), (color, 0)):
        draw.line(np.rint(outline).ravel().tolist(), fill=shade, width=line + edge, joint="curve")
    return _around(at, 7 * line)


def draw_dot(draw: ImageDraw.ImageDraw, at: Pixel, color: Color, line: int) -> Rectangle:
    """Returns what it covers."""
    draw.circle((round(at[0]), round(at[1])), 2 * line, fill=color, outline=_DARK)
    return _around(at, 2 * line)


def draw_link(draw: ImageDraw.ImageDraw, start: Pixel, end: Pixel, color: Color, line: int) -> None:
    """A line between two pixels."""
    for shade, edge in ((_DARK, 2), (color, 0)):
        draw.line(np.rint([start, end]).ravel().tolist(), fill=shade, width=line + edge)


def draw_dashed(
    draw: ImageDraw.ImageDraw, segments: FloatArray, size: tuple[int, int], color: Color, line: int
) -> None:
    """Segments (n, 2, 2) in pixels of a picture of this size, which they may leave."""
    dashes = np.concatenate([np.zeros((0, 2, 2)), *(_dashes(a, b, size, 5.0 * line) for a, b in segments)])
    for shade, edge in ((_DARK, 2), (color, 0)):
        for dash in np.rint(dashes):
            draw.line(dash.ravel().tolist(), fill=shade, width=line + edge)


def _dashes(start: FloatArray, end: FloatArray, size: tuple[int, int], length: float) -> FloatArray:
    """(n, 2, 2): the dashes of a segment that the picture shows; a segment that starts behind it may be very long."""
    along = end - start
    total = float(np.linalg.norm(along))
    with np.errstate(divide="ignore", invalid="ignore"):  # along an axis: all of it is inside the borders, or nothing
        borders = np.sort([-start / along, (size - start) / along], axis=0)
    low, high = np.nanmax([0.0, *borders[0]]), np.nanmin([1.0, *borders[1]])
    if low >= high:
        return np.zeros((0, 2, 2))
    starts = np.arange(low * total // (2 * length), high * total / (2 * length)) * 2 * length
    ends = np.minimum(starts + length, total)
    direction = along / max(total, 1e-9)
    return start + np.stack([starts, ends], axis=1)[..., None] * direction


def _around(at: Pixel, reach: int) -> Rectangle:
    x, y = round(at[0]), round(at[1])
    return (x - reach, y - reach, x + reach + 1, y + reach + 1)
