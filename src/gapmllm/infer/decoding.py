"""Shared-prefix decoding: a clip is read once, then all questions are answered together on top of it.

The prefix's keys and values are kept once, not once for each question: questions and their growing answers are packed
into one row behind it (`gapmllm.model.sequence`), and every step appends one token for each unfinished answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import inf
from threading import RLock
from weakref import WeakKeyDictionary
from zlib import crc32

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures as VisualTokens

from gapmllm.infer.constraint import Constraint, wrapped
from gapmllm.infer.forms import Form
from gapmllm.infer.medians import NUMERALS
from gapmllm.model import ClipPixels, GapMllm
from gapmllm.model.attention import PACKED
from gapmllm.model.sequence import PREFIX, dense_mask, prefix_positions

_Chosen = tuple[int, float, bool]
"""A token, its log-probability, and whether there was a choice: see `Decoded`."""
CHEAP = 1024
"""Tokens of questions that may go together however short the frames are."""


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


_Asked = tuple[list[int], Form | None, Decoding]
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


class EncodedClip:
    """A clip in the LLM's memory: both encoders and the LLM have run over its frames, once.

    Questions leave no trace: each call of `answer` starts from the frames alone, and the model is left as it was.
    Several threads may ask: one after the other has the model.
    """

    def __init__(self, model: GapMllm, clip: ClipPixels | None, tokens: VisualTokens | None = None) -> None:
        """clip: None asks about nothing to be seen. tokens: the clip as `GapMllm.encode` gives it, if it is encoded."""
        if model.prompts is None:
            raise ValueError("this model has no tokenizer: load it from a folder that holds one, or set model.prompts")
        self.model, self.prompts = model, model.prompts
        ids = self.prompts.prefix([clip.tokens_per_frame] * clip.num_frames if clip else [])
        rows, cols = (clip.rows, clip.cols) if clip else (0, 0)
        positions, self.next_position = prefix_positions(ids, self.prompts.image_id, rows, cols)
        self.cache = DynamicCache(config=model.config.get_text_config())
        self.length = len(ids)
        input_ids = torch.tensor([ids], device=model.device)
        with inference(model):  # causal: no mask has to be given. Nobody asks for the logits of the prefix.
            model(
                input_ids,
                **(model.visual_inputs(input_ids, [clip], tokens) if clip else {}),
                position_ids=positions[:, None].to(model.device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )

    def answer(
        self,
        questions: Sequence[str],
        decoding: Decoding | Sequence[Decoding] | None = None,
        forms: Sequence[Form | None] | None = None,
    ) -> list[Decoded]:
        """Answers in the order of the questions; equal to asking one by one, to float rounding.

        decoding: of all, or of each. forms: of the answer to each question, None for free text; default: all free.
        ValueError for a question that is empty or too long, and where max_tokens could cut an answer with a form off.
        Where memory is short, fewer questions are answered at a time, with a warning.
        """
        if isinstance(questions, str):
            raise ValueError(f"a list of questions is needed, got one text: [{questions[:40]!r}]")
        how = [decoding or Decoding()] * len(questions) if not isinstance(decoding, Sequence) else decoding
        forms = [None] * len(questions) if forms is None else forms
        if len(forms) != len(questions):
            raise ValueError(f"{len(questions)} questions need as many forms (None for free text), got {len(forms)}")
        asked = [
            (self.ids_of(text, one.max_tokens), form, one)
            for text, form, one in zip(questions, forms, how, strict=True)
        ]
        answers: list[Decoded] = []
        size = min((one.batch for one in how), default=1)
        while len(answers) < len(asked):
            group = self._group(asked[len(answers) : len(answers) + size])
            try:
                with inference(self.model):
                    answers += self._answer_together(group)
            except (RuntimeError, MemoryError) as error:
                if len(group) == 1 or not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                    raise
                size = (len(group) + 1) // 2
                warnings.warn(f"memory is short: {len(group)} questions at once, now {size}", stacklevel=2)
                clear_device_cache(garbage_collection=True)
        return answers

    def ids_of(self, question: str, max_tokens: int) -> list[int]:
        """The ids of a question. ValueError for one that does not fit, with its answer, behind the frames."""
        ids, most = self.prompts.question(question), self.model.config.text_config.max_position_embeddings
        if self.next_position + len(ids) + max_tokens > most:
            raise ValueError(
                f"the question has {len(ids)} tokens; with {self.next_position} positions of frames and an answer of "
                f"{max_tokens} tokens that is beyond this model's {most}. Shorten it, or use fewer frames"
            )
        return ids

    def _group(self, asked: list[_Asked]) -> list[_Asked]:
        """The first questions, together not much longer than the frames: attention looks at all of their pairs."""
        lengths = accumulate(len(ids) for ids, _, _ in asked)
        return asked[: max(1, sum(length <= max(self.length, CHEAP) for length in lengths))]

    def _answer_together(self, asked: list[_Asked]) -> list[Decoded]:
        """Extend the cache by the questions, then by a token of each unfinished answer, until all have ended."""
        answers = [Decoded([], []) for _ in asked]
        choose = _Choose(asked, self._constraints(asked), self.model.device)
        cache, ends = self._behind_the_frames(), [self.next_position] * len(asked)
        segments = torch.full((1, self.length), PREFIX, device=self.model.device)
        new = {row: ids + answers[row].take(choose.forced(row)) for row, (ids, _, _) in enumerate(asked)}
        while new:
            logits, segments = self._step(new, cache, segments, ends)
            made = {row: answers[row].take(some) for row, some in zip(new, choose(logits, list(new)), strict=True)}
            ended = {row for row in made if len(answers[row].ids) >= asked[row][2].max_tokens}
            new = {row: ids for row, ids in made.items() if ids[-1] != self.prompts.end_id and row not in ended}
        return [replace(answer, text=self.prompts.text(answer.ids)) for answer in answers]

    def _constraints(self, asked: list[_Asked]) -> dict[int, Constraint]:
        """Of the answers that have a form, by row."""
        return {
            row: Constraint(form, wrapped(self.model), decoding.max_tokens)
            for row, (_, form, decoding) in enumerate(asked)
            if form
        }

    def _behind_the_frames(self) -> DynamicCache:
        """A cache that goes on from the frames and shares their keys and values: growing makes new tensors."""
        cache = copy(self.cache)
        cache.layers = [copy(layer) for layer in self.cache.layers]
        return cache

    def _step(
        self, new: dict[int, list[int]], cache: DynamicCache, segments: Tensor, ends: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Append new tokens of some rows to the cache -> logits (rows, vocabulary) of what comes next, and segments.

        segments: (1, K), of all tokens in the cache; ends: the position at which each row goes on, brought up to date.
        """
        device = self.model.device
        ids: list[int] = []
        rows: list[int] = []
        positions: list[int] = []
        for row, tokens in new.items():
            ids += tokens
            rows += [row + 1] * len(tokens)
            positions += range(ends[row], ends[row] + len(tokens))
            ends[row] += len(tokens)
        queries = torch.tensor([rows], device=device)
        segments = torch.cat([segments, queries], dim=1)
        out = self.model(
            torch.tensor([ids], device=device),
            position_ids=torch.tensor(positions, device=device).expand(3, 1, -1),
            attention_mask=dense_mask(queries, segments),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor([len(tokens) for tokens in new.values()], device=device).cumsum(0) - 1,
        )
        return out.logits[0].float(), segments


_LOCKS: WeakKeyDictionary[GapMllm, RLock] = WeakKeyDictionary()
_NEW_LOCK = RLock()


@contextmanager
def inference(model: GapMllm) -> Iterator[None]:
    """Without gradients, dropout or checkpointing, and with an attention that takes packed masks; then as it was.

    One thread at a time: the others wait.
    """
    with _NEW_LOCK:
        lock = _LOCKS.setdefault(model, RLock())
    text = model.config.text_config
    with lock:
        training, before, text._attn_implementation = model.training, text._attn_implementation, PACKED
        model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            text._attn_implementation = before
            model.train(training)


class _Draw:
    """Draws the tokens of one answer; what else is asked changes nothing."""

    def __init__(self, ids: list[int], decoding: Decoding, device: torch.device) -> None:
        self.warp = LogitsProcessorList([TemperatureLogitsWarper(float(decoding.temperature))])
        if decoding.top_p < 1:
            self.warp.append(TopPLogitsWarper(decoding.top_p))
        self.generator = torch.Generator(device).manual_seed(crc32(repr((decoding.seed, ids)).encode()))

    def __call__(self, logits: Tensor) -> Tensor:
        """logits: (vocabulary,) -> the token, ()."""
        probabilities = self.warp(None, (logits - logits.amax())[None]).softmax(-1)
        return torch.multinomial(probabilities[0], 1, generator=self.generator)[0]


class _Choose:
    """The next token of each row with its log-probability and whether it was a choice, and what must follow it."""

    def __init__(self, asked: list[_Asked], constraints: dict[int, Constraint], device: torch.device) -> None:
        self.constraints = constraints
        self.drawn = {row: _Draw(ids, how, device) for row, (ids, _, how) in enumerate(asked) if how.temperature}

    def forced(self, row: int) -> list[_Chosen]:
        """What must come next, without asking the model: it reads that together with the next question to it."""
        return [(token, 0.0, False) for token in self.constraints[row].forced()] if row in self.constraints else []

    def __call__(self, logits: Tensor, live: list[int]) -> list[list[_Chosen]]:
        logits = self._constrained(logits, live)
        tokens = logits.argmax(-1)
        for place, row in enumerate(live):
            if row in self.drawn:
                tokens[place] = self.drawn[row](logits[place])
            elif row in self.constraints:
                tokens[place] = self._of_length(row, logits[place], int(tokens[place]))
        logprobs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        chosen = zip(live, tokens.tolist(), logprobs.tolist(), strict=True)
        return [[(token, logprob, self._take(row, token)), *self.forced(row)] for row, token, logprob in chosen]

    def _of_length(self, row: int, logits: Tensor, likeliest: int) -> int:
        """In a number in metres the next token of its median, else the likeliest."""
        few = logits.isfinite().nonzero()[:, 0]
        if len(few) > NUMERALS:
            return likeliest
        chosen = self.constraints[row].medians.choose(few.tolist(), logits[few].softmax(-1).tolist())
        return likeliest if chosen is None else chosen

    def _take(self, row: int, token: int) -> bool:
        return self.constraints[row].take(token) if row in self.constraints else True

    def _constrained(self, logits: Tensor, live: list[int]) -> Tensor:
        """Logits in which what a form forbids is impossible."""
        if not self.constraints:
            return logits
        allowed = np.ones((len(live), logits.shape[-1]), dtype=bool)
        for place, row in enumerate(live):
            if row in self.constraints:
                allowed[place] = self.constraints[row].allowed()
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -inf)
