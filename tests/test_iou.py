"""Boxes and their exact overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapmllm.bench.iou import bench_iou
from gapmllm.geometry import CORNER_SIGNS, Boxes, euler_to_matrix, intersection_volumes, iou_matrix, iou_pairs

coordinate = st.floats(-2, 2)
size = st.floats(0.001, 3)
angle = st.one_of(st.floats(-np.pi, np.pi), st.sampled_from([0, np.pi / 2, 1e-9, -np.pi]))
row = st.tuples(coordinate, coordinate, coordinate, size, size, size, angle, angle, angle)


def boxes(*rows):
    return Boxes.from_euler(rows, "zxy")


UNIT = (0, 0, 0, 1, 1, 1, 0, 0, 0)


def test_corners_follow_the_signs_and_the_rotation():
    quarter_turn = boxes((1, 2, 3, 2, 4, 6, np.pi / 2, 0, 0))  # about z: local x becomes y, local y becomes -x
    corners = quarter_turn.corners()[0]
    expected = np.array([1, 2, 3]) + np.stack([-2 * CORNER_SIGNS[:, 1], CORNER_SIGNS[:, 0], 3 * CORNER_SIGNS[:, 2]], 1)
    np.testing.assert_allclose(corners, expected, atol=1e-12)


def test_golden_corners(golden_json):
    data = golden_json("detection_metrics/corners.json")
    np.testing.assert_allclose(Boxes.from_euler(data["boxes"], "ZXY").corners(), data["corners"], atol=1e-9)


def test_a_moved_box_moves_with_its_corners():
    matrix = np.eye(4)
    matrix[:3, :3] = euler_to_matrix([0.5, -1.0, 2.0], "ZXY")
    matrix[:3, 3] = (1, -2, 3)
    one = boxes((1, 2, 3, 2, 4, 6, 0.1, 0.2, 0.3))
    expected = one.corners() @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(one.transform(matrix).corners(), expected, atol=1e-12)


def test_euler_numbers_come_back():
    rows = np.array([[1, 2, 3, 2, 4, 6, 0.1, 0.2, 0.3]])
    for convention in ("zxy", "ZXY"):
        np.testing.assert_allclose(Boxes.from_euler(rows, convention).to_euler(convention), rows, atol=1e-14)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: boxes((0, 0, 0, 1, 1, 1, 0, 0)), r"shape \(N, 9\).*got \(1, 8\)"),
        (lambda: boxes(UNIT, (0, 0, np.nan, 1, 1, 1, 0, 0, 0)), "box 1 is not"),
        (lambda: boxes((0, 0, 0, 1, -1, 1, 0, 0, 0)), "box 0 has one"),
        (lambda: Boxes(np.zeros((1, 3)), np.ones((1, 3)), np.diag([1, 1, -1])[None]), "right-handed"),
        (lambda: Boxes(np.zeros((2, 3)), np.ones((1, 3)), np.eye(3)[None]), "2 centres, 1 sizes"),
        (lambda: Boxes(np.zeros(3), np.ones((1, 3)), np.eye(3)[None]), r"centers must have shape \(N, 3\)"),
        (lambda: Boxes(np.zeros((1, 3)), np.full((1, 3), np.inf), np.eye(3)[None]), "sizes must be finite"),
    ],
)
def test_boxes_that_are_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_boxes_shifted_by_half_their_width_have_iou_one_third():
    # by hand: they share 0.5 and together fill 1.5
    assert iou_pairs(boxes(UNIT), boxes((0.5, 0, 0, 1, 1, 1, 0, 0, 0)))[0] == pytest.approx(1 / 3, abs=1e-15)


def test_a_cube_turned_by_45_degrees_shares_an_octagon():
    # by hand: a unit square and the same turned by 45 degrees share 2 (sqrt 2 - 1)
    turned = boxes((0, 0, 0, 1, 1, 1, np.pi / 4, 0, 0))
    assert intersection_volumes(boxes(UNIT), turned)[0] == pytest.approx(2 * (np.sqrt(2) - 1), abs=1e-15)


def test_no_boxes_give_no_overlaps():
    none = Boxes.from_euler([], "zxy")
    assert iou_pairs(none, none).shape == (0,)
    assert iou_matrix(none, boxes(UNIT)).shape == (0, 1)
    assert iou_matrix(boxes(UNIT), none).shape == (1, 0)


def test_pairs_need_equal_numbers():
    with pytest.raises(ValueError, match="got 2 and 1; see iou_matrix"):
        iou_pairs(boxes(UNIT, UNIT), boxes(UNIT))


def test_the_matrix_holds_the_pairs():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(0, 1, (30, 3)), rng.uniform(0, 2, (30, 3)), rng.uniform(-3, 3, (30, 3))], axis=1)
    a, b = boxes(*rows[:12]), boxes(*rows[12:])
    i, j = np.indices((12, 18))
    np.testing.assert_allclose(iou_matrix(a, b), iou_pairs(a[i.ravel()], b[j.ravel()]).reshape(12, 18), atol=1e-15)


def test_golden_pairs(golden_json):
    pairs = golden_json("detection_metrics/iou_pairs.json")
    a, b = (Boxes.from_euler([pair[side] for pair in pairs], "ZXY") for side in "ab")
    iou = np.array([pair["iou"] for pair in pairs])
    # The tolerance asked for is 1e-6; the fixture's own noise allows 1e-12.
    np.testing.assert_allclose(iou_pairs(a, b), iou, atol=1e-12)
    np.testing.assert_allclose(iou_pairs(b, a), iou, atol=1e-12)
    volumes = np.array([pair["intersection"] for pair in pairs])
    np.testing.assert_allclose(intersection_volumes(a, b), volumes, atol=1e-13)


@given(row, row)
def test_iou_is_symmetric_and_within_zero_and_one(a, b):
    one, other = iou_pairs(boxes(a), boxes(b))[0], iou_pairs(boxes(b), boxes(a))[0]
    assert one == pytest.approx(other, abs=1e-12)
    assert 0 <= one <= 1


@given(row, row, row, st.floats(0.01, 100))
def test_iou_ignores_rigid_motion_and_scale(a, b, motion, scale):
    matrix = np.eye(4)
    matrix[:3, :3] = euler_to_matrix(motion[6:], "zxy")
    matrix[:3, 3] = motion[:3]
    moved = [boxes(x).transform(matrix) for x in (a, b)]
    grown = [Boxes(x.centers * scale, x.sizes * scale, x.rotations) for x in moved]
    # Thin boxes of 1 mm feel the rounding of coordinates of metres: 1e-16 * 10 m / 1 mm.
    assert iou_pairs(*grown)[0] == pytest.approx(iou_pairs(boxes(a), boxes(b))[0], abs=1e-10)


@given(row)
def test_a_box_overlaps_itself_fully_under_every_name_of_its_axes(a):
    one = boxes(a)
    cycle = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    renamed = Boxes(one.centers, one.sizes @ cycle, one.rotations @ cycle)
    np.testing.assert_allclose(renamed.corners().mean(axis=1), one.centers, atol=1e-12)
    assert iou_pairs(one, renamed)[0] == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("exponent", range(3, 17))
def test_nearly_parallel_boxes_differ_by_as_much_as_they_were_moved(exponent):
    rng = np.random.default_rng(exponent)
    rows = np.concatenate(
        [rng.normal(0, 1, (50, 3)), rng.uniform(0.05, 2, (50, 3)), rng.uniform(-3, 3, (50, 3))], axis=1
    )
    moved = rows + rng.uniform(-1, 1, rows.shape) * 10.0**-exponent * 0.01
    iou = iou_pairs(boxes(*rows), boxes(*moved))
    # A box of 5 cm loses at most a few times the motion over its size.
    assert (1 - iou).max() < 10.0**-exponent * 4 + 1e-12


def test_axis_aligned_boxes_agree_with_the_product_of_shared_lengths():
    rng = np.random.default_rng(2)
    center, other = rng.integers(-3, 4, (2, 500, 3)) / 4  # many faces coincide
    sizes, other_sizes = rng.integers(1, 5, (2, 500, 3)) / 2
    low = np.maximum(center - sizes / 2, other - other_sizes / 2)
    high = np.minimum(center + sizes / 2, other + other_sizes / 2)
    expected = np.clip(high - low, 0, None).prod(axis=1)
    a = Boxes.from_axis_aligned(np.concatenate([center, sizes], axis=1))
    b = Boxes.from_axis_aligned(np.concatenate([other, other_sizes], axis=1))
    np.testing.assert_allclose(intersection_volumes(a, b), expected, atol=1e-14)
    # The same solids named by turned axes: touching and equal faces meet rounding here.
    turns = euler_to_matrix(np.pi / 2 * rng.integers(-2, 3, (500, 3)), "ZXY")
    turned = Boxes(b.centers, np.einsum("nji,nj->ni", np.abs(np.round(turns)), b.sizes), turns)
    np.testing.assert_allclose(intersection_volumes(a, turned), expected, atol=1e-13)


def test_rotations_of_few_decimals_are_made_exact():
    rough = np.round(euler_to_matrix([0.5, 0.3, -0.7], "zxy"), 3)[None]
    box = Boxes(np.zeros((1, 3)), np.ones((1, 3)), rough)
    np.testing.assert_allclose(box.rotations[0].T @ box.rotations[0], np.eye(3), atol=1e-15)
    np.testing.assert_allclose(box.rotations, rough, atol=1e-3)
    assert iou_pairs(box, box)[0] == pytest.approx(1, abs=1e-14)


def test_a_size_near_the_smallest_number_is_no_volume():
    flat = boxes((0, 0, 0, 1, 1, 1e-310, 0.1, 0.2, 0.3))
    assert iou_pairs(flat, boxes(UNIT))[0] == iou_pairs(flat, flat)[0] == 0


def test_touching_boxes_share_nothing():
    a = boxes(UNIT, UNIT, UNIT)
    b = boxes((1, 0, 0, 1, 1, 1, 0, 0, 0), (1, 1, 0, 1, 1, 1, 0, 0, 0), (1, 1, 1, 1, 1, 1, 0, 0, 0))
    assert intersection_volumes(a, b).tolist() == [0, 0, 0]


def test_the_bench_compares_equal_volumes():
    figures = bench_iou(rounds=1)
    assert figures["pairs"] == 300
    assert figures["largest difference, m3"] < 1e-12
