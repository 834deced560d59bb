"""What a run refuses: one clear message and exit status 2, before anything is trained or lost."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import board_scene
from tiny_runs import ROOMS, losses, status, tiny, written

from gapmllm.model import build
from gapmllm.scenes.dataset import DatasetWriter
from gapmllm.train import checkpoints, loop
from gapmllm.train.loading import Shares
from gapmllm.train.recipe import recipe_of


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def refused(capsys):
    """refused(recipe, options): what is printed, without "error: "; exit status 2 is expected."""

    def said(*arguments: object) -> str:
        capsys.readouterr()
        assert status(*arguments) == 2
        text = capsys.readouterr().err
        assert text.count("error: ") == 1, text
        assert "Traceback" not in text
        return text.partition("error: ")[2].rstrip("\n")

    return said


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A recipe that has been run: three steps."""
    recipe = written(tmp_path_factory.mktemp("finished") / "run", steps=3)
    assert status(recipe) == 0
    return recipe


def stored(folder, scene=None, source=None, **changes):
    """What a recipe has to say to train on a data set of one scene. source: of its keys some others."""
    with DatasetWriter(folder, {"made": "here"}) as writer:
        writer.add(scene or board_scene())
    source = {"dataset": str(folder), "tasks": {"looking": 1}} | (source or {})
    return {"data": {"frames": 2, "marks": 2, "questions": 2, "sources": [source]}} | changes


def test_all_that_is_wrong_in_a_recipe_is_told_at_once_a_line_each(out, refused):
    wrong = {"colour": 1, "steps": "many", "batch": 1.5, "save": {"evry": 3}, "lr": "abc", "lora": {"rank": 0}}
    recipe = written(out, **wrong, phases=[{"steps": 6, "data": {"farmes": 3}}])
    assert refused(recipe).splitlines() == [
        f"{recipe}: 6 of its keys cannot be used",
        '  steps: Input should be a valid integer, got "many"',
        "  batch: Input should be a valid integer, got 1.5",
        '  lr: Input should be a valid number, unable to parse string as a number, got "abc"',
        "  lora.rank: Input should be greater than or equal to 1, got 0",
        "  save.evry: no such key",
        "  colour: no such key",
    ]
    assert "phases.0.data: farmes: no such key" in refused(written(out, phases=[{"steps": 6, "data": {"farmes": 3}}]))
    assert not out.exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch", "--set batch: key=value is needed, such as batch=4 or data.marks=2"),
        ("=3", "--set =3: key=value is needed"),
        ("batch=[", "--set batch=[: '[' is no YAML value: while parsing a flow node"),
        ("data.sources.9.split=val", "--set data.sources.9.split=val: this recipe has no place data.sources.9.split"),
        ("data.sources.x=1", "this recipe has no place data.sources.x"),
        ("data.frames.x=1", "--set data.frames.x=1: this recipe has no place data.frames.x"),
        ("stage.x=1", "this recipe has no place stage.x"),
        ("lr=abc", "lr: Input should be a valid number"),
        ("data.sources.0.tasks.cooking=1", "data.sources.0: no task cooking; choose from points, detection, frame"),
        ("evaluate.every=0", "evaluate.every: Input should be greater than or equal to 1, got 0"),  # it was null
        ("steps=!!python/object/apply:os.getcwd []", "is no YAML value: could not determine a constructor"),
        ("micro_batch=3", "each process gets 2 clips of a step (batch 2, 1 processes): micro_batch must divide that"),
    ],
)
def test_settings_that_make_no_sense(out, refused, setting, message):
    assert message in refused(written(out), "--set", setting)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a recipe is a table of keys and values, got an empty file"),
        ("- 1\n- 2", "a recipe is a table of keys and values, got list"),
        ("a: [", "is no YAML: while parsing a flow node"),
        ("[" * 5000, "is no YAML: maximum recursion depth"),
        ("&a {stage: *a}", "stage: Input should be 'geometry', 'language', 'align' or 'adapt', got dict"),
        ("\udcff", "is no text in UTF-8"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, refused, text, message):
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    said = refused(path)
    assert str(path) in said
    assert message in said


def test_recipes_that_are_not_there(tmp_path, refused):
    assert refused(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    assert refused(tmp_path / "none.yaml") == f"{tmp_path}/none.yaml: cannot be read: No such file or directory"


def test_batches_that_cannot_be_dealt_out_to_the_processes(out):
    recipe = recipe_of(tiny(out, batch=8), "test")
    with pytest.raises(ValueError, match="batch 8 cannot be dealt out to 3 processes: make it a multiple of 3"):
        Shares.of(recipe, 3, 0)
    assert Shares.of(recipe, 4, 0).micro_batch == 2


def test_models_to_start_from_that_are_not_there_or_not_finished(out, tmp_path, refused, finished):
    model = {"model": {}, "init": "../first"}
    assert refused(written(out, **model)) == (
        f"init: ../first is {tmp_path}/first, which is not there: train it first (gapmllm train …/first.yaml)"
    )
    (tmp_path / "first" / "checkpoints").mkdir(parents=True)
    assert "first, which holds a run that is not finished: train it first" in refused(written(out, **model))
    assert "no model 'none/at/all': needed is a preset" in refused(written(out, model={}, init="none/at/all"))
    with_model = {"model": {"fusion": "gated"}, "geometry": "../first"}
    assert "makes a geometry encoder of its own; leave out geometry" in refused(written(out, **with_model))
    assert losses(out) == []


def test_a_tokenizer_that_does_not_fit_the_checkpoint(out, tmp_path, refused):
    build("debug", fusion="none").save_pretrained(tmp_path / "first")
    path = tmp_path / "first" / "tokenizer.json"
    values = json.loads(path.read_text())
    values["added_tokens"][-1]["content"] = "<|other|>"
    values["model"]["vocab"] |= {f"extra {number}": 5000 + number for number in range(3)}
    path.write_text(json.dumps(values))
    said = refused(written(out, model={}, init="../first"))
    assert "first: tokenizer and config.json are not of one model" in said
    assert "the tokenizer has ids up to 5002, the config a vocab_size of " in said


def test_data_sets_that_cannot_be_used(out, tmp_path, refused):
    whole = stored(tmp_path / "set")
    (source,) = whole["data"]["sources"]

    def with_source(**changes):
        return written(out, data=whole["data"] | {"sources": [source | changes]})

    assert "none is no data set: it has no manifest.json; make one with `gapmllm data`" in refused(
        with_source(dataset=str(tmp_path / "none"))
    )
    assert "set has no split 'val'; it has train" in refused(with_source(split="val"))
    assert "set, split train stores no questions of the task 'points'; it has none" in refused(
        with_source(tasks={"points": 1}, ask="stored")
    )
    bare = stored(tmp_path / "bare", replace(board_scene(), objects=(), expressions=()))
    assert "has no objects, which the task 'looking' asks about; leave the task out" in refused(written(out, **bare))
    (tmp_path / "set" / "manifest.json").write_text(
        (tmp_path / "set" / "manifest.json").read_text().replace("z forward", "z backward")
    )
    said = refused(written(out, **whole))
    assert "set follows other conventions than this package. It says: camera axes x right, y down, z backward" in said
    assert losses(out) == []


def test_a_later_phase_without_data_is_told_before_the_first_step(out, tmp_path, refused):
    missing = {"sources": [{"dataset": str(tmp_path / "none"), "tasks": {"looking": 1}}]}
    assert "none is no data set" in refused(written(out, phases=[{"steps": 3}, {"steps": 3, "data": missing}]))
    assert losses(out) == []


def test_a_data_set_in_the_recipes_place_reaches_the_phases(out, tmp_path, refused):
    rooms = {"sources": [{"rooms": ROOMS, "tasks": {"looking": 1}}]}
    recipe = written(out, phases=[{"steps": 3}, {"steps": 3, "data": rooms}])
    (tmp_path / "none").mkdir()
    assert "none is no data set" in refused(recipe, "--data", tmp_path / "none")
    assert status(recipe, "--set", "steps=2", "--set", "phases=[]") == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_named(out, tmp_path, refused, workers):
    scene = board_scene()
    cut = replace(scene, frames=tuple(replace(frame, image=frame.image[:200]) for frame in scene.frames))
    said = refused(written(out, **stored(tmp_path / "set", cut), workers=workers))
    assert said.startswith("boards/points-0 (looking-points-0-")
    assert said.endswith("): image is damaged: image file is truncated")
    assert "\n" not in said


def test_a_depth_image_that_cannot_be_read_is_named(out, tmp_path, refused):
    scene = board_scene()
    cut = replace(scene, frames=tuple(replace(frame, depth=frame.depth[:60]) for frame in scene.frames))
    said = refused(written(out, **stored(tmp_path / "set", cut)))
    assert said == f"{tmp_path}/set, split train, scene 0: image is damaged: image file is truncated"


def test_another_recipe_does_not_go_on_with_a_run_unless_forced(finished, refused, tmp_path):
    said = refused(finished, "--set", "lr=0.1", "--set", "data.marks=1", "--set", "workers=2")
    lines = said.splitlines()
    assert lines[0].endswith("step-00000003 belongs to another recipe")
    assert lines[1].startswith('  data: {"sources": [')
    assert lines[2] == "  lr: 0.002 there, 0.1 now"
    assert lines[3].startswith("To go on with it, give its own recipe, or --force to go on with the changes; to start")
    assert len(lines) == 4
    assert "run holds a run already: go on with --resume, or choose another folder" in refused(finished, "--no-resume")
    assert status(finished, "--set", "workers=2") == 0
    assert status(finished, "--set", "steps=5", "--force") == 0
    assert [row["step"] for row in losses(finished.with_suffix(""))] == [1, 2, 3, 4, 5]


def test_another_model_to_start_from_is_another_run(out, tmp_path, refused):
    build("debug", fusion="none").save_pretrained(tmp_path / "first")
    recipe = written(out, model={}, init="../first", steps=2)
    assert status(recipe) == 0
    assert status(recipe) == 0
    build("debug", fusion="none", seed=1).save_pretrained(tmp_path / "first")
    assert "init: its files are others than at the start of the run" in refused(recipe)
    assert status(recipe, "--force") == 0


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("weights.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9]), "incomplete metadata"),
        ("optimizer.safetensors", lambda path: path.write_bytes(b""), "header too small"),
        ("rng.safetensors", lambda path: path.unlink(), "No such file or directory"),
        ("state.json", lambda path: path.write_text('{"step": 4,'), "Expecting"),
        ("state.json", lambda path: path.write_text("[]"), "a table with origin, package, recipe, step was expected"),
        ("state.json", lambda path: path.unlink(), "No such file or directory"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_without_it_the_run_goes_on(out, refused, name, damage, message):
    recipe = written(out, steps=4, save={"every": 1})
    assert status(recipe) == 0
    whole = losses(out)
    (out / "config.json").unlink()
    newest = checkpoints.latest(out)
    damage(newest / name)
    said = refused(recipe)
    assert said.startswith(f"{newest} is damaged: {name}: ")
    assert message in said
    assert said.endswith("Delete this folder to go on from the checkpoint before it, if any")
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    assert status(recipe) == 0
    assert losses(out) == whole


def test_a_checkpoint_of_other_weights(out, refused):
    assert status(written(out, steps=2)) == 0
    said = refused(written(out, steps=3, losses={"answers": 1}), "--force")
    assert "step-00000002 holds other weights than this run trains: probes.classes.bias" in said


def test_folders_that_cannot_be_written(tmp_path, refused):
    (tmp_path / "file").write_text("")
    recipe = written(tmp_path / "run")
    for out, why in (("file", "File exists"), ("file/run", "Not a directory")):
        said = refused(recipe, "--set", f"out={tmp_path / out}")
        assert said == f"out: {tmp_path / out} cannot be written: {why}; choose another folder"


HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_train_in_one_folder(out, refused):
    out.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"held\n"
        said = refused(written(out))
        assert said == (
            f"another process trains in {out}: wait for it or stop it, or choose another folder (--set out=DIR)"
        )
        assert losses(out) == []
    finally:
        other.kill()  # the lock goes with it, however it ends
        other.communicate()
    assert status(written(out, steps=1)) == 0


def test_one_process_may_train_in_one_folder_after_another(out):
    recipe = recipe_of(tiny(out, steps=1), "test")
    assert loop.train(recipe)
    assert loop.train(recipe_of(tiny(out, steps=2), "test"), force=True)
