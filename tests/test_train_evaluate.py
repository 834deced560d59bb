"""Evaluation while training: what is held out, and that the files tell the truth."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import board_scene
from torch import distributed, multiprocessing

from gapmllm.infer import Decoded
from gapmllm.model import build
from gapmllm.scenes.dataset import DatasetWriter
from gapmllm.scenes.records import Scene
from gapmllm.tasks import LOOKING, TASKS
from gapmllm.train import evaluate as module
from gapmllm.train.batch import sample_pixels
from gapmllm.train.evaluate import HeldOut, evaluate, held_out_source
from gapmllm.train.recipe import Recipe, Rooms, Source, recipe_of
from gapmllm.train.stages import Stage
from gapmllm.train.targets import depth_target

ALL = (*TASKS, LOOKING)
ROOMS = {"width": 128, "height": 96, "frames": 4}


def recipe(tasks=("points",), clips=2, stage="align", source=None, **values) -> Recipe:
    sources = [source or {"rooms": ROOMS, "tasks": dict.fromkeys(tasks, 1)}]
    data = {"sources": sources, "frames": 2, "marks": 3, "canonical_frames": 4, "neighbours": 1}
    return recipe_of(
        {
            "stage": stage,
            "out": "unused",
            "init": "new debug",
            "steps": 1,
            "lr": 1e-3,
            "data": data | values.pop("data", {}),
            "evaluate": {"clips": clips, "questions": 3, "max_tokens": 4} | values.pop("evaluate", {}),
            **values,
        },
        "test",
    )


def stage_of(run: Recipe) -> Stage:
    model = build("debug")
    model.train_only(run.parts())
    return Stage(model.train(), run)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def _no_java(monkeypatch):
    """METEOR, which is not looked at here, would start it and take seconds."""
    monkeypatch.setattr("gapmllm.evaluation.captions.shutil.which", lambda name: None)


@pytest.fixture
def answering(monkeypatch):
    """answering(answer_of): the model says answer_of(question) instead of what it thinks."""

    def use(held_out, answer_of):
        said = {}
        for index in range(len(held_out)):
            for question in held_out[index].questions:
                said.setdefault((index, question.prompt), answer_of(question))

        class Encoded:
            def __init__(self, model, clip):
                self.end = model.prompts.end_id

            def answer(self, prompts, decoding):
                assert decoding.max_tokens == 4
                index = len(calls)
                calls.append(prompts)
                return [Decoded([self.end], [0.0], said[index, prompt]) for prompt in prompts]

        calls = []
        monkeypatch.setattr(module, "EncodedClip", Encoded)

    return use


@pytest.fixture(scope="module")
def everything():
    """All tasks, a clip of each."""
    run = recipe(ALL, clips=len(ALL))
    return run, HeldOut(run), stage_of(run)


def test_every_task_has_a_clip_of_val_rooms_and_they_stay_the_same(everything):
    run, held_out, _ = everything
    assert [held_out[index].task for index in range(len(held_out))] == list(ALL)
    again = HeldOut(run.model_copy(update={"seed": 7}))  # the seed of a run does not change what it is measured by
    for index in range(len(held_out)):
        assert held_out[index].scene.id.startswith("synth-val-")
        assert again[index].name == held_out[index].name
        assert 0 < len(held_out[index].questions) <= 3
        assert held_out[index] is held_out[index]  # made once


def test_clips_are_shared_by_weight_with_one_at_least():
    held_out = HeldOut(recipe(source={"rooms": ROOMS, "tasks": {"points": 8, "detection": 2, "frame": 0.01}}, clips=10))
    tasks = [samples.entries[0].task for samples, _ in held_out._clips]
    assert tasks == ["points"] * 8 + ["detection"] * 2 + ["frame"]


def test_a_clip_has_no_more_marks_than_questions():
    """A question about the number of crosses sees those of the questions that are asked."""
    held_out = HeldOut(recipe((LOOKING,), clips=8, evaluate={"questions": 2}))
    assert {samples.data.marks for samples, _ in held_out._clips} == {2}
    asked = [question.target for index in range(8) for question in held_out[index].questions]
    assert max(target["count"] for target in asked if "count" in target) <= 2


def test_the_true_answers_score_perfectly(everything, answering, tmp_path):
    pytest.importorskip("pycocoevalcap")
    _, held_out, stage = everything
    answering(held_out, lambda question: question.answer)
    scores = evaluate(stage, held_out, tmp_path)
    assert scores.pop("loss/answers") > 1
    assert scores.pop("points/median_error") < 0.01
    assert scores.pop("grounding/mIoU") > 0.8  # rounded to centimetres
    scores.pop("caption/CIDEr@0.5")  # how rare words are in three captions means nothing
    ones = ("points/within_0.25m", "points/label_accuracy", "detection/f1@0.25")
    ones += ("grounding/acc@0.25", "grounding/acc@0.5")
    assert [scores.pop(f"{task}/cut_off") for task in ALL] == [0] * len(ALL)
    assert scores == dict.fromkeys((*ones, "frame/accuracy", "looking/accuracy"), 1.0)
    assert json.loads((tmp_path / "scores.json").read_text())["frame/accuracy"] == 1
    text = (tmp_path / "answers.md").read_text()
    assert all(f"## {task}: synth-val-" in text for task in ALL)
    assert text.count(held_out[0].questions[0].answer) >= 2  # answer and truth
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == sorted(f"{task}_{index:03d}.png" for index, task in enumerate(ALL))
    records = sorted(path.name for path in tmp_path.glob("*.jsonl"))
    assert records == ["caption.jsonl", "detection.jsonl", "grounding.jsonl", "points.jsonl"]


def test_wrong_answers_score_nothing(everything, answering, tmp_path):
    _, held_out, stage = everything
    answering(held_out, lambda question: '{"label": "nothing", "frame": 99, "bbox_3d": [9, 9, 9, 1, 1, 1, 0, 0, 0]}')
    scores = evaluate(stage, held_out, tmp_path)
    assert "points/median_error" not in scores  # there is no point in any answer
    del scores["loss/answers"]
    assert len(scores) >= 7
    assert all(value < 0.01 for value in scores.values()), scores


def test_an_untrained_model_is_left_as_it_was_and_gives_the_same_files_twice(tmp_path):
    run = recipe(("points", LOOKING), clips=3)
    held_out, stage = HeldOut(run), stage_of(run)
    weights = {name: value.clone() for name, value in stage.state_dict().items()}
    modes = []
    stage.register_forward_pre_hook(lambda stage, _: modes.append(any(module.training for module in stage.modules())))
    torch.manual_seed(5)
    first = evaluate(stage, held_out, tmp_path / "a")
    assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(5)).item()  # draws nothing
    assert modes == [False] * 4  # dropout is off; 3 clips are 1.5 of each task, rounded
    assert all(module.training for module in stage.modules())
    assert all(parameter.grad is None for parameter in stage.parameters())
    assert {name for name, p in stage.named_parameters() if p.requires_grad} == {
        name for name, p in stage_of(run).named_parameters() if p.requires_grad
    }
    assert all(torch.equal(value, weights[name]) for name, value in stage.state_dict().items())
    assert evaluate(stage, HeldOut(run), tmp_path / "b") == first
    assert files(tmp_path / "a") == files(tmp_path / "b")
    stage.eval()
    evaluate(stage, held_out, tmp_path / "c")
    assert not stage.training


def test_a_room_that_comes_twice_is_scored_twice(tmp_path):
    run = recipe(evaluate={"sources": ({"rooms": {**ROOMS, "split": "val", "count": 1}, "tasks": {"detection": 1}},)})
    evaluate(stage_of(run), HeldOut(run), tmp_path)
    lines = (tmp_path / "detection.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"{i}/synth-val-0000000/detection-0-0" for i in range(2)]


def test_labels_alone_have_no_distance(answering, tmp_path):
    run = recipe(clips=1, data={"points": "label"})
    held_out = HeldOut(run)
    answering(held_out, lambda question: question.answer)
    scores = evaluate(stage_of(run), held_out, tmp_path)
    assert scores.keys() == {"loss/answers", "points/cut_off", "points/label_accuracy"}
    assert scores["points/label_accuracy"] == 1


def test_captions_are_not_scored_without_pycocoevalcap(answering, tmp_path, monkeypatch):
    run = recipe(("captioning",), clips=1)
    held_out = HeldOut(run)
    answering(held_out, lambda question: question.answer)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu_scorer", None)
    with pytest.warns(UserWarning, match="caption scores need pycocoevalcap"):
        scores = evaluate(stage_of(run), held_out, tmp_path)
    assert scores.keys() == {"loss/answers", "captioning/cut_off"}
    assert (tmp_path / "caption.jsonl").exists()


def test_the_stage_geometry_has_losses_and_its_error_in_metres(tmp_path):
    run = recipe(stage="geometry", source={"rooms": ROOMS})
    held_out, stage = HeldOut(run), stage_of(run)
    scores = evaluate(stage, held_out, tmp_path)
    assert scores.keys() == {"loss/camera", "loss/depth", "loss/points", "depth/mean_error"}
    assert sorted(files(tmp_path)) == ["depth_000.png", "depth_001.png", "scores.json"]
    head = stage.model.geometry_encoder.vggt.depth_head.scratch.output_conv2[2]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([2.0, 1.0]).log())  # the head gives the logarithm: 2 metres everywhere
    targets = [depth_target(held_out[i], sample_pixels(held_out[i], stage.model.config)) for i in range(2)]
    true = torch.cat([depth[depth > 0] for depth in targets])
    assert evaluate(stage, held_out, tmp_path)["depth/mean_error"] == pytest.approx(
        (true - 2).abs().mean().item(), abs=1e-5
    )


@pytest.mark.parametrize(("given", "used"), [("train", "val"), ("test", "val"), ("val", "test")])
def test_rooms_are_held_out_by_split(given, used):
    source = held_out_source(Source(rooms=Rooms(split=given, first=3), tasks={"points": 1.0}), 16)
    assert (source.rooms.split, source.rooms.first, source.rooms.count) == (used, 3, 16)
    assert source.tasks == {"points": 1.0}


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """dataset(split, …): a folder with a scene of boards in each split."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(*splits: str) -> str:
        folder = tmp_path / "-".join(splits)
        with DatasetWriter(folder, {"command": "test"}) as writer:
            for split in splits:
                writer.add(replace(board_scene(f"boards-{split}"), split=split))
        return str(folder)

    return make


def scene_of(run: Recipe) -> Scene:
    return HeldOut(run)[0].scene


def test_a_data_set_is_held_out_by_its_split_val(dataset):
    run = recipe(source={"dataset": dataset("train", "val"), "tasks": {"detection": 1}}, clips=1)
    assert scene_of(run).id == "boards-val"


def test_frames_that_hold_out_keeps_come_before_the_split(dataset):
    source = {"dataset": dataset("train", "val"), "tasks": {"detection": 1}, "hold_out": 4}
    scene = scene_of(recipe(source=source, clips=1))
    assert scene.id == "boards-train"
    assert [frame.time for frame in scene.frames] == [0.0, 2.0]  # every fourth of eight, half a second apart


@pytest.mark.parametrize("split", ["train", None])
def test_a_data_set_that_holds_nothing_out_says_what_to_write(dataset, split):
    run = recipe(source={"dataset": dataset("train"), "tasks": {"detection": 1}, "split": split})
    with pytest.raises(ValueError, match=f"reads the split {split or 'all'}, and it has train; .* hold_out: 8"):
        HeldOut(run)


def test_a_data_set_of_which_all_is_trained_holds_nothing_out(dataset):
    run = recipe(source={"dataset": dataset("train", "val"), "tasks": {"detection": 1}, "split": None})
    with pytest.raises(ValueError, match=r"reads the split all, and it has train, val; .* or write evaluate: null"):
        HeldOut(run)


def _one_of_two(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    run = recipe(clips=3)
    held_out = HeldOut(run)
    scores = evaluate(stage_of(run), held_out, Path(folder) / "two")
    Path(folder, f"{rank}.json").write_text(json.dumps([scores, len(held_out._kept)]))
    distributed.destroy_process_group()


def test_two_processes_give_the_files_of_one(tmp_path):
    run = recipe(clips=3)
    scores = evaluate(stage_of(run), HeldOut(run), tmp_path / "one")
    multiprocessing.start_processes(_one_of_two, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    assert json.loads((tmp_path / "0.json").read_text())[0] == pytest.approx(scores, abs=1e-9)
    assert json.loads((tmp_path / "1.json").read_text()) == [{}, 1]  # it made the second clip only
    assert files(tmp_path / "one") == files(tmp_path / "two")
