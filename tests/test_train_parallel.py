"""Two processes (gloo) against one: the same losses, weights, scores and checkpoints, with DDP and FSDP2."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from gapmllm.train.checkpoints import FOLDER
from gapmllm.train.loop import train
from gapmllm.train.metrics import FILE, read_rows
from gapmllm.train.parallel import accelerator_for, has_idle_parts
from gapmllm.train.recipe import read_recipe, recipe_of

STEPS, HALF = 4, "step-00000002"
STAGES = {
    "geometry": {"tasks": {}, "evaluate": None},
    "language": {
        # Clips of two and of four frames: the processes run the encoders, which are trained, differently often.
        "tasks": {"looking": 1, "frame": 1},
        "model": {"fusion": "none"},
        # The LLM has no gradient in the first phase, a probe has none in the second.
        "phases": [
            {"steps": 2, "losses": {"classes": 1, "marks": 1}},
            {"steps": 2, "losses": {"answers": 1, "classes": 0.5}},
        ],
    },
    "align": {"tasks": {"points": 2, "detection": 1}, "evaluate": {"at_start": True}},
}
HAVE_PEFT = find_spec("peft") is not None
LORA = {"lora": {"rank": 4, "alpha": 8}}
TWO = {"micro_batch": 2}
TRAIN_EACH = """
import sys
from pathlib import Path
from gapmllm.train.loop import train
from gapmllm.train.recipe import read_recipe
from gapmllm.train.report import Report
Report._draw = lambda _: None  # as `conftest.py` has it
for path in sys.argv[1:]:
    train(read_recipe(Path(path)))
"""


def recipe_file(folder: Path, name: str, stage: str, **values) -> Path:
    """A recipe beside its run, folder/name.yaml and folder/name: 8 clips a step."""
    own = dict(STAGES[stage])
    rooms = {"count": 2, "frames": 4, "width": 64, "height": 48}
    evaluate = own.pop("evaluate", {})
    if evaluate is not None:
        evaluate = {"clips": 3, "questions": 2, "max_tokens": 6} | evaluate
    recipe = {
        "stage": stage,
        "out": str(folder / name),
        "init": "new debug",
        "steps": STEPS,
        "batch": 8,
        "data": {
            "frames": 2,
            "canonical_frames": 4,
            "marks": 3,
            "questions": 3,
            "clips_per_scene": 2,
            "sources": [{"rooms": rooms, "tasks": own.pop("tasks")}],
        },
        "lr": 2e-4,  # Adam makes steps of about this size of any rounding, where a gradient is almost 0
        "workers": 0,
        "save": {"every": 2},
        "evaluate": evaluate,
        **own,
        **values,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(path: Path) -> Path:
    """Train in this process; the run's folder."""
    assert train(read_recipe(path))
    return path.with_suffix("")


def launch(*command: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def first_half(run_folder: Path, out: Path) -> None:
    """Another run that was stopped after two steps."""
    shutil.copytree(run_folder / FOLDER / HALF, out / FOLDER / HALF)
    shutil.copy(run_folder / FILE, out / FILE)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder of finished runs: one-STAGE, ddp-STAGE and fsdp2-STAGE; one-lora and fsdp2-lora."""
    folder = tmp_path_factory.mktemp("runs")
    for stage in STAGES:
        run(recipe_file(folder, f"one-{stage}", stage))
    if HAVE_PEFT:
        run(recipe_file(folder, "one-lora", "align", evaluate=None, **LORA))
    script = folder / "train_each.py"
    script.write_text(TRAIN_EACH)
    # FSDP2 goes with gradient checkpointing, which changes nothing either.
    shared = TWO | {"parallel": "fsdp2", "checkpointing": True}
    recipes = [recipe_file(folder, f"ddp-{stage}", stage, **TWO) for stage in STAGES]
    recipes += [recipe_file(folder, f"fsdp2-{stage}", stage, **shared) for stage in STAGES]
    if HAVE_PEFT:
        recipes.append(recipe_file(folder, "fsdp2-lora", "align", evaluate=None, **LORA, **shared))
    launch("torch.distributed.run", "--standalone", "--nproc_per_node", 2, script, *recipes)
    return folder


def curve(folder: Path) -> list[dict[str, float]]:
    """What is logged of each step, without what depends on the machine."""
    rows = []
    for row in read_rows(folder / FILE):
        flat = {
            key: value for key, value in row.items() if key in ("loss", "gradient", "questions", "frames", "tokens")
        }
        for group in ("losses", "tasks", "lr"):
            flat |= {f"{group}/{name}": value for name, value in row[group].items()}
        rows.append(flat)
    return rows


def assert_same_run(one: Path, other: Path) -> None:
    left, right = curve(one), curve(other)
    assert len(left) == len(right) == STEPS
    assert len({row["loss"] for row in left}) == STEPS  # there is something to compare
    for ours, theirs in zip(left, right, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    apart = {name: float((theirs[name] - tensor).abs().max()) for name, tensor in ours.items()}
    assert max(apart.values()) < 1e-5, max(apart, key=apart.__getitem__)


def processes(run_folder: Path, checkpoint: str) -> set[str]:
    """Those that took part in a run, by the random states that its checkpoint holds."""
    return set(load_file(run_folder / FOLDER / checkpoint / "rng.safetensors"))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_of_two_by_two_clips_equal_one_of_eight(runs, stage, parallel):
    assert_same_run(runs / f"one-{stage}", runs / f"{parallel}-{stage}")
    assert processes(runs / f"one-{stage}", HALF) == {"cpu/0"}
    assert processes(runs / f"{parallel}-{stage}", HALF) == {"cpu/0", "cpu/1"}


@pytest.mark.skipif(not HAVE_PEFT, reason="adapters need peft")
def test_adapters_are_shared_out_too(runs):
    assert_same_run(runs / "one-lora", runs / "fsdp2-lora")


@pytest.mark.parametrize("values", [{"batch": 4, "micro_batch": None}, {"seed": 1}])
def test_the_comparison_sees_other_clips(runs, tmp_path, values):
    other = run(recipe_file(tmp_path, "other", "align", evaluate=None, **values))
    with pytest.raises(AssertionError):
        assert_same_run(runs / "one-align", other)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
@pytest.mark.parametrize("when", ["step-00000000", "step-00000004"])
def test_evaluation_gives_the_same_scores_and_answers(runs, parallel, when):
    """Before the first step, where FSDP2 has not run yet, and after the last one."""
    ours, theirs = (runs / f"{name}-align" / "evaluation" / when for name in ("one", parallel))
    scores = json.loads((ours / "scores.json").read_text())
    assert json.loads((theirs / "scores.json").read_text()) == pytest.approx(scores, rel=1e-5)
    assert {"loss/answers", "points/label_accuracy"} <= scores.keys()
    for name in ("points.jsonl", "detection.jsonl", "answers.md"):
        assert (theirs / name).read_text() == (ours / name).read_text()


def test_a_run_of_two_goes_on_as_one(runs, tmp_path):
    first_half(runs / "fsdp2-align", tmp_path / "rest")
    run(recipe_file(tmp_path, "rest", "align"))
    assert processes(tmp_path / "rest", "step-00000004") == {"cpu/0"}
    assert_same_run(runs / "one-align", tmp_path / "rest")


def test_a_run_with_fsdp2_goes_on_with_ddp_and_accelerate_launch(runs, tmp_path):
    first_half(runs / "fsdp2-align", tmp_path / "rest")
    recipe = recipe_file(tmp_path, "rest", "align", **TWO)
    # Without a GPU, Accelerate starts several processes only when it is told that there are several GPUs.
    machine = ("--multi_gpu", "--num_processes", 2, "--num_machines", 1, "--main_process_port", free_port())
    usual = ("--mixed_precision", "no", "--dynamo_backend", "no", "--gradient_accumulation_steps", 4)
    launch("accelerate.commands.launch", *machine, *usual, "-m", "gapmllm", "train", recipe)
    assert processes(tmp_path / "rest", "step-00000004") == {"cpu/0", "cpu/1"}
    assert_same_run(runs / "one-align", tmp_path / "rest")


def a_recipe(**values):
    source = {"rooms": {}, "tasks": {} if values.get("stage") == "geometry" else {"points": 1}}
    values = {"stage": "align", "init": "new debug", "steps": 2, "lr": 1.0, "data": {"sources": [source]}} | values
    return recipe_of({"out": "unused"} | values, "test")


@pytest.mark.parametrize(
    ("values", "idle"),
    [
        ({}, False),
        ({"losses": {"answers": 1, "points": 1}}, False),
        ({"losses": {"points": 1}}, True),  # the LLM answers for nothing
        ({"lr": {"llm": 1.0, "geometry": 1.0}}, True),  # VGGT's heads
        ({"stage": "geometry"}, False),
        ({"stage": "geometry", "losses": {"points": 1}}, True),
        ({"phases": [{"steps": 1}, {"steps": 1}]}, False),
        ({"phases": [{"steps": 1}, {"steps": 1, "losses": {"answers": 1, "points": 1}}]}, True),
    ],
)
def test_ddp_is_told_where_gradients_are_missing(values, idle):
    assert has_idle_parts(a_recipe(**values)) == idle


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_the_recipe_alone_says_how_weights_are_shared_out(monkeypatch, engine):
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    refused = pytest.raises(ValueError, match=f"configured for {engine}, and here the recipe decides.*parallel: fsdp2")
    with refused, accelerator_for(a_recipe()):
        pass


def test_the_environment_does_not_scale_the_loss(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = torch.ones(1, requires_grad=True)
    with accelerator_for(a_recipe()) as accelerator:
        accelerator.backward(3 * weight.sum())
    assert weight.grad.item() == 3
