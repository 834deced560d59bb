"""Cameras and THE conventions of the whole package. Every other file refers to this page.

Axes      A camera looks along +z, x points right, y points down (OpenCV). A world has z up.
Units     Metres and radians. Depth is metres along the camera's z axis (not along the ray); 0 or NaN means unknown.
Pixels    (x, y) = (column, row). (0, 0) is the *centre* of the top-left pixel, so an image spans -0.5 to width - 0.5.
Intrinsics  (3, 3) [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels of the image they belong to.
Poses     `camera_to_world`, (4, 4), rigid, acting on columns: X_world = camera_to_world @ X_camera.
          The other direction is always written out as `world_to_camera`.
Boxes     centre, full sizes, rotation matrix (see `boxes.py`). Euler angles only at the edge (see `rotation.py`).
Answers   are in the camera frame of the clip's first frame.

Arrays may carry leading batch dimensions, shown as `...`. All computation is float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def orthonormality_error(matrix: FloatArray) -> float:
    """Largest entry of |R^T R - I| over matrices (..., 3, 3); 0 for no matrices."""
    with np.errstate(over="ignore"):  # entries of 1e300 give infinity, which is far enough from orthonormal
        return float(np.abs(np.swapaxes(matrix, -1, -2) @ matrix - np.eye(3)).max(initial=0.0))


def check_rotation(rotation: ArrayLike, *, name: str = "rotation", tolerance: float = 1e-3) -> FloatArray:
    """Return (..., 3, 3) as float64, or raise ValueError if any is not finite, orthonormal and right-handed.

    tolerance: largest allowed entry of |R^T R - I|; 1e-3 admits matrices printed with few decimals, not shears.
    """
    matrix = np.asarray(rotation, dtype=np.float64)
    if matrix.shape[-2:] != (3, 3):
        raise ValueError(f"{name} must have shape (..., 3, 3), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite, got a NaN or infinity (a lost-tracking frame? drop it)")
    error = orthonormality_error(matrix)
    if error > tolerance:
        raise ValueError(f"{name} must be orthonormal, |R^T R - I| is {error:.2g}, at most {tolerance:g} is allowed")
    if (np.linalg.det(matrix) < 0).any():
        raise ValueError(f"{name} must be right-handed (determinant +1), got a mirrored one; check the axis order")
    return matrix


def check_pose(pose: ArrayLike, *, name: str = "camera_to_world", tolerance: float = 1e-3) -> FloatArray:
    """Return rigid transforms (..., 4, 4) as float64, or raise ValueError that says what is wrong with them."""
    matrix = np.asarray(pose, dtype=np.float64)
    if matrix.shape[-2:] != (4, 4):
        raise ValueError(f"{name} must have shape (..., 4, 4), got {matrix.shape}")
    check_rotation(matrix[..., :3, :3], name=f"rotation of {name}", tolerance=tolerance)
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite, got a NaN or infinity in its translation or last row")
    if not np.allclose(matrix[..., 3, :], (0, 0, 0, 1), rtol=0, atol=1e-6):
        raise ValueError(f"last row of {name} must be 0 0 0 1, got {matrix[..., 3, :].tolist()} (is it transposed?)")
    return matrix


def invert_pose(pose: ArrayLike) -> FloatArray:
    """Inverse of rigid transforms (..., 4, 4), exact in the rotation: [R t]^-1 = [R^T, -R^T t]."""
    matrix = check_pose(pose, name="pose")
    inverse = np.zeros_like(matrix)
    inverse[..., :3, :3] = np.swapaxes(matrix[..., :3, :3], -1, -2)
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", inverse[..., :3, :3], matrix[..., :3, 3])
    inverse[..., 3, 3] = 1
    return inverse


def transform_points(points: ArrayLike, matrix: ArrayLike) -> FloatArray:
    """Apply one affine transform (4, 4) to points (..., 3)."""
    affine = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]


def project(
    points: ArrayLike, intrinsics: ArrayLike, camera_to_world: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """Points (..., 3) -> pixels (..., 2) as (x, y), and depth (...) in metres along z.

    points are in the world where camera_to_world is given, else in the camera frame.
    Pixels of points at or behind the camera plane (depth <= 0) are NaN. Source: Hartley & Zisserman (2003), eq. 6.1.
    """
    local = np.asarray(points, dtype=np.float64)
    if camera_to_world is not None:
        local = transform_points(local, invert_pose(camera_to_world))
    matrix = np.asarray(intrinsics, dtype=np.float64)
    depth = local[..., 2]
    visible = np.where(depth > 0, depth, np.nan)
    pixels = local[..., :2] / visible[..., None] * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
    return pixels, depth


def resize_intrinsics(intrinsics: ArrayLike, size: tuple[float, float], new_size: tuple[float, float]) -> FloatArray:
    """(3, 3) intrinsics of a picture of (width, height) -> of the same picture resized to the new (width, height).

    The borders stay where they are, at -0.5 before the centre of the first pixel; the centres of pixels do not.
    """
    scale = np.diag([new_size[0] / size[0], new_size[1] / size[1], 1.0])
    half = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    return scale @ (np.asarray(intrinsics, dtype=np.float64) + half) - half


def unproject_pixels(
    pixels: ArrayLike, depth: ArrayLike, intrinsics: ArrayLike, camera_to_world: ArrayLike | None = None
) -> FloatArray:
    """Pixels (..., 2) as (x, y) with depth (...) -> points (..., 3), metres; NaN where the depth is unknown.

    In the world frame where camera_to_world is given, else in the camera frame. The inverse of `project`.
    """
    matrix = np.asarray(intrinsics, dtype=np.float64)
    z = np.asarray(depth, dtype=np.float64)
    z = np.where(z > 0, z, np.nan)
    rays = (np.asarray(pixels, dtype=np.float64) - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]
    points = np.concatenate([rays * z[..., None], z[..., None]], axis=-1)
    return points if camera_to_world is None else transform_points(points, check_pose(camera_to_world))


def unproject(depth: ArrayLike, intrinsics: ArrayLike, camera_to_world: ArrayLike | None = None) -> FloatArray:
    """Depth map (H, W) -> pointmap (H, W, 3), metres; NaN where the depth is 0, negative or NaN.

    In the world frame where camera_to_world is given, else in the camera frame.
    """
    values = np.asarray(depth, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"depth must have shape (H, W), got {values.shape}")
    rows, columns = np.indices(values.shape)
    return unproject_pixels(np.stack([columns, rows], axis=-1), values, intrinsics, camera_to_world)
