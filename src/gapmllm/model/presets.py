"""The sizes that have a name: configurations, and the public checkpoints that belong to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from gapmllm.model.config import GapMllmConfig, config_errors

FOLDER = Path(__file__).parent / "shipped"
TOKENIZER = FOLDER / "tokenizer"
"""The small tokenizer of `debug` and `nano`; made by `gapmllm data tokenizer`."""


@dataclass(frozen=True)
class Preset:
    """A size with a name. base: the hub id of the Qwen3-VL that it starts from, None where nothing public exists."""

    make: Callable[[], GapMllmConfig]
    base: str | None


def _qwen(
    *,
    hidden: int,
    layers: int,
    heads: int,
    intermediate: int,
    tied: bool = True,
    vision: dict[str, Any] | None = None,
) -> GapMllmConfig:
    """The released Qwen3-VL sizes beside VGGT-1B."""
    tower: dict[str, Any] = {"depth": 24, "hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096}
    tower |= {"deepstack_visual_indexes": [5, 11, 17], "out_hidden_size": hidden}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    return GapMllmConfig(
        text_config={
            "model_type": "qwen3_vl_text",
            "vocab_size": 151_936,
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": intermediate,
            "max_position_embeddings": 262_144,
            "rope_parameters": rope,
        },
        vision_config={"model_type": "qwen3_vl_vision", **tower, **(vision or {})},
        geometry_config={},
        tie_word_embeddings=tied,
        eos_token_id=151_645,
        pad_token_id=151_643,
    )


def _small(
    *,
    patch: int = 8,
    merge: int = 2,
    text: dict[str, Any],
    tower: dict[str, Any],
    geometry: dict[str, Any],
    **fields: Any,
) -> GapMllmConfig:
    """A size of our own, with the small tokenizer. patch: pixels of the tower's; merge x merge of them make a token."""
    width, head = text["hidden_size"], text["head_dim"]
    sections = [head // 2 - 2 * (head // 6), head // 6, head // 6]  # time, row, column share the rotary pairs
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections, "mrope_interleaved": True}
    vision = {"model_type": "qwen3_vl_vision", "patch_size": patch, "spatial_merge_size": merge}
    vision["num_position_embeddings"] = (12 * merge) ** 2
    ids = small_token_ids()
    return GapMllmConfig(
        text_config={
            "model_type": "qwen3_vl_text",
            "vocab_size": ids.pop("vocab_size"),
            "max_position_embeddings": 32_768,
            "rope_parameters": rope,
            **text,
        },
        vision_config={**vision, "out_hidden_size": width, **tower},
        geometry_config={"patch_embed": "conv", "img_size": 112, "is_metric": True, **geometry},
        tie_word_embeddings=True,
        mark_arm=0.04,  # about half a token; a cross over a tenth of one is not learned at this size
        **ids,
        **fields,
    )


def _debug() -> GapMllmConfig:
    """All parts at the smallest size, for tests and trials: under a second for anything."""
    return _small(
        text={
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 128,
        },
        tower={
            "depth": 4,
            "hidden_size": 48,
            "num_heads": 4,
            "intermediate_size": 96,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        geometry={
            "patch_size": 7,
            "embed_dim": 48,
            "depth": 4,
            "num_heads": 4,
            "heads": ["camera", "depth"],
            "camera_depth": 1,
            "camera_num_heads": 4,
            "dense_layers": [0, 1, 2, 3],
            "dense_channels": [8, 16, 24, 24],
            "dense_features": 16,
        },
        geometry_layers=[0, 1, 2, 3],
        merger_hidden_size=96,
        max_frame_tokens=12,
    )


def _nano() -> GapMllmConfig:
    """11 M parameters, chosen for training on two CPU cores.

    The work is in the tokens, so frames are small, and a patch is a token: 128 x 96 pixels make 6 x 8 patches of 16
    pixels. Patches of 8 that are merged 2x2 give as many tokens for four times the work in both encoders. VGGT has 4
    pairs of blocks 192 wide. The LLM is 192 wide and 6 deep: the three levels of DeepStack enter its first half, three
    layers are left to answer.
    """
    return _small(
        patch=16,
        merge=1,
        text={
            "hidden_size": 192,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 48,
            "intermediate_size": 512,
            "initializer_range": 0.05,
        },
        tower={
            "depth": 6,
            "hidden_size": 128,
            "num_heads": 4,
            "intermediate_size": 384,
            "initializer_range": 0.05,
            "deepstack_visual_indexes": [2, 3, 4],
        },
        geometry={
            "patch_size": 16,
            "patch_embed": "cnn",
            "layer_scale": 1.0,
            "embed_dim": 192,
            "depth": 4,
            "num_heads": 6,
            "heads": ["camera", "depth"],
            "camera_depth": 1,
            "camera_num_heads": 6,
            "dense_layers": [0, 1, 2, 3],
            "dense_channels": [24, 32, 48, 48],
            "dense_features": 16,
        },
        geometry_layers=[0, 1, 2, 3],
        merger_hidden_size=384,
        max_frame_tokens=48,
    )


PRESETS = {
    "debug": Preset(_debug, None),
    "nano": Preset(_nano, None),
    "qwen3-vl-2b": Preset(  # the paper's size
        partial(_qwen, hidden=2048, layers=28, heads=16, intermediate=6144), "Qwen/Qwen3-VL-2B-Instruct"
    ),
    "qwen3-vl-4b": Preset(
        partial(_qwen, hidden=2560, layers=36, heads=32, intermediate=9728), "Qwen/Qwen3-VL-4B-Instruct"
    ),
    "qwen3-vl-8b": Preset(
        partial(
            _qwen,
            hidden=4096,
            layers=36,
            heads=32,
            intermediate=12_288,
            tied=False,
            vision={
                "depth": 27,
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "deepstack_visual_indexes": [8, 16, 24],
            },
        ),
        "Qwen/Qwen3-VL-8B-Instruct",
    ),
}


def preset_config(name: str, **fields: Any) -> GapMllmConfig:
    """The config of a preset; `fields` replace its own. ValueError for names that are none of its fields."""
    if name not in tuple(PRESETS):  # a tuple takes values that are no text as well
        raise ValueError(f"no preset {name!r}; choose from {', '.join(PRESETS)}")
    return with_fields(PRESETS[name].make(), f"preset {name}", fields)


def with_fields(config: GapMllmConfig, source: str | Path, fields: dict[str, Any]) -> GapMllmConfig:
    """A config with some fields replaced. ValueError that names the source for what is no field or cannot be."""
    if not fields:
        return config
    values = config.to_dict()
    for field in fields.keys() - values.keys():
        close = get_close_matches(field, values, n=1)
        raise ValueError(f"the config has no field {field!r}" + "".join(f"; is {match!r} meant?" for match in close))
    with config_errors(source):
        return GapMllmConfig(**{**values, **fields})


def is_trained(name: str | Path) -> bool:
    """False for a preset whose weights are not in this package: they are random."""
    return name not in PRESETS or PRESETS[str(name)].base is not None or (FOLDER / name / "config.json").exists()


def best_preset() -> str:
    """The best model in this package: "nano" where its weights are, else "debug", which is random."""
    return "nano" if is_trained("nano") else "debug"


def small_token_ids() -> dict[str, int]:
    """Fields of the config that follow from the small tokenizer."""
    tokenizer = json.loads((TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return {
        "vocab_size": 1 + max(*tokenizer["model"]["vocab"].values(), *special.values()),
        "image_token_id": special["<|image_pad|>"],
        "video_token_id": special["<|video_pad|>"],
        "vision_start_token_id": special["<|vision_start|>"],
        "vision_end_token_id": special["<|vision_end|>"],
        "eos_token_id": special["<|im_end|>"],
        "pad_token_id": special["<|endoftext|>"],
    }
