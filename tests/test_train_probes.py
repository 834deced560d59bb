"""Probes that read visual tokens by the LLM's words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gapmllm.model import build
from gapmllm.train.probes import WordProbe

NAMES = ("chair", "couch", "floor")  # " floor" is more than one token


@pytest.fixture(scope="module")
def model():
    return build("debug", fusion="none")


def embedding(model, text):
    ids = torch.tensor(model.prompts.tokenizer(text, add_special_tokens=False).input_ids)
    return model.get_input_embeddings()(ids).mean(dim=0).detach()


def test_a_token_that_is_a_names_word_says_that_name(model):
    probe = WordProbe(model, NAMES)
    tokens = torch.stack([(embedding(model, name) + embedding(model, f" {name}")) for name in NAMES])
    logits = probe(7 * tokens, model.get_input_embeddings())  # its length says nothing
    assert logits.argmax(dim=1).tolist() == [0, 1, 2]
    torch.testing.assert_close(logits.diagonal(), probe.scale.expand(3))


def test_free_outputs_come_first(model):
    probe = WordProbe(model, NAMES, free=1)
    logits = probe(probe.free.detach(), model.get_input_embeddings())
    assert logits.shape == (1, 4)
    assert logits.argmax().item() == 0


def test_words_learn_to_be_what_the_tokens_show(model):
    words = nn.Embedding.from_pretrained(model.get_input_embeddings().weight.detach().clone(), freeze=False)
    probe = WordProbe(model, NAMES)
    token = torch.randn(1, model.config.text_config.hidden_size, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(probe(token, words), torch.tensor([1])).backward()
    couch, lamp = (model.prompts.tokenizer(name, add_special_tokens=False).input_ids[0] for name in ("couch", "lamp"))
    assert words.weight.grad[couch] @ token[0] < 0  # a step against it turns the word towards the token
    assert not words.weight.grad[lamp].any()
