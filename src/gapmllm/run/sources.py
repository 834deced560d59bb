"""What commands are given as text: a camera, a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gapmllm.geometry.camera import FloatArray
from gapmllm.model.presets import PRESETS, best_preset, is_trained


def trained_name(model: str | None) -> tuple[str, bool]:
    """The name to show for a model (a folder's own, without its place; None: the best in the package), and whether its
    weights are trained."""
    name = best_preset() if model is None else model
    if name in PRESETS:
        return name, is_trained(name)
    path = Path(name).expanduser()
    return (path.resolve().name if path.is_dir() else name), True


def read_camera(text: str) -> FloatArray:
    """(3, 3) intrinsics in pixels from "FX,FY,CX,CY" or the name of a text file with a 3x3 matrix."""
    path = Path(text)
    try:
        values = np.loadtxt(path, ndmin=2) if path.is_file() else np.array([float(part) for part in text.split(",")])
    except ValueError:
        values = np.zeros(0)
    if values.shape == (4,):
        fx, fy, cx, cy = values
        values = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    if values.shape != (3, 3):
        raise ValueError(f"--K {text}: FX,FY,CX,CY in pixels, or a text file with a 3x3 matrix, is needed")
    return values
