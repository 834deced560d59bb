"""One clip, many questions: where each token of a packed sequence stands, and what it may see.

A packed sequence is a clip's visual prefix followed by questions with their answers. Every question sees the prefix and
itself, and its positions go on where the prefix ends, as if it stood alone behind it:

    segment    0 0 0 0 0 0 0 0 0   1  1  1  1   2  2  2   3  3  3  3
    position   0 1 2 . . . . . 9  10 11 12 13  10 11 12  10 11 12 13

So logits, loss and gradients are those of separate sequences, for one pass over the prefix. Training and decoding alike
build their masks and positions here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

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


def block_mask(segments: Tensor) -> BlockMask:
    """The same rule for FlexAttention, which leaves out the blocks that nobody may look at. segments: (B, L)."""

    def rule(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _sees(segments[row, query], segments[row, key], query, key)

    rows, length = segments.shape
    return create_block_mask(rule, rows, None, length, length, device=segments.device)
