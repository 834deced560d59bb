"""VGGT (arXiv 2503.11651): its trunk, and the heads that the config names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gapmllm.model.vggt.aggregator import Aggregator
from gapmllm.model.vggt.camera_head import CameraHead
from gapmllm.model.vggt.config import VggtConfig
from gapmllm.model.vggt.dense_head import DenseHead, inverse_log
from gapmllm.model.vggt.layers import Block


class Vggt(nn.Module):
    """Frames of one place -> tokens that know their geometry, and cameras, depths and points read off them.

    Letters: B clips, S frames, T tokens of a frame, C = config.embed_dim, H, W pixels (multiples of the patch size).
    images are (B, S, 3, H, W), RGB in [0, 1]; they are cast to the parameters' dtype. Lengths are up to one scale
    per clip in the public weights; points are in the camera frame of frame 0 (axes: `geometry/camera.py`).
    """

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.config = config
        self.aggregator = Aggregator(config)
        if "camera" in config.heads:
            self.camera_head = CameraHead(config)
        if "depth" in config.heads:
            self.depth_head = DenseHead(config, 1, torch.exp)
        if "point" in config.heads:
            self.point_head = DenseHead(config, 3, inverse_log)

    @property
    def gradient_checkpointing(self) -> bool:
        """In training, keep only what goes into each block and compute the rest again in the backward pass."""
        return all(block.gradient_checkpointing for block in self.modules() if isinstance(block, Block))

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        for block in self.modules():
            if isinstance(block, Block):
                block.gradient_checkpointing = value

    def aggregate(self, images: Tensor, layers: Iterable[int]) -> tuple[dict[int, Tensor], int]:
        """Tokens of the blocks `layers` (from 0), and the index of a frame's first patch token.

        Each is (B, S, T, 2C): the block's output within the frame, then over all frames. A frame's tokens are its
        camera token, the registers and the patches by rows. Blocks beyond the deepest of `layers` do not run, and
        tokens of other blocks are not kept. ValueError for images or layers that cannot be.
        """
        wanted, depth = set(layers), self.config.depth
        if not wanted or not wanted <= set(range(depth)):
            raise ValueError(f"layers must be some of the blocks 0 to {depth - 1}, got {sorted(wanted)}")
        self._check(images)
        return self.aggregator(images, wanted), self.config.patch_start

    def forward(self, images: Tensor) -> dict[str, Any]:
        """What the built heads say, all float32.

        camera: pose_encoding (B, S, 9), read by `geometry/pose_encoding.py`, and pose_encodings, a list of it after
        each round of refinement; depth: depth (B, S, H, W) along z and depth_confidence (B, S, H, W);
        point: points (B, S, H, W, 3) and points_confidence (B, S, H, W). Confidences are above 1.
        """
        heads, last = self.config.heads, self.config.depth - 1
        if not heads:
            raise ValueError('this Vggt has no heads; build it with heads=("camera", …), or call aggregate')
        dense = self.config.dense_layers if heads != ("camera",) else ()
        tokens, _ = self.aggregate(images, {*dense, last} if "camera" in heads else dense)
        return self.read(tokens, (images.shape[-2], images.shape[-1]), heads)

    def read(self, tokens: dict[int, Tensor], size: tuple[int, int], heads: Iterable[str]) -> dict[str, Any]:
        """What these heads, of those that are built, say about tokens of `aggregate`; size: (H, W) of the images.

        The camera head reads the last block, the others `config.dense_layers`.
        """
        levels = [tokens[layer] for layer in self.config.dense_layers if layer in tokens]
        result: dict[str, Any] = {}
        if "camera" in heads:
            encodings = self.camera_head(tokens[self.config.depth - 1][:, :, 0])
            result |= {"pose_encoding": encodings[-1], "pose_encodings": encodings}
        if "depth" in heads:
            depth, confidence = self.depth_head(levels, size)
            result |= {"depth": depth.squeeze(-1), "depth_confidence": confidence}
        if "point" in heads:
            points, confidence = self.point_head(levels, size)
            result |= {"points": points, "points_confidence": confidence}
        return result

    def _check(self, images: Tensor) -> None:
        shape, patch = tuple(images.shape), self.config.patch_size
        if len(shape) != 5 or shape[2] != 3 or not images.is_floating_point():
            raise ValueError(
                "images must be (clips, frames, 3, height, width), floating-point RGB in [0, 1], "
                f"got {shape} of {images.dtype}"
            )
        if 0 in shape:
            raise ValueError(f"images must hold at least one clip of one frame with pixels, got {shape}")
        if shape[3] % patch or shape[4] % patch:
            raise ValueError(
                f"height and width of images must be multiples of the patch size {patch}, got {shape[3]}x{shape[4]}; "
                "resize them (image_grid.py decides such sizes)"
            )
