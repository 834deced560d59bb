"""What training costs: floating-point operations and memory, from a model's sizes and what its clips hold.

Operations. A matrix of P parameters takes 2 P for each token forward, as much going back for the gradient of what went
in, and as much for its own if it is trained: 6 P in all, 2 P where it is frozen and nothing before it is trained.
Attention adds 4 x width for each pair of tokens of a row, forward, and twice that going back; what a mask leaves out is
counted. Gradient checkpointing adds a forward pass. VGGT's heads are counted as they run, without data. Source: PaLM
(arXiv 2204.02311), appendix B.

Memory. Weights are 4 bytes each; of what is trained, gradients 4, AdamW's moments 8, with bfloat16 a copy of matrices
2. Kept for the way back: what goes into and comes out of each linear layer that gradients pass, `KEPT` bytes a number;
with checkpointing what goes into each block, 4 bytes a number, and all of one block. A logit takes 12 bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from statistics import median

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from gapmllm.model import GapMllm, GapMllmConfig, Vggt, VggtConfig
from gapmllm.model.memory import estimate_memory
from gapmllm.model.vggt.layers import Block
from gapmllm.train.forecast import ClipLoad
from gapmllm.train.parallel import SHARDED
from gapmllm.train.recipe import Recipe
from gapmllm.train.stages import Stage

KEPT = {"float32": 6, "bfloat16": 4}
"""Bytes kept for each number that goes into or comes out of a linear layer, norms and rotary embeddings included.
Measured with the presets debug and nano."""

_LONG = 0.2  # s of multiplications; a CPU without bfloat16 takes more for one of them


def operations(stage: Stage, recipe: Recipe, load: ClipLoad) -> float:
    """Floating-point operations to learn from one clip, forward and backward.

    stage: with what is trained and frozen; may be on "meta".
    """
    again, model, total = recipe.checkpointing, stage.model, 0.0
    for run in _runs(stage, recipe, load):
        total += _matrices(run.blocks, run.tokens, run.gradients, again)
        scores = 4 * run.attention * len(run.blocks) * run.tokens * run.context
        total += scores * (1 + run.gradients * (2 + again))
    if recipe.stage == "geometry":
        return total + 3 * _heads(model.config, recipe, load).operations
    visual, tower = model.model.visual, _is_trained(model.model.visual)
    patches = load.visual * model.config.vision_config.spatial_merge_size**2
    total += _matrices([visual.patch_embed], patches, tower, False)
    total += _matrices([visual.merger, visual.deepstack_merger_list], load.visual, tower, False)
    total += _matrices(_levels(model), load.visual, any(map(_is_trained, _levels(model))), False)
    total += _matrices([stage.probes], load.visual, True, False)
    return total + _matrices([model.lm_head], load.answers, True, False)


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    weights: float
    """With the copies of mixed precision, and with FSDP2 what is gathered at a time."""
    gradients: float
    optimizer: float
    kept: float
    """Of a micro-batch for the way back, without gradient checkpointing."""
    kept_checkpointing: float
    encoders: float
    """What the frozen encoders need for a micro-batch while they run."""

    def total(self, checkpointing: bool) -> float:
        kept = self.kept_checkpointing if checkpointing else self.kept
        return self.weights + self.gradients + self.optimizer + max(kept, self.encoders)


def memory(stage: Stage, recipe: Recipe, load: ClipLoad, clips: int, shards: int = 1) -> Memory:
    """Of a process that learns from so many clips at once; shards: processes that share the weights (FSDP2)."""
    model, mixed = stage.model, recipe.precision == "bfloat16"
    everything = sum(parameter.numel() for parameter in stage.parameters())
    trained = sum(parameter.numel() for parameter in stage.parameters() if parameter.requires_grad)
    weights = 4 * everything / shards
    if shards > 1:  # gathered: what is in no block, and two blocks, the second while the first is at work
        blocks = [sum(p.numel() for p in m.parameters()) for m in stage.modules() if isinstance(m, SHARDED)]
        weights += (2 if mixed else 4) * (everything - sum(blocks) + 2 * max(blocks))
    elif mixed:
        weights += 2 * sum(p.numel() for p in stage.parameters() if p.requires_grad and p.ndim > 1)
    estimate = estimate_memory(model.config, round(load.frames) * clips, load.rows, load.cols)
    frozen = [
        size
        for part, size in (("geometry", estimate.geometry), ("vision", estimate.vision))
        if recipe.stage != "geometry" and not any(map(_is_trained, model.modules_of(part)))
    ]
    return Memory(
        weights=weights,
        gradients=4 * trained / shards,
        optimizer=8 * trained / shards,
        kept=clips * _kept(stage, recipe, load, False),
        kept_checkpointing=clips * _kept(stage, recipe, load, True),
        encoders=max(frozen, default=0),
    )


def _kept(stage: Stage, recipe: Recipe, load: ClipLoad, checkpointing: bool) -> float:
    """Bytes of one clip for the way back."""
    model, size = stage.model, KEPT[recipe.precision]
    runs = [run for run in _runs(stage, recipe, load) if run.gradients]
    each = [run.tokens * size * _numbers(block) for run in runs for block in run.blocks]
    total = sum(each)
    if checkpointing:
        total = max(each) + sum(4 * run.tokens * run.width * len(run.blocks) for run in runs)
    if recipe.stage == "geometry":
        return total + _heads(model.config, recipe, load).kept * size / KEPT["float32"]
    tower = model.model.visual
    per_token = [*_levels(model), tower.merger, tower.deepstack_merger_list]
    total += load.visual * size * sum(_numbers(module) for module in per_token if _is_trained(module))
    return total + 12 * load.answers * model.config.text_config.vocab_size


@dataclass(frozen=True)
class _Run:
    """Blocks that tokens pass one after the other."""

    blocks: list[nn.Module]
    tokens: float
    context: float
    """How many tokens each may look at."""
    width: int
    attention: int
    """Width of all attention heads."""
    gradients: bool
    """Whether gradients pass."""


def _runs(stage: Stage, recipe: Recipe, load: ClipLoad) -> list[_Run]:
    """Over one clip: VGGT's, the vision tower's, the LLM's; in the stage geometry VGGT's alone."""
    model, config, runs = stage.model, stage.model.config, []
    text, vision = config.text_config, config.vision_config
    patches = load.rows * load.cols * vision.spatial_merge_size**2
    if config.geometry_config is not None:
        trunk, width = model.geometry_encoder.vggt.aggregator, config.vggt.embed_dim
        trained = _is_trained(model.geometry_encoder)
        last = config.vggt.depth if recipe.stage == "geometry" else max(config.geometry_layers) + 1
        of_frame = patches + config.vggt.patch_start
        seen = load.frames * of_frame
        local: list[nn.Module] = [module for module in trunk.patch_embed.modules() if isinstance(module, Block)]
        local += trunk.frame_blocks[:last]
        runs.append(_Run(local, seen, of_frame, width, width, trained))
        runs.append(_Run(list(trunk.global_blocks[:last]), seen, seen, width, width, trained))
    if recipe.stage == "geometry":
        return runs
    tower, width = model.model.visual, vision.hidden_size
    runs.append(_Run(list(tower.blocks), load.frames * patches, patches, width, width, _is_trained(tower)))
    heads = text.num_attention_heads * text.head_dim
    layers = list(model.model.language_model.layers)
    return [*runs, _Run(layers, load.tokens, load.length, text.hidden_size, heads, True)]


@dataclass(frozen=True)
class _Heads:
    """VGGT's heads over one clip."""

    operations: float
    """Forward."""
    kept: float
    """Bytes for the way back, in float32."""


def _heads(config: GapMllmConfig, recipe: Recipe, load: ClipLoad) -> _Heads:
    """Of those that the recipe's losses need."""
    losses = {name for _, phase in recipe.schedule() for name in phase.loss_weights()} & {"camera", "depth"}
    side = config.vision_config.spatial_merge_size
    return _run_heads(config.vggt, frozenset(losses), round(load.frames), side * load.rows, side * load.cols)


@cache  # a plan asks for the same heads once for each number of processes, and takes a second each time
def _run_heads(config: VggtConfig, heads: frozenset[str], frames: int, rows: int, cols: int) -> _Heads:
    """Counted as they run over frames of so many patches that hold nothing."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = 0 if isinstance(tensor, nn.Parameter) else storage.nbytes()
        return tensor

    with torch.device("meta"):
        vggt = Vggt(config)
        seen = torch.empty(1, frames, config.patch_start + rows * cols, 2 * config.embed_dim)
    tokens, size = dict.fromkeys((*config.dense_layers, config.depth - 1), seen), config.patch_size
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        vggt.read(tokens, (rows * size, cols * size), heads)
    vggt.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        vggt.read(tokens, (rows * size, cols * size), heads)
    return _Heads(counter.get_total_flops(), sum(kept.values()))


def _matrices(modules: Iterable[nn.Module], tokens: float, backward: bool, again: bool) -> float:
    """Operations of all matrices of the modules; each parameter once. backward: gradients pass."""
    parameters = {id(p): p for module in modules for p in module.parameters() if p.ndim > 1}
    passes = sum(p.numel() * (1 + backward * (1 + again) + p.requires_grad) for p in parameters.values())
    return 2 * tokens * passes


def _levels(model: GapMllm) -> list[nn.Module]:
    return [module for part in ("mergers", "fusion") for module in model.modules_of(part)]


def _numbers(module: nn.Module) -> int:
    """What goes into and comes out of all its linear layers, for each token."""
    return sum(layer.in_features + layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear))


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def multiplication_rate(device: torch.device, dtype: torch.dtype, repeats: int = 1) -> float:
    """Floating-point operations per second of large matrix multiplications: 20 of them, fewer where they take long."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)

    def rate() -> float:
        start, done, product = time.perf_counter(), 0, a
        while done < 20 and time.perf_counter() < start + _LONG:
            product, done = a @ b, done + 1
        product[0, 0].item()  # a GPU is then done
        return 2 * size**3 * done / (time.perf_counter() - start)

    rate()  # the first time takes longer
    return median(rate() for _ in range(repeats))
