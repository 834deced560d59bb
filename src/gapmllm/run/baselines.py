"""Who answers besides the model: what a score is worth shows beside theirs.

blind         the same model, asked without frames: what can be guessed from the words of the questions
no-geometry   the same model; VGGT is shown uniform grey frames. Geometry is taken away at test time alone, from a model
              that was trained to use it; one that is trained without (fusion "none") is the fairer comparison
mean          no model: what is usual in a training split. points: the mean point and the most frequent label;
              detection: of each label as many as a clip holds on average (rounded), at the label's mean box, with the
              share of clips that hold one as score; grounding: the most frequent frame (to a tenth of the clip) and
              the mean box; captioning: of up to 200 descriptions the one that shares most words with the others
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache

from gapmllm.geometry import Boxes, EulerConvention
from gapmllm.geometry.camera import FloatArray
from gapmllm.infer import Decoded, Decoding, EncodedClip
from gapmllm.infer.confidence import score, scores_of
from gapmllm.infer.constraint import check_room
from gapmllm.infer.decoding import Asked
from gapmllm.infer.encoded import answer_clips, is_short_memory
from gapmllm.infer.forms import Form
from gapmllm.infer.pixels import clip_pixels
from gapmllm.model import GapMllm
from gapmllm.run.predict import Ask, Said, asked_fields
from gapmllm.scenes.dataset import SceneDataset
from gapmllm.scenes.manifest import Manifest
from gapmllm.scenes.records import Clip, Question, evenly
from gapmllm.tasks import CAPTIONING, DETECTION, FRAME, GROUNDING, POINTS, TASKS, FrameAnswer
from gapmllm.tasks.answers import write_json
from gapmllm.tasks.salvage import MAX_OBJECTS

CAPTION_TOKENS = 512
"""Of a caption, at most: the longest references have under 600 characters."""
_GREY = 0.5
_SAMPLE = 200  # descriptions that are compared with each other
_TENTHS = 10
_DECIMALS = 6  # of a score


class ModelAnswers:
    """A model that looks at frames: as itself, or as one of the baselines "blind" and "no-geometry"."""

    def __init__(self, model: GapMllm, who: str, decoding: Decoding, *, constrained: bool) -> None:
        if who == "no-geometry" and model.config.fusion == "none":
            raise ValueError('this model has no geometry encoder (fusion "none"): leave out the baseline no-geometry')
        if constrained:
            check_room(Form(DETECTION), decoding.max_tokens)
        self.model, self.who, self.decoding, self.constrained = model, who, decoding, constrained

    def __call__(self, asks: Sequence[Ask]) -> list[list[Said]]:
        """Where memory is short, fewer clips are answered at a time, with a warning."""
        try:
            return self._together(asks)
        except (RuntimeError, MemoryError) as error:
            if len(asks) == 1 or not is_short_memory(error):
                raise
        half = (len(asks) + 1) // 2
        warnings.warn(f"memory is short: {len(asks)} clips at once, now {half}", stacklevel=2)
        clear_device_cache(garbage_collection=True)
        return [*self(asks[:half]), *self(asks[half:])]

    def _together(self, asks: Sequence[Ask]) -> list[list[Said]]:
        """In a function of its own: what is encoded goes with it where memory is short."""
        clips, asked = zip(*map(self._read, asks), strict=True)
        return [self._said(*one) for one in zip(asks, asked, answer_clips(clips, asked), strict=True)]

    def _read(self, ask: Ask) -> tuple[EncodedClip, list[Asked]]:
        """The clip, encoded, and the questions about it."""
        forms = [_form(question, len(ask.frames)) if self.constrained else None for question in ask.questions]
        decoding = self.decoding
        if ask.questions[0].task == CAPTIONING.name:  # nothing but its end ends it
            decoding = replace(decoding, max_tokens=min(decoding.max_tokens, CAPTION_TOKENS))
        try:
            clip = self._encoded(ask)
            return clip, clip.asked([question.prompt for question in ask.questions], decoding, forms)
        except ValueError as error:
            raise ValueError(f"{ask.clip}: {error}") from error

    def _said(self, ask: Ask, asked: list[Asked], decoded: list[Decoded]) -> list[Said]:
        found = []
        for number, ((_, form, _), answer) in enumerate(zip(asked, decoded, strict=True)):
            if ask.before and (first := ask.before[number].decoded):
                scores = [score([first, answer], form.task.name if form else "", self.model)]
            else:
                scores = scores_of(answer, form, self.model)
            rounded = [round(value, _DECIMALS) for value in scores] if form else None
            found.append(Said(answer.text, rounded, answer))
        return found

    def _encoded(self, ask: Ask) -> EncodedClip:
        if self.who == "blind":
            return EncodedClip(self.model, None)
        marks = [question.mark for question in ask.questions if question.mark is not None]
        clip = clip_pixels(self.model.config, [frame.pixels() for frame in ask.frames], marks)
        if self.who == "no-geometry":
            clip = replace(clip, geometry=torch.full_like(clip.geometry, _GREY))
        return EncodedClip(self.model, clip)


def _form(question: Question, num_frames: int) -> Form | None:
    """What an answer must look like; None: a caption is free text."""
    if question.task == CAPTIONING.name:
        return None
    fields = asked_fields(question) if question.task in (POINTS.name, GROUNDING.name) else ()
    return Form(TASKS[question.task], fields=fields or None, num_frames=num_frames)


@dataclass
class _Boxes:
    """Sums over boxes: six numbers, then sines and cosines of their three angles."""

    count: int = 0
    clips: int = 0
    """How many clips hold such a box."""
    sums: FloatArray = field(default_factory=lambda: np.zeros(12))

    def add(self, box: Sequence[float]) -> None:
        values = np.array(box)
        self.count += 1
        self.sums += [*values[:6], *np.sin(values[6:]), *np.cos(values[6:])]

    def mean(self, convention: EulerConvention) -> list[float]:
        """Nine numbers in a convention; sums are of "zxy"."""
        angles = np.arctan2(self.sums[6:9], self.sums[9:])
        box = Boxes.from_euler([[*(self.sums[:6] / self.count), *angles]], "zxy")
        return box.to_euler(convention)[0].tolist()


class MeanAnswers:
    """The baseline "mean": says what is usual in a training split, whatever is asked. See the module's docstring."""

    def __init__(self, data: str, tasks: Iterable[str]) -> None:
        """ValueError for a data set that has no split train, or nothing of a task in it."""
        if "train" not in (splits := Manifest.read(data).splits()):
            raise ValueError(
                f"the baseline mean needs a split train, and {data} has {', '.join(splits) or 'none'}: name a data set "
                "that has one (--train-data), or leave it out"
            )
        self.points, self.labels = np.zeros(3), Counter[str]()
        self.detected: defaultdict[str, _Boxes] = defaultdict(_Boxes)
        self.grounded, self.frames = _Boxes(), Counter[int]()
        self.captions: list[str] = []
        self.asked = Counter[str]()
        for _, _, clip in SceneDataset(data, "train").clips():
            for question in clip.questions:
                self._learn(clip, question)
        if missing := [task for task in tasks if not self.asked[task]]:
            raise ValueError(
                f"the baseline mean: {data} stores no questions of {', '.join(missing)} in its split train; name "
                "another data set (--train-data), leave the baseline out, or name other --tasks"
            )
        self.caption = _most_usual(self.captions)

    def _learn(self, clip: Clip, question: Question) -> None:
        target = question.target
        self.asked[question.task] += 1
        if question.task == POINTS.name:
            self.points += target["pointmap"]
            self.labels.update([target["label"]] if target.get("label") else [])
        elif question.task == DETECTION.name:
            for label in dict.fromkeys(item["label"] for item in target["objects"]):
                self.detected[label].clips += 1
            for item in target["objects"]:
                self.detected[item["label"]].add(item["bbox_3d"])
        elif question.task == FRAME.name:
            self.frames[round(_TENTHS * target["frame"] / max(1, len(clip.frames) - 1))] += 1
        elif question.task == GROUNDING.name:
            self.grounded.add(target["bbox_3d"])
        elif question.task == CAPTIONING.name:
            self.captions.append(question.answer)

    def __call__(self, asks: Sequence[Ask]) -> list[list[Said]]:
        return [[self._say(question, len(ask.frames)) for question in ask.questions] for ask in asks]

    def _say(self, question: Question, num_frames: int) -> Said:
        if question.task == CAPTIONING.name:
            return Said(self.caption)
        if question.task == FRAME.name:
            return Said(FRAME.write(FrameAnswer(frame=self._frame(num_frames))))
        convention = question.target.get("euler", "zxy")
        if question.task == DETECTION.name:
            return self._objects(convention)
        if question.task == POINTS.name:
            label = self.labels.most_common(1)[0][0] if self.labels else "object"
            values = {"label": label, "pointmap": (self.points / self.asked[POINTS.name]).tolist()}
        else:
            values = {"bbox_3d": self.grounded.mean(convention)}
            if "frame" not in question.target:  # else the truth, and with it the mean, is in the first camera
                values = {"frame": self._frame(num_frames), **values}
        wanted = asked_fields(question) or values
        return Said(write_json({name: value for name, value in values.items() if name in wanted}))

    def _frame(self, num_frames: int) -> int:
        best = self.frames.most_common(1)[0][0] if self.frames else 0
        return round(best / _TENTHS * (num_frames - 1))

    def _objects(self, convention: EulerConvention) -> Said:
        clips = self.asked[DETECTION.name]
        objects, scores = [], []
        for label, boxes in self.detected.items():
            number = int(boxes.count / clips + 0.5)
            objects += [{"label": label, "bbox_3d": boxes.mean(convention)}] * number
            scores += [round(boxes.clips / clips, _DECIMALS)] * number
        return Said(write_json(objects[:MAX_OBJECTS]), scores[:MAX_OBJECTS])


def _most_usual(texts: Sequence[str]) -> str:
    """Of a sample, the text with the highest mean F1 of its words, each counted once, with all others."""
    words = [(texts[place], set(texts[place].lower().split())) for place in evenly(len(texts), _SAMPLE)]
    shared = [sum(2 * len(own & other) / max(1, len(own) + len(other)) for _, other in words) for _, own in words]
    return words[int(np.argmax(shared))][0] if words else ""
