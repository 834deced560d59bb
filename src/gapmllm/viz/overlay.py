"""Boxes drawn into a frame."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from gapmllm.geometry import Boxes, invert_pose, project, transform_points
from gapmllm.geometry.camera import FloatArray

# Pairs of corners that an edge joins, in the order of `CORNER_SIGNS`.
_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
_NEAR = 0.05  # metres: edges are cut off here, since what is behind the camera has no pixel


def draw_boxes(
    image: Image.Image,
    boxes: Boxes,
    intrinsics: ArrayLike,
    camera_to_world: ArrayLike | None = None,
    labels: Sequence[str] = (),
    width: int = 3,
) -> Image.Image:
    """A copy of the image with the edges of the boxes, and their labels where the centre is in view.

    boxes: in the world where camera_to_world is given, else in the camera frame. intrinsics: (3, 3), of this image.
    Each label has its own colour, the same in every picture.
    """
    picture = image.convert("RGB")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(12, picture.height // 40))
    world_to_camera = np.eye(4) if camera_to_world is None else invert_pose(camera_to_world)
    for i, corners in enumerate(transform_points(boxes.corners(), world_to_camera)):
        label = labels[i] if labels else ""
        color = label_color(label)
        for a, b in _EDGES:
            segment = _cut_behind(corners[a], corners[b])
            if segment is not None:
                # Rounded: pixel (0, 0) is the centre of a pixel, and Pillow would cut the fraction off.
                draw.line(np.rint(project(segment, intrinsics)[0]).ravel().tolist(), fill=color, width=width)
        pixel, depth = project(corners.mean(axis=0), intrinsics)
        if label and depth > _NEAR and (pixel >= 0).all() and (pixel < picture.size).all():
            place = (float(pixel[0]), float(pixel[1]))
            draw.rectangle(draw.textbbox(place, label, font=font, anchor="mm"), fill="black")
            draw.text(place, label, fill=color, font=font, anchor="mm")
    return picture


def label_color(label: str) -> tuple[int, int, int]:
    """A bright colour that depends on the label alone."""
    hue = crc32(label.encode()) / 2**32
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def _cut_behind(a: FloatArray, b: FloatArray) -> FloatArray | None:
    """The part of a segment in front of the near plane, (2, 3), or None."""
    if max(a[2], b[2]) <= _NEAR:
        return None
    for _ in range(2):
        if a[2] < _NEAR:
            a = a + (b - a) * (_NEAR - a[2]) / (b[2] - a[2])
        a, b = b, a
    return np.stack([a, b])
