"""Grammar-constrained decoding: which tokens may come next in an answer, so that every answer can be read.

llguidance says which tokens the grammar allows. On top of it a list is brought to its end in time: when the tokens that
are left would not hold another object, and when an object comes again.
"""

from __future__ import annotations

from functools import lru_cache
from weakref import WeakKeyDictionary

import llguidance.hf
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from gapmllm.infer.forms import Form, complete_objects, repeats
from gapmllm.infer.medians import Medians
from gapmllm.model import GapMllm

_ANY_TOKENS = '%llguidance {"no_forcing": true}\n'
"""A text that must come next may be written in any tokens. Without it, llguidance asks for those of that text alone; in
the middle of an answer models have learned others (", " before a number)."""
_NAME, _NUMBER = ("chair", "TV"), ("0.1", "-0.1")
"""How what follows may begin: a text that must come is taken where it has the same tokens before both."""
_OPEN = "]}"  # behind these stands something else
_CONTEXT = 32  # tokens before a text, more than decide on its own
_TOKENIZERS: WeakKeyDictionary[GapMllm, LLTokenizer] = WeakKeyDictionary()


class Constraint:
    """One answer under its form: `allowed` tokens, then `take` the one that was chosen, and so on."""

    def __init__(self, form: Form, tokenizer: LLTokenizer, max_tokens: int) -> None:
        """max_tokens: of the answer with its end. ValueError where the longest answer does not fit."""
        check_room(form, max_tokens)
        self.form, self.tokenizer, self.left = form, tokenizer, max_tokens
        self._matcher = _matcher(tokenizer, form.grammar())
        self._ids: list[int] = []
        self.medians = Medians(tokenizer)
        self._is_ending = not form.is_list

    def allowed(self) -> NDArray[np.bool_]:
        """(vocabulary,) whether each token may come next."""
        if not self._is_ending and self.left < self.form.longest:  # another object might not fit
            self._end_the_list()
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self.tokenizer.vocab_size].astype(bool)

    def take(self, token: int) -> bool:
        """The token comes next; whether that was a choice: False where its text is all that could come."""
        written = self.tokenizer.decode_bytes([token])
        is_free = token != self.tokenizer.eos_token and not self._matcher.compute_ff_bytes().startswith(written)
        self.left -= 1
        self._ids.append(token)
        self.medians.take(token)
        taken = self._matcher.consume_token(token)
        assert taken, self._matcher.get_error()
        if not self._is_ending and b"}" in written:
            objects = [values for values, _, _ in complete_objects(self._text(self._ids))]
            if len(objects) > 1 and repeats(objects):
                self._end_the_list()
        return is_free

    def forced(self) -> list[int]:
        """Take what must come next, in the tokens that models learned, where these do not depend on what follows it."""
        must = self._matcher.compute_ff_bytes().decode(errors="ignore")
        if len(must) < 2 or must[-1] in _OPEN:
            return []
        before = self._text(self._ids[-_CONTEXT:])
        first, second = (self._pieces(before, must, follows) for follows in (_NAME if must[-1] == '"' else _NUMBER))
        tokens = first if first == second else []
        for token in tokens:
            self.take(token)
        return tokens

    def _pieces(self, before: str, must: str, follows: str) -> list[int]:
        """The tokens of `must` in its place; none where it has no tokens of its own from its beginning on."""
        begin, end = len(before.encode()), len((before + must).encode())
        tokens, place = [], 0
        for token in self.tokenizer.tokenize_str(before + must + follows):
            place, start = place + len(self.tokenizer.decode_bytes([token])), place
            if start < begin < place:
                return []
            if start >= begin and place <= end:
                tokens.append(token)
        return tokens

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode_bytes(ids).decode(errors="replace")  # a character may be half written

    def _end_the_list(self) -> None:
        """No object may follow those that are there and the one that has been begun, if any."""
        text = self._text(self._ids)
        ends = [end for _, _, end in complete_objects(text)]
        begun = text[max(ends, default=0) :].lstrip("[") not in ("", "]")  # be it by the comma alone
        self._matcher = _matcher(self.tokenizer, self.form.grammar(len(ends) + begun))
        taken = self._matcher.consume_tokens(self._ids)
        assert taken, self._matcher.get_error()
        self._is_ending = True


def check_room(form: Form, max_tokens: int) -> None:
    """ValueError where the longest answer, a list of one object, does not fit."""
    if max_tokens < form.longest + 1:
        raise ValueError(
            f"an answer of {form.task.name} may need {form.longest + 1} tokens; max_tokens is {max_tokens}, "
            "which could cut it off: raise it"
        )


def wrapped(model: GapMllm) -> LLTokenizer:
    """llguidance's view of a model's tokenizer, made once: that takes a second."""
    assert model.prompts is not None
    if model not in _TOKENIZERS:
        size = model.config.text_config.vocab_size  # there may be more logits than tokens
        _TOKENIZERS[model] = llguidance.hf.from_tokenizer(
            model.prompts.tokenizer, n_vocab=size, eos_token=model.prompts.end_id
        )
    return _TOKENIZERS[model]


def _matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    return _compiled(tokenizer, grammar).deep_copy()


@lru_cache(maxsize=128)
def _compiled(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(_ANY_TOKENS + grammar))
    assert not matcher.is_error(), matcher.get_error()
    return matcher
