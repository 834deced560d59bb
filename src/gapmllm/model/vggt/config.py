"""The sizes of a VGGT. The defaults are those of VGGT-1B, as GAP-MLLM uses it: without heads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

# name -> width, blocks, attention heads. Source: DINOv2 (arXiv 2304.07193).
DINOV2 = {
    "dinov2_vits14_reg": (384, 12, 6),
    "dinov2_vitb14_reg": (768, 12, 12),
    "dinov2_vitl14_reg": (1024, 24, 16),
}
CNN_PATCHES = (2, 4, 8, 16, 32)
HEADS = ("camera", "depth", "point")
DENSE_LEVELS = 4
COUNTS = (
    *("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_register_tokens"),
    *("camera_depth", "camera_num_heads", "dense_features"),
)


def check_counts(config: object, names: Iterable[str]) -> None:
    """ValueError unless these fields of a config are whole numbers, 1 or more."""
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or value < 1:  # bool is an int too
            raise ValueError(f"{name} must be positive, got {value!r}; a whole number is needed")


def check_list(config: object, name: str) -> None:
    """ValueError unless this field of a config is a list or a tuple."""
    if not isinstance(value := getattr(config, name), (list, tuple)):
        raise ValueError(f"{name} must be a list, got {value!r}")


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
    layer_scale: float = 0.01
    """Where the factors of the blocks' LayerScale start; small ones for depth, 1 for a few blocks."""
    patch_embed: str = "dinov2_vitl14_reg"
    """Patch encoder: a DINOv2 with registers (vits, vitb, vitl), "conv", a single convolution, or "cnn", a small
    residual network, which learns from few pictures."""
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
    is_metric: bool = False
    """Whether lengths are metres, as our own encoders learn them; those of the public weights are up to scale."""

    def __post_init__(self) -> None:
        for name in ("heads", "dense_layers", "dense_channels"):  # JSON has lists only
            check_list(self, name)
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_counts(self, COUNTS)
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
        if type(self.mlp_ratio) not in (int, float) or not 0 < self.mlp_ratio < inf:
            raise ValueError(f"mlp_ratio must be a positive number, got {self.mlp_ratio!r}")
        if self.embed_dim % (4 * self.num_heads):
            raise ValueError(
                f"embed_dim {self.embed_dim} and num_heads {self.num_heads}: each head needs a multiple of 4 channels "
                f"(two for rows, two for columns), so embed_dim must be a multiple of {4 * self.num_heads}"
            )
        if type(self.layer_scale) not in (int, float) or not 0 < self.layer_scale < inf:
            raise ValueError(f"layer_scale must be a positive number, got {self.layer_scale!r}")
        if self.patch_embed == "cnn" and self.patch_size not in CNN_PATCHES:
            raise ValueError(f"patch_size must be one of {CNN_PATCHES} with patch_embed 'cnn', got {self.patch_size}")
        if self.patch_embed in ("conv", "cnn"):
            return
        if self.patch_embed not in tuple(DINOV2):  # a tuple takes values that are no text as well
            raise ValueError(
                f"patch_embed {self.patch_embed!r} is not known; choose from {', '.join(DINOV2)}, conv, cnn"
            )
        width = DINOV2[self.patch_embed][0]
        if self.embed_dim != width:
            raise ValueError(f"embed_dim must be {width} with patch_embed {self.patch_embed!r}, got {self.embed_dim}")
        if self.img_size % self.patch_size:
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")

    def _check_heads(self) -> None:
        if any(head not in HEADS or self.heads.count(head) > 1 for head in self.heads):
            raise ValueError(f"heads may hold each of {', '.join(HEADS)} once, got {self.heads}")
        if "camera" in self.heads and 2 * self.embed_dim % self.camera_num_heads:
            raise ValueError(
                f"the camera head needs 2 * embed_dim divisible by its heads, got embed_dim {self.embed_dim}, "
                f"camera_num_heads {self.camera_num_heads}"
            )
        if {"depth", "point"} & set(self.heads):
            self._check_dense_heads()

    def _check_dense_heads(self) -> None:
        layers, channels = self.dense_layers, self.dense_channels
        if len(layers) != DENSE_LEVELS or not all(type(layer) is int and 0 <= layer < self.depth for layer in layers):
            raise ValueError(f"dense_layers must be four blocks from 0 to {self.depth - 1}, got {layers}")
        if len(channels) != DENSE_LEVELS or any(type(count) is not int or count < 1 or count % 4 for count in channels):
            raise ValueError(f"dense_channels must be four multiples of 4 (sine, cosine; x, y), got {channels}")
        if self.dense_features % 8:
            raise ValueError(f"dense_features must be a multiple of 8, got {self.dense_features}")
