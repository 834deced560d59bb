"""The questions of a data set, clip by clip, and the records of what is answered to them.

Whoever answers (a model, or a baseline of `baselines.py`) is given the frames of a clip and all questions about it at
once, and several clips at a time. Grounding has three ways: "two-step" (the paper): all texts of a scene are asked for
their frame over the canonical frames, then those with the same frame for their boxes over it and its neighbours;
"one-step": frame and box at once over the canonical frames; "given-frame": the stored clips, which begin with the true
frame.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, get_args

from pydantic import BaseModel

from gapmllm.evaluation import GroundingRecord
from gapmllm.evaluation.asked import record_of
from gapmllm.evaluation.records import Record
from gapmllm.geometry import invert_pose
from gapmllm.infer import Decoded
from gapmllm.scenes.dataset import SceneDataset
from gapmllm.scenes.records import Clip, Frame, Question, Scene
from gapmllm.tasks import FRAME, GROUNDING, POINTS, GroundingAnswer
from gapmllm.tasks.questions import QuestionPlan
from gapmllm.tasks.questions.texts import neighbourhood

RECORDS = {"points": "points", "detection": "detection", "grounding": "grounding", "captioning": "caption"}
"""What can be evaluated, by the name of its questions -> the name of its records and their file."""
Grounding = Literal["two-step", "one-step", "given-frame"]


class Said(NamedTuple):
    """An answer, and how sure it is: for each object of a detection, else once; None where nobody knows."""

    text: str
    scores: list[float] | None = None
    decoded: Decoded | None = None
    """Where a model wrote it."""


class Ask(NamedTuple):
    """Questions about a clip, marks included."""

    clip: str
    """In words, for messages."""
    frames: Sequence[Frame]
    questions: Sequence[Question]
    before: Sequence[Said] = ()
    """Of each, the answer to an earlier step, which the scores are of, too; none: there was no such step."""


class Answer(Protocol):
    """Whoever answers."""

    def __call__(self, asks: Sequence[Ask]) -> Sequence[Sequence[Said]]:
        """What is said to each question about each clip. ValueError that names the clip where it cannot be read."""
        ...


_Work = Generator[list[Ask], list[Sequence[Said]], list[Record]]
"""Asks what a unit asks, step by step, and returns its records."""


class Unit(NamedTuple):
    """What is answered in one go: a clip, or all steps of grounding over a scene's canonical frames. Places from 0."""

    task: str
    scene: int
    clip: int

    @property
    def key(self) -> str:
        return f"{self.task}/{self.scene}/{self.clip}"


@dataclass(frozen=True)
class Plan:
    """What is asked, in the order of the data set."""

    units: dict[str, list[Unit]]
    """By task."""
    grounding: Grounding
    notes: tuple[str, ...]
    """What is left out, and why."""


def make_plan(
    data: SceneDataset, name: str, tasks: Sequence[str], grounding: Grounding | None, limit: int | None
) -> Plan:
    """The clips to ask about. ValueError for tasks that the data set, called `name`, does not hold.

    tasks: of `RECORDS`; none: all that are stored. grounding: None: two-step where its questions are stored. limit:
    clips of each task.
    """
    if unknown := [task for task in tasks if task not in RECORDS]:
        raise ValueError(f"no task {', '.join(unknown)} to evaluate; choose from {', '.join(RECORDS)}")
    if grounding not in (None, *get_args(Grounding)):
        raise ValueError(f"no grounding {grounding!r}; choose from {', '.join(get_args(Grounding))}")
    stored = {task: [Unit(task, *place) for *place, _ in data.clips_of(task)] for task in (*RECORDS, FRAME.name)}
    held = ", ".join(task for task, units in stored.items() if units) or "none"
    wanted = tuple(dict.fromkeys(tasks)) or tuple(task for task in RECORDS if stored[task])
    if missing := [task for task in wanted if not stored[task]]:
        raise ValueError(f"{name} stores no questions of {', '.join(missing)}; it has {held}")
    if not wanted:
        raise ValueError(f"{name} stores no questions of {', '.join(RECORDS)}; it has {held}")
    units = {task: stored[task] for task in wanted}
    notes: list[str] = []
    how: Grounding = "given-frame"
    if "grounding" in wanted:
        how, units["grounding"], notes = _grounding_units(data, name, grounding, stored["grounding"])
    elif stored[FRAME.name] and not stored["grounding"]:
        notes.append(
            f"{len(stored[FRAME.name])} clips ask for a frame alone (task frame): left out, no record holds that"
        )
    return Plan({task: found[:limit] for task, found in units.items()}, how, tuple(notes))


def asked_fields(question: Question) -> tuple[str, ...]:
    """Keys of the answer to a question of points or grounding, as in its true answer; () if that cannot be read."""
    task = POINTS if question.task == POINTS.name else GROUNDING
    answer: BaseModel | None = task.read(question.answer).answer
    return tuple(answer.model_dump(exclude_none=True)) if answer else ()


def _grounding_units(
    data: SceneDataset, name: str, grounding: Grounding | None, stored: list[Unit]
) -> tuple[Grounding, list[Unit], list[str]]:
    """How texts are asked for, over which clips, and what that leaves out."""
    if grounding == "given-frame":
        return grounding, stored, []
    boxes, frames = set(), []
    for scene, place, clip in data.clips():
        texts = [(question.task, (scene, _text_id(question))) for question in clip.questions]
        boxes |= {text for task, text in texts if task == GROUNDING.name}
        frames += [(Unit(GROUNDING.name, scene, place), text) for task, text in texts if task == FRAME.name]
    units = list(dict.fromkeys(unit for unit, text in frames if text in boxes))
    if units:
        alone = len({text for _, text in frames} ^ boxes)
        note = f"{alone} texts are left out: they have a question for the frame or for the box, not both"
        return grounding or "two-step", units, [note] if alone else []
    if grounding is not None:
        raise ValueError(
            f"{name} stores no questions of task frame that belong to its grounding questions, which grounding "
            f"{grounding} needs; without that option they are asked as they are stored"
        )
    return "given-frame", stored, ["grounding is asked as it is stored: no questions of task frame belong to it"]


def records_of(units: Sequence[tuple[Unit, Scene]], answer: Answer, grounding: Grounding) -> list[list[Record]]:
    """Ask what some units ask, all first steps together, then all second ones. ValueError as of `Answer`."""
    size = len(units)
    works = [_work(unit, scene, grounding) for unit, scene in units]
    records: list[list[Record]] = [[] for _ in works]
    asks = {number: next(work) for number, work in enumerate(works)}
    while asks:
        every = [ask for some in asks.values() for ask in some]  # of second steps there may be more than units
        said = iter(one for start in range(0, len(every), size) for one in answer(every[start : start + size]))
        told = {number: [next(said) for _ in some] for number, some in asks.items()}
        asks = {}
        for number, some in told.items():
            try:
                asks[number] = works[number].send(some)
            except StopIteration as stop:
                records[number] = stop.value
    return records


def _work(unit: Unit, scene: Scene, grounding: Grounding) -> _Work:
    clip = scene.clips[unit.clip]
    if unit.task == GROUNDING.name and grounding != "given-frame":
        return (yield from _grounded(scene, clip, grounding))
    questions = [question for question in clip.questions if question.task == unit.task]
    (said,) = yield [_ask(scene, clip, questions)]
    return [_record(scene, clip, *pair) for pair in zip(questions, said, strict=True)]


def _ask(scene: Scene, clip: Clip, questions: Sequence[Question]) -> Ask:
    """About a clip as it is stored."""
    return Ask(f"scene {scene.id}, clip {clip.id}", scene.clip_frames(clip), questions)


def _record(scene: Scene, clip: Clip, question: Question, said: Said | None) -> Record:
    record = record_of(scene, clip, question, said and said.text, scores=said and said.scores)
    assert record is not None, question.task
    return record


def _grounded(scene: Scene, clip: Clip, grounding: Grounding) -> _Work:
    """The texts of a scene, asked for over the canonical frames, which are those of `clip`."""
    stored = {
        _text_id(question): (home, question)
        for home in scene.clips
        for question in home.questions
        if question.task == GROUNDING.name
    }
    frames = [question for question in clip.questions if question.task == FRAME.name and _text_id(question) in stored]
    homes, boxes = zip(*(stored[_text_id(question)] for question in frames), strict=True)
    found: list[tuple[Said | None, dict[str, Any]]]
    if grounding == "one-step":
        one_step = [_in_one_step(scene, question, len(clip.frames)) for question in boxes]
        (answers,) = yield [_ask(scene, clip, one_step)]
        found = [(said, {}) for said in answers]
    else:
        found = yield from _two_steps(scene, clip, frames, boxes)
    records: list[Record] = []
    for frame, home, box, (said, values) in zip(frames, homes, boxes, found, strict=True):
        record = _record(scene, home, box, said)
        to_truth = invert_pose(scene.frames[home.frames[0]].camera_to_world)  # the camera of its own best frame
        poses = [(to_truth @ shown.camera_to_world).tolist() for shown in scene.clip_frames(clip)]
        values |= {"camera_to_world": poses, "truth_frames": frame.target["frames"]}
        records.append(GroundingRecord.model_validate({**record.model_dump(), **values}, strict=False))
    return records


def _in_one_step(scene: Scene, question: Question, num_frames: int) -> Question:
    """A question for a box as one for frame and box."""
    texts = {(text.object_id, text.id): text.text for text in scene.expressions}
    text = texts[question.target["object_id"], _text_id(question)]
    shape = GroundingAnswer(frame=0, bbox_3d=question.target["bbox_3d"])  # says which fields are asked for
    return replace(question, prompt=GROUNDING.one_step_prompt(text, num_frames), answer=GROUNDING.write(shape))


def _two_steps(
    scene: Scene, clip: Clip, frames: Sequence[Question], boxes: Sequence[Question]
) -> Generator[list[Ask], list[Sequence[Said]], list[tuple[Said | None, dict[str, Any]]]]:
    """What is said of the boxes, and what the records tell of step 1; nothing is said where that names no frame."""
    about = _ask(scene, clip, frames)
    (first,) = yield [about]
    chosen = [_frame_of(step.text, len(clip.frames)) for step in first]
    members = {
        frame: [number for number, other in enumerate(chosen) if other == frame]
        for frame in sorted({frame for frame in chosen if frame is not None})
    }
    asks = []
    for frame, numbers in members.items():
        indices = neighbourhood(clip.frames[frame], len(scene.frames), QuestionPlan.neighbours)
        shown = [scene.frames[index] for index in indices]
        asks.append(Ask(about.clip, shown, [boxes[n] for n in numbers], [first[n] for n in numbers]))
    said: list[Said | None] = [None] * len(boxes)
    for numbers, found in zip(members.values(), (yield asks), strict=True):
        for number, box in zip(numbers, found, strict=True):
            said[number] = box
    steps = [{"frame": frame, "frame_answer": step.text} for frame, step in zip(chosen, first, strict=True)]
    return list(zip(said, steps, strict=True))


def _frame_of(text: str, num_frames: int) -> int | None:
    answer = FRAME.read(text).answer
    return answer.frame if answer and answer.frame < num_frames else None


def _text_id(question: Question) -> str:
    """Of the text that a question of task frame or grounding is about; a name of its own in released records."""
    return question.id.removeprefix(f"{question.task}-")
