"""The rows of a table as a picture: a panel for each metric, a dot with its interval for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gapmllm.evaluation import Metric
from gapmllm.evaluation.markdown import label
from gapmllm.viz.curves import PALETTE

REFERENCE, OTHER = PALETTE[0], (0.25, 0.25, 0.25)
"""Blue, dark grey."""
_PANELS = 3  # side by side
_WIDTH, _LINE, _REST, _DPI = 10.5, 0.3, 0.75, 110  # inches: the picture, a row in a panel, the rest of it


def rows_plot(numbers: Mapping[str, Mapping[str, Metric]], rows: Sequence[str], reference: str) -> bytes:
    """PNG. numbers: metric -> row -> its value. Rows without a value keep their place. Draws without a display.

    The reference is blue, its interval a band through the panel. ValueError for no metrics.
    """
    if not numbers:
        raise ValueError("a plot needs one metric at least, got none")
    lines = -(-len(numbers) // _PANELS)
    height = lines * (_LINE * len(rows) + _REST)
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained", facecolor="white")
    panels = figure.subplots(lines, _PANELS, sharey=True, squeeze=False)
    for axes, (name, of_rows) in zip(panels.flat, numbers.items(), strict=False):
        _draw(axes, of_rows, rows, reference)
        axes.set_title(label(name), fontsize="medium")
    for axes in panels.flat[len(numbers) :]:
        axes.set_visible(False)
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _draw(axes: Axes, values: Mapping[str, Metric], rows: Sequence[str], reference: str) -> None:
    for place, row in enumerate(rows):
        found = values.get(row)
        if found is None or found.value is None:
            continue
        color = REFERENCE if row == reference else OTHER
        if found.low is not None and found.high is not None:
            axes.hlines(place, found.low, found.high, color=color, linewidth=2)
            if row == reference:
                axes.axvspan(found.low, found.high, color=color, alpha=0.1, linewidth=0)
        axes.plot(found.value, place, "o", color=color, markersize=6)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
