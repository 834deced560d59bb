"""`gapmllm bench infer` measures what it says."""

from __future__ import annotations

import json
import sys

import pytest

from gapmllm.bench import infer as bench
from gapmllm.bench import video as video_bench
from gapmllm.cli.main import main
from gapmllm.infer import Describe, Detect, Ground, Locate, View

SMALL = {"preset": "debug", "frames": 4, "questions": 6, "repeats": 1, "device": "cpu", "video_seconds": 0}


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch):
    monkeypatch.setattr(bench, "TEXT_TOKENS", 4)
    monkeypatch.setattr(bench, "MOST_OBJECTS", 1)


@pytest.fixture
def run(monkeypatch):
    """Exit status of `gapmllm bench infer`."""

    def command(**options):
        arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        monkeypatch.setattr(sys, "argv", ["gapmllm", "bench", "infer", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    return command


def test_it_prints_and_writes(run, tmp_path, capsys):
    assert run(**SMALL, dtype="float32", out=tmp_path / "out.json") == 0
    assert "watch, together, times as fast" in capsys.readouterr().out
    (figures,) = json.loads((tmp_path / "out.json").read_text())
    assert figures["questions"] == "1 detect, 2 locate, 1 ground, 1 describe, 1 text"
    ratio = figures["watch, together, questions/s"] / figures["watch, one by one, questions/s"]
    assert figures["watch, together, times as fast"] == pytest.approx(ratio)
    assert figures["watch, together, seconds"] == pytest.approx(6 / figures["watch, together, questions/s"])
    assert figures["equal answers"] == 6
    assert figures["scores differ by"] < 1e-4
    assert figures["frames that groundings chose"] == 1
    watched, answered = (figures[f"memory, {what}, peak, MiB"] for what in ("watched", "watched and answered"))
    assert 0.5 < watched <= answered < 10
    assert figures["memory of the process, peak, MiB"] > 100
    assert not [name for name in figures if name.startswith("video")]


def test_the_mix_of_sixteen():
    pictures, asked = bench.room_questions(4, 16)
    assert len(pictures) == 4
    assert [type(question) for question in asked] == [
        Detect,
        *[Locate, Ground, Describe, str] * 3,
        Locate,
        Ground,
        Describe,
    ]
    assert len({repr(question) for question in asked}) == 16


def test_other_answers_would_be_noticed(monkeypatch):
    answer = View.answer

    def confused(view, questions, *rest):
        found = answer(view, questions, *rest)
        return found if len(questions) < 6 else [*found[:-1], "something else"]

    monkeypatch.setattr(View, "answer", confused)
    monkeypatch.setattr(bench, "peak_bytes", lambda work, device: (None, 0))
    assert bench.bench_infer(**SMALL)["equal answers"] == 5


def test_a_video_is_read_beside_bare_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(video_bench, "SIZE", (320, 240))
    figures = video_bench.bench_video(None, 2, 4, 1)
    bare, ours = figures["video, decoded bare, seconds"], figures["video, 4 frames, seconds"]
    assert figures["video, 4 frames, times as long"] == pytest.approx(ours / bare)
    assert figures["video"].startswith("2 s of 320x240, made, ")
    assert 20 < figures["video, decoded bare, peak of the process, MiB"] < 1024
    assert 20 < figures["video, 4 frames, peak of the process, MiB"] < 1024
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4: cannot be read: "):
        video_bench.bench_video(tmp_path / "text.mp4", 0, 4, 1)
