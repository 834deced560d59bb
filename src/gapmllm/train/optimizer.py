"""AdamW with learning rates by part of the model, warm-up and a cosine to 0."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import torch
from torch import nn

from gapmllm.train.recipe import Recipe
from gapmllm.train.stages import Stage


def parameter_groups(stage: Stage, recipe: Recipe) -> list[dict[str, Any]]:
    """For each trained part (and the probes) its parameters, in two groups: matrices, which decay, and the rest.

    Norms, biases and gates of one dimension do not decay. Tied weights are in one group, once.
    """
    groups: list[dict[str, Any]] = []
    for name, modules in _parts(stage, recipe).items():
        found = dict.fromkeys(parameter for module in modules for parameter in module.parameters())
        parameters = [parameter for parameter in found if parameter.requires_grad]
        for decays in (True, False):
            chosen = [parameter for parameter in parameters if (parameter.ndim > 1) == decays]
            if chosen:
                decay = recipe.weight_decay if decays else 0.0
                peak = learning_rate(recipe, name)
                groups.append({"name": name, "params": chosen, "peak": peak, "lr": peak, "weight_decay": decay})
    return groups


def learning_rate(recipe: Recipe, part: str) -> float:
    """Peak of a part's learning rate."""
    if isinstance(recipe.lr, dict):
        return recipe.lr.get(part, max(recipe.lr.values()))
    return recipe.lr


def make_optimizer(stage: Stage, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over all trained parameters."""
    return torch.optim.AdamW(parameter_groups(stage, recipe), betas=(0.9, 0.999), fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    """Those of this step, from 0: up in a line over the warm-up, then a cosine that would reach 0 at `steps`."""
    warmup = round(recipe.warmup * recipe.steps)
    if step < warmup:
        scale = (step + 1) / (warmup + 1)
    else:
        scale = (1 + cos(pi * (step - warmup) / (recipe.steps - warmup))) / 2
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * scale


def _parts(stage: Stage, recipe: Recipe) -> dict[str, list[nn.Module]]:
    return {part: stage.model.modules_of(part) for part in recipe.parts()} | {"probes": [stage.probes]}
