"""Training: memory from the first step to the last; waiting for data; packed against one question a row."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.utils import clip_grad_norm_

from gapmllm.bench.memory import MIB
from gapmllm.bench.model import device_name, ready_model, room_clip
from gapmllm.bench.throughput import Pairs, rates, take_turns
from gapmllm.model import PRESETS, ClipPixels, GapMllm
from gapmllm.train.batch import Batch
from gapmllm.train.loop import train
from gapmllm.train.metrics import FILE, read_rows
from gapmllm.train.optimizer import make_optimizer
from gapmllm.train.packing import pack
from gapmllm.train.recipe import Recipe, recipe_of
from gapmllm.train.stages import Stage
from gapmllm.train.start import trained

_WARM = 0.2  # share of a run's steps: workers start, caches fill


def bench_train(
    preset: str = "nano",
    *,
    frames: int = 16,
    questions: int = 16,
    repeats: int = 3,
    steps: int = 40,
    memory_steps: int = 500,
    device: str | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Two real runs, then whole optimiser steps of the stage "align" on one clip, packed and not, in turn.

    The runs, of presets without public weights: `memory_steps` of "debug" in eight rooms, to see whether memory grows;
    `steps` of this preset, each in a new room, to see how long they wait for data. device, dtype: default as
    `gapmllm.load`; ValueError as `bench_model`'s.
    """
    model = ready_model(preset, device, dtype)
    figures: dict[str, Any] = {"preset": f"{preset}, random weights", "device": device_name(model.device)}
    if PRESETS[preset].base is None:
        # Memory first: later what others let go of would be taken before the process grows.
        figures |= _memory(_run(model, "debug", memory_steps, workers=0, rooms=8))
        figures |= _waiting(_run(model, preset, steps, workers=1, rooms=steps))
    clip, pairs = room_clip(model, frames, questions)
    sizes = {"frames": frames, "visual tokens": clip.num_tokens, "questions": questions}
    return figures | sizes | _packing(model, clip, pairs, repeats)


def _packing(model: GapMllm, clip: ClipPixels, pairs: Pairs, repeats: int) -> dict[str, Any]:
    recipe = _recipe("unused", "debug", "float32", steps=1, workers=0, rooms={})
    stage = Stage(model.train(), recipe)
    optimizer = make_optimizer(stage, recipe)
    alone = _batch(model, [(clip, [pair]) for pair in pairs])
    rows = {"one question a row": alone, "packed": _batch(model, [(clip, pairs)])}

    def step(batch: Batch) -> Callable[[], float]:
        def run() -> float:
            loss = stage(batch, batch.counts).loss
            loss.backward()
            clip_grad_norm_(trained(stage).values(), recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return run

    with torch.no_grad():
        losses = [stage(batch, batch.counts).loss.item() for batch in rows.values()]
    sides = {name: step(batch) for name, batch in rows.items()}
    for side in sides.values():
        side()  # the first time takes longer
    _, seconds = take_turns(sides, repeats)
    return rates("step", seconds, len(pairs)) | {"step, losses differ by": abs(losses[0] - losses[1])}


def _batch(model: GapMllm, rows: list[tuple[ClipPixels, Pairs]]) -> Batch:
    assert model.prompts is not None
    packed = pack(rows, model.prompts)
    return Batch(
        clips=packed.clips,
        pack=packed,
        rows=tuple(range(len(rows))),
        targets=({},) * len(rows),
        counts={"answers": float(packed.num_answer_tokens)},
        tasks=("points",) * len(rows),
        names=("bench",) * len(rows),
        questions=sum(len(pairs) for _, pairs in rows),
    ).to(model.device)


def _recipe(out: str, preset: str, precision: str, steps: int, workers: int, rooms: dict[str, Any]) -> Recipe:
    """Points, as the embedded model learns them."""
    rooms = {"frames": 16, "width": 128, "height": 96} | rooms
    return recipe_of(
        {
            "stage": "align",
            "out": out,
            "init": f"new {preset}",
            "steps": steps,
            "batch": 8,
            "data": {"clips_per_scene": 8, "sources": [{"rooms": rooms, "tasks": {"points": 1}}]},
            "lr": 1e-3,
            "precision": precision,
            "workers": workers,
            "evaluate": None,
        },
        "bench",
    )


def _run(model: GapMllm, preset: str, steps: int, workers: int, rooms: int) -> list[dict[str, Any]]:
    """The log of a real run where and as precise as the model is, from where it is warm."""
    device, kind = model.device.type, str(model.dtype).removeprefix("torch.")
    where = {"ACCELERATE_USE_CPU": str(device == "cpu").lower()}
    with patch.dict(os.environ, where), TemporaryDirectory() as folder:
        if not train(_recipe(folder, preset, kind, steps, workers, {"count": rooms, "device": device})):
            raise KeyboardInterrupt  # the run has taken note of it, and ended well
        return list(read_rows(Path(folder) / FILE))[round(_WARM * steps) :]


def _waiting(rows: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = sum(row["seconds"] for row in rows)
    return {
        "run, steps after its start": len(rows),
        "run, steps/s": len(rows) / seconds,
        "run, questions/s": sum(row["questions"] for row in rows) / seconds,
        "run, waiting for data, share": sum(row["wait"] for row in rows) / seconds,
    }


def _memory(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of this process, which prepares its batches itself; a tenth of the steps at each end."""
    few = max(1, len(rows) // 10)
    first, last = (mean(row["memory"] for row in some) / MIB for some in (rows[:few], rows[-few:]))
    return {
        "memory, steps of a debug run after its start": len(rows),
        "memory, first steps of these, MiB": first,
        "memory, last steps, MiB": last,
        "memory, growth, KiB a step": 1024 * (last - first) / (len(rows) - few),
    }
