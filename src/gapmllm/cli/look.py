"""`gapmllm look` and `gapmllm demo`"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from gapmllm.tasks import Answers

Model = Annotated[
    str | None, typer.Option(help="A preset, a folder or a hub id; default: the best one in the package.")
]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; default: a GPU if there is one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output in the folder.")]


def look(
    source: Annotated[list[str], typer.Argument(help="A video, a folder, or pictures.", metavar="VIDEO|FOLDER|IMAGES")],
    detect: Annotated[bool, typer.Option("--detect", help="Find all objects; so it is if nothing is asked.")] = False,
    labels: Annotated[str, typer.Option(help="Find these only, such as chair,table; implies --detect.")] = "",
    ground: Annotated[list[str] | None, typer.Option(help="Find the object that a text describes.")] = None,
    point: Annotated[
        list[str] | None, typer.Option(help="FRAME,X,Y: where is what this pixel shows, and what is it?")
    ] = None,
    describe: Annotated[
        list[str] | None, typer.Option(help="X,Y,Z: describe what is there; metres, camera of frame 0.")
    ] = None,
    ask: Annotated[list[str] | None, typer.Option(help="A question of your own.")] = None,
    model: Model = None,
    geometry: Annotated[str | None, typer.Option(help="VGGT weights, for a plain Qwen3-VL.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("look-out"),
    overwrite: Overwrite = False,
    frames: Annotated[int | None, typer.Option(min=1, help="Of a video or a folder; default 4.")] = None,
    choose: Annotated[
        Literal["even", "coverage"], typer.Option(help="Frames evenly spaced, or those that differ most.")
    ] = "even",
    fps: Annotated[float | None, typer.Option(help="Frames a second to take of a video.")] = None,
    start: Annotated[float, typer.Option(help="Seconds of a video to pass by.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Second of a video to stop at.")] = None,
    camera: Annotated[
        str | None, typer.Option("--K", help="FX,FY,CX,CY in pixels, or a text file with a 3x3 matrix.")
    ] = None,
    fov: Annotated[
        float | None, typer.Option(min=5, max=175, help="Degrees along the longer side, instead of an estimate.")
    ] = None,
    one_step: Annotated[bool, typer.Option("--one-step", help="Ground frame and box at once; for few frames.")] = False,
    device: Device = None,
) -> None:
    """Look at a video, a folder or pictures: objects, points and descriptions in 3D, drawn and as JSON.

    Writes answers.json, frames/, top.png, scene.glb and index.html, a page that needs no network.
    """
    import gapmllm
    from gapmllm.infer import Describe, Detect, Ground, Locate, View
    from gapmllm.run.look import PAGE, WRITTEN, Wanted, answers_of, write_all
    from gapmllm.run.output import whole_folder
    from gapmllm.run.sources import read_camera, trained_name
    from gapmllm.scenes.footage import read_footage

    names = tuple(name.strip() for name in labels.split(",") if name.strip())
    wanted = Wanted(
        detect=Detect(names) if detect or names else None,
        ground=tuple(Ground(text, one_step) for text in ground or ()),
        points=tuple(_locate(text, Locate) for text in point or ()),
        describe=tuple(Describe(_numbers(text, "--describe", "X,Y,Z")) for text in describe or ()),
        ask=tuple(ask or ()),
    )
    intrinsics = None if camera is None else read_camera(camera)
    name, trained = trained_name(model)
    trained = trained and geometry is None  # public parts that have never seen each other: stage 1 begins with them
    with told_to_stop(), whole_folder(out, overwrite=overwrite, ours=WRITTEN) as folder:
        footage = read_footage(  # before the model: what is misspelt is told at once
            source if len(source) > 1 else source[0],
            num_frames=frames,
            fps=fps,
            start=start,
            end=end,
            choose=choose,
            intrinsics=intrinsics,
        )
        view = View(gapmllm.load(model or name, geometry=geometry, device=device), footage)
        answers, cloud = answers_of(view, wanted, model=name, trained=trained, fov=fov)
        write_all(folder, view, answers, cloud)
    show(answers)
    print(f"written: {out / PAGE} and what it shows")


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo-out"),
    model: Model = None,
    room: Annotated[int, typer.Option(min=0, help="Number of the room, in the split test.")] = 7,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Make a room that no model has seen, film it, ask all four tasks, and show the answers beside the truth."""
    from gapmllm.run.demo import demo as run
    from gapmllm.run.look import PAGE, WRITTEN
    from gapmllm.run.output import whole_folder
    from gapmllm.run.sources import trained_name

    with told_to_stop(), whole_folder(out, overwrite=overwrite, ours=WRITTEN) as folder:
        answers = run(folder, model or trained_name(None)[0], room=room, device=device, say=print)
    show(answers)
    print(f"written: {out / PAGE} and what it shows")


@contextmanager
def told_to_stop() -> Iterator[None]:
    """Ctrl-C ends with a line and status 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped: nothing was written", file=sys.stderr)
        raise typer.Exit(130) from None


def show(answers: Answers) -> None:
    """Print what was found, and what has to be known about it; control characters of texts are spelled out."""
    from gapmllm.evaluation.records import printable

    for line in _lines(answers):
        print(printable(line))


def _lines(answers: Answers) -> Iterator[str]:
    frames = answers.frames
    width, height = frames[0].size
    yield f"{answers.source}: {_count(frames, 'frame')} of {width}x{height}, model {answers.model}"
    yield f"intrinsics: {answers.intrinsics_from}; camera positions: {answers.poses_from or 'not known'}"
    if answers.detections is not None:
        yield f"{_count(answers.detections, 'object')} found, in metres in the camera of frame 0:"
    for found in (*(answers.detections or ()), *answers.groundings):
        yield f"  {found}"
    for point, error in zip(answers.points, answers.point_errors(), strict=True):
        yield f"  {point}" + ("" if error is None else f"; {error:.2f} m from the true point")
    for description in answers.descriptions:
        yield f"  at {description.xyz}: {description.text}"
    for free in answers.answers:
        yield f"  {free.question}"
        yield f"    {free.answer}"
    if not answers.trained:
        yield "note: the weights of this model are random, and so are its answers"
    for note in answers.notes:
        yield f"note: {note}"


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _locate(text: str, make: Any) -> Any:
    frame, x, y = _numbers(text, "--point", "FRAME,X,Y")
    if not frame.is_integer():
        raise ValueError(f"--point {text}: the frame is a whole number, counted from 0")
    return make(int(frame), (x, y))


def _numbers(text: str, option: str, form: str) -> tuple[float, float, float]:
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text!r}: three numbers {form} are needed") from None
    return a, b, c
