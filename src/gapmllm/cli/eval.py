"""`gapmllm eval`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from gapmllm.run.evaluate import Evaluation


def eval_(
    model: Annotated[str, typer.Argument(help="A preset, a folder or a hub id.")],
    data: Annotated[
        str, typer.Argument(help="A data set (folder or URL), or a JSON file of released records.", metavar="DATASET")
    ],
    tasks: Annotated[
        str, typer.Option(help="Some of points,detection,grounding,captioning; default: all that are stored.")
    ] = "",
    split: Annotated[str, typer.Option(help="Of the data set.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; a stopped run continues. Default: eval-MODEL-DATASET.")
    ] = None,
    baselines: Annotated[str, typer.Option(help="Some of blind,mean,no-geometry, to compare with.")] = "",
    train_data: Annotated[
        str | None, typer.Option(help="Whose split train the baseline mean is of; default: the data set's own.")
    ] = None,
    grounding: Annotated[
        Literal["two-step", "one-step", "given-frame"] | None,
        typer.Option(help="How the frame of an object is found; default: two-step, where its questions are stored."),
    ] = None,
    decoding: Annotated[
        Literal["constrained", "free"] | None,
        typer.Option(help="Default: constrained to readable answers; free for models of the released layouts."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer, at most.")] = 2048,
    batch: Annotated[int, typer.Option(min=1, help="Clips that are answered together.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Clips of each task, at most.")] = None,
    media: Annotated[
        Path | None, typer.Option(help="Folder of the images of released records; default: looked for.", exists=True)
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; default: a GPU if there is one.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Default: bfloat16 on a GPU, float32 on the CPU."),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit the temperatures of scores, and keep them in the model's folder.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier evaluation in the folder.")] = False,
) -> None:
    """Ask a model what a data set asks, write records, score them, and print a table.

    Killed, it goes on with the same command. Several processes or GPUs: accelerate launch -m gapmllm eval ...
    """
    from gapmllm.cli.progress import track
    from gapmllm.run.evaluate import Options, evaluate

    options = Options(
        model=model,
        data=data,
        out=out or Path(f"eval-{Path(model).resolve().name}-{Path(data).resolve().stem}"),
        tasks=names_in(tasks),
        split=split,
        baselines=names_in(baselines),
        train_data=train_data,
        grounding=grounding,
        decoding=decoding,
        max_tokens=max_tokens,
        batch=batch,
        limit=limit,
        media=media,
        device=device,
        dtype=dtype,
        calibrate=calibrate,
        overwrite=overwrite,
    )
    try:
        found = evaluate(options, track)
    except KeyboardInterrupt:
        print(f"stopped; what is answered is in {options.out}: the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None
    if found is not None:
        _show(found, options.out)


def names_in(text: str) -> tuple[str, ...]:
    """Those of an option that takes several, with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _show(found: Evaluation, out: Path) -> None:
    from gapmllm.cli.tables import show

    if found.was_done:
        print(f"{out}: all questions were answered before; these are the scores of the records")
    names = dict.fromkeys(name for scores in found.scores.values() for name in scores)
    rows = [{"metric": name, **{who: scores.get(name) for who, scores in found.scores.items()}} for name in names]
    show(rows)
    for note in found.notes:
        print(f"note: {note}")
    print(f"{out}: records, reports and scores.json; 95 % intervals over scenes")
