"""What there is to show of `Answers`: boxes and places, names and colours; the same in pictures, GLB and page.

Detections have the colour of their label, what a text asked for is orange, points have the colours of the marks in the
order of `COLORS`, descriptions are violet, and what is true is dashed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gapmllm.geometry import Boxes, invert_pose, transform_points
from gapmllm.geometry.camera import FloatArray
from gapmllm.tasks import COLORS, Answers
from gapmllm.tasks.results import boxes_of_results
from gapmllm.viz.labels import Color, label_color

GROUNDED: Color = (255, 120, 0)
DESCRIBED: Color = (178, 102, 255)
TRUTH: Color = (255, 255, 255)
_REACH = 2.0, 8.0  # metres around what is known, and where only cameras are: what was said there is in view
_NAME = 32  # characters on a plate

T = TypeVar("T")


@dataclass(frozen=True)
class Cloud:
    """Points of the room, to show behind the answers."""

    points: FloatArray
    """(N, 3) metres, in the camera of frame 0."""
    colors: NDArray[np.uint8]
    """(N, 3) sRGB."""

    def __post_init__(self) -> None:
        assert self.points.shape == self.colors.shape == (len(self.points), 3), (self.points.shape, self.colors.shape)
        assert np.isfinite(self.points).all(), "a cloud holds known points only"


@dataclass(frozen=True)
class Thing:
    """A box that was said, or a true one."""

    kind: Literal["detection", "grounding", "truth"]
    number: int
    """Its place among the answers of its kind."""
    name: str
    boxes: Boxes
    """One box, in the camera of `frame`."""
    frame: int
    color: Color
    score: float | None = None

    @property
    def plate(self) -> str:
        return _plate(self.name, self.score)


@dataclass(frozen=True)
class Spot:
    """A place that was said: of a pixel, or one that was described."""

    kind: Literal["point", "description"]
    number: int
    name: str
    xyz: FloatArray
    """(3,) metres, in the camera of frame 0."""
    color: Color
    asked: tuple[int, tuple[int, int]] | None = None
    """Frame and pixel."""
    true: FloatArray | None = None
    score: float | None = None

    @property
    def plate(self) -> str:
        return _plate(self.name, self.score)


def things_of(answers: Answers) -> list[Thing]:
    """True boxes, then detections, then groundings."""
    truth = answers.truth
    things = []
    if truth is not None:
        rows = [(f"true {box.label}", box.bbox_3d) for box in truth.detections]
        rows += [(f"true {i + 1}", box) for i, box in enumerate(truth.groundings) if box is not None]
        things += [Thing("truth", i, name, boxes_of_results([box]), 0, TRUTH) for i, (name, box) in enumerate(rows)]
    for i, found in enumerate(answers.detections or ()):
        name, boxes = shorten(found.label), boxes_of_results([found.bbox_3d])
        things.append(Thing("detection", i, name, boxes, 0, label_color(found.label), found.score))
    for i, asked in enumerate(answers.groundings):
        name, boxes = f"{i + 1}: {shorten(asked.text)}", boxes_of_results([asked.bbox_3d])
        things.append(Thing("grounding", i, name, boxes, asked.frame, GROUNDED, asked.score))
    return things


def spots_of(answers: Answers) -> list[Spot]:
    """Located points, then descriptions."""
    known = answers.truth.points if answers.truth else ()
    spots = []
    for i, (point, color) in enumerate(zip(answers.points, cycle(COLORS.values()))):
        true, asked = at(known, i), (point.frame, point.pixel)
        true_xyz = None if true is None else np.array(true)
        spots.append(Spot("point", i, shorten(point.label), np.array(point.xyz), color, asked, true_xyz, point.score))
    for i, said in enumerate(answers.descriptions):
        spots.append(Spot("description", i, shorten(said.text), np.array(said.xyz), DESCRIBED))
    return spots


def between_cameras(answers: Answers, source: int, target: int) -> FloatArray | None:
    """(4, 4) from the camera of one frame to that of another; None where nothing says so."""
    if source == target:
        return np.eye(4)
    first, other = answers.to_first(source), answers.to_first(target)
    return None if first is None or other is None else invert_pose(other) @ first


def things_in_world(answers: Answers) -> list[tuple[Thing, Boxes]]:
    """With their boxes in the level world, those of frames whose camera's place is known."""
    rows = [(thing, answers.to_first(thing.frame)) for thing in things_of(answers)]
    level = answers.level()
    return [(thing, thing.boxes.transform(level @ to_first)) for thing, to_first in rows if to_first is not None]


def cameras_in_world(answers: Answers) -> tuple[list[int], FloatArray]:
    """The frames whose place is known, and their camera_to_world (n, 4, 4) in the level world."""
    known = {i: pose for i in range(len(answers.frames)) if (pose := answers.to_first(i)) is not None}
    return list(known), answers.level() @ np.reshape(list(known.values()), (-1, 4, 4))


def extent(answers: Answers, cloud: Cloud | None) -> FloatArray:
    """Places (n, 3) in the level world that a view is to hold: all that is known, and of what was said what is near it.

    A model that errs says places hundreds of metres away: beside them the room would be a dot.
    """
    level, spots = answers.level(), spots_of(answers)
    boxes = things_in_world(answers)
    solid = [cameras_in_world(answers)[1][:, :3, 3]]
    if cloud is not None and len(cloud.points):
        solid.append(np.percentile(transform_points(cloud.points, level), (1, 99), axis=0))
    solid += [box.corners()[0] for thing, box in boxes if thing.kind == "truth"]
    solid += [transform_points(spot.true, level)[None] for spot in spots if spot.true is not None]
    known = np.concatenate(solid)
    said = [box.corners()[0] for thing, box in boxes if thing.kind != "truth"]
    said += [transform_points(spot.xyz, level)[None] for spot in spots]
    claimed = np.concatenate([np.zeros((0, 3)), *said])
    reach = np.ptp(known, axis=0) / 2 + _REACH[len(solid) == 1]
    near = (claimed > known.min(axis=0) - reach) & (claimed < known.max(axis=0) + reach)
    return np.concatenate([known, claimed[near.all(axis=1)]])


def at(values: Sequence[T | None], index: int) -> T | None:
    """Of a truth that may know fewer than were asked for."""
    return values[index] if index < len(values) else None


def shorten(text: str, most: int = _NAME) -> str:
    """One line of at most so many characters, none of them a control character."""
    line = " ".join("".join(mark if mark.isprintable() else " " for mark in text[: 4 * most]).split())
    return line if len(line) <= most and len(text) <= 4 * most else line[: most - 1].rstrip() + "…"


def _plate(name: str, score: float | None) -> str:
    return name if score is None else f"{name} {score:.0%}"
