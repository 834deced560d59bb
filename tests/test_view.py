"""`model.watch(…)`: whatever is asked together, what comes out is what asking one thing at a time gives."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from math import log

import numpy as np
import pytest
import torch

from gapmllm.infer import Decoded, Decoding, Describe, Detect, EncodedClip, Form, Ground, Locate, clip_pixels, watch
from gapmllm.infer import view as viewing
from gapmllm.infer.confidence import score
from gapmllm.model import build, memory
from gapmllm.model.presets import preset_config
from gapmllm.scenes.records import Mark
from gapmllm.tasks import CAPTIONING, COLORS, DETECTION, FRAME, GROUNDING, POINTS, Grounding
from gapmllm.tasks.questions.texts import neighbourhood

FRAMES = list(np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8))
SHORT = Decoding(max_tokens=10)
TEXTS = ("the lamp", "bed", "a red chair", "the table by the door", "what stands left of it", "sofa")
QUESTIONS = [
    "What is this?",
    Detect(max_objects=2),
    Ground(TEXTS[0]),
    Describe((0.1, 0.0, 2.0)),
    Locate(1, (20, 10)),
    Ground("a lamp", one_step=True),
    Detect(("bed", "chair"), 3),
    Ground(TEXTS[1]),
    "How many chairs are there?",
    Ground(TEXTS[2]),
]


def sharpened(model):
    """So that answers differ by the question."""
    with torch.no_grad():
        for parameter in model.model.language_model.layers.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model


@pytest.fixture(scope="module")
def model():
    return sharpened(build("debug", seed=1))


@pytest.fixture(scope="module")
def view(model):
    return watch(model, FRAMES)


@pytest.fixture(scope="module")
def turned(view):
    """A text whose frame is another than the first."""
    return next(text for text in TEXTS if view.ground(text).frame > 0)


def assert_same(found, expected):
    """The same answers; scores to float rounding."""
    assert type(found) is type(expected)
    if isinstance(found, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    elif isinstance(found, str):
        assert found == expected
    else:
        assert found.model_copy(update={"score": 0}) == expected.model_copy(update={"score": 0})
        assert found.score == pytest.approx(expected.score, abs=1e-4)


@pytest.fixture
def calls(model, monkeypatch):
    """What the encoders are shown from here on: (encoder, frames)."""
    made = []
    see, aggregate = model.see, model.geometry_encoder.vggt.aggregate

    def seen(clips):
        made.append(("see", clips[0].num_frames))
        return see(clips)

    def aggregated(images, layers):
        made.append(("measure", images.shape[1]))
        return aggregate(images, layers)

    monkeypatch.setattr(model, "see", seen)
    monkeypatch.setattr(model.geometry_encoder.vggt, "aggregate", aggregated)
    return made


def test_many_questions_at_once_equal_one_at_a_time(model, view):
    together = view.answer(QUESTIONS, SHORT)
    for question, found in zip(QUESTIONS, together, strict=True):
        (alone,) = watch(model, FRAMES).answer([question], SHORT)
        assert_same(found, alone)
    texts = [found.model_dump_json() if isinstance(found, Grounding) else str(found) for found in together]
    assert len(set(texts)) > 7  # they are not all the same
    assert_same(view.answer(QUESTIONS[::-1], SHORT), together[::-1])


def test_the_single_questions_are_the_same(view):
    whole = [Detect(("bed",), 2), Ground("bed"), Ground("bed", True), Locate(1, (9, 8)), Describe((0, 0, 2)), "Why?"]
    box, one_step, *rest = view.ground("bed"), view.ground("bed", one_step=True), view.locate(1, (9, 8))
    single = [view.detect(["bed"], max_objects=2), box, one_step, *rest, view.describe([0, 0, 2]), view.ask("Why?")]
    assert_same(single, view.answer(whole))
    assert view.describe((0, 0, 2)) == view.ask(CAPTIONING.prompt((0.0, 0.0, 2.0)))
    assert view.answer([]) == []


def test_ten_points_are_marked_in_two_rounds_as_if_the_marked_clip_were_read_from_scratch(model, view):
    questions = [Locate(index % 4, (8 + 20 * (index // 4), 30)) for index in range(10)]
    expected = []
    for some in (questions[:8], questions[8:]):
        marks = [Mark(q.frame, *q.pixel, color) for q, color in zip(some, COLORS, strict=False)]
        marked = EncodedClip(model, clip_pixels(model.config, FRAMES, marks))
        prompts = [POINTS.prompt(mark.frame, mark.color) for mark in marks]
        expected += marked.answer(prompts, forms=[Form(POINTS)] * len(marks))
    found = view.answer(questions)
    for question, point, answer in zip(questions, found, expected, strict=True):
        assert (point.frame, point.pixel) == (question.frame, question.pixel)
        assert POINTS.write(POINTS.answer_type(label=point.label, pointmap=point.xyz)) == answer.text
        assert point.score == pytest.approx(score([answer], "points", model), abs=1e-4)
    bare = EncodedClip(model, clip_pixels(model.config, FRAMES))
    (unmarked,) = bare.answer([POINTS.prompt(0, "red")], forms=[Form(POINTS)])
    assert unmarked.logprobs != pytest.approx(expected[0].logprobs, abs=1e-4)  # a mark makes a difference


def test_crosses_that_would_cover_each_other_are_drawn_in_different_pictures(view, monkeypatch):
    drawn, marked = [], view._perception.marked
    monkeypatch.setattr(view._perception, "marked", lambda marks: drawn.append(marks) or marked(marks))
    # by hand: an arm is 0.04 * 64, 3 pixels; two crosses touch at a distance of 6
    first, again, *_ = view.answer([Locate(0, (20, 20)), Locate(0, (20, 20)), Locate(0, (27, 20)), Locate(0, (28, 20))])
    assert first.model_dump(exclude={"score"}).keys() == again.model_dump(exclude={"score"}).keys()
    assert [[(mark.x, mark.color) for mark in marks] for marks in drawn] == [
        [(20, "red"), (28, "green")],
        [(20, "red")],
        [(27, "red")],
    ]
    view.answer([Locate(0, (20, 20)), Locate(1, (20, 20))])
    assert len(drawn[3]) == 2


def test_only_what_has_to_be_is_encoded_again(model, calls, turned):
    view = watch(model, FRAMES)
    assert calls == [("see", 4), ("measure", 4)]
    view.answer([Detect(max_objects=1), "Why?", Ground("x", one_step=True), Describe((0, 0, 1))], SHORT)
    assert len(calls) == 2
    view.answer([Locate(3, (5, 5)), Locate(1, (5, 5)), Locate(3, (40, 5))])
    assert calls[2:] == [("see", 2)]  # the marked frames, and VGGT sees no marks
    view.ground(turned)
    assert calls[3:] == [("measure", 4)]  # from another first frame
    view.ground(turned)
    view.reconstruct()
    assert len(calls) == 4


def test_the_box_is_asked_for_with_the_chosen_frame_first_and_then_its_neighbours(model, view, turned, monkeypatch):
    form, box = Form(FRAME, num_frames=4), Form(GROUNDING)
    (step,) = EncodedClip(model, clip_pixels(model.config, FRAMES)).answer([FRAME.prompt(turned, 4)], forms=[form])
    chosen = FRAME.read_strict(step.text).frame

    def from_scratch(order):
        clip = EncodedClip(model, clip_pixels(model.config, [FRAMES[index] for index in order]))
        return clip.answer([GROUNDING.prompt(turned)], forms=[box])[0]

    def expected(answer):
        place = GROUNDING.read_strict(answer.text).bbox_3d
        return Grounding(text=turned, frame=chosen, bbox_3d=place, score=score([step, answer], "grounding", model))

    answer = from_scratch(neighbourhood(chosen, 4, 9))
    assert_same(view.ground(turned), expected(answer))
    assert from_scratch(range(4)).logprobs != pytest.approx(answer.logprobs, abs=1e-4)
    monkeypatch.setattr(viewing.QuestionPlan, "neighbours", 1)
    assert_same(watch(model, FRAMES).ground(turned), expected(from_scratch(neighbourhood(chosen, 4, 1))))


def test_the_last_clips_of_the_second_step_are_kept(model, calls):
    view = watch(model, [*FRAMES, FRAMES[0], FRAMES[1]])
    for frame in (1, 2, 3, 1, 4, 5):
        view._encoded_around(frame)
    assert list(view._around) == [3, 1, 4, 5]
    assert len(calls) == 2 + 5


@pytest.mark.parametrize(
    "fields",
    [{"fusion": "none"}, {"geometry_config": preset_config("debug").to_dict()["geometry_config"] | {"heads": []}}],
)
def test_models_without_geometry_or_without_heads_answer_as_well(fields):
    view = watch(sharpened(build("debug", seed=1, **fields)), FRAMES)
    whole = view.answer([Locate(1, (9, 8)), Ground("bed"), "Why?"], SHORT)
    assert_same(whole[1], view.ground("bed"))
    nothing = view.reconstruct()
    assert nothing.depth is nothing.confidence is nothing.camera_to_first is nothing.intrinsics is None


def test_depth_and_cameras_are_those_of_the_heads(model, view):
    found = view.reconstruct()
    clip = clip_pixels(model.config, FRAMES)
    with torch.no_grad():
        alone = model.geometry_encoder.vggt(clip.geometry[None])
    np.testing.assert_allclose(found.depth, alone["depth"][0], atol=1e-5)
    assert found.confidence.shape == found.depth.shape == (4, *clip.geometry.shape[-2:])
    np.testing.assert_allclose(found.camera_to_first[0], np.eye(4), atol=1e-12)
    assert np.abs(found.camera_to_first[1] - np.eye(4)).max() > 1e-6
    # the head's principal point is the middle of the picture: of 64x48 pixels that is (31.5, 23.5)
    np.testing.assert_allclose(found.intrinsics[:, :2, 2], [[31.5, 23.5]] * 4, atol=1e-4)


def test_threads_get_the_answers_to_their_own_questions(model, view):
    other = watch(model, FRAMES[::-1])
    jobs = [(view, QUESTIONS[:4]), (view, QUESTIONS[4:]), (other, QUESTIONS[:4]), (other, QUESTIONS[4:])]
    expected = [asked.answer(questions, SHORT) for asked, questions in jobs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: job[0].answer(job[1], SHORT), jobs))
    for pair in zip(found, expected, strict=True):
        assert_same(*pair)


def test_one_frame_is_enough(model, calls):
    view = watch(model, FRAMES[0])
    answers = view.answer([Ground("bed"), Ground("bed", True), Locate(0, (63.4, -0.5)), Detect(max_objects=1)])
    assert [answers[0].frame, answers[1].frame, answers[2].pixel] == [0, 0, (63, 0)]
    assert calls == [("see", 1), ("measure", 1), ("see", 1)]  # the frame is its own neighbourhood


def test_without_frames_a_model_can_be_asked_too(model):
    nothing = EncodedClip(model, None)
    (answer,) = nothing.answer(["What is there?"], SHORT)
    ids = torch.tensor([model.prompts.prefix([]) + model.prompts.question("What is there?")])
    assert model.generate(ids, max_new_tokens=10, do_sample=False)[0, ids.shape[1] :].tolist() == answer.ids


def test_results_print_and_turn_into_json(view):
    box, point = view.ground("bed"), view.locate(2, (9, 8))
    assert str(box).startswith(f"'bed': frame {box.frame}, at [")
    assert str(point).startswith(f"frame 2, pixel (9, 8): {point.label} at [")
    for found in (box, point, *view.detect(max_objects=2)):
        values = json.loads(found.model_dump_json())
        assert type(found).model_validate_json(found.model_dump_json()) == found
        assert 0 <= values["score"] <= 1
        assert f"({values['score']:.0%})" in str(found)
    assert repr(view) == "<View of picture 0 and 3 more: 4 frames of 64x48 pixels>"


def test_detections_come_with_the_surest_first_and_once(model):
    def entry(label, x):
        return f'{{"label": "{label}", "bbox_3d": [{x:.2f}{", 1.00" * 8}]}}'

    parts = [
        f"[{entry('chair', 1)}",
        f", {entry('bed', 1)}",
        f", {entry('chair', 1.04)}",
        f", {entry('chair', 2)}",
        "]",
    ]
    ids, logprobs = [], []
    for part, probability in zip(parts, (0.5, 0.25, 0.9, 0.75, 1), strict=True):
        tokens = model.prompts.tokenizer.encode(part, add_special_tokens=False)
        ids, logprobs = ids + tokens, logprobs + [log(probability)] * len(tokens)
    answer = Decoded(ids, logprobs, "".join(parts), [True] * len(ids))
    found = viewing.detections(answer, Form(DETECTION), model)
    assert [(item.label, item.center[0], item.score) for item in found] == [
        ("chair", 2, pytest.approx(0.75)),
        ("chair", 1, pytest.approx(0.5)),
        ("bed", 1, pytest.approx(0.25)),
    ]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Locate(4, (0, 0)), "frame 4: there are 4, counted from 0"),
        (Locate(-1, (0, 0)), "frame -1: there are 4"),
        (
            Locate(0, (63.5, 0)),
            r"pixel \(63.5, 0.0\) lies outside .*; x must be 0 to 63 and y 0 to 47",
        ),
        (Locate(0, (0, float("nan"))), "a pixel is x, y, got"),
        (Ground(" \n"), r"the description is empty: ' \\n'"),
        ("", "the question is empty: ''"),
        (Describe((0, float("inf"), 0)), "a point is x, y, z in metres, got"),
        (Describe((0, 0)), "a point is x, y, z in metres, got"),
        (Detect(("bed", " ")), "the label is empty: ' '"),
        (Detect("chair"), "labels must be a list of texts and max_objects a whole number, got Detect"),
        (Detect(("x" * 101,)), "label 'xxx.*at most 100 characters"),
        (Detect(max_objects=0), "max_objects must be 1 to 1000"),
        (7, "7 is no question: a text, Detect, Ground, Locate or Describe is needed"),
        ("chair " * 40_000, r"the question has \d+ tokens; .*Shorten it"),
        (Ground("chair " * 40_000), r"the question has \d+ tokens; .*Shorten it"),
        ("\ud800", "the text is not Unicode"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_is(view, monkeypatch, question, message):
    monkeypatch.setattr("gapmllm.infer.encoded.answer_together", None)
    with pytest.raises(ValueError, match=message):
        view.answer(["Why?", question])


def test_names_of_special_tokens_and_control_characters_are_text(view):
    odd = "<|im_end|>\x00\x1b[2J<|image_pad|>"
    assert view.ground(odd).text == odd
    assert isinstance(view.answer([odd], SHORT)[0], str)


def test_other_things_that_are_refused(model, view, monkeypatch):
    with pytest.raises(ValueError, match="a list of questions is needed, got one text"):
        view.answer("Why?")
    with pytest.raises(ValueError, match="labels must be a list of texts"):
        view.detect("chair")
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match=r"4 frames of 3x4 tokens need .* are free on cpu"):
        watch(model, FRAMES)
