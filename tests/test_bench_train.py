"""`gapmllm bench train` measures what it says."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from tiny_runs import let_questions_see_each_other

from gapmllm.bench import train as bench
from gapmllm.cli.main import main
from gapmllm.model import PRESETS, build

SMALL = {"frames": 4, "questions": 3, "repeats": 1, "device": "cpu"}
MIB = 2**20


def run(monkeypatch, **options):
    """Exit status of `gapmllm bench train`."""
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    monkeypatch.setattr(sys, "argv", ["gapmllm", "bench", "train", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_it_prints_and_writes(tmp_path, monkeypatch, capsys):
    asked = []

    def log(recipe):
        asked.append((recipe.init, recipe.steps, recipe.workers, recipe.precision))
        rows = [{"seconds": 2.0, "wait": 0.5, "questions": 32, "memory": (100 + i) * MIB} for i in range(recipe.steps)]
        monkeypatch.setattr(bench, "read_rows", lambda _: rows)
        return True

    monkeypatch.setattr(bench, "train", log)
    options = SMALL | {"steps": 10, "memory_steps": 50, "dtype": "float32", "out": tmp_path / "out.json"}
    assert run(monkeypatch, preset="debug", **options) == 0
    assert asked == [("new debug", 50, 0, "float32"), ("new debug", 10, 1, "float32")]
    assert "step, packed, times as fast" in capsys.readouterr().out
    (figures,) = json.loads((tmp_path / "out.json").read_text())
    ratio = figures["step, packed, questions/s"] / figures["step, one question a row, questions/s"]
    assert figures["step, packed, times as fast"] == pytest.approx(ratio)
    assert figures["step, losses differ by"] < 1e-5
    assert figures["visual tokens"] == 4 * 12
    # By hand: the first fifth of each run is left out; 8 steps of two seconds, a quarter of which is waited.
    assert figures["run, steps after its start"] == 8
    assert figures["run, steps/s"] == 0.5
    assert figures["run, questions/s"] == 16
    assert figures["run, waiting for data, share"] == 0.25
    # 40 steps are left, from 110 MiB on; the first four of them, and the last four: a MiB a step.
    assert figures["memory, first steps of these, MiB"] == 111.5
    assert figures["memory, last steps, MiB"] == 147.5
    assert figures["memory, growth, KiB a step"] == 1024


def test_a_real_run_is_measured():
    rows = bench._run(build("debug"), "debug", steps=5, workers=0, rooms=1)
    assert [row["step"] for row in rows] == [2, 3, 4, 5]
    assert all(row["seconds"] > row["wait"] > 0 for row in rows)
    assert all(row["memory"] > MIB for row in rows)


def test_being_asked_to_stop_ends_the_command(monkeypatch):
    monkeypatch.setattr(bench, "train", lambda _: False)
    assert run(monkeypatch, preset="debug", **SMALL) == 130


def test_questions_that_see_each_other_would_be_noticed(monkeypatch):
    let_questions_see_each_other(monkeypatch)
    rows = [{"seconds": 1.0, "wait": 0.0, "questions": 1, "memory": 0}] * 2
    monkeypatch.setattr(bench, "_run", lambda *_, **__: rows)
    assert bench.bench_train("debug", **SMALL)["step, losses differ by"] > 1e-4


def test_presets_with_public_weights_are_not_run(monkeypatch):
    """A run from nothing would tell nothing about them."""
    monkeypatch.setitem(PRESETS, "debug", replace(PRESETS["debug"], base="somebody/something"))
    figures = bench.bench_train("debug", **SMALL)
    assert "step, packed, times as fast" in figures
    assert not [name for name in figures if name.startswith(("run", "memory"))]
