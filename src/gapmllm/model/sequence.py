"""One clip, many questions: where each token of a packed sequence stands, and what it may see.

A packed sequence is a clip's visual prefix followed by questions with their answers. Every question sees the prefix and
itself, and its positions go on where the prefix ends, as if it stood alone behind it:

    segment    0 0 0 0 0 0 0 0 0   1  1  1  1   2  2  2   3  3  3  3
    position   0 1 2 . . . . . 9  10 11 12 13  10 11 12  10 11 12 13

So logits, loss and gradients are those of separate sequences, for one pass over the prefix. Training and decoding alike
build their masks and positions here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.utils.rnn import pad_sequence

PREFIX, PADDING = 0, -1  # segments; the questions of a clip are 1, 2, 3, …


def prefix_positions(ids: Sequence[int], image_id: int, rows: int, cols: int) -> tuple[Tensor, int]:
    """Rotary positions of a prefix: (3, length) for time, row and column; and the position that follows.

    Text counts on in all three. The tokens of a frame (rows x cols slots with `image_id` in a row) share the time, and
    count rows and columns from there; what follows stands behind the larger of the two (Qwen3-VL's interleaved M-RoPE).
    """
    frame = torch.stack(
        [
            torch.zeros(rows * cols, dtype=torch.long),
            torch.arange(rows).repeat_interleave(cols),
            torch.arange(cols).repeat(rows),
        ]
    )
    parts, start, index = [], 0, 0
    while index < len(ids):
        if ids[index] == image_id:
            parts.append(frame + start)
            start, index = start + max(rows, cols), index + rows * cols
        else:
            parts.append(torch.full((3, 1), start))
            start, index = start + 1, index + 1
    positions = torch.cat(parts, dim=1)
    assert positions.shape[1] == len(ids), "a frame's slots do not stand in a row"
    return positions, start


def _sees(query: Tensor, key: Tensor, query_index: Tensor, key_index: Tensor) -> Tensor:
    """The rule: what came before, in the prefix or in one's own segment."""
    return (key_index <= query_index) & ((key == PREFIX) | (key == query))


def dense_mask(queries: Tensor, keys: Tensor) -> Tensor:
    """(B, 1, L, K) bool, True where a query may look, for torch's scaled_dot_product_attention.

    queries: (B, L) segments of the last L of K tokens; keys: (B, K) segments of all of them.
    """
    length, total = queries.shape[1], keys.shape[1]
    index = torch.arange(total, device=keys.device)
    sees = _sees(queries[:, :, None], keys[:, None, :], index[total - length :, None], index[None, :])
    return sees[:, None]


@dataclass(frozen=True)
class Parts:
    """Of packed sequences N segments of about the same length, each to see the prefix of its row and itself."""

    rows: Tensor
    """(N,) the row that each segment stands in."""
    places: Tensor
    """(N, M) the places of its tokens there, -1 behind the last one."""
    mask: Tensor
    """(N, 1, M, P + M) bool: what they see of a prefix of up to P tokens, and of the M of their own."""

    @classmethod
    def of(cls, segments: Tensor) -> tuple[Parts, ...]:
        """All segments, by length: one that is twice as long as another is not taken together with it.

        segments: (B, L). The prefix comes first in each row, and no segment is torn apart.
        """
        found: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        for row, ids in enumerate(segments):
            for number in ids[ids > PREFIX].unique():
                places = (ids == number).nonzero()[:, 0]
                found[len(places).bit_length()].append((row, places))
        prefixes = (segments == PREFIX).sum(dim=1)
        return tuple(cls._of(prefixes, *zip(*alike, strict=True)) for alike in found.values())

    @classmethod
    def _of(cls, prefixes: Tensor, rows: tuple[int, ...], segments: tuple[Tensor, ...]) -> Parts:
        places = pad_sequence(list(segments), batch_first=True, padding_value=-1)
        of_rows, length = prefixes.new_tensor(rows), places.shape[1]
        before = torch.arange(int(prefixes.max()), device=places.device) < prefixes[of_rows][:, None]
        own = torch.ones_like(places[0], dtype=torch.bool).expand(length, -1).tril()  # padding is last: nobody sees it
        mask = torch.cat([before[:, None].expand(-1, length, -1), own.expand(len(rows), -1, -1)], dim=2)
        return cls(of_rows, places, mask[:, None])

    @property
    def prefix(self) -> int:
        """Tokens of the longest prefix."""
        return self.mask.shape[3] - self.mask.shape[2]


class PackedMask(Tensor):
    """The `dense_mask` of whole sequences that can also be taken apart, for `attention.packed_attention`.

    Most of a dense mask of many questions is False: 8 of 80 tokens behind 60 look at an eighth of all pairs.
    """

    parts: tuple[Parts, ...]

    @classmethod
    def of(cls, segments: Tensor) -> PackedMask:
        """segments: (B, L), on a CPU: a GPU has FlexAttention for it."""
        mask = dense_mask(segments, segments).as_subclass(cls)
        mask.parts = Parts.of(segments)
        return mask


def block_mask(segments: Tensor) -> BlockMask:
    """The same rule for FlexAttention, which leaves out the blocks that nobody may look at. segments: (B, L)."""

    def rule(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _sees(segments[row, query], segments[row, key], query, key)

    rows, length = segments.shape
    return create_block_mask(rule, rows, None, length, length, device=segments.device)
