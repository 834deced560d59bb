"""Do scores mean what they say: the share of right answers over the score, before and after calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from gapmllm.geometry.camera import FloatArray
from gapmllm.viz.curves import PALETTE

BEFORE, AFTER = PALETTE[7], PALETTE[0]
"""Grey, blue."""
_SIDE, _DPI = 3.8, 110  # inches
_Z = 1.96  # 95 % of a normal distribution


class Bin(Protocol):
    """Answers of similar scores: how many, their mean score, the share of them that is right."""

    @property
    def count(self) -> int: ...
    @property
    def score(self) -> float: ...
    @property
    def right(self) -> float: ...


class Fit(Protocol):
    """Expected calibration error, and the bins."""

    @property
    def ece(self) -> float: ...
    @property
    def bins(self) -> Sequence[Bin]: ...


class Calibration(Protocol):
    """A temperature, and the scores without and with it; `gapmllm.evaluation.calibration` makes one."""

    @property
    def temperature(self) -> float: ...
    @property
    def before(self) -> Fit: ...
    @property
    def after(self) -> Fit: ...


def reliability_plot(calibrations: Mapping[str, Calibration]) -> Image.Image:
    """A panel for each name, side by side. Draws without a display.

    A dot is a bin: its mean score, and the share of its answers that is right, with Wilson's 95 % interval. Dots on the
    diagonal mean what they say. ValueError for no calibrations.
    """
    if not calibrations:
        raise ValueError("a reliability plot needs one calibration at least, got none")
    figure = Figure(figsize=(_SIDE * len(calibrations), _SIDE + 0.4), dpi=_DPI, layout="constrained")
    panels = figure.subplots(1, len(calibrations), squeeze=False)[0]
    for axes, (name, found) in zip(panels, calibrations.items(), strict=True):
        _draw_panel(axes, found)
        axes.set_title(f"{name}: temperature {found.temperature:.2f}", fontsize="medium")
    panels[0].set_ylabel("share that is right")
    file = BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


def _draw_panel(axes: Axes, found: Calibration) -> None:
    limit = 0.0
    for label, fit, color, size in (("before", found.before, BEFORE, 4), ("after", found.after, AFTER, 6)):
        counts, scores, right = np.array([(bin.count, bin.score, bin.right) for bin in fit.bins]).T
        middle, half = _wilson(right, counts)
        axes.vlines(scores, middle - half, middle + half, color=color, linewidth=size / 4, alpha=0.5)
        axes.plot(scores, right, "o", color=color, markersize=size, label=f"{label}: off by {fit.ece:.3f}")
        limit = max(limit, scores.max(), (middle + half).max())
    least, most = (f"{count:.0f}" for count in (counts.min(), counts.max()))
    axes.set_xlabel(f"score; {len(counts)} bins of {least}{f' to {most}' if most != least else ''} answers")
    axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    axes.set(xlim=(0, 1.03 * limit), ylim=(0, 1.03 * limit), aspect="equal")
    axes.locator_params(nbins=6)
    axes.legend(loc="upper left", fontsize="small", framealpha=0.8, edgecolor="none", handletextpad=0.1)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)


def _wilson(share: FloatArray, count: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Middle and half width of the 95 % interval of a share. Source: Wilson (1927), doi 10.2307/2276774."""
    extra = _Z**2 / count
    middle = (share + extra / 2) / (1 + extra)
    return middle, _Z * np.sqrt(share * (1 - share) / count + extra / (4 * count)) / (1 + extra)
