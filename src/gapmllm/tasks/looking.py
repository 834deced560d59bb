"""Looking: which object a cross marks, of which colour it is, where it is, and how many there are.

    question   In which frame, numbered from 0, and where in it is the red cross? ...
    answer     {"frame": 1, "pixel": [0.42, 0.10]}

The stage `language` asks this of a small LLM to teach it what public Qwen3-VL brings. It is none of the paper's tasks:
it has no records and is not in `TASKS`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gapmllm.tasks.answers import Answer, Label, Task
from gapmllm.tasks.frame import FrameIndex
from gapmllm.tasks.marks import COLORS

LOOKING = "looking"
"""The task's name."""

Color = Annotated[str, Field(pattern=f"^({'|'.join(COLORS)})$", json_schema_extra={"enum": list(COLORS)})]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1000)]


class LookingAnswer(Answer):
    """What one of the prompts asks for; the other fields are missing."""

    label: Label | None = None
    """Of the object under the cross."""
    color: Color | None = None
    """A name in `marks.COLORS`."""
    frame: FrameIndex | None = None
    """Index in the clip, from 0."""
    pixel: tuple[Share, Share] | None = None
    """x, y as shares of the frame's width and height from its top left corner: pixel x is at (x + 0.5) / W."""
    count: Count | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> LookingAnswer:
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"needs one of {', '.join(type(self).model_fields)}")
        return self


class LookingTask(Task[LookingAnswer]):
    """No answer has all fields: name to `schema` and `grammar` those that the prompt asks for."""

    name, version, answer_type = LOOKING, 1, LookingAnswer
    fields = ("label", "color", "frame", "pixel", "count")

    def label_prompt(self, color: str) -> str:
        """color: a name of `marks.COLORS` that marks one cross of the clip."""
        return _prompt(f"Which object is under the {color} cross", 'its name as "label"')

    def color_prompt(self, label: str, frame: int) -> str:
        """label: of an object that carries one cross in this frame."""
        return _prompt(f"What color is the cross on the {label} in frame {frame}", 'the name of the color as "color"')

    def place_prompt(self, color: str) -> str:
        """color: a name of `marks.COLORS` that marks one cross of the clip."""
        return _prompt(
            f"In which frame, numbered from 0, and where in it is the {color} cross",
            'the number of the frame as "frame" and the place [x, y] as "pixel", in shares of the frame\'s width and '
            "height from its top left corner",
        )

    def count_prompt(self, frame: int | None = None) -> str:
        """frame: the only one in which crosses are counted; None: all frames of the clip."""
        where = "these frames" if frame is None else f"frame {frame}"
        return _prompt(f"How many crosses are there in {where}", 'their number as "count"')


def _prompt(question: str, keys: str) -> str:
    return f"{question}?\nAnswer with a JSON object that has {keys}."


LOOK = LookingTask()
