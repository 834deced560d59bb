"""`gapmllm eval` as a whole: files, table, what is refused, released checkpoints and records, calibration."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from test_importers_released import METADATA, conversation, in_camera, released
from test_predict import PLAN, scene_of, written
from typer.testing import CliRunner

from gapmllm.cli.eval import eval_
from gapmllm.evaluation import PointsRecord, score_file, write_records
from gapmllm.infer import EncodedClip
from gapmllm.model import build, load, save_released
from gapmllm.run import evaluate as module
from gapmllm.run.calibrating import calibrate_model
from gapmllm.run.evaluate import Options, evaluate
from gapmllm.scenes.images import encode_image


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two scenes to test on, one to learn from."""
    return written(tmp_path_factory.mktemp("data") / "boards", scene_of("a"), scene_of("b"), scene_of("c", "train"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Few samples for intervals, and no Java: METEOR takes seconds to start."""
    monkeypatch.setattr("gapmllm.evaluation.captions.shutil.which", lambda name: None)
    monkeypatch.setattr("gapmllm.evaluation.report.DRAWS", 5)


# ---- a run


def run(out, data, **values):
    found = evaluate(Options(**{"model": "debug", "data": data, "out": out, "max_tokens": 400, **values}))
    assert found is not None
    return found


def test_all_subjects_answer_and_are_scored(data, tmp_path):
    who = ("blind", "mean", "no-geometry")
    found = run(tmp_path / "out", data, baselines=who, tasks=("points", "grounding"))
    assert list(found.scores) == ["model", *who]
    assert any("random" in note for note in found.notes)
    for name in found.scores:
        kept = sorted(path.name for path in (tmp_path / "out" / name).iterdir())
        assert kept == ["grounding.json", "grounding.jsonl", "points.json", "points.jsonl"]
        for task in ("points", "grounding"):
            report = score_file(tmp_path / "out" / name / f"{task}.jsonl", task)
            assert json.loads((tmp_path / "out" / name / f"{task}.json").read_text())["records"] == report.records
    mean, model = (found.scores[name]["points/median_error"].value for name in ("mean", "model"))
    assert mean < 2 < model  # metres; random weights write any number up to 1000
    stored = json.loads((tmp_path / "out" / "scores.json").read_text())
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert stored["scores"]["mean"]["points/median_error"]["value"] == mean
    assert files - {".lock"} == {"model", *who, "run.json", "scores.json"}


def test_a_limit_is_of_clips_of_each_task(data, tmp_path):
    run(tmp_path / "out", data, limit=1, tasks=("points", "detection"), decoding="free", max_tokens=4)
    for task in ("points", "detection"):
        lines = (tmp_path / "out" / "model" / f"{task}.jsonl").read_text().splitlines()
        assert {json.loads(line)["scene"] for line in lines} == {"a"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"tasks": ("pointing",)},
            "no task pointing to evaluate; choose from points, detection, grounding, captioning",
        ),
        ({"split": "val"}, "has no split 'val'; it has test, train"),
        ({"baselines": ("median",)}, "no baseline median; choose from blind, mean, no-geometry"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"calibrate": True}, "calibration needs clips that are neither trained nor tested on"),
        ({"data": "nowhere"}, "nowhere is no data set"),
        ({"train_data": "nowhere", "baselines": ("mean",)}, "nowhere is no data set"),
        ({"model": "nothing"}, "no model 'nothing'"),
        ({"device": "tpu9"}, "device 'tpu9' is not there"),
    ],
)
def test_bad_input_is_told(data, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", **{"data": data, **values})


def test_the_mean_needs_something_to_learn_from(tmp_path):
    name = written(tmp_path / "data", scene_of(plan=replace(PLAN, tasks=("points",))))
    with pytest.raises(ValueError, match=r"the baseline mean needs a split train, and .* has test: name a data set"):
        run(tmp_path / "out", name, baselines=("mean",))
    other = written(tmp_path / "other", scene_of("t", "train", replace(PLAN, tasks=("detection",))))
    with pytest.raises(ValueError, match="other stores no questions of points in its split train"):
        run(tmp_path / "out", name, baselines=("mean",), train_data=other)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    scene = scene_of(plan=replace(PLAN, tasks=("points",)))
    broken = [replace(frame, image=frame.image[: len(frame.image) // 2]) for frame in scene.frames]
    name = written(tmp_path / "data", replace(scene, frames=tuple(broken)))
    with pytest.raises(ValueError, match="scene a, clip points-0: "):
        run(tmp_path / "out", name)


# ---- released checkpoints and records


@pytest.fixture
def released_model(tmp_path):
    """A small checkpoint in the released layout, with the frame sizes of the released inference."""
    plain = build("debug").config.to_dict()
    vision, geometry = ({**plain[name]} for name in ("vision_config", "geometry_config"))
    vision["patch_size"], geometry["patch_size"], geometry["img_size"] = 16, 14, 518
    model = build("debug", vision_config=vision, geometry_config=geometry, image_grid="released-inference")
    save_released(model, tmp_path / "released")
    return str(tmp_path / "released")


def test_a_released_checkpoint_on_released_records(released_model, tmp_path, monkeypatch):
    box = {"bbox_3d": in_camera(0)}
    importer = released(
        tmp_path,
        {"conversations": conversation(box), "target": box, "metadata": METADATA},
        {"conversations": conversation([]), "boxes": [{"label": "chair", **box}]},
        {"conversations": conversation({"frame": 1}), "metadata": METADATA},
    )
    for image in (tmp_path / "media").rglob("*.jpg"):  # larger than one token
        image.write_bytes(encode_image(np.full((48, 64, 3), 128, np.uint8)))
    file, asked = str(importer.root), []
    ready = EncodedClip.asked

    def watched(self, questions, decoding, forms):
        asked.extend(zip(questions, forms, strict=True))
        return ready(self, questions, decoding, forms)

    monkeypatch.setattr(EncodedClip, "asked", watched)
    options = {"model": released_model, "data": file, "out": tmp_path / "out", "max_tokens": 6}
    found = evaluate(Options(**options))
    assert asked == [("<image><image>What?", None)] * 2  # as they are written, answered freely
    grounding = {f"grounding/{name}" for name in ("acc@0.25", "acc@0.5", "mIoU")}
    assert found.scores["model"].keys() == {"detection/f1@0.25", *grounding}  # no AP: free answers have no scores
    assert any("as it is stored" in note for note in found.notes)
    again = evaluate(Options(**options))
    assert again.was_done
    assert again.scores == found.scores


def test_a_file_that_holds_no_records_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="no data set's folder, and no JSON list of released records"):
        run(tmp_path / "out", str(tmp_path / "a.json"))
    importer = released(tmp_path, {"conversations": conversation({}), "images": ["nowhere/x.jpg"]})
    with pytest.raises(ValueError, match=r"no record can be used: .*--media names the folder"):
        run(tmp_path / "out", str(importer.root))


# ---- the command, and calibration


def command(*arguments: object) -> tuple[int, str]:
    """Exit status and output of `gapmllm eval arguments`."""
    app = typer.Typer()
    app.command()(eval_)
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=True)
    return done.exit_code, done.output


def test_the_command_prints_one_table(data, tmp_path):
    arguments = ("debug", data, "--out", tmp_path / "out", "--tasks", "points, detection", "--decoding", "free")
    arguments += ("--max-tokens", 8, "--baselines", "blind")
    code, text = command(*arguments)
    assert code == 0, text
    lines = {line.split()[1]: line.split()[3::2] for line in text.splitlines() if "/" in line and "│" in line}
    assert lines["points/within_0.25m"] == ["0.000", "0.000"]
    assert "model" in text
    assert "note: the weights of this model are random" in text
    code, text = command(*arguments)
    assert code == 0, text
    assert "all questions were answered before" in text


def test_the_command_takes_so_many_clips_at_a_time(data, tmp_path, monkeypatch):
    whole, sizes = module.records_of, []

    def watched(units, *arguments):
        sizes.append(len(units))
        return whole(units, *arguments)

    monkeypatch.setattr(module, "records_of", watched)
    for batch, expected in ((1, [1, 1]), (2, [2])):
        out = ("--out", tmp_path / str(batch), "--batch", batch)
        code, text = command("debug", data, *out, "--tasks", "points", "--decoding", "free", "--max-tokens", 8)
        assert code == 0, text
        assert sizes == expected
        sizes.clear()


def test_ctrl_c_says_how_to_go_on(data, tmp_path, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "records_of", interrupted)
    code, text = command("debug", data, "--out", tmp_path / "out", "--decoding", "free")
    assert code == 130
    assert f"{tmp_path / 'out'}: the same command goes on from there" in " ".join(text.split())


def point_records(path: Path, right: int) -> None:
    """40 answers with score 0.9, of which so many are right."""
    truth = {"pointmap": (1.0, 0.0, 0.0)}
    values = {"version": 1, "task": "points", "scene": "a", "truth": truth, "score": 0.9}
    answers = ['{"pointmap": [1.00, 0.00, 0.00]}' if number < right else "?" for number in range(40)]
    write_records(path, [PointsRecord(id=str(i), answer=answer, **values) for i, answer in enumerate(answers)])


def test_temperatures_go_into_the_model(tmp_path):
    build("debug").save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    (out / "model").mkdir(parents=True)
    point_records(out / "model" / "points.jsonl", right=20)
    notes = calibrate_model(str(tmp_path / "model"), out, ["points", "captioning"], {})
    # by hand: half are right, so 0.9^(1/T) = 0.5
    expected = pytest.approx(math.log(0.9) / math.log(0.5), rel=1e-2)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["score_temperatures"] == {"points": expected}
    assert json.loads((out / "calibration.json").read_text())["points"]["temperature"] == expected
    assert (out / "reliability.png").stat().st_size > 1000
    assert "scores are calibrated from now on" in notes[-1]
    assert load(tmp_path / "model").config.score_temperatures["points"] == expected
    point_records(out / "model" / "points.jsonl", right=0)
    with pytest.raises(ValueError, match=r"nothing can be calibrated. points is not calibrated: 40 answers"):
        calibrate_model(str(tmp_path / "model"), out, ["points"], {})


def test_a_preset_keeps_its_config(tmp_path):
    (tmp_path / "model").mkdir()
    point_records(tmp_path / "model" / "points.jsonl", right=20)
    assert "debug is no folder of a model of ours" in calibrate_model("debug", tmp_path, ["points"], {})[-1]
    assert (tmp_path / "calibration.json").exists()
