"""Image sizes of the released GAP-MLLM checkpoints, to run them as they were trained and shipped. Not for new training.

Both start from the frame at width 518 (`vggt_images`, mode crop). Then
training   Qwen3-VL sees the left and top multiples of 32 pixels. VGGT sees all of it, made smaller, so that the same
           scene point is up to a quarter of a token further left or up. 640x480: 192 tokens a frame.
inference  frames first go through JPEG (quality 75). Qwen3-VL sees all of it, at multiples of 32 with at least 200,704
           pixels (its image processor's rule). VGGT sees the same at 14 pixels a patch. 640x480: 221 tokens a frame.

Certain, for 4:3: all sizes, Pillow's bicubic filter to width 518, a bilinear one for VGGT, which pixels training crops.
Inferred: that the bilinear one is torch's without antialiasing, that JPEG comes first, at the frame's own size and for
both encoders, that the processor resizes 8-bit pixels with Pillow's bicubic filter, and that other aspect ratios follow
the same rules. Where VGGT has an odd number of patch rows, its merger drops the last.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from gapmllm.model.vggt_images import SIDE, crop_image, scaled_side, stack_images

_TOKEN = 32  # pixels of Qwen3-VL a merged token
_MIN_PIXELS = 200_704
_JPEG_QUALITY = 75


def released_size(width: int, height: int, *, inference: bool) -> tuple[int, int]:
    """(rows, cols) of merged tokens for a frame of width x height pixels. Raises ValueError for a frame too wide."""
    shown = min(scaled_side(height, width), SIDE)
    if not inference:
        if shown < _TOKEN:
            raise ValueError(
                f"a frame of {width}x{height} pixels is {SIDE}x{shown} at the released size, {_TOKEN} rows are needed; "
                "crop it at the sides"
            )
        return shown // _TOKEN, SIDE // _TOKEN
    rows, cols = round(shown / _TOKEN), round(SIDE / _TOKEN)
    if rows * cols * _TOKEN**2 < _MIN_PIXELS:
        scale = math.sqrt(_MIN_PIXELS / (shown * SIDE))
        rows, cols = math.ceil(shown * scale / _TOKEN), math.ceil(SIDE * scale / _TOKEN)
    return rows, cols


def released_window(width: int, height: int, *, inference: bool) -> tuple[float, float, float]:
    """What Qwen3-VL sees of a frame: (top, width, height) in the frame's pixels; it begins at the left border."""
    full = scaled_side(height, width)
    rows, cols = released_size(width, height, inference=inference)
    shown = (SIDE, min(full, SIDE)) if inference else (cols * _TOKEN, rows * _TOKEN)
    return max(full - SIDE, 0) // 2 * height / full, shown[0] * width / SIDE, shown[1] * height / full


def released_visual(frames: Sequence[Image.Image], *, inference: bool) -> Tensor:
    """S RGB frames of one size -> (S, 3, H, W) float32 in [0, 1], what Qwen3-VL's tower sees."""
    rows, cols = released_size(*frames[0].size, inference=inference)
    size = (cols * _TOKEN, rows * _TOKEN)
    if inference:
        return stack_images([crop_image(_jpeg(frame)).resize(size, Image.Resampling.BICUBIC) for frame in frames])
    return stack_images([crop_image(frame).crop((0, 0, *size)) for frame in frames])


def released_geometry(frames: Sequence[Image.Image], *, inference: bool) -> Tensor:
    """S RGB frames of one size -> (S, 3, H, W) float32 in [0, 1], what VGGT sees; H and W are multiples of 14."""
    pixels = stack_images([crop_image(_jpeg(frame) if inference else frame) for frame in frames])
    height, width = pixels.shape[-2:]
    if inference:
        rows, cols = released_size(*frames[0].size, inference=True)
        height, width = rows * _TOKEN, cols * _TOKEN
    return interpolate(pixels, (height // 16 * 14, width // 16 * 14), mode="bilinear", align_corners=False)


def _jpeg(frame: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return Image.open(buffer).convert("RGB")
