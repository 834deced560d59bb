"""Grounding, step 2: the box of the described object (paper, stage 2).

    question   Object: the black chair by the bed. Find this object ...
    answer     {"bbox_3d": [0.42, 0.31, 2.35, 0.55, 0.60, 0.92, 0.79, 1.17, 2.96]}

The frames shown are the one that step 1 chose, then its neighbours; the box is in the camera frame of the first of
them. On few frames both steps can be asked at once: {"frame": 2, "bbox_3d": [...]}, the box then in that frame's
camera.
"""

from __future__ import annotations

from gapmllm.tasks.answers import Answer, Box9, Task
from gapmllm.tasks.detection import BOX_FORMAT
from gapmllm.tasks.frame import FrameIndex


class GroundingAnswer(Answer):
    """The object's box; `frame` says in which frame's camera, where the answer chooses it (one step)."""

    frame: FrameIndex | None = None
    bbox_3d: Box9


class GroundingTask(Task[GroundingAnswer]):
    name, version, answer_type = "grounding", 1, GroundingAnswer
    fields = ("bbox_3d",)
    aliases = ("box_3d",)

    def prompt(self, description: str) -> str:
        """Step 2: the frame that step 1 chose comes first, then its neighbours."""
        return (
            f"Object: {description.strip()}\nFind this object.\n"
            f'Answer with a JSON object that has its 3D box as "bbox_3d", {BOX_FORMAT}.'
        )

    def one_step_prompt(self, description: str, num_frames: int) -> str:
        """Both steps at once; the schema is `schema(fields=("frame", "bbox_3d"))`."""
        return (
            f"Object: {description.strip()}\nFind this object and the one of the {num_frames} frames, numbered from 0, "
            'that shows it best.\nAnswer with a JSON object that has the number of the frame as "frame" and the 3D box '
            f'as "bbox_3d", {BOX_FORMAT.replace("the first frame", "that frame")}.'
        )


GROUNDING = GroundingTask()
