"""What a GAP-MLLM is made of: transformers' Qwen3-VL config and what stands beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase, Qwen3VLConfig

from gapmllm.model.fusion import FUSIONS
from gapmllm.model.image_grid import GRIDS, ImageGrid
from gapmllm.model.tokenizer import IMAGE, VIDEO, VISION_END, VISION_START
from gapmllm.model.vggt.config import VggtConfig, check_counts, check_list

FUSION_NAMES = (*FUSIONS, "none")
LEVELS = ("all", "main")
TOKEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
"""Fields of the config and the special tokens whose ids they hold."""


class GapMllmConfig(Qwen3VLConfig):
    """Config of `GapMllm`, saved as config.json with model type "gapmllm".

    text_config, vision_config and the token ids are those of transformers' Qwen3VLConfig. Besides:
    """

    model_type = "gapmllm"

    geometry_config: dict[str, Any] | None = None
    """The fields of `VggtConfig`; None with fusion "none"."""
    geometry_layers: list[int] | tuple[int, ...] = (4, 11, 17, 23)
    """VGGT blocks to read, from 0, rising: one for each DeepStack level, shallow to deep, the last for the main
    visual embedding. Of these, fusion_levels "main" reads the last alone."""
    fusion: str = "gated"
    """How geometry is mixed into the visual tokens: gated (the paper), add, concat, weighted, cross_attention; none."""
    fusion_levels: str = "all"
    """"all": the main embedding and every DeepStack level (the paper); "main": the main embedding alone."""
    merger_hidden_size: int = 4096
    """Inner width of the geometry mergers."""
    image_grid: str = "fit"
    """"fit", or the sizes of the released models: "released" (as trained), "released-inference" (as shipped)."""
    max_frame_tokens: int = 192
    """Visual tokens of one frame, at most (image_grid "fit")."""
    mark_arm: float = 1 / 64
    """Arm of the crosses that mark points, as a share of the frame's width (paper: 10 of 640 pixels): what a model was
    trained with, it must be asked with."""
    score_temperatures: dict[str, float] | None = None
    """Task -> temperature of its scores (`gapmllm.infer.confidence`), fitted on held-out answers; missing: 1."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_list(self, "geometry_layers")
        check_counts(self, ("merger_hidden_size", "max_frame_tokens"))
        if type(self.mark_arm) not in (int, float) or not 0 < self.mark_arm < 0.5:
            raise ValueError(f"mark_arm must be a share of the frame's width between 0 and 0.5, got {self.mark_arm!r}")
        self._check_temperatures()
        self.geometry_layers = list(self.geometry_layers)
        if self.fusion_levels == "main":
            self.geometry_layers = self.geometry_layers[-1:]
        self._check_names()
        if self.fusion == "none":
            self.geometry_config, self.geometry_layers = None, []
            return
        self.geometry_config = VggtConfig(**(self.geometry_config or {})).to_dict()
        self._check_layers()

    def _check_temperatures(self) -> None:
        given = {} if self.score_temperatures is None else self.score_temperatures
        values = list(given.values()) if isinstance(given, dict) else [given]
        if any(type(value) not in (int, float) or not 0 < value < inf for value in values):
            raise ValueError(f"score_temperatures must map tasks to numbers above 0, got {given!r}")
        self.score_temperatures = given

    def _check_names(self) -> None:
        for field, names in (("fusion", FUSION_NAMES), ("fusion_levels", LEVELS), ("image_grid", GRIDS)):
            if getattr(self, field) not in names:
                raise ValueError(f"{field} {getattr(self, field)!r} is not known; choose from {', '.join(names)}")

    def _check_layers(self) -> None:
        needed = 1 if self.fusion_levels == "main" else len(self.vision_config.deepstack_visual_indexes) + 1
        layers, depth = self.geometry_layers, self.vggt.depth
        blocks = all(type(layer) is int and 0 <= layer < depth for layer in layers)
        if not blocks or len(layers) != needed or layers != sorted(set(layers)):
            raise ValueError(
                f"geometry_layers {layers}: {needed} rising block numbers from 0 to {depth - 1} are needed"
                f' (fusion_levels "{self.fusion_levels}")'
            )

    @classmethod
    def get_config_dict(cls, name: str | Path, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """transformers' reader of config.json; ValueError for another model family."""
        values, rest = super().get_config_dict(name, **kwargs)
        if (family := values.get("model_type")) != cls.model_type:
            raise ValueError(
                f'{name}: model type "{family}", "{cls.model_type}" is needed here; gapmllm.load opens released '
                "GAP-MLLM checkpoints and plain Qwen3-VL too"
            )
        return values, rest

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase, source: str | Path) -> None:
        """ValueError that lists where the tokenizer of `source` and this config do not mean the same token ids."""
        ids, size, found = tokenizer.get_vocab(), self.text_config.vocab_size, []
        for field, token in TOKEN_IDS.items():
            if ids[token] != (wanted := getattr(self, field)):
                found.append(f"{token} is {ids[token]} in the tokenizer, {field} is {wanted} in the config")
        if max(ids.values()) >= size:
            found.append(f"the tokenizer has ids up to {max(ids.values())}, the config a vocab_size of {size}")
        if found:
            raise ValueError("\n  ".join([f"{source}: tokenizer and config.json are not of one model", *found]))

    @property
    def vggt(self) -> VggtConfig:
        """The geometry encoder's config; ValueError where there is none."""
        if self.geometry_config is None:
            raise ValueError('this model has no geometry encoder (fusion "none")')
        return VggtConfig(**self.geometry_config)

    @property
    def grid(self) -> ImageGrid:
        """Decides the sizes of the frames, for training and inference alike."""
        vision = self.vision_config
        return ImageGrid(
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            geometry_patch_size=self.vggt.patch_size if self.geometry_config else VggtConfig.patch_size,
            max_tokens=self.max_frame_tokens,
            name=self.image_grid,
        )


@contextmanager
def config_errors(source: str | Path) -> Iterator[None]:
    """Whatever config classes and modules raise at values that cannot be -> a ValueError that names the source."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{source}: this config cannot be used: {kind}{error}") from error


AutoConfig.register("gapmllm", GapMllmConfig)
