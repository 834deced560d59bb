"""Losses as sums, so that a step divides them by what all processes counted together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

ROUND_WEIGHT = 0.6
"""Each round of the camera head counts this much of the one after it."""
FOV_WEIGHT = 0.5
LOG_CONFIDENCE = 0.2
MARKED = 10.0
"""Weight of a marked token: there are few."""


def camera_loss(rounds: Sequence[Tensor], target: Tensor) -> Tensor:
    """Pose encodings (B, S, 9) of each round against the true ones: |error|, summed over frames, mean over the numbers.

    The field of view counts half, earlier rounds less. Source: the public training code of VGGT. The Huber loss of its
    paper (arXiv 2503.11651, section 3.4) is all but flat within the few degrees by which a camera turns from frame to
    frame: nano did not learn them with it.
    """
    weight = torch.tensor([1.0] * 7 + [FOV_WEIGHT] * 2, device=target.device)
    total = target.new_zeros(())
    for back, encoding in enumerate(reversed(rounds)):
        total = total + ROUND_WEIGHT**back * ((encoding - target).abs() * weight).sum() / target.shape[-1]
    return total


def depth_loss(depth: Tensor, confidence: Tensor, target: Tensor) -> Tensor:
    """Depth and confidence (B, S, H, W), true depth in metres, 0 = unknown. Summed over known pixels.

    c |d - d*| + c |grad d - grad d*| - 0.2 log c. Source: VGGT (arXiv 2503.11651), section 3.4.
    """
    known = target > 0
    error = (depth - target).abs()
    for axis in (-1, -2):
        pair = known & known.roll(-1, axis)
        pair.select(axis, -1).fill_(False)  # the last one has no neighbour; roll brought the first
        slope = (depth.roll(-1, axis) - depth) - (target.roll(-1, axis) - target)
        error = error + torch.where(pair, slope.abs(), 0)
    return torch.where(known, confidence * error - LOG_CONFIDENCE * confidence.log(), 0).sum()


def points_loss(points: Tensor, target: Tensor) -> Tensor:
    """Points (..., 3) in metres against true ones, NaN = unknown: distances, summed over the known ones."""
    known = target[..., 0].isfinite()
    return torch.linalg.vector_norm(points[known] - target[known], dim=-1).sum()


def classes_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Logits (N, classes) against class numbers (N,), `IGNORE` = unknown: negative log-likelihood, summed."""
    return functional.cross_entropy(logits, target, reduction="sum")


def marks_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The same for mark colours, 0 = no mark; a marked token counts `MARKED` times."""
    weight = torch.full_like(logits[0], MARKED).index_fill(0, torch.tensor([0], device=logits.device), 1.0)
    return functional.cross_entropy(logits, target, weight=weight, reduction="sum")
