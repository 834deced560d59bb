"""Memory of reading a clip: what VGGT keeps, the peak on the way, and what `estimate_memory` says beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gapmllm.infer.encoded import EncodedClip
from gapmllm.model import ClipPixels, GapMllm, GapMllmConfig, Vggt, VggtConfig
from gapmllm.model.memory import estimate_memory

T = TypeVar("T")
MIB = 2**20


def bench_memory(model: GapMllm, clip: ClipPixels, frames: int) -> dict[str, float]:
    """MiB besides the weights, of tensors: VGGT with all blocks kept and with those in use; then the whole clip read.

    frames: the clip's come again as often as needed. A VGGT of another depth than the public one is measured at both.
    """
    again = torch.arange(frames, device=clip.visual.device) % clip.num_frames
    clip = replace(clip, visual=clip.visual[again], geometry=clip.geometry[again])
    config = model.config
    figures = _vggt(model.geometry_encoder.vggt, config, clip)
    if config.vggt.depth != VggtConfig.depth:
        geometry = replace(config.vggt, depth=VggtConfig.depth).to_dict()
        layers = GapMllmConfig.geometry_layers
        deep = GapMllmConfig(**{**config.to_dict(), "geometry_config": geometry, "geometry_layers": layers})
        figures |= _vggt(Vggt(deep.vggt).to(model.device, model.dtype), deep, clip)
    _, peak = peak_bytes(lambda: EncodedClip(model, clip), model.device)
    estimate = estimate_memory(config, frames, clip.rows, clip.cols, model.dtype).peak
    return {
        "memory, frames": frames,
        **figures,
        "clip read, peak, MiB": peak / MIB,
        "clip read, estimated, MiB": estimate / MIB,
    }


@torch.no_grad()
def _vggt(vggt: Vggt, config: GapMllmConfig, clip: ClipPixels) -> dict[str, float]:
    """Both ways to run the encoder of this config."""
    images, depth, layers = clip.geometry[None], config.vggt.depth, config.geometry_layers
    name = f"VGGT of {depth} blocks"

    def kept_and_peak(wanted: Iterable[int]) -> tuple[int, int]:
        (tokens, _), peak = peak_bytes(lambda: vggt.aggregate(images, wanted), images.device)
        return sum(block.nbytes for block in tokens.values()), peak

    all_kept, all_peak = kept_and_peak(range(depth))
    few_kept, few_peak = kept_and_peak(layers)
    estimate = estimate_memory(config, clip.num_frames, clip.rows, clip.cols, next(vggt.parameters()).dtype)
    return {
        f"{name}, all kept, MiB": all_kept / MIB,
        f"{name}, {len(layers)} kept, MiB": few_kept / MIB,
        f"{name}, {len(layers)} kept, share": few_kept / all_kept,
        f"{name}, all kept, peak, MiB": all_peak / MIB,
        f"{name}, {len(layers)} kept, peak, MiB": few_peak / MIB,
        f"{name}, {len(layers)} kept, estimated, MiB": estimate.geometry / MIB,
    }


def peak_bytes(work: Callable[[], T], device: torch.device) -> tuple[T, int]:
    """What work gives, and the most bytes that its tensors had at any time, beside those that were there before.

    On a GPU its allocator's own count. On a CPU exact for tensors; the scratch memory of kernels is not seen.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return work(), torch.cuda.max_memory_allocated() - before
    with LiveBytes() as live:
        result = work()
    return result, live.peak


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that are made inside and alive: now, and at most. A view costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_storage(tensor).data_ptr() for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            storage = _storage(tensor)
            address, size = storage.data_ptr(), storage.nbytes()
            if address not in given | self._alive:
                self._alive.add(address)
                self.now += size
                finalize(storage, self._gone, address, size)
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, address: int, size: int) -> None:
        self._alive.remove(address)
        self.now -= size


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()
