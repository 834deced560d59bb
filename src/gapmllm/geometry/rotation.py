"""Rotations at the edge: Euler angles with their convention by name, and quaternions.

A 9-number box ends in three angles (a, b, c): a turns about z, b about x, c about y. Two conventions are in use:

    "zxy"  extrinsic, R = Ry(c) Rx(b) Rz(a)   released GAP-MLLM data and our own answers
    "ZXY"  intrinsic, R = Rz(a) Rx(b) Ry(c)   EmbodiedScan files, VG-LLM since 2025-11-27

The letters are scipy's: lower case = fixed axes, upper case = axes that turn along. For an object that stands upright
in the world, "zxy" keeps its yaw (a) apart from the tilt of the camera (b, c), which all objects of a view then share.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from gapmllm.geometry.camera import FloatArray, check_rotation, orthonormality_error

EulerConvention = Literal["zxy", "ZXY"]
_ROUNDING = 1e-6


def euler_to_matrix(angles: ArrayLike, convention: EulerConvention) -> FloatArray:
    """Angles (..., 3) = (a, b, c) in radians -> rotation matrices (..., 3, 3)."""
    values = np.asarray(angles, dtype=np.float64)
    if values.shape[-1:] != (3,):
        raise ValueError(f"angles must have shape (..., 3), got {values.shape}")
    if convention == "zxy":
        # (Ry(c) Rx(b) Rz(a))^T = Rz(-a) Rx(-b) Ry(-c), so one formula serves both conventions.
        return np.swapaxes(euler_to_matrix(-values, "ZXY"), -1, -2)
    _check_convention(convention)
    (sa, sb, sc), (ca, cb, cc) = (np.moveaxis(f(values), -1, 0) for f in (np.sin, np.cos))
    rows = [
        [ca * cc - sa * sb * sc, -sa * cb, ca * sc + sa * sb * cc],
        [sa * cc + ca * sb * sc, ca * cb, sa * sc - ca * sb * cc],
        [-cb * sc, sb, cb * cc],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_euler(matrix: ArrayLike, convention: EulerConvention) -> FloatArray:
    """Rotation matrices (..., 3, 3) -> angles (..., 3) = (a, b, c): b in [-pi/2, pi/2], a and c in (-pi, pi].

    Half a turn is pi whichever way rounding had it: upright boxes before a level camera have one, and texts would
    otherwise toss a coin for its sign.
    At gimbal lock (b = +-pi/2) a and c turn about the same axis; whatever split is returned, the angles give back the
    matrix to float rounding, there and close by.
    """
    rotation = check_rotation(matrix)
    if convention == "zxy":
        return _half_turn_is_pi(-matrix_to_euler(np.swapaxes(rotation, -1, -2), "ZXY"))
    _check_convention(convention)
    a = np.arctan2(-rotation[..., 0, 1], rotation[..., 1, 1])
    b = np.arctan2(rotation[..., 2, 1], np.hypot(rotation[..., 0, 1], rotation[..., 1, 1]))
    # c is read from Rz(-a) R = Rx(b) Ry(c), whose first row is (cos c, 0, sin c): well conditioned for every b.
    first_row = np.cos(a)[..., None] * rotation[..., 0, :] + np.sin(a)[..., None] * rotation[..., 1, :]
    c = np.arctan2(first_row[..., 2], first_row[..., 0])
    return _half_turn_is_pi(np.stack([a, b, c], axis=-1))


def _half_turn_is_pi(angles: FloatArray) -> FloatArray:
    return np.where(angles < _ROUNDING - np.pi, angles + 2 * np.pi, angles)


def nearest_rotation(matrix: ArrayLike, *, name: str = "rotation") -> FloatArray:
    """Matrices (..., 3, 3) that are rotations but for rounding -> the nearest exact ones (polar decomposition).

    Raises ValueError as `check_rotation` does. A pose printed with few decimals would otherwise spoil volumes.
    """
    rotation = check_rotation(matrix, name=name)
    if orthonormality_error(rotation) <= 1e-12:
        return rotation
    left, _, right = np.linalg.svd(rotation)
    return left @ right


def quaternion_to_matrix(quaternion: ArrayLike) -> FloatArray:
    """Quaternions (..., 4) in order x, y, z, w, of any non-zero length -> rotation matrices (..., 3, 3)."""
    values = np.asarray(quaternion, dtype=np.float64)
    return Rotation.from_quat(values.reshape(-1, 4)).as_matrix().reshape(*values.shape[:-1], 3, 3)


def matrix_to_quaternion(matrix: ArrayLike) -> FloatArray:
    """Rotation matrices (..., 3, 3) -> unit quaternions (..., 4) in order x, y, z, w, with w >= 0."""
    rotation = check_rotation(matrix)
    quaternions = Rotation.from_matrix(rotation.reshape(-1, 3, 3)).as_quat(canonical=True)
    return quaternions.reshape(*rotation.shape[:-2], 4)


def _check_convention(convention: str) -> None:
    if convention != "ZXY":
        raise ValueError(f"convention must be 'zxy' (extrinsic) or 'ZXY' (intrinsic), got {convention!r}")
