"""Grounding, step 1: which frame shows the described object best (paper, stage 2).

    question   Object: the black chair by the bed. Which of the 32 frames ...
    answer     {"frame": 7}

Frames are counted from 0.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gapmllm.tasks.answers import Answer, Task

FrameIndex = Annotated[int, Field(ge=0, le=99_999)]


class FrameAnswer(Answer):
    """Index of the frame, from 0."""

    frame: FrameIndex


class FrameTask(Task[FrameAnswer]):
    name, version, answer_type = "frame", 1, FrameAnswer
    fields = ("frame",)

    def prompt(self, description: str, num_frames: int) -> str:
        return (
            f"Object: {description.strip()}\n"
            f"Which of the {num_frames} frames, numbered from 0, shows this object best?\n"
            'Answer with a JSON object that has the number of the frame as "frame".'
        )


FRAME = FrameTask()
