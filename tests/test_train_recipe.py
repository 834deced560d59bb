"""Recipes: read, checked, changed from the command line; those of the repository can all be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gapmllm.model import PARTS
from gapmllm.train.recipe import read_recipe, recipe_of

FILES = (Path(__file__).parents[1] / "recipes").rglob("*.yaml")
RECIPES = sorted(path for path in FILES if path.name != "ablation.yaml")  # that one is a study
ROOMS = {"rooms": {"count": 2, "frames": 4, "width": 128, "height": 96}}


def values(**changes):
    return {
        "stage": "align",
        "out": "runs/a",
        "init": "new debug",
        "steps": 10,
        "lr": 1e-3,
        "data": {"sources": [ROOMS | {"tasks": {"points": 1}}]},
        **changes,
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: "/".join(path.parts[-2:]))
def test_the_recipes_of_the_repository_can_be_read(path):
    recipe = read_recipe(path)
    assert recipe.out.startswith("runs/")
    assert recipe.schedule()[0][0] == 0
    assert set(recipe.parts()) <= set(PARTS)


def test_settings_and_a_data_set_replace_what_the_file_says(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "stage: align\nout: runs/a\ninit: ../b\nsteps: 10\nlr: 5e-6\n"
        "data: {sources: [{rooms: {count: 3}, tasks: {points: 1}}]}\n"
    )
    recipe = read_recipe(path, ["steps=20", "data.marks=2", "save.every=7", "data.sources.0.tasks.detection=3"], "holo")
    assert (recipe.steps, recipe.data.marks, recipe.save.every, recipe.lr) == (20, 2, 7, 5e-6)
    (source,) = recipe.data.sources
    assert (source.rooms, source.dataset, source.tasks) == (None, "holo", {"points": 1, "detection": 3})
    assert read_recipe(path).data.sources[0].rooms.count == 3


def test_model_folders_beside_the_run_are_found_from_its_own_folder():
    recipe = recipe_of(values(out="/runs/a", init="../language"), "test")
    assert recipe.folder(recipe.init) == "/runs/language"
    assert recipe.folder("Qwen/Qwen3-VL-2B-Instruct") == "Qwen/Qwen3-VL-2B-Instruct"


def test_learning_rates_by_part_say_what_is_trained():
    assert recipe_of(values(), "test").parts() == ("llm", "mergers", "fusion")
    rates = {"fusion": 1e-5, "mergers": 1e-4}
    assert recipe_of(values(lr=rates), "test").parts() == ("mergers", "fusion")


def test_phases_change_data_and_losses_for_some_steps():
    phases = [{"steps": 4, "data": {"marks": 1}, "losses": {"answers": 1, "marks": 2}}, {"steps": 6}]
    recipe = recipe_of(values(phases=phases), "test")
    (first, early), (second, late) = recipe.schedule()
    assert (first, second) == (0, 4)
    assert (early.data.marks, early.loss_weights()) == (1, {"answers": 1, "marks": 2})
    assert (late.data.marks, late.loss_weights()) == (8, {"answers": 1})
    with pytest.raises(ValueError, match="the phases have 7 steps, and steps is 10: make them equal"):
        recipe_of(values(phases=[{"steps": 7}]), "test")
    with pytest.raises(ValueError, match="marks"):  # told before training, not when the phase begins
        recipe_of(values(phases=[{"steps": 10, "data": {"marks": 99}}]), "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"sources": [ROOMS]}}, "the stage align needs tasks, such as {points: 1}"),
        ({"stage": "geometry"}, "the stage geometry has no tasks"),
        (
            {"losses": {"depth": 1}},
            "the stage align has no loss depth; it has answers, centers, classes, labels, marks, places, "
            "pointing, points, yaws",
        ),
        ({"losses": {"answers": 0}}, "all losses have weight 0: nothing would be trained"),
        ({"lr": {"tower": 1e-4}}, "lr: no part tower; a model has vision, llm, geometry, mergers, fusion, and probes"),
        ({"lr": {"fusion": 1e-4}, "lora": {}}, "lora adapts the LLM, and this run trains fusion"),
        ({"packing": False, "losses": {"answers": 1, "marks": 1}}, "dense losses would count it so often"),
    ],
)
def test_what_does_not_go_together_is_told(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(values(**changes), "test")


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"datasets", "trimesh", "pycocoevalcap"}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
from gapmllm.cli.main import main
main()
"""


def test_rooms_train_without_install_and_without_the_packages_for_data_sets(tmp_path):
    recipe = tmp_path / "a.yaml"
    recipe.write_text(
        f"stage: geometry\nout: {tmp_path}/run\ninit: new debug\nsteps: 2\nbatch: 2\nlr: 1e-3\nworkers: 0\n"
        "data: {sources: [{rooms: {count: 1, frames: 4, width: 128, height: 96}}]}\nevaluate: {clips: 1}\n"
    )
    source = Path(__file__).parents[1] / "src"
    command = [sys.executable, "-c", WITHOUT, "train", str(recipe)]
    done = subprocess.run(command, env={"PYTHONPATH": str(source)}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "config.json").exists()
