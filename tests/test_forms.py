"""Answers under a form: whatever a model writes can be read, ends in time, and gets a score that hands can check."""

from __future__ import annotations

import json
from math import exp, log

import numpy as np
import pytest
import torch

from gapmllm.infer import Decoded, Decoding, EncodedClip, Form, scores_of
from gapmllm.infer.confidence import score
from gapmllm.infer.constraint import Constraint, wrapped
from gapmllm.infer.forms import complete_objects, repeats
from gapmllm.model import build
from gapmllm.tasks import CAPTIONING, DETECTION, FRAME, GROUNDING, POINTS

ODD = ("chair", 'a "low" bed', "{}]", "back\\slash", "naïve 床 🛏", "<|im_end|>", "two\nlines")
FORMS = {
    "points": Form(POINTS),
    "frame": Form(FRAME, num_frames=12),
    "grounding": Form(GROUNDING),
    "one step": Form(GROUNDING, fields=("frame", "bbox_3d"), num_frames=12),
    "detection": Form(DETECTION, max_objects=2),
    "labels": Form(DETECTION, labels=ODD, max_objects=3),
}
COUNTS = {"points": 200, "frame": 250, "grounding": 200, "one step": 150, "detection": 60, "labels": 140}


@pytest.fixture(scope="module")
def model():
    return build("debug", seed=1)


@pytest.fixture(scope="module")
def encoded(model):
    return EncodedClip(model, None)


@pytest.fixture(scope="module")
def tokenizer(model):
    return wrapped(model)


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    """Bytes of each token."""
    return [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]


@pytest.fixture(scope="module")
def spell(vocabulary):
    """spell(text): its tokens of one byte each."""
    single = {text: token for token, text in enumerate(vocabulary) if len(text) == 1}
    return lambda text: [single[bytes([byte])] for byte in text.encode()]


NINE = "[0.82, -1.38, 10.08, 0.55, 0.90, 1.20, -1.57, 0.00, 3.14]"


def entry(label="chair", x=1.0):
    return f'{{"label": {json.dumps(label, ensure_ascii=False)}, "bbox_3d": [{x:.2f}{", 1.00" * 8}]}}'


def can_be_written(form, text, tokenizer, spell):
    ids = spell(text)
    return Constraint(form, tokenizer, 1000)._matcher.validate_tokens(ids) == len(ids)


def written(constraint, choose):
    """The text of an answer whose tokens `choose` picks from those that may come next; it ends, and in time."""
    ids = []
    while ids[-1:] != [constraint.tokenizer.eos_token]:
        ids.append(int(choose(constraint.allowed().nonzero()[0])))
        constraint.take(ids[-1])
    assert constraint.left >= 0
    return constraint.tokenizer.decode_bytes(ids[:-1]).decode()


def longest_way(vocabulary):
    """Chooses a token of as few bytes as there is, of these one that makes the text long."""

    def key(token):
        text = vocabulary[token]
        order = (b"-", b"9")  # then other digits, falling
        rank = 0 if text[0] >= 0xF0 else 1 + order.index(text) if text in order else 256 - text[0]
        return any(end in text for end in (b'"', b"]", b"}", b"<|im")), len(text), rank

    return lambda tokens: min(tokens, key=key)


# What a model writes.


@pytest.fixture(scope="module")
def thousand(encoded):
    """By form: 1,000 answers in all, drawn from random weights; each with as few tokens as may be allowed."""
    found = {}
    for name, count in COUNTS.items():
        form = FORMS[name]
        most = form.longest + (60 if form.is_list else 1)
        drawn = Decoding(max_tokens=most, temperature=1.5)
        found[name] = most, encoded.answer([f"{name} {number}" for number in range(count)], drawn, [form] * count)
    return found


def test_a_thousand_answers_of_random_weights_are_all_read_strictly_and_end_in_time(model, encoded, thousand):
    assert sum(len(answers) for _, answers in thousand.values()) == 1000
    for name, (most, answers) in thousand.items():
        for answer in answers:
            assert FORMS[name].task.read_strict(answer.text) is not None, answer.text
            assert len(answer.ids) == len(answer.logprobs) == len(answer.free) <= most
            assert answer.ids[-1] == model.prompts.end_id
        assert len({answer.text for answer in answers}) > (10 if name == "frame" else 0.8 * len(answers))
    free = encoded.answer([f"points {number}" for number in range(30)], Decoding(max_tokens=20, temperature=1.5))
    assert not any(POINTS.read_strict(answer.text) for answer in free)


def test_their_values_are_within_the_decoders_bounds(thousand):
    read = {name: [FORMS[name].task.read_strict(a.text) for a in answers] for name, (_, answers) in thousand.items()}
    objects = [item for name in ("detection", "labels") for answer in read[name] for item in answer.objects]
    boxes = np.array([thing.bbox_3d for thing in [*objects, *read["grounding"], *read["one step"]]])
    points = np.array([point.pointmap for point in read["points"]])
    assert np.abs(boxes[:, :3]).max() <= 99.99
    assert 0 <= boxes[:, 3:6].min() < boxes[:, 3:6].max() <= 99.99
    assert 2 < np.abs(boxes[:, 6:]).max() <= 3.15
    assert 10 < np.abs(points).max() <= 99.99
    assert {answer.frame for name in ("frame", "one step") for answer in read[name]} == set(range(12))
    assert max(len(thing.label) for thing in [*objects, *read["points"]]) <= 40
    assert {item.label for answer in read["labels"] for item in answer.objects} == set(ODD)
    assert {len(answer.objects) for answer in read["detection"]} <= {0, 1, 2}


def test_its_log_probabilities_are_the_models_own_among_the_tokens_that_may_come(model, encoded, tokenizer, vocabulary):
    form, question = Form(DETECTION, labels=("chair", "bed"), max_objects=2), "list"
    drawn = Decoding(max_tokens=300, temperature=1.5)
    (answer,) = encoded.answer([question], drawn, [form])
    prompt = model.prompts.prefix([]) + model.prompts.question(question)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer.ids])).logits[0, len(prompt) - 1 :].double()
    constraint, expected, choices = Constraint(form, tokenizer, 300), [], []
    single = {piece: token for token, piece in enumerate(vocabulary) if len(piece) == 1}
    by_bytes = Constraint(form, tokenizer, 2000)

    def could_differ(byte):
        """Whether another byte might have come in this place; this one then comes."""
        begins = {vocabulary[other][:1] for other in by_bytes.allowed().nonzero()[0].tolist()}
        by_bytes.take(single[bytes([byte])])
        return len(begins) > 1

    for step, token in enumerate(answer.ids):
        allowed = torch.from_numpy(constraint.allowed())
        expected.append(log(logits[step][allowed].softmax(-1)[int(allowed[:token].sum())]))
        text = b"" if token == model.prompts.end_id else vocabulary[token]
        choices.append(any([could_differ(byte) for byte in text]))  # all bytes, in order
        constraint.take(token)
        if not choices[-1] and answer.logprobs[step] == 0:
            expected[-1] = 0.0  # what must come is not asked for
    assert answer.logprobs == pytest.approx(expected, abs=1e-4)
    assert answer.free == choices
    assert 0.1 < np.mean(choices) < 0.9
    (whole,) = encoded.answer([question], Decoding(max_tokens=6))
    with torch.no_grad():
        logits = model(torch.tensor([prompt + whole.ids])).logits[0, len(prompt) - 1 :]
    own = [float(logits[step].log_softmax(-1)[token]) for step, token in enumerate(whole.ids)]
    assert whole.logprobs == pytest.approx(own, abs=1e-4)
    assert whole.free == [True] * 6


def test_only_what_could_have_been_otherwise_was_a_choice(encoded, vocabulary):
    (answer,) = encoded.answer(["which?"], Decoding(max_tokens=40), [Form(FRAME, num_frames=10)])
    chosen = b"".join(vocabulary[token] for token, free in zip(answer.ids, answer.free, strict=True) if free)
    assert chosen.decode().strip() == str(FRAME.read_strict(answer.text).frame)


def test_a_form_changes_nothing_for_other_questions(encoded):
    forms = [Form(GROUNDING), None, Form(FRAME, num_frames=3)]
    mixed = encoded.answer(["a", "b", "c"], Decoding(max_tokens=80), forms)
    for question, form, answer in zip("abc", forms, mixed, strict=True):
        (alone,) = encoded.answer([question], Decoding(max_tokens=80), [form])
        assert alone.ids == answer.ids
        assert alone.logprobs == pytest.approx(answer.logprobs, abs=1e-4)
    with pytest.raises(ValueError, match=r"3 questions need as many forms .* got 2"):
        encoded.answer(["a", "b", "c"], forms=forms[:2])


# Ends.


def test_the_longest_answers_are_as_long_as_the_forms_say(tokenizer, spell):
    box = "[" + "-99.99, " * 3 + "99.99, " * 3 + "-3.15, " * 2 + "-3.15]"
    label = '"' + "🛏" * 40 + '"'
    for form, text in [
        (FORMS["frame"], '{"frame": 11}'),
        (Form(FRAME), '{"frame": 99999}'),
        (FORMS["grounding"], f'{{"bbox_3d": {box}}}'),
        (FORMS["one step"], f'{{"frame": 11, "bbox_3d": {box}}}'),
        (FORMS["points"], f'{{"label": {label}, "pointmap": [-99.99, -99.99, -99.99]}}'),
        (Form(POINTS, fields=("label",)), f'{{"label": {label}}}'),
        (FORMS["detection"], f'[{{"label": {label}, "bbox_3d": {box}}}]'),
        (Form(DETECTION, labels=("🛏", "bed")), f'[{{"label": "bed", "bbox_3d": {box}}}]'),
    ]:
        assert can_be_written(form, text, tokenizer, spell), text
        if form.is_list:  # of one object and what parts it from the next
            assert form.longest == len(text.encode()) + 2 + ("🛏" in (form.labels or ()))
        else:
            assert form.longest == len(text.encode())


@pytest.mark.parametrize("name", FORMS)
def test_answers_of_as_many_tokens_as_can_be_end_in_time(name, tokenizer, vocabulary):
    form = FORMS[name]
    text = written(Constraint(form, tokenizer, form.longest + 1), longest_way(vocabulary))
    assert form.task.read_strict(text) is not None


@pytest.mark.parametrize("labels", [("chair", "床"), None])
def test_a_list_ends_in_time_whatever_is_left(labels, tokenizer, vocabulary):
    form = Form(DETECTION, labels=labels)
    rng = np.random.default_rng(0)
    counts = set()
    for most in [*range(form.longest + 1, form.longest + 61), 2 * form.longest + 20]:
        ways = [longest_way(vocabulary), rng.choice] if labels else [longest_way(vocabulary)]
        for way in ways:
            text = written(Constraint(form, tokenizer, most), way)
            counts.add(len(DETECTION.read_strict(text).objects))
    assert {1, 2} <= counts


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (Form(POINTS), '{"label": "office chair", "pointmap": [0.82, -1.38, 10.08]}'),
        (Form(POINTS, fields=("pointmap",)), '{"pointmap": [-0.82, 1.38, 0.00]}'),
        (Form(FRAME, num_frames=32), '{"frame": 31}'),
        (Form(GROUNDING), f'{{"bbox_3d": {NINE}}}'),
        (Form(GROUNDING, fields=("frame", "bbox_3d"), num_frames=4), f'{{"frame": 2, "bbox_3d": {NINE}}}'),
        (Form(DETECTION), f'[{{"label": "bed", "bbox_3d": {NINE}}}, {{"label": "tv stand", "bbox_3d": {NINE}}}]'),
        (Form(DETECTION, labels=("bed",)), f'[{{"label": "bed", "bbox_3d": {NINE}}}]'),
        (Form(DETECTION), "[]"),
    ],
)
def test_the_tokens_that_a_model_learned_may_come(form, text, model, tokenizer):
    """An answer's own tokens, as training encodes it: a grammar must not ask for the same text in other pieces."""
    constraint = Constraint(form, tokenizer, 1000)
    for token in model.prompts.answer(text):
        assert constraint.allowed()[token], tokenizer.decode_bytes([token])
        constraint.take(token)


def test_too_few_tokens_are_refused(encoded, tokenizer):
    for form in FORMS.values():
        Constraint(form, tokenizer, form.longest + 1)
        message = rf"{form.task.name} may need {form.longest + 1} tokens; max_tokens is {form.longest}, .*: raise it"
        with pytest.raises(ValueError, match=message):
            encoded.answer(["a"], Decoding(max_tokens=form.longest), [form])


@pytest.mark.parametrize(
    ("second", "goes_on"),
    [
        (entry(x=1.05), False),
        (entry(x=1.06), True),
        (entry("bed"), True),
        (entry("chair ", x=1.0), True),
        (entry("bed").replace('1.00]}', '2.00]}'), True),
        (entry().replace('1.00]}', '2.00]}'), False),  # turned, but in the same place
    ],
)  # fmt: skip
def test_an_object_that_comes_again_ends_the_list(second, goes_on, tokenizer, vocabulary, spell):
    constraint = Constraint(Form(DETECTION), tokenizer, 1000)
    for token in spell(f"[{entry()}, {second}"):
        constraint.take(token)
    follows = {vocabulary[token][:1] for token in constraint.allowed().nonzero()[0]}
    assert follows == ({b"]", b","} if goes_on else {b"]"})


def test_an_object_that_was_begun_with_the_same_token_is_finished(model, tokenizer, vocabulary):
    """The usual end of an object opens the next one as well."""
    encode = model.prompts.tokenizer.encode
    constraint = Constraint(Form(DETECTION), tokenizer, 1000)
    for token in encode(f'[{entry()}, {entry()}, {{"label": "', add_special_tokens=False):
        constraint.take(token)
    assert vocabulary[constraint._ids[-1]] == b']}, {"label": "'
    for token in encode('bed", "bbox_3d": [' + "1.00, " * 8 + "1.00]}", add_special_tokens=False):
        constraint.take(token)
    assert {vocabulary[token] for token in constraint.allowed().nonzero()[0]} == {b"]"}


@pytest.mark.parametrize("label", ODD)
def test_labels_do_not_hide_where_objects_end(label, tokenizer, vocabulary, spell):
    text = f"[{entry(label)}, {entry('b')}"
    first, second = complete_objects(text + ', {"label": "}')
    assert [first[0]["label"], second[0]["label"]] == [label, "b"]
    assert [text[begin:end] for _, begin, end in (first, second)] == [entry(label), entry("b")]
    constraint = Constraint(Form(DETECTION), tokenizer, 1000)
    for token in spell(f"[{entry(label)}, {entry(label)}"):
        constraint.take(token)
    assert {vocabulary[token] for token in constraint.allowed().nonzero()[0]} == {b"]"}


def test_only_the_same_label_in_the_same_place_is_a_repeat():
    def thing(label, *box):
        return {"label": label, "bbox_3d": [*box, 0.0, 0.0, 0.0]}

    chair = thing("chair", 1, 2, 3, 0.5, 0.5, 0.5)
    other = thing("bed", 1, 2, 3, 0.5, 0.5, 0.5)
    assert repeats([chair, other, chair])
    assert not repeats([chair])
    assert not repeats([chair, other])
    assert repeats([chair, thing("chair", 1.05, 1.95, 3, 0.45, 0.55, 0.5)])
    assert not repeats([chair, thing("chair", 1, 2, 3, 0.5, 0.56, 0.5)])


def test_numbers_out_of_bounds_cannot_be_written(tokenizer, spell):
    def point(x, label="a"):
        return f'{{"label": "{label}", "pointmap": [{x}, 0.00, 0.00]}}'

    def box(size="1.00", angle="0.00"):
        return f'{{"bbox_3d": [0.00, 0.00, 0.00, {size}, 1.00, 1.00, {angle}, 0.00, 0.00]}}'

    for good, bad in [
        ((Form(POINTS), point("-99.99")), (Form(POINTS), point("-100.00"))),
        ((Form(POINTS), point("0.05")), (Form(POINTS), point("0.050"))),
        ((Form(GROUNDING), box("0.00")), (Form(GROUNDING), box("-0.01"))),
        ((Form(GROUNDING), box("99.99")), (Form(GROUNDING), box("100.00"))),
        ((Form(GROUNDING), box(angle="-3.15")), (Form(GROUNDING), box(angle="-3.16"))),
        ((Form(FRAME, num_frames=12), '{"frame": 11}'), (Form(FRAME, num_frames=12), '{"frame": 12}')),
        ((Form(FRAME, num_frames=1), '{"frame": 0}'), (Form(FRAME, num_frames=1), '{"frame": 1}')),
        ((FORMS["labels"], f"[{entry('{}]')}]"), (FORMS["labels"], f"[{entry('{}')}]")),
        ((FORMS["detection"], f"[{entry()}, {entry()}]"), (FORMS["detection"], f"[{', '.join([entry()] * 3)}]")),
        (
            (Form(POINTS), point("0.05").replace('"a"', f'"{"ä" * 40}"')),
            (Form(POINTS), point("0.05").replace('"a"', f'"{"ä" * 41}"')),
        ),
    ]:
        assert can_be_written(*good, tokenizer, spell), good
        assert not can_be_written(*bad, tokenizer, spell), bad


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": CAPTIONING}, "a caption is free text"),
        ({"task": DETECTION, "max_objects": 0}, "max_objects must be 1 to 1000, got 0"),
        ({"task": DETECTION, "labels": ("x" * 101,)}, r"label 'xxx.*at most 100 characters"),
        ({"task": DETECTION, "labels": ("",)}, "label '': .*at least 1 character"),
        ({"task": DETECTION, "labels": ()}, "vocabulary of labels is empty"),
        ({"task": FRAME, "labels": ("a",)}, "has no label"),
        ({"task": POINTS, "fields": ("bbox_3d",)}, "no field"),
    ],
)
def test_forms_that_no_task_has_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Form(**fields)


# Scores.


def test_the_score_is_the_geometric_mean_of_the_probabilities_where_there_was_a_choice(model, monkeypatch):
    one = Decoded([1, 2, 3, 4], [log(0.5), -9.0, log(0.125), -9.0], free=[True, False, True, False])
    assert scores_of(one, Form(FRAME), model) == pytest.approx([0.25])  # sqrt(1/2 * 1/8)
    step = Decoded([1, 2], [log(0.25), 0.0], free=[True, False])
    assert score([one, step], "grounding", model) == pytest.approx((0.5 * 0.125 * 0.25) ** (1 / 3))
    assert scores_of(Decoded([1], [0.0], free=[False]), Form(FRAME), model) == [1.0]  # nothing else could be said
    assert scores_of(Decoded([1], [-float("inf")], free=[True]), Form(FRAME), model) == [0.0]
    monkeypatch.setattr(model.config, "score_temperatures", {"frame": 2.0})
    assert scores_of(one, Form(FRAME), model) == pytest.approx([0.5])  # the square root
    assert scores_of(one, None, model) == pytest.approx([0.25])
    assert score([one, step], "grounding", model) == pytest.approx((0.5 * 0.125 * 0.25) ** (1 / 3))


def test_an_object_of_a_list_has_the_tokens_from_the_end_of_the_one_before(model, vocabulary):
    text = f"[{entry('chair 床')}, {entry('bed')}, {entry('a')}]"
    ids = [*model.prompts.tokenizer.encode(text, add_special_tokens=False), model.prompts.end_id]
    straddling = [place for place, token in enumerate(ids) if vocabulary[token] == b']}, {"label": "']
    assert len(straddling) == 2  # they end an object and begin the next: they belong to the one that ends
    first, second = straddling[0] + 1, straddling[1] + 1
    values = [-0.1] * first + [-0.2] * (second - first) + [-0.4] * (len(ids) - second)
    values[-1] = -50.0  # the end of the answer belongs to none
    free = [True] * len(ids)
    answer = Decoded(ids, values, text, free)
    assert scores_of(answer, Form(DETECTION), model) == pytest.approx([exp(-0.1), exp(-0.2), exp(-0.4)])
    values[first], free[first] = -30.0, False
    assert scores_of(answer, Form(DETECTION), model)[1] == pytest.approx(exp(-0.2))
    free[first] = True
    assert scores_of(answer, Form(DETECTION), model)[1] < 0.5
    empty = model.prompts.tokenizer.encode("[]", add_special_tokens=False)
    assert scores_of(Decoded(empty, [-1.0] * len(empty), "[]", [True] * len(empty)), Form(DETECTION), model) == []
