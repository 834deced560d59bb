"""The sizes of images, for training and inference alike: both encoders see the same picture in the same grid of tokens.

Qwen3-VL reads patches of 16 pixels, VGGT patches of 14; 2x2 patches make one token for the LLM. A frame that becomes
rows x cols tokens is shown to Qwen3-VL at rows*32 x cols*32 pixels and to VGGT at rows*28 x cols*28. Each is one resize
of the same original (Pillow, bicubic), without any crop, so a token is the same piece of the scene in both.
Shapes: S frames, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import floor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gapmllm.model.released_grid import released_geometry, released_size, released_visual, released_window
from gapmllm.model.vggt_images import check_picture, stack_images

ImageLike = Image.Image | NDArray[np.uint8]
"""A PIL image of mode RGB, or an array (H, W, 3) of uint8."""

MAX_STRETCH = 2
"""A frame is not shown with its aspect ratio changed by more than this factor."""
MAX_TOKENS = 16_384
"""Merged tokens of one frame, at most: the largest image that Qwen3-VL's own processor makes has 4096x4096 pixels."""
GRIDS = ("fit", "released", "released-inference")


@dataclass(frozen=True, eq=False)
class ClipPixels:
    """The frames of one clip as both encoders see them. Raises ValueError if pixels and sizes do not agree."""

    visual: Tensor
    """(S, 3, H, W) float32 in [0, 1]: for Qwen3-VL, rows * merge_size * patch_size pixels high."""
    geometry: Tensor
    """(S, 3, H, W) float32 in [0, 1]: for VGGT, as many patches; "released" may have a row more."""
    rows: int
    """Merged tokens of one frame, from top to bottom."""
    cols: int
    """Merged tokens of one frame, from left to right."""
    merge_size: int = 2
    """Patches along one side of a merged token."""
    patch_size: int = 16
    """Of Qwen3-VL's tower, pixels."""
    geometry_patch_size: int = 14
    """Of VGGT, pixels."""

    def __post_init__(self) -> None:
        token, geometry_token = self.merge_size * self.patch_size, self.merge_size * self.geometry_patch_size
        visual = (len(self.visual), 3, self.rows * token, self.cols * token)
        height, width = self.geometry.shape[-2:]
        tokens = (height // geometry_token, width // geometry_token)  # the merger drops half a token
        if self.visual.shape != visual or self.geometry.shape[:-2] != visual[:2] or tokens != (self.rows, self.cols):
            raise ValueError(
                f"a clip of {self.rows}x{self.cols} tokens, {self.merge_size}x{self.merge_size} patches of "
                f"{self.patch_size} and {self.geometry_patch_size} pixels, cannot have pixels of shapes "
                f"{tuple(self.visual.shape)} and {tuple(self.geometry.shape)}; let ImageGrid.prepare make it"
            )

    @property
    def num_frames(self) -> int:
        return len(self.visual)

    @property
    def tokens_per_frame(self) -> int:
        return self.rows * self.cols

    @property
    def num_tokens(self) -> int:
        return self.num_frames * self.tokens_per_frame

    def to(self, device: torch.device | str) -> ClipPixels:
        return replace(self, visual=self.visual.to(device), geometry=self.geometry.to(device))

    def grid_thw(self) -> Tensor:
        """(S, 3) int64, Qwen3-VL's `image_grid_thw`: 1, rows of patches, columns of patches; each frame is an image."""
        grid = [1, self.rows * self.merge_size, self.cols * self.merge_size]
        return torch.tensor([grid] * self.num_frames, device=self.visual.device)


def to_patches(visual: Tensor, patch_size: int, merge_size: int, temporal: int = 2) -> Tensor:
    """(S, 3, H, W) in [0, 1] -> (S * patches, 3 * temporal * patch_size^2) in [-1, 1], the rows Qwen3-VL's tower takes.

    H and W are multiples of patch_size * merge_size. Patches that are merged follow each other: rows are ordered by
    frame, token row, token column, patch row in the token, patch column; a row by channel, time, pixel row and column.
    Normalised with mean = std = 0.5; a still image fills all `temporal` moments.
    """
    frames, channels, height, width = visual.shape
    rows, cols = height // (patch_size * merge_size), width // (patch_size * merge_size)
    blocks = (visual * 2 - 1).reshape(frames, channels, rows, merge_size, patch_size, cols, merge_size, patch_size)
    patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    patches = patches.expand(*patches.shape[:6], temporal, *patches.shape[7:])
    return patches.reshape(frames * rows * cols * merge_size**2, channels * temporal * patch_size**2)


@dataclass(frozen=True, kw_only=True)
class ImageGrid:
    """Chooses the grid of tokens for a frame size and makes the pixels for it. Raises ValueError for bad fields.

    All frames are brought to the budget, smaller ones are enlarged: every clip of a data set costs about the same.
    """

    patch_size: int = 16
    """Of Qwen3-VL's tower, pixels."""
    geometry_patch_size: int = 14
    """Of VGGT, pixels."""
    merge_size: int = 2
    """Patches along one side of a merged token."""
    max_tokens: int = 192
    """Merged tokens of one frame, at most; the released grids have sizes of their own."""
    name: str = "fit"
    """"fit", or the sizes of the released checkpoints, as trained ("released") or as shipped ("released-inference")."""

    def __post_init__(self) -> None:
        if self.name not in GRIDS:
            raise ValueError(f"no image grid {self.name!r}, choose from {', '.join(GRIDS)}")
        sizes = (self.patch_size, self.geometry_patch_size, self.merge_size)
        if any(type(value) is not int or value < 1 for value in (*sizes, self.max_tokens)):
            raise ValueError(f"max_tokens, patch sizes and merge_size must be whole numbers from 1, got {self}")
        if self.max_tokens > MAX_TOKENS:
            raise ValueError(f"max_tokens is {self.max_tokens}, at most {MAX_TOKENS} a frame are allowed (Qwen3-VL's)")
        if self.name != "fit" and sizes != (16, 14, 2):
            raise ValueError(
                f'the grid "{self.name}" is for patches of 16 and 14 pixels merged 2x2, got {sizes}; use "fit"'
            )

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(rows, cols) of merged tokens for a frame of width x height pixels; rows * cols <= max_tokens ("fit").

        Of all grids the one whose coarser direction is finest: the smaller of cols / width and rows / height is as
        large as it can be; among equals the one that stretches the frame least. That grid maximises tokens / stretch.
        Raises ValueError for a frame smaller than one token, or so long that it would be stretched beyond MAX_STRETCH.
        """
        token = self.patch_size * self.merge_size
        if min(width, height) < token:
            raise ValueError(
                f"a frame of {width}x{height} pixels is too small, at least {token}x{token} are needed "
                f"(one token: {self.merge_size}x{self.merge_size} patches of {self.patch_size} pixels)"
            )
        if self.name != "fit":
            return released_size(width, height, inference=self._inference)
        return _finest_grid(width, height, self.max_tokens)

    def prepare(self, frames: Iterable[ImageLike], geometry_frames: Iterable[ImageLike] | None = None) -> ClipPixels:
        """S frames of one size -> their pixels for both encoders.

        geometry_frames: what VGGT sees, where `frames` have marks drawn in; the same number and size.
        Raises ValueError for no frames, unequal sizes, images that are damaged, animated, turned by EXIF or not 8-bit
        RGB, and what `size` refuses.
        """
        images = _images(frames, "frame")
        others = images if geometry_frames is None else _images(geometry_frames, "geometry frame")
        width, height = images[0].size
        if len(others) != len(images) or others[0].size != (width, height):
            raise ValueError(
                f"the geometry frames must show what the frames show, got {len(others)} of {_size(others[0])} pixels "
                f"for {len(images)} of {width}x{height}"
            )
        rows, cols = self.size(width, height)
        if self.name == "fit":
            visual = self._resized(images, rows, cols, self.patch_size)
            geometry = self._resized(others, rows, cols, self.geometry_patch_size)
        else:
            visual = released_visual(images, inference=self._inference)
            geometry = released_geometry(others, inference=self._inference)
        sizes = (self.merge_size, self.patch_size, self.geometry_patch_size)
        return ClipPixels(visual, geometry, rows, cols, *sizes)

    def token_of_pixel(self, x: float, y: float, width: int, height: int) -> tuple[int, int]:
        """(row, col) of the token that holds pixel (x, y) of a frame; (0, 0) is the centre of the top-left pixel.

        Raises ValueError for a pixel outside the frame, or in a part that a released grid crops away.
        """
        if not (0 <= x + 0.5 < width and 0 <= y + 0.5 < height):
            raise ValueError(
                f"pixel ({x}, {y}) lies outside a frame of {width}x{height} pixels; "
                f"x must be 0 to {width - 1} and y 0 to {height - 1}"
            )
        rows, cols = self.size(width, height)
        top, shown_width, shown_height = 0.0, float(width), float(height)
        if self.name != "fit":
            top, shown_width, shown_height = released_window(width, height, inference=self._inference)
        row, col = floor((y + 0.5 - top) * rows / shown_height), floor((x + 0.5) * cols / shown_width)
        if not (0 <= row < rows and 0 <= col < cols):
            raise ValueError(
                f'pixel ({x}, {y}) of {width}x{height} is cropped away by the grid "{self.name}"; use "fit"'
            )
        return row, col

    @property
    def _inference(self) -> bool:
        return self.name == "released-inference"

    def _resized(self, images: list[Image.Image], rows: int, cols: int, patch_size: int) -> Tensor:
        size = (cols * self.merge_size * patch_size, rows * self.merge_size * patch_size)
        return stack_images([image.resize(size, Image.Resampling.BICUBIC) for image in images])


def _finest_grid(width: int, height: int, max_tokens: int) -> tuple[int, int]:
    """Compares cols / width and rows / height, both times width * height, so that it is exact."""

    def fineness(grid: tuple[int, int]) -> tuple[int, int]:
        by_rows, by_cols = grid[0] * width, grid[1] * height
        return min(by_rows, by_cols), -max(by_rows, by_cols)

    # More columns than rows * width / height only stretch the frame.
    grids = [(rows, min(max_tokens // rows, -(-rows * width // height))) for rows in range(1, max_tokens + 1)]
    rows, cols = max(grids, key=fineness)
    coarse, fine = fineness((rows, cols))
    if -fine > MAX_STRETCH * coarse:
        needed = -(-max(width, height) // (MAX_STRETCH * min(width, height)))
        raise ValueError(
            f"a frame of {width}x{height} pixels is too long for max_tokens={max_tokens}: {rows}x{cols} tokens would "
            f"stretch it {-fine / coarse:.1f} times, at most {MAX_STRETCH} is allowed; crop it, "
            f"or set max_tokens to {needed} or more"
        )
    return rows, cols


def _images(frames: Iterable[ImageLike], what: str) -> list[Image.Image]:
    """Frames as RGB images of one size."""
    if isinstance(frames, (str, Image.Image)) or not isinstance(frames, Iterable):
        raise ValueError(
            f"a list of {what}s is needed (PIL images or arrays; open files first), got one {type(frames).__name__}: "
            f"{frames!r:.80}"
        )
    images = [_image(frame, f"{what} {index}") for index, frame in enumerate(frames)]
    if not images:
        raise ValueError(f"0 {what}s were given, at least 1 is needed")
    for index, image in enumerate(images):
        if image.size != images[0].size:
            raise ValueError(
                f"all {what}s of a clip must have one size, but {what} 0 has {_size(images[0])} pixels "
                f"and {what} {index} has {_size(image)}; resize or crop them first"
            )
    return images


def _image(frame: ImageLike, name: str) -> Image.Image:
    if isinstance(frame, np.ndarray):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(
                f"{name} is an array of {frame.dtype} {frame.shape}, uint8 (H, W, 3) RGB is needed: scale values to "
                "0..255, repeat a grey channel three times, drop an alpha channel with array[..., :3]"
            )
        return Image.fromarray(np.ascontiguousarray(frame))
    if not isinstance(frame, Image.Image):
        raise ValueError(
            f"{name} is a {type(frame).__name__}, a PIL image or an array is needed; "
            "open a file first: PIL.Image.open(path).convert('RGB')"
        )
    check_picture(frame, name)
    if frame.mode != "RGB":
        deep = frame.mode[0] in "IF"  # 16 or 32 bits; convert() would cut the values off at 255
        advice = "scale it to 8 bits first (is it a depth map?)" if deep else "use image.convert('RGB')"
        raise ValueError(f"{name} has mode {frame.mode}, 8-bit RGB is needed; {advice}")
    return frame


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
