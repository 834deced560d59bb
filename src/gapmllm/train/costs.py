"""What training costs: floating-point operations and memory, from a model's sizes and what its clips hold.

Operations. A matrix of P parameters takes 2 P for each token forward, as much again going back for the gradient of what
went in, and once more for its own if it is trained: 6 P in all; 2 P where it is frozen and nothing before it is trained.
Attention adds 4 x width for each pair of tokens of a row, forward, and twice that going back; what a mask leaves out is
counted. Gradient checkpointing adds a forward pass. VGGT is counted by running it without data. Source: PaLM (arXiv
2204.02311), appendix B.

Memory. Weights are 4 bytes each; of what is trained gradients 4, AdamW's moments 8, with bfloat16 a copy of its matrices
2. Kept for the way back: what goes into and comes out of each linear layer that gradients pass, `KEPT` bytes a number;
with checkpointing what goes into each block, 4 bytes a number, and all of one block. A logit takes 12 bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from gapmllm.model import GapMllm, GapMllmConfig, Vggt, VggtConfig
from gapmllm.model.memory import estimate_memory
from gapmllm.train.forecast import ClipLoad
from gapmllm.train.parallel import SHARDED
from gapmllm.train.recipe import Recipe
from gapmllm.train.stages import Stage

KEPT = {"float32": 6, "bfloat16": 4}
"""Bytes kept for each number that goes into or comes out of a linear layer, norms and rotary embeddings included.
Measured with the presets debug and nano."""


def operations(stage: Stage, recipe: Recipe, load: ClipLoad) -> float:
    """Floating-point operations to learn from one clip, forward and backward.

    stage: with what is trained and frozen; may be on "meta".
    """
    model, again = stage.model, recipe.checkpointing
    total = 0.0
    if model.config.geometry_config is not None:
        passes = _passes(_is_trained(model.geometry_encoder), again)
        total += _vggt(model.config, recipe, load).operations * passes
    if recipe.stage == "geometry":
        return total
    visual, text, vision = model.model.visual, model.config.text_config, model.config.vision_config
    tower, per_token = _is_trained(visual), vision.spatial_merge_size**2
    patches, of_frame = load.visual * per_token, load.rows * load.cols * per_token
    total += _matrices([visual.patch_embed, visual.blocks], patches, tower, again)
    total += _matrices([visual.merger, visual.deepstack_merger_list], load.visual, tower, again)
    total += _matrices(_levels(model), load.visual, any(map(_is_trained, _levels(model))), False)
    total += _matrices([stage.probes], load.visual, True, False)
    total += _matrices([model.model.language_model.layers], load.tokens, True, again)
    total += _matrices([model.lm_head], load.answers, True, False)
    seeing = 4 * vision.hidden_size * vision.depth * patches * of_frame
    reading = 4 * text.num_attention_heads * text.head_dim * text.num_hidden_layers * load.tokens * load.length
    return total + seeing * _passes(tower, again) + reading * _passes(True, again)


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
        if not any(map(_is_trained, model.modules_of(part)))
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
    model, config, size = stage.model, stage.model.config, KEPT[recipe.precision]
    text, vision = config.text_config, config.vision_config
    patches = load.visual * vision.spatial_merge_size**2
    runs: list[tuple[list[nn.Module], float, int]] = []  # blocks, their tokens and width
    total = 0.0
    if config.geometry_config is not None and _is_trained(model.geometry_encoder):
        trunk = model.geometry_encoder.vggt.aggregator
        seen = patches + load.frames * config.vggt.patch_start
        runs.append(([m for m in trunk.modules() if isinstance(m, SHARDED)], seen, config.vggt.embed_dim))
        total += _vggt(config, recipe, load).kept_by_heads
    if recipe.stage != "geometry":
        if _is_trained(model.model.visual):
            runs.append((list(model.model.visual.blocks), patches, vision.hidden_size))
        runs.append((list(model.model.language_model.layers), load.tokens, text.hidden_size))
        if any(map(_is_trained, _levels(model))):
            total += load.visual * size * sum(map(_numbers, _levels(model)))
        total += 12 * load.answers * text.vocab_size
    for blocks, tokens, width in runs:
        each = [size * _numbers(block) for block in blocks]
        total += tokens * (4 * width * len(blocks) + max(each) if checkpointing else sum(each))
    return total


@dataclass(frozen=True)
class _Counted:
    """VGGT over one clip."""

    operations: float
    """Forward."""
    kept_by_heads: float
    """Bytes for the way back."""


def _vggt(config: GapMllmConfig, recipe: Recipe, load: ClipLoad) -> _Counted:
    """Of what the recipe's losses need: blocks that are fused, and in the stage geometry heads."""
    losses = {name for _, phase in recipe.schedule() for name in phase.loss_weights()} & {"camera", "depth"}
    heads = tuple(sorted(losses)) if recipe.stage == "geometry" else ()
    sizes, patches = config.vggt, config.vision_config.spatial_merge_size
    layers = {*config.geometry_layers, *sizes.dense_layers, sizes.depth - 1} if heads else set(config.geometry_layers)
    height, width = (count * patches * sizes.patch_size for count in (load.rows, load.cols))
    return _count_vggt(sizes, tuple(sorted(layers)), heads, round(load.frames), height, width)


@lru_cache(maxsize=64)
def _count_vggt(
    sizes: VggtConfig, layers: tuple[int, ...], heads: tuple[str, ...], frames: int, height: int, width: int
) -> _Counted:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = 0 if isinstance(tensor, nn.Parameter) else storage.nbytes()
        return tensor

    with torch.device("meta"):
        vggt = Vggt(sizes)
        images = torch.empty(1, frames, 3, height, width)
    with torch.no_grad():
        tokens, _ = vggt.aggregate(images, layers)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        vggt.read(tokens, (height, width), heads)
    vggt.requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vggt.read(vggt.aggregate(images, layers)[0], (height, width), heads)
    return _Counted(counter.get_total_flops(), sum(kept.values()))


def _matrices(modules: Iterable[nn.Module], tokens: float, backward: bool, again: bool) -> float:
    """Operations of all matrices of the modules; each parameter once. backward: gradients pass."""
    parameters = {id(p): p for module in modules for p in module.parameters() if p.ndim > 1}
    passes = sum(p.numel() * (1 + backward * (1 + again) + p.requires_grad) for p in parameters.values())
    return 2 * tokens * passes


def _passes(trained: bool, again: bool) -> int:
    """Forward passes' worth of work."""
    return 1 + trained * (2 + again)


def _levels(model: GapMllm) -> list[nn.Module]:
    return [module for part in ("mergers", "fusion") for module in model.modules_of(part)]


def _numbers(module: nn.Module) -> int:
    """What goes into and comes out of all its linear layers, for each token."""
    return sum(layer.in_features + layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear))


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def multiplication_rate(device: torch.device, dtype: torch.dtype, repeats: int = 1) -> float:
    """Floating-point operations per second of one large matrix multiplication; under a second a repeat."""
    size, rounds = (8192, 20) if device.type == "cuda" else (1024, 5)
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)

    def multiply() -> float:
        start = time.perf_counter()
        for _ in range(rounds):
            product = a @ b
        product[0, 0].item()  # a GPU is then done
        return time.perf_counter() - start

    multiply()  # the first time takes longer
    return 2 * size**3 * rounds / median(multiply() for _ in range(repeats))
