"""Cameras, rotations, VGGT's pose encoding, alignment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gapmllm.geometry import (
    align_similarity,
    check_pose,
    check_rotation,
    decode_cameras,
    encode_cameras,
    euler_to_matrix,
    invert_pose,
    matrix_to_euler,
    matrix_to_quaternion,
    project,
    quaternion_to_matrix,
    transform_points,
    unproject,
    unproject_pixels,
)

INTRINSICS = np.array([[100.0, 0, 50], [0, 200, 40], [0, 0, 1]])
angle = st.floats(-np.pi, np.pi)
lock = st.sampled_from([-np.pi / 2, np.pi / 2, np.pi / 2 - 1e-9, np.pi / 2 - 1e-5, -np.pi / 2 + 1e-14])


def pose(angles=(0.3, -0.2, 1.1), translation=(1.0, 2.0, 3.0)):
    matrix = np.eye(4)
    matrix[:3, :3] = euler_to_matrix(angles, "ZXY")
    matrix[:3, 3] = translation
    return matrix


def as_4x4(rows):
    """(..., 3, 4) -> (..., 4, 4)."""
    last = np.broadcast_to([0.0, 0, 0, 1], (*rows.shape[:-2], 1, 4))
    return np.concatenate([rows, last], axis=-2)


def test_a_point_right_of_and_below_the_axis_lands_right_of_and_below_the_principal_point():
    pixel, depth = project([0.5, 0.25, 2.0], INTRINSICS)
    # by hand: 100 * 0.5 / 2 + 50 and 200 * 0.25 / 2 + 40
    assert pixel.tolist() == [75.0, 65.0]
    assert depth == 2.0


def test_a_camera_moved_right_sees_a_world_point_further_left():
    moved = pose(angles=(0, 0, 0), translation=(1, 0, 0))
    pixel, _ = project([1.5, 0.25, 2.0], INTRINSICS, moved)
    assert pixel.tolist() == [75.0, 65.0]


def test_points_behind_the_camera_have_no_pixel():
    pixels, depth = project([[0, 0, -1.0], [0, 0, 0.0]], INTRINSICS)
    assert np.isnan(pixels).all()
    assert depth.tolist() == [-1, 0]


def test_unproject_puts_pixel_zero_at_the_centre_of_the_first_pixel_and_marks_unknown_depth():
    points = unproject([[2.0, 0.0], [np.nan, 4.0]], INTRINSICS)
    assert points[0, 0].tolist() == [-1.0, -0.4, 2.0]  # by hand: -50 / 100 * 2, -40 / 200 * 2
    assert np.isnan(points[0, 1]).all()
    assert np.isnan(points[1, 0]).all()


def test_unproject_undoes_project_in_the_world():
    points = np.random.default_rng(0).uniform([-1, -1, 1], [1, 1, 4], (20, 3))
    world = transform_points(points, pose())
    pixels, depth = project(world, INTRINSICS, pose())
    np.testing.assert_allclose(unproject_pixels(pixels, depth, INTRINSICS, pose()), world, atol=1e-12)


def test_unproject_needs_a_depth_map():
    with pytest.raises(ValueError, match=r"shape \(H, W\), got \(4,\)"):
        unproject(np.ones(4), INTRINSICS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m[:3], r"shape \(\.\.\., 4, 4\), got \(3, 4\)"),
        (lambda m: np.full((4, 4), -np.inf), "must be finite.*lost-tracking"),
        (lambda m: m @ np.diag([1, 1, 1.01, 1]), "orthonormal"),
        (lambda m: m @ np.diag([1, 1, -1, 1]), "right-handed"),
        (lambda m: m.T, "last row"),
        (lambda m: m + np.diag([0, 0, 0, np.nan]), "translation or last row"),
    ],
)
def test_a_pose_that_is_none_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_pose(change(pose()))


def test_a_pose_printed_with_six_decimals_is_accepted_unless_the_tolerance_is_finer():
    assert check_pose(np.round(pose(), 6)).shape == (4, 4)
    with pytest.raises(ValueError, match="at most 1e-09 is allowed"):
        check_pose(np.round(pose(), 6), tolerance=1e-9)


def test_check_rotation_wants_matrices():
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        check_rotation([1, 2, 3])


@pytest.mark.parametrize(("convention", "order"), [("zxy", "zxy"), ("ZXY", "ZXY")])
def test_euler_agrees_with_scipy_and_the_fixed_formula(convention, order):
    angles = np.random.default_rng(1).uniform(-np.pi, np.pi, (100, 3))
    expected = Rotation.from_euler(order, angles).as_matrix()
    np.testing.assert_allclose(euler_to_matrix(angles, convention), expected, atol=1e-15)


@given(angle, st.one_of(angle, lock), angle, st.sampled_from(["zxy", "ZXY"]))
def test_euler_round_trip_also_at_gimbal_lock(a, b, c, convention):
    matrix = euler_to_matrix([a, b, c], convention)
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(matrix, convention), convention), matrix, atol=1e-14)


def test_an_unknown_convention_is_refused():
    for function, value in ((euler_to_matrix, [0, 0, 0]), (matrix_to_euler, np.eye(3))):
        with pytest.raises(ValueError, match=r"'zxy' \(extrinsic\) or 'ZXY'"):
            function(value, "xyz")
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 3\)"):
        euler_to_matrix([1, 2], "zxy")


def test_golden_euler(golden_json):
    data = golden_json("detection_metrics/euler.json")
    for convention, key in (("ZXY", "intrinsic_ZXY"), ("zxy", "extrinsic_zxy")):
        np.testing.assert_allclose(euler_to_matrix(data["angles"], convention), data[key], atol=1e-12)


def test_golden_geometry(golden):
    data = np.load(golden / "geometry" / "geometry.npz")
    poses = invert_pose(as_4x4(data["enc_extrinsics"]))
    encoded = encode_cameras(poses, data["enc_intrinsics"], 392, 518)
    np.testing.assert_allclose(encoded, data["enc_pose_encoding"], atol=2e-6)
    poses, intrinsics = decode_cameras(data["dec_pose_encoding"], 392, 518)
    np.testing.assert_allclose(invert_pose(poses)[..., :3, :], data["dec_extrinsics"], atol=2e-6)
    np.testing.assert_allclose(intrinsics, data["dec_intrinsics"], rtol=2e-6)
    np.testing.assert_allclose(quaternion_to_matrix(data["quat_xyzw"]), data["quat_to_mat"], atol=2e-6)
    ours, theirs = matrix_to_quaternion(data["quat_to_mat"]), data["mat_to_quat"]
    same = np.minimum(np.abs(ours - theirs).max(axis=1), np.abs(ours + theirs).max(axis=1))
    assert same.max() < 2e-6
    np.testing.assert_allclose(invert_pose(as_4x4(data["se3_in"])), data["se3_inverse"], atol=2e-6)
    camera_to_world = invert_pose(as_4x4(data["unproj_extrinsics"]))
    for i, depth in enumerate(data["unproj_depth"][..., 0]):
        points = unproject(depth, data["unproj_intrinsics"][i], camera_to_world[i])
        # Where the depth is unknown the fixture holds the camera's own position; we hold NaN.
        np.testing.assert_allclose(points[depth > 0], data["unproj_points"][i][depth > 0], atol=1e-5)
        assert np.isnan(points[depth == 0]).all()


def test_decode_cameras_wants_nine_numbers():
    with pytest.raises(ValueError, match="9"):
        decode_cameras(np.zeros(8), 4, 4)


def test_golden_alignment(golden, golden_json):
    points = np.load(golden / "pointmap_metrics" / "points.npz")
    for pair in golden_json("pointmap_metrics/results.json")["pairs"]:
        count = pair["matched_points"]
        source, target = (points[f"{side}_{pair['pair']}"][:count] for side in ("pred", "gt"))
        scale, rotation, translation = align_similarity(source, target)
        assert scale == pytest.approx(pair["scale"], abs=1e-6)
        np.testing.assert_allclose(rotation, pair["rotation"], atol=1e-6)
        np.testing.assert_allclose(translation, pair["translation"], atol=1e-6)
        assert np.linalg.det(rotation) == pytest.approx(1)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (np.zeros((3, 3)), np.zeros((4, 3)), r"\(3, 3\) and \(4, 3\)"),
        (np.zeros((2, 3)), np.zeros((2, 3)), "at least 3 matched points, got 2"),
        (np.full((3, 3), np.nan), np.zeros((3, 3)), "finite"),
        (np.full((3, 3), 0.1), np.eye(3), "on one line or in one place"),
        (np.array([[0, 0, 0.1], [0, 0, 0.1], [1, 2, 3]]), np.eye(3), "on one line or in one place"),
    ],
)
def test_alignment_refuses_what_has_no_answer(source, target, message):
    with pytest.raises(ValueError, match=message):
        align_similarity(source, target)
