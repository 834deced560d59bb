"""Shared-prefix decoding gives what asking one by one gives."""

from __future__ import annotations

import pytest
import torch

from gapmllm.infer import encoded as module
from gapmllm.infer.decoding import Decoding
from gapmllm.infer.encoded import CHEAP, EncodedClip, answer_clips
from gapmllm.model import build, memory

QUESTIONS = [
    f"{what} {number}?" for number in range(10) for what in ("where is chair", "list", "which", "a", "the lamp by")
]


@pytest.fixture(scope="module")
def model():
    """Random weights, with a sharper head so that answers differ, and end, by the question."""
    model = build("debug", seed=1)
    with torch.no_grad():
        for parameter in model.model.language_model.layers.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model


@pytest.fixture(scope="module")
def encoded(model, clip_of):
    return EncodedClip(model, clip_of(model, 4))


def test_fifty_questions_at_once_equal_one_by_one(encoded):
    together = encoded.answer(QUESTIONS, Decoding(max_tokens=16))
    assert len(together) == len(QUESTIONS) == 50
    assert len({tuple(answer.ids) for answer in together}) > 10  # the answers are not all the same
    for question, answer in zip(QUESTIONS, together, strict=True):
        (alone,) = encoded.answer([question], Decoding(max_tokens=16))
        assert alone.ids == answer.ids
        assert alone.logprobs == pytest.approx(answer.logprobs, abs=1e-4)


def test_several_clips_at_once_equal_one_by_one(model, clip_of):
    """Of other lengths, with other numbers of questions, whose answers end at other times."""
    clips = [EncodedClip(model, clip) for clip in (clip_of(model, 4), None, clip_of(model, 2), clip_of(model, 3))]
    questions = [QUESTIONS[:3], QUESTIONS[3:4], QUESTIONS[4:9], QUESTIONS[:70]]
    decoding = [Decoding(max_tokens=most, batch=30) for most in (16, 3, 9, 12)]
    asked = [clip.asked(some, how) for clip, some, how in zip(clips, questions, decoding, strict=True)]
    together = answer_clips(clips, asked)
    for clip, some, how, answers in zip(clips, questions, decoding, together, strict=True):
        alone = clip.answer(some, how)
        assert [answer.ids for answer in answers] == [answer.ids for answer in alone]
        for answer, other in zip(answers, alone, strict=True):
            assert answer.text == other.text
            assert answer.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert clip.cache.get_seq_length() == clip.length  # no trace


def test_a_clip_that_is_done_costs_no_more(model, clip_of, monkeypatch):
    clips = [EncodedClip(model, clip_of(model, frames)) for frames in (2, 4)]
    forward, rows = module.GapMllm.forward, []

    def watched(self, ids, *arguments, **values):
        rows.append(len(ids))
        return forward(self, ids, *arguments, **values)

    monkeypatch.setattr(module.GapMllm, "forward", watched)
    asked = [clip.asked(["a"], Decoding(max_tokens=most)) for clip, most in zip(clips, (2, 5), strict=True)]
    monkeypatch.setattr(model.prompts, "end_id", -1)  # nothing ends before its last token
    answer_clips(clips, asked)
    assert rows == [2, 2, 1, 1, 1]


def test_it_equals_transformers_generate(model, encoded, clip_of):
    clip = clip_of(model, 4)
    for question, answer in zip(QUESTIONS[:5], encoded.answer(QUESTIONS[:5], Decoding(max_tokens=12)), strict=True):
        prefix = model.prompts.prefix([clip.tokens_per_frame] * clip.num_frames)
        ids = torch.tensor([prefix + model.prompts.question(question)])
        made = model.generate(ids, clips=[clip], max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
        assert answer.ids == made


def test_a_question_leaves_no_trace(encoded):
    first = encoded.answer(QUESTIONS[:3], Decoding(max_tokens=8))
    encoded.answer(QUESTIONS[3:20], Decoding(max_tokens=8))
    assert [layer.get_seq_length() for layer in encoded.cache.layers] == [encoded.length] * 4
    assert [a.ids for a in encoded.answer(QUESTIONS[:3], Decoding(max_tokens=8))] == [a.ids for a in first]


def test_the_log_probabilities_are_the_models_own(model, encoded, clip_of):
    (answer,) = encoded.answer(["what is this?"], Decoding(max_tokens=5))
    clip = clip_of(model, 4)
    prompt = model.prompts.prefix([clip.tokens_per_frame] * 4) + model.prompts.question("what is this?")
    ids = torch.tensor([prompt + answer.ids])
    with torch.no_grad():
        logprobs = model(ids, [clip]).logits[0].log_softmax(-1)
    expected = [float(logprobs[len(prompt) - 1 + step, token]) for step, token in enumerate(answer.ids)]
    assert answer.logprobs == pytest.approx(expected, abs=1e-4)


def test_an_answer_stops_at_its_end_and_the_others_go_on(model, encoded, monkeypatch):
    """A token that the answers hold at different places is made their end: each stops there, and is else the same."""
    whole = [answer.ids for answer in encoded.answer(QUESTIONS, Decoding(max_tokens=12))]
    places = {token: {ids.index(token) for ids in whole if token in ids} for ids in whole for token in ids}
    end = max(places, key=lambda token: len(places[token]))
    asked = {question: model.prompts.question(question) for question in QUESTIONS}
    monkeypatch.setattr(model.prompts, "question", asked.__getitem__)  # a question goes on as it did
    monkeypatch.setattr(model.prompts, "end_id", end)
    expected = [ids[: ids.index(end) + 1] if end in ids else ids for ids in whole]
    assert len({len(ids) for ids in expected}) > 2
    answers = encoded.answer(QUESTIONS, Decoding(max_tokens=12))
    assert [answer.ids for answer in answers] == expected
    assert all(len(answer.logprobs) == len(answer.ids) for answer in answers)
    assert all(answer.text == model.prompts.text(answer.ids) for answer in answers)
    monkeypatch.undo()
    assert model.prompts.text(model.prompts.answer("a chair, 0.42")) == "a chair, 0.42"


def test_drawn_answers_do_not_depend_on_what_else_is_asked(encoded):
    drawn = Decoding(max_tokens=16, temperature=1.5, top_p=0.9, seed=7)
    together = encoded.answer(QUESTIONS[:6], drawn)
    assert [encoded.answer([question], drawn)[0].ids for question in QUESTIONS[:6]] == [a.ids for a in together]
    other = encoded.answer(QUESTIONS[:6], Decoding(max_tokens=16, temperature=1.5, top_p=0.9, seed=8))
    assert [a.ids for a in other] != [a.ids for a in together]


def test_a_tiny_top_p_is_greedy(encoded):
    greedy = encoded.answer(QUESTIONS[:4], Decoding(max_tokens=8))
    assert [a.ids for a in encoded.answer(QUESTIONS[:4], Decoding(max_tokens=8, temperature=1, top_p=1e-6))] == [
        a.ids for a in greedy
    ]


def test_short_memory_means_fewer_questions_at_a_time(encoded, monkeypatch):
    expected = [answer.ids for answer in encoded.answer(QUESTIONS[:10], Decoding(max_tokens=8))]
    whole, sizes = module.answer_together, []

    def small(clips, groups):
        sizes.append(len(groups[0]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return whole(clips, groups)

    monkeypatch.setattr(module, "answer_together", small)
    with pytest.warns(UserWarning, match="memory is short"):
        answers = encoded.answer(QUESTIONS[:10], Decoding(max_tokens=8))
    assert [answer.ids for answer in answers] == expected
    assert sizes == [10, 5, 3, 3, 3, 1]


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_step_that_fails_inside_leaves_the_clip_as_it_was(model, encoded, layer):
    """Some layers have grown by then, others not."""
    expected = [answer.ids for answer in encoded.answer(QUESTIONS[:6], Decoding(max_tokens=8))]
    calls = []

    def fail(module, inputs):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    hook = model.model.language_model.layers[layer].mlp.register_forward_pre_hook(fail)
    with hook, pytest.warns(UserWarning, match="memory is short: 6 questions at once, now 3"):
        answers = encoded.answer(QUESTIONS[:6], Decoding(max_tokens=8))
    assert [answer.ids for answer in answers] == expected


def test_the_model_is_left_as_it_was(clip_of):
    model = build("debug")
    model.train()
    model.checkpoint_activations()
    model.set_attn_implementation({"text_config": "eager"})
    training = EncodedClip(model, clip_of(model)).answer(QUESTIONS[:3], Decoding(max_tokens=6))
    assert model.training
    assert model.config.text_config._attn_implementation == "eager"
    plain = build("debug")
    expected = EncodedClip(plain, clip_of(plain)).answer(QUESTIONS[:3], Decoding(max_tokens=6))
    assert [answer.ids for answer in training] == [answer.ids for answer in expected]
    assert not plain.training


def test_long_questions_go_in_smaller_groups(encoded, monkeypatch):
    whole, sizes = module.answer_together, []

    def watched(clips, groups):
        sizes.append(len(groups[0]))
        return whole(clips, groups)

    monkeypatch.setattr(module, "answer_together", watched)
    long = "what is this? " * 200
    assert CHEAP / 2 < len(encoded.prompts.question(long)) < CHEAP
    answers = encoded.answer([long, long, "a", "b"], Decoding(max_tokens=2))
    assert len(answers) == 4
    assert sizes == [1, 3]
    encoded.answer(["a", "b", "c"], Decoding(max_tokens=2, batch=2))
    assert sizes == [1, 3, 2, 1]


def test_a_clip_that_cannot_fit_is_told_before_it_runs(model, clip_of, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match=r"4 frames of 3x4 tokens need .* are free on cpu"):
        EncodedClip(model, clip_of(model, 4))


def test_other_errors_are_not_taken_for_short_memory(encoded, monkeypatch):
    def broken(clips, groups):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(module, "answer_together", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        encoded.answer(QUESTIONS[:2])


def test_a_question_that_does_not_fit_is_refused(encoded, model):
    most = model.config.text_config.max_position_embeddings
    with pytest.raises(
        ValueError, match=rf"the question has \d+ tokens; with \d+ positions .* beyond this model's {most}"
    ):
        encoded.answer(["chair " * most])
    with pytest.raises(ValueError, match="a list of questions is needed, got one text"):
        encoded.answer("what is this?")


def test_what_makes_no_sense_is_refused(model, clip_of):
    for wrong in (
        {"max_tokens": 0},
        {"batch": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"seed": 0.5},
    ):
        with pytest.raises(ValueError, match="must be"):
            Decoding(**wrong)
    bare = build("debug")
    bare.prompts = None
    with pytest.raises(ValueError, match="this model has no tokenizer"):
        EncodedClip(bare, clip_of(bare))
