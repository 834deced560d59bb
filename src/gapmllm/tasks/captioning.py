"""3D dense captioning: describe the object at a point, in free text.

    question   Describe the object at [0.42, 0.31, 2.35] ...
    answer     This is a black chair. It is to the left of the desk.

The point is the centre of the object's box, in the camera frame of the clip's first frame, metres.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, RootModel

from gapmllm.tasks.answers import DECIMALS, Reading, Task, write_json
from gapmllm.tasks.salvage import Problem, mend_surrogates

MAX_CHARACTERS = 2_000
"""Longest caption: Scan2Cap's references stay under 600."""

_FENCE = re.compile(r"```(?:\w*\n)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


class Caption(RootModel[Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]]):
    """One line of text."""

    model_config = ConfigDict(frozen=True)

    @property
    def text(self) -> str:
        return self.root


class CaptioningTask(Task[Caption]):
    name, version, answer_type = "captioning", 1, Caption
    fields = ()

    def prompt(self, point: Sequence[float], decimals: int = DECIMALS) -> str:
        """point: x, y, z in metres, camera frame of the first frame."""
        place = write_json([float(value) for value in point], decimals)
        return (
            f"Describe the object at {place}, a point in metres in the camera frame of the first frame (x right, "
            "y down, z forward): what it is, what it looks like, and where it stands among the other objects."
        )

    def write(self, answer: Caption, decimals: int = DECIMALS) -> str:
        return answer.text

    def schema(self, fields: Sequence[str] | None = None, labels: Sequence[str] | None = None) -> dict[str, Any]:
        """Of the text as a JSON string. Free text has no fields and no labels to choose."""
        if fields or labels:
            raise ValueError("a caption is free text: it has no fields, and no vocabulary of labels")
        return self.answer_type.model_json_schema()

    def grammar(
        self, fields: Sequence[str] | None = None, labels: Sequence[str] | None = None, decimals: int = DECIMALS
    ) -> str:
        """One line of any text: not JSON."""
        return f"start: /[^\\x00-\\x1f\\x7f]{{1,{MAX_CHARACTERS}}}/\n"

    def read_strict(self, text: str) -> Caption | None:
        """The text itself, if it is one line with something on it."""
        if not text.strip() or _CONTROL.search(text) or "```" in text:
            return None
        try:
            return Caption(text)
        except ValueError:  # too long, or not Unicode
            return None

    def read_lenient(self, text: str) -> Reading[Caption]:
        """Fences and control characters taken out, lines joined, too long a text cut."""
        line = " ".join(_CONTROL.sub(" ", _FENCE.sub(" ", mend_surrogates(text))).split())
        if not line:
            return Reading(None, "unreadable", (Problem("nothing", "the caption is empty"),))
        problem = Problem("layout", "the caption is not one plain line of text")
        if len(line) > MAX_CHARACTERS:
            problem = Problem("too_long", f"{len(line)} characters, at most {MAX_CHARACTERS} are kept")
        return Reading(Caption(line[:MAX_CHARACTERS]), "lenient", (problem,))


CAPTIONING = CaptioningTask()
