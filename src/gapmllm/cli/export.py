"""`gapmllm export`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    model: Annotated[str, typer.Argument(help="The folder of a trained model, a preset or a hub id.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="DIR")],
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"], typer.Option(help="Of the weights in the file.")
    ] = "bfloat16",
    scores: Annotated[
        Path | None, typer.Option(help="Folder of a finished gapmllm eval, whose table goes into the model card.")
    ] = None,
    made_by: Annotated[
        Path | None, typer.Option(help="A file with the commands that made the model, for the card.", exists=True)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write a model as a folder to hand on: weights, tokenizer, model card with scores, checksums."""
    from gapmllm.run.export import export as write

    write(model, out, dtype=dtype, scores=scores, made_by=made_by, overwrite=overwrite)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    print(f'{out}: {size:.1f} MB; gapmllm.load("{out}") opens it')
