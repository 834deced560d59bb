"""The transformer block of all parts of VGGT, its 2-D rotary embedding, and how weights start.

Letters: N sequences, T tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gapmllm.model.precision import float32_on_cpu

ROTARY_BASE = 100.0
WEIGHT_STD = 0.02
LAYER_SCALE = 0.01

Rotary = tuple[Tensor, Tensor]


def initialise(module: nn.Module) -> None:
    """Start a linear layer from normal weights and zero bias; other modules keep what torch gives them.

    Deviation 0.02 at the 1024 inputs of VGGT-1B, and as much signal from fewer: narrow encoders hardly learn from 0.02.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=WEIGHT_STD * (1024 / module.in_features) ** 0.5)
        nn.init.zeros_(module.bias)


def token(*shape: int) -> nn.Parameter:
    """A learned token or table of positions, small and random."""
    return nn.Parameter(torch.randn(shape) * WEIGHT_STD)


def rotary_table(rows: int, columns: int, special: int, head_dim: int, like: Tensor) -> Rotary:
    """Cosines and sines (T, head_dim) for `special` tokens at position 0, then patches at (row + 1, column + 1).

    The first half of a head's channels turns with the row, the second with the column. Within a half, channel i is
    paired with channel i + half / 2, and their angle is position / 100^(i / (half / 2)). The sines carry the sign
    with which the other of a pair comes in. Source: RoFormer (arXiv 2104.09864), for each axis.
    """
    quarter = head_dim // 4
    axes = (torch.arange(1, size + 1, device=like.device, dtype=torch.float32) for size in (rows, columns))
    positions = torch.cartesian_prod(*axes)
    positions = functional.pad(positions, (0, 0, special, 0))
    frequencies = ROTARY_BASE ** (-torch.arange(quarter, device=like.device, dtype=torch.float32) / quarter)
    angles = positions[:, :, None, None] * frequencies  # (T, axis, 1, quarter)
    cosines, sines = angles.cos(), angles.sin()
    cosines, sines = torch.cat([cosines, cosines], dim=2), torch.cat([-sines, sines], dim=2)
    return cosines.flatten(1).to(like.dtype), sines.flatten(1).to(like.dtype)


def rotate(values: Tensor, rotary: Rotary) -> Tensor:
    """Turn queries or keys (N, heads, T, head_dim) by the angles of their tokens."""
    cosines, sines = rotary
    partners = values.reshape(*values.shape[:-1], 2, 2, -1).flip(-2).flatten(-3)
    return values * cosines + partners * sines


class Attention(nn.Module):
    """Self-attention, (N, T, C) -> (N, T, C), with LayerNorm on queries and keys where `qk_norm` is set."""

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // num_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotary: Rotary | None) -> Tensor:
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))  # (N, T, 3, heads, head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()
        query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        with float32_on_cpu(query, key, value) as (query, key, value):
            mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, GELU (erf), linear."""

    def __init__(self, width: int, hidden: int, output: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, output)

    def forward(self, values: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(values)))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale, (N, T, C) -> (N, T, C)."""

    gradient_checkpointing = False
    """In training, forget the inner activations and compute them again in the backward pass."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        eps: float = 1e-5,
        layer_scale: float = LAYER_SCALE,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, num_heads, qk_norm=qk_norm)
        self.ls1 = LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio), width)
        self.ls2 = LayerScale(width, layer_scale)

    def forward(self, tokens: Tensor, rotary: Rotary | None = None) -> Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(self._run, tokens, rotary, use_reentrant=False)
        return self._run(tokens, rotary)

    def _run(self, tokens: Tensor, rotary: Rotary | None) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), rotary))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))
