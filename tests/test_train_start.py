"""The model that a run starts from, adapters, and what precision leaves in the folder."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gapmllm
from gapmllm.model import build
from gapmllm.train.batch import MakeBatch
from gapmllm.train.checkpoints import FOLDER
from gapmllm.train.loop import train
from gapmllm.train.metrics import FILE, read_rows
from gapmllm.train.recipe import recipe_of
from gapmllm.train.samples import Samples
from gapmllm.train.start import start_model, trained

ROOMS = {"count": 2, "frames": 4, "width": 64, "height": 48}
LORA = {"lora": {"rank": 3, "alpha": 6, "targets": ["q_proj", "down_proj"]}}


def recipe(out: Path, stage: str = "align", tasks: str = "points", **values):
    data = {
        "frames": 2,
        "marks": 3,
        "questions": 3,
        "sources": [{"rooms": ROOMS, "tasks": {tasks: 1} if tasks else {}}],
    }
    usual = {"stage": stage, "init": "new debug", "steps": 4, "batch": 2, "lr": 1e-3, "workers": 0, "evaluate": None}
    return recipe_of(usual | {"data": data, "out": str(out)} | values, "test")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Path:
    """A folder with the runs geometry and language, one step each."""
    folder = tmp_path_factory.mktemp("stages")
    train(recipe(folder / "geometry", "geometry", "", steps=1))
    train(recipe(folder / "language", "language", "looking", steps=1, model={"fusion": "none"}))
    return folder


def after(stages: Path, **values):
    """A run beside them that starts from both."""
    return recipe(stages / "align", **{"init": "../language", "geometry": "../geometry"} | values)


def test_a_run_starts_from_the_two_before_it(stages):
    model = start_model(after(stages))
    state, language, geometry = model.state_dict(), weights(stages / "language"), weights(stages / "geometry")
    vggt = {name for name in geometry if name.startswith("geometry_encoder.")}
    assert len(vggt) > 100
    assert not vggt & language.keys()
    for name in vggt:
        assert torch.equal(state[name], geometry[name]), name
    for name, tensor in language.items():
        assert torch.equal(state[name], tensor), name
    untrained = build("debug").state_dict()
    assert any(not torch.equal(geometry[name], untrained[name]) for name in vggt)  # one step of training
    assert any(not torch.equal(tensor, untrained[name]) for name, tensor in language.items())
    rest = state.keys() - vggt - language.keys() - {"lm_head.weight"}
    assert all("feature_fusion" in name or "geometry_" in name for name in rest)
    assert model.config.fusion == "gated"


@pytest.mark.parametrize("fusion", ["add", "concat", "weighted", "cross_attention"])
def test_another_fusion_is_a_line_of_the_recipe(stages, fusion):
    model = start_model(after(stages, model={"fusion": fusion, "fusion_levels": "main"}))
    assert model.config.fusion == fusion
    assert len(model.geometry_deepstack_merger_list) == 0
    assert torch.equal(model.lm_head.weight, weights(stages / "language")["model.language_model.embed_tokens.weight"])


def test_without_fusion_the_llm_alone_is_trained(stages, tmp_path):
    run = after(stages, geometry=None, lr={"llm": 1e-3})
    names = trained(start_model(run))
    assert names
    assert all(name.startswith(("model.language_model", "lm_head")) for name in names)
    with pytest.raises(ValueError, match=r'has no part "mergers" to train, only vision, llm \(.*lr: \{llm: '):
        start_model(after(stages, geometry=None))


def test_new_models_differ_by_seed_and_train_their_parts(tmp_path):
    one, same, other = (start_model(recipe(tmp_path, seed=seed)).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    model = start_model(recipe(tmp_path, "geometry", ""))
    assert model.training
    assert all(name.startswith("geometry_encoder.") for name in trained(model))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"init": "../nowhere"}, r"init: ../nowhere is .*/nowhere, which is not there: train it first"),
        ({"geometry": "../none"}, r"geometry: ../none is .*/none, which is not there.*\(gapmllm train …/none.yaml\)"),
        ({"init": "../half"}, "init: ../half is .*/half, which holds a run that is not finished"),
        ({"init": "new debug"}, "'new debug' makes a geometry encoder of its own; leave out geometry"),
        ({"init": "new qwen3-vl-2b", "geometry": None}, "qwen3-vl-2b has no tokenizer without a download"),
        ({"init": "new giant", "geometry": None}, "no preset 'giant'; choose from debug, nano"),
        ({"init": "../geometry"}, "brings its own geometry encoder; leave out geometry"),
        ({"geometry": "../language"}, "language/model.safetensors: these are not the weights of a VGGT"),
    ],
)
def test_what_is_not_there_is_told(stages, values, message):
    (stages / "half" / FOLDER).mkdir(parents=True, exist_ok=True)
    with pytest.raises(ValueError, match=message):
        start_model(after(stages, **values))


def test_an_unfinished_run_is_told_by_its_full_name_too(stages):
    (stages / "half" / FOLDER).mkdir(parents=True, exist_ok=True)
    with pytest.raises(ValueError, match="which holds a run that is not finished"):
        start_model(after(stages, init=str(stages / "half")))


# Adapters


@pytest.fixture
def _peft():
    pytest.importorskip("peft")


@pytest.mark.usefixtures("_peft")
def test_adapters_train_and_what_they_adapt_does_not(tmp_path):
    run = recipe(tmp_path / "run", lr={"llm": 1e-2}, **LORA)
    model = start_model(run)
    names = trained(model)
    config = model.config.text_config
    # In each layer: rank 3 times the inputs and outputs of q_proj and of down_proj.
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim
    by_hand = config.num_hidden_layers * 3 * ((width + heads) + (inner + width))
    assert sum(parameter.numel() for parameter in names.values()) == by_hand
    assert all("lora_" in name for name in names)
    train(run)
    before, after_it = start_model(recipe(tmp_path, lr={"llm": 1e-2})).state_dict(), weights(tmp_path / "run")
    changed = {name for name, tensor in after_it.items() if not torch.equal(tensor, before[name])}
    adapted = {name for name in after_it if name.endswith(("q_proj.weight", "down_proj.weight")) and "layers" in name}
    assert changed == adapted


@pytest.mark.usefixtures("_peft")
def test_the_saved_folder_answers_as_the_adapted_model(tmp_path):
    run = recipe(tmp_path / "run", lr={"llm": 1e-2, "fusion": 1e-3}, **LORA)
    train(run)
    adapted = start_model(run)
    newest = load_file(tmp_path / "run" / FOLDER / "step-00000004" / "weights.safetensors")
    wrong = adapted.load_state_dict(
        {name.removeprefix("model."): value for name, value in newest.items()}, strict=False
    )
    assert not wrong.unexpected_keys
    saved, fresh = gapmllm.load(tmp_path / "run"), start_model(recipe(tmp_path, **LORA))
    make = MakeBatch.of(run, saved.config, saved.prompts)
    batch = make([Samples(run.data, seed=5, count=1)[0]])

    def logits(model):
        with torch.no_grad():
            return model.eval()(**batch.pack.inputs(model)).logits

    torch.testing.assert_close(logits(saved), logits(adapted), atol=1e-5, rtol=0)
    assert (logits(saved) - logits(fresh)).abs().max() > 1e-2


@pytest.mark.usefixtures("_peft")
def test_adapters_resume(tmp_path):
    run = recipe(tmp_path / "run", save={"every": 2}, **LORA)
    train(run)
    shutil.copytree(tmp_path / "run" / FOLDER / "step-00000002", tmp_path / "rest" / FOLDER / "step-00000002")
    train(recipe(tmp_path / "rest", save={"every": 2}, **LORA))
    losses, rest = ([row["loss"] for row in read_rows(tmp_path / name / FILE)] for name in ("run", "rest"))
    assert rest == losses[2:]
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "rest")
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


@pytest.mark.usefixtures("_peft")
def test_adapters_for_layers_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nope"):
        start_model(recipe(tmp_path, lora={"targets": ["nope"]}))


def test_adapters_need_peft(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'lora needs peft: pip install "gapmllm\[lora\]"'):
        start_model(recipe(tmp_path, **LORA))


# Precision


def test_a_run_in_bfloat16_trains_and_leaves_a_folder_in_bfloat16(tmp_path, monkeypatch):
    monkeypatch.setattr("gapmllm.train.loop.emulates_bfloat16", lambda device: device.type == "cpu")
    single = recipe(tmp_path / "single")
    mixed = recipe(tmp_path / "mixed", precision="bfloat16")
    for run in (single, mixed):
        train(run)
    ours, theirs = ([row["loss"] for row in read_rows(Path(run.out) / FILE)] for run in (single, mixed))
    assert theirs != ours
    assert theirs == pytest.approx(ours, rel=1e-2)
    logs = [(Path(run.out) / "logs" / "rank-0.log").read_text() for run in (single, mixed)]
    assert ["this CPU has no bfloat16" in log for log in logs] == [False, not torch.cuda.is_available()]
    stored = load_file(tmp_path / "mixed" / FOLDER / "step-00000004" / "weights.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}  # weights and their updates stay so
    assert {tensor.dtype for tensor in weights(tmp_path / "mixed").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "mixed" / "config.json").read_text())["dtype"] == "bfloat16"
    assert weights(tmp_path / "mixed").keys() == weights(tmp_path / "single").keys()
    loaded = gapmllm.load(tmp_path / "mixed", dtype="bfloat16", device="cpu")
    assert torch.equal(loaded.lm_head.weight, weights(tmp_path / "mixed")["model.language_model.embed_tokens.weight"])
