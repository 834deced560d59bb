"""What a model said about a clip beside what is true: its frames, the first camera's surroundings from above, texts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gapmllm.geometry import Boxes, invert_pose, project, resize_intrinsics, transform_points
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.records import Frame, Question, evenly
from gapmllm.tasks import COLORS, DETECTION, GROUNDING, POINTS, Mark, draw_marks
from gapmllm.tasks.marks import mark_size
from gapmllm.viz.depth import depth_range, draw_depth
from gapmllm.viz.labels import Color, draw_labels, label_font
from gapmllm.viz.overlay import draw_edges
from gapmllm.viz.topview import fit_view, footprint, rendered, top_canvas

TRUE: Color = (40, 140, 255)
PREDICTED: Color = (255, 120, 0)
"""Of boxes. Points have the colour of their mark."""
_WIDTH = 1600  # pixels of the sheet
_COLUMNS, _FRAMES = 4, 8  # frames in a row, and in all
_VIEW = 720  # pixels: width and height of the view from above
_LEGEND = (  # place in the view, text, colour
    ((0.92, 0.03), "true", TRUE),
    ((0.92, 0.06), "predicted", PREDICTED),
    ((0.6, 0.93), "x right, z ahead, metres; dots are true, rings predicted", (255, 255, 255)),
)
_LINES = 24  # of text, at most, for one question
# The first camera's axes -> x right, y ahead, z up: what `topview` draws from above.
_LEVEL = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class _Place:
    """A true point with the one that was said; (3,) metres in the first camera, None: none that could be read."""

    name: str
    mark: Mark
    true: FloatArray
    said: FloatArray | None

    @property
    def color(self) -> Color:
        return COLORS[self.mark.color]


@dataclass(frozen=True)
class _Things:
    """Boxes with their names, in the first camera."""

    boxes: Boxes
    names: list[str]
    color: Color


def answers_sheet(
    frames: Sequence[Frame],
    questions: Sequence[Question],
    answers: Sequence[str | None],
    *,
    mark_arm: float = 1 / 64,
) -> Image.Image:
    """One picture of a clip: frames, and below them what lies around the first camera, and all texts.

    Points: crosses mark the pixels, rings in their colours what was said, a line joins the two; from above, dots are
    true. Boxes: `TRUE` and `PREDICTED`, in every frame and from above. questions, answers: of the clip, as many; None
    is an answer that was not given. mark_arm: of the crosses, a share of the frame's width. Of many frames, some.
    """
    assert len(questions) == len(answers), (len(questions), len(answers))
    places = [place for pair in zip(questions, answers, strict=True) for place in _places(*pair)]
    things = _things(questions, answers)
    shown = sorted({*evenly(len(frames), _FRAMES), *(place.mark.frame for place in places)})
    marks = [question.mark for question in questions if question.mark is not None]
    cell = _WIDTH // min(len(shown), _COLUMNS)
    cells = [_draw_frame(frames, index, marks, places, things, cell, mark_arm) for index in shown]
    spatial = bool(places) or any(len(side.boxes) for side in things)
    lower = [_from_above(places, things)] if spatial else []
    lower.append(_texts(questions, answers, _WIDTH - _VIEW * spatial))
    rows = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    return _stacked([*rows, lower])


def depth_sheet(frames: Sequence[Frame], true: NDArray[np.float32], said: NDArray[np.float32]) -> Image.Image:
    """Frames, below each its true depth and the depth that was said, (S, H, W) metres, in the same colours."""
    limits = depth_range([true])
    shown = evenly(len(frames), _COLUMNS)
    size = _WIDTH // len(shown), round(_WIDTH // len(shown) * frames[0].size[1] / frames[0].size[0])
    rows = [[Image.fromarray(frames[i].pixels()).resize(size, Image.Resampling.LANCZOS) for i in shown]]
    for name, maps in (("true", true), ("predicted", said)):
        large = [np.asarray(Image.fromarray(maps[i]).resize(size, Image.Resampling.NEAREST)) for i in shown]
        rows.append([draw_depth(depth, limits) for depth in large])
        for cell in rows[-1]:
            draw_labels(cell, [(0, 0)], [name], [(255, 255, 255)])
    return _stacked(rows)


def _places(question: Question, answer: str | None) -> list[_Place]:
    """The place of a points question, if it asks for one."""
    asked = POINTS.read(question.answer).answer if question.task == POINTS.name else None
    if asked is None or asked.pointmap is None or question.mark is None:
        return []
    read = POINTS.read(answer or "").answer
    said = None if read is None or read.pointmap is None else np.array(read.pointmap)
    name = question.target.get("label") or question.mark.color
    return [_Place(name, question.mark, np.array(question.target["pointmap"]), said)]


def _things(questions: Sequence[Question], answers: Sequence[str | None]) -> tuple[_Things, _Things]:
    """True and predicted boxes of all questions. Those of detections have labels, those of groundings numbers."""
    sides: tuple[list[tuple[str, Any]], list[tuple[str, Any]]] = ([], [])
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True), start=1):
        if question.task == DETECTION.name:
            found = DETECTION.read(answer or "").answer
            sides[0].extend((entry["label"], entry["bbox_3d"]) for entry in question.target["objects"])
            sides[1].extend((item.label, item.bbox_3d) for item in (found.objects if found else ()))
        elif question.task == GROUNDING.name:
            grounded = GROUNDING.read(answer or "").answer
            sides[0].append((str(number), question.target["bbox_3d"]))
            sides[1].extend([(str(number), grounded.bbox_3d)] if grounded else [])
    true, said = (
        _Things(Boxes.from_euler([box for _, box in side], "zxy"), [name for name, _ in side], color)
        for side, color in zip(sides, (TRUE, PREDICTED), strict=True)
    )
    return true, said


# Frames


def _draw_frame(
    frames: Sequence[Frame],
    index: int,
    marks: Sequence[Mark],
    places: Sequence[_Place],
    things: tuple[_Things, _Things],
    width: int,
    mark_arm: float,
) -> Image.Image:
    """One frame with its crosses, and what was said drawn over it once it has its size in the sheet."""
    frame = frames[index]
    own = [Mark(0, mark.x, mark.y, mark.color) for mark in marks if mark.frame == index]
    (pixels,) = draw_marks([frame.pixels()], own, *mark_size(frame.size[0], mark_arm))
    image = Image.fromarray(pixels)
    picture = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    intrinsics = resize_intrinsics(frame.intrinsics, image.size, picture.size)
    to_camera = invert_pose(frame.camera_to_world) @ frames[0].camera_to_world
    draw = ImageDraw.Draw(picture)
    for place in places:
        if place.mark.frame == index and place.said is not None:
            pair = transform_points([place.true, place.said], to_camera)
            _draw_pair(draw, project(pair, intrinsics)[0], place.color)
    for side in things:
        for corners in side.boxes.transform(to_camera).corners():
            draw_edges(draw, corners, intrinsics, side.color, 2)
    draw_labels(picture, [(0, 0)], [f"frame {index}"], [(255, 255, 255)])
    return picture


def _draw_pair(draw: ImageDraw.ImageDraw, pixels: FloatArray, color: Color) -> None:
    """A ring at the second pixel, joined to the first. Behind the camera there is no pixel, and nothing is drawn."""
    if not np.isfinite(pixels).all() or np.abs(pixels).max() > 10 * _WIDTH:
        return
    (x0, y0), (x1, y1) = np.rint(pixels).tolist()
    for line, extra in (("black", 2), (color, 0)):
        draw.line([(x0, y0), (x1, y1)], fill=line, width=2 + extra)
    for line, radius, width in (("black", 12, 7), (color, 10, 3)):
        draw.ellipse([x1 - radius, y1 - radius, x1 + radius, y1 + radius], outline=line, width=width)


# From above


def _from_above(places: Sequence[_Place], things: tuple[_Things, _Things]) -> Image.Image:
    """x right, z (ahead) up, metres; the first camera is the triangle."""
    boxes = Boxes.concatenate([side.boxes for side in things]).transform(_LEVEL)
    true = transform_points(np.reshape([place.true for place in places], (-1, 3)), _LEVEL)
    near = things[0].boxes.transform(_LEVEL).centers
    solid = np.concatenate([true, near, np.zeros((1, 3))])
    said = [place.said for place in places if place.said is not None]
    claimed = np.concatenate([transform_points(np.reshape(said, (-1, 3)), _LEVEL), boxes.centers])
    reach = np.ptp(solid, axis=0) / 2 + 1  # what was said is shown if it is not much farther away than what is true
    claimed = np.clip(claimed, solid.min(axis=0) - reach, solid.max(axis=0) + reach)
    view = fit_view(things[0].boxes.transform(_LEVEL), np.eye(4)[None], np.concatenate([solid, claimed]), _VIEW)
    figure, axes = top_canvas(view)
    axes.set(xlabel="", ylabel="")  # at this size there is no room beside the numbers
    for side in things:
        for corners in side.boxes.transform(_LEVEL).corners():
            outline = footprint(corners)
            color = tuple(channel / 255 for channel in side.color)
            axes.fill(outline[:, 0], outline[:, 1], facecolor=(*color, 0.15), edgecolor=color, linewidth=2)
    for place in places:
        _draw_place(axes, place)
    axes.plot(0, 0, "^", color="#303030", markersize=14, zorder=5)
    picture = rendered(figure)
    named = [row for side in things for row in zip(side.boxes.centers, side.names, repeat(side.color))]
    named += [(place.true, place.name, place.color) for place in places]
    anchors = view.pixels(transform_points([center for center, *_ in named], _LEVEL)) - (0, 16)
    plates = [((at[0] * _VIEW, at[1] * _VIEW), text, color) for at, text, color in _LEGEND]
    plates += [((x, y), *row[1:]) for (x, y), row in zip(anchors.tolist(), named, strict=True)]
    draw_labels(picture, *zip(*plates, strict=True))
    return picture


def _draw_place(axes: Axes, place: _Place) -> None:
    """Dark edges: marks may be white or yellow."""
    color = tuple(channel / 255 for channel in place.color)
    true = transform_points(place.true, _LEVEL)
    axes.plot(*true[:2], "o", color=color, markersize=9, markeredgecolor="#303030", zorder=3)
    if place.said is None:
        return
    pair = np.stack([true, transform_points(place.said, _LEVEL)])
    axes.plot(pair[:, 0], pair[:, 1], color="#303030", linewidth=1, zorder=2)
    for edge, width in (("#303030", 5), (color, 3)):
        axes.plot(*pair[1, :2], "o", fillstyle="none", markersize=13, markeredgecolor=edge, markeredgewidth=width)


# Texts


def _texts(questions: Sequence[Question], answers: Sequence[str | None], width: int) -> Image.Image:
    """Question, true answer and answer, each in lines that fit."""
    font = label_font(600)
    height = int(font.getbbox("Ag")[3]) + 5
    lines: list[tuple[str, Color]] = []
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True), start=1):
        asked = f"{number}  {question.prompt.splitlines()[0]}"  # the others say how to write the answer
        told = ((asked, (0, 0, 0)), (f"true: {question.answer}", TRUE), (f"says: {answer or ''}", PREDICTED))
        for text, color in told:
            text = " ".join(text.split())
            characters = 0.95 * (width - 40) / font.getlength(text) * len(text)
            lines += [(line, color) for line in textwrap.wrap(text, int(characters))[:_LINES]]
    picture = Image.new("RGB", (width, height * (len(lines) + 1)), "white")
    draw = ImageDraw.Draw(picture)
    for row, (line, color) in enumerate(lines):
        draw.text((20, height * (row + 0.5)), line, fill=tuple(round(0.7 * value) for value in color), font=font)
    return picture


def _stacked(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (_WIDTH, sum(heights)), "white")
    for top, row in zip(np.cumsum([0, *heights[:-1]]).tolist(), rows, strict=True):
        left = 0
        for cell in row:
            sheet.paste(cell, (left, top))
            left += cell.width
    return sheet
