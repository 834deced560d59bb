"""`model.watch(…)`: a video, folder or list of frames, encoded once, that answers any number of questions.

    view = model.watch("kitchen.mp4")
    view.detect()                           -> [Detection, …]
    view.ground("the chair by the window")  -> Grounding
    view.locate(frame=1, pixel=(320, 200))  -> LocatedPoint
    view.answer([Detect(), Ground("the sink"), "How many chairs are there?"])     # all at once

Places are in the camera of frame 0 (x right, y down, z forward, metres), a grounding's box in that of its frame.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from math import isfinite
from threading import RLock
from typing import Any

from numpy.typing import ArrayLike

from gapmllm.infer.confidence import score, scores_of
from gapmllm.infer.constraint import check_room
from gapmllm.infer.decoding import Decoded, Decoding
from gapmllm.infer.encoded import EncodedClip
from gapmllm.infer.forms import Form, repeats
from gapmllm.infer.perception import Perception, Reconstruction
from gapmllm.infer.questions import AnyQuestion, Describe, Detect, Ground, Locate
from gapmllm.model import GapMllm
from gapmllm.scenes.choosing import Choice
from gapmllm.scenes.footage import Footage, read_footage
from gapmllm.scenes.records import Mark
from gapmllm.tasks import (
    CAPTIONING,
    COLORS,
    DETECTION,
    FRAME,
    GROUNDING,
    POINTS,
    Detection,
    Grounding,
    LocatedPoint,
)
from gapmllm.tasks.marks import mark_size
from gapmllm.tasks.questions import QuestionPlan
from gapmllm.tasks.questions.texts import neighbourhood

LIST = Decoding(max_tokens=4096)
"""Of a list: 64 objects, of about 60 tokens each in our small tokenizer."""
FREE = FORMED = Decoding(max_tokens=256)
"""Of descriptions and free answers; of points and boxes, which need less."""
FARTHEST = 1000
"""Metres along an axis, of a point that is to be described."""
_Plain = list[tuple[str, Decoding, Form | None]]
_Work = Generator[_Plain, list[Decoded], list[Any]]
_KEPT = 4  # clips of grounding's second step that stay encoded


def watch(
    model: GapMllm,
    source: Any,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    start: float = 0,
    end: float | None = None,
    choose: Choice = "even",
    intrinsics: ArrayLike | None = None,
) -> View:
    """Read frames from a video file, a folder, or a list of pictures (files, PIL images, arrays), and encode them.

    The arguments are those of `gapmllm.scenes.footage.read_footage`: of a video or a folder 4 frames are taken, evenly,
    where nothing else is said, as models were trained with 4; of a list all. ValueError for what cannot be read.
    """
    footage = read_footage(
        source, num_frames=num_frames, fps=fps, start=start, end=end, choose=choose, intrinsics=intrinsics
    )
    return View(model, footage)


class View:
    """Frames that were encoded, and what can be asked about them. Threads may share it: they take turns."""

    def __init__(self, model: GapMllm, footage: Footage) -> None:
        self.model, self.footage = model, footage
        self.frames = footage.images
        self._perception = Perception(model, self.frames)
        self._around: OrderedDict[int, EncodedClip] = OrderedDict()
        self._lock = RLock()

    def __repr__(self) -> str:
        height, width = self.frames[0].shape[:2]
        return f"<View of {self.footage.source}: {len(self.frames)} frames of {width}x{height} pixels>"

    # One question each.

    def detect(self, labels: Sequence[str] = (), *, max_objects: int = 64) -> list[Detection]:
        """All objects, the surest first. labels: the only ones to look for; else whatever is there."""
        (found,) = self.answer([Detect(labels, max_objects)])
        return found

    def ground(self, text: str, *, one_step: bool = False) -> Grounding:
        """The object that the text describes. one_step: see `Ground`."""
        (found,) = self.answer([Ground(text, one_step)])
        return found

    def locate(self, frame: int, pixel: tuple[float, float]) -> LocatedPoint:
        """What is under a pixel (x, y), and where it is."""
        (found,) = self.answer([Locate(frame, pixel)])
        return found

    def describe(self, xyz: Sequence[float]) -> str:
        """The object at a point, in words."""
        x, y, z = xyz
        (text,) = self.answer([Describe((x, y, z))])
        return text

    def ask(self, question: str) -> str:
        """An answer in free text."""
        (text,) = self.answer([question])
        return text

    def reconstruct(self) -> Reconstruction:
        """Depth and cameras by VGGT's heads, where the checkpoint has them."""
        return self._perception.reconstruct()

    # Many questions.

    def answer(self, questions: Sequence[AnyQuestion], decoding: Decoding = FREE) -> list[Any]:
        """Answers in the order of the questions: lists of Detection, Grounding, LocatedPoint, and texts.

        All that is asked about the frames as they are goes through the LLM together. Questions do not change each
        other's answers, but for points: those that are asked together are marked in one picture, in different colours.
        decoding: of texts; the others are the likeliest. ValueError for a question that cannot be asked, before
        anything is.
        """
        if isinstance(questions, str):
            raise ValueError(f"a list of questions is needed, got one text: [{questions[:40]!r}]")
        questions = list(questions)
        texts = [CAPTIONING.prompt(_point(q.xyz)) if isinstance(q, Describe) else q for q in questions]
        groups: dict[Callable[[list[Any], Decoding], _Work], list[int]] = {}
        for index, question in enumerate(texts):
            groups.setdefault(self._kind(question, decoding), []).append(index)
        answers: list[Any] = [None] * len(questions)
        with self._lock:
            works = [(work([texts[index] for index in indices], decoding), indices) for work, indices in groups.items()]
            plain = [next(work) for work, _ in works]
            asked = [one for some in plain for one in some]
            said = iter(self._perception.encoded.answer(*map(list, zip(*asked, strict=True))) if asked else ())
            for (work, indices), some in zip(works, plain, strict=True):
                for index, found in zip(indices, _ended(work, [next(said) for _ in some]), strict=True):
                    answers[index] = found
        return answers

    def _kind(self, question: AnyQuestion, decoding: Decoding) -> Callable[[list[Any], Decoding], _Work]:
        """What answers questions of this kind; ValueError for one that cannot be asked."""
        fits = self._perception.encoded.ids_of
        if isinstance(question, str):
            _check_text(question, "question")
            fits(question, decoding.max_tokens)
            return self._ask
        if isinstance(question, Ground):
            _check_text(question.text, "description")
            fits(GROUNDING.one_step_prompt(question.text, len(self.frames)), FORMED.max_tokens)  # the longest prompt
            return self._ground_at_once if question.one_step else self._ground
        if isinstance(question, Locate):
            self._mark(question, "red")
            return self._locate
        if isinstance(question, Detect):
            _list_of(question)
            fits(DETECTION.prompt(question.labels), LIST.max_tokens)
            return self._detect
        raise ValueError(f"{question!r:.80} is no question: a text, Detect, Ground, Locate or Describe is needed")

    # Each of these first says what it asks about the frames as they are (all kinds are asked together), then gets the
    # answers, asks what it has to ask about other clips, and returns the results.

    def _ask(self, questions: list[str], decoding: Decoding) -> _Work:
        answers = yield [(question, decoding, None) for question in questions]
        return [answer.text.strip() for answer in answers]

    def _detect(self, questions: list[Detect], _: Decoding) -> _Work:
        forms = [_list_of(question) for question in questions]
        answers = yield [(DETECTION.prompt(q.labels), LIST, form) for q, form in zip(questions, forms, strict=True)]
        return [detections(answer, form, self.model) for answer, form in zip(answers, forms, strict=True)]

    def _locate(self, questions: list[Locate], _: Decoding) -> _Work:
        """As many marks in one picture as there are colours, but none near another."""
        yield []
        found: dict[int, LocatedPoint] = {}
        form = Form(POINTS)
        for indices in self._rounds(questions):
            marks = [self._mark(questions[index], color) for index, color in zip(indices, COLORS, strict=False)]
            prompts = [POINTS.prompt(mark.frame, mark.color) for mark in marks]
            answers = self._perception.marked(marks).answer(prompts, FORMED, [form] * len(marks))
            for index, mark, answer in zip(indices, marks, answers, strict=True):
                read = read_answer(form, answer)
                place = {"frame": mark.frame, "pixel": (mark.x, mark.y), "xyz": read.pointmap, "label": read.label}
                found[index] = LocatedPoint(**place, score=score([answer], POINTS.name, self.model))
        return [found[index] for index in range(len(questions))]

    def _rounds(self, questions: list[Locate]) -> list[list[int]]:
        """Questions that can be marked in one picture: in each round a colour for all, and no cross covers another."""
        arm, _ = mark_size(self.frames[0].shape[1], self.model.config.mark_arm)

        def is_clear(question: Locate, other: Locate) -> bool:
            apart = max(abs(a - b) for a, b in zip(question.pixel, other.pixel, strict=True))
            return question.frame != other.frame or apart > 2 * arm + 1

        rounds: list[list[int]] = []
        for index, question in enumerate(questions):
            free = (some for some in rounds if len(some) < len(COLORS))
            clear = (some for some in free if all(is_clear(question, questions[other]) for other in some))
            fitting = next(clear, None)
            if fitting is None:
                rounds.append(fitting := [])
            fitting.append(index)
        return rounds

    def _ground(self, questions: list[Ground], _: Decoding) -> _Work:
        """Step 1 for all texts together, step 2 for those together whose frame is the same."""
        count = len(self.frames)
        form = Form(FRAME, num_frames=count)
        steps = yield [(FRAME.prompt(question.text, count), FORMED, form) for question in questions]
        frames = [read_answer(form, step).frame for step in steps]
        found: dict[int, Grounding] = {}
        box = Form(GROUNDING)
        for frame in sorted(set(frames)):
            indices = [index for index, other in enumerate(frames) if other == frame]
            prompts = [GROUNDING.prompt(questions[index].text) for index in indices]
            answers = self._encoded_around(frame).answer(prompts, FORMED, [box] * len(indices))
            for index, answer in zip(indices, answers, strict=True):
                sure = score([steps[index], answer], GROUNDING.name, self.model)
                place = read_answer(box, answer).bbox_3d
                found[index] = Grounding(text=questions[index].text, frame=frame, bbox_3d=place, score=sure)
        return [found[index] for index in range(len(questions))]

    def _ground_at_once(self, questions: list[Ground], _: Decoding) -> _Work:
        count = len(self.frames)
        form = Form(GROUNDING, fields=("frame", "bbox_3d"), num_frames=count)
        answers = yield [(GROUNDING.one_step_prompt(question.text, count), FORMED, form) for question in questions]
        found = []
        for question, answer in zip(questions, answers, strict=True):
            read = read_answer(form, answer)
            sure = score([answer], GROUNDING.name, self.model)
            found.append(Grounding(text=question.text, frame=read.frame, bbox_3d=read.bbox_3d, score=sure))
        return found

    def _encoded_around(self, frame: int) -> EncodedClip:
        """The chosen frame, then its neighbours; the last few are kept. A single frame is what is encoded already."""
        order = neighbourhood(frame, len(self.frames), QuestionPlan.neighbours)
        if order == tuple(range(len(self.frames))):
            return self._perception.encoded
        if frame not in self._around:
            self._around[frame] = self._perception.reordered(order).encoded
            if len(self._around) > _KEPT:
                self._around.popitem(last=False)
        self._around.move_to_end(frame)
        return self._around[frame]

    def _mark(self, question: Locate, color: str) -> Mark:
        """ValueError for a pixel that no frame has, or that the model's grid crops away."""
        if type(question.frame) is not int or not 0 <= question.frame < len(self.frames):
            raise ValueError(f"frame {question.frame!r}: there are {len(self.frames)}, counted from 0")
        height, width = self.frames[0].shape[:2]
        x, y = _numbers(question.pixel, 2, "a pixel is x, y")
        self.model.config.grid.token_of_pixel(x, y, width, height)
        return Mark(question.frame, round(x), round(y), color)


def _ended(work: _Work, answers: list[Decoded]) -> list[Any]:
    """The results of a piece of work that has asked what it asks, given the answers."""
    try:
        work.send(answers)
    except StopIteration as stop:
        return list(stop.value)
    raise AssertionError("it asks about the frames once")


def detections(answer: Decoded, form: Form, model: GapMllm) -> list[Detection]:
    """The objects of an answer, the surest first; an object that comes again is left out."""
    objects = [item.model_dump() for item in read_answer(form, answer).objects]
    scores = scores_of(answer, form, model)
    first = [index for index in range(len(objects)) if index == 0 or not repeats(objects[: index + 1])]
    found = [Detection(**objects[index], score=scores[index]) for index in first]
    return sorted(found, key=lambda detection: -detection.score)


def read_answer(form: Form, answer: Decoded) -> Any:
    """The typed answer: what has a form can be read."""
    read = form.task.read_strict(answer.text)
    assert read is not None, answer.text
    return read


def _point(xyz: Sequence[float]) -> tuple[float, ...]:
    point = _numbers(xyz, 3, "a point is x, y, z in metres")
    if max(map(abs, point)) > FARTHEST:
        raise ValueError(f"a point farther than {FARTHEST} m away is no place in a room, got {xyz!r}")
    return point


def _numbers(values: Any, count: int, what: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not all(map(isfinite, numbers)):
        raise ValueError(f"{what}, got {values!r:.80}")
    return numbers


def _list_of(question: Detect) -> Form:
    """ValueError for labels that cannot be asked for."""
    if not isinstance(question.labels, list | tuple) or type(question.max_objects) is not int:
        raise ValueError(f"labels must be a list of texts and max_objects a whole number, got {question!r:.120}")
    for label in question.labels:
        _check_text(label, "label")
    form = Form(DETECTION, labels=tuple(question.labels) or None, max_objects=question.max_objects)
    check_room(form, LIST.max_tokens)
    return form


def _check_text(text: str, what: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the {what} is empty: {text!r:.80}")
