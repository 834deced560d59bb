"""Pictures and the GLB file of `Answers`: the frames with all that was said drawn in, the room from above, the scene.

Solid boxes are detections in the colours of their labels and, in orange, groundings, thicker in the frame that was
chosen; dashed ones are true. A cross is a pixel that was asked for, a ring its answer, a dot the true point, a diamond
a place that was described. What belongs to another frame's camera is drawn where the poses of both are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gapmllm.geometry import Boxes, project, resize_intrinsics, transform_points
from gapmllm.geometry.camera import FloatArray
from gapmllm.tasks import Answers
from gapmllm.viz.glb import write_glb
from gapmllm.viz.labels import Color, Rectangle, draw_labels
from gapmllm.viz.overlay import draw_edges, middle_in_view, project_edges
from gapmllm.viz.symbols import Pixel, draw_cross, draw_dashed, draw_dot, draw_link, draw_ring
from gapmllm.viz.things import Cloud as Cloud
from gapmllm.viz.things import (
    Spot,
    Thing,
    between_cameras,
    cameras_in_world,
    extent,
    spots_of,
    things_in_world,
    things_of,
)
from gapmllm.viz.topview import View, camera_ends, draw_cameras, draw_points, fit_view, footprint, rendered, top_canvas

_LEAST_WIDTH, _LONGEST = 640, 1920  # pixels of a picture
_TOP = 1000  # pixels: width and height of the view from above
_TOP_LINE, _TOP_FONT = 2, 600  # pixels: thickness, height of the picture that the font suits
_CUBE = 0.06  # metres: stands for a point in the GLB file
_ORDER = ("truth", "detection", "grounding")  # from below to above
_WHITE: Color = (255, 255, 255)
_Plate = tuple[Pixel, str, Color]


def frame_pictures(answers: Answers, images: Sequence[NDArray[np.uint8]]) -> list[Image.Image]:
    """One picture of each frame, images (H, W, 3), with boxes, points and labels.

    Small frames are enlarged by a whole number to 640 pixels of width or more, large ones made smaller to 1920.
    """
    assert len(images) == len(answers.frames), (len(images), len(answers.frames))
    things, spots = things_of(answers), spots_of(answers)
    return [_draw_frame(_Frame(answers, index, image), things, spots) for index, image in enumerate(images)]


class _Frame:
    """A frame's picture, and where it shows things."""

    def __init__(self, answers: Answers, index: int, image: NDArray[np.uint8]) -> None:
        frame, source = answers.frames[index], Image.fromarray(image)
        factor = min(-(-_LEAST_WIDTH // source.width), _LONGEST / max(source.size))
        size = max(1, round(source.width * factor)), max(1, round(source.height * factor))
        self.answers, self.index, self.size = answers, index, size
        self.picture = source.resize(size, Image.Resampling.LANCZOS)
        self.intrinsics = resize_intrinsics(frame.intrinsics, frame.size, size)
        self.scale = np.array(size) / frame.size
        self.line = max(2, round(min(size) / 240))

    def corners(self, thing: Thing) -> FloatArray | None:
        """(8, 3) in this frame's camera."""
        matrix = between_cameras(self.answers, thing.frame, self.index)
        return None if matrix is None else thing.boxes.transform(matrix).corners()[0]

    def pixel(self, xyz: FloatArray | None) -> Pixel | None:
        """Of a place in the first camera, if the picture shows it."""
        matrix = between_cameras(self.answers, 0, self.index)
        if xyz is None or matrix is None:
            return None
        x, y = project(transform_points(xyz, matrix), self.intrinsics)[0].tolist()
        return (x, y) if 0 <= x < self.size[0] and 0 <= y < self.size[1] else None

    def asked(self, spot: Spot) -> Pixel | None:
        """The pixel that was asked for, if it was one of this frame."""
        if spot.asked is None or spot.asked[0] != self.index:
            return None
        x, y = ((np.array(spot.asked[1]) + 0.5) * self.scale - 0.5).tolist()
        return x, y


def _draw_frame(frame: _Frame, things: Sequence[Thing], spots: Sequence[Spot]) -> Image.Image:
    """Plates of text come last: nothing is to be drawn over them."""
    draw = ImageDraw.Draw(frame.picture)
    seen = [(thing, corners) for thing in things if (corners := frame.corners(thing)) is not None]
    # Near boxes lie above far ones.
    seen.sort(key=lambda row: (_ORDER.index(row[0].kind), -np.linalg.norm(row[1].mean(axis=0))))
    plates: list[_Plate] = []
    for thing, corners in seen:
        if thing.kind == "truth":
            draw_dashed(draw, project_edges(corners, frame.intrinsics), frame.size, thing.color, frame.line)
            continue
        chosen = thing.kind == "grounding" and thing.frame == frame.index
        draw_edges(draw, corners, frame.intrinsics, thing.color, frame.line * (2 if chosen else 1))
        middle = middle_in_view(corners, frame.intrinsics, frame.size)
        plates += [(middle, thing.plate, thing.color)] if middle else []
    signs = {"dashed: true" for thing, _ in seen if thing.kind == "truth"}
    covered: list[Rectangle] = []
    for spot in spots:
        said, true, asked = frame.pixel(spot.xyz), frame.pixel(spot.true), frame.asked(spot)
        true = None if asked else true  # it is where the cross is
        covered += _draw_spot(draw, spot, said, true, asked, frame.line)
        anchor = said or asked
        plates += [(anchor, spot.plate, spot.color)] if anchor else []
        signs |= {"dot: true"} if true else set()
        signs |= {"cross: asked for"} if asked else set()
        signs |= {"ring: answer"} if said and spot.kind == "point" else set()
    font = min(frame.size)
    covered += _draw_plates(frame.picture, [((0, 0), f"frame {frame.index}", _WHITE)], font)
    covered += _draw_plates(frame.picture, [((0, frame.size[1]), ", ".join(sorted(signs)), _WHITE)][: len(signs)], font)
    _draw_plates(frame.picture, plates, font, covered)
    return frame.picture


def _draw_spot(
    draw: ImageDraw.ImageDraw, spot: Spot, said: Pixel | None, true: Pixel | None, asked: Pixel | None, line: int
) -> list[Rectangle]:
    """Draws what there is, and returns what it covers."""
    start = asked or true
    if start and said:
        draw_link(draw, start, said, spot.color, line)
    covered = [draw_dot(draw, true, spot.color, line)] if true else []
    covered += [draw_cross(draw, asked, spot.color, line)] if asked else []
    corners = 4 if spot.kind == "description" else 48
    return covered + ([draw_ring(draw, said, spot.color, line, corners)] if said else [])


def _draw_plates(
    picture: Image.Image, plates: Sequence[_Plate], font_height: int, covered: Sequence[Rectangle] = ()
) -> list[Rectangle]:
    """What was drawn last gets the best place. Returns what the plates cover."""
    rows = plates[::-1]
    names, colors = [name for _, name, _ in rows], [color for *_, color in rows]
    placed = draw_labels(picture, [at for at, *_ in rows], names, colors, font_height=font_height, avoid=covered)
    return [plate for plate in placed if plate is not None]


# From above, and as a file


def top_picture(answers: Answers, cloud: Cloud | None) -> Image.Image:
    """The level world from above, x right and y up, metres; the first camera looks along y."""
    level, poses = answers.level(), cameras_in_world(answers)[1]
    places = extent(answers, cloud)
    low, high = places.min(axis=0), places.max(axis=0)
    view = fit_view(Boxes.from_axis_aligned([[*(low + high) / 2, *(high - low)]]), size=_TOP)
    figure, axes = top_canvas(view)
    if cloud is not None:
        draw_points(axes, transform_points(cloud.points, level), cloud.colors.astype(np.float64), poses)
    rows = things_in_world(answers)
    rows.sort(key=lambda row: (_ORDER.index(row[0].kind), row[1].corners()[..., 2].max()))  # low ones lie below
    for thing, box in rows:
        _draw_footprint(axes, thing, box)
    draw_cameras(axes, poses, view)
    picture = rendered(figure)
    plates = [(_on(view, box.centers[0]), thing.plate, thing.color) for thing, box in rows if thing.kind != "truth"]
    covered = camera_ends(poses, view)
    for spot in spots_of(answers):
        said, true = (None if xyz is None else _on(view, transform_points(xyz, level)) for xyz in (spot.xyz, spot.true))
        covered += _draw_spot(ImageDraw.Draw(picture), spot, said, true, None, _TOP_LINE)
        plates.append((said, spot.plate, spot.color))
    _draw_plates(picture, [(place, text, color) for place, text, color in plates if place], _TOP_FONT, covered)
    return picture


def _on(view: View, place: FloatArray) -> Pixel | None:
    x, y = view.pixels(place).tolist()
    return (x, y) if 0 <= x < view.size and 0 <= y < view.size else None


def _draw_footprint(axes: Axes, thing: Thing, box: Boxes) -> None:
    outline = footprint(box.corners()[0])
    color = tuple(channel / 255 for channel in thing.color)
    if thing.kind == "truth":  # white would be lost here
        axes.fill(*outline.T, fill=False, edgecolor="#303030", linewidth=1.5, linestyle=(0, (3, 2)), zorder=2)
    else:
        axes.fill(*outline.T, facecolor=(*color, 0.25), edgecolor=color, linewidth=2, zorder=2)


def write_scene(path: Path, answers: Answers, cloud: Cloud | None) -> None:
    """The level world as a GLB file: points, boxes, cameras whose place is known, and cubes where points were said.

    Nodes: "points", "boxes chair", "boxes 1: the chair by the bed" of the first grounding, "boxes true chair", "boxes
    point 1 chair", "boxes description 1 a brown chair", "camera 000" and so on. Raises OSError.
    """
    level = answers.level()
    rows = [(thing.name, box, thing.color) for thing, box in things_in_world(answers)]
    for spot in spots_of(answers):
        cube = Boxes.from_axis_aligned([[*spot.xyz, _CUBE, _CUBE, _CUBE]]).transform(level)
        rows.append((f"{spot.kind} {spot.number + 1} {spot.name}", cube, spot.color))
    known, poses = cameras_in_world(answers)
    write_glb(
        path,
        points=() if cloud is None else transform_points(cloud.points, level),
        colors=() if cloud is None else cloud.colors,
        boxes=Boxes.concatenate([box for _, box, _ in rows]),
        labels=[name for name, *_ in rows],
        box_colors=[color for *_, color in rows],
        cameras=poses,
        intrinsics=[answers.frames[i].intrinsics for i in known],
        size=[answers.frames[i].size for i in known],
    )
