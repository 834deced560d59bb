"""`gapmllm bench model` measures what it says."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from tiny_runs import let_questions_see_each_other
from torch.utils.flop_counter import FlopCounterMode

from gapmllm.bench.memory import peak_bytes
from gapmllm.bench.model import bench_model, room_clip
from gapmllm.bench.throughput import step_flops, take_turns
from gapmllm.cli.main import main
from gapmllm.model import GapMllm, build
from gapmllm.train.packing import pack

SMALL = {"frames": 4, "questions": 3, "new_tokens": 3, "repeats": 1, "device": "cpu", "memory_frames": 6}
MIB = 2**20


def run(monkeypatch, *flags, **options):
    """Exit status of `gapmllm bench model`."""
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    monkeypatch.setattr(sys, "argv", ["gapmllm", "bench", "model", *flags, *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_it_prints_and_writes(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, preset="debug", dtype="float32", **SMALL, out=tmp_path / "out.json") == 0
    assert "inference, shared, times as fast" in capsys.readouterr().out
    (figures,) = json.loads((tmp_path / "out.json").read_text())
    _check_speeds(figures)
    _check_memory(figures)


def _check_speeds(figures):
    assert figures["visual tokens"] == 4 * 12
    assert not figures["training, gradient checkpointing"]
    for what, name in (("training", "packed"), ("inference", "shared")):
        ratio = figures[f"{what}, {name}, questions/s"] / figures[f"{what}, one by one, questions/s"]
        assert figures[f"{what}, {name}, times as fast"] == pytest.approx(ratio)
    assert figures["training, packed, share of that"] > 0
    assert figures["training, losses differ by"] < 1e-5
    assert figures["inference, log-probabilities differ by"] < 1e-4
    assert figures["inference, equal answers"] == 3
    assert figures["inference, tokens made"] == 3 * 3


def _check_memory(figures):
    block = 6 * (48 + 5) * 96 * 4 / MIB  # frames, patches and special tokens, channels of frame and global attention
    assert figures["VGGT of 24 blocks, all kept, MiB"] == pytest.approx(24 * block)
    assert figures["VGGT of 24 blocks, 4 kept, MiB"] == pytest.approx(4 * block)
    assert figures["VGGT of 24 blocks, 4 kept, share"] == 1 / 6
    peaks = [figures[f"VGGT of 24 blocks, {kept} kept, peak, MiB"] for kept in ("all", 4)]
    assert peaks[0] - peaks[1] == pytest.approx(20 * block)
    assert 1 / 1.5 < figures["VGGT of 24 blocks, 4 kept, estimated, MiB"] / peaks[1] < 1.5
    assert 1 / 1.5 < figures["clip read, estimated, MiB"] / figures["clip read, peak, MiB"] < 1.5


def test_questions_that_see_each_other_would_be_noticed(monkeypatch):
    let_questions_see_each_other(monkeypatch)
    figures = bench_model("debug", **SMALL)
    assert figures["training, losses differ by"] > 1e-4
    assert figures["inference, log-probabilities differ by"] > 1e-3


def test_other_dtype_and_checkpointing(tmp_path, monkeypatch):
    enable, calls = GapMllm.activation_checkpointing_enable, []
    monkeypatch.setattr(GapMllm, "activation_checkpointing_enable", lambda model: calls.append(enable(model)))
    out = tmp_path / "out.json"
    assert run(monkeypatch, "--checkpointing", preset="debug", dtype="bfloat16", **SMALL, out=out) == 0
    (figures,) = json.loads(out.read_text())
    assert figures["preset"] == "debug, random weights, bfloat16"
    assert figures["training, gradient checkpointing"]
    assert len(calls) == 1


def test_what_cannot_run_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("gapmllm.bench.model.devices", lambda: ["cpu"])
    assert run(monkeypatch, preset="qwen3-vl-2b") == 2
    assert "qwen3-vl-2b in float32 has 19.2 GiB of weights and gradients and needs a GPU" in capsys.readouterr().err
    assert run(monkeypatch, device="gpu") == 2
    assert "device 'gpu': this machine has cpu" in capsys.readouterr().err
    monkeypatch.setattr("gapmllm.bench.model.free_memory", lambda _device: MIB)
    assert run(monkeypatch, preset="qwen3-vl-2b", device="cpu", dtype="bfloat16") == 2
    assert "9.6 GiB of weights and gradients; 0.0 GiB are free on cpu" in capsys.readouterr().err


def test_questions_come_again_where_there_are_too_few():
    clip, pairs = room_clip(build("debug"), 4, 300)
    assert clip.num_frames == 4
    count = pairs.index(pairs[0], 1)
    assert 50 < count == len(set(pairs)) < 300 == len(pairs)
    assert pairs[count:] == pairs[: 300 - count]


def test_a_step_needs_twice_as_much_backward_as_forward(clip_of):
    """Against torch's count of a real step, which on a CPU lacks attention; that is counted here by hand."""
    model = build("debug")
    model.train_only("align")
    clip = clip_of(model, 3)
    packed = pack([(clip, [("where is it?", "there"), ("which?", "the one by the bed")])], model.prompts)
    with FlopCounterMode(display=False) as counter:
        model(**packed.inputs(model)).loss.backward()
    patches, frames, width = 4 * clip.tokens_per_frame, 3, 48
    lengths = packed.segments[0].bincount().tolist()
    prefix, *asked = lengths
    pairs = prefix * (prefix + 1) // 2 + sum(n * prefix + n * (n + 1) // 2 for n in asked)
    llm = 4 * pairs * 64 * 4  # q.k and weights.v, two operations each; width; blocks
    tower = 4 * frames * patches**2 * width * 4
    seen = patches + 5
    vggt = 4 * (frames * seen**2 + (frames * seen) ** 2) * width * 4
    assert step_flops(model, packed) == pytest.approx(counter.get_total_flops() + 3 * llm + tower + vggt, rel=1e-9)


def test_live_bytes_by_hand():
    before = torch.zeros(1000)

    def work():
        before.add_(1)  # in place
        doubled = before.view(10, 100) * 2  # 4,000 bytes
        tripled = doubled + before.view(10, 100)  # 8,000
        del doubled  # 4,000
        return tripled.double().T  # 12,000; 8,000 of it are left

    result, peak = peak_bytes(work, torch.device("cpu"))
    assert peak == 12_000
    assert result[0, 0] == 3


def test_sides_take_turns():
    order = []
    results, seconds = take_turns({"a": lambda: order.append("a") or 1, "b": lambda: order.append("b") or 2}, 2)
    assert order == ["a", "b", "a", "b"]
    assert results == {"a": 1, "b": 2}
    assert seconds.keys() == results.keys()


@pytest.mark.parametrize("out", ["", "nowhere/figures.json"])
def test_a_place_that_cannot_be_written_is_told_before_the_run(monkeypatch, capsys, tmp_path, out):
    assert run(monkeypatch, preset="debug", out=tmp_path / out) == 2
    assert "a file in a folder that is there is needed" in " ".join(capsys.readouterr().err.replace("│", " ").split())
