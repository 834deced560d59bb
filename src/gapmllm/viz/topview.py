"""A room from above: footprints of the boxes, the camera's way, a grid in metres. x goes right, y goes up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from PIL import Image
from scipy.spatial import ConvexHull

from gapmllm.geometry import Boxes
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.records import evenly
from gapmllm.viz.labels import Rectangle, draw_labels, label_color

_DPI = 100
_LEFT, _RIGHT, _BOTTOM, _TOP = 0.06, 0.985, 0.05, 0.985  # of the picture, around the drawing
_MARGIN = 0.4  # metres around what is drawn
_NOT_DRAWN = {"ceiling", "object"}
_MAX_ARROWS = 40
_FIRST, _LAST = "#00a040", "#d00000"


@dataclass(frozen=True)
class View:
    """Which part of the world's x-y plane a square picture shows."""

    middle: tuple[float, float]
    """World (x, y) at the middle of the drawing, metres."""
    span: float
    """Width and height of the drawing, metres."""
    size: int
    """Width and height of the picture, pixels."""

    def pixels(self, points: ArrayLike) -> FloatArray:
        """World (..., 2 or more) -> pixels (..., 2) as (x, y). z is ignored."""
        share = (np.asarray(points, dtype=np.float64)[..., :2] - self.middle) / self.span + 0.5
        right = _LEFT + share[..., 0] * (_RIGHT - _LEFT)
        up = _BOTTOM + share[..., 1] * (_TOP - _BOTTOM)
        return np.stack([right, 1 - up], axis=-1) * self.size - 0.5  # pixel (0, 0) is the centre of a pixel


def fit_view(boxes: Boxes, cameras: ArrayLike = (), points: ArrayLike = (), size: int = 1000) -> View:
    """A view that holds all boxes and cameras (F, 4, 4), and all but the outermost 1 % of the points on each side."""
    parts = [boxes.corners().reshape(-1, 3)[:, :2], np.reshape(cameras, (-1, 4, 4))[:, :2, 3]]
    cloud = np.reshape(points, (-1, 3))[:, :2]
    if len(cloud):
        parts.append(np.percentile(cloud, (1, 99), axis=0))
    places = np.concatenate(parts)
    if not len(places):
        return View((0.0, 0.0), 2 * _MARGIN, size)
    low, high = places.min(axis=0), places.max(axis=0)
    x, y = ((low + high) / 2).tolist()
    return View((x, y), float((high - low).max()) + 2 * _MARGIN, size)


def draw_top_view(
    boxes: Boxes,
    labels: Sequence[str],
    cameras: ArrayLike = (),
    *,
    points: ArrayLike = (),
    colors: ArrayLike = (),
    view: View | None = None,
) -> Image.Image:
    """Picture of boxes in the world (z up), with labels, from above.

    labels: one per box. cameras: camera_to_world (F, 4, 4), in order of time: a line with the viewing directions, the
    first in green, the last in red. points (N, 3), colors (N, 3) 0 to 255: drawn below it all, without what is higher
    than the cameras, which would be the ceiling. Walls are light, the floor is an outline, the ceiling is not drawn.
    """
    poses = np.reshape(np.asarray(cameras, dtype=np.float64), (-1, 4, 4))
    cloud = np.reshape(np.asarray(points, dtype=np.float64), (-1, 3))
    view = fit_view(boxes, poses, cloud) if view is None else view
    figure, axes = top_canvas(view)
    draw_points(axes, cloud, np.reshape(np.asarray(colors, dtype=np.float64), (-1, 3)), poses)
    shown = [i for i in np.argsort(boxes.corners()[..., 2].max(axis=1)) if labels[i] not in _NOT_DRAWN]
    for i in shown:  # lowest first: what stands on a table is drawn over it
        _draw_footprint(axes, footprint(boxes.corners()[i]), labels[i])
    draw_cameras(axes, poses, view)
    picture = rendered(figure)
    named = [i for i in shown[::-1] if labels[i] not in {"wall", "floor"}]
    anchors = [(float(x), float(y)) for x, y in view.pixels(boxes.centers[named])]
    draw_labels(
        picture,
        anchors,
        [labels[i] for i in named],
        font_height=round(view.size * 0.65),
        avoid=camera_ends(poses, view),
    )
    return picture


def footprint(corners: FloatArray) -> FloatArray:
    """Convex outline (M, 2) of points (N, 3) from above, counter-clockwise; points may repeat in it."""
    flat = corners[:, :2]
    outline: FloatArray = flat[ConvexHull(flat, qhull_options="QJ").vertices]  # QJ: boxes without width are fine
    return outline


def top_canvas(view: View) -> tuple[Figure, Axes]:
    """An empty top view with its axes in metres."""
    figure = Figure(figsize=(view.size / _DPI, view.size / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((_LEFT, _BOTTOM, _RIGHT - _LEFT, _TOP - _BOTTOM))
    half = view.span / 2
    axes.set_xlim(view.middle[0] - half, view.middle[0] + half)
    axes.set_ylim(view.middle[1] - half, view.middle[1] + half)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=14, steps=[1, 2, 5, 10]))
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, length=3)
    axes.set_xlabel("x, metres", fontsize=10, labelpad=1)
    axes.set_ylabel("y, metres", fontsize=10, labelpad=1)
    return figure, axes


def draw_points(axes: Axes, points: FloatArray, colors: FloatArray, poses: FloatArray) -> None:
    """Points (N, 3) with colours (N, 3), or none of these; what is higher than the cameras (F, 4, 4) is left out."""
    if not len(points):
        return
    highest = float(poses[:, 2, 3].mean()) + 0.1 if len(poses) else np.inf
    kept = np.flatnonzero(points[:, 2] < highest)
    kept = kept[np.argsort(points[kept, 2], kind="stable")]  # higher over lower, as seen from above
    # Lightened: what is drawn over the points, the cameras' dark line above all, stays readable.
    shades = 0.4 + 0.6 * colors[kept] / 255 if len(colors) else "#999999"
    axes.scatter(points[kept, 0], points[kept, 1], s=2, c=shades, linewidths=0, zorder=1)


def _draw_footprint(axes: Axes, outline: FloatArray, label: str) -> None:
    red, green, blue = (channel / 255 for channel in label_color(label))
    if label == "wall":
        axes.fill(outline[:, 0], outline[:, 1], facecolor="#e4e4e4", edgecolor="#b0b0b0", linewidth=0.8, zorder=2)
    elif label == "floor":
        axes.fill(outline[:, 0], outline[:, 1], fill=False, edgecolor="#888888", linewidth=1.2, zorder=2)
    else:
        face = (red, green, blue, 0.25)
        axes.fill(outline[:, 0], outline[:, 1], facecolor=face, edgecolor=(red, green, blue), linewidth=2, zorder=2)


def draw_cameras(axes: Axes, poses: FloatArray, view: View) -> None:
    """The way of cameras (F, 4, 4), and where they look."""
    if not len(poses):
        return
    places = poses[:, :2, 3]
    for color, width in (("white", 4.0), ("#303030", 1.4)):
        axes.plot(places[:, 0], places[:, 1], color=color, linewidth=width, zorder=3)
    some = evenly(len(poses), _MAX_ARROWS)
    ahead = poses[some, :2, 2] * view.span * 0.03  # a camera that looks steeply down has a short arrow
    axes.quiver(
        *places[some].T, *ahead.T, angles="xy", scale_units="xy", scale=1, width=0.003, color="#303030", zorder=3
    )
    for place, color, name, layer in ((places[0], _FIRST, "first frame", 5), (places[-1], _LAST, "last frame", 4)):
        axes.plot(*place, "o", color=color, markersize=8, markeredgecolor="white", zorder=layer, label=name)
    axes.legend(loc="upper right", fontsize=9, framealpha=0.8)


def camera_ends(poses: FloatArray, view: View) -> list[Rectangle]:
    """Where the first and the last camera are marked: no label is to cover them."""
    places = np.rint(view.pixels(poses[[0, -1], :3, 3])).astype(int).tolist() if len(poses) else []
    return [(x - 6, y - 6, x + 7, y + 7) for x, y in places]


def rendered(figure: Figure) -> Image.Image:
    """The picture of a figure."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())  # type: ignore[no-untyped-call]
