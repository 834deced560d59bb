"""Where the cameras of a view stand and how they see: from the footage where it says so, else from VGGT's heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapmllm.geometry import invert_pose, resize_intrinsics, transform_points, unproject
from gapmllm.geometry.camera import FloatArray
from gapmllm.infer import Locate, Reconstruction, View
from gapmllm.viz.look import Cloud

FIELD_OF_VIEW = 60.0
"""Degrees along the longer side, where nothing is known: phones and webcams have 55 to 75."""
_SANE = (10.0, 150.0)  # degrees: a field of view that the camera head may say
_NEAR, _FAR = 0.1, 30.0  # metres: depths that go into the cloud
_SURE = 0.3  # share of the pixels, the least sure ones, that stay out of it
_APART = 0.05  # relative difference of depth to a neighbour: between two surfaces hang points that no surface has


@dataclass(frozen=True)
class Cameras:
    """Those of S frames."""

    intrinsics: FloatArray
    """(S, 3, 3) pixels of the frames."""
    intrinsics_from: Literal["given", "folder", "estimated", "assumed"]
    camera_to_first: FloatArray | None
    """(S, 4, 4) metres; None: nothing says where the cameras were."""
    poses_from: Literal["folder", "estimated"] | None
    up: FloatArray
    """(3,) unit vector against gravity in the camera of frame 0."""
    notes: tuple[str, ...] = ()


def cameras_of(view: View, found: Reconstruction, field_of_view: float | None = None) -> Cameras:
    """field_of_view: degrees along the longer side, taken in place of an estimate; a folder's own cameras stay."""
    footage, notes = view.footage, []
    height, width = view.frames[0].shape[:2]
    intrinsics: FloatArray
    source: Literal["given", "folder", "estimated", "assumed"]
    if footage.intrinsics is not None:
        assert footage.intrinsics_from is not None
        intrinsics, source = footage.intrinsics, footage.intrinsics_from
        if field_of_view is not None:
            notes.append(f"the field of view of {field_of_view:g} degrees was not needed: intrinsics are {source}")
    elif field_of_view is None and found.intrinsics is not None and _is_sane(found.intrinsics, width, height):
        intrinsics, source = found.intrinsics, "estimated"
    else:
        source = "assumed"
        angle = FIELD_OF_VIEW if field_of_view is None else field_of_view
        focal = max(width, height) / 2 / np.tan(np.radians(angle) / 2)
        camera = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        intrinsics = np.broadcast_to(camera, (len(view.frames), 3, 3))
        how = "was assumed; --K or --fov sets it" if field_of_view is None else "was given"
        notes.append(f"a field of view of {angle:g} degrees along the longer side {how}")
    if footage.camera_to_world is not None:
        first = footage.camera_to_world[0]
        poses: FloatArray | None = invert_pose(first) @ footage.camera_to_world
        up = first[2, :3] if footage.z_up else _guessed_up(poses)
        return Cameras(intrinsics, source, poses, "folder", up, tuple(notes))
    poses = found.camera_to_first
    return Cameras(intrinsics, source, poses, None if poses is None else "estimated", _guessed_up(poses), tuple(notes))


def in_metres(view: View, found: Reconstruction) -> tuple[Reconstruction, list[str]]:
    """A public VGGT is up to scale: its depths and positions are brought to the scale of points that the LLM locates.

    The second: notes about it.
    """
    if found.depth is None or view.model.config.vggt.is_metric:
        return found, []
    scale = _scale(view, found.depth)
    poses = None if found.camera_to_first is None else found.camera_to_first.copy()
    if poses is not None:
        poses[:, :3, 3] *= scale
    note = f"VGGT's lengths are up to scale: times {scale:.3g}, to agree with located points"
    return replace(found, depth=found.depth * scale, camera_to_first=poses), [note]


def cloud_of(view: View, found: Reconstruction, cameras: Cameras) -> Cloud | None:
    """The points that VGGT's depth head sees, in the camera of frame 0; None where the checkpoint has no such head.

    Where the cameras are not known, those of frame 0 alone.
    """
    if found.depth is None or found.confidence is None:
        return None
    depth = found.depth.astype(np.float64)
    poses = np.eye(4)[None] if cameras.camera_to_first is None else cameras.camera_to_first
    size = (depth.shape[2], depth.shape[1])
    parts = []
    for index, pose in enumerate(poses):
        matrix = resize_intrinsics(cameras.intrinsics[index], view.frames[0].shape[1::-1], size)
        kept = _is_usable(depth[index], found.confidence[index])
        points = unproject(np.where(kept, depth[index], 0), matrix)[kept]
        image = Image.fromarray(view.frames[index]).resize(size, Image.Resampling.BOX)
        parts.append((transform_points(points, pose), np.asarray(image)[kept]))
    points, colors = (np.concatenate(side) for side in zip(*parts, strict=True))
    return Cloud(points, colors) if len(points) else None


def _is_usable(depth: FloatArray, confidence: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(h, w) bool: sure enough, near enough, and not between two surfaces."""
    steps = np.maximum(np.abs(np.diff(depth, axis=0, append=depth[-1:])), np.abs(np.diff(depth, append=depth[:, -1:])))
    sure = confidence >= np.quantile(confidence, _SURE)
    return sure & (depth > _NEAR) & (depth < _FAR) & (steps < _APART * depth)


def _scale(view: View, depth: NDArray[np.float32]) -> float:
    """Metres per unit of VGGT: the median over located points of frame 0 of their distance along z by both."""
    height, width = view.frames[0].shape[:2]
    shares = [(x, y) for x in (0.2, 0.4, 0.6, 0.8) for y in (0.35, 0.65)]
    located = view.answer([Locate(0, (int(x * width), int(y * height))) for x, y in shares])
    seen = [depth[0, int(y * depth.shape[1]), int(x * depth.shape[2])] for x, y in shares]
    ratios = [point.xyz[2] / z for point, z in zip(located, seen, strict=True) if z > 0 and point.xyz[2] > 0]
    return float(np.median(ratios)) if ratios else 1.0


def _is_sane(intrinsics: FloatArray, width: int, height: int) -> bool:
    sides = np.array([width, height])
    with np.errstate(all="ignore"):
        angles = 2 * np.degrees(np.arctan(sides / 2 / intrinsics[:, [0, 1], [0, 1]]))
    return bool(np.isfinite(intrinsics).all() and (angles > _SANE[0]).all() and (angles < _SANE[1]).all())


def _guessed_up(poses: FloatArray | None) -> FloatArray:
    """Cameras are held upright on average: against the mean of their y axes."""
    up = np.array([0.0, -1.0, 0.0]) if poses is None else -poses[:, :3, 1].mean(axis=0)
    length = float(np.linalg.norm(up))
    return up / length if length > 1e-3 else np.array([0.0, -1.0, 0.0])
