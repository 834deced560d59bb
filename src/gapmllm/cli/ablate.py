"""`gapmllm ablate STUDY`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapmllm.cli.eval import names_in

if TYPE_CHECKING:
    from gapmllm.ablation.study import Run, Study


def ablate(
    study: Annotated[Path, typer.Argument(help="A YAML file, such as recipes/nano/ablation.yaml.")],
    tables: Annotated[str, typer.Option(help="Some of the study's tables, with commas; default: all.")] = "",
    rows: Annotated[str, typer.Option(help="Some of its rows, with commas; default: all.")] = "",
    seeds: Annotated[str, typer.Option(help="Some of its seeds, with commas; default: all.")] = "",
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be trained, how much of it, and what is done; do nothing.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the page from what is there; train nothing.")
    ] = False,
) -> None:
    """Train and evaluate the models of a study, and compare them on a page; what is done is skipped.

    Killed, it goes on with the same command. The page is written after each model.
    """
    from gapmllm.ablation.study import read_study

    read = read_study(study)
    runs = read.chosen(names_in(tables), names_in(rows), names_in(seeds))
    if plan:
        _show_plan(read, runs, names_in(tables))
        return
    from gapmllm.ablation.page import write_page

    if report_only:
        write_page(read)
    else:
        _work(read, runs)
    print(f"{read.settings.report}: {sum(run.is_done for run in read.runs)} of {len(read.runs)} runs are done")


def _work(study: Study, runs: list[Run]) -> None:
    from gapmllm.ablation.work import work
    from gapmllm.cli.progress import track

    try:
        done = work(study, runs, track, lambda text: print(text, file=sys.stderr))
    except KeyboardInterrupt:
        done = False
    if not done:
        print(f"stopped; what is done is in {study.settings.out}: the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130)


def _show_plan(study: Study, runs: list[Run], tables: tuple[str, ...]) -> None:
    """tables: those that are shown; none: all."""
    from gapmllm.ablation.plan import Plan
    from gapmllm.cli.tables import show

    plan = Plan(study)
    for table in study.settings.tables:
        rows = [row for row in table.rows if any(run.row == row for run in runs)]
        if not rows or (tables and table.name not in tables):
            continue
        print(f"\n{table.title}: {table.question}")
        lines = [line for row in rows for line in plan.runs(row, [run for run in runs if run.row == row])]
        show([_readable(line) for line in lines])
        print("in all, one seed")
        show([_readable(line) for line in plan.totals(list(table.rows))])
    print("questions and frames are estimates from a few clips of each kind")


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    return {key: f"{value:,}" if isinstance(value, int) else value for key, value in row.items()}
