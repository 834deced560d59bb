"""VGGT's nine-number camera: translation (3), quaternion x y z w (4), field of view along height and width (2).

Translation and quaternion are of `world_to_camera`. Fields of view in radians: 2 atan(H / 2 fy), 2 atan(W / 2 fx).
The encoding has no room for a principal point: decoding puts it at (W / 2, H / 2), as VGGT does.
Source: VGGT (arXiv 2503.11651), section 3.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gapmllm.geometry.camera import FloatArray, invert_pose
from gapmllm.geometry.rotation import matrix_to_quaternion, quaternion_to_matrix


def encode_cameras(camera_to_world: ArrayLike, intrinsics: ArrayLike, height: int, width: int) -> FloatArray:
    """Poses (..., 4, 4) and intrinsics (..., 3, 3) of images height x width pixels -> encodings (..., 9)."""
    world_to_camera = invert_pose(camera_to_world)
    matrix = np.asarray(intrinsics, dtype=np.float64)
    focal = matrix[..., [1, 0], [1, 0]]
    fields = 2 * np.arctan(np.array([height, width]) / 2 / focal)
    quaternion = matrix_to_quaternion(world_to_camera[..., :3, :3])
    return np.concatenate([world_to_camera[..., :3, 3], quaternion, fields], axis=-1)


def decode_cameras(encoding: ArrayLike, height: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Encodings (..., 9) -> camera_to_world (..., 4, 4) and intrinsics (..., 3, 3). Inverse of `encode_cameras`."""
    values = np.asarray(encoding, dtype=np.float64)
    if values.shape[-1:] != (9,):
        raise ValueError(f"encoding must have shape (..., 9), got {values.shape}")
    world_to_camera = np.broadcast_to(np.eye(4), (*values.shape[:-1], 4, 4)).copy()
    world_to_camera[..., :3, :3] = quaternion_to_matrix(values[..., 3:7])
    world_to_camera[..., :3, 3] = values[..., :3]
    intrinsics = np.broadcast_to(np.eye(3), (*values.shape[:-1], 3, 3)).copy()
    intrinsics[..., [1, 0], [1, 0]] = np.array([height, width]) / 2 / np.tan(values[..., 7:9] / 2)
    intrinsics[..., :2, 2] = (width / 2, height / 2)
    return invert_pose(world_to_camera), intrinsics
