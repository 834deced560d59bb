"""`gapmllm score`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from gapmllm.evaluation import Report

TaskName = Literal["detection", "grounding", "caption", "points"]


def score(
    records: Annotated[Path, typer.Argument(help="Prediction records, JSONL.", metavar="FILE.jsonl")],
    task: Annotated[TaskName, typer.Option(help="What the records answer.")],
    out: Annotated[Path | None, typer.Option(help="Write the whole report here, as JSON.")] = None,
    reader: Annotated[
        Literal["lenient", "released"],
        typer.Option(help="How answers are read; 'released' is for comparison with printed tables."),
    ] = "lenient",
    euler: Annotated[
        Literal["stated", "released"],
        typer.Option(help="Rotation of boxes: as the records state, or the released evaluators' mixed pair."),
    ] = "stated",
) -> None:
    """Score prediction records. Needs no model, no GPU and no network.

    The format of the records stands in the README. Exit status 2: the file cannot be scored, and nothing was written.
    """
    from rich.console import Console

    from gapmllm.evaluation import score_file

    if out is not None:  # before the work, not after it
        if out.is_dir() or not out.parent.is_dir():
            raise ValueError(f"--out {out}: a file in a folder that exists was expected")
        if out.exists() and records.exists() and out.samefile(records):
            raise ValueError(f"--out {out}: these are the records; another file was expected")
    with Console(stderr=True).status(f"scoring {records}"):
        report = score_file(records, task, reader, euler)
    if out is not None:
        report.write(out)
    _show(report)


def _show(report: Report) -> None:
    from gapmllm.cli.tables import pivot, show

    print(f"{report.task}: {report.records} records, {report.scenes} scenes, reader {report.reader!r}, ", end="")
    print(f"boxes {report.euler!r}; 95 % intervals over scenes")
    for rows in report.tables.values():
        show(rows)
    for rows in pivot(report.metrics):
        show(rows)
    show([{"text": name, **counts} for name, counts in report.readings.items()])
    if report.problems:
        print("answers with problems: " + ", ".join(f"{kind} {count}" for kind, count in report.problems.items()))
    for note in report.notes:
        print(f"note: {note}")
