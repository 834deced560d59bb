"""VGGT (arXiv 2503.11651): frames -> what they share in 3D. Tensor names are those of the public VGGT-1B checkpoint."""

from __future__ import annotations

from gapmllm.model.vggt.config import VggtConfig
from gapmllm.model.vggt.vggt import Vggt

__all__ = ["Vggt", "VggtConfig"]
