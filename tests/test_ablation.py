"""`gapmllm ablate`: a small study from its first step to the page, stopped, resumed, repeated; what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import yaml
from test_predict import scene_of, written
from tiny_runs import ROOMS, losses, tiny

from gapmllm.ablation.page import write_page
from gapmllm.ablation.study import merged, read_study
from gapmllm.ablation.work import work
from gapmllm.cli.main import main
from gapmllm.train import loop
from gapmllm.train.checkpoints import latest
from gapmllm.train.outline import outline

RECIPES = Path(__file__).parents[1] / "recipes"
POINTS = {"frames": 2, "marks": 2, "questions": 2, "sources": [{"rooms": ROOMS, "tasks": {"points": 1}}]}
STAGE = {"init": "new debug", "model": {}, "losses": {}, "data": POINTS, "steps": 3, "save": {"every": 2}}
TWO_ROWS = {"name": "two", "title": "Two", "question": "Is it so?", "rows": ["a", "b"], "reference": "a"}


def study_in(folder: Path, **changes):
    """A study of two rows and two seeds, and its recipes; its path. Row a has two stages, row b another fusion."""
    folder.mkdir(exist_ok=True)
    for stage in ("align", "adapt"):
        recipe = tiny(folder / "own" / stage, **(STAGE | {"stage": stage}))
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(recipe))
    values = {
        "out": str(folder / "runs"),
        "report": str(folder / "docs" / "page.md"),
        "seeds": [0, 1],
        "stages": {"align": {"recipe": "align.yaml"}, "adapt": {"recipe": "adapt.yaml", "set": {"steps": 4}}},
        "test": {"data": "boards", "tasks": ["points"], "max_tokens": 300},
        "rows": {
            "a": {"title": "both stages", "stages": ["align", "adapt"]},
            "b": {"title": "added", "stages": ["adapt"], "set": {"adapt": {"model": {"fusion": "add"}}}},
        },
        "tables": [TWO_ROWS],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def command(*arguments: object) -> int:
    """Exit status of `gapmllm ablate arguments`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gapmllm", "ablate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return end.value.code


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two scenes to test on."""
    return written(tmp_path_factory.mktemp("data") / "boards", scene_of("a"), scene_of("b"))


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gapmllm.evaluation.report.DRAWS", 20)
        yield


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The folder of a study that was stopped in its second run and went on."""
    folder = tmp_path_factory.mktemp("study") / "one"
    test = {"data": data, "tasks": ["points"], "max_tokens": 300, "baselines": ["blind"]}
    path = study_in(folder, test=test, gates="a", shipped=str(folder / "runs" / "a" / "seed-0" / "eval"))
    train_step, steps = loop.Run._train_step, []

    def signalled(self, *arguments):
        steps.append(self.recipe.out)
        if len(steps) == 3 + 4 + 2:  # row a has 3 and 4 steps, row b 4
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Run, "_train_step", signalled)
        assert command(path) == 130
    assert steps[-1] == str(folder / "runs" / "b" / "seed-0" / "adapt")
    assert latest(steps[-1]).name == "step-00000002"
    page = (folder / "docs" / "page.md").read_text()
    assert "`a`: 1 of 2 seeds\n- `b`: not run yet" in page.split("## What is missing")[1]
    assert command(path) == 0
    return folder


def test_a_stopped_study_goes_on_to_what_it_would_have_been(finished, data, tmp_path):
    whole = study_in(tmp_path / "whole", test={"data": data, "tasks": ["points"], "max_tokens": 300})
    assert work(read_study(whole), read_study(whole).chosen(rows=["b"], seeds=["0"]))
    one, other = (folder / "runs" / "b" / "seed-0" for folder in (finished, tmp_path / "whole"))
    for name in ("adapt/model.safetensors", "eval/model/points.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert losses(one / "adapt") == losses(other / "adapt")
    assert not (tmp_path / "whole" / "runs" / "a").exists()


def test_the_page_says_what_there_is(finished):
    page = (finished / "docs" / "page.md").read_text()
    assert "2 scenes" in page
    assert "- `a`: both stages\n- `b`: added\n- `a: blind`: the baseline `blind`\n" in page
    assert "| metric | model | blind |" in page  # of the evaluation that `shipped` names
    assert "| metric | `a` | `b` | `a: blind` |" in page
    assert "points/median_error (m, less is better)" in page
    assert "| `a` | 7 | 14 |" in page  # steps of both stages, clips
    assert "| `b` | 4 | 8 |" in page
    assert "| level | gate |" in page
    assert (finished / "docs" / "page" / "gates.png").stat().st_size > 5000
    assert page.endswith("## What is missing\n\nNothing that the study asks for.\n")
    assert (finished / "docs" / "page" / "two.png").stat().st_size > 5000


def test_what_is_done_is_left_alone_and_the_page_is_written_alike(finished, capsys):
    before, page = files(finished / "runs"), files(finished / "docs")
    assert command(finished / "study.yaml") == 0
    assert files(finished / "runs") == before
    for path in (finished / "docs" / "page.md", finished / "docs" / "page" / "two.png"):
        path.unlink()
    assert command(finished / "study.yaml", "--report-only") == 0
    assert files(finished / "docs") == page
    assert "page.md: 4 of 4 runs are done" in capsys.readouterr().out


def test_what_is_kept_is_enough_for_the_page_and_to_compare_new_runs_with(finished, tmp_path):
    """In a clone of the repository: results of runs, and neither models nor records nor logs."""
    clone = tmp_path / "clone"
    shutil.copytree(finished, clone, ignore=shutil.ignore_patterns("runs", "page.md", "two.png"))
    path = clone / "study.yaml"
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"report": str(clone / "docs" / "page.md"), "out": str(clone / "runs")}))
    (clone / "docs" / "page" / "b-seed-1.json").unlink()
    assert command(path) == 0  # trains that one run again
    assert [folder.name for folder in (clone / "runs").iterdir()] == ["b"]
    pages = [(folder / "docs" / "page.md").read_text().split("## Two")[1] for folder in (finished, clone)]
    hours = re.compile(r"\| \d\.\d\d \||[\d.]+ hours")
    assert hours.sub("", pages[0]) == hours.sub("", pages[1])


def test_a_file_that_is_no_result_is_told(finished, tmp_path):
    study = read_study(study_in(tmp_path / "x"))
    (run, *_) = study.runs
    run.kept.parent.mkdir(parents=True)
    run.kept.write_text('{"version": 2}')
    with pytest.raises(ValueError, match=r"a-seed-0.json is no result of a run \(version: .*delete it"):
        write_page(study)


def test_a_signal_between_trainings_says_how_to_go_on(finished, tmp_path, capsys, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    values = yaml.safe_load((finished / "study.yaml").read_text())
    (finished / "again.yaml").write_text(yaml.safe_dump(values | {"report": str(tmp_path / "again.md")}))
    monkeypatch.setattr("gapmllm.ablation.work.evaluate", interrupted)
    assert command(finished / "again.yaml") == 130
    assert f"stopped; what is done is in {finished / 'runs'}: the same command goes on" in capsys.readouterr().err


def test_of_checkpoints_only_what_says_how_they_came_to_be_is_left(finished):
    left = {path.name for path in (finished / "runs").glob("*/*/*/checkpoints/*/*")}
    assert left == {"state.json"}


def test_a_stage_starts_from_the_one_before(finished):
    state = json.loads((latest(finished / "runs/a/seed-1/adapt") / "state.json").read_text())
    assert (state["recipe"]["init"], state["recipe"]["seed"]) == ("../align", 1)
    assert state["origin"].keys() == {"init"}


def test_other_settings_than_those_of_a_run_are_refused(finished, data, capsys):
    values = yaml.safe_load((finished / "study.yaml").read_text())
    values["stages"]["adapt"]["set"]["lr"] = 1e-4
    (finished / "other.yaml").write_text(yaml.safe_dump(values))
    assert command(finished / "other.yaml", "--rows", "b") == 2
    assert "belongs to another recipe (adapt)\n  lr: 0.002 there, 0.0001 now" in capsys.readouterr().err
    values["stages"]["adapt"]["set"] = {"steps": 4}
    values["test"]["max_tokens"] = 301
    (finished / "other.yaml").write_text(yaml.safe_dump(values))
    assert command(finished / "other.yaml", "--rows", "b") == 2
    assert "belongs to another evaluation\n  max_tokens: 300 there, 301 now" in capsys.readouterr().err


def test_the_plan_counts_and_trains_nothing(finished, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert command(finished / "study.yaml", "--plan") == 0
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    # row, stage, steps, clips of 2 frames and 2 questions, then the seeds
    assert ["a", "adapt", "4", "8", "16", "16", "done", "done"] in cells
    assert ["a", "7", "14", "28", "28"] in cells
    path = study_in(tmp_path / "new", test={"data": data})
    assert command(path, "--plan", "--tables", "two", "--rows", "b", "--seeds", "1") == 0
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["b", "adapt", "4", "8", "16", "16", "to do"] in cells
    assert not (tmp_path / "new" / "runs").exists()


def test_a_page_of_nothing_says_so(tmp_path):
    path = study_in(tmp_path / "new", shipped="nowhere", gates="a")
    write_page(read_study(path))
    page = (tmp_path / "new" / "docs" / "page.md").read_text()
    assert "- `a` (not run yet): both stages" in page
    missing = page.split("## What is missing")[1]
    assert "the gate maps: `a` is not run yet" in missing
    assert "`nowhere` holds no finished evaluation" in missing
    assert "not run yet" in missing


# ---- what a study is


def test_the_first_stage_starts_where_its_own_recipe_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = {"a": {"title": "a", "stages": ["align", "adapt"]}}
    stages = {
        "align": {
            "recipe": "align.yaml",
            "set": {"out": "runs/nano/align", "init": "../language", "geometry": "../geometry"},
        },
        "adapt": {"recipe": "adapt.yaml", "set": {"geometry": "../geometry"}},
    }
    path = study_in(tmp_path / "x", out="runs/study", rows=rows, stages=stages, tables=[TWO_ROWS | {"rows": ["a"]}])
    (run, _) = read_study(path).runs
    align, adapt = run.recipes.values()
    assert (align.out, adapt.out) == ("runs/study/a/seed-0/align", "runs/study/a/seed-0/adapt")
    assert align.folder(align.init) == str(tmp_path / "runs/nano/language")
    assert align.folder(align.geometry) == str(tmp_path / "runs/nano/geometry")
    assert adapt.folder(adapt.init) == str(tmp_path / align.out)
    assert adapt.geometry is None  # it is in the model of the stage before


def test_work_comes_table_by_table_seed_by_seed_row_by_row(tmp_path):
    rows = {name: {"title": name, "stages": ["adapt"]} for name in "abc"}
    tables = [TWO_ROWS, TWO_ROWS | {"name": "next", "rows": ["c", "a"]}]
    study = read_study(study_in(tmp_path / "x", rows=rows, tables=tables))
    assert [(run.row, run.seed) for run in study.runs] == [
        *(("a", 0), ("b", 0), ("a", 1), ("b", 1)),
        *(("c", 0), ("c", 1)),
    ]
    assert [(run.row, run.seed) for run in study.chosen(tables=["next"], seeds=["1"])] == [("a", 1), ("c", 1)]


def test_settings_are_merged():
    recipe = {"steps": 9, "lr": {"llm": 1.0, "fusion": 2.0}, "phases": [{"steps": 9}], "evaluate": {"every": 3}}
    changes = {"lr": {"fusion": None, "llm": 3.0}, "phases": [], "evaluate": None, "batch": 2}
    assert merged(recipe, changes) == {"steps": 9, "lr": {"llm": 3.0}, "phases": [], "evaluate": None, "batch": 2}
    assert recipe["lr"] == {"llm": 1.0, "fusion": 2.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "study.yaml: 1 of its keys cannot be used\n  colour: no such key"),
        ({"seeds": [0, 0]}, "seeds: 0 is there twice"),
        ({"report": "docs"}, 'report: String should match pattern .*, got "docs"'),
        ({"seeds": []}, "seeds: .* at least 1 item"),
        ({"stages": {"eval": {"recipe": "align.yaml"}}}, "no stage may be named eval"),
        ({"stages": {"../x": {"recipe": "align.yaml"}}}, "String should match pattern"),
        (
            {"stages": {"align": {"recipe": "gone.yaml"}, "adapt": {"recipe": "adapt.yaml"}}},
            "gone.yaml: cannot be read",
        ),
        ({"rows": {"a": {"title": "a", "stages": ["alingn"]}}}, "rows.a.stages: no stage alingn; choose from"),
        ({"rows": {"a": {"title": "a", "stages": ["adapt", "adapt"]}}}, "rows.a.stages: adapt is there twice"),
        (
            {"rows": {"a": {"title": "a", "stages": ["adapt"], "set": {"align": {}}}}},
            "rows.a.set: no stage of this row align; choose from adapt",
        ),
        ({"tables": [TWO_ROWS | {"rows": ["a", "c"]}]}, "table two: no row c; choose from a, b"),
        ({"tables": [TWO_ROWS | {"reference": "c"}]}, "table two: no row of this table c; choose from a, b"),
        ({"tables": [TWO_ROWS | {"rows": ["a"]}]}, "b: in no table, and so never trained"),
        ({"tables": [TWO_ROWS, TWO_ROWS]}, "tables: two is there twice"),
        ({"gates": "c"}, "gates: no row c"),
        ({"test": {"data": "x", "baselines": ["median"]}}, "test: no baseline median; choose from"),
        (
            {"stages": {"align": {"recipe": "align.yaml"}, "adapt": {"recipe": "adapt.yaml", "set": {"lrr": 1}}}},
            "study.yaml: row a, stage adapt: 1 of its keys cannot be used\n  lrr: no such key",
        ),
    ],
)
def test_bad_studies_are_told(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_study(study_in(tmp_path / "x", **changes))


def test_what_is_to_be_asked_must_be_there_before_anything_is_trained(tmp_path, capsys):
    assert command(study_in(tmp_path / "x")) == 2
    assert "boards is no data set" in capsys.readouterr().err
    assert not (tmp_path / "x" / "runs").exists()


def test_unknown_choices_are_told(tmp_path, capsys):
    path = study_in(tmp_path / "x")
    for option, message in (("--tables", "no table c; choose from two"), ("--seeds", "no seed c; choose from 0, 1")):
        assert command(path, "--plan", option, "c") == 2
        assert message in capsys.readouterr().err


def test_the_study_of_the_package_can_be_trained(monkeypatch):
    """All of its rows have recipes, start from models that there will be, and train parts that these have."""
    monkeypatch.chdir(RECIPES.parent)
    study = read_study(RECIPES / "nano" / "ablation.yaml")
    assert next(iter(study.settings.rows)) == study.settings.tables[0].reference == "paper"
    for row in study.settings.rows:
        (run, *_) = study.of(row)
        first = next(iter(run.recipes.values()))
        model = outline(first, RECIPES / "nano").model
        fusion = {"add": "add", "concat": "concat", "cross-attention": "cross_attention"}.get(row, "gated")
        assert model.config.fusion == ("none" if "no-geometry" in row else fusion)
        assert len(model.config.geometry_layers) == {"none": 0}.get(model.config.fusion, 1 if "single" in row else 4)
