"""Training curves: what is drawn, where, in which colours; and rows that have little to draw."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from gapmllm.viz.curves import PALETTE, TOTAL, curves_figure, smooth

SCORES = {"loss/answers": 1.5, "points/within_0.25m": 0.5, "points/median_error": 0.4}


def rows(count=60, **changes):
    """A loss that halves every 10 steps, from 8; two losses, two tasks, three groups of parameters."""
    made = []
    for step in range(1, count + 1):
        loss = 8 * 0.5 ** (step / 10)
        losses, tasks = {"answers": loss / 2, "marks": loss / 4}, {"points" if step % 2 else "detection": loss / 2}
        row = {"step": step, "loss": loss, "losses": losses, "tasks": tasks}
        made.append(row | {"lr": {"llm": 1e-5, "fusion": 1e-4, "mergers": 1e-4}} | changes)
    return made


def picture(figure):
    file = BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def pixels_of(image, color):
    """How many pixels have about this colour, (r, g, b) in [0, 1]."""
    return int((np.abs(image - np.rint(np.array(color) * 255)).max(axis=-1) <= 3).sum())


def panels(figure):
    return {axes.get_ylabel(): axes for axes in figure.axes}


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_every_kind_of_curve_has_its_panel_and_its_names():
    evaluations = [{"step": step, "scores": SCORES} for step in (0, 30, 60)]
    found = panels(curves_figure(rows(), evaluations, phases=[20]))
    assert list(found) == ["loss", "loss by task", "learning rate", "scores", "errors, metres"]
    assert labels(found["loss"]) == ["total", "answers", "marks", "answers, held out"]
    assert labels(found["loss by task"]) == ["points", "detection"]
    assert labels(found["learning rate"]) == ["llm", "fusion, mergers"]  # equal curves are drawn once
    assert labels(found["scores"]) == ["points/within_0.25m"]
    assert labels(found["errors, metres"]) == ["points/median_error"]
    for axes in found.values():
        assert [20, 20] in [list(line.get_xdata()) for line in axes.get_lines()]
        assert axes.get_xlim() == found["loss"].get_xlim()
    held_out = next(line for line in found["loss"].get_lines() if line.get_label() == "answers, held out")
    assert (list(held_out.get_xdata()), list(held_out.get_ydata())) == ([0, 30, 60], [1.5] * 3)
    (answers,) = (line for line in found["loss"].get_lines() if line.get_label() == "answers")
    assert held_out.get_color() == answers.get_color()


def test_the_picture_has_a_colour_for_each_loss_and_no_other():
    one = [row | {"losses": {"answers": row["loss"]}, "tasks": {}, "lr": {}} for row in rows()]
    two = [row | {"tasks": {}, "lr": {}} for row in rows()]
    single, both = picture(curves_figure(one)), picture(curves_figure(two))
    black = [int(TOTAL[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    assert [pixels_of(both, color) > 300 for color in (black, *PALETTE[:3])] == [True, True, True, False]
    # a single loss is the total: it is drawn once
    assert [pixels_of(single, color) > 300 for color in (black, *PALETTE[:3])] == [False, True, False, False]


def test_raw_values_are_thin_and_smoothed_ones_thick():
    noisy = [row | {"loss": row["loss"] * (1.5 if row["step"] % 2 else 0.5)} for row in rows(400)]
    raw, smoothed = panels(curves_figure(noisy))["loss"].get_lines()[:2]
    assert raw.get_linewidth() < 1 < smoothed.get_linewidth()
    assert list(raw.get_ydata()) == [row["loss"] for row in noisy]
    jumps = [np.abs(np.diff(np.log(line.get_ydata()))).mean() for line in (raw, smoothed)]
    assert jumps[1] < jumps[0] / 5


def test_legends_and_labels_are_inside_the_picture_and_beside_the_curves():
    figure = curves_figure(rows(), [{"step": 60, "scores": SCORES}])
    picture(figure)
    whole = figure.bbox
    for axes in figure.axes:
        legend, frame = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert legend.x0 > frame.x1
        assert legend.x1 <= whole.x1
        assert axes.yaxis.label.get_window_extent().x0 >= 0
        ticks = [tick.get_window_extent() for tick in axes.get_yticklabels() if tick.get_text()]
        inside = sorted((box for box in ticks if frame.y0 <= (box.y0 + box.y1) / 2 <= frame.y1), key=lambda box: box.y0)
        assert len(inside) >= 2
        assert all(low.y1 <= high.y0 for low, high in pairwise(inside)), axes.get_ylabel()


def test_an_axis_is_logarithmic_where_that_helps():
    assert panels(curves_figure(rows(60)))["loss"].get_yscale() == "log"  # 8 down to 0.03
    assert panels(curves_figure(rows(5)))["loss"].get_yscale() == "linear"
    assert panels(curves_figure([row | {"loss": -row["loss"]} for row in rows()]))["loss"].get_yscale() == "linear"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (rows(1), ["loss", "loss by task", "learning rate"]),
        (rows(2), ["loss", "loss by task", "learning rate"]),
        (rows(30, tasks={}), ["loss", "learning rate"]),
        (rows(30, losses={}, tasks={}, lr={}), ["loss"]),
        (rows(30, loss=float("nan")), ["loss", "loss by task", "learning rate"]),
        (rows(30, loss=float("nan"), losses={"a": float("inf")}, tasks={}, lr={}), ["loss"]),
        (rows(30, loss=0.0, losses={"a": 0.0}, tasks={}, lr={}), ["loss"]),
    ],
)
def test_little_to_draw_is_drawn_all_the_same(given, names):
    figure = curves_figure(given, [{"step": 1, "scores": {}}])
    assert list(panels(figure)) == names
    assert picture(figure).min() < 100  # text, at least


def test_a_step_without_a_number_leaves_a_gap_and_one_step_alone_a_dot():
    gap = rows(100)
    gap[40]["loss"] = float("nan")
    smoothed = panels(curves_figure(gap))["loss"].get_lines()[1]
    assert np.flatnonzero(np.isnan(smoothed.get_ydata())).tolist() == [40]
    assert panels(curves_figure(rows(1)))["loss"].get_lines()[1].get_marker() == "o"
    assert smoothed.get_marker() == "None"


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="curves need the rows of one step at least, got none"):
        curves_figure([])


def test_smoothing_by_hand():
    assert smooth(np.array([3.0, 1.0, 2.0])).tolist() == [3, 1, 2]  # as many as are kept apart: none is mixed
    constant = np.full(500, 7.0)
    constant[100] = np.nan
    np.testing.assert_allclose(smooth(constant)[np.arange(500) != 100], 7)
    line = np.arange(1001.0)
    assert smooth(line)[500] == pytest.approx(500, abs=1e-3)  # it does not lag behind
    assert abs(smooth((-1.0) ** np.arange(500))[100:400]).max() < 0.1
