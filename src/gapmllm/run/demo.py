"""`gapmllm demo`: a room that no model has seen is made and filmed, all four tasks are asked, the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gapmllm.infer import Describe, Detect, Ground, Locate, View
from gapmllm.model import load
from gapmllm.model.presets import is_trained
from gapmllm.run.look import Wanted, answers_of, write_all
from gapmllm.run.sources import trained_name
from gapmllm.scenes.footage import Footage
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Question, Scene, evenly
from gapmllm.scenes.synth.scene import SynthOptions, make_scene
from gapmllm.tasks import Answers, LabelledBox, Truth
from gapmllm.tasks.questions import QuestionPlan, make_clips
from gapmllm.tasks.questions.plan import boxes_in_camera

FRAMES = 4
"""Of the clip: what models are trained with."""
ROOM = 7
"""In the split test, which no recipe trains on."""
_FILMED = 16  # frames of the recording that the clip is cut from
_CAMERA = "robot"  # as in training
_SIZE = (512, 384)  # pixels
_ASKED = {"points": 6, "grounding": 3, "captioning": 2}  # questions of each task
_SECONDS = 0.35  # between frames, as in training
_MIN_SHARE = 0.01  # of a frame that shows an object, as in training


def demo(
    folder: Path, model: str, *, room: int = ROOM, device: str | None = None, say: Callable[[str], None]
) -> Answers:
    """Write the page, pictures, scene and answers.json of a room of the split test into an empty folder."""
    say(f"making and filming room {room} of the split test")
    options = SynthOptions(split="test", frames=_FILMED, width=_SIZE[0], height=_SIZE[1], camera=_CAMERA)
    scene = cut(make_scene(room, options))
    say(f"loading {model}" + ("" if is_trained(model) else ": its weights are random, so its answers mean nothing"))
    loaded, name = load(model, device=device), trained_name(model)[0]
    wanted, truth = questions_of(scene)
    count = len(wanted.ground) + len(wanted.points) + len(wanted.describe) + 1
    say(f"watching {FRAMES} frames, asking {count} questions")
    view = View(loaded, footage_of(scene))
    answers, cloud = answers_of(view, wanted, model=name, trained=is_trained(model), truth=truth)
    say("drawing")
    write_all(folder, view, answers, cloud)
    return answers


def cut(scene: Scene) -> Scene:
    """The scene with FRAMES frames, `_SECONDS` apart: the run of them that shows most objects."""
    step = max(1, round(_SECONDS / max(1e-3, (scene.frames[1].time or 0) - (scene.frames[0].time or 0))))
    step = min(step, (len(scene.frames) - 1) // (FRAMES - 1))

    def seen(start: int) -> int:
        return len({key for frame in scene.frames[start : start + step * FRAMES : step] for key in frame.visible or {}})

    start = max(range(len(scene.frames) - step * (FRAMES - 1)), key=seen)
    return replace(scene, frames=scene.frames[start : start + step * FRAMES : step])


def footage_of(scene: Scene) -> Footage:
    """The frames with their cameras: a model sees pictures alone, but they are needed to draw answers and truth."""
    return Footage(
        images=tuple(frame.pixels() for frame in scene.frames),
        names=tuple(f"{scene.id}, frame {frame.name}" for frame in scene.frames),
        times=tuple(frame.time for frame in scene.frames),
        intrinsics=np.stack([frame.intrinsics for frame in scene.frames]),
        intrinsics_from="folder",
        camera_to_world=np.stack([frame.camera_to_world for frame in scene.frames]),
        z_up=True,
        source=f"room {scene.id}, made and filmed by gapmllm",
    )


def questions_of(scene: Scene) -> tuple[Wanted, Truth]:
    """What to ask about the scene, all of its frames as one clip, and what is true, in the camera of frame 0."""
    count = len(scene.frames)
    plan = QuestionPlan(
        window_frames=count, windows=1, points=_ASKED["points"], canonical_frames=count, min_share=_MIN_SHARE
    )
    asked: dict[str, list[Question]] = {}
    for clip in make_clips(scene, plan, Problems(scene.id)):
        asked.setdefault(clip.questions[0].task, []).extend(clip.questions)
    some = {task: [asked[task][i] for i in evenly(len(asked[task]), n)] for task, n in _ASKED.items() if task in asked}
    texts = {f"grounding-{text.id}": text.text for text in scene.expressions}
    grounded = [question for question in some.get("grounding", []) if question.id in texts]
    located, described = some.get("points", []), some.get("captioning", [])
    wanted = Wanted(
        detect=Detect(),
        ground=tuple(Ground(texts[question.id]) for question in grounded),
        points=tuple(_locate(question) for question in located),
        describe=tuple(Describe(_rounded(question.target["point"])) for question in described),
    )
    boxes = boxes_in_camera(scene.objects, scene.frames[0])
    truth = Truth(
        detections=tuple(
            LabelledBox.model_validate(entry)
            for question in asked.get("detection", [])
            for entry in question.target["objects"]
        ),
        groundings=tuple(_nine(boxes[question.target["object_id"]]) for question in grounded),
        points=tuple(_rounded(question.target["pointmap"], 6) for question in located),
        point_labels=tuple(question.target.get("label") for question in located),
        descriptions=tuple(tuple(question.target["references"]) for question in described),
    )
    return wanted, truth


def _locate(question: Question) -> Locate:
    assert question.mark is not None
    return Locate(question.mark.frame, (question.mark.x, question.mark.y))


def _rounded(values: Any, decimals: int = 2) -> tuple[float, float, float]:
    x, y, z = (round(float(value), decimals) for value in values)
    return x, y, z


def _nine(box: Any) -> Any:
    return tuple(float(value) for value in box)
