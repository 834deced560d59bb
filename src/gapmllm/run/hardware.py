"""What `gapmllm doctor` looks at in the machine: cores, GPU, memory, disk, and which model fits."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gapmllm.run.checks import Finding

GIB = 2**30
LEAST_MEMORY, LEAST_DISK = 1.0, 0.1
"""GiB that nothing works without."""
HUB_DISK = 10.0
"""GiB that the smallest public checkpoints (Qwen3-VL-2B and VGGT-1B) take."""
FRAMES, SIZE = 16, (640, 480)
"""The clip that a model must have room for."""
MOST = 0.9
"""Share of the free memory that a model and its clip may take."""


def cores() -> Iterator[Finding]:
    """Those that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("CPU cores", "ok", str(count))


def gpu() -> Iterator[Finding]:
    """GPUs that torch can use; a driver without them is told."""
    import torch

    if not torch.cuda.is_available():
        here = " although there is one" if shutil.which("nvidia-smi") else ""
        advice = "install torch for your CUDA version: https://pytorch.org/get-started" if here else ""
        yield Finding("GPU", "note", f"none that torch {torch.__version__} can use{here}: all runs on the CPU", advice)
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        with torch.cuda.device(number):
            kind = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16: load with dtype float16"
        yield Finding(f"GPU {number}", "ok", f"{about.name}, {about.total_memory / GIB:.1f} GiB, {kind}")


def memory() -> Iterator[Finding]:
    """Memory that is free."""
    import psutil

    state = psutil.virtual_memory()
    yield _enough("memory", state.available / GIB, LEAST_MEMORY, f" of {state.total / GIB:.1f}", "close other programs")


def disk() -> Iterator[Finding]:
    """The folder for temporary files, and the hub's cache. Nothing is fetched."""
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free / GIB
    yield _enough("temporary folder", free, LEAST_DISK, f" in {folder}", "make room, or set TMPDIR to another folder")

    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    parent = next(path for path in (cache, *cache.parents) if path.exists())
    free, models = shutil.disk_usage(parent).free / GIB, len(list(cache.glob("models--*")))
    found, advice = f"{cache}: {models} models, {free:.1f} GiB free", "set HF_HOME to a folder with room"
    if not os.access(parent, os.W_OK):
        yield Finding("hub cache", "note", f"{found}; cannot be written: no downloads", advice)
    elif free < HUB_DISK:
        yield Finding("hub cache", "note", f"{found}; the public models take {HUB_DISK:.0f} GiB and more", advice)
    else:
        yield Finding("hub cache", "ok", found)


def largest_model() -> Iterator[Finding]:
    """The largest preset whose weights and clip fit into the memory that is free, in the type that `load` chooses."""
    import torch

    from gapmllm.model import PRESETS, build
    from gapmllm.model.memory import estimate_memory, free_memory

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    free, sizes = free_memory(device), {}
    for name in PRESETS:
        model = build(name, device="meta", dtype=dtype)
        rows, cols = model.config.grid.size(*SIZE)
        weights = sum(parameter.nbytes for parameter in model.parameters())
        sizes[name] = weights + estimate_memory(model.config, FRAMES, rows, cols, dtype).peak
    fitting = [name for name, size in sizes.items() if size < MOST * free]
    clip = f"with {FRAMES} frames of {SIZE[0]}x{SIZE[1]} on {device}, {str(dtype).removeprefix('torch.')}"
    if fitting:
        best = max(fitting, key=sizes.__getitem__)
        text = f"{best}: {sizes[best] / GIB:.1f} of {free / GIB:.1f} GiB {clip}"
        yield Finding("largest model", "ok", text)
    else:
        yield Finding("largest model", "problem", f"none fits into {free / GIB:.1f} GiB {clip}", "free some memory")


def _enough(name: str, free: float, least: float, where: str, advice: str) -> Finding:
    """GiB that are free, and a problem if they are too few."""
    found = f"{free:.1f} GiB free{where}"
    if free >= least:
        return Finding(name, "ok", found)
    return Finding(name, "problem", f"{found}; needed is {least:g}", advice)
