"""The page of a study: tables, verdicts, pictures, budgets, and what is missing. Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gapmllm.ablation.numbers import difference, mean_of
from gapmllm.ablation.plot import rows_plot
from gapmllm.ablation.results import (
    Column,
    Result,
    check_comparable,
    column_of,
    gates_picture,
    mean_budget,
    result_of,
    whole,
)
from gapmllm.ablation.study import Study, Table
from gapmllm.ablation.words import judged, plain, sentence, summary
from gapmllm.evaluation.markdown import cell, label, markdown, scores_table
from gapmllm.run.folder import SCORES

_EXPLAINED = """A value is the mean over seeds, with its 95 % interval from a bootstrap over test scenes and seeds. A
difference is paired: both rows answered about the same scenes. *Better* and *worse* mean that its interval lies on
one side of 0, *undecided* that it does not. Each interval stands alone: of twenty differences where there is none,
about one looks decided. A few seeds tell little about how much seeds differ: a verdict whose interval ends near 0 is
a weak one."""


def write_page(study: Study) -> None:
    """The study's page and its pictures, from what is kept of its runs; the same files give the same bytes.

    ValueError for results that cannot be read or compared.
    """
    check_comparable(study.runs)
    finished = [result for run in study.runs if (result := result_of(run))]
    lines = [*_head(study, finished), *_shipped(study)]
    for table in study.settings.tables:
        lines += _table(study, table)
    lines += [*_gates(study), *_training(finished), *_missing(study, finished)]
    whole(Path(study.settings.report), "\n".join(lines) + "\n")


def _head(study: Study, finished: Sequence[Result]) -> Iterator[str]:
    command, test = f"gapmllm ablate {os.path.relpath(study.path)}", study.settings.test
    yield from ("# Results", "")
    yield f"Written whole by `{command}`, which trains and evaluates what is missing; edits are lost."
    yield f"`{command} --report-only` writes it again from the results of runs beside it, in `{study.settings.beside}`."
    asked = finished[0].asked if finished else {}
    scenes = max((scenes for _, scenes in asked.values()), default=0)
    questions = ", ".join(f"{records:,} of {task}" for task, (records, _) in asked.items())
    yield ""
    yield f"Each row is trained with the seeds {', '.join(map(str, study.settings.seeds))} and asked about the split"
    yield f"{test.split} of `{test.data}`" + (f": {scenes} scenes, {questions}." if asked else ".")
    yield from (_EXPLAINED, "")


def _shipped(study: Study) -> Iterator[str]:
    """The table of a finished evaluation."""
    if study.settings.shipped is None or not (path := Path(study.settings.shipped) / SCORES).exists():
        return
    yield from ("## Nano", "", f"The model in the package and baselines, as `gapmllm eval` left them in `{path}`.", "")
    yield from scores_table(path)


def _table(study: Study, table: Table) -> Iterator[str]:
    """A section: the question, the rows, their differences to the reference, and what these say."""
    found = [column_of(study, row) for row in table.rows]
    found += [column_of(study, table.reference, who) for who in study.settings.test.baselines]
    heads = {column.name: f"`{column.name}`" + (f" ({column.state})" if column.state else "") for column in found}
    yield from (f"## {table.title}", "", f"**{table.question}**", "")
    yield from (*(f"- {heads[column.name]}: {column.title}" for column in found), "")
    names = list(dict.fromkeys(name for column in found for name in column.scores))
    if not names:
        return
    numbers = {name: {c.name: mean_of(c.scores[name]) for c in found if name in c.scores} for name in names}
    yield from markdown(
        {"metric": label(name)} | {heads[c.name]: cell(numbers[name].get(c.name)) for c in found} for name in names
    )
    columns = {column.name: column for column in found}
    others = [columns[row] for row in table.compared if columns[row].results]
    if columns[table.reference].results and others:
        yield from _compared(columns[table.reference], others)
    picture = study.settings.beside / f"{table.name}.png"
    whole(picture, rows_plot(numbers, list(columns), table.reference))
    yield from (f"![{table.title}]({study.settings.beside.name}/{picture.name})", "")
    yield from ("What a run of each row was trained with, on average over its seeds:", "")
    yield from markdown({"row": heads[c.name]} | _budget(c.results) for c in found[: len(table.rows)])


def _compared(reference: Column, others: Sequence[Column]) -> Iterator[str]:
    """Differences, and what they say of all metrics and of each."""
    differences = {
        name: {o.name: difference(o.scores[name], ours) for o in others if name in o.scores}
        for name, ours in reference.scores.items()
    }
    yield from (f"Differences to `{reference.name}`, the row minus it:", "")
    yield from markdown(
        {"metric": label(name)} | {f"`{o.name}`": judged(name, of_rows.get(o.name)) for o in others}
        for name, of_rows in differences.items()
    )
    for other in others:
        of_metrics = {name: of_rows[other.name] for name, of_rows in differences.items() if other.name in of_rows}
        yield f"- {summary(reference.name, other.name, of_metrics)}"
    yield ""
    yield from (f"- {sentence(name, reference.name, of_rows)}" for name, of_rows in differences.items() if of_rows)
    yield ""


def _budget(results: Sequence[Result]) -> dict[str, str]:
    names = ("steps", "clips", "questions", "frames through the encoders")
    if not results:
        return dict.fromkeys((*names, "hours"), "-")
    *counts, hours = vars(mean_budget(results)).values()
    return {name: f"{value:,.0f}" for name, value in zip(names, counts, strict=True)} | {"hours": f"{hours:.2f}"}


def _gates(study: Study) -> Iterator[str]:
    if isinstance(found := _gates_found(study), tuple):
        yield from ("## Where the model trusts geometry", "")
        yield f"Gates of `{study.settings.gates}`, for each visual token: 1 takes appearance alone, 0 geometry alone."
        yield from ("", f"![gates]({study.settings.beside.name}/{gates_picture(study).name})", "")
        yield from markdown({key: plain(value) for key, value in row.items()} for row in found)


def _gates_found(study: Study) -> tuple[dict[str, Any], ...] | str | None:
    """The rows of their table, in words why there are none, or None where none are wanted."""
    row = study.settings.gates
    if row is None:
        return None
    result = result_of(study.of(row)[0])
    if result is None or result.gates is None:
        return f"the gate maps: `{row}` is not run yet"
    return result.gates if isinstance(result.gates, tuple) else f"the gate maps of `{row}`: {result.gates}"


def _training(finished: Sequence[Result]) -> Iterator[str]:
    if finished:
        hours = mean_budget(finished).hours * len(finished)
        hardware = sorted({name for result in finished for name in result.hardware})
        yield from ("## Training", "")
        yield f"{len(finished)} runs, {hours:.1f} hours of steps in all, on {'; '.join(hardware)}."
        yield ""


def _missing(study: Study, finished: Sequence[Result]) -> Iterator[str]:
    lines = [gates] if isinstance(gates := _gates_found(study), str) else []
    lines += sorted({note for result in finished for note in result.notes})
    shipped = study.settings.shipped
    if shipped is not None and not (Path(shipped) / SCORES).exists():
        lines.append(f"the model in the package: `{shipped}` holds no finished evaluation")
    found = [column_of(study, row) for row in study.settings.rows]
    lines += [f"`{column.name}`: {column.state}" for column in found if column.state]
    yield from ("## What is missing", "")
    yield from [f"- {line}" for line in lines] or ["Nothing that the study asks for."]
