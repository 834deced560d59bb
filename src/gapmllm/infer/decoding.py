"""Shared-prefix decoding: a clip is read once, then all questions are answered together on top of it.

The prefix's keys and values are kept once, not once for each question: questions and their growing answers are packed
into one row behind it (`gapmllm.model.sequence`), and every step appends one token for each unfinished answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from gapmllm.model import ClipPixels, GapMllm
from gapmllm.model.attention import require_packed
from gapmllm.model.sequence import PREFIX, dense_mask, prefix_positions


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How answers are chosen."""

    max_tokens: int = 256
    """Tokens of an answer at most, its <|im_end|> included."""
    temperature: float = 0.0
    """0: greedy, the likeliest token each time. Otherwise tokens are drawn, from logits divided by this."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Each question draws from its own generator, made from this and its text: what else is asked changes nothing."""
    batch: int = 64
    """Questions answered together, at most."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.batch < 1:
            raise ValueError(f"max_tokens {self.max_tokens} and batch {self.batch} must be at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"temperature {self.temperature} must be >= 0 and top_p {self.top_p} in (0, 1]")


@dataclass(frozen=True)
class Decoded:
    """One answer."""

    ids: list[int]
    """Its tokens, with <|im_end|> where it came to its end."""
    logprobs: list[float]
    """The log-probability of each, by the model's own distribution (temperature 1, nothing cut off)."""
    text: str = ""


class EncodedClip:
    """A clip in the LLM's memory: both encoders and the LLM have run over its frames, once.

    Questions leave no trace: each call of `answer` starts from the frames alone. Not for several threads at a time.
    """

    @torch.inference_mode()
    def __init__(self, model: GapMllm, clip: ClipPixels) -> None:
        if model.prompts is None:
            raise ValueError("this model has no tokenizer: load it from a folder that holds one, or set model.prompts")
        require_packed(model.config.text_config._attn_implementation)
        self.model, self.prompts = model.eval(), model.prompts
        ids = self.prompts.prefix([clip.tokens_per_frame] * clip.num_frames)
        positions, self.next_position = prefix_positions(ids, self.prompts.image_id, clip.rows, clip.cols)
        self.cache = DynamicCache(config=model.config.get_text_config())
        self.length = len(ids)
        input_ids = torch.tensor([ids], device=model.device)
        # The mask is causal: none has to be given. Nobody asks for the logits of the prefix.
        positions = positions[:, None].to(model.device)
        cache = self.cache
        model(input_ids, [clip], position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def answer(self, questions: Sequence[str], decoding: Decoding | None = None) -> list[Decoded]:
        """Answers in the order of the questions; equal to asking one by one, to float rounding.

        Where memory is short, fewer questions are answered at a time, with a warning.
        """
        decoding = decoding or Decoding()
        asked = [self.prompts.question(question) for question in questions]
        answers: list[Decoded] = []
        size = decoding.batch
        while len(answers) < len(asked):
            group = asked[len(answers) : len(answers) + size]
            try:
                answers += self._answer_together(group, decoding)
            except (RuntimeError, MemoryError) as error:
                if len(group) == 1 or not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                    raise
                size = (len(group) + 1) // 2
                warnings.warn(f"memory is short: {len(group)} questions at once, now {size}", stacklevel=2)
                clear_device_cache(garbage_collection=True)
        return answers

    @torch.inference_mode()
    def _answer_together(self, asked: list[list[int]], decoding: Decoding) -> list[Decoded]:
        """Extend the cache by the questions, then by a token of each unfinished answer, until all have ended."""
        answers = [Decoded([], []) for _ in asked]
        choose = _Choose(decoding, asked, self.model.device)
        segments, ends = [PREFIX] * self.length, [self.next_position] * len(asked)
        new = dict(enumerate(asked))
        try:
            for _ in range(decoding.max_tokens):
                logits = self._step(new, segments, ends)
                for row, token, logprob in zip(new, *choose(logits, new), strict=True):
                    answers[row].ids.append(token)
                    answers[row].logprobs.append(logprob)
                new = {row: answers[row].ids[-1:] for row in new if answers[row].ids[-1] != self.prompts.end_id}
                if not new:
                    break
        finally:  # forget the questions, also after an error
            self.cache.crop(self.length - self.cache.get_seq_length())  # a negative number: so many from the end
        return [replace(answer, text=self.prompts.text(answer.ids)) for answer in answers]

    def _step(self, new: dict[int, list[int]], segments: list[int], ends: list[int]) -> Tensor:
        """Append new tokens of some rows to the cache -> logits (rows, vocabulary) of what comes next.

        segments: of all tokens in the cache; ends: the position at which each row goes on. Both are brought up to date.
        """
        device = self.model.device
        ids = [token for tokens in new.values() for token in tokens]
        positions: list[int] = []
        for row, tokens in new.items():
            positions += range(ends[row], ends[row] + len(tokens))
            segments += [row + 1] * len(tokens)
            ends[row] += len(tokens)
        keys = torch.tensor([segments], device=device)
        last = torch.tensor([len(tokens) for tokens in new.values()], device=device).cumsum(0) - 1
        out = self.model(
            torch.tensor([ids], device=device),
            position_ids=torch.tensor(positions, device=device).expand(3, 1, -1),
            attention_mask=dense_mask(keys[:, -len(ids) :], keys),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=last,
        )
        return out.logits[0].float()


class _Choose:
    """The next token of each row, and its log-probability."""

    def __init__(self, decoding: Decoding, asked: list[list[int]], device: torch.device) -> None:
        self.greedy = decoding.temperature == 0
        self.warp = LogitsProcessorList()
        if not self.greedy:
            self.warp.append(TemperatureLogitsWarper(float(decoding.temperature)))
            if decoding.top_p < 1:
                self.warp.append(TopPLogitsWarper(decoding.top_p))
            seeds = [crc32(repr(ids).encode(), decoding.seed) for ids in asked]
            self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, logits: Tensor, live: Iterable[int]) -> tuple[list[int], list[float]]:
        if self.greedy:
            tokens = logits.argmax(-1)
        else:
            probabilities = self.warp(None, logits).softmax(-1)
            drawn = [
                torch.multinomial(p, 1, generator=self.generators[row])
                for p, row in zip(probabilities, live, strict=True)
            ]
            tokens = torch.cat(drawn)
        logprobs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        return tokens.tolist(), logprobs.tolist()
