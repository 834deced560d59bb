"""`gapmllm bench …`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(help="Measure this package on this machine; ratios in one run.", no_args_is_help=True)


def _place(out: Path | None) -> Path | None:
    """Told before the run, not after it."""
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise typer.BadParameter(f"{out}: a file in a folder that is there is needed")
    return out


Out = Annotated[Path | None, typer.Option(help="Write the figures here, as JSON.", callback=_place)]


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


@app.command()
def synth(
    frames: Annotated[int, typer.Option(min=1, help="Frames per room.")] = 16,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; default: the CPU, and the GPU too if there is one.")
    ] = None,
    out: Out = None,
) -> None:
    """Frames per second of the renderer of procedural rooms, at 256x192."""
    from gapmllm.bench.synth import bench_synth, devices

    rows = [bench_synth(frames, name) for name in ([device] if device else devices())]
    if device is None and len(rows) == 1:
        typer.echo("No CUDA GPU was found: only the CPU is measured.")
    _report(rows, out)


@app.command()
def questions(
    frames: Annotated[int, typer.Option(min=4, max=64, help="Frames per room.")] = 16,
    out: Out = None,
) -> None:
    """Question-answer pairs per minute of one process, from rooms that are rendered already."""
    from gapmllm.bench.questions import bench_questions

    _report([bench_questions(frames=frames)], out)


@app.command()
def model(
    preset: Annotated[str, typer.Option(help="debug, nano, qwen3-vl-2b, -4b or -8b; the weights are random.")] = "nano",
    frames: Annotated[int, typer.Option(min=4, max=64, help="Frames of the clip.")] = 16,
    questions: Annotated[int, typer.Option(min=1, help="Questions about the clip.")] = 16,
    new_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of every answer, greedy; random weights practically never end one.")
    ] = 24,
    repeats: Annotated[int, typer.Option(min=1, help="Each side runs so often, in turn; medians are shown.")] = 3,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: the GPU if there is one.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Default: bfloat16 on a GPU, float32 on the CPU.")
    ] = None,
    memory_frames: Annotated[int, typer.Option(min=1, help="Frames that memory is measured with.")] = 32,
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--checkpointing/--no-checkpointing", help="Gradient checkpointing; default: with the Qwen presets."
        ),
    ] = None,
    out: Out = None,
) -> None:
    """One clip, many questions: training and inference, one by one against all at once; memory of reading the frames.

    Training is the stage "align", forward and backward, without the optimiser.

    With the default options it takes some minutes on two CPU cores.
    """
    from gapmllm.bench.model import bench_model

    figures = bench_model(
        preset,
        frames=frames,
        questions=questions,
        new_tokens=new_tokens,
        repeats=repeats,
        device=device,
        dtype=dtype,
        memory_frames=memory_frames,
        checkpointing=checkpointing,
    )
    _report([figures], out)


@app.command()
def train(
    preset: Annotated[str, typer.Option(help="debug, nano, qwen3-vl-2b, -4b or -8b; the weights are random.")] = "nano",
    frames: Annotated[int, typer.Option(min=4, max=64, help="Frames of the clip that steps are measured with.")] = 16,
    questions: Annotated[int, typer.Option(min=1, help="Questions about that clip.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Each side runs so often, in turn; medians are shown.")] = 3,
    steps: Annotated[int, typer.Option(min=10, help="Steps of a real run that waiting for data is measured in.")] = 40,
    memory_steps: Annotated[
        int, typer.Option(min=10, help='Steps of a real run of preset "debug" that memory is measured in.')
    ] = 500,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: the GPU if there is one.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Default: bfloat16 on a GPU, float32 on the CPU.")
    ] = None,
    out: Out = None,
) -> None:
    """Whether memory grows in a real run, how long one waits for data; optimiser steps packed, and one question a row.

    The real runs are left out for the Qwen presets. With the default options it takes some minutes on two CPU cores.
    """
    from gapmllm.bench.train import bench_train

    figures = bench_train(
        preset,
        frames=frames,
        questions=questions,
        repeats=repeats,
        steps=steps,
        memory_steps=memory_steps,
        device=device,
        dtype=dtype,
    )
    _report([figures], out)


@app.command()
def infer(
    preset: Annotated[str, typer.Option(help="debug, nano, qwen3-vl-2b, -4b or -8b; the weights are random.")] = "nano",
    frames: Annotated[int, typer.Option(min=4, max=64, help="Frames that are watched.")] = 16,
    questions: Annotated[int, typer.Option(min=1, help="Questions about them, a mix of all kinds.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Each side runs so often, in turn; medians are shown.")] = 3,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: the GPU if there is one.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Default: bfloat16 on a GPU, float32 on the CPU.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="A video to read; default: one is made.", exists=True, dir_okay=False)
    ] = None,
    video_seconds: Annotated[
        int, typer.Option(min=0, help="Length of the 1080p video that is made; 0: leave videos out.")
    ] = 30,
    out: Out = None,
) -> None:
    """Questions about a clip that is watched once, against watching it for each; a video, against bare decoding.

    With the default options it takes some minutes on two CPU cores.
    """
    from gapmllm.bench.infer import bench_infer

    figures = bench_infer(
        preset,
        frames=frames,
        questions=questions,
        repeats=repeats,
        device=device,
        dtype=dtype,
        video=video,
        video_seconds=video_seconds,
    )
    _report([figures], out)


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
