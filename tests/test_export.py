"""gapmllm export: what is handed on is the model, its scores and its checksums."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest
import torch
from safetensors.torch import load_file

import gapmllm
from gapmllm.cli.main import main
from gapmllm.model import build
from gapmllm.run.checks import weights

TRAINED = "# GAP-MLLM, stage adapt\n\nStage adapt: 3 steps.\n\n## Scores\n\nold 0.1\n\n## Limits\n\nnone\n"
SCORES = {
    "model": {
        "points/median_error": {"value": 0.25, "low": 0.2, "high": 0.3},
        "points/label_accuracy": {"value": 0.5, "low": None, "high": None},
    },
    "blind": {"points/median_error": {"value": 1.5, "low": 1.25, "high": 1.75}},
}


@pytest.fixture
def model(tmp_path):
    build("debug", seed=3).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "MODEL_CARD.md").write_text(TRAINED)
    (tmp_path / "model" / "checkpoints").mkdir()  # of the training run: not handed on
    return tmp_path / "model"


def status(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gapmllm", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_the_folder_opens_and_holds_the_weights_rounded(model, tmp_path, monkeypatch, capsys):
    assert not status(monkeypatch, model, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    exact = gapmllm.load(model, device="cpu").state_dict()
    opened = gapmllm.load(tmp_path / "out", device="cpu").state_dict()
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    assert all(torch.equal(value, exact[name].bfloat16()) for name, value in stored.items())
    assert all(torch.equal(opened[name].bfloat16(), stored[name]) for name in stored)
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) / 1e6
    assert f"{size:.1f} MB" in capsys.readouterr().out
    assert (tmp_path / "out" / "MODEL_CARD.md").read_text() == TRAINED


def test_the_card_gets_scores_and_commands_and_keeps_the_rest(model, tmp_path, monkeypatch):
    (tmp_path / "eval").mkdir()
    stored = {"version": 1, "run": {}, "scores": SCORES, "notes": ["one note"]}
    (tmp_path / "eval" / "scores.json").write_text(json.dumps(stored))
    (tmp_path / "make.sh").write_text("gapmllm train a.yaml\n")
    given = ("--scores", tmp_path / "eval", "--made-by", tmp_path / "make.sh")
    assert not status(monkeypatch, model, tmp_path / "out", *given)
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "| metric | model | blind |" in card
    assert "| points/median_error (m, less is better) | 0.250 [0.200, 0.300] | 1.500 [1.250, 1.750] |" in card
    assert "| points/label_accuracy | 0.500 | - |" in card
    assert "- one note" in card
    assert "old 0.1" not in card
    assert card.index("## Scores") < card.index("## Limits\n\nnone\n") < card.index("gapmllm train a.yaml")


def test_checksums_are_those_of_the_files_and_a_change_is_noticed(model, tmp_path, monkeypatch):
    status(monkeypatch, model, tmp_path / "nano")
    sums = json.loads((tmp_path / "nano" / "checksums.json").read_text())
    assert {"config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"} <= sums.keys()
    files = {path.name: path for path in (tmp_path / "nano").iterdir() if path.name != "checksums.json"}
    assert sums == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    monkeypatch.setattr("gapmllm.model.presets.FOLDER", tmp_path)
    assert [finding.state for finding in weights()] == ["ok"]
    data = bytearray(files["model.safetensors"].read_bytes())
    data[-1] ^= 1
    files["model.safetensors"].write_bytes(data)
    assert [finding.state for finding in weights()] == ["problem"]


def test_an_export_is_replaced_when_asked_and_nothing_else_is(model, tmp_path, monkeypatch, capsys):
    assert not status(monkeypatch, model, tmp_path / "out", "--dtype", "float32")
    assert status(monkeypatch, model, tmp_path / "out") == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert not status(monkeypatch, model, tmp_path / "out", "--overwrite")
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert status(monkeypatch, model, tmp_path / "out", "--overwrite") == 2
    assert "mine.txt" in capsys.readouterr().err
    assert status(monkeypatch, model, tmp_path / "other", "--scores", tmp_path) == 2
    assert "finish the evaluation first" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
