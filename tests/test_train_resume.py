"""Runs that are killed, stopped and resumed: the losses of an uninterrupted one, exactly."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import losses, status, tiny, written

from gapmllm.cli.main import main
from gapmllm.train import checkpoints, loop, signals
from gapmllm.train.recipe import recipe_of
from gapmllm.train.report import Report

# A curriculum, dropout (torch's random numbers) and an evaluation between saves: all that a resumed run could forget.
RICH = {
    "phases": [{"steps": 3, "data": {"marks": 1}, "losses": {"answers": 1, "classes": 2}}, {"steps": 5}],
    "steps": 8,
    "lora": {"rank": 2, "dropout": 0.3},
    "evaluate": {"every": 2, "clips": 1, "questions": 1, "max_tokens": 2},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    assert loop.train(recipe_of(tiny(out, **RICH), "test"))
    return out


@pytest.fixture
def started(tmp_path):
    """started(stop_before=5): a run that gets a signal when its fifth step begins; its recipe."""

    def start(stop_before: int = 5, number: int = signal.SIGTERM):
        recipe = recipe_of(tiny(tmp_path / "run", **RICH), "test")
        assert not stopped_before(stop_before, number, lambda: loop.train(recipe))
        return recipe

    return start


def stopped_before(step, number, run):
    """What `run` gives, where a signal comes as a step begins."""
    train_step = loop.Run._train_step

    def signalled(self, *arguments):
        if self.step == step - 1:
            os.kill(os.getpid(), number)
        return train_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Run, "_train_step", signalled)
        return run()


def same(one, two):
    """Whether two finished runs have the same steps and the same model."""
    return (
        losses(one) == losses(two)
        and (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    )


def start(recipe, *options):
    """`gapmllm train` in a process group of its own, so that signals reach its workers as they do from a terminal."""
    process = get_context("forkserver").Process(target=_train, args=(recipe, *options))
    process.start()
    return process


def _train(recipe, *arguments):
    os.setsid()
    with said_by(recipe).open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    Report._draw = lambda _: None  # as `conftest.py` has it
    sys.argv = ["gapmllm", "train", str(recipe), *arguments]
    main()


def said_by(recipe):
    """The file of all that a process has printed."""
    return recipe.with_suffix(".txt")


def wait_for_step(process, out, step):
    """Until the log has that many steps."""
    log, end = out / "metrics.jsonl", time.monotonic() + 120
    while not log.exists() or log.read_bytes().count(b"\n") < step:
        assert process.is_alive(), out.with_suffix(".txt").read_text()
        assert time.monotonic() < end
        time.sleep(0.002)


def test_killed_three_times_at_random_steps_and_resumed_the_losses_are_exactly_the_same(tmp_path):
    phases = [RICH["phases"][0] | {"steps": 7}, {"steps": 13}]
    changes = RICH | {"steps": 20, "phases": phases, "save": {"every": 4}}
    changes["evaluate"] = RICH["evaluate"] | {"every": 6}
    steps = sorted(np.random.default_rng(5).choice(np.arange(2, 16), 3, replace=False))
    out = tmp_path / "killed"
    recipe = written(out, **changes)
    for number, step in enumerate(steps):
        process = start(recipe, "--set", f"workers={number % 2}")
        wait_for_step(process, out, step)
        os.killpg(process.pid, signal.SIGKILL) if number % 2 == 0 else process.kill()  # its worker must not live on
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert status(recipe) == 0
    assert [row["step"] for row in losses(out)] == list(range(1, 21))
    assert loop.train(recipe_of(tiny(tmp_path / "whole", **changes), "test"))
    assert same(out, tmp_path / "whole")


def test_ctrl_c_with_workers_finishes_the_step_saves_and_ends_with_status_0(tmp_path):
    recipe = written(tmp_path / "run", steps=200, save={"every": 1000}, workers=1)
    process = start(recipe)
    wait_for_step(process, tmp_path / "run", 3)
    os.killpg(process.pid, signal.SIGINT)
    process.join(60)
    said = said_by(recipe).read_text()
    assert process.exitcode == 0, said
    assert "Traceback" not in said
    done = losses(tmp_path / "run")[-1]["step"]
    assert f"stopped after step {done}; the same command goes on" in said
    assert checkpoints.read_state(checkpoints.latest(tmp_path / "run"))["step"] == done < 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_the_resumed_run_equals_an_uninterrupted_one(
    started, uninterrupted, number, tmp_path
):
    before = signal.getsignal(number)
    recipe = started(5, number)
    assert signal.getsignal(number) == before
    out = tmp_path / "run"
    assert losses(out) == losses(uninterrupted)[:5]
    assert checkpoints.latest(out).name == "step-00000005"
    assert not (out / "config.json").exists()
    assert loop.train(recipe)
    assert same(out, uninterrupted)


@pytest.mark.parametrize("forgotten", ["rng", "optimizer", "weights"])
def test_without_any_part_of_the_checkpoint_the_losses_would_be_others(started, uninterrupted, forgotten, tmp_path):
    recipe = started(5)
    path = checkpoints.latest(recipe.out) / f"{forgotten}.safetensors"
    values = load_file(path)
    other = {"rng": lambda value: torch.Generator().manual_seed(9).get_state()}.get(forgotten, torch.zeros_like)
    save_file({name: other(value) for name, value in values.items()}, path)
    assert loop.train(recipe)
    resumed, whole = losses(tmp_path / "run"), losses(uninterrupted)
    assert resumed[:5] == whole[:5]
    assert resumed[5:] != whole[5:]


def test_killed_while_a_checkpoint_is_written_the_run_goes_on_from_the_one_before(tmp_path, uninterrupted, monkeypatch):
    class Killed(BaseException):
        pass

    replace = os.replace

    def killed(source, target):
        if os.path.basename(target) == "step-00000006":
            raise Killed
        replace(source, target)

    recipe = recipe_of(tiny(tmp_path / "run", **RICH), "test")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "replace", killed)
        with pytest.raises(Killed):
            loop.train(recipe)
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".half-step-00000006",
        "step-00000003",
        "step-00000004",  # before an evaluation
    ]
    assert loop.train(recipe)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000006", "step-00000008"]
    assert same(tmp_path / "run", uninterrupted)


def test_a_second_signal_ends_at_once_but_not_one_that_is_passed_on_with_the_first(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with signals.Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += 1
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        now[0] += 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_of_the_checkpoints_the_last_ones_are_kept(tmp_path):
    loop.train(recipe_of(tiny(tmp_path / "run", steps=5, save={"every": 1, "keep": 3}), "test"))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000004", "step-00000005"]


def test_a_finished_run_is_left_alone_and_says_so(tmp_path, capsys, uninterrupted):
    def files():
        return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name not in (".lock", "rank-0.log")}

    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    before = files()
    assert status(written(out, **RICH)) == 0
    assert "run is finished: all 8 steps are done" in capsys.readouterr().err
    assert files() == before


def test_workers_and_saves_may_change_on_the_way(started, uninterrupted, tmp_path):
    started(5)
    recipe = recipe_of(tiny(tmp_path / "run", **RICH, save={"every": 1, "keep": 1}, micro_batch=1), "test")
    assert loop.train(recipe)
    ours, theirs = losses(tmp_path / "run"), losses(uninterrupted)
    assert ours[:5] == theirs[:5]
    assert [row["questions"] for row in ours] == [row["questions"] for row in theirs]
