"""The commands, as a user runs them."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from gapmllm import __version__
from gapmllm.bench.readers import HOSTILE
from gapmllm.cli.main import main
from gapmllm.cli.score import TaskName, score
from gapmllm.cli.tables import MOST_ROWS, show
from gapmllm.evaluation import Report
from gapmllm.evaluation.report import Euler, Reader
from gapmllm.evaluation.score import TASKS as score_tasks

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "make_records.py"


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    runpy.run_path(str(EXAMPLE))["main"](folder)
    return folder


def run(monkeypatch, *arguments):
    """Exit status of `gapmllm arguments`."""
    monkeypatch.setattr(sys, "argv", ["gapmllm", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize("task", score_tasks)
def test_score_prints_tables_and_writes_json(example, tmp_path, monkeypatch, capsys, task):
    monkeypatch.setattr("gapmllm.evaluation.captions.shutil.which", lambda name: None)  # METEOR is tested elsewhere
    out = tmp_path / "scores.json"
    assert run(monkeypatch, "score", example / f"{task}.jsonl", "--task", task, "--out", out) == 0
    printed = capsys.readouterr().out
    report = Report.model_validate_json(out.read_text())
    assert report.task == task
    assert f"{task}: {report.records} records, 12 scenes" in printed
    assert "strict" in printed
    name, metric = next(iter(report.metrics.items()))
    assert f"{metric.value:.3f}" in printed, name
    assert metric.low <= metric.value <= metric.high
    assert list(out.parent.iterdir()) == [out]


def test_scoring_twice_gives_the_same_numbers(example, tmp_path, monkeypatch):
    for name in ("one.json", "two.json"):
        run(monkeypatch, "score", example / "points.jsonl", "--task", "points", "--out", tmp_path / name)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_the_options_reach_the_scores(example, tmp_path, monkeypatch):
    out = tmp_path / "scores.json"
    options = ("--reader", "released", "--euler", "released", "--out", out)
    assert run(monkeypatch, "score", example / "detection.jsonl", "--task", "detection", *options) == 0
    report = json.loads(out.read_text())
    assert (report["reader"], report["euler"]) == ("released", "released")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.jsonl", "--task", "points"), "none.jsonl: cannot be read: No such file"),
        (("points.jsonl", "--task", "caption"), "task: Input should be 'caption', got points"),
        (("caption.jsonl", "--task", "caption", "--euler", "released"), "task 'caption' scores none"),
        (
            ("points.jsonl", "--task", "points", "--out", "no/such/folder.json"),
            "--out no/such/folder.json: a file in a folder that exists was expected",
        ),
        (("points.jsonl", "--task", "points", "--out", "."), "--out .: a file in a folder"),
    ],
)
def test_unusable_input_is_one_line_and_status_two(example, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(example)
    assert run(monkeypatch, "score", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_out_never_replaces_the_records_nor_a_device(example, monkeypatch, capsys):
    path = example / "points.jsonl"
    before = path.read_bytes()
    assert run(monkeypatch, "score", path, "--task", "points", "--out", path) == 2
    assert "these are the records" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert run(monkeypatch, "score", path, "--task", "points", "--out", os.devnull) == 0
    assert not Path(os.devnull).is_file()


def test_a_broken_last_line_leaves_no_scores(example, tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "broken.jsonl", tmp_path / "scores.json"
    path.write_text((example / "detection.jsonl").read_text() + '{"version": 1')
    assert run(monkeypatch, "score", path, "--task", "detection", "--out", out) == 2
    assert f"{path}:13: not a JSON object" in capsys.readouterr().err
    assert not out.exists()


def test_a_record_that_only_scoring_finds_at_fault_is_named_by_its_line(example, tmp_path, monkeypatch, capsys):
    lines = (example / "detection.jsonl").read_text().splitlines()
    values = json.loads(lines[2])
    (tmp_path / "scores.jsonl").write_text("\n".join([*lines[:2], json.dumps({**values, "scores": [0.5]}), *lines[3:]]))
    assert run(monkeypatch, "score", tmp_path / "scores.jsonl", "--task", "detection") == 2
    assert "scores.jsonl:3: 1 scores for 6 objects" in capsys.readouterr().err
    (tmp_path / "euler.jsonl").write_text("\n".join([*lines[:2], json.dumps({**values, "truth_convention": "ZXY"})]))
    assert run(monkeypatch, "score", tmp_path / "euler.jsonl", "--task", "detection", "--euler", "released") == 2
    assert "euler.jsonl:3: euler='released' means" in capsys.readouterr().err


def test_an_unknown_task_is_a_usage_error(example, monkeypatch, capsys):
    assert run(monkeypatch, "score", example / "points.jsonl", "--task", "cooking") == 2
    assert "cooking" in capsys.readouterr().err


def test_bench_prints_and_writes(tmp_path, monkeypatch, capsys):
    rows = [{"a": [0, 0, 0, 1, 1, 1, 0, 0, 0], "b": [0.5, 0, 0, 1, 1, 1, 0, 0, 0]}]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    out = tmp_path / "bench.json"
    assert run(monkeypatch, "bench", "iou", "--pairs", tmp_path / "pairs.json", "--out", out) == 0
    assert "ratio" in capsys.readouterr().out
    (figures,) = json.loads(out.read_text())
    assert figures["pairs"] == figures["pairs that overlap"] == 1
    assert figures["largest difference, m3"] < 1e-12


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '[{"a": [1], "b": [1]}]', "no"])
def test_bench_refuses_pairs_that_are_none(tmp_path, monkeypatch, capsys, content):
    (tmp_path / "pairs.json").write_text(content)
    assert run(monkeypatch, "bench", "iou", "--pairs", tmp_path / "pairs.json") == 2
    assert "pairs.json: " in capsys.readouterr().err


def test_bench_of_rooms_and_questions_prints_and_writes(tmp_path, monkeypatch, capsys):
    out = tmp_path / "bench.json"
    assert run(monkeypatch, "bench", "questions", "--frames", 4, "--out", out) == 0
    (figures,) = json.loads(out.read_text())
    assert figures["pairs/minute, one process"] > 0 < figures["points questions"]
    assert run(monkeypatch, "bench", "synth", "--frames", 1, "--device", "cpu", "--out", out) == 0
    (figures,) = json.loads(out.read_text())
    assert figures["frames/s, slowest room"] > 0
    assert figures["size"] == "256x192"
    printed = capsys.readouterr().out
    assert "pairs/minute" in printed
    assert "frames/s, median" in printed
    assert run(monkeypatch, "bench", "synth", "--device", "gpu") == 2
    assert "this machine can render on cpu" in capsys.readouterr().err


def test_bench_readers_has_a_row_for_each_text(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gapmllm.bench.readers.bench_readers.__defaults__", (1000,))
    assert run(monkeypatch, "bench", "readers", "--out", tmp_path / "readers.json") == 0
    assert "open objects" in capsys.readouterr().out
    assert [row["text"] for row in json.loads((tmp_path / "readers.json").read_text())] == list(HOSTILE)


def test_the_choices_of_the_command_are_those_of_the_package():
    """The command repeats them, because importing them would make --help slow."""
    assert get_args(TaskName) == score_tasks
    options = get_type_hints(score)
    assert (options["reader"], options["euler"]) == (Reader, Euler)


def test_version_and_help(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == __version__ + "\n"
    assert run(monkeypatch, "--help") == 0
    assert "Score prediction records" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['gapmllm', '--help']\n"
        "from gapmllm.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'pydantic', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_long_tables_are_cut_and_names_are_no_markup(capsys):
    show([{"[red]name": f"[bold]{i}"} for i in range(MOST_ROWS + 3)])
    printed = capsys.readouterr().out
    assert "[red]name" in printed
    assert "[bold]0" in printed
    assert "and 3 more rows" in printed
