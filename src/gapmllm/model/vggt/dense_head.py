"""The depth and point heads: tokens of four blocks -> values per pixel (VGGT, section 3.3; DPT, arXiv 2103.13413)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gapmllm.model.vggt.config import VggtConfig

FRAMES_AT_ONCE = 8  # bounds the memory of full-size feature maps; frames do not meet in these heads
POSITION_BASE = 100.0
POSITION_WEIGHT = 0.1
OUTPUT_CHANNELS = 32


def inverse_log(values: Tensor) -> Tensor:
    """sign(y) (exp |y| - 1): far points need no large y."""
    return values.sign() * values.abs().expm1()


def resize(features: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(features, tuple(size), mode="bilinear", align_corners=True)


def add_positions(features: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Add sine and cosine waves of the cells' places to features (N, C, rows, columns).

    The first half of the channels goes by x, the second by y; in each half first all sines, then all cosines.
    A place is the centre of a cell, measured from the image's centre in half diagonals of the image.
    """
    channels, sizes = features.shape[1], features.shape[2:]
    quarter, diagonal = channels // 4, (image_size[0] ** 2 + image_size[1] ** 2) ** 0.5
    frequencies = POSITION_BASE ** (-torch.arange(quarter, device=features.device, dtype=torch.float32) / quarter)
    waves = []
    for side, cells in zip(image_size, sizes, strict=True):
        centres = (torch.arange(cells, device=features.device, dtype=torch.float32) * 2 + 1) / cells - 1
        angles = frequencies[:, None] * centres * (side / diagonal)
        waves.append(torch.cat([angles.sin(), angles.cos()]).mul(POSITION_WEIGHT).to(features.dtype))
    by_y, by_x = waves[0][:, :, None].expand(-1, *sizes), waves[1][:, None, :].expand(-1, *sizes)
    return features + torch.cat([by_x, by_y])


class ResidualUnit(nn.Module):
    """relu(x) + conv(relu(conv(relu(x)))): VGGT's own skip adds relu(x), not x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        features = features.relu()
        return features + self.conv2(self.conv1(features).relu())


class Refine(nn.Module):
    """Take in the next finer level (all but the coarsest do) and resize."""

    def __init__(self, channels: int, *, coarsest: bool = False) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        if not coarsest:
            self.resConfUnit1 = ResidualUnit(channels)
        self.resConfUnit2 = ResidualUnit(channels)

    def forward(self, features: Tensor, finer: Tensor | None, size: Sequence[int]) -> Tensor:
        if finer is not None:
            features = features + self.resConfUnit1(finer)
        # A 1x1 convolution and bilinear resizing can change places; before it, there are fewer pixels.
        return resize(self.out_conv(self.resConfUnit2(features)), size)


class Decoder(nn.Module):
    """Four levels, fine to coarse, -> one feature map at twice the size of the finest level, half the channels."""

    def __init__(self, config: VggtConfig, outputs: int) -> None:
        super().__init__()
        features = config.dense_features
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            nn.Conv2d(channels, features, 3, padding=1, bias=False) for channels in config.dense_channels
        )
        self.refinenet1, self.refinenet2, self.refinenet3 = (Refine(features) for _ in range(3))
        self.refinenet4 = Refine(features, coarsest=True)
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, OUTPUT_CHANNELS, 3, padding=1), nn.ReLU(), nn.Conv2d(OUTPUT_CHANNELS, outputs, 1)
        )

    def forward(self, levels: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
        narrow = (self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn)
        first, second, third, fourth = (layer(level) for layer, level in zip(narrow, levels, strict=True))
        features = self.refinenet4(fourth, None, third.shape[2:])
        features = self.refinenet3(features, third, second.shape[2:])
        features = self.refinenet2(features, second, first.shape[2:])
        features = self.refinenet1(features, first, [2 * size for size in first.shape[2:]])
        features = resize(self.output_conv1(features), image_size)
        return self.output_conv2(add_positions(features, image_size))


class DenseHead(nn.Module):
    """Tokens (B, S, T, 2C) of config.dense_layers -> values (B, S, H, W, outputs) and confidence (B, S, H, W), float32.

    activation makes the values from the raw outputs; the confidence is 1 + exp of one more output.
    """

    def __init__(self, config: VggtConfig, outputs: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.config, self.activation = config, activation
        width, channels = 2 * config.embed_dim, config.dense_channels
        self.norm = nn.LayerNorm(width)
        self.projects = nn.ModuleList(nn.Conv2d(width, count, 1) for count in channels)
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            )
        )
        self.scratch = Decoder(config, outputs + 1)

    def forward(self, levels: Sequence[Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        clips, frames = levels[0].shape[:2]
        patches = [level[:, :, self.config.patch_start :].flatten(0, 1) for level in levels]
        parts = zip(*(torch.split(level, FRAMES_AT_ONCE) for level in patches), strict=True)
        raw = torch.cat([self._decode(part, image_size) for part in parts]).float()
        raw = raw.movedim(1, -1).reshape(clips, frames, *image_size, -1)
        return self.activation(raw[..., :-1]), 1 + raw[..., -1].exp()

    def _decode(self, levels: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Patch tokens (N, rows * columns, 2C) of four blocks -> raw outputs (N, outputs + 1, H, W)."""
        grid = (image_size[0] // self.config.patch_size, -1)
        maps = []
        for tokens, project, resample in zip(levels, self.projects, self.resize_layers, strict=True):
            features = project(self.norm(tokens).transpose(1, 2).unflatten(2, grid))
            maps.append(resample(add_positions(features, image_size)))
        return self.scratch(maps, image_size)
