"""One record of the published VG-LLM and GAP-MLLM annotations -> a question with its truth in full precision.

What a record asks is told by its fields:

    boxes          detection: objects in the camera of the first frame
    pixel_coords   points: [frame, x, y] of the red cross; the answer holds "pointmap"
    input_box      captioning: the box (aligned world) whose centre the prompt names
    otherwise      the answer: "bbox_3d" is grounding ("frame" too: in one step), "frame" alone step 1 of two

Prompt and answer stay as they are. Boxes of targets are Euler "zxy" in the camera of the first frame, as everywhere in
this package; `target["euler"]` names the convention of the record's own numbers and of its answer. The rule for it:
"zxy" (GAP-MLLM) if the boxes then stand upright in the world, to within 1 degree in the median; else "ZXY" (VG-LLM
since 2025-11-27) if they do so; else "zxy", reported. Numbers that are "zxy" already are not touched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gapmllm.geometry import Boxes, invert_pose, transform_points
from gapmllm.geometry.camera import FloatArray
from gapmllm.geometry.rotation import EulerConvention
from gapmllm.scenes.importers.entries import text_of
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Mark

UNNAMED = "object"
"""Label of an object that a record boxes without naming it; detection leaves such objects out."""
_FENCE = re.compile(r"^\s*```(?:json)?\s*|\s*```\s*$")
_MOST_TILT = np.radians(1.0)


@dataclass(frozen=True, eq=False)
class Record:
    """A record with its cameras."""

    name: str
    """For messages and ids."""
    values: dict[str, Any]
    prompt: str
    answer: str
    poses: list[FloatArray]
    """(4, 4) camera_to_world of each of its frames."""
    aligned: bool
    """Whether that world is the aligned one, in which some fields are given."""


@dataclass(frozen=True, eq=False)
class BoxedObject:
    """An object that a record tells of, with its box (one) in the world."""

    label: str
    box: Boxes
    id: int | None = None
    """The data set's own id, where the record has it."""


@dataclass(frozen=True, eq=False)
class Content:
    """What a record asks."""

    task: str
    target: dict[str, Any]
    objects: list[BoxedObject] = field(default_factory=list)
    mark: Mark | None = None


def read_content(record: Record, problems: Problems) -> Content:
    """Task and truth of a record. Raises one of `entries.UNUSABLE` for one that is not as described above."""
    for name, reader in _BY_FIELD.items():
        if name in record.values:
            return reader(record, problems)
    return _grounding(record, problems)


def _detection(record: Record, problems: Problems) -> Content:
    rows = record.values["boxes"]
    if not all(text_of(row["label"]).strip() for row in rows):
        raise ValueError("one of its boxes has no label")
    numbers = [[float(value) for value in row["bbox_3d"]] for row in rows]
    boxes, euler = _in_camera(numbers, record.poses[0], record.name, problems)
    numbers = numbers if euler == "zxy" else boxes.to_euler("zxy").tolist()
    target = {
        "objects": [{"label": row["label"], "bbox_3d": box} for row, box in zip(rows, numbers, strict=True)],
        "euler": euler,
    }
    world = boxes.transform(record.poses[0])
    return Content("detection", target, [BoxedObject(row["label"], world[[i]]) for i, row in enumerate(rows)])


def _points(record: Record, _: Problems) -> Content:
    frame, x, y = (int(value) for value in record.values["pixel_coords"])
    if not 0 <= frame < len(record.poses):
        raise ValueError(f"its cross is in frame {frame} of {len(record.poses)}")
    answer = _answer(record)
    label, point = answer.get("label"), [float(value) for value in answer["pointmap"]]
    if len(point) != 3 or not np.isfinite(point).all():
        raise ValueError(f"its point is {point}; three finite numbers were expected")
    return Content("points", {"label": label, "pointmap": point}, mark=Mark(frame, x, y, "red"))


def _captioning(record: Record, _: Problems) -> Content:
    _needs_alignment(record, "input_box")
    values = record.values
    object_id = _object_id(record)
    center = _world_box(values["input_box"]).centers[0]
    target = {
        "references": list(values.get("annotations") or [record.answer]),
        "point": transform_points(center, invert_pose(record.poses[0])).tolist(),
        "iou": float(values.get("iou", 1.0)),
        "object_id": object_id,
    }
    box = _world_box(values.get("gt_box", values["input_box"]))
    return Content("captioning", target, [BoxedObject(UNNAMED, box, object_id)])


def _grounding(record: Record, problems: Problems) -> Content:
    answer = _answer(record)
    frame = int(answer.get("frame", 0))
    if not 0 <= frame < len(record.poses):
        raise ValueError(f"its answer is frame {frame} of {len(record.poses)}")
    object_id = _object_id(record)
    about = {"object_id": object_id, "group": (record.values.get("metadata") or {}).get("question_type")}
    if "bbox_3d" not in answer:
        box = _world_box(record.values["gt_bbox"]) if record.aligned and "gt_bbox" in record.values else None
        objects = [] if box is None else [BoxedObject(UNNAMED, box, object_id)]
        return Content("frame", {"frame": int(answer["frame"]), "frames": [frame], **about}, objects)
    world, first, euler = _grounded_box(record, answer, frame, problems)
    target: dict[str, Any] = {"bbox_3d": first, "euler": euler, **about}
    if "frame" in answer:
        target["frame"] = frame
    return Content("grounding", target, [BoxedObject(UNNAMED, world, object_id)])


def _grounded_box(
    record: Record, answer: dict[str, Any], frame: int, problems: Problems
) -> tuple[Boxes, list[float], EulerConvention]:
    """The object's box in the world, its nine numbers in the first camera, and the convention of the record.

    From the unrounded `target`, else from `gt_bbox` (aligned world), else from the answer.
    """
    own = record.values.get("target") or answer
    numbers = [float(value) for value in own["bbox_3d"]]
    boxes, euler = _in_camera([numbers], record.poses[frame], record.name, problems)
    world = boxes.transform(record.poses[frame])
    if own is answer and record.aligned and "gt_bbox" in record.values:
        world = _world_box(record.values["gt_bbox"])
    elif frame == 0 and euler == "zxy":
        return world, numbers, euler
    return world, world.transform(invert_pose(record.poses[0])).to_euler("zxy")[0].tolist(), euler


def _in_camera(
    numbers: list[list[float]], pose: FloatArray, name: str, problems: Problems
) -> tuple[Boxes, EulerConvention]:
    """Boxes in a camera under the convention that the module's docstring says."""
    conventions: tuple[EulerConvention, ...] = ("zxy", "ZXY")
    for convention in conventions:
        boxes = Boxes.from_euler(numbers, convention)
        up = pose[2, :3] @ boxes.rotations[..., 2].T  # height of each box's own z axis in the world
        if np.median(np.arccos(np.clip(np.abs(up), 0, 1)) if len(up) else 0) < _MOST_TILT:
            return boxes, convention
    problems.add("unsure angles", name, "its boxes stand upright under neither Euler convention; zxy is taken")
    return Boxes.from_euler(numbers, "zxy"), "zxy"


def _world_box(values: Any) -> Boxes:
    """Six numbers, or nine with the angles 0: a box along the axes of the aligned world."""
    numbers = [float(value) for value in values]
    return Boxes.from_euler([(numbers + [0.0] * 3)[:9]], "zxy")


def _needs_alignment(record: Record, name: str) -> None:
    if not record.aligned:
        raise ValueError(f"{name} is in the aligned world, but the record has no axis_align_matrix, nor has its scan")


def _object_id(record: Record) -> int | None:
    value = (record.values.get("metadata") or {}).get("object_id")
    if value is not None and not 0 <= int(value) < 65_535:
        raise ValueError(f"its object_id is {value}")
    return None if value is None else int(value)


def _answer(record: Record) -> dict[str, Any]:
    """The JSON object of the answer, out of its fence, or the only one of a list."""
    values = json.loads(_FENCE.sub("", record.answer))
    if isinstance(values, list) and len(values) == 1:
        values = values[0]
    if not isinstance(values, dict):
        raise ValueError(f"its answer is no JSON object: {record.answer[:60]!r}")
    return values


_BY_FIELD: dict[str, Callable[[Record, Problems], Content]] = {
    "boxes": _detection,
    "pixel_coords": _points,
    "input_box": _captioning,
}
