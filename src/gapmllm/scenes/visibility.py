"""Which objects a frame shows, and how much of it they cover, where the data set does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gapmllm.geometry import BOX_EDGES, Boxes, invert_pose, project, unproject
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.records import Frame, Scene, SceneObject, boxes_of

MIN_SHARE = 5e-4
"""Objects that cover less of the image are not in view: 25 pixels of 256x192."""
_SLACK = 0.02  # metres that a box is widened by: depth is noisy, annotated boxes are tight
_STRIDE = 4  # every 4th depth pixel of each row and column is looked at
_NEAR = 0.05  # metres: a box is cut off here before it is projected


def visible_objects(frame: Frame, objects: Sequence[SceneObject]) -> dict[int, float]:
    """Object id -> share of the image that the object covers, for the objects with at least MIN_SHARE.

    With depth: the share of depth pixels whose 3D point lies in the box (what stands before the object hides it).
    Without any known depth: the area of the projected box, clipped to the image, an upper bound.
    """
    boxes = boxes_of(objects).transform(invert_pose(frame.camera_to_world))
    depth = frame.depth_map()
    known = depth is not None and bool(depth.any())
    shares = _depth_shares(boxes, frame, depth) if known else _projected_shares(boxes, frame)  # type: ignore[arg-type]
    return {item.id: float(share) for item, share in zip(objects, shares, strict=True) if share >= MIN_SHARE}


def with_visibility(scene: Scene) -> Scene:
    """The scene with `visible` of every frame that does not have it; scenes without objects stay as they are."""
    if not scene.objects:
        return scene
    frames = (
        frame if frame.visible is not None else replace(frame, visible=visible_objects(frame, scene.objects))
        for frame in scene.frames
    )
    return replace(scene, frames=tuple(frames))


def points_in_boxes(points: FloatArray, boxes: Boxes, slack: float = 0.0) -> np.ndarray:
    """(P, 3) points, N boxes in the same frame -> (P, N) bool; slack: metres by which each box is widened a side."""
    inside = np.empty((len(points), len(boxes)), dtype=bool)
    for column, (center, size, rotation) in enumerate(zip(boxes.centers, boxes.sizes, boxes.rotations, strict=True)):
        inside[:, column] = (np.abs((points - center) @ rotation) <= size / 2 + slack).all(axis=1)
    return inside


def _depth_shares(boxes: Boxes, frame: Frame, depth: np.ndarray) -> FloatArray:
    camera = frame.depth_camera().copy()
    camera[:2] /= _STRIDE  # the camera of the picture that keeps every 4th pixel
    points = unproject(depth[::_STRIDE, ::_STRIDE], camera).reshape(-1, 3)
    known = points[np.isfinite(points[:, 0])]
    return points_in_boxes(known, boxes, _SLACK).sum(axis=0) / len(points)


def _projected_shares(boxes: Boxes, frame: Frame) -> FloatArray:
    width, height = frame.size
    rectangle = np.array([-0.5, -0.5, width - 0.5, height - 0.5])
    areas = [_clipped_area(_outline(corners, frame.intrinsics), rectangle) for corners in boxes.corners()]
    return np.array(areas) / (width * height)


def _outline(corners: FloatArray, intrinsics: FloatArray) -> FloatArray:
    """(n, 2) convex hull in pixels of the part of a box (8, 3) before the camera; n = 0 where there is none."""
    front = corners[:, 2] > _NEAR
    points = [corners[front]]
    for a, b in BOX_EDGES:
        if front[a] != front[b]:
            share = (_NEAR - corners[a, 2]) / (corners[b, 2] - corners[a, 2])
            points.append((corners[a] + share * (corners[b] - corners[a]))[None])
    return _hull(project(np.concatenate(points), intrinsics)[0])


def _hull(points: FloatArray) -> FloatArray:
    """Convex hull, (n, 2), around (Andrew's monotone chain)."""
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]

    def half(rows: FloatArray) -> list[FloatArray]:
        chain: list[FloatArray] = []
        for point in rows:
            while len(chain) > 1 and _cross(chain[-1] - chain[-2], point - chain[-1]) <= 0:
                chain.pop()
            chain.append(point)
        return chain[:-1]

    return np.array(half(ordered) + half(ordered[::-1])).reshape(-1, 2)


def _clipped_area(polygon: FloatArray, rectangle: FloatArray) -> float:
    """Area of a convex polygon inside [x0, y0, x1, y1] (Sutherland and Hodgman 1974, then the shoelace formula)."""
    for axis, sign, limit in ((0, 1, rectangle[0]), (1, 1, rectangle[1]), (0, -1, rectangle[2]), (1, -1, rectangle[3])):
        distance = sign * (polygon[:, axis] - limit) if len(polygon) else np.zeros(0)
        kept = []
        for i in range(len(polygon)):
            j = (i + 1) % len(polygon)
            if distance[i] >= 0:
                kept.append(polygon[i])
            if (distance[i] >= 0) != (distance[j] >= 0):
                kept.append(polygon[i] + distance[i] / (distance[i] - distance[j]) * (polygon[j] - polygon[i]))
        polygon = np.array(kept).reshape(-1, 2)
    following = np.roll(polygon, -1, axis=0)
    return float(abs((polygon[:, 0] * following[:, 1] - polygon[:, 1] * following[:, 0]).sum()) / 2)


def _cross(a: FloatArray, b: FloatArray) -> float:
    return float(a[0] * b[1] - a[1] * b[0])
