"""The camera head: camera tokens -> pose encodings, refined in four rounds (VGGT, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gapmllm.model.vggt.config import VggtConfig
from gapmllm.model.vggt.layers import WEIGHT_STD, Block, Mlp, initialise

ITERATIONS = 4
ENCODING = 9
# Where the rounds together start: no rotation (quaternion x y z w = 0 0 0 1), fields of view of 1 rad.
START = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)


class CameraHead(nn.Module):
    """Camera tokens (B, S, 2C) of the last block -> pose encodings (B, S, 9), float32, one tensor per round.

    Numbers and frame as in `geometry/pose_encoding.py`, which turns them into cameras. Each round sees the encoding
    of the round before and adds to it; the gradient does not run from one round into another.
    """

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        width = 2 * config.embed_dim
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, ENCODING))
        blocks = (
            Block(width, config.camera_num_heads, layer_scale=config.layer_scale) for _ in range(config.camera_depth)
        )
        self.trunk = nn.Sequential(*blocks)
        self.token_norm = nn.LayerNorm(width)
        self.trunk_norm = nn.LayerNorm(width)
        self.embed_pose = nn.Linear(ENCODING, width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.pose_branch = Mlp(width, width // 2, ENCODING)
        self.apply(initialise)
        # A field of view that starts at or below 0 would stay there: the ReLU passes no gradient.
        nn.init.normal_(self.pose_branch.fc2.weight, std=WEIGHT_STD)  # and near it, whatever the tokens are
        with torch.no_grad():
            self.pose_branch.fc2.bias.copy_(torch.tensor(START) / ITERATIONS)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        tokens = self.token_norm(tokens)
        known = self.empty_pose_tokens.expand(*tokens.shape[:2], -1)
        total = tokens.new_zeros(ENCODING, dtype=torch.float32)
        encodings = []
        for _ in range(ITERATIONS):
            total = total.detach() + self._step(tokens, known).float()
            encodings.append(torch.cat([total[..., :7], total[..., 7:].relu()], dim=-1))
            known = total.detach().to(tokens.dtype)
        return encodings

    def _step(self, tokens: Tensor, known: Tensor) -> Tensor:
        """What a round adds to the known encoding (B, S, 9); shift, scale and gate of the tokens depend on it."""
        shift, scale, gate = self.poseLN_modulation(self.embed_pose(known)).chunk(3, dim=-1)
        normal = functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        modulated = tokens + gate * (normal * (1 + scale) + shift)
        return self.pose_branch(self.trunk_norm(self.trunk(modulated)))
