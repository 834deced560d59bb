"""Packed sequences are the separate ones: logits, loss and every gradient; and the mask and positions behind that."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.integrations import flex_attention as transformers_flex

from gapmllm.model import IGNORE, build
from gapmllm.model.sequence import Parts, block_mask, dense_mask, prefix_positions
from gapmllm.train.packing import pack

QUESTIONS = ["where is the red cross?", "describe the chair by the window.", "list all objects.", "which frame?"]
ANSWERS = ['{"label": "chair", "pointmap": [0.42, -0.10, 2.35]}', "a brown chair.", "[]", '{"frame": 3}']


@pytest.fixture(scope="module")
def model():
    model = build("debug")
    model.train_only("align")
    return model.train()


def pairs(count, offset=0):
    return [(f"{index}: {QUESTIONS[(index + offset) % 4]}", ANSWERS[(index + offset) % 4]) for index in range(count)]


def run(model, batch, count):
    """Loss, logits of the answer tokens and all gradients of one pass; the loss is a mean over `count` tokens."""
    packed = pack(batch, model.prompts)
    out = model(**packed.inputs(model), num_answer_tokens=count)
    out.loss.backward()
    return out.loss.item(), out.logits.detach(), packed


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("asked", [1, 4, 16])
def test_a_pack_equals_separate_sequences(model, clip_of, asked, checkpointing):
    """Two clips of unequal frame size and number of questions a batch."""
    if checkpointing:
        model.checkpoint_activations()
    batch = [(clip_of(model, 3, (64, 48), 1), pairs(asked)), (clip_of(model, 2, (48, 80), 2), pairs(asked + 1, 2))]
    count = pack(batch, model.prompts).num_answer_tokens
    loss, logits, _ = run(model, batch, count)
    packed = gradients(model)
    alone = [run(model, [(clip, [pair])], count) for clip, questions in batch for pair in questions]
    separate = gradients(model)
    model.checkpoint_activations(False)
    assert loss == pytest.approx(sum(one for one, *_ in alone), abs=1e-5)
    torch.testing.assert_close(logits, torch.cat([one for _, one, _ in alone]), atol=1e-5, rtol=0)
    assert packed.keys() == separate.keys()
    for name, gradient in packed.items():
        torch.testing.assert_close(
            gradient, separate[name], atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert max(float(gradient.abs().max()) for gradient in packed.values()) > 1e-2  # there was something to compare


def test_the_comparison_sees_a_wrong_mask_and_wrong_positions(model, clip_of):
    batch = [(clip_of(model), pairs(3))]
    packed = pack(batch, model.prompts)
    with torch.no_grad():
        right = model(**packed.inputs(model)).logits
        causal = torch.zeros_like(packed.segments)  # all one segment: questions see each other
        leak = model(**packed.inputs(model) | {"attention_mask": dense_mask(causal, causal)}).logits
        shifted = torch.arange(packed.input_ids.shape[1]).expand(3, 1, -1)  # positions simply count on
        moved = model(**packed.inputs(model) | {"position_ids": shifted}).logits
    assert (right - leak).abs().max() > 1e-3
    assert (right - moved).abs().max() > 1e-3


def test_answers_and_their_end_are_learned_and_nothing_else(model, clip_of):
    packed = pack([(clip_of(model), pairs(2))], model.prompts)
    answers = chain.from_iterable(model.prompts.answer(answer) for _, answer in pairs(2))
    assert packed.labels[packed.labels != IGNORE].tolist() == list(answers)
    assert packed.num_answer_tokens == int((packed.labels != IGNORE).sum())
    assert packed.input_ids[packed.labels != IGNORE].tolist() == packed.labels[packed.labels != IGNORE].tolist()


def test_positions_are_transformers_own(model, clip_of):
    """Of the prefix with one question behind it; of the second question, when it stands there alone."""
    clip = clip_of(model, 3, (48, 80))
    both = pack([(clip, pairs(2))], model.prompts)
    sizes = clip.grid_thw()
    for number in (1, 2):
        alone = pack([(clip, [pairs(2)[number - 1]])], model.prompts).input_ids
        slots = (alone == model.config.image_token_id).int()
        expected, _ = model.model.get_rope_index(alone, mm_token_type_ids=slots, image_grid_thw=sizes)
        keep = (both.segments[0] == 0) | (both.segments[0] == number)
        assert torch.equal(both.positions[:, 0, keep], expected[:, 0])


def test_positions_by_hand():
    # text, a frame of 2x3, text: the frame starts at 1, what follows stands at 1 + 3
    positions, following = prefix_positions([7, 9, 9, 9, 9, 9, 9, 7], 9, rows=2, cols=3)
    assert positions.tolist() == [[0, 1, 1, 1, 1, 1, 1, 4], [0, 1, 1, 1, 2, 2, 2, 4], [0, 1, 2, 3, 1, 2, 3, 4]]
    assert following == 5


def test_the_mask_by_hand():
    segments = torch.tensor([[0, 0, 1, 1, 2, -1]])
    rows = ["100000", "110000", "111000", "111100", "110010", "110001"]
    expected = [[letter == "1" for letter in row] for row in rows]
    assert dense_mask(segments, segments)[0, 0].tolist() == expected
    assert dense_mask(segments[:, 3:], segments)[0, 0].tolist() == expected[3:]  # the last three, with a cache


def test_segments_are_taken_together_by_length():
    """Two of 4 and 5 tokens in different rows, and one of 1 token behind a shorter prefix."""
    segments = torch.tensor([[0, 0, 1, 1, 1, 1, -1, -1, -1], [0, 1, 2, 2, 2, 2, 2, -1, -1]])
    longer, shorter = Parts.of(segments)
    assert longer.rows.tolist() == [0, 1]
    assert longer.places.tolist() == [[2, 3, 4, 5, -1], [2, 3, 4, 5, 6]]
    assert (shorter.rows.tolist(), shorter.places.tolist()) == ([1], [[1]])
    assert longer.prefix == shorter.prefix == 2
    sees = ["1110000", "1111000", "1111100", "1111110", "1111111"]  # the prefix, itself; the last row is padding
    assert longer.mask[0, 0].tolist() == [[letter == "1" for letter in row] for row in sees]
    assert shorter.mask[0, 0].tolist() == [[True, False, True]]  # its own prefix is of one token


def test_flex_attention_gives_the_same(model, clip_of, monkeypatch):
    """Uncompiled, which is what a test can wait for, and forward, which is what a CPU has of it."""
    monkeypatch.setattr(transformers_flex, "compile_friendly_flex_attention", eager_flex)
    batch = [(clip_of(model, 6, (64, 48), 1), pairs(8)), (clip_of(model, 2, (48, 80), 2), pairs(2))]
    packed = pack(batch, model.prompts)
    assert isinstance(packed.inputs(model, flex=True)["attention_mask"], BlockMask)
    with torch.no_grad():
        dense = model(**packed.inputs(model))
        with pytest.warns(UserWarning, match="without torch.compile"):
            flexible = model(**packed.inputs(model, flex=True))
    torch.testing.assert_close(flexible.logits, dense.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(flexible.loss, dense.loss)


def test_autocast_leaves_attention_on_a_cpu_in_float32(model, clip_of, monkeypatch):
    seen, attend = [], torch.nn.functional.scaled_dot_product_attention

    def watched(query, *others, **options):
        seen.append((torch.is_autocast_enabled("cpu"), query.dtype))
        return attend(query, *others, **options)

    inputs = pack([(clip_of(model, 2, (64, 48), 1), pairs(2))], model.prompts).inputs(model)
    tokens = model.visual_inputs(inputs["input_ids"], inputs.pop("clips"))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(**inputs, **tokens)
    calls = 1 + len(inputs["attention_mask"].parts)  # the prefix; segments of about one length
    assert seen == [(False, torch.float32)] * calls * model.config.text_config.num_hidden_layers


def test_flex_attention_leaves_out_what_nobody_may_see():
    # 4 x 4 blocks of 128: six stand above the diagonal, and the second question does not see the first
    mask = block_mask(torch.tensor([[0] * 256 + [1] * 128 + [2] * 128]))
    assert mask.sparsity() == pytest.approx(100 * 7 / 16)


def eager_flex(query, key, value, training=False, **kwargs):
    return flex_attention(query, key, value, **kwargs)


def test_an_attention_that_takes_the_masks_wrongly_is_refused(model, clip_of):
    packed = pack([(clip_of(model), pairs(1))], model.prompts)
    model.set_attn_implementation({"text_config": "eager"})
    try:
        with pytest.raises(ValueError, match=r'need the LLM\'s attention "gapmllm".* this model has "eager"'):
            packed.inputs(model)
    finally:
        model.set_attn_implementation({"text_config": "gapmllm"})
    packed.inputs(model)


def test_a_pack_needs_clips_and_questions(model, clip_of):
    with pytest.raises(ValueError, match="a batch needs at least one clip, got none"):
        pack([], model.prompts)
    with pytest.raises(ValueError, match="a clip needs at least one question, got none"):
        pack([(clip_of(model), [])], model.prompts)
