"""Point questions: pixels with known depth, spread over objects, background and distances."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gapmllm.geometry import invert_pose, transform_points, unproject_pixels
from gapmllm.scenes.records import NOT_OBJECTS, Clip, Frame, Mark, Question, Scene
from gapmllm.scenes.visibility import points_in_boxes
from gapmllm.tasks import COLORS, POINTS, PointAnswer
from gapmllm.tasks.questions.plan import QuestionPlan, windows

_GRID = 4  # candidates are every 4th depth pixel: enough to choose from
_FLAT = 0.05  # a mark must not sit on an edge: depth around it may vary by this share
_APART = 12  # marks of one frame keep a distance of its width / 12, and of 21 pixels: crosses must not cover others
_BORDER = 3  # pixels


@dataclass(frozen=True)
class _Candidates:
    """Pixels of one frame that could be marked. n of them."""

    pixels: NDArray[np.int64]  # (n, 2) x, y in the image
    world: NDArray[np.float64]  # (n, 3)
    depth: NDArray[np.float64]  # (n,)
    objects: NDArray[np.int64]  # (n,) position in scene.objects, -1: none known
    things: NDArray[np.bool_]  # (n,) on an object that is no wall, floor or ceiling


def point_clips(scene: Scene, plan: QuestionPlan, rng: np.random.Generator) -> list[Clip]:
    """One clip a window, with up to plan.points marks. Frames without depth carry no marks."""
    clips = []
    found: dict[int, _Candidates | None] = {}
    for number, indices in enumerate(windows(scene, plan)):
        for index in indices:
            if index not in found:
                found[index] = _candidates(scene, scene.frames[index], rng)
        questions = _questions(
            scene, indices, [found[index] for index in indices], plan.points, f"points-{number}", rng
        )
        if questions:
            clips.append(Clip(id=f"points-{number}", frames=indices, questions=tuple(questions)))
    return clips


def ask_only(question: Question, what: Literal["point", "label"]) -> Question:
    """A points question of `point_clips` with one half of its answer: the point alone, or the label alone.

    Where no label is known (recordings without objects) the point stays asked: it is all that there is, and a clip does
    not lose its questions. The target keeps the point, which records of the task need, and a label that is asked for.
    """
    mark, target = question.mark, question.target
    assert mark is not None, question.id
    if what == "label" and "label" in target:
        answer = PointAnswer(label=target["label"])
    else:
        answer, target = PointAnswer(pointmap=target["pointmap"]), {"pointmap": target["pointmap"]}
    prompt = POINTS.prompt(mark.frame, mark.color, label=answer.label is not None, point=answer.pointmap is not None)
    return replace(question, prompt=prompt, answer=POINTS.write(answer), target=target)


def _questions(
    scene: Scene,
    indices: tuple[int, ...],
    candidates: list[_Candidates | None],
    wanted: int,
    clip_id: str,
    rng: np.random.Generator,
) -> list[Question]:
    to_camera = invert_pose(scene.frames[indices[0]].camera_to_world)
    widths = [scene.frames[index].size[0] for index in indices]
    questions: list[Question] = []
    marks: list[Mark] = []
    colors = rng.permutation(list(COLORS))  # a colour must not tell what it marks
    for number, color in enumerate(colors[:wanted].tolist()):
        choice = _choose(candidates, marks, widths, number % 2 == 0, rng)
        if choice is None:
            break
        frame, row, found = choice
        mark = Mark(frame, int(found.pixels[row, 0]), int(found.pixels[row, 1]), color)
        position = int(found.objects[row])
        label = scene.objects[position].label if position >= 0 else None
        point = [float(v) for v in transform_points(found.world[row], to_camera)]
        marks.append(mark)
        questions.append(
            Question(
                task="points",
                prompt=POINTS.prompt(mark.frame, mark.color, label=label is not None),
                answer=POINTS.write(PointAnswer(label=label, pointmap=(point[0], point[1], point[2]))),
                target={"pointmap": point} if label is None else {"label": label, "pointmap": point},
                id=f"{clip_id}-{number}",
                mark=mark,
            )
        )
    return questions


def _choose(
    candidates: list[_Candidates | None],
    marks: list[Mark],
    widths: list[int],
    on_object: bool,
    rng: np.random.Generator,
) -> tuple[int, int, _Candidates] | None:
    """(frame of the clip, row of its candidates, these) of the next mark; None where nothing is left.

    A frame with the fewest marks; there an object (each as likely, however large) or the background as wanted, where it
    has that; of its pixels one at a random distance rather than at a random place: near things cover most of them.
    """
    counts = [sum(mark.frame == frame for mark in marks) for frame in range(len(candidates))]
    for frame in sorted(range(len(candidates)), key=lambda f: (counts[f], rng.random())):
        found = candidates[frame]
        if found is None:
            continue
        free = np.ones(len(found.depth), dtype=bool)
        for mark in marks:
            if mark.frame == frame:
                distance = np.abs(found.pixels - (mark.x, mark.y)).max(axis=1)
                free &= distance > max(21, widths[frame] // _APART)
        rows = _of_kind(np.flatnonzero(free), found, on_object, rng)
        if len(rows):
            rows = rng.permutation(rows)  # of equal depths, any place is as good
            depth = found.depth[rows]
            target = rng.uniform(depth.min(), depth.max())
            nearest = np.argsort(np.abs(depth - target), kind="stable")[: max(1, len(rows) // 8)]
            return frame, int(rows[rng.choice(nearest)]), found
    return None


def _of_kind(
    rows: NDArray[np.int64], found: _Candidates, on_object: bool, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The rows on one object, or on the background; all rows where the frame has none of the kind that is wanted."""
    kind = rows[found.things[rows] == on_object]
    if not len(kind):
        return rows
    return kind[found.objects[kind] == rng.choice(np.unique(found.objects[kind]))] if on_object else kind


def _candidates(scene: Scene, frame: Frame, rng: np.random.Generator) -> _Candidates | None:
    depth = frame.depth_map()
    if depth is None:
        return None
    columns, rows = _flat_places(depth, rng)
    ratio = frame.intrinsics[[0, 1], [0, 1]] / frame.depth_camera()[[0, 1], [0, 1]]
    grid = np.stack([columns, rows], axis=1)
    pixels = np.rint((grid - frame.depth_camera()[:2, 2]) * ratio + frame.intrinsics[:2, 2]).astype(np.int64)
    inside = ((pixels >= _BORDER) & (pixels < np.array(frame.size) - _BORDER)).all(axis=1)
    pixels, z = pixels[inside], depth[rows[inside], columns[inside]].astype(np.float64)
    if not len(pixels):
        return None
    world = unproject_pixels(pixels, z, frame.intrinsics, frame.camera_to_world)
    owners = _owners(scene, frame, pixels, world)
    is_thing = np.array([*(item.label not in NOT_OBJECTS for item in scene.objects), False])  # the last one: owner -1
    return _Candidates(pixels, world, z, owners, is_thing[owners])


def _flat_places(depth: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns and rows of pixels whose 3x3 neighbourhood is known and about as deep, on a grid with a random start."""
    top, left = rng.integers(1, 1 + _GRID, 2)
    rows, columns = np.mgrid[top : depth.shape[0] - 1 : _GRID, left : depth.shape[1] - 1 : _GRID].reshape(2, -1)
    around = np.stack([depth[rows + dy, columns + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    flat = (around > 0).all(axis=0) & (np.ptp(around, axis=0) < _FLAT * around[4])
    return columns[flat], rows[flat]


def _owners(scene: Scene, frame: Frame, pixels: NDArray[np.int64], world: NDArray[np.float64]) -> NDArray[np.int64]:
    """Position of each point's object in the scene: by the instance map, else the smallest box that holds it."""
    instances = frame.instance_map()
    if instances is not None:
        position = np.full(max([item.id for item in scene.objects], default=-1) + 2, -1)
        position[[item.id for item in scene.objects]] = np.arange(len(scene.objects))
        ids = instances[pixels[:, 1], pixels[:, 0]]
        return position[np.where((ids >= 0) & (ids < len(position) - 1), ids, -1)]
    boxes = scene.boxes()
    if not len(boxes):
        return np.full(len(pixels), -1)
    volumes = np.where(points_in_boxes(world, boxes), boxes.volumes(), np.inf)
    return np.where(np.isfinite(volumes.min(axis=1)), volumes.argmin(axis=1), -1)
