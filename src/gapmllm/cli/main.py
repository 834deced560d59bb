"""`gapmllm …`"""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from gapmllm import __version__
from gapmllm.cli import ablate, bench, data, doctor, eval, export, look, score, train

app = typer.Typer(
    help="GAP-MLLM: a multimodal LLM that sees in 3D from RGB frames alone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(look.demo)
app.command("look")(look.look)
app.command("eval")(eval.eval_)
app.command("score")(score.score)
app.command("train")(train.train)
app.command("ablate")(ablate.ablate)
app.command("export")(export.export)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point. What the user can mend ends in one line on stderr and exit status 2, not in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a label outside the terminal's alphabet is no reason to fail
    signal.signal(signal.SIGTERM, _interrupt)  # what is asked to end ends as with Ctrl-C: work is put away
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
