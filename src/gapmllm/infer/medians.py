"""Lengths are written as medians: which digit comes next, so that the whole number is the middle of what is believed.

The likeliest digit each time is a poor way to read a number off a model that is unsure of it: where a coordinate may
lie anywhere between 1.2 and 1.8, one of ten tenths is ahead by chance. The median's expected absolute error is least.
Digit by digit it is found as in arithmetic decoding: of the numerals that may come next, in the order of their values,
the one in which half of the probability is reached; then, of the numerals that begin so, the one in which the rest is.

Only metres are written so: an angle goes round, and half a turn changes little; a frame's number is a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llguidance import LLTokenizer

_LENGTHS = {"pointmap": 3, "bbox_3d": 6}
"""Key -> how many of its numbers, from the first on, are metres."""
_ARRAY = re.compile(r'"(\w+)": \[([^\[\]]*)$')
_TAIL = 160  # bytes: more than an array with its key, and fewer than two
_ORDER = b"-.0123456789"  # by the values of numerals that go on so
NUMERALS = len(_ORDER)
"""Tokens at most between which there can be a choice about a length."""
_MIDDLE = 0.5
"""The rank of a median: the share of the numerals that begin as it does so far which lie below it."""


class Medians:
    """Follows one answer; `choose` its next token where that is a choice about a length."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._tail = b""
        self._rank = _MIDDLE

    def take(self, token: int) -> None:
        """The token has been written."""
        written = self._tokenizer.decode_bytes([token])
        self._tail = (self._tail + written)[-_TAIL:]
        if not _is_numeral(written):
            self._rank = _MIDDLE

    def choose(self, tokens: Sequence[int], probabilities: Sequence[float]) -> int | None:
        """One of the tokens that may come next, by the probability of each; None where they are no choice about a
        length. Numbers of ten metres and more count as those that begin with their first digit."""
        texts = [self._tokenizer.decode_bytes([token]) for token in tokens]
        if len(tokens) < 2 or not all(map(_is_numeral, texts)) or not self._is_length():
            return None
        ordered = sorted(zip(texts, tokens, probabilities, strict=True), key=lambda each: _ORDER.index(each[0]))
        total, below = sum(probabilities), 0.0
        for text, token, probability in ordered:
            share = probability / total
            if below + share >= self._rank or token == ordered[-1][1]:
                rest = min(1.0, (self._rank - below) / share) if share else _MIDDLE
                self._rank = 1 - rest if text == b"-" else rest  # of negative numbers the larger ones are lower
                return token
            below += share
        raise AssertionError("the last one is taken at the latest")

    def _is_length(self) -> bool:
        """Whether what comes next belongs to a number in metres."""
        found = _ARRAY.search(self._tail.decode(errors="replace"))
        return found is not None and found[2].count(",") < _LENGTHS.get(found[1], 0)


def _is_numeral(text: bytes) -> bool:
    return len(text) == 1 and text in _ORDER
