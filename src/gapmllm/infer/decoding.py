"""How answers are chosen, and what an answer is: tokens, their log-probabilities, and which of them were a choice."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from gapmllm.infer.constraint import Constraint
from gapmllm.infer.forms import Form
from gapmllm.infer.medians import NUMERALS

_Chosen = tuple[int, float, bool]
"""A token, its log-probability, and whether there was a choice: see `Decoded`."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How answers are chosen."""

    max_tokens: int = 256
    """Tokens of an answer at most, its <|im_end|> included."""
    temperature: float = 0.0
    """0: the likeliest token each time, and under a form lengths as medians (`gapmllm.infer.medians`). Otherwise tokens
    are drawn, from logits divided by this."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Each question draws from its own generator, made from this and its text: what else is asked changes nothing."""
    batch: int = 64
    """Questions answered together, at most."""

    def __post_init__(self) -> None:
        if not all(isinstance(number, int) for number in (self.max_tokens, self.batch, self.seed)):
            raise ValueError(f"max_tokens, batch and seed must be whole numbers, got {self}")
        if self.max_tokens < 1 or self.batch < 1:
            raise ValueError(f"max_tokens {self.max_tokens} and batch {self.batch} must be at least 1")
        if not 0 <= self.temperature < inf or not 0 < self.top_p <= 1:
            raise ValueError(f"temperature {self.temperature} must be >= 0 and top_p {self.top_p} in (0, 1]")


Asked = tuple[list[int], Form | None, Decoding]
"""A question's ids, the form of its answer, and how that is chosen."""


@dataclass(frozen=True)
class Decoded:
    """One answer."""

    ids: list[int]
    """Its tokens, with <|im_end|> where it came to its end."""
    logprobs: list[float]
    """The log-probability of each: by the model's own distribution (temperature 1, nothing cut off), or, where the
    answer has a form, by what is left of it when only the tokens that may come are counted."""
    text: str = ""
    free: list[bool] = field(default_factory=list)
    """Of each token, whether there was a choice: False where its text was all that the form allowed to come next."""

    def take(self, chosen: list[_Chosen]) -> list[int]:
        """Write down some tokens; returns them."""
        for token, logprob, free in chosen:
            self.ids.append(token)
            self.logprobs.append(logprob)
            self.free.append(free)
        return [token for token, _, _ in chosen]


class _Draw:
    """Draws the tokens of one answer; what else is asked changes nothing."""

    def __init__(self, ids: list[int], decoding: Decoding, device: torch.device) -> None:
        self.warps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(decoding.temperature))]
        if decoding.top_p < 1:
            self.warps.append(TopPLogitsWarper(decoding.top_p))
        self.generator = torch.Generator(device).manual_seed(crc32(repr((decoding.seed, ids)).encode()))

    def __call__(self, logits: Tensor) -> Tensor:
        """logits: (vocabulary,) -> the token, ()."""
        scores = (logits - logits.amax())[None]
        for warp in self.warps:  # without a LogitsProcessorList: it would look at their signatures for each token
            scores = warp(None, scores)
        return torch.multinomial(scores[0].softmax(-1), 1, generator=self.generator)[0]


class Choose:
    """The next token of each row with its log-probability and whether it was a choice, and what must follow it."""

    def __init__(self, asked: list[Asked], constraints: dict[int, Constraint], device: torch.device) -> None:
        self.constraints = constraints
        self.drawn = {row: _Draw(ids, how, device) for row, (ids, _, how) in enumerate(asked) if how.temperature}

    def forced(self, row: int) -> list[_Chosen]:
        """What must come next, without asking the model: it reads that together with the next question to it."""
        return [(token, 0.0, False) for token in self.constraints[row].forced()] if row in self.constraints else []

    def __call__(self, logits: Tensor, live: list[int]) -> list[list[_Chosen]]:
        if self.constraints:  # what a form forbids is impossible
            allowed = self._allowed(live, logits.shape[-1])
            logits = logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -inf)
        tokens = logits.argmax(-1)
        for place, row in enumerate(live):
            if row in self.drawn:
                tokens[place] = self.drawn[row](logits[place])
            elif row in self.constraints:
                tokens[place] = self._of_length(row, logits[place], allowed[place], int(tokens[place]))
        logprobs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        chosen = zip(live, tokens.tolist(), logprobs.tolist(), strict=True)
        return [[(token, logprob, self._take(row, token)), *self.forced(row)] for row, token, logprob in chosen]

    def _of_length(self, row: int, logits: Tensor, allowed: NDArray[np.bool_], likeliest: int) -> int:
        """In a number in metres the next token of its median, else the likeliest."""
        few = np.flatnonzero(allowed).tolist()
        if len(few) > NUMERALS:
            return likeliest
        chosen = self.constraints[row].medians.choose(few, logits[few].softmax(-1).tolist())
        return likeliest if chosen is None else chosen

    def _take(self, row: int, token: int) -> bool:
        return self.constraints[row].take(token) if row in self.constraints else True

    def _allowed(self, live: list[int], vocabulary: int) -> NDArray[np.bool_]:
        """(rows, vocabulary) whether each token may come next."""
        allowed = np.ones((len(live), vocabulary), dtype=bool)
        for place, row in enumerate(live):
            if row in self.constraints:
                allowed[place] = self.constraints[row].allowed()
        return allowed
