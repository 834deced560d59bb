"""Patches of the geometry encoder -> tokens of the LLM's width."""

from __future__ import annotations

from torch import Tensor, nn


class GeometryMerger(nn.Module):
    """Folds each block of merge_size x merge_size geometry patches into one token of the LLM's width.

    Each patch is normalised by itself (RMSNorm), a block's patches are concatenated row by row and go through
    Linear, GELU, Linear. Rows and columns that fill no block (the last ones) are dropped.
    Tensor names are those of the released checkpoints. Source: arXiv 2603.16461 and the released weights.
    """

    def __init__(self, context_dim: int, hidden_dim: int, output_dim: int, merge_size: int = 2) -> None:
        super().__init__()
        self.merge_size = merge_size
        self.ln_q = nn.RMSNorm(context_dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(context_dim * merge_size**2, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, output_dim)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(n, h, w, context_dim) of n frames -> (n, h // merge_size, w // merge_size, output_dim)."""
        n, h, w, channels = features.shape
        size, rows, columns = self.merge_size, h // self.merge_size, w // self.merge_size
        whole = self.ln_q(features[:, : rows * size, : columns * size])
        blocks = whole.reshape(n, rows, size, columns, size, channels).transpose(2, 3)
        return self.mlp(blocks.flatten(3))
