"""The model card says how a model came to be, and its folder opens."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import board_scene
from tiny_runs import ROOMS, tiny

import gapmllm
from gapmllm import __version__
from gapmllm.scenes.dataset import DatasetWriter
from gapmllm.train.card import CARD, model_card
from gapmllm.train.loop import train
from gapmllm.train.plan import make_plan
from gapmllm.train.recipe import Evaluate, recipe_of


def section(text: str, title: str) -> str:
    return re.search(rf"^## {title}\n\n(.*?)(?=\n+## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of three stages, each of two steps: language (evaluated) and geometry, then align."""
    root = tmp_path_factory.mktemp("runs")
    points = {"frames": 2, "marks": 2, "sources": [{"rooms": ROOMS, "tasks": {"points": 1}}]}
    stages = {
        "language": {"evaluate": {"every": 1, "clips": 1, "questions": 2, "max_tokens": 8}},
        "geometry": {"stage": "geometry", "model": {}, "data": {"frames": 2, "sources": [{"rooms": ROOMS}]}},
        "align": {"stage": "align", "init": "../language", "geometry": "../geometry", "model": {}, "data": points},
    }
    for name, changes in stages.items():
        losses = {} if name == "language" else {"losses": {}}
        assert train(recipe_of(tiny(root / name, steps=2, **changes | losses), "test"))
    return root


def test_the_folder_opens_and_its_card_says_what_it_is(runs):
    assert gapmllm.load(runs / "align", device="cpu").config.fusion == "gated"
    card = (runs / "align" / CARD).read_text()
    assert card.startswith("# GAP-MLLM, stage align\n\nStage align: 2 steps of points. ")
    facts = section(card, "Training")
    rows = [json.loads(line) for line in (runs / "align" / "metrics.jsonl").read_text().splitlines()]
    assert f"- questions: {sum(row['questions'] for row in rows)}\n" in facts
    assert "- steps, clips: 2, 4\n" in facts
    assert f"- package: gapmllm {__version__}" in facts
    assert "- hardware: CPU with " in facts
    assert section(card, "Data") == (
        "- Synthetic rooms of split train, made as training ran, from number 0 to 1 at most: "
        "4 frames of 64x48 pixels each"
    )
    assert section(card, "Scores") == "None: the run was not evaluated."
    assert "Not for safety-critical use" in section(card, "Limits")


def test_a_plan_finds_the_stages_that_are_trained(runs):
    values = yaml.safe_load(re.search(r"```yaml\n(.*?)```", (runs / "align" / CARD).read_text(), re.DOTALL)[1])
    plan = make_plan(recipe_of(values, "card"))
    assert (plan.about["init"], plan.about["geometry"]) == ("../language: here", "../geometry: here")
    assert plan.about["out"].endswith("align: holds this run, finished")
    saved = gapmllm.load(runs / "align", device="cpu")
    assert plan.parameters[-1]["parameters"] == sum(p.numel() for p in saved.parameters())
    assert plan.time["the steps that are left, as measured, hours"] == 0


def test_the_recipe_in_the_card_is_the_recipe(runs):
    card = (runs / "align" / CARD).read_text()
    values = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    recipe = recipe_of(values, "card")
    assert (recipe.out, recipe.init, recipe.steps) == (str(runs / "align"), "../language", 2)
    assert model_card(recipe, "CPU") == model_card(recipe, "GPU").replace("GPU", "CPU")


def test_the_scores_are_those_of_the_last_evaluation(runs):
    said = section((runs / "language" / CARD).read_text(), "Scores")
    scores = json.loads((runs / "language/evaluation/step-00000002/scores.json").read_text())
    earlier = json.loads((runs / "language/evaluation/step-00000001/scores.json").read_text())
    assert said.startswith("On clips kept out of training, after step 2:")
    assert f"| loss/answers | {scores['loss/answers']:.4g} |" in said
    assert f"| loss/answers | {earlier['loss/answers']:.4g} |" not in said
    assert said.count("\n| ") == 1 + len(scores)


def test_the_stages_before_are_told(runs, tmp_path):
    assert section((runs / "align" / CARD).read_text(), "Stages before") == (
        "- init ../language: Stage language: 2 steps of looking.\n"
        "  - init: random weights, sizes of debug\n"
        "- geometry ../geometry: Stage geometry: 2 steps.\n"
        "  - init: random weights, sizes of debug"
    )
    public = recipe_of(tiny(tmp_path / "a", init="qwen3-vl-2b", geometry="facebook/VGGT-1B", model={}), "test")
    assert section(model_card(public, "CPU"), "Stages before") == (
        "- init qwen3-vl-2b: the public Qwen/Qwen3-VL-2B-Instruct\n- geometry facebook/VGGT-1B"
    )
    after = recipe_of(tiny(runs / "adapt", init="../align", model={}), "test")
    assert section(model_card(after, "CPU"), "Stages before").splitlines()[:2] == [
        "- init ../align: Stage align: 2 steps of points.",
        "  - init ../language: Stage language: 2 steps of looking.",
    ]


def test_the_files_of_a_data_set_are_named_by_their_hashes(tmp_path):
    with DatasetWriter(tmp_path / "boards", {"command": "test"}, None) as writer:
        writer.add(board_scene("a"))
        writer.add(board_scene("b"))
    source = {"dataset": str(tmp_path / "boards"), "tasks": {"points": 1}, "hold_out": 4}
    recipe = recipe_of(tiny(tmp_path / "run", data={"sources": [source]}), "test")
    said = section(model_card(recipe, "CPU"), "Data")
    (file,) = Path(tmp_path / "boards" / "data").iterdir()
    assert f"{hashlib.sha256(file.read_bytes()).hexdigest()}  data/{file.name}" in said
    assert "split train: 2 scenes, 16 frames; every 4th frame kept out.\n  Made by command: test.\n" in said
    evaluated = recipe.model_copy(update={"evaluate": Evaluate(sources=recipe.data.sources)})
    (tmp_path / "run").mkdir()
    (tmp_path / "run/evaluation.jsonl").write_text('{"step": 1, "scores": {"points/median_error": 0.5}}\n')
    scores = section(model_card(evaluated, "CPU"), "Scores")
    assert said in scores
    assert scores.endswith("| points/median_error | 0.5 |")
    assert said not in section(model_card(recipe, "CPU"), "Scores")
    (tmp_path / "boards" / "manifest.json").unlink()
    assert "is no data set" in section(model_card(recipe, "CPU"), "Data")
