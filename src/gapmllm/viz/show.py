"""Everything there is to see of one scene, as files in a folder: `gapmllm data show`.

frame_000.png   a frame, with the boxes of the objects in view; the number counts the scene's frames from 0
depth_000.png   its depth, the same colours for the whole scene
marks_000.png   a frame of one clip, with the crosses that its points questions ask for and their true labels
topview.png     the room from above
overview.png    all of these in one picture, the marks left out
scene.glb       points, boxes and cameras, for a 3D viewer
questions.md    prompts and true answers, some of each task
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapmllm.geometry import resize_intrinsics
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.records import NOT_OBJECTS, Clip, Frame, Question, Scene, SceneObject, boxes_of, evenly
from gapmllm.scenes.visibility import visible_objects
from gapmllm.tasks import COLORS, POINTS, draw_marks
from gapmllm.viz.depth import depth_range, draw_depth
from gapmllm.viz.glb import scene_points, write_glb
from gapmllm.viz.labels import draw_labels
from gapmllm.viz.overlay import draw_boxes
from gapmllm.viz.topview import draw_top_view

_WIDTH = 960  # pixels: smaller pictures are enlarged by the whole number that comes nearest to this
_CELL = 480  # pixels: width of one picture in the overview, which is drawn anew: its labels stay readable
_TALLEST = 3000  # pixels
_ARM = 10  # pixels from the centre of a cross to its ends, as `draw_marks` draws it
_NEAREST = Image.Resampling.NEAREST  # depth is not to be mixed over edges, nor the pixels of a cross
_CLIPS, _EACH = 5, 3  # clips in questions.md, questions of each task of a clip


def show_scene(scene: Scene, out: Path, *, max_frames: int = 6, clip: int | None = None) -> list[Path]:
    """Write the files listed above into the folder `out` (made if missing; files of these names are replaced).

    max_frames: evenly spaced over the recording. clip: index of the clip whose marks are drawn; None: the first that
    has a points question. Files about what the scene does not have (depth, marks, questions) are not written.
    Returns the paths in a fixed order. Raises ValueError for a scene without frames and a clip that is not there.
    """
    if not scene.frames or max_frames < 1:
        raise ValueError(
            f"scene {scene.id} has {len(scene.frames)} frames, {max_frames} were asked for; needs both > 0"
        )
    marked = _marked_clip(scene, clip)
    indices = evenly(len(scene.frames), max_frames)
    chosen = {i: scene.frames[i] for i in indices}
    frames = {i: draw_frame(frame, scene.objects) for i, frame in chosen.items()}
    depths = _draw_depths(chosen)
    marks = {} if marked is None else _draw_marks(scene, marked, max_frames)
    points, colors = scene_points(scene)
    poses = np.stack([frame.camera_to_world for frame in scene.frames])
    labels = [item.label for item in scene.objects]
    top = draw_top_view(scene.boxes(), labels, poses, points=points, colors=colors)

    out.mkdir(parents=True, exist_ok=True)
    pictures = {f"frame_{i:03d}.png": picture for i, picture in frames.items()}
    pictures |= {f"depth_{i:03d}.png": picture for i, picture in depths.items()}
    pictures |= {f"marks_{i:03d}.png": picture for i, picture in marks.items()}
    pictures |= {"topview.png": top, "overview.png": _overview(chosen, scene.objects, top)}
    for name, picture in pictures.items():
        picture.save(out / name)
    _write_glb(scene, out / "scene.glb", points, colors)
    names = [*pictures, "scene.glb"]
    if scene.clips or scene.expressions:
        (out / "questions.md").write_text(questions_text(scene), encoding="utf-8")
        names.append("questions.md")
    return [out / name for name in names]


def draw_frame(frame: Frame, objects: Sequence[SceneObject], width: int | None = None) -> Image.Image:
    """A frame with boxes and labels of the objects that it shows, not of walls and the like.

    width: of the picture in pixels; None: that of the frame, small ones enlarged by a whole number.
    """
    visible = frame.visible
    if visible is None:
        visible = visible_objects(frame, objects)
    shown = [item for item in objects if item.id in visible and item.label not in NOT_OBJECTS]
    image = Image.fromarray(frame.pixels())
    picture = _resized(image, width or _enlarged(image.width), Image.Resampling.LANCZOS)
    intrinsics = resize_intrinsics(frame.intrinsics, image.size, picture.size)
    return draw_boxes(picture, boxes_of(shown), intrinsics, frame.camera_to_world, [item.label for item in shown])


def questions_text(scene: Scene) -> str:
    """Prompts and true answers of the first clips, some of each task, and some of the descriptions; Markdown."""
    lines = [f"# Scene {scene.id}", "", f"{len(scene.frames)} frames, {len(scene.objects)} objects", ""]
    asked = sum(len(clip.questions) for clip in scene.clips)
    lines += [f"{len(scene.expressions)} descriptions, {len(scene.clips)} clips with {asked} questions", ""]
    shown = _clips_of_all_tasks(scene)
    for clip in shown:
        lines += [f"## Clip {clip.id}", "", f"Frames of the scene: {', '.join(map(str, clip.frames))}", ""]
        for task in dict.fromkeys(question.task for question in clip.questions):
            lines += _task_lines(task, [question for question in clip.questions if question.task == task])
    if len(scene.clips) > len(shown):
        lines += [f"… and {len(scene.clips) - len(shown)} more clips.", ""]
    if scene.expressions:
        lines += ["## Descriptions", ""]
        labels = {item.id: item.label for item in scene.objects}
        some = scene.expressions[: _CLIPS * _EACH]
        lines += [f"- {labels[text.object_id]} {text.object_id}: {_one_line(text.text)}" for text in some]
        lines += [f"- … and {len(scene.expressions) - len(some)} more"] * (len(some) < len(scene.expressions))
        lines += [""]
    return "\n".join(lines)


def _clips_of_all_tasks(scene: Scene) -> list[Clip]:
    """The first clips, but one of each task before a second of any."""
    first: dict[str, Clip] = {}
    for clip in scene.clips:
        for question in clip.questions:
            first.setdefault(question.task, clip)
    chosen = list(dict.fromkeys(clip.id for clip in (*first.values(), *scene.clips)))[:_CLIPS]
    return [clip for clip in scene.clips if clip.id in chosen]


def _task_lines(task: str, questions: list[Question]) -> list[str]:
    more = f", the first {_EACH}" if len(questions) > _EACH else ""
    lines = [f"### {task}: {len(questions)} questions{more}", ""]
    for question in questions[:_EACH]:
        mark = question.mark
        where = "" if mark is None else f" ({mark.color} cross in frame {mark.frame} at {mark.x}, {mark.y})"
        lines += [f"Question {question.id}{where}:", ""]
        lines += [f"    {line}" for line in question.prompt.splitlines()]  # four spaces: shown as it is
        lines += ["", "Answer:", ""]
        lines += [f"    {line}" for line in question.answer.splitlines()]
        lines += [""]
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _marked_clip(scene: Scene, index: int | None) -> Clip | None:
    if index is None:
        return next((clip for clip in scene.clips if _points_questions(clip)), None)
    if not 0 <= index < len(scene.clips):
        raise ValueError(f"scene {scene.id} has {len(scene.clips)} clips, counted from 0; clip {index} was asked for")
    return scene.clips[index]


def _points_questions(clip: Clip) -> list[Question]:
    return [question for question in clip.questions if question.task == POINTS.name and question.mark is not None]


def _draw_depths(frames: dict[int, Frame], width: int | None = None) -> dict[int, Image.Image]:
    maps = {i: depth for i, frame in frames.items() if (depth := frame.depth_map()) is not None}
    limits = depth_range(list(maps.values()))
    resized = {i: Image.fromarray(depth) for i, depth in maps.items()}
    resized = {i: _resized(image, width or _enlarged(image.width), _NEAREST) for i, image in resized.items()}
    return {i: draw_depth(np.asarray(image), limits) for i, image in resized.items()}


def _draw_marks(scene: Scene, clip: Clip, most: int) -> dict[int, Image.Image]:
    """Scene's frame index -> picture with crosses and labels, of at most `most` frames of the clip."""
    questions: dict[int, list[Question]] = {}
    for question in _points_questions(clip):
        assert question.mark is not None
        questions.setdefault(question.mark.frame, []).append(question)
    return {clip.frames[i]: _draw_marked(scene.frames[clip.frames[i]], questions[i]) for i in sorted(questions)[:most]}


def _draw_marked(frame: Frame, questions: list[Question]) -> Image.Image:
    """Crosses are drawn at the stored size, as the model gets them, then all is enlarged and the labels are added."""
    marks = [replace(question.mark, frame=0) for question in questions if question.mark is not None]
    image = Image.fromarray(draw_marks([frame.pixels()], marks)[0])
    picture = _resized(image, _enlarged(image.width), _NEAREST)
    factor = picture.width / image.width
    anchors = [((mark.x + 0.5) * factor - 0.5, (mark.y + 0.5) * factor - 0.5) for mark in marks]
    reach = (_ARM + 1) * factor
    crosses = [(round(x - reach), round(y - reach), round(x + reach), round(y + reach)) for x, y in anchors]
    labels = [_label_of(question) for question in questions]
    draw_labels(picture, anchors, labels, [COLORS[mark.color] for mark in marks], avoid=crosses)
    return picture


def _label_of(question: Question) -> str:
    """What the true answer says is there: the label, or the point where only that is asked for."""
    answer = POINTS.read(question.answer).answer
    if answer is None:
        return question.answer
    return answer.label or ", ".join(f"{value:.2f}" for value in answer.pointmap or ()) + " m"


def _enlarged(width: int) -> int:
    """Width at which pictures of this width are shown: a whole multiple near _WIDTH, or the same."""
    return width * max(1, round(_WIDTH / width))


def _resized(picture: Image.Image, width: int, how: Image.Resampling) -> Image.Image:
    """To this width, or less where the picture would become taller than _TALLEST."""
    factor = min(width / picture.width, _TALLEST / picture.height)
    return picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), how)


def _overview(frames: dict[int, Frame], objects: Sequence[SceneObject], top: Image.Image) -> Image.Image:
    """Frames in rows, each above its depth, and the top view at the right."""
    depths = _draw_depths(frames, _CELL)
    columns = 3 if depths else 2
    rows: list[list[Image.Image]] = []
    for start in range(0, len(frames), columns):
        band = list(frames)[start : start + columns]
        rows.append([_captioned(draw_frame(frames[i], objects, _CELL), f"frame {i}") for i in band])
        rows.append([_captioned(depths[i], f"depth {i}") for i in band if i in depths])
    heights = [max((cell.height for cell in row), default=0) for row in rows]
    left, side = _CELL * min(len(frames), columns), max(sum(heights), 2 * _CELL)
    sheet = Image.new("RGB", (left + side, side), "white")
    for i, row in enumerate(rows):
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * _CELL, sum(heights[:i])))
    sheet.paste(_resized(top, side, Image.Resampling.LANCZOS), (left, 0))
    return sheet


def _captioned(picture: Image.Image, caption: str) -> Image.Image:
    draw_labels(picture, [(0, 0)], [caption], [(255, 255, 255)])
    return picture


def _write_glb(scene: Scene, path: Path, points: FloatArray, colors: NDArray[np.uint8]) -> None:
    objects = [item for item in scene.objects if item.label not in NOT_OBJECTS]
    write_glb(
        path,
        points=points,
        colors=colors,
        boxes=boxes_of(objects),
        labels=[item.label for item in objects],
        cameras=[frame.camera_to_world for frame in scene.frames],
        intrinsics=[frame.intrinsics for frame in scene.frames],
        size=[frame.size for frame in scene.frames],
    )
