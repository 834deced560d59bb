"""Training sequences: a clip and all questions about it in one row (design: one clip, many questions)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.utils.rnn import pad_sequence

from gapmllm.model import IGNORE, ClipPixels, GapMllm, Prompts
from gapmllm.model.attention import require_packed
from gapmllm.model.sequence import PADDING, PREFIX, PackedMask, block_mask, prefix_positions


@dataclass(frozen=True)
class Pack:
    """A batch of packed sequences, one row for each clip, padded at the end.

    input_ids, labels, segments, entries: (B, L); positions: (3, B, L). Labels are the answers and their <|im_end|>; all
    else, the question too, is `IGNORE`. An entry is what stands in one pair of braces, or an answer without: entries
    number those of a row that the tokens of its answers belong to, `IGNORE` elsewhere.
    """

    clips: tuple[ClipPixels, ...]
    input_ids: Tensor
    labels: Tensor
    segments: Tensor
    entries: Tensor
    positions: Tensor

    @property
    def num_answer_tokens(self) -> int:
        """Tokens that the loss is a mean over."""
        return int((self.labels != IGNORE).sum())

    def to(self, device: torch.device | str) -> Pack:
        """The same on another device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, clips=tuple(clip.to(device) for clip in self.clips), **tensors)

    def inputs(self, model: GapMllm, *, flex: bool | None = None) -> dict[str, Any]:
        """What `GapMllm.forward` takes: `model(**pack.inputs(model)).loss`.

        flex: whether attention goes through FlexAttention, which torch compiles; default on a GPU. The same numbers.
        """
        require_packed(model.config.text_config._attn_implementation)
        flex = self.segments.is_cuda if flex is None else flex
        mask: Tensor | BlockMask = block_mask(self.segments) if flex else PackedMask.of(self.segments)
        return {
            "input_ids": self.input_ids,
            "clips": self.clips,
            "labels": self.labels,
            "position_ids": self.positions,
            "attention_mask": mask,
        }


def pack(batch: Sequence[tuple[ClipPixels, Sequence[tuple[str, str]]]], prompts: Prompts) -> Pack:
    """Clips with their (question, answer) texts -> one row for each clip. Clips may differ in size and in number.

    ValueError for a batch without clips or a clip without questions.
    """
    if not batch:
        raise ValueError("a batch needs at least one clip, got none")
    rows = [_row(clip, pairs, prompts) for clip, pairs in batch]
    ids, labels, segments, entries, positions = (list(column) for column in zip(*rows, strict=True))
    return Pack(
        clips=tuple(clip for clip, _ in batch),
        input_ids=pad_sequence(ids, batch_first=True, padding_value=prompts.pad_id),
        labels=pad_sequence(labels, batch_first=True, padding_value=IGNORE),
        segments=pad_sequence(segments, batch_first=True, padding_value=PADDING),
        entries=pad_sequence(entries, batch_first=True, padding_value=IGNORE),
        positions=pad_sequence([p.T for p in positions], batch_first=True).permute(2, 0, 1),
    )


def _row(clip: ClipPixels, pairs: Sequence[tuple[str, str]], prompts: Prompts) -> tuple[Tensor, ...]:
    """One clip: token ids, labels, segments and entries (L,), positions (3, L)."""
    if not pairs:
        raise ValueError("a clip needs at least one question, got none")
    ids = prompts.prefix([clip.tokens_per_frame] * clip.num_frames)
    positions, start = prefix_positions(ids, prompts.image_id, clip.rows, clip.cols)
    labels, segments, parts = [IGNORE] * len(ids), [PREFIX] * len(ids), [positions]
    entries = [IGNORE] * len(ids)
    for number, (question, answer) in enumerate(pairs, start=1):
        asked, answered = prompts.question(question), prompts.answer(answer)
        length = len(asked) + len(answered)
        ids += asked + answered
        labels += [IGNORE] * len(asked) + answered
        segments += [number] * length
        entries += [IGNORE] * len(asked) + _entries(answered, prompts, max(entries) + 1 if number > 1 else 0)
        parts.append((torch.arange(length) + start).expand(3, -1))
    return (*map(torch.tensor, (ids, labels, segments, entries)), torch.cat(parts, dim=1))


def num_entries(answer: str) -> int:
    """Entries of an answer, as `Pack.entries` counts them."""
    return max(1, answer.count("{"))


def _entries(answer: Sequence[int], prompts: Prompts, first: int) -> list[int]:
    """Of each token of an answer the entry that it belongs to, counted from `first`; a list's bracket goes to that."""
    opened = accumulate(prompts.braces.get(token, 0) for token in answer)
    return [first + max(0, count - 1) for count in opened]
