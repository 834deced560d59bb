"""A scene as one GLB file: a coloured point cloud, boxes and cameras, for any viewer.

glTF has y up, our world has z up (`geometry/camera.py`). The vertices themselves are turned by -90 degrees about x,
(x, y, z) -> (x, z, -y), so that a room stands upright in every viewer; `from_gltf` turns them back. Colours of glTF are
linear, not sRGB, and are converted. Lines of glTF are one pixel thin: edges are thin tubes instead.

Nodes: "points"; "boxes chair", … (all boxes of one label); "camera 000", … in the order given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import ArrayLike, NDArray

from gapmllm.geometry import BOX_EDGES, BOX_TRIANGLES, Boxes, project, transform_points, unproject_pixels
from gapmllm.geometry.camera import FloatArray, check_pose
from gapmllm.scenes.images import srgb_to_linear
from gapmllm.scenes.records import Frame, Scene, evenly
from gapmllm.viz.labels import Color, label_color

TUBE = 0.015
"""Thickness of the boxes' edges, metres."""
_CAMERA_TUBE, _CAMERA_DEPTH = 0.006, 0.15  # metres: thickness of a camera's edges, distance of its picture
_CAMERA_COLOR, _FIRST_COLOR = (60, 60, 60), (0, 160, 64)  # the first camera is green, as in the top view
_MAX_FRAMES = 60
_TO_GLTF = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def write_glb(
    path: Path,
    *,
    points: ArrayLike = (),
    colors: ArrayLike = (),
    boxes: Boxes | None = None,
    labels: Sequence[str] = (),
    box_colors: Sequence[Color] = (),
    cameras: ArrayLike = (),
    intrinsics: ArrayLike | None = None,
    size: ArrayLike | None = None,
    max_points: int = 200_000,
) -> None:
    """Write what is given, in the world (z up, metres), to a GLB file that stands upright in viewers.

    points (N, 3), colors (N, 3) 0 to 255: at most max_points of them, drawn at random, always the same ones.
    boxes and labels: one label each. box_colors: one each, the same for all boxes of a label; none: `label_color`.
    cameras (F, 4, 4) camera_to_world, with intrinsics (3, 3) or (F, 3, 3) and the size (width, height) of their images
    in pixels, (2,) or (F, 2).
    Raises ValueError if there is nothing to write, or if cameras come without intrinsics and size.
    """
    content = trimesh.Scene()
    cloud = np.reshape(np.asarray(points, dtype=np.float64), (-1, 3))
    if len(cloud):
        kept = subsample(len(cloud), max_points, seed=0)
        shades = np.reshape(np.asarray(colors), (-1, 3))[kept] if len(np.asarray(colors)) else None
        content.add_geometry(_point_cloud(cloud[kept], shades), node_name="points", geom_name="points")
    for label, mesh in _box_meshes(boxes, labels, box_colors):
        content.add_geometry(mesh, node_name=f"boxes {label}", geom_name=f"boxes {label}")
    for i, mesh in enumerate(_camera_meshes(cameras, intrinsics, size)):
        content.add_geometry(mesh, node_name=f"camera {i:03d}", geom_name=f"camera {i:03d}")
    if not content.geometry:
        raise ValueError(f"{path}: nothing to write; give points, boxes or cameras")
    path.write_bytes(content.export(file_type="glb"))  # type: ignore[no-untyped-call]


def from_gltf(vertices: ArrayLike) -> FloatArray:
    """Vertices (..., 3) of such a file -> the world, z up."""
    return np.asarray(vertices, dtype=np.float64) @ _TO_GLTF


def scene_points(scene: Scene, max_points: int = 200_000, seed: int = 0) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Points (N, 3) in the world from the frames' depth, with colours (N, 3) from their images.

    Each frame gives its share of max_points, drawn at random with the seed; of long recordings, 60 frames, evenly
    spaced, are read. No depth: N = 0.
    """
    frames = [frame for frame in scene.frames if frame.depth is not None]
    frames = [frames[i] for i in evenly(len(frames), _MAX_FRAMES)]
    share = -(-max_points // max(len(frames), 1))
    parts = [_frame_points(frame, share, seed + i) for i, frame in enumerate(frames)]
    points = np.concatenate([np.zeros((0, 3)), *(part[0] for part in parts)])
    colors = np.concatenate([np.zeros((0, 3), np.uint8), *(part[1] for part in parts)])
    kept = subsample(len(points), max_points, seed)
    return points[kept], colors[kept]


def _frame_points(frame: Frame, count: int, seed: int) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Depth and image have the same centre, so a point seen in the depth is looked up in the image by projecting it."""
    depth = frame.depth_map()
    assert depth is not None
    rows, columns = np.nonzero(depth > 0)
    kept = subsample(len(rows), count, seed)
    rows, columns = rows[kept], columns[kept]
    local = unproject_pixels(np.stack([columns, rows], axis=-1), depth[rows, columns], frame.depth_camera())
    image = frame.pixels()
    x, y = np.rint(project(local, frame.intrinsics)[0]).astype(int).T
    inside = (x >= 0) & (x < image.shape[1]) & (y >= 0) & (y < image.shape[0])
    return transform_points(local[inside], frame.camera_to_world), image[y[inside], x[inside]]


def subsample(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """Indices of at most `most` of `count` things, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _point_cloud(points: FloatArray, colors: NDArray[np.generic] | None) -> trimesh.PointCloud:
    shades = np.full((len(points), 3), 128) if colors is None else colors
    linear = np.rint(srgb_to_linear(shades.astype(np.int64)) * 255).astype(np.uint8)
    alpha = np.full((len(points), 1), 255, np.uint8)
    return trimesh.PointCloud(  # type: ignore[no-untyped-call]
        points @ _TO_GLTF.T, colors=np.hstack([linear, alpha])
    )


def _box_meshes(
    boxes: Boxes | None, labels: Sequence[str], colors: Sequence[Color]
) -> list[tuple[str, trimesh.Trimesh]]:
    if boxes is None or not len(boxes):
        return []
    if len(labels) != len(boxes):
        raise ValueError(f"got {len(labels)} labels for {len(boxes)} boxes; give each box one")
    segments = boxes.corners()[:, BOX_EDGES]  # (N, 12, 2, 3)
    names = np.array(labels)
    shades = {label: colors[labels.index(label)] if colors else label_color(label) for label in sorted(set(labels))}
    return [(label, _tubes(segments[names == label].reshape(-1, 2, 3), TUBE, shades[label])) for label in shades]


def _camera_meshes(cameras: ArrayLike, intrinsics: ArrayLike | None, size: ArrayLike | None) -> list[trimesh.Trimesh]:
    poses = np.reshape(np.asarray(cameras, dtype=np.float64), (-1, 4, 4))
    if not len(poses):
        return []
    if intrinsics is None or size is None:
        raise ValueError(f"{len(poses)} cameras were given; their intrinsics and image size are needed to draw them")
    matrices = np.broadcast_to(np.asarray(intrinsics, dtype=np.float64), (len(poses), 3, 3))
    sizes = np.broadcast_to(np.asarray(size), (len(poses), 2))
    colors = [_FIRST_COLOR] + [_CAMERA_COLOR] * (len(poses) - 1)
    return [
        _tubes(frustum(pose, matrix, image), _CAMERA_TUBE, color)
        for pose, matrix, image, color in zip(check_pose(poses), matrices, sizes, colors, strict=True)
    ]


def frustum(pose: FloatArray, intrinsics: FloatArray, size: NDArray[np.integer]) -> FloatArray:
    """Segments (10, 2, 3) in the world: four rays to the corners of the image, its border, and a roof that shows up."""
    right, bottom = size[0] - 0.5, size[1] - 0.5
    pixels = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
    corners = unproject_pixels(pixels, np.full(4, _CAMERA_DEPTH), intrinsics)
    roof = (corners[0] + corners[1]) / 2 + (corners[0] - corners[3]) * 0.3
    eye = np.zeros(3)
    lines = [(eye, corner) for corner in corners]
    lines += [(corners[i], corners[(i + 1) % 4]) for i in range(4)]
    lines += [(corners[0], roof), (roof, corners[1])]
    return transform_points(np.array(lines), pose)


def _tubes(segments: FloatArray, thickness: float, color: tuple[int, int, int]) -> trimesh.Trimesh:
    """One mesh of square tubes around segments (S, 2, 3), in glTF's axes; each as long as its segment and thickness."""
    along = segments[:, 1] - segments[:, 0]
    length = np.linalg.norm(along, axis=1)
    tubes = Boxes(
        segments.mean(axis=1),
        np.stack([np.full_like(length, thickness)] * 2 + [length + thickness], axis=1),
        _rotations_to(along / np.maximum(length, 1e-12)[:, None]),
    )
    vertices = tubes.corners().reshape(-1, 3) @ _TO_GLTF.T
    faces = (BOX_TRIANGLES + 8 * np.arange(len(segments))[:, None, None]).reshape(-1, 3)
    shade = srgb_to_linear(np.array(color))
    # It shines a little itself: seen in viewers without light too.
    material = trimesh.visual.material.PBRMaterial(  # type: ignore[no-untyped-call]
        baseColorFactor=[*shade, 1.0], emissiveFactor=shade * 0.4, metallicFactor=0.0, roughnessFactor=1.0
    )
    visual = trimesh.visual.TextureVisuals(material=material)  # type: ignore[no-untyped-call]
    return trimesh.Trimesh(vertices, faces, visual=visual, process=False)


def _rotations_to(directions: FloatArray) -> FloatArray:
    """Rotations (S, 3, 3) whose z axis is the unit direction (S, 3); a zero direction counts as z."""
    z = np.where(np.linalg.norm(directions, axis=1, keepdims=True) > 0.5, directions, (0.0, 0.0, 1.0))
    helper = np.eye(3)[np.abs(z).argmin(axis=1)]  # the world axis that is least along it
    x = np.cross(helper, z)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(z, x), z], axis=2)
