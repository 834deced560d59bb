"""VGGT's trunk: attention within each frame and over all frames, in turn (VGGT, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gapmllm.model.vggt.config import VggtConfig
from gapmllm.model.vggt.layers import Block, initialise, rotary_table, token
from gapmllm.model.vggt.patch_encoder import patch_encoder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Aggregator(nn.Module):
    """Images -> tokens of the blocks asked for.

    A frame's tokens are one camera token, the registers, then its patches by rows. Camera token and registers
    come in two kinds: the first is for frame 0, in whose coordinates VGGT answers, the second for all others.
    """

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        self.camera_token = token(1, 2, 1, width)
        self.register_token = token(1, 2, config.num_register_tokens, width)
        self.patch_embed = patch_encoder(config)
        self.frame_blocks, self.global_blocks = (
            nn.ModuleList(
                Block(
                    width,
                    config.num_heads,
                    mlp_ratio=config.mlp_ratio,
                    qk_norm=True,
                    layer_scale=config.layer_scale,
                )
                for _ in range(config.depth)
            )
            for _ in range(2)
        )
        self.apply(initialise)

    def forward(self, images: Tensor, layers: set[int]) -> dict[int, Tensor]:
        """See `Vggt.aggregate`, which checks the input."""
        clips, frames, _, height, width = images.shape
        patch = self.config.patch_size
        tokens = self._tokens(images)
        within_frame = rotary_table(
            height // patch,
            width // patch,
            self.config.patch_start,
            self.config.embed_dim // self.config.num_heads,
            like=tokens,
        )
        over_frames = (within_frame[0].repeat(frames, 1), within_frame[1].repeat(frames, 1))
        kept = {}
        for layer in range(max(layers) + 1):
            local = self.frame_blocks[layer](tokens.flatten(0, 1), within_frame).unflatten(0, (clips, frames))
            tokens = self.global_blocks[layer](local.flatten(1, 2), over_frames).unflatten(1, (frames, -1))
            if layer in layers:
                kept[layer] = torch.cat([local, tokens], dim=-1)
        return kept

    def _tokens(self, images: Tensor) -> Tensor:
        """(B, S, 3, H, W) in [0, 1] -> (B, S, T, C)."""
        clips, frames = images.shape[:2]
        mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        normal = ((images - mean) / std).to(self.camera_token.dtype)
        patches = self.patch_embed(normal.flatten(0, 1)).unflatten(0, (clips, frames))
        special = torch.cat([self.camera_token, self.register_token], dim=2)  # (1, 2, special, C)
        special = torch.cat([special[:, :1], special[:, 1:].expand(-1, frames - 1, -1, -1)], dim=1)
        return torch.cat([special.expand(clips, -1, -1, -1), patches], dim=2)
