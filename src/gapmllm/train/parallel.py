"""Several processes: DDP (each holds all weights) and FSDP2 (each holds a share), and tensors in and out of shares."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    broadcast_object_list,
    parse_flag_from_env,
)
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer

from gapmllm.train.recipe import Recipe
from gapmllm.train.stages import Stage

SHARDED = Qwen3VLTextDecoderLayer
"""FSDP2's units: weights that are gathered, used and let go of together. The rest is one more unit, the encoders, too:
they run once for each size of clips, of which processes have different numbers, and a unit is gathered by all at once.
"""


@contextmanager
def accelerator_for(recipe: Recipe) -> Iterator[Accelerator]:
    """Accelerate, as the recipe wants it; it finds the devices, and the processes of `accelerate launch` or `torchrun`.

    ValueError where Accelerate was told to share the weights out: the recipe says how.
    """
    for engine in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{engine}"):
            raise ValueError(
                f"Accelerate is configured for {engine}, and here the recipe decides: take that out of the command or "
                "of `accelerate config`, and write parallel: fsdp2 into the recipe (--set parallel=fsdp2)"
            )
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else Accelerate sees no other processes where there is no GPU
        # The environment would otherwise divide the loss; here it is a mean over the global batch as it is.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        mixed_precision="bf16" if recipe.precision == "bfloat16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=has_idle_parts(recipe))],
        log_with=recipe.track,
        project_dir=recipe.out,
    )
    try:
        yield accelerator
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        AcceleratorState._reset_state()  # a later run in this Python process may want another precision


def has_idle_parts(recipe: Recipe) -> bool:
    """Whether something that is trained has no gradient in some phase, as the head of a loss without weight."""
    if recipe.stage != "geometry" and "geometry" in recipe.parts():
        return True  # VGGT's own heads
    needed = {"camera", "depth"} if recipe.stage == "geometry" else {"answers"}
    used = [set(phase.loss_weights()) for _, phase in recipe.schedule()]
    return any(losses != needed.union(*used) for losses in used)


@atexit.register
def _leave_group() -> None:
    """Not at the end of a run: a second group in this Python process could not rely on finding the other ones."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def spread(stage: Stage, accelerator: Accelerator, recipe: Recipe) -> nn.Module:
    """The stage on its device, wrapped for the processes there are. Make the optimiser afterwards."""
    stage.to(accelerator.device)
    if accelerator.num_processes == 1:
        return stage
    if recipe.parallel == "ddp":
        return accelerator.prepare_model(stage)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    kind = torch.bfloat16 if recipe.precision == "bfloat16" else None
    policy = MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32 if kind else None)
    for module in stage.modules():
        if isinstance(module, SHARDED):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(stage, mesh=mesh, mp_policy=policy)
    return stage


def accumulating(wrapped: nn.Module, last: bool) -> Any:
    """A context for one micro-batch: DDP exchanges gradients in the last one only. FSDP2 adds up shares each time."""
    if last or not hasattr(wrapped, "no_sync"):
        return nullcontext()
    return wrapped.no_sync()  # type: ignore[operator]


@contextmanager
def gathered(stage: nn.Module) -> Iterator[None]:
    """With FSDP2: all weights are here and stay, for code that does not go through the stage's forward.

    All processes enter it together; inside, none waits for another. Without gradients.
    """
    units = [module for module in stage.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not stage, recurse=False)  # as `fully_shard` has it
            unit.reshard()


def whole_tensors(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """`whole` of each, where they are kept; the others take part and hold one at a time."""
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor) if keep or isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = value
    return found


def agreed(accelerator: Accelerator, what: Callable[[], None]) -> None:
    """The main process does it, the others wait. Its ValueError is raised in all of them: none waits for ever."""
    message = [""]
    if accelerator.is_main_process:
        try:
            what()
        except ValueError as error:
            message = [str(error)]
    if accelerator.num_processes > 1:
        broadcast_object_list(message)
    if message[0]:
        raise ValueError(message[0])


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on the CPU; with FSDP2 every process must call this, in the same order."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is kept: on its device, and with FSDP2 this process's share."""
    value = value.to(like.device, like.dtype)
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value
