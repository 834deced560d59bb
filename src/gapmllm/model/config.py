"""What a GAP-MLLM is made of: transformers' Qwen3-VL config and what stands beside it."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, Qwen3VLConfig

from gapmllm.model.fusion import FUSIONS
from gapmllm.model.image_grid import GRIDS, ImageGrid
from gapmllm.model.vggt import VggtConfig

FUSION_NAMES = (*FUSIONS, "none")
LEVELS = ("all", "main")


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

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.geometry_layers = list(self.geometry_layers)
        if self.fusion_levels == "main":
            self.geometry_layers = self.geometry_layers[-1:]
        self._check_names()
        if self.fusion == "none":
            self.geometry_config, self.geometry_layers = None, []
            return
        self.geometry_config = VggtConfig(**(self.geometry_config or {})).to_dict()
        self._check_layers()

    def _check_names(self) -> None:
        for field, names in (("fusion", FUSION_NAMES), ("fusion_levels", LEVELS), ("image_grid", GRIDS)):
            if getattr(self, field) not in names:
                raise ValueError(f"{field} {getattr(self, field)!r} is not known; choose from {', '.join(names)}")

    def _check_layers(self) -> None:
        needed = 1 if self.fusion_levels == "main" else len(self.vision_config.deepstack_visual_indexes) + 1
        layers, depth = self.geometry_layers, self.vggt.depth
        rising = layers == sorted(set(layers)) and layers[0] >= 0 if layers else False
        if not rising or len(layers) != needed or layers[-1] >= depth:
            raise ValueError(
                f"geometry_layers {layers}: {needed} rising block numbers from 0 to {depth - 1} are needed"
                f' (fusion_levels "{self.fusion_levels}")'
            )

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


AutoConfig.register("gapmllm", GapMllmConfig)
