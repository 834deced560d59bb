"""Images -> one token per patch: DINOv2 with registers, a single convolution, or a small residual network."""

from __future__ import annotations

from itertools import pairwise
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from gapmllm.model.vggt.config import DINOV2, VggtConfig
from gapmllm.model.vggt.layers import Block, token

CNN_CHANNELS = 16
"""At half the picture's size; twice as many at each further one."""
CNN_POSITION_STD = 0.3
"""About as large as what the convolutions give at the start."""
DINOV2_EPS = 1e-6
DINOV2_LAYER_SCALE = 1.0


def patch_encoder(config: VggtConfig) -> nn.Module:
    """The encoder that the config names; normalised images (N, 3, H, W) -> patch tokens (N, rows * columns, C)."""
    return {"conv": ConvEncoder, "cnn": CnnEncoder}.get(config.patch_embed, Dinov2)(config)


class ConvEncoder(nn.Module):
    """One convolution, each patch by itself."""

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.embed_dim, config.patch_size, stride=config.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class CnnEncoder(nn.Module):
    """Halves the picture until a pixel is a patch: a strided convolution and a residual unit at each size.

    What it sees of a patch reaches over its edges; a table of positions, as DINOv2's, lets a token tell others where it
    is. Source: early convolutions make small transformers learn faster (arXiv 2106.14881).
    """

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        sizes = [CNN_CHANNELS * 2**level for level in range(config.patch_size.bit_length() - 1)]
        self.levels = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), ConvUnit(outputs))
                for inputs, outputs in pairwise([3, *sizes])
            )
        )
        self.proj = nn.Conv2d(sizes[-1], config.embed_dim, 1)
        side = config.img_size // config.patch_size
        self.pos_embed = nn.Parameter(torch.randn(1, side**2, config.embed_dim) * CNN_POSITION_STD)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.proj(self.levels(images))
        return patches.flatten(2).transpose(1, 2) + resized(self.pos_embed, *patches.shape[-2:])


def resized(table: Tensor, rows: int, columns: int) -> Tensor:
    """Position embeddings (1, side * side, C) of a square of patches -> (1, rows * columns, C); in float32."""
    side = isqrt(table.shape[1])
    square = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scaled = functional.interpolate(square.float(), (rows, columns), mode="bicubic", antialias=True)
    return scaled.flatten(2).transpose(1, 2).to(table.dtype)


class ConvUnit(nn.Module):
    """x + conv(gelu(conv(gelu(norm(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        inner = functional.gelu(self.conv1(functional.gelu(self.norm(features))))
        return features + self.conv2(inner)


class Dinov2(nn.Module):
    """DINOv2 (arXiv 2304.07193) with registers (arXiv 2309.16588); gives the patch tokens after the last LayerNorm."""

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        width, depth, num_heads = DINOV2[config.patch_embed]
        self.patch_size, side = config.patch_size, config.img_size // config.patch_size
        self.cls_token = token(1, 1, width)
        self.pos_embed = token(1, 1 + side**2, width)
        self.register_tokens = token(1, config.num_register_tokens, width)
        # In the checkpoint, but used by DINOv2's own training alone.
        self.mask_token = nn.Parameter(torch.zeros(1, width), requires_grad=False)
        self.patch_embed = ConvEncoder(config)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, eps=DINOV2_EPS, layer_scale=DINOV2_LAYER_SCALE) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=DINOV2_EPS)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings (1, 1 + rows * columns, C), the class token's first; resized in float32."""
        return torch.cat([self.pos_embed[:, :1], resized(self.pos_embed[:, 1:], rows, columns)], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(count, -1, -1), patches], dim=1)
        tokens = tokens + self.positions(height // self.patch_size, width // self.patch_size)
        registers = self.register_tokens.expand(count, -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 1 + registers.shape[1] :])
