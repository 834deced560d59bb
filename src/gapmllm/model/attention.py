"""The LLM's attention for packed sequences, under a name that transformers knows.

FlexAttention where the mask is a BlockMask (it leaves out the blocks that nobody may look at: it pays on a GPU),
torch's scaled_dot_product_attention segment by segment where it is a `PackedMask` (training on a CPU), else the same
with a dense mask (decoding). `GapMllm` chooses it where transformers would choose "sdpa".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gapmllm.model.precision import float32_on_cpu
from gapmllm.model.sequence import PackedMask, Parts

PACKED = "gapmllm"
_heard: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | BlockMask | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """(B, heads, L, head_dim) queries, keys and values -> (B, L, heads, head_dim), in transformers' calling order."""
    if module in _heard:
        _heard[module].append((query, key))
    with float32_on_cpu(query, key, value) as heads:
        if isinstance(mask, PackedMask):
            return _part_by_part(module, heads, mask.parts, **kwargs), None
        if isinstance(mask, Tensor) and query.shape[2] < key.shape[2]:  # a larger mask costs less than copies of keys
            return _grouped(heads, mask, **kwargs), None
        forward = flex_attention_forward if isinstance(mask, BlockMask) else sdpa_attention_forward
        return forward(module, *heads, mask, **kwargs)


def _grouped(heads: tuple[Tensor, ...], mask: Tensor, *, scaling: float, dropout: float = 0.0, **_: Any) -> Tensor:
    """torch's attention with fewer key heads than heads; (B, L, heads, head_dim).

    The heads that share a key head are taken for more queries to it. transformers copies the keys instead, all of them
    for each token that is decoded.
    """
    query, key, value = heads
    shared = query.shape[1] // key.shape[1]
    queries = query.reshape(*key.shape[:2], -1, query.shape[-1])
    out = functional.scaled_dot_product_attention(
        queries, key, value, mask.repeat(1, 1, shared, 1), dropout_p=dropout, scale=scaling
    )
    return out.reshape(query.shape).transpose(1, 2)


def _part_by_part(module: nn.Module, heads: tuple[Tensor, ...], parts: tuple[Parts, ...], **kwargs: Any) -> Tensor:
    """What the dense mask would give, (B, L, heads, head_dim), for a part of its work; 0 for padding."""
    end = parts[0].prefix
    before, _ = sdpa_attention_forward(module, *(x[:, :, :end] for x in heads), None, is_causal=True, **kwargs)
    out = before.new_zeros(len(before), heads[0].shape[2], *before.shape[2:])
    out[:, :end] = before
    for part in parts:
        rows = part.rows
        own = [x.transpose(1, 2)[rows[:, None], part.places].transpose(1, 2) for x in heads]  # (N, heads, M, head_dim)
        seen = [torch.cat([x[rows, :, :end], behind], dim=2) for x, behind in zip(heads[1:], own[1:], strict=True)]
        behind = _grouped((own[0], *seen), part.mask, **kwargs)
        segment, token = (part.places >= 0).nonzero(as_tuple=True)
        out[rows[segment], part.places[segment, token]] = behind[segment, token]
    return out


@contextmanager
def overheard(attention: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects (B, heads, L, head_dim) queries and (B, key heads, L, head_dim) keys of an attention, rotated."""
    found: list[tuple[Tensor, Tensor]] = []
    _heard[attention] = found
    try:
        yield found
    finally:
        del _heard[attention]


def require_packed(implementation: str | None) -> None:
    """ValueError for a model with another attention, which would take the masks of packed sequences wrongly."""
    if implementation != PACKED:
        raise ValueError(
            f'packed sequences need the LLM\'s attention "{PACKED}", which it has unless another was asked for; this '
            f'model has "{implementation}". Call model.set_attn_implementation({{"text_config": "{PACKED}"}})'
        )


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
