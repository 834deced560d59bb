"""`gapmllm bench …`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Measure this package on this machine; both sides of a ratio in one run.", no_args_is_help=True)
Out = Annotated[Path | None, typer.Option(help="Write the figures here, as JSON.")]


@app.command()
def iou(
    pairs: Annotated[
        Path | None, typer.Option(help='JSON list of {"a": [9 numbers], "b": [9 numbers]}, "ZXY"; default: made up.')
    ] = None,
    out: Out = None,
) -> None:
    """Overlap of oriented boxes, against a loop over scipy's HalfspaceIntersection and ConvexHull."""
    from gapmllm.bench.iou import bench_iou

    _report([bench_iou(pairs)], out)


@app.command()
def readers(out: Out = None) -> None:
    """Seconds that the answer readers take for a megabyte of hostile text."""
    from gapmllm.bench.readers import bench_readers

    _report(bench_readers(), out)


def _report(rows: list[dict[str, Any]], out: Path | None) -> None:
    from gapmllm.cli.tables import show

    if len(rows) == 1:  # one measurement reads better from top to bottom
        show(
            [
                {"figure": key, "value": f"{value:.4g}" if isinstance(value, float) else value}
                for key, value in rows[0].items()
            ]
        )
    else:
        show(rows)
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
