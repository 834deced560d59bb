"""Photos as the public VGGT prepares them: width 518, or larger side 518. Own models take theirs from `ImageGrid`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

SIDE = 518
"""Pixels, 37 patches."""
_PATCH = 14
_TURNED = range(2, 9)  # EXIF orientations; 1 is upright, others mean nothing


def vggt_images(images: Sequence[Image.Image], mode: Literal["crop", "pad"] = "crop") -> Tensor:
    """S pictures of mode RGB or RGBA, of any sizes -> (S, 3, H, W) float32 in [0, 1].

    crop: width 518, the height to scale, of which the middle 518 rows are kept. pad: the larger side 518.
    Smaller pictures are centred on white, up to the height of the highest (crop) or to 518x518 (pad); alpha is blended
    over white.
    Raises ValueError for no pictures, other modes, what `check_picture` refuses, and a side of less than half a patch.
    """
    if mode not in ("crop", "pad"):
        raise ValueError(f'mode must be "crop" or "pad", got {mode!r}')
    if not images:
        raise ValueError("0 images were given, at least 1 is needed")
    for index, image in enumerate(images):
        check_picture(image, f"image {index}")
    scaled = [(crop_image if mode == "crop" else _larger_side)(_over_white(image)) for image in images]
    width, height = (SIDE, SIDE) if mode == "pad" else (SIDE, max(image.height for image in scaled))
    return stack_images([_centred(image, width, height) for image in scaled])


def check_picture(image: Image.Image, name: str) -> None:
    """Reads the picture's file, if that is still to be done.

    ValueError, with the picture's name, for one that is damaged, holds several pictures, or lies on its side.
    """
    try:
        pictures = getattr(image, "n_frames", 1)
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:  # Pillow's decoders fail in many ways
        raise ValueError(f"{name} cannot be read: {type(error).__name__}: {error}; is its file whole?") from error
    if pictures > 1:
        raise ValueError(
            f"{name} holds {pictures} pictures; give them as a list, "
            "[one.convert('RGB') for one in PIL.ImageSequence.Iterator(image)], or one, image.convert('RGB')"
        )
    if orientation in _TURNED:  # turned here, its pixels would not be where the caller counts them
        raise ValueError(
            f"{name} lies on its side or is mirrored (EXIF orientation {orientation}); "
            "use PIL.ImageOps.exif_transpose(image), and pixel coordinates of the result"
        )


def stack_images(images: Sequence[Image.Image]) -> Tensor:
    """S RGB pictures of one size -> (S, 3, H, W) float32 in [0, 1], contiguous."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels.permute(0, 3, 1, 2).contiguous().float().div_(255)


def scaled_side(side: int, other: int) -> int:
    """The length that `side` gets where the `other` side becomes 518: to scale, rounded to whole patches of 14 pixels.

    Raises ValueError where less than half a patch would be left.
    """
    length = round(side * (SIDE / other) / _PATCH) * _PATCH
    if length == 0:
        raise ValueError(f"an image with sides of {side} and {other} pixels has nothing left at VGGT's size; crop it")
    return length


def crop_image(image: Image.Image) -> Image.Image:
    """An RGB picture at width 518, of which at most the middle 518 rows are left."""
    height = scaled_side(image.height, image.width)
    resized = image.resize((SIDE, height), Image.Resampling.BICUBIC)
    top = max(height - SIDE, 0) // 2
    return resized.crop((0, top, SIDE, top + min(height, SIDE)))


def _larger_side(image: Image.Image) -> Image.Image:
    width, height = image.size
    size = (SIDE, scaled_side(height, width)) if width >= height else (scaled_side(width, height), SIDE)
    return image.resize(size, Image.Resampling.BICUBIC)


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode != "RGBA":
        raise ValueError(f'an image of mode RGB or RGBA is needed, got {image.mode}; use image.convert("RGB")')
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _centred(image: Image.Image, width: int, height: int) -> Image.Image:
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas
