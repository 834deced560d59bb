"""A user's pictures, of more kinds than recordings hold: any of them becomes upright 8-bit RGB, or is refused in words.

Recordings are read by `images.py`, as they are: a turned or converted picture would no longer fit its camera.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from gapmllm.scenes.images import MAX_PIXELS, ImageError
from gapmllm.scenes.importers.base import read_bytes

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")  # Pillow knows dozens more, and runs other programs for some
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"BM")
_BROKEN = (OSError, ValueError, SyntaxError, LookupError, TypeError, AssertionError, EOFError, struct.error)


@dataclass(frozen=True, eq=False)
class Picture:
    """What is looked at."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB, upright."""
    notes: tuple[str, ...] = ()
    """What was converted, in words."""


def is_picture(path: Path) -> bool:
    """Whether a file is meant as a picture: by its first bytes, or at least by its name."""
    with path.open("rb") as stream:
        head = stream.read(12)
    return head.startswith(_STARTS) or head[8:12] == b"WEBP" or path.suffix.lower() in SUFFIXES


def read_picture(source: Path | Image.Image | NDArray[Any]) -> Picture:
    """A file, a PIL image or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of 8 or 16 bits.

    Orientation by EXIF is applied, what is transparent becomes white, 16 bits are scaled to 8. Raises ValueError for
    what is none, damaged, too large or of floating point values; OSError.
    """
    if isinstance(source, Path):
        return _converted(_opened(read_bytes(source)))
    return _converted(source) if isinstance(source, Image.Image) else _from_array(source)


def _opened(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():  # Pillow's own bound is stated in our words below
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        what = f"starts with {data[:8]!r}" if data else "the file is empty"
        raise ImageError(f"not a picture in {', '.join(FORMATS)} ({what}); convert it to one of them") from error
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise ImageError(f"not a picture that can be read: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width}x{image.height} pixels, at most {MAX_PIXELS} are decoded; scale it down first")
    return image


def _converted(image: Image.Image) -> Picture:
    try:
        with warnings.catch_warnings():  # of odd metadata
            warnings.simplefilter("ignore")
            image.load()
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            return _from_array(np.asarray(image).astype(np.uint16))
        if image.mode[-1] in "Aa" or "transparency" in image.info:
            return _from_array(np.asarray(image.convert("RGBA")))
        if image.mode not in ("I", "F"):
            notes = ("CMYK was converted to RGB: colours are approximate",) if image.mode == "CMYK" else ()
            return Picture(np.asarray(image.convert("RGB"), dtype=np.uint8), notes)
    except _BROKEN as error:
        raise ImageError(f"the picture is damaged: {error}") from error
    raise ImageError("32 bits a value (HDR, or a depth image); convert it to 8 or 16 bits first")


def _from_array(values: NDArray[Any]) -> Picture:
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or not values.size:
        raise ValueError(f"an array (height, width, 3) was expected, got shape {values.shape}")
    notes = []
    if values.dtype == np.uint16:
        notes.append("16-bit values were scaled to 8 bits" + " (is it a depth image?)" * (values.shape[2] == 1))
        values = (values / 257).round().astype(np.uint8)
    if values.dtype != np.uint8:
        raise ValueError(f"an array of uint8 or uint16 was expected, got {values.dtype}; scale it to 0 to 255 first")
    if values.shape[2] == 4:
        alpha = values[..., 3:] / 255
        if alpha.min() < 1:
            notes.append("transparent parts became white")
        values = (values[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    own = np.array(np.broadcast_to(values, (*values.shape[:2], 3)))  # the caller may go on writing to the other
    return Picture(own, tuple(notes))
