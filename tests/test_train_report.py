"""What a run tells: lines and bars, logs of each process, rows that come once, TensorBoard, memory, the profile."""

from __future__ import annotations

import io
import json
import logging
import mmap
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from gapmllm.train import display, logs
from gapmllm.train.display import Display, workers_memory
from gapmllm.train.logs import LOG, logged
from gapmllm.train.loop import train
from gapmllm.train.metrics import RowLog, read_rows
from gapmllm.train.parallel import accelerator_for
from gapmllm.train.profiling import LEARN, REST, STEP, UPDATE, WAIT, Profile
from gapmllm.train.recipe import recipe_of
from gapmllm.train.report import Report, memory

ROOMS = {"rooms": {"count": 2, "frames": 4, "width": 128, "height": 96}}


def recipe(tmp_path, **changes):
    values = {
        "stage": "align",
        "out": str(tmp_path / "run"),
        "init": "new debug",
        "steps": 6,
        "batch": 1,
        "lr": 1e-3,
        "workers": 0,
        "data": {"marks": 2, "sources": [ROOMS | {"tasks": {"points": 1}}]},
        "evaluate": None,
    }
    return recipe_of(values | changes, "test")


def row(step, loss=2.0, **changes):
    """Four questions, eight frames and 600 tokens in half a second, a tenth of it spent waiting."""
    values = {"step": step, "loss": loss, "losses": {"answers": loss}, "tasks": {"points": loss}, "gradient": 1.0}
    values |= {"questions": 4, "frames": 8, "tokens": 600, "lr": {"llm": 0.5}, "seconds": 0.5, "wait": 0.05}
    return values | changes


def process(rank=0, processes=2):
    """As much of an Accelerator as logs and profiles look at."""
    return SimpleNamespace(
        process_index=rank, num_processes=processes, is_main_process=rank == 0, device=torch.device("cpu")
    )


def read(tmp_path, name):
    return (tmp_path / "run" / name).read_text(encoding="utf-8")


# Rows


def test_a_resumed_run_has_every_step_once(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    for start, last, loss in ((0, 5, 1.0), (3, 6, 2.0)):
        with accelerator_for(recipe(tmp_path)) as accelerator, Report(recipe(tmp_path), accelerator, start) as report:
            for step in range(start + 1, last + 1):
                report.step(row(step, loss))
        with path.open("a") as file:
            file.write('{"step": 99, "lo')  # killed while it wrote
    assert [(found["step"], found["loss"]) for found in read_rows(path)] == [
        *((step, 1.0) for step in (1, 2, 3)),
        *((step, 2.0) for step in (4, 5, 6)),
    ]
    RowLog(path, 0).close()  # a run that starts anew
    assert list(read_rows(path)) == []


def test_an_evaluation_that_comes_again_takes_the_place_of_the_first(tmp_path):
    for start, evaluated in ((0, {0: 1.0, 2: 1.0, 4: 1.0}), (3, {4: 2.0, 6: 2.0}), (6, {6: 3.0})):
        with accelerator_for(recipe(tmp_path)) as accelerator, Report(recipe(tmp_path), accelerator, start) as report:
            for step, score in evaluated.items():
                report.evaluation(step, {"points/within_0.25m": score})
    found = [json.loads(line) for line in read(tmp_path, "evaluation.jsonl").splitlines()]
    assert [(one["step"], one["scores"]["points/within_0.25m"]) for one in found] == [(0, 1), (2, 1), (4, 2), (6, 3)]


# The terminal and the logs


def lines_of(tmp_path, capsys, steps=4):
    """What a terminal that is none gets."""
    with logged(recipe(tmp_path), process()):
        shown = Display("align", steps, 0, bar=True)
        for step in range(1, steps + 1):
            tasks = {"points": 2.0 * step, "detection": 1.0} if step % 2 else {"points": 2.0 * step}
            shown.step(row(step, loss=2.0 * step, tasks=tasks, memory=1_500_000_000))
        shown.close()
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_without_a_terminal_there_is_a_line_now_and_then(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(display, "workers_memory", lambda: 0)  # other tests may have left some
    first, last = lines_of(tmp_path, capsys)
    # means by hand: (2 + 4 + 6 + 8) / 4 = 5; detection was asked in two steps; 16 questions in 2 s
    assert first.startswith("step 1/4, 0:00:02 left · loss 2 ·")
    assert last == (
        "step 4/4, 0:00:00 left · loss 5 · detection 1, points 5 · 8 questions/s, 16 frames/s, 1.2k tokens/s · "
        "10% waiting for data · 1.50 GB"
    )
    logged_lines = read(tmp_path, "logs/rank-0.log").splitlines()
    assert [line.partition(" INFO ")[2] for line in logged_lines[1:]] == [first, last]
    monkeypatch.setattr(display, "EVERY", 0.0)
    assert len(lines_of(tmp_path, capsys)) == 4


def test_a_terminal_has_a_bar_and_lines_above_it_and_the_log_has_the_numbers(tmp_path, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None, _environ={"TERM": "xterm"})
    monkeypatch.setattr(logs, "TERMINAL", console)
    monkeypatch.setattr(display, "TERMINAL", console)
    with logged(recipe(tmp_path), process()):
        shown = Display("align", 3, 0, bar=True)
        for step in (1, 2):
            shown.step(row(step, memory=10**9))
        LOG.info("stopped after step 2")
        shown.close()
    text = screen.getvalue()
    assert "2/3 0:00:00 left" in text  # half a second, to the even second
    assert "8 questions/s" in text
    assert "step 2/3" not in text  # the bar says it
    assert text.index("stopped after step 2") < text.rindex("━")
    assert text.endswith("\x1b[?25h")  # the cursor is back
    assert "step 2/3" in read(tmp_path, "logs/rank-0.log")


def test_each_process_has_its_log_and_only_the_main_one_speaks(tmp_path, capsys):
    before = list(logging.getLogger().handlers), warnings.showwarning, LOG.level
    for rank in (0, 1):
        with pytest.raises(ValueError, match="no such"), logged(recipe(tmp_path), process(rank)):  # noqa: PT012
            LOG.info(f"said by {rank}")
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(f"warned by {rank}", stacklevel=1)
            logging.getLogger("another.package").warning(f"logged by {rank}")
            raise ValueError(f"no such thing in {rank}")
        found = read(tmp_path, f"logs/rank-{rank}.log")
        for text in (f"process {rank} of 2", f"said by {rank}", f"UserWarning: warned by {rank}", f"logged by {rank}"):
            assert text in found
        assert f"ValueError: no such thing in {rank}" in found
        assert f"by {1 - rank}" not in found
    err = capsys.readouterr().err
    assert "said by 0" in err
    assert "warned by 0" in err
    assert "no such thing" not in err  # whoever called tells it
    assert "by 1" not in err
    assert (list(logging.getLogger().handlers), warnings.showwarning, LOG.level) == before
    LOG.info("afterwards")
    assert "afterwards" not in read(tmp_path, "logs/rank-1.log")


# TensorBoard


def test_tensorboard_has_every_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked = recipe(tmp_path, track="tensorboard")
    for start, last, loss in ((0, 5, 1.0), (3, 6, 2.0)):
        with accelerator_for(tracked) as accelerator, Report(tracked, accelerator, start) as report:
            for step in range(start + 1, last + 1):
                report.step(row(step, loss))
            report.evaluation(last, {"points/within_0.25m": loss / 4})
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    expected = [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]
    for tag in ("train/loss", "losses/answers", "tasks/points"):
        assert [(event.step, event.value) for event in board.Scalars(tag)] == expected
    assert [(event.step, event.value) for event in board.Scalars("evaluation/points/within_0.25m")] == [(6, 0.5)]
    assert {event.value for event in board.Scalars("lr/llm")} == {0.5}


def test_without_tensorboard_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    tracked = recipe(tmp_path, track="tensorboard")
    with (
        pytest.raises(ImportError, match=re.escape('track: tensorboard needs a package: pip install "gapmllm[track]"')),
        accelerator_for(tracked) as accelerator,
    ):
        Report(tracked, accelerator, 0)


# Curves


def test_curves_are_drawn_after_checkpoints_and_at_the_end(tmp_path):
    path = tmp_path / "run" / "curves.png"
    saved = recipe(tmp_path, save={"every": 2})
    with accelerator_for(saved) as accelerator, Report(saved, accelerator, 0) as report:
        report.step(row(1))
        report.step(row(2))
        assert not path.exists()
        report.step(row(3))
        first = path.read_bytes()
        report.step(row(4, loss=50.0))
        assert path.read_bytes() == first
    assert path.read_bytes() != first
    assert list(path.parent.glob("*.part")) == []


def test_without_matplotlib_a_line_says_so(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "gapmllm.viz.curves"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    own = recipe(tmp_path)
    with accelerator_for(own) as accelerator, logged(own, accelerator), Report(own, accelerator, 0) as report:
        report.step(row(1))
    assert "curves.png is not drawn: " in capsys.readouterr().err
    assert not (tmp_path / "run" / "curves.png").exists()


# Memory and time


def test_memory_is_of_this_process_and_workers_are_apart():
    before, workers = memory(torch.device("cpu")), workers_memory()
    held = np.frombuffer(mmap.mmap(-1, 200_000_000), np.uint8)  # from the system: an allocator may have kept as much
    held.fill(1)
    assert 150e6 < memory(torch.device("cpu")) - before < 250e6
    del held
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        for _ in range(100):
            if workers_memory() > workers + 1e6:  # it takes a while to start
                break
            time.sleep(0.05)
        assert 1e6 < workers_memory() - workers < 100e6
        child.communicate(b"\n")
    assert workers_memory() <= workers


def profiled(tmp_path, steps, wanted=True, rank=0):
    """Steps that say they took 1 s and waited for 0.25 s; in truth the parts take some ms."""
    weight = torch.ones(64, 64)
    with Profile(recipe(tmp_path), process(rank), wanted) as profile:
        for step in range(1, steps + 1):
            for _ in range(2):  # micro-batches
                with profile.part(LEARN):
                    weight @ weight
            with profile.part(UPDATE):
                time.sleep(0.002)
            profile.step(row(step, seconds=1.0, wait=0.25))


def test_the_profile_adds_up(tmp_path, capsys):
    with logged(recipe(tmp_path), process()):
        profiled(tmp_path, 10)
    summary = json.loads(read(tmp_path, "profile/summary.json"))
    assert (summary["steps"], summary["counted"]) == (10, 3)
    seconds = summary["seconds"]
    assert seconds[WAIT] == {"median": 0.25, "total": 0.75, "share": 0.25}
    assert seconds[STEP] == {"median": 1.0, "total": 3.0, "share": 1.0}
    assert 0.006 < seconds[UPDATE]["total"] < 0.5
    for kind in ("total", "share"):
        parts = sum(seconds[name][kind] for name in (WAIT, LEARN, UPDATE, REST))
        assert parts == pytest.approx(seconds[STEP][kind], abs=1e-9)
    assert summary["per_second"] == {"questions": 4.0, "frames": 8.0, "tokens": 600.0}
    assert list(summary["memory"]) == ["1", "5", "10"]
    assert summary["operators"][0]["name"].startswith("aten::")
    matrices = [operator for operator in summary["operators"] if operator["name"] == "aten::mm"]
    assert [operator["calls"] for operator in matrices] == [6]  # two in each of three traced steps
    printed = capsys.readouterr().err
    assert re.search(r"waiting for data +0\.2500 +0\.75 +25\.0%", printed)
    events = json.loads(read(tmp_path, "profile/trace.json"))["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert len({name for name in names if name.startswith("ProfilerStep#")}) == 3
    assert names.count(LEARN) == 6


def test_a_short_run_has_a_profile_without_a_trace(tmp_path):
    profiled(tmp_path, 2)
    assert json.loads(read(tmp_path, "profile/summary.json"))["counted"] == 2
    assert not (tmp_path / "run" / "profile" / "trace.json").exists()


@pytest.mark.parametrize(("wanted", "rank"), [(False, 0), (True, 1)])
def test_no_profile_is_taken_unless_asked_for_and_of_the_main_process_alone(tmp_path, wanted, rank):
    profiled(tmp_path, 10, wanted, rank)
    assert not (tmp_path / "run").exists()


# All of it


def test_a_run_that_is_stopped_and_goes_on_tells_of_every_step_once(tmp_path, monkeypatch, capsys):
    asked = recipe(tmp_path, save={"every": 2}, evaluate={"every": 3, "clips": 1, "questions": 1, "max_tokens": 4})
    told = Report.step

    def stop_after_three(self, values):
        told(self, values)
        if values["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Report, "step", stop_after_three)
        assert not train(asked)
    assert train(asked)
    rows = list(read_rows(tmp_path / "run" / "metrics.jsonl"))
    assert [found["step"] for found in rows] == [1, 2, 3, 4, 5, 6]
    assert all(found["memory"] > 1e8 and 0 < found["wait"] < found["seconds"] for found in rows)
    evaluated = list(read_rows(tmp_path / "run" / "evaluation.jsonl"))
    assert [found["step"] for found in evaluated] == [3, 6]
    assert all("loss/answers" in found["scores"] for found in evaluated)
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000
    log, err = read(tmp_path, "logs/rank-0.log"), capsys.readouterr().err
    said = ("step 1/6", "step 3/6", "stopped in the evaluation after step 3", "evaluation after step 3: ", "step 4/6")
    said += ("step 6/6, 0:00:00 left", "evaluation after step 6: ")
    for text in (log, err):
        places = [text.index(words) for words in said]
        assert places == sorted(places)
