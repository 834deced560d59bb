"""Studies: which models are trained and compared, to answer which questions. YAML files, as recipes are.

OUT/<row>/seed-<s>/<stage>/   a run of `gapmllm train`
OUT/<row>/seed-<s>/eval/      what `gapmllm eval` makes of the last one's model
PAGE/<row>-seed-<s>.json      what is kept of it, beside the page's pictures; a run that has it is done
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gapmllm.run.evaluate import Options
from gapmllm.train.reading import error_lines, read_table
from gapmllm.train.recipe import Count, Recipe, Text, recipe_of

EVAL = "eval"
"""The folder of a run's evaluation; no stage may have this name."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""Of what has a folder or a picture."""
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageSettings(_Part):
    """A recipe, and what is other than in its file."""

    recipe: Text
    """A file, relative to the study's."""
    set: dict[str, Any] = {}
    """Merged over the file (`merged`)."""


class EvalSettings(_Part):
    """What all models are asked: options of `gapmllm eval`, which see."""

    data: Text
    split: Text = "test"
    tasks: tuple[Text, ...] = ()
    baselines: tuple[Text, ...] = ()
    train_data: Text | None = None
    grounding: Literal["two-step", "one-step", "given-frame"] | None = None
    limit: Count | None = None
    max_tokens: Count = 2048

    @model_validator(mode="after")
    def _known(self) -> Self:
        self.options("a model", Path())
        return self

    def options(self, model: str, out: Path) -> Options:
        """Those of one evaluation. ValueError for unknown baselines."""
        return Options(model=model, out=out, **self.model_dump())


class Row(_Part):
    """A model of the tables."""

    title: Text
    stages: Annotated[tuple[str, ...], Field(min_length=1)]
    """One after the other: each starts from the model of the one before, the first from its recipe's `init`."""
    set: dict[str, dict[str, Any]] = {}
    """Stage -> settings of this row alone, merged over the stage's."""


class Table(_Part):
    """Rows that are compared to answer a question."""

    name: Name
    title: Text
    question: Text
    rows: Annotated[tuple[str, ...], Field(min_length=1)]
    reference: str
    """The row that the others are compared with."""
    compare: tuple[str, ...] = ()
    """Those that are; default: all others."""

    @property
    def compared(self) -> tuple[str, ...]:
        return self.compare or tuple(row for row in self.rows if row != self.reference)


class Settings(_Part):
    """A study's file. Folders and data are relative to where the command runs."""

    out: Text
    report: Annotated[str, Field(pattern=r"\.md$")]
    """The page, a Markdown file; its pictures and the results of runs lie in a folder of the same name beside it."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    stages: dict[Name, StageSettings]
    test: EvalSettings
    rows: dict[Name, Row]
    tables: Annotated[tuple[Table, ...], Field(min_length=1)]
    """In the order in which their rows are trained."""
    shipped: Text | None = None
    """Folder of a finished `gapmllm eval`, which the page shows first."""
    gates: str | None = None
    """A row whose gate maps the page shows."""

    @property
    def beside(self) -> Path:
        """The folder beside the page."""
        return Path(self.report).with_suffix("")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if EVAL in self.stages:
            raise ValueError(f"no stage may be named {EVAL}: that is where evaluations are")
        _check_once("seeds", map(str, self.seeds))
        _check_once("tables", (table.name for table in self.tables))
        for name, row in self.rows.items():
            _check_names(f"rows.{name}.stages", row.stages, self.stages, "stage")
            _check_names(f"rows.{name}.set", row.set, row.stages, "stage of this row")
        for table in self.tables:
            _check_names(f"table {table.name}", table.rows, self.rows, "row")
            _check_names(f"table {table.name}", (table.reference, *table.compare), table.rows, "row of this table")
        if left := set(self.rows) - {row for table in self.tables for row in table.rows}:
            raise ValueError(f"{', '.join(sorted(left))}: in no table, and so never trained")
        _check_names("gates", (self.gates,) if self.gates else (), self.rows, "row")
        return self


def _check_once(place: str, names: Iterable[str]) -> None:
    names = list(names)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{place}: {', '.join(twice)} is there twice")


def _check_names(place: str, names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Each must be known, and be there once."""
    names = tuple(names)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{place}: no {what} {', '.join(unknown)}; choose from {', '.join(known)}")
    if what in ("stage", "row"):
        _check_once(place, names)


@dataclass(frozen=True)
class Run:
    """A row with one seed."""

    row: str
    seed: int
    folder: Path
    recipes: Mapping[str, Recipe]
    """Stage -> its recipe, in the order of training."""
    kept: Path
    """The file of what is kept of it (`gapmllm.ablation.results`)."""

    @property
    def model(self) -> Path:
        """Where the model is that is evaluated."""
        return Path(list(self.recipes.values())[-1].out)

    @property
    def evaluation(self) -> Path:
        return self.folder / EVAL

    @property
    def is_done(self) -> bool:
        return self.kept.exists()


@dataclass(frozen=True)
class Study:
    """A study's file and the runs that it asks for, in the order of work: table by table, seed by seed, row by row."""

    path: Path
    settings: Settings
    runs: tuple[Run, ...]

    def of(self, row: str) -> list[Run]:
        """The runs of a row, in the order of seeds."""
        return [run for seed in self.settings.seeds for run in self.runs if (run.row, run.seed) == (row, seed)]

    def chosen(self, tables: Iterable[str] = (), rows: Iterable[str] = (), seeds: Iterable[str] = ()) -> list[Run]:
        """Some of the runs; none named: all. ValueError for names that the study does not know."""
        settings = self.settings
        tables, rows, seeds = tuple(tables), tuple(rows), tuple(seeds)
        _check_names("--tables", tables, [table.name for table in settings.tables], "table")
        _check_names("--rows", rows, settings.rows, "row")
        _check_names("--seeds", seeds, [str(seed) for seed in settings.seeds], "seed")
        of_tables = {row for table in settings.tables if table.name in tables or not tables for row in table.rows}
        wanted = of_tables & set(rows or settings.rows)
        return [run for run in self.runs if run.row in wanted and (not seeds or str(run.seed) in seeds)]


def read_study(path: Path) -> Study:
    """A study's file with all of its recipes. ValueError that names the file, the key, or the row and its stage."""
    try:
        settings = Settings.model_validate(read_table(path))
    except ValidationError as error:
        lines = [line.removeprefix("recipe: ") for line in error_lines(error)]
        raise ValueError("\n  ".join([f"{path}: {len(lines)} of its keys cannot be used", *lines])) from error
    runs: dict[tuple[str, int], Run] = {}
    for table in settings.tables:
        for seed in settings.seeds:
            for row in table.rows:
                if (row, seed) not in runs:
                    runs[row, seed] = _run(path, settings, row, seed)
    return Study(path, settings, tuple(runs.values()))


def _run(path: Path, settings: Settings, name: str, seed: int) -> Run:
    row, folder = settings.rows[name], Path(settings.out) / name / f"seed-{seed}"
    recipes: dict[str, Recipe] = {}
    before: str | None = None
    for stage in row.stages:
        use = settings.stages[stage]
        values = merged(merged(read_table(path.parent / use.recipe), use.set), row.set.get(stage, {}))
        recipe = recipe_of(values, f"{path}: row {name}, stage {stage}")
        out = folder / stage
        start: dict[str, Any] = {"init": f"../{before}", "geometry": None}
        if before is None:
            start = {key: _moved(getattr(recipe, key), recipe.out, out) for key in start}
        recipes[stage] = recipe.model_copy(update={"out": str(out), "seed": seed, **start})
        before = stage
    return Run(name, seed, folder, recipes, settings.beside / f"{name}-seed-{seed}.json")


def merged(values: Mapping[str, Any], changes: Mapping[str, Any], *, inner: bool = False) -> dict[str, Any]:
    """Changes over the values of a recipe: tables are merged, all else is replaced, lists too.

    A null takes a key out of a table, as in lr: {fusion: null}; for a key of the recipe itself it is a value, as in
    evaluate: null.
    """
    result = dict(values)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(old := result.get(key), dict):
            result[key] = merged(old, value, inner=True)
        elif value is None and inner:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def _moved(name: str | None, out: str, new: Path) -> str | None:
    """A model's name that starts at the folder `out`, as it is from the folder `new`; other names stay."""
    if name is None or not name.startswith("."):
        return name
    return os.path.relpath(os.path.join(out, name), new)
