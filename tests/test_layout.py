"""The package keeps to its own rules: who may import whom, short files, a README that tells the truth."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gapmllm.evaluation import CaptionRecord, DetectionRecord, GroundingRecord, PointsRecord

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "gapmllm"

# Package -> what it may import of ours. The design's table; besides, `train` evaluates and draws while it trains, and
# `bench` measures all of it, `run` puts it to use (a user's recording, an evaluation, the demo), and `ablation` trains
# and evaluates many models to compare them.
MAY_IMPORT = {
    "geometry": set(),
    "scenes": {"geometry"},
    "tasks": {"geometry", "scenes"},
    "model": {"geometry"},
    "train": {"geometry", "scenes", "tasks", "model", "infer", "evaluation", "viz"},
    "infer": {"tasks", "model", "scenes", "geometry"},
    "evaluation": {"tasks", "scenes", "geometry"},
    "viz": {"scenes", "geometry", "tasks"},
    "run": {"geometry", "scenes", "tasks", "model", "infer", "evaluation", "viz"},
    "ablation": {"geometry", "scenes", "tasks", "model", "train", "infer", "evaluation", "viz", "run"},
    "app": {"infer", "viz"},
    "bench": {"geometry", "scenes", "tasks", "model", "train", "infer", "evaluation", "viz", "run"},
    "cli": {
        *("geometry", "scenes", "tasks", "model", "train", "infer", "evaluation", "viz"),
        *("run", "ablation", "app", "bench"),
    },
}
ONE_STEP_UP = ("model/gapmllm.py", "gapmllm.infer")  # `model.watch`: a model is asked where users look for it
WITHOUT_TORCH = {"geometry", "scenes", "tasks", "evaluation", "viz", "cli"}
WITH_TORCH_ALL_THE_SAME = {f"scenes/synth/{name}.py" for name in ("render", "raycast", "shading")}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Dotted names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "gapmllm")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_package_may(path):
    relative = path.relative_to(PACKAGE).as_posix()
    package = relative.split("/")[0] if "/" in relative else None
    assert package is None or package in MAY_IMPORT, f"{relative}: a package that the table does not know"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "gapmllm" and len(parts) > 1 and parts[1] in MAY_IMPORT and package:
            allowed = parts[1] == package or parts[1] in MAY_IMPORT[package] or (relative, name) == ONE_STEP_UP
            assert allowed, f"{relative} imports {name}"
        if package in WITHOUT_TORCH and relative not in WITH_TORCH_ALL_THE_SAME:
            assert parts[0] not in {"torch", "transformers"}, f"{relative} imports {name}"


def test_the_table_catches_a_forbidden_import(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    from gapmllm import cli\n    import torch.nn\n")
    assert set(imports(path)) == {"gapmllm", "gapmllm.cli", "torch.nn"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def readme_blocks(language):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)


def test_the_file_tree_of_the_readme_is_the_file_tree():
    (tree,) = readme_blocks("text")
    listed, folders = set(), []
    for line in tree.splitlines():
        name = line.strip().split(" ")[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name]
        if not name.endswith("/"):
            listed.add("".join(folders[: depth + 1]))
    files = [
        *FILES,
        *ROOT.glob("tests/*.py"),
        *ROOT.glob("examples/*.py"),
        *ROOT.glob("recipes/*/*.*"),
        *ROOT.glob("docs/*.md"),
    ]
    files += [ROOT / name for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run")]
    present = {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}
    assert listed == present


def test_the_python_of_the_readme_prints_what_it_says(capsys):
    (block,) = readme_blocks("python")
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^# (.*)$", block, re.MULTILINE)


def test_the_one_line_programs_of_the_readme_run(tmp_path):
    lines = [line for block in readme_blocks("sh") for line in block.splitlines() if line.startswith("python -c")]
    assert len(lines) == 2
    for line in lines:
        _, *arguments = shlex.split(line, comments=True)
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Decoded(ids=[")


def test_the_records_of_the_readme_are_records():
    decoder, rest, tasks = json.JSONDecoder(), readme_blocks("json")[0], []
    types = {
        "detection": DetectionRecord,
        "grounding": GroundingRecord,
        "caption": CaptionRecord,
        "points": PointsRecord,
    }
    while rest := rest.strip():
        values, end = decoder.raw_decode(rest)
        types[values["task"]].model_validate_json(rest[:end])
        tasks.append(values["task"])
        rest = rest[end:]
    assert tasks == list(types)
