"""Whether the questions of a scene are sound, for `gapmllm data check`."""

from __future__ import annotations

from collections import Counter

from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Clip, Question, Scene
from gapmllm.tasks import TASKS

_OWN_WORDS = "released"  # records of that format keep their own prompts and answers, which need not be ours


def check_questions(scene: Scene, problems: Problems) -> None:
    """Add to `problems`: repeated ids, unknown tasks, answers that their reader cannot read, marks outside pictures."""
    questions = [(clip, question) for clip in scene.clips for question in clip.questions]
    for what, names in (("clip", [c.id for c in scene.clips]), ("question", [q.id for _, q in questions])):
        for name, count in Counter(names).items():
            if count > 1:
                problems.add("repeated id", f"{what} {name}", f"{count} of the scene have this id")
    for clip, question in questions:
        place = f"question {question.id}"
        if question.task not in TASKS:
            problems.add("unknown task", place, f"{question.task!r} is none of {', '.join(TASKS)}")
        elif scene.source != _OWN_WORDS and TASKS[question.task].read_strict(question.answer) is None:
            problems.add("bad answer", place, f"{question.task} cannot read {question.answer[:60]!r}")
        _check_mark(scene, clip, question, problems)


def _check_mark(scene: Scene, clip: Clip, question: Question, problems: Problems) -> None:
    mark = question.mark
    if mark is None:
        return
    place = f"question {question.id}"
    if not 0 <= mark.frame < len(clip.frames):
        problems.add("bad mark", place, f"the mark is on frame {mark.frame} of {len(clip.frames)}, counted from 0")
        return
    width, height = scene.frames[clip.frames[mark.frame]].size
    if not (0 <= mark.x < width and 0 <= mark.y < height):
        problems.add("bad mark", place, f"the mark at ({mark.x}, {mark.y}) lies outside {width}x{height} pixels")
