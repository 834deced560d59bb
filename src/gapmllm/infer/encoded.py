"""Shared-prefix decoding: a clip is read once, then all questions are answered together on top of it.

The prefix's keys and values are kept once, not once for each question: questions and their growing answers are packed
into one row behind it (`gapmllm.model.sequence`), and every step appends one token for each unfinished answer. Several
clips go together, a row each: a step of a small model costs about the same for one as for eight.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from itertools import accumulate
from threading import RLock
from weakref import WeakKeyDictionary

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures as VisualTokens

from gapmllm.infer.constraint import Constraint, wrapped
from gapmllm.infer.decoding import Asked, Choose, Decoded, Decoding
from gapmllm.infer.forms import Form
from gapmllm.model import ClipPixels, GapMllm
from gapmllm.model.attention import PACKED
from gapmllm.model.sequence import PADDING, PREFIX, dense_mask, prefix_positions

CHEAP = 1024
"""Tokens of questions that may go together however short the frames are."""


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
        return answer_clips([self], [self.asked(questions, decoding, forms)])[0]

    def asked(
        self,
        questions: Sequence[str],
        decoding: Decoding | Sequence[Decoding] | None = None,
        forms: Sequence[Form | None] | None = None,
    ) -> list[Asked]:
        """What `answer` is given, made ready. ValueError as there."""
        if isinstance(questions, str):
            raise ValueError(f"a list of questions is needed, got one text: [{questions[:40]!r}]")
        how = [decoding or Decoding()] * len(questions) if not isinstance(decoding, Sequence) else decoding
        forms = [None] * len(questions) if forms is None else forms
        if len(forms) != len(questions):
            raise ValueError(f"{len(questions)} questions need as many forms (None for free text), got {len(forms)}")
        return [
            (self.ids_of(text, one.max_tokens), form, one)
            for text, form, one in zip(questions, forms, how, strict=True)
        ]

    def ids_of(self, question: str, max_tokens: int) -> list[int]:
        """The ids of a question. ValueError for one that does not fit, with its answer, behind the frames."""
        ids, most = self.prompts.question(question), self.model.config.text_config.max_position_embeddings
        if self.next_position + len(ids) + max_tokens > most:
            raise ValueError(
                f"the question has {len(ids)} tokens; with {self.next_position} positions of frames and an answer of "
                f"{max_tokens} tokens that is beyond this model's {most}. Shorten it, or use fewer frames"
            )
        return ids

    def first_of(self, asked: Sequence[Asked]) -> list[Asked]:
        """The first questions, together not much longer than the frames: attention looks at all of their pairs."""
        lengths = accumulate(len(ids) for ids, _, _ in asked)
        return list(asked[: max(1, sum(length <= max(self.length, CHEAP) for length in lengths))])


def answer_clips(clips: Sequence[EncodedClip], asked: Sequence[Sequence[Asked]]) -> list[list[Decoded]]:
    """What `EncodedClip.answer` would say of each clip, of several clips of a model at a time.

    asked: of each clip (`EncodedClip.asked`). RuntimeError or MemoryError where memory is short (`is_short_memory`) for
    one question of each: take fewer clips.
    """
    answers: list[list[Decoded]] = [[] for _ in clips]
    size = min((how.batch for questions in asked for _, _, how in questions), default=1)
    while todo := [place for place, questions in enumerate(asked) if len(answers[place]) < len(questions)]:
        starts = [len(answers[place]) for place in todo]
        groups = [clips[p].first_of(asked[p][start : start + size]) for p, start in zip(todo, starts, strict=True)]
        try:
            found = answer_together([clips[place] for place in todo], groups)
        except (RuntimeError, MemoryError) as error:
            most = max(map(len, groups))
            if most == 1 or not is_short_memory(error):
                raise
            size = (most + 1) // 2
            warnings.warn(f"memory is short: {most} questions at once, now {size}", stacklevel=3)
            clear_device_cache(garbage_collection=True)
        else:
            for place, some in zip(todo, found, strict=True):
                answers[place] += some
    return answers


def answer_together(clips: Sequence[EncodedClip], groups: Sequence[Sequence[Asked]]) -> list[list[Decoded]]:
    """Answers to some questions about each clip, all in one go."""
    with inference(clips[0].model):
        found = iter(_Together(clips, groups).answers())
    return [[next(found) for _ in group] for group in groups]


def is_short_memory(error: Exception) -> bool:
    """Whether there would be memory for less at a time."""
    return isinstance(error, MemoryError) or should_reduce_batch_size(error)


class _Together:
    """Questions about some clips, each with its number, and what is in the LLM's memory: a row for each clip.

    A clip whose answers have all ended leaves; the rows of the others close up.
    """

    def __init__(self, clips: Sequence[EncodedClip], groups: Sequence[Sequence[Asked]]) -> None:
        self.model, self.prompts = clips[0].model, clips[0].prompts
        self.asked = [one for group in groups for one in group]
        self.clip_of = [place for place, group in enumerate(groups) for _ in group]
        self.ends = [clips[place].next_position for place in self.clip_of]
        """The position at which each question goes on."""
        self.rows = list(range(len(clips)))
        """The clip of each row."""
        self.cache = _joined([clip.cache for clip in clips])
        prefixes = [torch.full((clip.length,), PREFIX) for clip in clips]
        self.segments = pad_sequence(prefixes, batch_first=True, padding_value=PADDING).to(self.model.device)
        """(rows, K), of all tokens in the cache; a question's is its number + 1."""

    def answers(self) -> list[Decoded]:
        """Extend the cache by the questions, then by a token of each unfinished answer, until all have ended."""
        answers = [Decoded([], []) for _ in self.asked]
        choose = Choose(self.asked, self._constraints(), self.model.device)
        new = {
            number: ids + answers[number].take(choose.forced(number)) for number, (ids, _, _) in enumerate(self.asked)
        }
        while new:
            chosen = choose(self._step(new), list(new))
            made = {number: answers[number].take(some) for number, some in zip(new, chosen, strict=True)}
            ended = {number for number in made if len(answers[number].ids) >= self.asked[number][2].max_tokens}
            new = {n: ids for n, ids in made.items() if ids[-1] != self.prompts.end_id and n not in ended}
            self._close_up({self.clip_of[number] for number in new})
        return [replace(answer, text=self.prompts.text(answer.ids)) for answer in answers]

    def _constraints(self) -> dict[int, Constraint]:
        """Of the answers that have a form, by number."""
        return {
            number: Constraint(form, wrapped(self.model), decoding.max_tokens)
            for number, (_, form, decoding) in enumerate(self.asked)
            if form
        }

    def _step(self, new: dict[int, list[int]]) -> Tensor:
        """Append new tokens of some questions to the cache -> logits (questions, vocabulary) of what comes next."""
        device = self.model.device
        lines: list[list[list[int]]] = [[[] for _ in self.rows] for _ in range(3)]
        ids, segments, positions = lines
        last: list[tuple[int, int]] = []
        for number, tokens in new.items():
            row = self.rows.index(self.clip_of[number])
            ids[row] += tokens
            segments[row] += [number + 1] * len(tokens)
            positions[row] += range(self.ends[number], self.ends[number] + len(tokens))
            self.ends[number] += len(tokens)
            last.append((row, len(ids[row]) - 1))
        queries = _padded(segments, PADDING).to(device)
        self.segments = torch.cat([self.segments, queries], dim=1)
        rows, columns = torch.tensor(last).T
        kept, places = columns.unique(return_inverse=True)  # on the CPU: a GPU would have to be waited for
        out = self.model(
            _padded(ids, 0).to(device),
            position_ids=_padded(positions, 0).to(device).expand(3, -1, -1),
            attention_mask=dense_mask(queries, self.segments),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=kept.to(device),
        )
        return out.logits[rows.to(device), places.to(device)].float()

    def _close_up(self, clips: set[int]) -> None:
        """Only these clips have unfinished answers."""
        stay = [row for row, clip in enumerate(self.rows) if clip in clips]
        if stay and len(stay) < len(self.rows):
            rows = torch.tensor(stay, device=self.model.device)
            self.rows, self.segments = [self.rows[row] for row in stay], self.segments[rows]
            self.cache.batch_select_indices(rows)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def _joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """A cache that goes on from the frames of some clips, a row each. That of one shares its keys and values: growing
    makes new tensors."""
    joined = copy(caches[0])
    joined.layers = [copy(layer) for layer in joined.layers]
    if len(caches) > 1:
        for layer, *own in zip(joined.layers, *(cache.layers for cache in caches), strict=True):
            layer.keys, layer.values = (
                pad_sequence([getattr(one, name)[0].transpose(0, 1) for one in own], batch_first=True).transpose(1, 2)
                for name in ("keys", "values")
            )
    return joined


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
        if training:  # to go through all modules takes as long as a step
            model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            text._attn_implementation = before
            if training:
                model.train()
