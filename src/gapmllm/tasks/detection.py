"""3D object detection in video: all objects of a clip, as labelled boxes.

    question   Find every object in these frames. ...
    answer     [{"label": "chair", "bbox_3d": [0.42, 0.31, 2.35, 0.55, 0.60, 0.92, 0.79, 1.17, 2.96]}, ...]

Boxes are in the camera frame of the clip's first frame: centre and full sizes in metres, Euler angles "zxy" in radians.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, RootModel

from gapmllm.tasks.answers import Answer, Box9, Label, Reading, Task, attempts
from gapmllm.tasks.salvage import MAX_OBJECTS, salvage

_EMPTY_LIST = re.compile(r"\[\s*+\]")  # says that nothing is there, where no object is
BOX_FORMAT = (
    "[x_center, y_center, z_center, x_size, y_size, z_size, a, b, c]: metres, then radians, in the camera frame of the "
    "first frame (x right, y down, z forward); the box is turned by a about z, then by b about x, then by c about y"
)


class DetectedObject(Answer):
    """One object: its name, and its box in the camera frame of the first frame."""

    label: Label
    bbox_3d: Box9


class DetectionAnswer(RootModel[Annotated[tuple[DetectedObject, ...], Field(max_length=MAX_OBJECTS)]]):
    """The objects in the order in which they were written; an empty list means that nothing is there."""

    model_config = ConfigDict(frozen=True)

    @property
    def objects(self) -> tuple[DetectedObject, ...]:
        return self.root


class DetectionTask(Task[DetectionAnswer]):
    name, version, answer_type = "detection", 1, DetectionAnswer
    fields = ("label", "bbox_3d")
    aliases = ("box_3d",)

    def prompt(self, labels: Sequence[str] = ()) -> str:
        """labels: the names to look for; none = whatever is there."""
        what = f"Find every {', '.join(labels)}" if labels else "Find every object"
        return (
            f"{what} in these frames.\nAnswer with a JSON list that has one entry for each object: its name as "
            f'"label" and its 3D box as "bbox_3d", {BOX_FORMAT}.'
        )

    def read_lenient(self, text: str) -> Reading[DetectionAnswer]:
        """Keeps every complete object. Repeats are kept too, as the model claimed them, and reported."""
        found = salvage(text, self.fields + self.aliases)
        objects: list[DetectedObject] = []
        unusable: list[tuple[int, str]] = []
        for place, (values, usable) in enumerate(attempts(text, found, DetectedObject)):
            if usable is not None:
                objects.append(usable)
            else:
                unusable.append((place, _label_of(values)))
        repeats = len(objects) - len(set(objects))
        if repeats:
            found.report("repeated", f"{repeats} of {len(objects)} objects repeat an earlier one")
        if objects or (not unusable and _EMPTY_LIST.search(text)):
            return Reading(DetectionAnswer(tuple(objects)), "lenient", tuple(found.problems), tuple(unusable))
        found.report("nothing", f"no usable object with a label and a box in {text[:60]!r}")
        return Reading(None, "unreadable", tuple(found.problems), tuple(unusable))


def _label_of(values: dict[str, Any]) -> str:
    label = values.get("label")
    return label.strip()[:100] if isinstance(label, str) else ""


DETECTION = DetectionTask()
