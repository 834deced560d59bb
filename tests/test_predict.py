"""Predictions on a data set: what is asked, what the records hold, what baselines say, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import board_scene

from gapmllm.evaluation import score_file, write_records
from gapmllm.infer import Decoding, EncodedClip
from gapmllm.model import build
from gapmllm.run import baselines
from gapmllm.run.baselines import MeanAnswers, ModelAnswers
from gapmllm.run.predict import RECORDS, Ask, Said, make_plan, records_of
from gapmllm.scenes.dataset import DatasetWriter, SceneDataset
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Scene
from gapmllm.tasks import DETECTION, FRAME, GROUNDING, POINTS, FrameAnswer, GroundingAnswer
from gapmllm.tasks.questions import QuestionPlan, make_clips
from gapmllm.tasks.questions.points import ask_only

PLAN = QuestionPlan(windows=1, window_frames=2, points=3, canonical_frames=4)


def scene_of(name: str = "a", split: str = "test", plan: QuestionPlan = PLAN) -> Scene:
    """The boards, 0.3 m thick: answers are rounded to centimetres. Camera k stands 5 cm * k to the right."""
    scene = board_scene(name)
    thick = tuple(replace(item, size=np.maximum(item.size, 0.3)) for item in scene.objects)
    scene = replace(scene, objects=thick, split=split)
    return replace(scene, clips=tuple(make_clips(scene, plan, Problems(name))))


def written(folder, *scenes: Scene) -> str:
    with DatasetWriter(folder, {"command": "test"}) as writer:
        for scene in scenes:
            writer.add(scene)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two scenes to test on, one to learn from."""
    return written(tmp_path_factory.mktemp("data") / "boards", scene_of("a"), scene_of("b"), scene_of("c", "train"))


def records(data, answer, task, grounding=None, split="test", together=False):
    """Of all clips of a task."""
    scenes = SceneDataset(data, split)
    plan = make_plan(scenes, data, [task], grounding, None)
    units = [(unit, scenes[unit.scene]) for unit in plan.units[task]]
    groups = [units] if together else [[unit] for unit in units]
    return [record for group in groups for some in records_of(group, answer, plan.grounding) for record in some]


def scores(tmp_path, found, task):
    write_records(tmp_path / "records.jsonl", found)
    metrics = score_file(tmp_path / "records.jsonl", RECORDS[task]).metrics
    return {name: metric.value for name, metric in metrics.items()}


def truth(asks):
    return [[Said(question.answer) for question in ask.questions] for ask in asks]


def boards_in(frame_shift):
    """True boxes of the two chairs in a camera that stands so far to the right of the world's origin, by hand."""
    return {"0": [-0.5 - frame_shift, 0, 2.501, 1, 1, 0.3], "1": [0.75 - frame_shift, 0, 3.001, 0.5, 1, 0.3]}


# ---- what is asked, and what the records hold


@pytest.mark.parametrize(
    ("task", "name"), [("points", "within_0.1m"), ("detection", "f1[present]@0.5"), ("grounding", "acc[overall]@0.5")]
)
def test_the_true_answers_score_perfectly(data, tmp_path, task, name):
    found = records(data, truth, task)
    assert {record.scene for record in found} == {"a", "b"}
    assert scores(tmp_path, found, task)[name] == 1
    silent = records(data, lambda asks: [[Said("?")] * len(ask.questions) for ask in asks], task)
    assert len(silent) == len(found)
    assert scores(tmp_path, silent, task)[name] == 0


class Chooses:
    """Step 1 names one frame, whatever is right; boxes are true in the camera of frame `box_in`."""

    def __init__(self, frame: int, box_in: int | None = None) -> None:
        self.frame, self.box_in, self.calls = frame, frame if box_in is None else box_in, []

    def __call__(self, asks):
        return [self._say(ask.frames, ask.questions) for ask in asks]

    def _say(self, frames, questions):
        self.calls.append((tuple(frame.name for frame in frames), tuple(question.prompt for question in questions)))
        # by hand: the canonical frames of 8 are 0, 2, 5, 7; the cameras stand 5 cm a frame apart
        shift = 0.05 * (0, 2, 5, 7)[self.box_in]
        said = []
        for question in questions:
            center, size = (boards_in(shift)[question.id[-1]][part] for part in (slice(3), slice(3, 6)))
            box = GroundingAnswer(bbox_3d=[*center, size[0], size[1], size[2], 0, 0, 0])
            if question.task == FRAME.name:
                said.append(Said(FRAME.write(FrameAnswer(frame=self.frame))))
            elif '"frame"' in question.prompt:
                said.append(Said(GROUNDING.write(replace_frame(box, self.frame), decimals=4), [0.25]))
            else:
                said.append(Said(GROUNDING.write(box, decimals=4), [0.5]))
        return said


def replace_frame(answer, frame):
    return answer.model_copy(update={"frame": frame})


@pytest.mark.parametrize("grounding", ["two-step", "one-step"])
def test_a_box_counts_in_the_camera_of_the_frame_that_was_chosen(data, tmp_path, grounding):
    for frame in (0, 3):
        found = scores(tmp_path, records(data, Chooses(frame), "grounding", grounding), "grounding")
        assert found["mIoU[overall]"] == pytest.approx(1, abs=1e-3)
        stored = [q.target["frames"] for clip in scene_of().clips for q in clip.questions if q.task == FRAME.name]
        assert found["frame_accuracy"] == np.mean([frame in right for right in stored])
    other = scores(tmp_path, records(data, Chooses(0, box_in=3), "grounding", grounding), "grounding")
    # by hand: 0.35 m to the side of boxes 1 m and 0.5 m wide, the overlaps are 0.65 / 1.35 and 0.15 / 0.85
    assert other["mIoU[overall]"] == pytest.approx((0.65 / 1.35 + 0.15 / 0.85) / 2, abs=1e-3)


def test_two_steps_read_the_canonical_frames_once_and_each_chosen_frame_once(data):
    asked = Chooses(2)
    found = records(data, asked, "grounding")
    (first, texts), (second, boxes) = asked.calls[:2]
    assert first == ("0", "1", "2.5", "3.5")  # times of the frames 0, 2, 5, 7, half a second apart
    assert second == ("2.5", "3", "3.5", "2", "1.5", "1", "0.5", "0")  # the chosen one, those after it, those before
    assert len(asked.calls) == 4  # of two scenes
    assert len(texts) == len(boxes) == 2
    assert all("Find this object" in prompt for prompt in boxes)
    assert {(record.frame, record.frame_answer, record.score) for record in found} == {(2, '{"frame": 2}', 0.5)}
    assert [record.id for record in found] == [f"{scene}/grounding-{number}" for scene in "ab" for number in (0, 1)]


def test_a_step_that_names_no_frame_leaves_the_box_unanswered(data, tmp_path):
    found = records(data, Chooses(9, box_in=0), "grounding")
    assert [(record.answer, record.frame_answer) for record in found] == [(None, '{"frame": 9}')] * 4
    assert scores(tmp_path, found, "grounding")["mIoU[overall]"] == 0


def test_the_given_frame_is_the_stored_clip(data):
    asked = Chooses(0)
    found = records(data, asked, "grounding", "given-frame")
    assert len(found) == 4
    assert all(record.frame_answer is None and record.camera_to_world is None for record in found)
    assert not any("Which of" in prompt for _, prompts in asked.calls for prompt in prompts)


def test_texts_with_one_step_alone_are_left_out_and_said(tmp_path):
    scene = scene_of()
    steps = [replace(clip, questions=clip.questions[:1]) if clip.id == "frame" else clip for clip in scene.clips]
    name = written(tmp_path / "one", replace(scene, clips=tuple(steps)))
    plan = make_plan(SceneDataset(name, "test"), name, ["grounding"], None, None)
    assert plan.notes == ("1 texts are left out: they have a question for the frame or for the box, not both",)
    assert len(records(name, truth, "grounding")) == 1


def test_without_step_one_boxes_are_asked_for_as_stored(tmp_path):
    name = written(tmp_path / "boxes", scene_of(plan=replace(PLAN, tasks=("grounding",))))
    plan = make_plan(SceneDataset(name, "test"), name, [], None, None)
    assert (plan.grounding, list(plan.units)) == ("given-frame", ["grounding"])
    assert plan.notes == ("grounding is asked as it is stored: no questions of task frame belong to it",)
    with pytest.raises(ValueError, match=r"stores no questions of task frame .* which grounding one-step needs"):
        make_plan(SceneDataset(name, "test"), name, [], "one-step", None)


# ---- who answers


@pytest.fixture(scope="module")
def model():
    return build("debug", seed=1)


@pytest.fixture
def encoded(monkeypatch):
    """The clips that models were shown."""
    shown = []

    class Watched(EncodedClip):
        def __init__(self, model, clip):
            shown.append(clip)
            super().__init__(model, clip)

    monkeypatch.setattr(baselines, "EncodedClip", Watched)
    return shown


def said_to(answer, frames, questions, before=()):
    """What is said about one clip."""
    return answer([Ask("a clip", frames, questions, before)])[0]


def answers(model, who="model", constrained=True, tokens=400):
    return ModelAnswers(model, who, Decoding(max_tokens=tokens), constrained=constrained)


def test_a_clip_is_encoded_once_with_all_its_marks(data, model, encoded):
    found = records(data, answers(model), "points")
    assert (len(found), len(encoded)) == (6, 2)
    assert all(POINTS.read_strict(record.answer) for record in found)  # random weights, and yet readable
    assert all(record.score == round(record.score, 6) for record in found)
    scene = scene_of()
    frames = scene.clip_frames(next(clip for clip in scene.clips if clip.questions[0].task == "points"))
    plain = model.config.grid.prepare([frame.pixels() for frame in frames])
    assert torch.equal(encoded[0].geometry, plain.geometry)
    assert not torch.equal(encoded[0].visual, plain.visual)  # crosses


def test_answers_have_the_fields_that_are_asked_for(data, model):
    scene = scene_of()
    clip = next(clip for clip in scene.clips if clip.questions[0].task == "points")
    for what, fields in (("label", {"label"}), ("point", {"pointmap"})):
        asked = [ask_only(question, what) for question in clip.questions]
        for said in said_to(answers(model), scene.clip_frames(clip), asked):
            assert json.loads(said.text).keys() == fields
    (free, *_) = said_to(answers(model, constrained=False, tokens=8), scene.clip_frames(clip), clip.questions)
    assert POINTS.read_strict(free.text) is None  # else nothing above is due to the grammar


@pytest.mark.parametrize("task", RECORDS)
def test_clips_together_are_answered_as_one_by_one(data, model, task):
    alone, together = (records(data, answers(model), task, together=together) for together in (False, True))
    assert [record.answer for record in together] == [record.answer for record in alone]
    assert [record.id for record in together] == [record.id for record in alone]
    for record, other in zip(together, alone, strict=True):
        values, others = ({**one.model_dump()} for one in (record, other))
        for key in {"score", "scores"} & values.keys():
            assert values.pop(key) == pytest.approx(others.pop(key), abs=1e-5)
        assert values == others


def test_short_memory_means_fewer_clips_at_a_time(data, model, monkeypatch):
    expected = [record.answer for record in records(data, answers(model), "points", together=True)]
    whole, sizes = baselines.answer_clips, []

    def small(clips, asked):
        sizes.append(len(clips))
        if len(clips) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return whole(clips, asked)

    monkeypatch.setattr(baselines, "answer_clips", small)
    with pytest.warns(UserWarning, match="memory is short: 2 clips at once, now 1"):
        found = records(data, answers(model), "points", together=True)
    assert [record.answer for record in found] == expected
    assert sizes == [2, 1, 1]


def test_a_clip_that_cannot_be_read_is_named(data, model, monkeypatch):
    def broken(*_arguments):
        raise ValueError("these pixels are no picture")

    monkeypatch.setattr(baselines, "clip_pixels", broken)
    with pytest.raises(ValueError, match=r"scene a, clip \S+: these pixels are no picture"):
        records(data, answers(model), "points", together=True)


def test_a_detection_has_a_score_for_each_object(data, model):
    for record in records(data, answers(model), "detection"):
        reading = DETECTION.read(record.answer)
        objects = reading.answer.objects if reading.answer else ()
        assert len(record.scores) == len(objects) + len(reading.unusable)


def test_the_score_of_two_steps_is_of_the_tokens_of_both(model):
    scene, ask = scene_of(), answers(model)
    asked = {question.task: question for clip in scene.clips for question in clip.questions}
    (first,) = said_to(ask, scene.frames[:3], [asked["frame"]])
    (alone,) = said_to(ask, scene.frames[:3], [asked["grounding"]])
    (second,) = said_to(ask, scene.frames[:3], [asked["grounding"]], [first])
    free = [
        logprob
        for said in (first, second)
        for logprob, was_free in zip(said.decoded.logprobs, said.decoded.free, strict=True)
        if was_free
    ]
    assert second.scores == [pytest.approx(np.exp(np.mean(free)), abs=1e-6)]
    assert second.text == alone.text
    assert second.scores != alone.scores


def test_blind_sees_nothing_and_no_geometry_sees_grey(data, model, encoded):
    for who in ("blind", "no-geometry", "model"):
        records(data, answers(model, who, constrained=False, tokens=4), "captioning")
    blind, _, grey, _, seen, _ = encoded
    assert blind is None
    assert (grey.geometry == 0.5).all()
    assert torch.equal(grey.visual, seen.visual)
    assert seen.geometry.std() > 0.01


def test_a_model_without_geometry_has_nothing_to_lose(model):
    with pytest.raises(ValueError, match=r"no geometry encoder .* leave out the baseline no-geometry"):
        answers(build("debug", fusion="none"), "no-geometry")


def test_the_mean_of_the_training_split(data):
    mean = MeanAnswers(data, RECORDS)
    scene = scene_of("c", "train")
    asked = [(scene.clip_frames(clip), question) for clip in scene.clips for question in clip.questions]
    said = {question.task: said_to(mean, frames, [question])[0] for frames, question in asked}
    points = [q.target for _, q in asked if q.task == "points"]
    point = json.loads(said["points"].text)
    assert point["pointmap"] == pytest.approx(np.mean([target["pointmap"] for target in points], axis=0), abs=0.0051)
    assert point["label"] in {target["label"] for target in points}
    (truth,) = [q.target["objects"] for _, q in asked if q.task == "detection"]
    # by hand: one clip with two chairs and a desk: both chairs stand half-way between the two
    chairs = np.mean([item["bbox_3d"][:6] for item in truth if item["label"] == "chair"], axis=0)
    found = json.loads(said["detection"].text)
    assert sorted(item["label"] for item in found) == ["chair", "chair", "desk"]
    assert said["detection"].scores == [1, 1, 1]
    for item in found:
        if item["label"] == "chair":
            assert item["bbox_3d"][:6] == pytest.approx(chairs, abs=0.0051)
    best = [q.target["frame"] for _, q in asked if q.task == "frame"]
    assert json.loads(said["frame"].text)["frame"] in best
    assert said["captioning"].text in {q.answer for _, q in asked}


def test_angles_are_averaged_on_the_circle(data):
    mean = MeanAnswers(data, [])
    for angle in (np.pi - 0.1, -np.pi + 0.3):  # by hand: 0.2 apart across pi, half-way is pi + 0.1
        mean.grounded.add([0, 0, 0, 1, 1, 1, angle, 0, 0])
    mean.grounded.sums -= MeanAnswers(data, []).grounded.sums
    assert mean.grounded.mean("zxy")[6] == pytest.approx(-np.pi + 0.1)


def test_the_most_usual_caption():
    texts = ["a red chair", "the red chair by the door", "xyz"]
    assert baselines._most_usual(texts) == "the red chair by the door" or baselines._most_usual(texts) == "a red chair"
    assert baselines._most_usual(["x", *["a b"] * 3]) == "a b"
    assert baselines._most_usual([]) == ""
