"""Gates over frames: each value where its token is, in the colour of the legend."""

from __future__ import annotations

import numpy as np
import pytest

from gapmllm.viz.gates import draw_gates, gates_sheet

LOW, MIDDLE, HIGH = (68, 1, 84), (32, 144, 140), (253, 231, 36)
"""viridis at 0, 0.5 and 1."""


def grey(width=8, height=4, value=100):
    return np.full((height, width, 3), value, dtype=np.uint8)


def mixed(color, value=100):
    """What 60 % of the colour over a grey frame gives."""
    return [round(0.6 * channel + 0.4 * value) for channel in color]


def colored(pixels, color, value=100):
    return bool((pixels == mixed(color, value)).all())


def test_each_token_has_the_colour_of_its_gate():
    # 8x4 pixels, 2x4 tokens: each is 2x2 pixels
    gates = [[0, 0, 0, 1], [0.5, 0, 0, 0]]
    drawn = draw_gates(grey(), gates)
    assert drawn.dtype == np.uint8
    assert drawn.shape[1:] == (8, 3)
    assert colored(drawn[:2, 6:], HIGH)
    assert colored(drawn[2:4, :2], MIDDLE)
    assert colored(drawn[:2, :6], LOW)
    assert colored(drawn[2:4, 2:], LOW)


def test_tokens_that_are_not_whole_pixels_share_the_frame_evenly():
    # 5 columns for 2 tokens: columns 0 to 2 begin before the middle, 2.5
    drawn = draw_gates(grey(width=5), [[0, 1]])
    assert colored(drawn[:4, :3], LOW)
    assert colored(drawn[:4, 3:], HIGH)


def test_the_frame_shows_through_in_grey():
    red = grey()
    red[:, :4] = (255, 0, 0)  # luminance 0.299 * 255 = 76
    drawn = draw_gates(red, [[1]])
    assert drawn[0, 0].tolist() == mixed(HIGH, 76)
    assert drawn[0, 7].tolist() == mixed(HIGH, 100)


def test_limits_stretch_the_colours_and_cut_what_is_beyond():
    drawn = draw_gates(grey(), [[0.1, 0.4, 0.5, 0.9]], limits=(0.4, 0.6))
    for column, color in enumerate((LOW, LOW, MIDDLE, HIGH)):
        assert colored(drawn[:4, 2 * column], color)


def test_the_legend_lies_below_and_runs_from_geometry_to_appearance():
    legend = draw_gates(grey(width=300, height=200), [[0.5]])[202:]
    assert colored(legend[:, 0], LOW, 128)
    assert colored(legend[:, -1], HIGH, 128)
    assert legend[:, 4:80].min(axis=2).max() > 200  # white letters at the left, black ones at the right
    assert legend[:, -80:-4].max(axis=2).min() < 40
    assert legend[:, 120:180].min(axis=2).max() < 150
    assert legend[:, 120:180].max(axis=2).min() > 100


def test_a_narrow_legend_has_numbers_alone_and_limits_within_say_more():
    def letters(width, limits=(0, 1)):
        legend = draw_gates(grey(width=width, height=200), [[0.5]], limits)[202:]
        return int((legend.min(axis=2) > 180).any(axis=0).sum())  # columns that hold some white

    assert 0 < letters(60) < 10 < letters(300) < letters(300, (0.5, 1)) - 15  # "0.5 = more geometry"


def test_the_sheet_has_a_row_for_each_frame_and_a_column_for_each_level():
    frames = [grey(width=300, height=60), grey(width=300, height=60)]
    levels = [np.zeros((2, 3, 4)), np.full((2, 3, 4), 0.5), np.zeros((2, 3, 4))]
    levels[2][1] = 1  # the last level of the second frame
    sheet = gates_sheet(frames, levels)
    assert sheet.shape[1] == 4 * 300 + 3 * 4
    strip = (sheet.shape[0] - 2 * 64) // 2  # captions above, legend below; a row is 60 + 4 pixels high
    for row, colors in enumerate([(LOW, MIDDLE, LOW), (LOW, MIDDLE, HIGH)]):
        top = strip + row * 64
        assert (sheet[top + 30 : top + 60, :300] == 100).all()  # the frame itself; its number is above
        for column, color in enumerate(colors, start=1):
            assert colored(sheet[top : top + 60, column * 304 : column * 304 + 300], color)


def test_the_sheet_of_one_level_and_of_portraits():
    assert gates_sheet([grey(width=30, height=60)], [np.zeros((1, 4, 2))]).shape[1] == 2 * 300 + 4


@pytest.mark.parametrize(
    ("image", "gates", "limits", "message"),
    [
        (grey()[..., 0], [[0]], (0, 1), r"the image must be \(H, W, 3\) uint8 RGB, got uint8 \(4, 8\)"),
        (grey() / 255, [[0]], (0, 1), r"the image must be .* uint8 RGB, got float64 \(4, 8, 3\)"),
        (grey()[:0], [[0]], (0, 1), r"the image must be .*, got uint8 \(0, 8, 3\)"),
        (grey(), [0, 1], (0, 1), r"the gates must be \(rows, cols\), got \(2,\)"),
        (grey(), [[]], (0, 1), r"the gates must be \(rows, cols\), got \(1, 0\)"),
        (grey(), [[0, 1.5]], (0, 1), r"the gates must lie in \[0, 1\], got 0.0 to 1.5"),
        (grey(), [[-0.1]], (0, 1), r"the gates must lie in \[0, 1\]"),
        (grey(), [[float("nan"), 1]], (0, 1), r"the gates must lie in \[0, 1\], got nan"),
        (grey(), [[0]], (0.5, 0.5), r"limits must be two gates, 0 <= low < high <= 1, got \(0.5, 0.5\)"),
        (grey(), [[0]], (0, 2), "limits must be two gates"),
    ],
)
def test_what_cannot_be_drawn_is_refused(image, gates, limits, message):
    with pytest.raises(ValueError, match=message):
        draw_gates(image, gates, limits)


@pytest.mark.parametrize(
    ("frames", "levels", "message"),
    [
        ([], [np.zeros((0, 3, 4))], r"level 0 must be \(frames, rows, cols\), got \(0, 3, 4\)"),
        ([], [np.zeros((1, 3, 4))], r"got 0 frames of no size, levels of \[1\]"),
        ([grey()], [], r"got 1 frames of 8x4, levels of \[\]"),
        ([grey()], [np.zeros((3, 4))], r"level 0 must be \(frames, rows, cols\), got \(3, 4\)"),
        ([grey()] * 2, [np.zeros((2, 3, 4)), np.zeros((1, 3, 4))], r"got 2 frames of 8x4, levels of \[2, 1\]"),
        ([grey(), grey(9)], [np.zeros((2, 3, 4))], r"frames of one size, .* got 2 frames of 8x4, 9x4, levels of \[2\]"),
        ([grey(), grey() / 255], [np.zeros((2, 3, 4))], "frame 1 must be .* uint8 RGB, got float64"),
    ],
)
def test_a_sheet_that_cannot_be_drawn_is_refused(frames, levels, message):
    with pytest.raises(ValueError, match=message):
        gates_sheet(frames, levels)
