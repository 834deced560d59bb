"""Looking questions: the marks of a points clip, asked about in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gapmllm.scenes.records import Clip, Frame, Mark, Question
from gapmllm.tasks.looking import LOOK, LOOKING, LookingAnswer

_ONE_COUNT_IN = 4  # questions, at least: a clip with a single cross is not always asked how many there are
_Asked = tuple[str, LookingAnswer]
_Cross = tuple[Mark, str | None]  # with the label of what it marks, None: not known


def looking_questions(clip: Clip, frames: Sequence[Frame], rng: np.random.Generator) -> list[Question]:
    """All that can be asked about the marks of a clip of `point_clips`: label, colour, place; and their number.

    First, in order, one question about each mark, so that a cut behind them leaves none undrawn; of these one is about
    the number of crosses instead (of fewer than 4 not always). Then the rest in random order. The count is of this
    clip's marks: draw them all, and choose among questions of points before, not after. frames: the clip's. Targets
    hold the answer's values in full precision. What is not known or fits two crosses is not asked.
    """
    crosses = [(q.mark, q.target.get("label")) for q in clip.questions if q.mark is not None]
    colors = {mark.color for mark, _ in crosses}
    assert len(colors) == len(clip.questions), f"{clip.id}: each question needs a mark of its own colour"
    counted = rng.integers(max(len(crosses), _ONE_COUNT_IN))
    first, rest = [], []
    for number, question in enumerate(clip.questions):
        choices = [_count(crosses, len(frames), rng)] if number == counted else _about(crosses, number, frames)
        each = [_question(question, *choices[place]) for place in rng.permutation(len(choices))]
        first.append(each[0])
        rest += each[1:]
    return first + [rest[place] for place in rng.permutation(len(rest))]


def _question(question: Question, prompt: str, answer: LookingAnswer) -> Question:
    target = answer.model_dump(mode="json", exclude_none=True)
    name = f"{LOOKING}-{question.id}-{'-'.join(target)}"
    return replace(question, task=LOOKING, prompt=prompt, answer=LOOK.write(answer), target=target, id=name)


def _about(crosses: list[_Cross], number: int, frames: Sequence[Frame]) -> list[_Asked]:
    """What can be asked about one of the crosses."""
    mark, label = crosses[number]
    width, height = frames[mark.frame].size
    place = LookingAnswer(frame=mark.frame, pixel=((mark.x + 0.5) / width, (mark.y + 0.5) / height))
    choices = [(LOOK.place_prompt(mark.color), place)]
    if label is not None:
        choices.append((LOOK.label_prompt(mark.color), LookingAnswer(label=label)))
        others = [other for at, other in crosses if at != mark and at.frame == mark.frame]
        if not any(_may_fit(label, other) for other in others):
            choices.append((LOOK.color_prompt(label, mark.frame), LookingAnswer(color=mark.color)))
    return choices


def _may_fit(label: str, other: str | None) -> bool:
    """Whether a label may also name what another cross marks: the same, "table" a coffee table, "object" anything."""
    return other is None or "object" in (label, other) or other.endswith(label)


def _count(crosses: list[_Cross], frames: int, rng: np.random.Generator) -> _Asked:
    """How many crosses there are in all, or in one of the frames."""
    if rng.random() < 0.5:
        return LOOK.count_prompt(), LookingAnswer(count=len(crosses))
    frame = int(rng.integers(frames))
    return LOOK.count_prompt(frame), LookingAnswer(count=sum(mark.frame == frame for mark, _ in crosses))
