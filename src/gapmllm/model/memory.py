"""What a clip will need, before it is run."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from gapmllm.model.config import GapMllmConfig

GIB = 2**30


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a clip needs besides the weights, when it is encoded and read by the LLM without gradients."""

    geometry: int
    """VGGT: the blocks that are kept, and the largest block's working set."""
    language: int
    """The LLM: keys and values of the prefix, and the largest layer's working set."""
    vision: int
    """Qwen3-VL's tower: one block's working set."""

    @property
    def peak(self) -> int:
        """The two encoders and the LLM run one after the other; what VGGT keeps lives until it is fused."""
        return max(self.geometry, self.vision, self.language)

    def __str__(self) -> str:
        parts = (f"{name} {value / GIB:.2f}" for name, value in vars(self).items())
        return f"{self.peak / GIB:.2f} GiB at most (" + ", ".join(parts) + " GiB)"


def estimate_memory(
    config: GapMllmConfig, frames: int, rows: int, cols: int, dtype: torch.dtype = torch.float32
) -> MemoryEstimate:
    """Of one clip of `frames` frames, each rows x cols merged tokens.

    Counted from the tensors that live at the same time in a transformer block without gradients: its input, output,
    queries, keys and values, and the inner layer of its MLP. Attention is fused and stores no scores.
    """
    size = dtype.itemsize
    tokens = frames * rows * cols
    patches = tokens * config.vision_config.spatial_merge_size**2
    text, vision = config.text_config, config.vision_config
    geometry = 0
    if config.geometry_config is not None:
        vggt = config.vggt
        seen = patches + frames * vggt.patch_start
        block = seen * vggt.embed_dim * (5 + 2 * vggt.mlp_ratio)
        geometry = int(seen * 2 * vggt.embed_dim * len(config.geometry_layers) + block) * size
    cache = tokens * text.num_hidden_layers * 2 * text.num_key_value_heads * text.head_dim
    layer = tokens * (4 * text.hidden_size + 3 * text.intermediate_size)
    pixels = 2 * 3 * vision.temporal_patch_size * vision.patch_size**2  # of a patch, before and after its rearrangement
    levels = (len(vision.deepstack_visual_indexes) + 1) * tokens * text.hidden_size
    return MemoryEstimate(
        geometry=geometry,
        language=(cache + layer + levels) * size,
        vision=patches * (5 * vision.hidden_size + 2 * vision.intermediate_size + pixels) * size,
    )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return psutil.virtual_memory().available


def check_memory(
    config: GapMllmConfig, frames: int, rows: int, cols: int, dtype: torch.dtype, device: torch.device
) -> None:
    """ValueError if a clip cannot fit: what it needs, what there is, and what to lower."""
    need, free = estimate_memory(config, frames, rows, cols, dtype), free_memory(device)
    if need.peak > free:
        raise ValueError(
            f"{frames} frames of {rows}x{cols} tokens need {need}; {free / GIB:.2f} GiB are free on {device}. "
            f"Use fewer frames (about {int(frames * free / need.peak)} fit), or a smaller max_frame_tokens"
        )
