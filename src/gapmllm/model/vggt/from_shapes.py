"""The config of a VGGT checkpoint, which the public ones do not bring: read off the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil, isqrt
from typing import Any

from gapmllm.model.vggt.config import DENSE_LEVELS, DINOV2, HEADS, VggtConfig

Shapes = Mapping[str, tuple[int, ...]]


def config_from_shapes(shapes: Shapes) -> VggtConfig:
    """Tensor names (those of the public VGGT-1B) and shapes -> the config of the model that has them.

    What no shape tells is taken from VGGT-1B. dense_layers: its blocks, of which the last is the deepest, moved to this
    depth: (4, 11, 17, 23) of 24, (0, 1, 2, 3) of 4. camera_num_heads: its 16 where they divide the width, else heads of
    the size that the blocks have. ValueError where a tensor that is needed is not there or has no such shape.
    """
    try:
        return VggtConfig(**_fields(shapes))
    except KeyError as missing:
        some = ", ".join(list(shapes)[:3])
        why = f"{missing} is not among their {len(shapes)} tensors ({some}, …)"
    except (ValueError, IndexError, ZeroDivisionError) as error:
        why = f"their shapes are those of none: {error}"
    raise ValueError(
        f"these are not the weights of a VGGT: {why}. Needed are the tensors of the public facebook/VGGT-1B"
    )


def _fields(shapes: Shapes) -> dict[str, Any]:
    *_, registers, width = shapes["aggregator.register_token"]
    head_dim = shapes["aggregator.frame_blocks.0.attn.q_norm.weight"][0]
    inner = shapes["aggregator.frame_blocks.0.mlp.fc1.weight"][0]
    most = VggtConfig.camera_num_heads
    depth = _count(shapes, r"aggregator\.frame_blocks\.(\d+)\.")
    return {
        "embed_dim": width,
        "num_register_tokens": registers,
        "num_heads": width // head_dim,
        "mlp_ratio": inner / width,
        "depth": depth,
        "dense_layers": [ceil((layer + 1) * depth / VggtConfig.depth) - 1 for layer in VggtConfig.dense_layers],
        "camera_num_heads": 2 * width // head_dim if 2 * width % most else most,
        **_patch_encoder(shapes, width),
        **_heads(shapes),
    }


def _patch_encoder(shapes: Shapes, width: int) -> dict[str, object]:
    """A DINOv2's table of positions has one more for its class token; a network of convolutions has levels."""
    table = shapes.get("aggregator.patch_embed.pos_embed")
    if levels := {name.split(".")[3] for name in shapes if name.startswith("aggregator.patch_embed.levels.")}:
        patch = 2 ** len(levels)
        side = isqrt(shapes["aggregator.patch_embed.pos_embed"][1])
        return {"patch_embed": "cnn", "patch_size": patch, "img_size": side * patch}
    if table is None:
        return {"patch_embed": "conv", "patch_size": shapes["aggregator.patch_embed.proj.weight"][-1]}
    patch = shapes["aggregator.patch_embed.patch_embed.proj.weight"][-1]
    name = next((name for name, (size, *_) in DINOV2.items() if size == width), f"a DINOv2 of width {width}")
    return {"patch_embed": name, "patch_size": patch, "img_size": isqrt(table[1] - 1) * patch}


def _heads(shapes: Shapes) -> dict[str, object]:
    heads = [head for head in HEADS if any(name.startswith(f"{head}_head.") for name in shapes)]
    fields: dict[str, object] = {"heads": heads}
    for head in heads:
        if head == "camera":
            fields["camera_depth"] = _count(shapes, r"camera_head\.trunk\.(\d+)\.")
        else:
            levels = range(DENSE_LEVELS)
            fields["dense_channels"] = [shapes[f"{head}_head.projects.{level}.weight"][0] for level in levels]
            fields["dense_features"] = shapes[f"{head}_head.scratch.layer1_rn.weight"][0]
    return fields


def _count(shapes: Shapes, pattern: str) -> int:
    """How many modules of a list there are."""
    return 1 + max(int(match[1]) for name in shapes if (match := re.match(pattern, name)))
