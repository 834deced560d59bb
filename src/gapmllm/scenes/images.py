"""Encoded images in, arrays out, and back. Everything that decodes an image in this package goes through here.

Sizes are checked before a pixel is decoded, so that a small file cannot fill the memory.
"""

from __future__ import annotations

import io
import warnings
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000
"""Largest image that is decoded: 50 megapixels, the size of a large still camera."""

_FORMATS = ("JPEG", "PNG")  # Pillow would try dozens, and run other programs for some
_DEPTH_MODES = ("I;16", "I;16B", "I")
_REMEMBERED = 16
"""Images of which size and grey values are kept: those of a clip, whose questions and truth ask for them many times."""


class ImageError(ValueError):
    """An image that cannot be used; the message says why, the caller says which file."""


@lru_cache(maxsize=_REMEMBERED)
def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the header alone. Raises ImageError."""
    return _open(data).size


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Encoded image -> (H, W, 3) uint8 RGB. Raises ImageError for what is no image, truncated or too large."""
    return np.asarray(_decoded(_open(data), "RGB"), dtype=np.uint8)


@lru_cache(maxsize=_REMEMBERED)
def decode_gray16(data: bytes) -> NDArray[np.uint16]:
    """16-bit grey PNG -> (H, W) uint16, not to be written to. Raises ImageError, also for images of other kinds."""
    image = _open(data)
    if image.mode not in _DEPTH_MODES:
        raise ImageError(f"a 16-bit grey image was expected, got mode {image.mode} (is this a colour image?)")
    values = np.asarray(_decoded(image, None))
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 65_535:
        raise ImageError(f"a 16-bit grey image was expected, got values from {values.min()} to {values.max()}")
    grey = values.astype(np.uint16)
    grey.setflags(write=False)
    return grey


def decode_depth(data: bytes, scale: float) -> NDArray[np.float32]:
    """16-bit depth image -> (H, W) metres along z; 0 = unknown. scale: stored units per metre."""
    return (decode_gray16(data) / np.float64(scale)).astype(np.float32)


def encode_gray16(values: NDArray[np.uint16]) -> bytes:
    """(H, W) uint16 -> PNG."""
    return _encode(Image.fromarray(np.ascontiguousarray(values, dtype=np.uint16)), "PNG", compress_level=4)


def encode_depth(depth: NDArray[np.floating], scale: float) -> bytes:
    """(H, W) metres along z, 0 or NaN = unknown -> 16-bit PNG of round(depth * scale); too far to store = unknown."""
    units = np.rint(np.nan_to_num(np.asarray(depth, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0) * scale)
    return encode_gray16(np.where((units > 0) & (units <= 65_535), units, 0).astype(np.uint16))


def encode_image(pixels: NDArray[np.uint8], quality: int | None = 92) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG with full colour resolution; quality None: PNG, lossless."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if quality is None:
        return _encode(image, "PNG")
    return _encode(image, "JPEG", quality=quality, subsampling=0)


def srgb_to_linear(colors: ArrayLike) -> NDArray[np.float64]:
    """sRGB (..., 3), 0 to 255 -> linear RGB, 0 to 1. Source: IEC 61966-2-1."""
    values = np.asarray(colors, dtype=np.float64) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():  # Pillow's own bound is stated in our words below
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image in {' or '.join(_FORMATS)}: starts with {data[:8]!r}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"not an image that can be read: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width}x{image.height} pixels, at most {MAX_PIXELS} are decoded; scale it down first")
    return image


def _decoded(image: Image.Image, mode: str | None) -> Image.Image:
    try:
        image.load()
        return image if mode is None or image.mode == mode else image.convert(mode)
    except (OSError, ValueError, SyntaxError, AssertionError) as error:  # Pillow asserts, too
        raise ImageError(f"image is damaged: {error}") from error
