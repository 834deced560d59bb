"""The curves of a training run, from the rows of its logs: losses, learning rates, scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from scipy.signal import lfilter

from gapmllm.geometry.camera import FloatArray

Curves = dict[str, tuple[FloatArray, FloatArray]]
"""Name -> steps and values, both (n,)."""

TOTAL = "#202020"
PALETTE: tuple[tuple[float, float, float], ...] = tuple(colormaps["tab10"].colors)  # type: ignore[attr-defined]
_WIDTH, _HEIGHT, _DPI = 10.0, 2.6, 110  # inches: the picture, each panel
_LOG_FROM = 8.0  # times the least: an axis that spans more is logarithmic
_LEAST = 1e-9  # upper end of an axis, where all is 0
_SMOOTH = 25  # a smoothed curve has about so many independent values


def curves_figure(
    rows: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]] = (), phases: Iterable[int] = ()
) -> Figure:
    """Panels one below the other, over the same steps; what a run does not have has no panel. Draws without a display.

    rows: {"step", "loss", "losses": {name: value}, "tasks": {…}, "lr": {…}} of each step. evaluations: {"step",
    "scores": {name: value}}; "loss/…" are held-out losses, "…_error" are metres, all others shares or the like.
    phases: steps at which a curriculum changes. Values that are no numbers leave gaps. ValueError without rows.
    """
    if not rows:
        raise ValueError("curves need the rows of one step at least, got none")
    losses, tasks, rates = (_by_name(rows, key) for key in ("losses", "tasks", "lr"))
    scores = _by_name(evaluations, "scores")
    held_out = {name.removeprefix("loss/"): scores.pop(name) for name in list(scores) if name.startswith("loss/")}
    errors = {name: scores.pop(name) for name in list(scores) if name.endswith("_error")}
    panels: list[tuple[str, Curves, Curves]] = [("loss", losses, held_out)]
    panels += [("loss by task", tasks, {})] if tasks else []
    panels += [("learning rate", _merged(rates), {})] if rates else []
    panels += [(title, {}, dots) for title, dots in (("scores", scores), ("errors, metres", errors)) if dots]
    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(panels)), dpi=_DPI, layout="constrained")
    every = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (title, curves, dots) in zip(every, panels, strict=True):
        if title == "loss" and len(curves) != 1:
            _draw_smooth(axes, "total", _curve(rows, "loss"), TOTAL)
        _draw_panel(axes, title, curves, dots)
        for start in phases:
            axes.axvline(start, color="0.6", linewidth=0.8, linestyle=":")
    figure.align_ylabels(every)
    every[-1].set_xlabel("step")
    every[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def smooth(values: FloatArray) -> FloatArray:
    """(n,) -> (n,): each a mean of those around it, with weights that decay. NaN stays NaN and weighs nothing."""
    decay = 1 - min(1.0, _SMOOTH / max(len(values), 1))
    known = np.isfinite(values)
    sums, weights = (
        lfilter([1.0], [1.0, -decay], part) + lfilter([1.0], [1.0, -decay], part[::-1])[::-1]  # before, and after
        for part in (np.where(known, values, 0.0), known * 1.0)
    )
    smoothed: FloatArray = np.where(known, sums / np.where(known, weights, 1.0), np.nan)
    return smoothed


def _curve(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[FloatArray, FloatArray]:
    steps = np.array([row["step"] for row in rows], dtype=np.float64)
    return steps, np.array([row[key] for row in rows], dtype=np.float64)


def _by_name(rows: Sequence[Mapping[str, Any]], key: str) -> Curves:
    """The curves of a table in the rows; a name need not be in all rows."""
    names = dict.fromkeys(name for row in rows for name in row[key])
    return {
        name: _curve([{"step": row["step"], key: row[key][name]} for row in rows if name in row[key]], key)
        for name in names
    }


def _merged(curves: Curves) -> Curves:
    """Curves that are the same drawn once, with all names."""
    names: dict[bytes, list[str]] = {}
    for name, (steps, values) in curves.items():
        names.setdefault(steps.tobytes() + values.tobytes(), []).append(name)
    return {", ".join(same): curves[same[0]] for same in names.values()}


def _draw_panel(axes: Axes, title: str, curves: Curves, dots: Curves) -> None:
    """Curves, smoothed; dots of the same name have the same colour."""
    colors = dict(zip(dict.fromkeys([*curves, *dots]), PALETTE * 10, strict=False))
    for name, curve in curves.items():
        if title == "learning rate":
            axes.plot(*curve, color=colors[name], linewidth=2, label=name)
        else:
            _draw_smooth(axes, name, curve, colors[name])
    for name, (steps, values) in dots.items():
        label = f"{name}, held out" if title == "loss" else name
        axes.plot(steps, values, "o--", color=colors[name], linewidth=1, markersize=5, label=label, clip_on=False)
    axes.set_ylabel(title)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if title.startswith("loss"):
        _scale(axes)
    else:
        axes.set_ylim(0, max(axes.get_ylim()[1], _LEAST))


def _draw_smooth(axes: Axes, name: str, curve: tuple[FloatArray, FloatArray], color: Any) -> None:
    steps, values = curve
    axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.35, zorder=1)
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, smooth(values), color=color, linewidth=2, marker=marker, label=name)


def _scale(axes: Axes) -> None:
    """Logarithmic where all is positive and spans much."""
    lines = [np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.get_lines()]
    values = np.concatenate(lines)
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0 or values.max() < _LOG_FROM * values.min():
        return
    axes.set_yscale("log")
    decades = np.log10(values.max() / values.min())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
