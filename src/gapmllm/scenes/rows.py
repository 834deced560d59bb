"""Scenes as rows of a table: the columns of a shard, and the way there and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from datasets import Features, Value
from numpy.typing import NDArray

from gapmllm.geometry import Boxes
from gapmllm.scenes.records import Clip, Expression, Frame, Mark, Question, Scene, SceneObject

_NUMBERS = [Value("float64")]  # matrices row by row
_BOX = {"center": _NUMBERS, "size": _NUMBERS, "rotation": _NUMBERS}
_MARK = {"frame": Value("int32"), "x": Value("int32"), "y": Value("int32"), "color": Value("string")}

FEATURES = Features(
    {
        "id": Value("string"),
        "split": Value("string"),
        "source": Value("string"),
        "frames": [
            {
                "image": Value("binary"),
                "intrinsics": _NUMBERS,
                "camera_to_world": _NUMBERS,
                "depth": Value("binary"),
                "depth_scale": Value("float64"),
                "depth_intrinsics": _NUMBERS,
                "instances": Value("binary"),
                "visible": [{"id": Value("int32"), "share": Value("float64")}],
                "time": Value("float64"),
                "name": Value("string"),
            }
        ],
        "objects": [{"id": Value("int32"), "label": Value("string"), **_BOX, "attributes": Value("string")}],
        "expressions": [
            {
                "object_id": Value("int32"),
                "text": Value("string"),
                "id": Value("string"),
                "kind": Value("string"),
                "view_dependent": Value("bool"),
                "unique": Value("bool"),
            }
        ],
        "clips": [
            {
                "id": Value("string"),
                "frames": [Value("int32")],
                "questions": [
                    {
                        "task": Value("string"),
                        "prompt": Value("string"),
                        "answer": Value("string"),
                        "target": Value("string"),
                        "id": Value("string"),
                        "mark": _MARK,
                    }
                ],
            }
        ],
        "proposals": [_BOX],
    }
)
"""One row is one scene. attributes and target are JSON text; what is not known is null."""


def scene_to_row(scene: Scene) -> dict[str, Any]:
    """A scene as plain Python values for FEATURES."""
    return {
        "id": scene.id,
        "split": scene.split,
        "source": scene.source,
        "frames": [_frame_row(frame) for frame in scene.frames],
        "objects": [_object_row(item) for item in scene.objects],
        "expressions": [vars(text) for text in scene.expressions],
        "clips": [_clip_row(clip) for clip in scene.clips],
        "proposals": None if scene.proposals is None else _proposal_rows(scene.proposals),
    }


def scene_from_row(row: dict[str, Any]) -> Scene:
    """The inverse of `scene_to_row`. Raises ValueError for values that are no scene (a bad pose, a wrong index)."""
    proposals = row["proposals"]
    return Scene(
        id=row["id"],
        split=row["split"],
        source=row["source"],
        frames=tuple(_frame(values) for values in row["frames"]),
        objects=tuple(_object(values) for values in row["objects"]),
        expressions=tuple(Expression(**values) for values in row["expressions"]),
        clips=tuple(clip_from_row(values) for values in row["clips"]),
        proposals=None if proposals is None else _proposals(proposals),
    )


def _flat(values: NDArray[np.floating] | None) -> list[float] | None:
    return None if values is None else np.ravel(values).tolist()


def _matrix(values: list[float] | None, rows: int) -> NDArray[np.float64] | None:
    return None if values is None else np.array(values, dtype=np.float64).reshape(rows, rows)


def _frame_row(frame: Frame) -> dict[str, Any]:
    visible = frame.visible
    return {
        **vars(frame),
        "intrinsics": _flat(frame.intrinsics),
        "camera_to_world": _flat(frame.camera_to_world),
        "depth_intrinsics": _flat(frame.depth_intrinsics),
        "visible": None if visible is None else [{"id": k, "share": v} for k, v in visible.items()],
    }


def _frame(row: dict[str, Any]) -> Frame:
    visible = row["visible"]
    return Frame(
        **{
            **row,
            "intrinsics": _matrix(row["intrinsics"], 3),
            "camera_to_world": _matrix(row["camera_to_world"], 4),
            "depth_intrinsics": _matrix(row["depth_intrinsics"], 3),
            "visible": None if visible is None else {entry["id"]: entry["share"] for entry in visible},
        }
    )


def _object_row(item: SceneObject) -> dict[str, Any]:
    box = {name: _flat(getattr(item, name)) for name in _BOX}
    return {**vars(item), **box, "attributes": json.dumps(item.attributes, ensure_ascii=False)}


def _object(row: dict[str, Any]) -> SceneObject:
    box = {name: np.array(row[name], dtype=np.float64) for name in _BOX}
    box["rotation"] = box["rotation"].reshape(3, 3)
    return SceneObject(**{**row, **box, "attributes": json.loads(row["attributes"])})


def _clip_row(clip: Clip) -> dict[str, Any]:
    questions = [
        {
            **vars(question),
            "target": json.dumps(question.target, ensure_ascii=False),
            "mark": None if question.mark is None else vars(question.mark),
        }
        for question in clip.questions
    ]
    return {"id": clip.id, "frames": list(clip.frames), "questions": questions}


def clip_from_row(row: dict[str, Any]) -> Clip:
    """An entry of the column `clips`."""
    questions = tuple(
        Question(
            **{
                **values,
                "target": _target(values["target"]),
                "mark": None if values["mark"] is None else Mark(**values["mark"]),
            }
        )
        for values in row["questions"]
    )
    return Clip(id=row["id"], frames=tuple(row["frames"]), questions=questions)


def _target(text: str) -> dict[str, Any]:
    target = json.loads(text)
    if not isinstance(target, dict):
        raise ValueError(f"the target of a question is a JSON object, got {text[:40]}")
    return target


def _proposal_rows(boxes: Boxes) -> list[dict[str, Any]]:
    rows = zip(boxes.centers, boxes.sizes, boxes.rotations, strict=True)
    return [dict(zip(_BOX, map(_flat, row), strict=True)) for row in rows]


def _proposals(rows: list[dict[str, Any]]) -> Boxes:
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in _BOX}
    count = len(rows)
    return Boxes(
        columns["center"].reshape(count, 3), columns["size"].reshape(count, 3), columns["rotation"].reshape(count, 3, 3)
    )
