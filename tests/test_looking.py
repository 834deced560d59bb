"""Looking questions, answered again from the pictures alone: the crosses are found in the drawn frames."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import jsonschema
import llguidance
import numpy as np
import pytest
from conftest import BOARDS, SIZE, board_scene

from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Clip, Mark, Question
from gapmllm.tasks import COLORS, LOOK, LOOKING, TASKS, LookingAnswer, draw_marks
from gapmllm.tasks.questions import QuestionPlan, make_clips
from gapmllm.tasks.questions.looking import looking_questions
from gapmllm.train.recipe import Data, Rooms, Source
from gapmllm.train.samples import Samples

COUNT, COUNT_IN_FRAME, COLOR, LABEL, PLACE = KINDS = (
    re.compile(r"How many crosses are there in these frames\?\n"),
    re.compile(r"How many crosses are there in frame (\d+)\?\n"),
    re.compile(r"What color is the cross on the (.+) in frame (\d+)\?\n"),
    re.compile(r"Which object is under the (\w+) cross\?\n"),
    re.compile(r"In which frame, numbered from 0, and where in it is the (\w+) cross\?\n"),
)


def look(scene=None, rng_seed=0, **plan):
    """[(clip, its frames, its looking questions)] of a scene."""
    scene = scene or board_scene()
    rng = np.random.default_rng(rng_seed)
    clips = make_clips(scene, QuestionPlan(tasks=("points",), **plan), Problems(scene.id))
    found = [(clip, scene.clip_frames(clip)) for clip in clips]
    return [(clip, frames, looking_questions(clip, frames, rng)) for clip, frames in found]


def crosses_seen(frames, questions):
    """Colour -> frame, x, y of the crosses in the drawn pictures; drawn as single pixels, for the exact place.

    The boards' red channel is never 0 or 255, that of the marks always is: what has a mark's colour is a mark.
    """
    drawn = draw_marks([frame.pixels() for frame in frames], [q.mark for q in questions], arm=0, thickness=1)
    seen = {}
    for index, picture in enumerate(drawn):
        for name, color in COLORS.items():
            for y, x in np.argwhere((picture == color).all(axis=-1)).tolist():
                assert name not in seen
                seen[name] = (index, x, y)
    return seen


def true_answer(prompt, frames, seen):
    """The answer's values, from the prompt, the crosses that are seen and the instance maps."""

    def label(color):
        frame, x, y = seen[color]
        return BOARDS[frames[frame].instance_map()[y, x]][0]

    (kind,) = [kind for kind in KINDS if kind.match(prompt)]
    said = kind.match(prompt).groups()
    if kind is COUNT:
        return {"count": len(seen)}
    if kind is COUNT_IN_FRAME:
        return {"count": sum(frame == int(said[0]) for frame, _, _ in seen.values())}
    if kind is LABEL:
        return {"label": label(*said)}
    if kind is COLOR:
        (color,) = [name for name in seen if seen[name][0] == int(said[1]) and label(name) == said[0]]
        return {"color": color}
    frame, x, y = seen[said[0]]
    return {"frame": frame, "pixel": [(x + 0.5) / SIZE[0], (y + 0.5) / SIZE[1]]}


@pytest.mark.parametrize("window_frames", [1, 2, 4])
def test_every_answer_is_what_the_pictures_show(window_frames):
    kinds = set()
    for seed in range(5):
        for _, frames, questions in look(rng_seed=seed, seed=seed, window_frames=window_frames):
            seen = crosses_seen(frames, questions)
            for question in questions:
                truth = true_answer(question.prompt, frames, seen)
                assert question.target == truth
                assert all(f'"{key}"' in question.prompt for key in truth)
                kinds |= {kind for kind in KINDS if kind.match(question.prompt)}
    assert kinds == set(KINDS)


def test_the_place_as_it_is_written_lies_on_the_cross():
    checked = 0
    for _, frames, questions in (found for seed in range(3) for found in look(rng_seed=seed, seed=seed)):
        plain = [frame.pixels() for frame in frames]
        drawn = draw_marks(plain, [question.mark for question in questions])
        for question in questions:
            if said := PLACE.match(question.prompt):
                answer = json.loads(question.answer)
                x, y = (int(share * size) for share, size in zip(answer["pixel"], SIZE, strict=True))
                assert tuple(drawn[answer["frame"]][y, x]) == COLORS[said[1]]
                assert tuple(plain[answer["frame"]][y, x]) != COLORS[said[1]]
                checked += 1
    assert checked > 5


def test_every_answer_is_read_strictly_and_says_the_target():
    for _, _, questions in look():
        for question in questions:
            reading = LOOK.read(question.answer)
            assert reading.how == "strict"
            assert LOOK.write(reading.answer) == question.answer
            said = reading.answer.model_dump(mode="json", exclude_none=True)
            assert said.keys() == question.target.keys()
            assert all(said[key] == pytest.approx(question.target[key], abs=0.00501) for key in said if key == "pixel")
            assert all(said[key] == question.target[key] for key in said if key != "pixel")


def test_marks_stay_ids_are_unique_and_one_question_of_a_clip_counts():
    for clip, _, questions in look():
        marks = [question.mark for question in clip.questions]
        assert len(marks) == 8 < len(questions)
        assert [question.mark for question in questions[:8]] == marks  # a cut behind these leaves no cross undrawn
        assert all(question.mark in marks for question in questions)
        assert {question.task for question in questions} == {LOOKING}
        assert len({question.id for question in (*questions, *clip.questions)}) == len(questions) + 8
        assert sum("count" in question.target for question in questions) == 1


def test_a_single_cross_is_not_always_counted():
    asked = [questions for seed in range(40) for _, _, questions in look(rng_seed=seed, points=1, windows=1)]
    counts = sum("count" in questions[0].target for questions in asked)
    assert 2 <= counts <= 20  # a quarter of 40


def test_the_same_generator_asks_the_same():
    asked = [[questions for _, _, questions in look(rng_seed=seed)] for seed in (1, 1, 2)]
    assert asked[0] == asked[1]
    assert asked[0] != asked[2]


def test_without_labels_only_places_and_numbers_are_asked():
    scene = replace(board_scene(), objects=(), expressions=())
    keys = {key for seed in range(5) for _, _, asked in look(scene, seed) for q in asked for key in q.target}
    assert keys == {"frame", "pixel", "count"}


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["chair", "desk"], {"chair", "desk"}),
        (["chair", "chair"], set()),
        (["chair", "chair", "desk"], {"desk"}),
        (["chair", None], set()),  # what is not known may be a chair
        (["coffee table", "table"], {"coffee table"}),  # the other one is "the table", too
        (["table", "table lamp"], {"table", "table lamp"}),
        (["object", "chair"], set()),  # a chair is an object, and the object may be a chair
        (["object"], {"object"}),
    ],
)
def test_a_colour_is_asked_by_a_label_that_fits_one_cross_of_the_frame(labels, named):
    """And every frame asks for itself: frame 1 carries a chair, a desk, a table and something unknown, too."""
    scene = board_scene(frames=2)
    places = [(0, label) for label in labels]
    others = [(1, label) for label in ("chair", "desk", "table", "coffee table", None)]
    questions = []
    for (frame, label), color in zip(places + others, COLORS, strict=False):
        target = {"pointmap": [0, 0, 1]} if label is None else {"pointmap": [0, 0, 1], "label": label}
        mark = Mark(frame, 10 + 12 * len(questions), 20, color)
        questions.append(Question(task="points", prompt="?", answer="?", target=target, id=color, mark=mark))
    clip = Clip(id="points-0", frames=(0, 1), questions=tuple(questions))
    asked = set()
    for seed in range(60):
        for question in looking_questions(clip, scene.frames, np.random.default_rng(seed)):
            if (said := COLOR.match(question.prompt)) and question.mark.frame == 0:
                asked.add(said[1])
                assert question.target == {"color": question.mark.color}
    assert asked == named


def test_a_count_is_of_the_crosses_that_training_draws_and_these_differ():
    """Samples takes 3 of up to 8 crosses: of all of them, a count would be wrong."""
    rooms = Source(rooms=Rooms(count=2, frames=4, width=128, height=96), tasks={LOOKING: 1})
    few = Samples(Data(sources=(rooms,), questions=3), seed=0, count=20)
    for sample in few:
        assert len(sample.questions) == 3
        for question in sample.questions:
            if COUNT.match(question.prompt):
                assert question.target["count"] == 3
    numbers = {
        len({question.mark for question in sample.questions})
        for sample in Samples(Data(sources=(rooms,)), seed=0, count=20)
    }
    assert numbers >= {4, 6, 8}
    assert min(numbers) >= 4


def test_looking_is_no_task_of_the_paper():
    assert LOOKING not in TASKS
    assert (LOOK.name, LOOK.version) == (LOOKING, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "needs one of label, color, frame, pixel, count"),
        ({"color": "pink"}, "should match pattern"),
        ({"color": "red\n"}, "should match pattern"),
        ({"frame": 0, "pixel": (0.5, 1.01)}, "less than or equal to 1"),
        ({"frame": 0, "pixel": (-0.01, 0.5)}, "greater than or equal to 0"),
        ({"count": -1}, "greater than or equal to 0"),
        ({"bbox_3d": 1}, "Extra inputs"),
    ],
)
def test_what_is_no_answer_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LookingAnswer(**values)


@pytest.mark.parametrize(
    ("answer", "text", "wrong"),
    [
        (LookingAnswer(label="chair"), '{"label": "chair"}', '{"label": ""}'),
        (LookingAnswer(color="cyan"), '{"color": "cyan"}', '{"color": "pink"}'),
        (LookingAnswer(count=0), '{"count": 0}', '{"count": -1}'),
        (
            LookingAnswer(frame=1, pixel=(0.424, 1)),
            '{"frame": 1, "pixel": [0.42, 1.00]}',
            '{"frame": 1, "pixel": [0.42, 1.01]}',
        ),
    ],
)
def test_answers_fit_the_schema_of_the_fields_that_are_asked_for(answer, text, wrong):
    assert LOOK.write(answer) == text
    fields = list(json.loads(text))
    jsonschema.validate(json.loads(text), LOOK.schema(fields))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({}, LOOK.schema(fields))
    assert accepted(LOOK.grammar(fields), text)
    assert not accepted(LOOK.grammar(fields), wrong)


def accepted(grammar, text):
    """Whether a decoder that keeps to the grammar can write the text and stop there."""
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar))
    return matcher.consume_tokens(tokenizer.tokenize_bytes(text.encode())) and matcher.is_accepting()
