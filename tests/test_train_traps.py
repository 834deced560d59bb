"""What would give wrong results that nobody notices: old models taken for new ones, seen data for unseen, no truth."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_runs import ROOMS, status, tiny, written

from gapmllm.model import load
from gapmllm.train import loop
from gapmllm.train.card import CARD
from gapmllm.train.checkpoints import FOLDER
from gapmllm.train.evaluate import HeldOut
from gapmllm.train.finish import is_finished
from gapmllm.train.loop import train
from gapmllm.train.recipe import read_recipe, recipe_of
from gapmllm.train.samples import Samples

VAL = {"rooms": {**ROOMS, "split": "val"}, "tasks": {"looking": 1}}
TRAIN = {"rooms": ROOMS, "tasks": {"looking": 1}}
ASK = {"every": 100, "clips": 1, "questions": 1, "max_tokens": 4}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def weight(out):
    return load(out).lm_head.weight.clone()


def test_a_run_that_is_extended_and_killed_before_its_end_is_not_finished(out, monkeypatch):
    recipe = written(out, steps=2)
    assert status(recipe) == 0
    before = weight(out)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_model", lambda *_: None)  # as if it were killed there
        assert status(recipe, "--set", "steps=4", "--force") == 0
    assert not is_finished(recipe_of(tiny(out, steps=4), "test"))
    later = recipe_of(tiny(out.with_name("later"), init="../run", model={}), "test")
    with pytest.raises(ValueError, match="not finished"):
        train(later)
    assert status(recipe, "--set", "steps=4") == 0
    assert not torch.equal(weight(out), before)


def test_a_run_is_not_made_shorter_and_a_model_without_checkpoints_is_not_overwritten(out, capsys):
    assert status(written(out, steps=2)) == 0
    assert status(written(out, steps=1), "--force") == 2
    assert "has done 2 steps already, more than the recipe's 1" in capsys.readouterr().err
    (out / FOLDER).rename(out / "moved")
    before = weight(out)
    assert status(written(out, steps=2, seed=5)) == 2
    assert "holds a model and no checkpoint to go on from: it is not overwritten" in capsys.readouterr().err
    assert torch.equal(weight(out), before)


@pytest.mark.parametrize(
    ("sources", "evaluated"),
    [
        ([TRAIN], [TRAIN]),
        ([TRAIN], [{"rooms": {**ROOMS, "first": 1}, "tasks": {"looking": 1}}]),
        ([TRAIN, VAL], []),  # by itself, the evaluation of the first would take rooms of val
    ],
)
def test_evaluation_does_not_take_what_training_sees(out, sources, evaluated):
    recipe = tiny(out, data={"sources": sources}, evaluate=ASK | {"sources": evaluated})
    with pytest.raises(ValueError, match=r"the run is trained on rooms of split (train|val), too"):
        HeldOut(recipe_of(recipe, "test"))
    HeldOut(recipe_of(tiny(out, data={"sources": [TRAIN]}, evaluate=ASK | {"sources": [VAL]}), "test"))


def test_a_data_set_in_place_of_rooms_keeps_their_split(out):
    path = written(out, evaluate=ASK | {"sources": [VAL]})
    recipe = read_recipe(path, data="recordings")
    assert [source.split for source in (*recipe.data.sources, *recipe.evaluate.sources)] == ["train", "val"]


def test_a_loss_without_any_truth_ends_the_run(out, monkeypatch):
    monkeypatch.setattr("gapmllm.train.targets._NUMBER", {})  # no label is known
    with pytest.raises(ValueError, match='the loss "classes" had nothing to learn from in 3 steps'):
        train(recipe_of(tiny(out, steps=3), "test"))


def test_the_card_has_no_scores_of_an_earlier_run(out):
    recipe = tiny(out, steps=2, evaluate=ASK)
    train(recipe_of(recipe, "test"))
    assert "after step 2" in (out / CARD).read_text()
    for path in (out / "config.json", *(out / FOLDER).glob("step-*/*")):
        path.unlink()
    for path in (out / FOLDER).iterdir():
        path.rmdir()
    train(recipe_of(recipe | {"evaluate": None}, "test"))
    assert "None: the run was not evaluated." in (out / CARD).read_text()


def test_the_first_evaluation_has_the_losses_of_the_first_phase(out):
    phases = [{"steps": 1, "losses": {"answers": 1}}, {"steps": 1, "losses": {"classes": 1}}]
    recipe = tiny(out, steps=2, phases=phases, losses={"marks": 1}, evaluate=ASK | {"at_start": True})
    train(recipe_of(recipe, "test"))
    rows = [json.loads(line) for line in (out / "evaluation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2]
    assert ["loss/answers" in row["scores"] for row in rows] == [True, False]
    assert ["loss/classes" in row["scores"] for row in rows] == [False, True]


def test_one_scene_of_many_that_can_be_asked_is_found(monkeypatch):
    data = recipe_of(tiny("unused", data={"sources": [TRAIN | {"rooms": ROOMS | {"count": 40}}]}), "test").data
    samples = Samples(data, seed=0, count=4)
    monkeypatch.setattr(Samples, "_draw", lambda self, entry, unit, rng: "found" if unit == 7 else None)
    assert [samples[index] for index in range(4)] == ["found"] * 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps: yes", "steps: Input should be a valid integer"),
        ("lr: yes", "lr: a number is needed, got true"),
        ("steps: 6\nsteps: 7", "steps is there twice"),
        ("out: ''", "out: String should have at least 1 character"),
        ("lr: {geometry: 1.0e-3}", "lr trains geometry: the stage language is about vision, llm"),
        ("lora: {targets: [embed_tokens]}", "lora.targets.0: Input should be 'q_proj'"),
        ("batch: 50000000", "clips; 50,000,000 are allowed"),
    ],
)
def test_what_yaml_makes_of_a_slip_is_told(out, line, message):
    path = written(out)
    key = line.split(":")[0]
    kept = [row for row in path.read_text().splitlines() if not row.startswith(f"{key}:")]
    path.write_text("\n".join([*kept, line]))
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        read_recipe(path)
