"""How geometry tokens are mixed into visual tokens: the paper's gate, and the variants of its ablation.

All are called alike: fusion(visual, geometry), two grids of tokens (n, h, w, width) of n frames -> one of the same
shape. All but cross attention work token by token and take any (..., width). LN is LayerNorm with eps 1e-5.
Tensor names are those of the released code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    """What the variants share: the shapes are checked, then `mix` does the work."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size

    def forward(self, visual: Tensor, geometry: Tensor) -> Tensor:
        """(..., width) each -> (..., width). Raises ValueError where the shapes differ."""
        if visual.shape != geometry.shape or visual.shape[-1] != self.hidden_size:
            raise ValueError(
                f"visual tokens {tuple(visual.shape)}, geometry tokens {tuple(geometry.shape)}: both need one shape "
                f"(..., {self.hidden_size}). Size both pictures by one ImageGrid and merge geometry to this width"
            )
        return self.mix(visual, geometry)

    def mix(self, visual: Tensor, geometry: Tensor) -> Tensor:
        raise NotImplementedError


class AddFusion(Fusion):
    """visual + geometry."""

    def mix(self, visual: Tensor, geometry: Tensor) -> Tensor:
        return visual + geometry


class WeightedFusion(Fusion):
    """(a visual + b geometry) / (a + b) with two learned numbers, 0.5 each at the start."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.weight_2d = nn.Parameter(torch.tensor(0.5))
        self.weight_3d = nn.Parameter(torch.tensor(0.5))

    def mix(self, visual: Tensor, geometry: Tensor) -> Tensor:
        return (self.weight_2d * visual + self.weight_3d * geometry) / (self.weight_2d + self.weight_3d)


class ConcatFusion(Fusion):
    """Linear([LN(visual), LN(geometry)])."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.norm1 = nn.LayerNorm(hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size)
        self.projection = nn.Linear(2 * hidden_size, hidden_size)

    def mix(self, visual: Tensor, geometry: Tensor) -> Tensor:
        return self.projection(torch.cat([self.norm1(visual), self.norm2(geometry)], dim=-1))


class GatedFusion(Fusion):
    """g LN(visual) + (1 - g) LN(geometry), g = sigmoid(Linear([LN(visual), LN(geometry)])) per token and channel.

    The paper's fusion (arXiv 2603.16461). No residual: the visual token itself is replaced.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.norm1 = nn.LayerNorm(hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size)
        self.gate_projection = nn.Sequential(nn.Linear(2 * hidden_size, hidden_size), nn.Sigmoid())

    def gate(self, visual: Tensor, geometry: Tensor) -> Tensor:
        """(..., width) each -> (..., width) in (0, 1): 1 keeps the visual token, 0 takes geometry."""
        return self._gate(self.norm1(visual), self.norm2(geometry))

    def mix(self, visual: Tensor, geometry: Tensor) -> Tensor:
        visual, geometry = self.norm1(visual), self.norm2(geometry)
        gate = self._gate(visual, geometry)
        return gate * visual + (1 - gate) * geometry

    def _gate(self, visual: Tensor, geometry: Tensor) -> Tensor:
        return self.gate_projection(torch.cat([visual, geometry], dim=-1))


class CrossAttentionFusion(Fusion):
    """Visual tokens look at the geometry tokens of their own frame: `num_layers` blocks of attention and MLP.

    Needs the grid, (n, h, w, width): positions are a table of sines and cosines. Raises ValueError for a width that
    does not divide by 4 (the table) or by num_heads.
    """

    def __init__(self, hidden_size: int, num_heads: int = 4, num_layers: int = 1) -> None:
        if hidden_size % 4 or hidden_size % num_heads:
            raise ValueError(f"cross attention: width {hidden_size} must divide by 4 and by {num_heads} heads")
        super().__init__(hidden_size)
        blocks = (_CrossAttentionBlock(hidden_size, num_heads) for _ in range(num_layers))
        self.cross_attn_blocks = nn.ModuleList(blocks)

    def mix(self, visual: Tensor, geometry: Tensor) -> Tensor:
        if visual.ndim != 4:
            raise ValueError(f"cross attention needs a grid of tokens (n, h, w, width), got {tuple(visual.shape)}")
        _, h, w, width = visual.shape
        positions = _grid_positions(h, w, width, visual.device).to(visual.dtype)
        tokens, context = visual.flatten(1, 2), geometry.flatten(1, 2)
        for block in self.cross_attn_blocks:
            tokens = block(tokens, context, positions)
        return tokens.view_as(visual)


class _CrossAttentionBlock(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1_query = nn.LayerNorm(width)
        self.norm1_key = nn.LayerNorm(width)
        self.norm1_value = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        # Identity stands where the released code has dropout, which keeps the name of the second Linear: mlp.3
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, context: Tensor, positions: Tensor) -> Tensor:
        """tokens, context: (n, h * w, width), positions: (h * w, width) -> (n, h * w, width)."""
        query = self.norm1_query(tokens) + positions
        key = self.norm1_key(context) + positions
        tokens = tokens + self.cross_attention(query, key, self.norm1_value(context), need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


def _grid_positions(h: int, w: int, width: int, device: torch.device) -> Tensor:
    """(h * w, width) table, row by row: the first half of the channels says the row, the second the column.

    Each half is [sin, cos] of the number times 1 / 10000^(i / quarter), i = 0 .. quarter - 1, quarter = width / 4.
    """
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, device=device) / quarter)

    def table(count: int) -> Tensor:
        angles = torch.arange(count, device=device)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rows, columns = table(h)[:, None].expand(h, w, -1), table(w).expand(h, w, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


FUSIONS: dict[str, type[Fusion]] = {
    "gated": GatedFusion,
    "add": AddFusion,
    "concat": ConcatFusion,
    "weighted": WeightedFusion,
    "cross_attention": CrossAttentionFusion,
}
"""Name in a config -> class, made with the width alone. "none" is no module at all."""
