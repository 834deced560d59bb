"""Runs that take a second: the recipe, the command, the log without what the clock says, and a broken clip."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gapmllm.cli.main import main
from gapmllm.model.sequence import dense_mask
from gapmllm.train import batch
from gapmllm.train.metrics import FILE, read_rows
from gapmllm.train.samples import Samples

ROOMS = {"count": 2, "frames": 4, "width": 64, "height": 48}
CLOCK = ("seconds", "wait", "memory")
POISONED = "poisoned"


def tiny(out: Path, **changes: Any) -> dict[str, Any]:
    """A recipe. Two clips a step: questions about two small rooms, and the classes of their patches."""
    values = {
        "stage": "language",
        "out": str(out),
        "init": "new debug",
        "model": {"fusion": "none"},
        "steps": 6,
        "batch": 2,
        "data": {"frames": 2, "marks": 2, "questions": 2, "sources": [{"rooms": ROOMS, "tasks": {"looking": 1}}]},
        "losses": {"answers": 1, "classes": 1},
        "lr": 2e-3,
        "workers": 0,
        "save": {"every": 3},
        "evaluate": None,
    }
    return values | changes


def written(out: Path, **changes: Any) -> Path:
    """The recipe as a file, beside the folder of the run."""
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(tiny(out, **changes)), encoding="utf-8")
    return path


def status(*arguments: object) -> int:
    """Exit status of `gapmllm train arguments`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gapmllm", "train", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return end.value.code


def losses(out: Path) -> list[dict[str, Any]]:
    """Of each step all that must not depend on the clock or the machine's memory."""
    return [{name: row[name] for name in row if name not in CLOCK} for row in read_rows(out / FILE)]


def poison(number: int, put: Callable[[Any, str, Any], None] = setattr) -> None:
    """From now on one pixel of a run's clip of this number is no number, and its name says so."""
    draw, pixels = Samples.__getitem__, batch.sample_pixels

    def drawn(self, index):
        sample = draw(self, index)
        return replace(sample, clip=replace(sample.clip, id=POISONED)) if index == number else sample

    def broken(sample, config):
        clip = pixels(sample, config)
        if sample.clip.id == POISONED:
            clip.visual[0, 0, 0, 0] = clip.geometry[0, 0, 0, 0] = float("nan")
        return clip

    put(Samples, "__getitem__", drawn)
    put(batch, "sample_pixels", broken)


def let_questions_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the mask of packed rows: each token sees all before it, those of other questions too."""

    def causal(query, key, query_index, key_index):
        return (key_index <= query_index).expand_as(query == key)

    monkeypatch.setattr("gapmllm.model.sequence._sees", causal)
    monkeypatch.setattr("gapmllm.train.packing.PackedMask.of", lambda segments: dense_mask(segments, segments))
