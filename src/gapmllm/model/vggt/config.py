"""The sizes of a VGGT. The defaults are those of VGGT-1B, as GAP-MLLM uses it: without heads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# name -> width, blocks, attention heads. Source: DINOv2 (arXiv 2304.07193).
DINOV2 = {
    "dinov2_vits14_reg": (384, 12, 6),
    "dinov2_vitb14_reg": (768, 12, 12),
    "dinov2_vitl14_reg": (1024, 24, 16),
}
HEADS = ("camera", "depth", "point")
DENSE_LEVELS = 4


@dataclass(frozen=True, kw_only=True)
class VggtConfig:
    """Checked when it is made; `VggtConfig(**config.to_dict())` is the same config."""

    img_size: int = 518
    """Side, in pixels, of the square that DINOv2's table of positions stands for; it is resized for other images."""
    patch_size: int = 14
    """Side of a patch, in pixels."""
    embed_dim: int = 1024
    """Channels of a token. What `aggregate` gives has twice as many: frame and global attention."""
    depth: int = 24
    """Pairs of a frame block and a global block."""
    num_heads: int = 16
    """Attention heads of these blocks."""
    mlp_ratio: float = 4.0
    """Inner width of these blocks' MLPs, in embed_dim."""
    num_register_tokens: int = 4
    """Register tokens of a frame, in the patch encoder and after it."""
    patch_embed: str = "dinov2_vitl14_reg"
    """Patch encoder: a DINOv2 with registers (vits, vitb, vitl), or "conv", a single convolution."""
    heads: tuple[str, ...] = ()
    """Which of "camera", "depth" and "point" to build."""
    camera_depth: int = 4
    """Blocks of the camera head."""
    camera_num_heads: int = 16
    """Attention heads of the camera head's blocks."""
    dense_layers: tuple[int, ...] = (4, 11, 17, 23)
    """Blocks that the depth and point heads read, shallow to deep, from 0."""
    dense_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    """Channels of these four levels at 4, 2, 1 and 1/2 times the resolution of the patches."""
    dense_features: int = 256
    """Channels at which the depth and point heads merge the four levels."""

    def __post_init__(self) -> None:
        for name in ("heads", "dense_layers", "dense_channels"):  # JSON has lists only
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_aggregator()
        self._check_heads()

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them, with lists for tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def patch_start(self) -> int:
        """Index of a frame's first patch token: the camera token and the registers stand before it."""
        return 1 + self.num_register_tokens

    def _check_aggregator(self) -> None:
        for name in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_register_tokens", "mlp_ratio"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.embed_dim % (4 * self.num_heads):
            raise ValueError(
                f"embed_dim {self.embed_dim} and num_heads {self.num_heads}: each head needs a multiple of 4 channels "
                f"(two for rows, two for columns), so embed_dim must be a multiple of {4 * self.num_heads}"
            )
        if self.patch_embed == "conv":
            return
        if self.patch_embed not in DINOV2:
            raise ValueError(f"patch_embed {self.patch_embed!r} is not known; choose from {', '.join(DINOV2)}, conv")
        width = DINOV2[self.patch_embed][0]
        if self.embed_dim != width:
            raise ValueError(f"embed_dim must be {width} with patch_embed {self.patch_embed!r}, got {self.embed_dim}")
        if self.img_size % self.patch_size:
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")

    def _check_heads(self) -> None:
        if len(set(self.heads)) != len(self.heads) or not set(self.heads) <= set(HEADS):
            raise ValueError(f"heads may hold each of {', '.join(HEADS)} once, got {self.heads}")
        if "camera" in self.heads and (self.camera_depth < 1 or 2 * self.embed_dim % self.camera_num_heads):
            raise ValueError(
                f"the camera head needs a block and 2 * embed_dim divisible by its heads, got camera_depth "
                f"{self.camera_depth}, embed_dim {self.embed_dim}, camera_num_heads {self.camera_num_heads}"
            )
        if {"depth", "point"} & set(self.heads):
            self._check_dense_heads()

    def _check_dense_heads(self) -> None:
        layers, channels = self.dense_layers, self.dense_channels
        if len(layers) != DENSE_LEVELS or not all(0 <= layer < self.depth for layer in layers):
            raise ValueError(f"dense_layers must be four blocks from 0 to {self.depth - 1}, got {layers}")
        if len(channels) != DENSE_LEVELS or any(count < 1 or count % 4 for count in channels):
            raise ValueError(f"dense_channels must be four multiples of 4 (sine, cosine; x, y), got {channels}")
        if self.dense_features < 1 or self.dense_features % 8:
            raise ValueError(f"dense_features must be a multiple of 8, got {self.dense_features}")
