"""16-bit PGM depth maps, as 3RScan has them.

Read here and not through Pillow, which stretches the values where the header's largest value is not 65535.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from gapmllm.scenes.images import MAX_PIXELS, ImageError

_GAP = rb"(?:\s|#[^\n]*\n)+"
_HEADER = re.compile(rb"P5" + 2 * (_GAP + rb"(\d{1,6})") + _GAP + rb"(\d{1,5})\s")


def read_pgm(data: bytes) -> NDArray[np.uint16]:
    """Binary PGM -> (H, W) of the stored values. Raises ImageError. Source: the netpbm manual, pgm(5)."""
    header = _HEADER.match(data)
    if header is None:
        raise ImageError("not a binary PGM image (P5)")
    width, height, largest = map(int, header.groups())
    kind = np.dtype(">u2" if largest > 255 else np.uint8)
    if width * height > MAX_PIXELS or largest > 65_535 or len(data) - header.end() < width * height * kind.itemsize:
        raise ImageError(f"a PGM image of {width}x{height} does not fit its {len(data)} bytes")
    pixels = np.frombuffer(data, dtype=kind, count=width * height, offset=header.end())
    return pixels.reshape(height, width).astype(np.uint16)
