"""Boxes drawn into a frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from gapmllm.geometry import BOX_EDGES, Boxes, invert_pose, project, transform_points
from gapmllm.geometry.camera import FloatArray
from gapmllm.viz.labels import draw_labels
from gapmllm.viz.labels import label_color as label_color

_NEAR = 0.05  # metres: edges are cut off here, since what is behind the camera has no pixel


def draw_boxes(
    image: Image.Image,
    boxes: Boxes,
    intrinsics: ArrayLike,
    camera_to_world: ArrayLike | None = None,
    labels: Sequence[str] = (),
    width: int | None = None,
) -> Image.Image:
    """A copy of the image with the edges of the boxes, and their labels near the middle of the edges in view.

    boxes: in the world where camera_to_world is given, else in the camera frame. intrinsics: (3, 3), of this image.
    width: of the lines, pixels; None: in proportion to the image. Each label has its own colour, the same in every
    picture. Near boxes are drawn over far ones, and their labels get the better places; where there is no place, a
    label is left out. All boxes are drawn, hidden or not: choose them before.
    """
    picture = image.convert("RGB")
    draw = ImageDraw.Draw(picture)
    width = max(1, round(picture.height / 240)) if width is None else width
    world_to_camera = np.eye(4) if camera_to_world is None else invert_pose(camera_to_world)
    corners = transform_points(boxes.corners(), world_to_camera)
    names = list(labels) or [""] * len(boxes)
    nearest_first = np.argsort(np.linalg.norm(corners.mean(axis=1), axis=1), kind="stable")
    for i in nearest_first[::-1]:
        draw_edges(draw, corners[i], intrinsics, label_color(names[i]), width)
    anchors = {i: middle_in_view(corners[i], intrinsics, picture.size) for i in nearest_first if names[i]}
    found = [(i, anchor) for i, anchor in anchors.items() if anchor is not None]
    draw_labels(picture, [anchor for _, anchor in found], [names[i] for i, _ in found])
    return picture


def draw_edges(
    draw: ImageDraw.ImageDraw, corners: FloatArray, intrinsics: ArrayLike, color: tuple[int, int, int], width: int
) -> None:
    """The edges of a box by its corners (8, 3) in the camera's frame, cut off where they come behind it."""
    for segment in project_edges(corners, intrinsics):
        # Rounded: pixel (0, 0) is the centre of a pixel, and Pillow would cut the fraction off.
        draw.line(np.rint(segment).ravel().tolist(), fill=color, width=width)


def project_edges(corners: FloatArray, intrinsics: ArrayLike) -> FloatArray:
    """Edges (n, 2, 2) in pixels, of what of a box (8, 3) in the camera's frame lies before the camera."""
    segments = [_cut_behind(corners[a], corners[b]) for a, b in BOX_EDGES]
    return project(np.reshape([segment for segment in segments if segment is not None], (-1, 2, 3)), intrinsics)[0]


def middle_in_view(corners: FloatArray, intrinsics: ArrayLike, size: tuple[int, int]) -> tuple[float, float] | None:
    """Middle of what the picture shows of a box's edges, in pixels: also right for a box that is partly outside."""
    ends = project_edges(corners, intrinsics)
    if not len(ends):
        return None
    share = np.linspace(0, 1, 33)[:, None]
    pixels = np.concatenate([a + share * (b - a) for a, b in ends])
    weights = np.repeat([np.linalg.norm(b - a) for a, b in ends], len(share))  # each pixel of a line counts the same
    inside = ((pixels >= 0) & (pixels < size)).all(axis=1) & (weights > 0)
    if not inside.any():
        return None
    x, y = np.average(pixels[inside], axis=0, weights=weights[inside]).tolist()
    return x, y


def _cut_behind(a: FloatArray, b: FloatArray) -> FloatArray | None:
    """The part of a segment in front of the near plane, (2, 3), or None."""
    if max(a[2], b[2]) <= _NEAR:
        return None
    for _ in range(2):
        if a[2] < _NEAR:
            a = a + (b - a) * (_NEAR - a[2]) / (b[2] - a[2])
        a, b = b, a
    return np.stack([a, b])
