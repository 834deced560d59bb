"""What goes wrong while a run trains: one clear message, exit status 2, and nothing lost."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_runs import POISONED, losses, poison, status, tiny, written

from gapmllm.train import checkpoints, failures, loop, stages
from gapmllm.train.metrics import RowLog
from gapmllm.train.recipe import recipe_of
from gapmllm.train.stages import Stage

GEOMETRY = {
    "stage": "geometry",
    "model": {},
    "losses": {},
    "data": {"frames": 2, "sources": [{"rooms": {"count": 1, "frames": 4, "width": 64, "height": 48}}]},
}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    assert loop.train(recipe_of(tiny(out), "test"))
    return losses(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def before_step(monkeypatch, step, act):
    """act() is called as that step begins."""
    train_step = loop.Run._train_step

    def acted(self, *arguments):
        if self.step == step - 1:
            act()
        return train_step(self, *arguments)

    monkeypatch.setattr(loop.Run, "_train_step", acted)


def test_a_disk_that_fills_up_during_a_save_leaves_the_checkpoint_before_whole(out, uninterrupted, capsys, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = {}

    def fill():
        before.update(contents(out / "checkpoints" / "step-00000003"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # bytes of a file; the system refuses more

    before_step(monkeypatch, 6, fill)
    try:
        assert status(written(out)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert "error: the checkpoint of step 6 could not be written" in said
    assert "the one before," in said
    assert "step-00000003, is whole. Make room (save.keep is 2) and run the same command again" in said
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    assert contents(out / "checkpoints" / "step-00000003") == before
    monkeypatch.undo()
    assert status(written(out)) == 0
    assert losses(out) == uninterrupted


@pytest.mark.parametrize(
    ("module", "name", "error", "message"),
    [
        (checkpoints, "save_file", SafetensorError("No space left"), "step 3 could not be written (No space left)"),
        (RowLog, "write", OSError(errno.ENOSPC, "No space left"), "the disk is full ([Errno 28] No space left)"),
        ("gapmllm.model.weights", "save_file", OSError(errno.ENOSPC, "none"), "cannot write the weights"),
    ],
)
def test_a_full_disk_anywhere_is_told_and_the_run_goes_on_when_there_is_room(
    out, uninterrupted, capsys, monkeypatch, module, name, error, message
):
    def refuse(*arguments, **options):
        raise error

    module = sys.modules[module] if isinstance(module, str) else module
    with monkeypatch.context() as patch:
        patch.setattr(module, name, refuse)
        assert status(written(out)) == 2
    assert message in capsys.readouterr().err
    assert not list(out.rglob(".half-*"))
    assert status(written(out)) == 0
    assert losses(out) == uninterrupted


@pytest.mark.parametrize(
    "changes",
    [{}, {"packing": False, "losses": {"answers": 1}, "micro_batch": 1}, GEOMETRY],
    ids=["language", "unpacked", "geometry"],
)
def test_a_loss_that_is_no_number_names_the_clip_and_keeps_the_batch_and_the_state(out, capsys, monkeypatch, changes):
    recipe = written(out, **changes)
    with monkeypatch.context() as patch:
        poison(7, patch.setattr)  # clips are counted from 0: the second one of step 4
        for _ in range(2):  # again, the same happens
            assert status(recipe) == 2
            said = capsys.readouterr().err
            assert "error: step 4: loss nan, gradient nan: by 1 of its 2 clips: synth-train-000000" in said
            assert f"/{POISONED}" in said
            assert f"the step's batch and the state before it are in {out}/not-finite-step-00000004" in said
    kept = out / "not-finite-step-00000004"
    first, second = json.loads((kept / "clips.json").read_text())
    assert POISONED in second["name"]
    assert POISONED not in first["name"]
    assert all(math.isnan(float(value)) for value in second["losses"].values())
    assert all(math.isfinite(float(value)) for value in [*first["losses"].values(), first["gradient"]])
    pixels = load_file(kept / "batch-rank-0.safetensors")
    one, other = ("0/0", "1/0") if "micro_batch" in changes else ("0/0", "0/1")
    assert pixels[f"{one}/visual"].isfinite().all()
    assert pixels[f"{other}/visual"].isnan().sum() == 1
    state = checkpoints.latest(kept)
    assert checkpoints.read_state(state)["step"] == 3
    assert contents(state) == contents(checkpoints.latest(out))  # saved after step 3, too
    assert status(recipe) == 0
    assert [row["step"] for row in losses(out)] == [1, 2, 3, 4, 5, 6]


def test_a_gradient_or_weights_that_are_no_numbers_are_told_apart_from_a_bad_clip(out, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "clip_grad_norm_", lambda parameters, norm: torch.tensor(float("inf")))
        assert status(written(out)) == 2
    said = capsys.readouterr().err
    assert "gradient inf: by none of its 2 clips alone: lower lr or clip_norm, or try precision: float32" in said
    assert status(written(out, steps=3)) == 0
    path = checkpoints.latest(out) / "weights.safetensors"
    values = load_file(path)
    values["probes.classes.bias"][0] = float("inf")
    save_file(values, path)
    assert status(written(out), "--force") == 2
    assert "by weights that were no numbers before it: probes.classes.bias;" in capsys.readouterr().err


def test_what_a_step_that_is_no_number_leaves_cannot_be_written(out, capsys, monkeypatch):
    poison(1, monkeypatch.setattr)
    out.mkdir()
    (out / "not-finite-step-00000001").write_text("a file")
    assert status(written(out)) == 2
    said = capsys.readouterr().err
    assert "step 1: loss nan" in said
    assert "not-finite-step-00000001 could not be written: [Errno 17] File exists" in said


TWO = """
import sys
from tiny_runs import poison
if __name__ == "__main__":
    poison(7)
    from gapmllm.cli.main import main
    main()
"""


def test_with_two_processes_the_one_that_holds_the_clip_tells_the_others(out, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [*command, "train", str(written(out, parallel="fsdp2"))], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert f"by 1 of its 2 clips: synth-train-0000000/{POISONED}" in line
    clips = json.loads((out / "not-finite-step-00000004" / "clips.json").read_text())
    assert [(clip["rank"], POISONED in clip["name"]) for clip in clips] == [(0, False), (1, True)]
    assert (out / "not-finite-step-00000004" / "batch-rank-1.safetensors").exists()
    assert checkpoints.latest(out / "not-finite-step-00000004")


FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.20 GiB is "
    "free. Of the allocated memory 76.50 GiB is allocated by PyTorch. If reserved but unallocated memory is large try "
    "setting PYTORCH_ALLOC_CONF"
)


def test_a_full_gpu_says_what_was_in_use_and_what_to_lower_by_the_recipes_own_numbers(out, capsys, monkeypatch):
    def full(self, batch, counts):
        raise torch.OutOfMemoryError(FULL)

    recipe = written(out, batch=12)
    before_step(monkeypatch, 4, lambda: monkeypatch.setattr(Stage, "forward", full))
    assert status(recipe) == 2
    said = capsys.readouterr().err.partition("error: ")[2].splitlines()
    assert said[0] == f"out of memory: {FULL.partition(' If reserved')[0]}"
    assert said[1].startswith("  at work were 12 clips at once, 24 frames, ")
    assert said[3:] == [
        "  micro_batch: 6, now 12 (the same gradients, in more turns)",
        "  checkpointing: true (activations are computed twice: about a third more time)",
        "  parallel: fsdp2, with more processes than 1 (each holds a share of the weights)",
        "  precision: bfloat16, now float32 (with --force)",
        "  data.frames: 1, now 2 (with --force)",
        "  data.questions: 1, now 2 (with --force)",
        "  lora: {rank: 16}, in a new folder (adapters instead of the LLM's own weights)",
    ]
    assert checkpoints.latest(out).name == "step-00000003"
    monkeypatch.undo()
    assert status(recipe, "--set", "micro_batch=6", "--set", "checkpointing=true") == 0


def test_what_is_lowered_already_is_not_offered_again():
    sources = [{"rooms": {"count": 1}, "tasks": {"grounding": 1, "captioning": 1}}]
    changes = {"stage": "adapt", "precision": "bfloat16", "checkpointing": True, "parallel": "fsdp2", "lora": {}}
    data = {"sources": sources, "frames": 4, "questions": 1, "canonical_frames": 32, "neighbours": 9}
    recipe = recipe_of(tiny(Path("run"), **changes, batch=8, micro_batch=1, data=data, losses={}), "test")
    assert failures._what_to_lower(recipe, 2) == [
        "data.canonical_frames: 16, now 32 (with --force)",
        "data.neighbours: 4, now 9 (with --force)",
    ]


def test_memory_that_this_machine_does_not_have_is_told(out, capsys, monkeypatch):
    monkeypatch.setitem(stages._DENSE, "classes", lambda logits, target: torch.empty(2**60).sum())
    assert status(written(out, batch=1)) == 2
    said = capsys.readouterr().err
    assert "can't allocate memory" in said
    assert "at work were 1 clips at once, 2 frames, " in said
    assert "micro_batch" not in said  # it is 1


def test_other_errors_stay_what_they_are(out):
    with pytest.raises(RuntimeError, match="our own mistake"), failures.explained(recipe_of(tiny(out), "test"), 1):
        raise RuntimeError("our own mistake")
    with pytest.raises(FileNotFoundError), failures.explained(recipe_of(tiny(out), "test"), 1):
        raise FileNotFoundError(errno.ENOENT, "no such file")


def test_a_worker_that_dies_ends_the_run_with_a_message(out, capsys, monkeypatch):
    def kill_workers():
        for process in psutil.Process().children():
            if "spawn_main" in " ".join(process.cmdline()):
                process.kill()

    recipe = written(out, steps=40, save={"every": 2}, workers=1)
    before_step(monkeypatch, 4, kill_workers)
    assert status(recipe) == 2
    said = capsys.readouterr().err
    assert "error: a process that prepares batches died (DataLoader worker (pid" in said
    assert "lower workers (now 1; with 0 the training process prepares them itself)" in said
    assert checkpoints.latest(out).name >= "step-00000002"
