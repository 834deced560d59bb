"""Points: a pixel marked in a frame -> its 3D point and label. The geometry-aligned pre-training (paper, stage 1).

    question   Frame 1 is marked with a red cross. Which object is under the cross, and ...
    answer     {"label": "chair", "pointmap": [0.42, -0.10, 2.35]}

The point is in the camera frame of the clip's first frame, metres. A frame may carry several crosses of different
colours (`marks.py`), with one question each.
"""

from __future__ import annotations

from pydantic import model_validator

from gapmllm.tasks.answers import Answer, Label, Point3, Task


class PointAnswer(Answer):
    """Label of the marked object, and the marked point: x, y, z in metres, camera frame of the first frame.

    One of the two may be missing: models are also trained on labels or on points alone.
    """

    label: Label | None = None
    pointmap: Point3 | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> PointAnswer:
        if self.label is None and self.pointmap is None:
            raise ValueError("needs a label, a pointmap or both")
        return self


class PointsTask(Task[PointAnswer]):
    name, version, answer_type = "points", 1, PointAnswer
    fields = ("label", "pointmap")

    def prompt(self, frame: int, color: str = "red", *, label: bool = True, point: bool = True) -> str:
        """frame: index of the marked frame in the clip, from 0. color: a name of `marks.COLORS`.

        label, point: what is asked for; recordings without labels give points alone. ValueError if nothing is.
        """
        if not (label or point):
            raise ValueError("a points question asks for the label, the point or both, got neither")
        questions, keys = [], []
        if label:
            questions.append("which object is under the cross")
            keys.append('the object\'s name as "label"')
        if point:
            questions.append("where in space is the marked point")
            keys.append(
                'the point [x, y, z] as "pointmap", in metres in the camera frame of the first frame (x right, y down, '
                "z forward)"
            )
        return (
            f"Frame {frame} is marked with a {color} cross. {', and '.join(questions).capitalize()}?\n"
            f"Answer with a JSON object: {', and '.join(keys)}."
        )


POINTS = PointsTask()
