"""From a question and the answer that a model gave to the prediction record that is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gapmllm.evaluation.classes import plain
from gapmllm.evaluation.records import CaptionRecord, DetectionRecord, GroundingRecord, PointsRecord, Record
from gapmllm.geometry import invert_pose
from gapmllm.scenes.records import Clip, Question, Scene
from gapmllm.tasks import CAPTIONING, DETECTION, FRAME, GROUNDING, LOOK, LOOKING, POINTS

NEAR = 0.05
"""A place in a frame that is said within this share of its width and height is right."""


def record_of(
    scene: Scene, clip: Clip, question: Question, answer: str | None, *, scores: Sequence[float] | None = None
) -> Record | None:
    """The record of one answered question; None where no record can hold it, as it asks for no place in space.

    Then `is_right` judges: which of the frames, and what is to be seen. answer: the text that a model wrote, None if
    there is none. scores: of a detection's objects, in the order written; the one of a grounding or point; a caption
    has none. Boxes are in the clip's first camera; points too, with its pose: those of a scene make one cloud.
    """
    if question.task not in _MAKERS:
        return None
    record_type, make = _MAKERS[question.task]
    values = make(scene, clip, question.target)
    values |= {"version": 1, "id": f"{scene.id}/{question.id}", "scene": scene.id, "answer": answer}
    if scores is not None:
        values |= {"scores": scores} if question.task == DETECTION.name else {"score": scores[0]}
    return record_type.model_validate(values, strict=False)  # targets come from JSON: lists where records have tuples


def is_right(question: Question, answer: str | None) -> bool:
    """Whether a question without a record is answered: with a frame that shows the object well, or with all values."""
    if question.task == FRAME.name:
        chosen = FRAME.read(answer or "").answer
        return chosen is not None and chosen.frame in question.target["frames"]
    assert question.task == LOOKING, question.task
    seen = LOOK.read(answer or "").answer
    said, true = seen.model_dump(exclude_none=True) if seen else {}, question.target
    return said.keys() == true.keys() and all(_agree(said[key], true[key]) for key in true)


def _agree(said: Any, true: Any) -> bool:
    """Numbers and names are the same; places, which are shares of a frame, near each other."""
    if isinstance(true, str):
        return plain(said) == plain(true)
    if isinstance(true, int):
        return bool(said == true)
    return all(abs(a - b) <= NEAR for a, b in zip(said, true, strict=True))


def _points(scene: Scene, clip: Clip, target: dict[str, Any]) -> dict[str, Any]:
    truth = {"pointmap": target["pointmap"], "label": target.get("label")}
    pose = scene.frames[clip.frames[0]].camera_to_world
    return {"task": "points", "truth": truth, "camera_to_world": pose.tolist()}


def _detection(_: Scene, __: Clip, target: dict[str, Any]) -> dict[str, Any]:
    return {"task": "detection", "truth": target["objects"], **_conventions(target)}


def _grounding(scene: Scene, clip: Clip, target: dict[str, Any]) -> dict[str, Any]:
    values = {"task": "grounding", "truth": target["bbox_3d"], **_conventions(target)}
    if (group := target.get("group")) in ("unique", "multiple"):
        values["group"] = group
    if "frame" in target:  # both steps at once: the answer's box is in the frame that it names
        to_first = invert_pose(scene.frames[clip.frames[0]].camera_to_world)
        poses = [(to_first @ frame.camera_to_world).tolist() for frame in scene.clip_frames(clip)]
        values |= {"camera_to_world": poses, "frame": 0, "truth_frames": [target["frame"]]}
    return values


def _captioning(_: Scene, __: Clip, target: dict[str, Any]) -> dict[str, Any]:
    return {"task": "caption", "truth": target["references"], "iou": target["iou"]}


def _conventions(target: dict[str, Any]) -> dict[str, Any]:
    """Targets are "zxy"; a record of another source says in which convention its answers are written."""
    return {"truth_convention": "zxy", "answer_convention": target.get("euler", "zxy")}


_MAKERS: dict[str, tuple[type[Record], Callable[[Scene, Clip, dict[str, Any]], dict[str, Any]]]] = {
    POINTS.name: (PointsRecord, _points),
    DETECTION.name: (DetectionRecord, _detection),
    GROUNDING.name: (GroundingRecord, _grounding),
    CAPTIONING.name: (CaptionRecord, _captioning),
}
