"""The layout of the released GAP-MLLM checkpoints: their config and the two names of their tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapmllm.model.config import GapMllmConfig
from gapmllm.model.weights import save_folder

if TYPE_CHECKING:
    from gapmllm.model.gapmllm import GapMllm

ARCHITECTURE = "Qwen3VLForConditionalGenerationWithVGGT"
# The released code registers these modules twice, under this name and under model.<name>: a file holds one or both.
TWICE = (
    "geometry_encoder.",
    "geometry_merger.",
    "geometry_deepstack_merger_list.",
    "feature_fusion.",
    "deepstack_feature_fusion_list.",
)
FIXED = {
    "use_geometry_encoder": True,
    "geometry_encoder_type": "vggt",
    "geometry_merger_type": "mlp",
    "reference_frame": "first",
}
"""Fields of the released config.json of which one value is supported."""
OWN = "gapmllm"
"""Key of config.json under which `save_released` puts what the released layout has no field for."""


def is_released(values: dict[str, Any]) -> bool:
    """Whether a config.json of model type qwen3_vl belongs to a GAP-MLLM."""
    return bool(values.get("use_geometry_encoder")) or ARCHITECTURE in (values.get("architectures") or [])


def released_config(values: dict[str, Any]) -> GapMllmConfig:
    """A released config.json -> ours. The geometry encoder is VGGT-1B unless `save_released` noted another.

    The image grid is the one of the released inference; set config.image_grid to "released" for that of its training.
    """
    for field, needed in FIXED.items():
        if values.get(field, needed) != needed:
            raise ValueError(f"config.json: {field} is {values[field]!r}; released checkpoints have {needed!r}")
    drop = {*FIXED, "model_type", "architectures", "feature_fusion_method", OWN}
    fields = {key: value for key, value in values.items() if key not in drop}
    own = {"image_grid": "released-inference", "geometry_config": {}, **values.get(OWN, {})}
    return GapMllmConfig(**fields, **own, fusion=values.get("feature_fusion_method", "gated"))


def own_name(name: str) -> str:
    """The name of a tensor in a file, in either naming -> ours."""
    inner = name.removeprefix("model.")
    return inner if inner.startswith(TWICE) else name


def save_released(model: GapMllm, folder: str | Path) -> None:
    """Write a model in the released layout: config.json and safetensors by the names without `model.`.

    VGGT's heads are left out: released checkpoints have none. The rest is as in `GapMllm.save_pretrained`.
    ValueError for a model without fusion at all levels.
    """
    config = model.config
    if config.fusion_levels != "all" or config.fusion == "none":
        raise ValueError(
            f"the released layout has fusion at all levels; this model has fusion "
            f'"{config.fusion}" at fusion_levels "{config.fusion_levels}". Use save_pretrained'
        )
    values = config.to_dict()
    own = ("geometry_config", "geometry_layers", "merger_hidden_size", "image_grid", "max_frame_tokens")
    values |= FIXED | {"model_type": "qwen3_vl", "architectures": [ARCHITECTURE]}
    values["feature_fusion_method"] = values.pop("fusion")
    values.pop("fusion_levels")
    values[OWN] = {field: values.pop(field) for field in own}
    values[OWN]["geometry_config"] |= {"heads": []}
    heads = tuple(f"geometry_encoder.vggt.{head}_head." for head in config.vggt.heads)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(heads)}
    save_folder(model, folder, values, tensors, "5GB")
