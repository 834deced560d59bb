"""Prompts, answer writers, schemas, marks."""

from __future__ import annotations

import json
import re

import jsonschema
import llguidance
import numpy as np
import pytest

from gapmllm.tasks import (
    CAPTIONING,
    COLORS,
    DETECTION,
    FRAME,
    GROUNDING,
    POINTS,
    TASKS,
    Caption,
    DetectedObject,
    DetectionAnswer,
    FrameAnswer,
    GroundingAnswer,
    Mark,
    PointAnswer,
    draw_marks,
)
from gapmllm.tasks.grammar import _up_to as up_to
from gapmllm.tasks.grammar import lark_grammar

BOX = (0.5, -0.004, 2.345, 0.5, 0.6, 0.925, 0.79, -1.174, 2.96)
ANSWERS = [
    (
        POINTS,
        PointAnswer(label="chair", pointmap=(0.42, -0.1, 2.35)),
        '{"label": "chair", "pointmap": [0.42, -0.10, 2.35]}',
    ),
    (
        DETECTION,
        DetectionAnswer((DetectedObject(label="chair", bbox_3d=BOX), DetectedObject(label='a "low" bed', bbox_3d=BOX))),
        '[{"label": "chair", "bbox_3d": [0.50, 0.00, 2.35, 0.50, 0.60, 0.93, 0.79, -1.17, 2.96]}, '
        '{"label": "a \\"low\\" bed", "bbox_3d": [0.50, 0.00, 2.35, 0.50, 0.60, 0.93, 0.79, -1.17, 2.96]}]',
    ),
    (DETECTION, DetectionAnswer(()), "[]"),
    (FRAME, FrameAnswer(frame=7), '{"frame": 7}'),
    (GROUNDING, GroundingAnswer(bbox_3d=BOX), '{"bbox_3d": [0.50, 0.00, 2.35, 0.50, 0.60, 0.93, 0.79, -1.17, 2.96]}'),
    (CAPTIONING, Caption("This is a chair."), "This is a chair."),
]


@pytest.mark.parametrize(("task", "answer", "text"), ANSWERS)
def test_an_answer_is_written_with_two_decimals_and_read_strictly(task, answer, text):
    rounded = np.round(2.345, 2) == 2.35  # the writer rounds as Python does: to even where the float allows
    assert task.write(answer) == (text if rounded else text.replace("2.35", "2.34").replace("0.93", "0.92"))
    reading = task.read(task.write(answer))
    assert reading.how == "strict"
    assert reading.problems == ()
    assert task.write(reading.answer) == task.write(answer)


def test_decimals_can_be_chosen():
    assert (
        POINTS.write(PointAnswer(pointmap=(1, -0.0004, 2.34567)), decimals=3) == '{"pointmap": [1.000, 0.000, 2.346]}'
    )


def test_prompt_and_grammar_follow_the_decimals():
    assert "[0.4200, 0.0000, 2.0000]" in CAPTIONING.prompt((0.42, 0, 2), decimals=4)
    written = POINTS.write(PointAnswer(pointmap=(1, 2, 3)), decimals=1)
    assert accepted(POINTS.grammar(fields=("pointmap",), decimals=1), written)
    assert not accepted(POINTS.grammar(fields=("pointmap",)), written)


def test_a_point_answer_needs_one_of_its_parts():
    with pytest.raises(ValueError, match="a label, a pointmap or both"):
        PointAnswer()


def accepted(grammar, text):
    """Whether a grammar-constrained decoder could write the text, byte by byte, and stop there."""
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_bytes(text.encode())
    return matcher.validate_tokens(tokens) == len(tokens) and matcher.consume_tokens(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(("task", "answer", "text"), ANSWERS)
def test_grammar_and_schema_accept_what_the_writer_writes(task, answer, text):
    written = task.write(answer)
    assert accepted(task.grammar(), written)
    jsonschema.validate(written if task is CAPTIONING else json.loads(written), task.schema())


def test_every_number_of_two_decimals_can_be_written_in_one_way():
    grammar = POINTS.grammar(fields=("pointmap",))
    for value in [*range(-120, 121), -1000, 1000, -9999, 9999, 100_000]:
        written = POINTS.write(PointAnswer(pointmap=(value / 100,) * 3))
        assert accepted(grammar, written)
    for other in ("0.1", "1", "1e-1", "+1.00", "01.00", ".10", "1000.01"):
        assert not accepted(grammar, f'{{"pointmap": [{other}, {other}, {other}]}}')


@pytest.mark.parametrize("maximum", [0, 1, 3, 9, 10, 11, 15, 100, 105, 511, 3.15, 9.99, 10.01, 99.99, 100.0])
def test_numbers_go_up_to_their_maximum_and_no_further(maximum):
    decimals = 2 if isinstance(maximum, float) else 0
    pattern = re.compile(up_to(maximum, decimals))
    most = round(maximum * 10**decimals)
    for value in range(most * 2 + 20):
        written = f"{value / 10**decimals:.{decimals}f}"
        assert bool(pattern.fullmatch(written)) == (value <= most), written
        assert not pattern.fullmatch(f"0{written}")


def test_a_list_of_one_object_has_a_grammar():
    schema = DETECTION.schema(labels=["bed"]) | {"maxItems": 1}
    one = DetectedObject(label="bed", bbox_3d=BOX)
    grammar = lark_grammar(schema, 2)
    assert accepted(grammar, "[]")
    assert accepted(grammar, DETECTION.write(DetectionAnswer((one,))))
    assert not accepted(grammar, DETECTION.write(DetectionAnswer((one, one))))


def random_text(grammar, rng):
    """A text that the grammar allows, byte by byte, each drawn from those it allows next."""
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar))
    written = bytearray()
    while not matcher.is_stopped():
        mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        token = int(rng.choice(np.nonzero(mask)[0]))
        matcher.consume_token(token)
        if token < 256:
            written.append(token)
    return written.decode()


@pytest.mark.parametrize("task", [POINTS, FRAME, GROUNDING])
def test_whatever_the_grammar_allows_is_read_strictly(task):
    rng = np.random.default_rng(0)
    for _ in range(20):
        text = random_text(task.grammar(), rng)
        assert task.read(text).how == "strict", text


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "chair", "pointmap": [0.423, 0.10, 2.35]}',  # three decimals
        '{"label": "chair", "pointmap": [0.42, 0.10]}',
        '{"pointmap": [0.42, 0.10, 2.35], "label": "chair"}',  # order
        '{"label": "chair",  "pointmap": [0.42, 0.10, 2.35]}',  # spacing
        '{"label": "", "pointmap": [0.42, 0.10, 2.35]}',
        '{"label": "chair", "pointmap": [0.42, 0.10, 1000.01]}',
    ],
)
def test_a_decoder_under_the_grammar_cannot_write_this(text):
    assert not accepted(POINTS.grammar(), text)


def test_a_grammar_can_ask_for_other_fields_and_a_vocabulary():
    one_step = GROUNDING.grammar(fields=("frame", "bbox_3d"))
    assert accepted(one_step, GROUNDING.write(GroundingAnswer(frame=2, bbox_3d=BOX)))
    assert not accepted(one_step, GROUNDING.write(GroundingAnswer(bbox_3d=BOX)))
    assert accepted(POINTS.grammar(fields=("label",)), '{"label": "chair"}')
    closed = DETECTION.grammar(labels=["chair", "bed"])
    assert accepted(closed, DETECTION.write(DetectionAnswer((DetectedObject(label="bed", bbox_3d=BOX),))))
    assert not accepted(closed, DETECTION.write(DetectionAnswer((DetectedObject(label="lamp", bbox_3d=BOX),))))
    with pytest.raises(ValueError, match="no field"):
        POINTS.schema(fields=("bbox_3d",))
    with pytest.raises(ValueError, match="has no label, only"):
        FRAME.grammar(labels=["chair"])
    with pytest.raises(ValueError, match="vocabulary of labels is empty"):
        POINTS.schema(labels=[])
    with pytest.raises(ValueError, match="free text"):
        CAPTIONING.schema(labels=["chair"])


def test_prompts_name_what_they_ask_for():
    assert "Frame 3 is marked with a blue cross" in POINTS.prompt(3, "blue")
    assert "Find every chair, bed in these frames" in DETECTION.prompt(["chair", "bed"])
    assert "Find every object in these frames" in DETECTION.prompt()
    assert "Which of the 32 frames" in FRAME.prompt("the red chair", 32)
    assert GROUNDING.prompt(" the red chair ").startswith("Object: the red chair\n")
    one_step = GROUNDING.one_step_prompt("the red chair", 4)
    assert "the camera frame of that frame" in one_step
    assert "first frame" not in one_step
    assert "[0.42, 0.00, 2.00]" in CAPTIONING.prompt((0.42, -0.001, 2))


def test_a_points_prompt_asks_for_label_and_point_or_for_one_of_them():
    opening = "Frame 3 is marked with a blue cross. "
    point = (
        'the point [x, y, z] as "pointmap", in metres in the camera frame of the first frame '
        "(x right, y down, z forward)."
    )
    assert POINTS.prompt(3, "blue") == (
        f"{opening}Which object is under the cross, and where in space is the marked point?\n"
        f'Answer with a JSON object: the object\'s name as "label", and {point}'
    )
    assert POINTS.prompt(3, "blue", label=False) == (
        f"{opening}Where in space is the marked point?\nAnswer with a JSON object: {point}"
    )
    assert POINTS.prompt(3, "blue", point=False) == (
        f'{opening}Which object is under the cross?\nAnswer with a JSON object: the object\'s name as "label".'
    )
    with pytest.raises(ValueError, match="asks for the label, the point or both, got neither"):
        POINTS.prompt(3, "blue", label=False, point=False)


def test_every_task_has_a_name_and_a_version():
    assert {name: task.version for name, task in TASKS.items()} == dict.fromkeys(
        ("points", "detection", "frame", "grounding", "captioning"), 1
    )


def black(height=30, width=40):
    return np.zeros((height, width, 3), np.uint8)


def test_the_paper_mark_is_a_red_cross_with_arms_of_ten_and_five_pixels_thick():
    frames = [black(), black()]
    marked = draw_marks(frames, [Mark(frame=1, x=20, y=15)])
    red = (marked[1] == (255, 0, 0)).all(axis=-1)
    assert red.sum() == 2 * 21 * 5 - 5 * 5  # two bars of 21 x 5 that share the middle
    assert red[15, 10:31].all()
    assert red[5:26, 20].all()
    assert not red[15, [9, 31]].any()
    assert not red[12, 10]
    assert red[13, 10]
    assert marked[0] is frames[0]
    assert not frames[1].any()  # the caller's frame stays as it was


def test_several_marks_of_different_colours_clip_at_the_border():
    marks = [Mark(0, 0, 0, "green"), Mark(0, 39, 29, "blue"), Mark(0, 20, 15, "red")]
    picture = draw_marks([black()], marks, arm=3, thickness=1)[0]
    assert (picture[0, :4] == COLORS["green"]).all()
    assert (picture[29, 36:] == COLORS["blue"]).all()
    assert ((picture != 0).any(axis=-1)).sum() == 7 + 7 + 13


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (Mark(0, 40, 0), r"pixel \(40, 0\) lies outside frame 0 of 40x30 pixels"),
        (Mark(0, 0, -1), "lies outside"),
        (Mark(1, 0, 0), "frame 1, but the clip has 1 frames"),
        (Mark(0, 0, 0, "pink"), "no mark colour 'pink', choose from red, green"),
    ],
)
def test_marks_that_cannot_be_drawn_are_refused(mark, message):
    with pytest.raises(ValueError, match=message):
        draw_marks([black()], [mark])


def test_marks_need_colour_frames_and_an_odd_thickness():
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8.*got \(30, 40\)"):
        draw_marks([black()[..., 0]], [Mark(0, 0, 0)])
    with pytest.raises(ValueError, match="thickness odd"):
        draw_marks([black()], [Mark(0, 0, 0)], thickness=4)
