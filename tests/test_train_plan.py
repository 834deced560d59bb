"""`gapmllm train --plan`: what it says is so, and it fetches, trains and writes nothing."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
import torch
from conftest import board_scene
from tiny_runs import tiny

from gapmllm.bench.memory import peak_bytes
from gapmllm.bench.throughput import step_flops
from gapmllm.cli.main import main
from gapmllm.model.sequence import dense_mask
from gapmllm.scenes.dataset import DatasetWriter
from gapmllm.scenes.problems import Problems
from gapmllm.tasks.questions import AskQuestions, QuestionPlan
from gapmllm.train.batch import MakeBatch
from gapmllm.train.costs import memory, operations
from gapmllm.train.forecast import forecast, pieces
from gapmllm.train.plan import GIB, make_plan
from gapmllm.train.recipe import read_recipe, recipe_of
from gapmllm.train.samples import Samples
from gapmllm.train.stages import Stage
from gapmllm.train.start import start_model

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "ablation.yaml")  # that one is a study
ROOMS = {"count": 2, "width": 128, "height": 96}
POINTS = {"frames": 4, "marks": 8, "sources": [{"rooms": ROOMS, "tasks": {"points": 1}}]}
ALIGN = {"stage": "align", "model": {}, "losses": {}, "data": POINTS}


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """No network, an empty cache of the hub, an empty folder, and a machine of 1 TFLOP/s."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("a plan needs no network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("gapmllm.train.plan.multiplication_rate", lambda *_: 1e12)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def recipe(**changes):
    return recipe_of(tiny(Path("runs/a"), **changes), "test")


def of_part(rows, part):
    (row,) = [row for row in rows if row["part"] == part]
    return row


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: "/".join(path.parts[-2:]))
def test_the_recipes_of_the_repository_have_plans(path):
    read = read_recipe(path)
    plan = make_plan(read, path.parent)
    total = of_part(plan.parameters, "in all")
    assert total["trained"] == sum(row["parameters"] for row in plan.rates) > 0
    assert sum(row["share"] for row in plan.data) == pytest.approx(len(read.schedule()))
    clips = sum(row["clips of the run"] for row in plan.data)
    assert clips == pytest.approx(read.steps * read.batch, abs=len(plan.data))
    assert plan.memory[-1]["1 process"] > 0
    assert plan.time["a step at that rate, s, at best"] == plan.time["floating-point operations of a step, TFLOP"]
    assert not list(Path().iterdir())


def test_the_plan_of_the_paper_needs_nothing_but_the_package(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gapmllm", "train", "--plan", str(FOLDER / "qwen3-vl-2b" / "align.yaml")])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "init: qwen3-vl-2b: is fetched from the hub when training starts" in said
    for number in ("1,720,574,976", "167,804,928", "33,595,392", "5e-06", "1e-05", "12x16", "1,536"):
        assert number in said, number
    assert "missing: data/scannet is not there yet; gapmllm data import RECORDINGS --out data/scannet makes it" in said
    assert "missing: evaluate: data/scannet-val is no data set" in said


@pytest.mark.parametrize(
    "changes",
    [
        ALIGN,
        ALIGN | {"lora": {"rank": 2}},
        ALIGN | {"lr": {"mergers": 1e-3, "llm": 1e-4}, "losses": {"answers": 1, "points": 1}},
        {},
    ],
    ids=["align", "lora", "by part", "language"],
)
def test_parameters_are_those_of_the_real_model(changes):
    run = recipe(**changes)
    plan, stage = make_plan(run), Stage(start_model(run), run)
    assert of_part(plan.parameters, "in all")["parameters"] == sum(p.numel() for p in stage.parameters())
    for part, name in (("llm", "model.model.language_model."), ("mergers", "model.geometry_"), ("probes", "probes.")):
        own = {key: p for key, p in stage.named_parameters() if key.startswith(name) and "encoder" not in key}
        if own:
            row = of_part(plan.parameters, part)
            trained = sum(p.numel() for p in own.values() if p.requires_grad)
            assert (row["parameters"], row["trained"]) == (sum(p.numel() for p in own.values()), trained)
            assert row.get("adapters", 0) == (trained if "lora" in changes and part == "llm" else 0)
    assert {row["part"] for row in plan.rates} == {*run.parts()} | ({"probes"} if len(stage.probes) else set())


def test_a_stage_before_that_is_not_trained_is_described_by_its_recipe(tmp_path):
    path = tmp_path / "language.yaml"
    path.write_text(json.dumps(tiny(tmp_path / "language")))
    changes = ALIGN | {"init": "../language", "model": {"fusion": "none"}, "lr": {"llm": 1e-3}}
    whole = r"\.\./language brings its own config; leave out fusion"
    with pytest.raises(ValueError, match=whole):
        make_plan(recipe(**changes), tmp_path)
    plan = make_plan(recipe(**changes | {"model": {}}), tmp_path)
    assert plan.about["init"] == f"../language: not trained yet (runs/language); sizes as {path} says"
    assert of_part(plan.parameters, "llm")["parameters"] == 211_328
    assert [row["part"] for row in plan.parameters] == ["vision", "llm", "in all"]
    path.write_text(json.dumps(tiny(tmp_path / "language", init="../language", model={})))
    with pytest.raises(ValueError, match=r"language\.yaml: this recipe starts from itself"):
        make_plan(recipe(**changes | {"model": {}}), tmp_path)


@pytest.mark.parametrize("init", ["somebody/else", "../nowhere"])
def test_sizes_that_are_not_known_are_not_made_up(init):
    plan = make_plan(recipe(init=init, model={}))
    assert "its sizes are known then" in plan.about["init"]
    assert plan.parameters == plan.rates == plan.clips == plan.steps == plan.memory == []
    assert plan.time == {}
    assert [row["scenes"] for row in plan.data] == [2]


def test_what_cannot_run_anywhere_is_refused():
    with pytest.raises(ValueError, match="no model 'a/b/c'"):
        make_plan(recipe(init="a/b/c", model={}))
    with pytest.raises(ValueError, match="beside it a VGGT is needed"):
        make_plan(recipe(init="qwen3-vl-2b", model={}))
    with pytest.raises(ValueError, match='has no part "fusion" to train'):
        make_plan(recipe(lr={"llm": 1e-3, "fusion": 1e-3}))


@pytest.fixture
def dataset(tmp_path):
    """Three scenes of 8 frames, with questions about points: 2 windows of 4 questions each."""
    ask = AskQuestions(QuestionPlan(tasks=("points",), windows=2, points=4))
    with DatasetWriter(tmp_path / "boards", {"command": "test"}, None) as writer:
        for number in range(3):
            writer.add(ask(board_scene(f"boards-{number}"), Problems(f"boards-{number}")))
    return str(tmp_path / "boards")


def test_a_data_set_is_counted(dataset):
    run = recipe(**ALIGN | {"data": {"sources": [{"dataset": dataset, "tasks": {"points": 1}, "ask": "stored"}]}})
    plan = make_plan(run)
    (row,) = plan.data
    assert (row["scenes"], row["questions"], row["clips of the run"]) == (3, 3 * 2 * 4, 12)
    assert row["epochs"] == 12 / 6  # 6 steps of 2 clips; 6 are stored
    (clip,) = plan.clips
    assert (clip["frames"], clip["questions"], clip["tokens of a frame"]) == (4, 4, "3x4")
    assert plan.missing == []
    evaluated = run.model_copy(update={"evaluate": recipe(evaluate={}).evaluate})
    assert "holds nothing out to evaluate on" in make_plan(evaluated).missing[0]


def test_a_data_set_elsewhere_is_not_looked_at():
    run = recipe(**ALIGN | {"data": {"sources": [{"dataset": "hf://datasets/some/rooms", "tasks": {"points": 1}}]}})
    assert make_plan(run).missing == ["hf://datasets/some/rooms is not looked at: a plan fetches nothing"]
    evaluated = recipe(evaluate={"sources": run.data.model_dump()["sources"]})
    assert make_plan(evaluated).missing == [
        "evaluate: a data set behind a URL is not looked at: a plan fetches nothing"
    ]


def test_a_curriculum_has_a_row_for_each_phase():
    phases = [{"steps": 2, "data": {"marks": 1}}, {"steps": 4, "losses": {"answers": 1}}]
    plan = make_plan(recipe(**ALIGN | {"phases": phases, "losses": {"points": 1, "answers": 1}}))
    assert [(row["from step"], row["steps"], row["questions"]) for row in plan.steps] == [(0, 2, 2), (2, 4, 16)]
    assert [(row["from step"], row["loss"]) for row in plan.losses] == [(0, "points"), (0, "answers"), (2, "answers")]


def measured(**changes):
    """A recipe's stage, its batch, and what a clip is forecast to hold."""
    run = recipe(**changes)
    stage = Stage(start_model(run), run)
    samples = Samples(run.data, seed=0, count=2)
    model = stage.model
    batch = MakeBatch.of(run, model.config, model.prompts)([samples[0], samples[1]])
    (task,) = forecast(run, model.config, model.prompts)
    return run, stage, batch, task.load


@pytest.mark.parametrize("packing", [True, False])
def test_tokens_are_those_of_the_batch(packing):
    _, _, batch, load = measured(**ALIGN | {"packing": packing})
    assert 2 * load.tokens == pytest.approx(batch.num_tokens)
    assert 2 * load.answers == pytest.approx(batch.pack.num_answer_tokens)
    assert 2 * load.visual == sum(clip.num_tokens for clip in batch.clips)
    assert 2 * load.sequences == len(batch.pack.input_ids)


def test_operations_are_those_that_are_counted_as_it_runs():
    run, stage, batch, load = measured(**ALIGN)
    text, segments = stage.model.config.text_config, batch.pack.segments
    mask = dense_mask(segments, segments)
    rows, length = segments.shape  # `step_flops` leaves out the scores that the mask does
    scores = 4 * text.num_attention_heads * text.head_dim * text.num_hidden_layers * rows * length**2
    counted = step_flops(stage.model, batch.pack) + 3 * scores * (1 - mask.float().mean().item())
    assert 2 * operations(stage, run, load) == pytest.approx(counted, rel=0.03)
    again = run.model_copy(update={"checkpointing": True})
    assert 2 * operations(stage, again, load) > 1.2 * counted
    before = operations(stage, run, load)
    stage.model.train_only(["mergers", "fusion"])  # the LLM's own gradients: one multiplication less
    llm = sum(p.numel() for p in stage.model.model.language_model.layers.parameters() if p.ndim > 1)
    head = stage.model.lm_head.weight.numel()
    assert before - operations(stage, run, load) == pytest.approx(2 * (load.tokens * llm + load.answers * head))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", ["align", "language", "geometry"])
def test_memory_is_near_what_a_step_takes(stage, precision, checkpointing):
    changes = {"precision": precision, "checkpointing": checkpointing}
    geometry = {"stage": "geometry", "model": {}, "losses": {}, "data": {"sources": [{"rooms": ROOMS}]}}
    kinds = {"align": ALIGN, "language": {"data": POINTS}, "geometry": geometry}
    run, root, batch, load = measured(**kinds[stage], **changes)
    need = memory(root, run, load, clips=2)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = root(batch, batch.counts).loss
        loss.backward()

    step()  # gradients have their place
    _, peak = peak_bytes(step, torch.device("cpu"))
    kept = need.kept_checkpointing if checkpointing else need.kept
    assert 1 / 1.5 < kept / peak < 1.5


def test_memory_of_weights_by_hand():
    run, root, _, load = measured(**ALIGN)
    everything, trained = (
        sum(p.numel() for p in root.parameters() if p.requires_grad or not only) for only in (False, True)
    )
    need = memory(root, run, load, clips=1)
    assert (need.weights, need.gradients, need.optimizer) == (4 * everything, 4 * trained, 8 * trained)
    shared = memory(root, run, load, clips=1, shards=4)
    assert (shared.gradients, shared.optimizer) == (trained, 2 * trained)
    assert everything < shared.weights < everything + 4 * everything
    assert (shared.kept, need.total(True)) == (need.kept, need.total(False) - need.kept + need.kept_checkpointing)
    rows = {row["GiB"]: row for row in make_plan(run).memory}
    assert list(rows["weights"]) == ["GiB", "1 process", "2, fsdp2"]  # a batch of 2 is for 2 processes at most
    assert rows["gradients"]["1 process"] == need.gradients / GIB
    assert (rows["clips at once"]["1 process"], rows["clips at once"]["2, fsdp2"]) == (2, 1)


def test_the_speed_of_a_run_that_has_begun_is_measured():
    Path("runs/a").mkdir(parents=True)
    rows = [{"step": step, "seconds": seconds, "losses": {}} for step, seconds in ((1, 90), (2, 3), (3, 3))]
    Path("runs/a/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    time = make_plan(recipe()).time
    assert time["a step, measured in this run, s"] == 3
    assert time["the steps that are left, as measured, hours"] == 3 * 3 / 3600


def test_pieces_of_a_text():
    assert pieces('{"a chair": [1.25, -3]}') == len(
        ['{"', "a", " chair", '":', " [", "1", ".", "2", "5", ",", " -", "3", "]}"]
    )
