"""`gapmllm data …`"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from gapmllm.scenes.manifest import Counts, Manifest
    from gapmllm.scenes.pipeline import Outcome

app = typer.Typer(help="Make, import, export, look at and check data sets.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Folder to write; an unfinished one is continued.")]
Workers = Annotated[int, typer.Option(help="Processes.", min=1)]
Limit = Annotated[int | None, typer.Option(help="Stop after this many scenes.", min=1)]
Split = Annotated[Literal["train", "val", "test"], typer.Option(help="Which split the scenes belong to.")]
Tasks = Annotated[str, typer.Option(help="Questions to ask: 'all', 'none', or names with commas, as 'points,frame'.")]
Texts = Annotated[
    int | None, typer.Option(help="Texts of a scene that grounding asks for, at most; default: all.", min=1)
]
MinShare = Annotated[
    float, typer.Option(help="Objects that cover less of every frame's image are not asked for.", min=0, max=1)
]
Seed = Annotated[int, typer.Option(help="Of the questions.", min=0)]
Data = Annotated[str, typer.Argument(help="A data set: a folder, or a URL (hf://datasets/…, s3://…).", metavar="DATA")]
_CORES = os.cpu_count() or 1
_MAX_FRAMES = 300  # a scan of ten minutes has 18,000; this many show every corner of a room


@app.command()
def synth(
    out: Out,
    scenes: Annotated[int, typer.Option(help="How many rooms.", min=1, max=1_000_000)] = 10,
    split: Split = "train",
    first: Annotated[int, typer.Option(help="Number of the first room in the split's own seed space.", min=0)] = 0,
    frames: Annotated[int, typer.Option(help="Frames of each room, 4 to 64.")] = 16,
    size: Annotated[str, typer.Option(help="Pixels, width x height.")] = "256x192",
    camera: Annotated[
        str, typer.Option(help="hand: all kinds, held in the hand; robot: always the same one, on a mast.")
    ] = "hand",
    device: Annotated[str, typer.Option(help="Where frames are rendered: cpu, cuda, cuda:1.")] = "cpu",
    tasks: Tasks = "all",
    texts: Texts = None,
    min_share: MinShare = 0.001,
    seed: Seed = 0,
    workers: Workers = _CORES,
) -> None:
    """Build, furnish, film and describe rooms. The same numbers give the same rooms."""
    from gapmllm.scenes.synth.scene import MakeRoom, SynthOptions, labels, scene_id
    from gapmllm.tasks.questions import AskQuestions

    width, height = _size(size)
    options = SynthOptions(split=split, frames=frames, width=width, height=height, camera=camera, device=device)
    names = [scene_id(split, number) for number in range(first, first + scenes)]
    asked: dict[str, Any] = {"tasks": tasks, "texts": texts, "min_share": min_share, "seed": seed}
    make = MakeRoom(options, AskQuestions(_plan(**asked)))
    made_by = {"command": "synth", **vars(options), **asked}
    del made_by["split"]  # one data set may hold all three
    _write(out, names, make, made_by, workers, labels(), notes=False)  # a short walk never sees all of a room


@app.command("import")
def import_(
    root: Annotated[Path, typer.Argument(help="Folder or file of the recordings.", exists=True, metavar="RECORDINGS")],
    out: Out,
    format: Annotated[str, typer.Option(help="'auto' looks at the files; else a name of the README's list.")] = "auto",
    split: Split = "train",
    every: Annotated[int, typer.Option(help="Keep every n-th frame.", min=1)] = 1,
    max_frames: Annotated[
        int | None,
        typer.Option(
            help="Of those, this many a scene at most, evenly spaced; default: 300, or all that records name.", min=1
        ),
    ] = None,
    up: Annotated[
        str, typer.Option(help="World axis that points up, where files do not say: auto, z, y, … or --up=-y.")
    ] = "auto",
    annotations: Annotated[
        Path | None, typer.Option(help="File or folder of annotations that lie elsewhere.", exists=True)
    ] = None,
    tasks: Tasks = "all",
    texts: Texts = None,
    min_share: MinShare = 0.001,
    seed: Seed = 0,
    limit: Limit = None,
    workers: Workers = _CORES,
) -> None:
    """Read recordings of another format. What cannot be used is counted and named, never replaced."""
    from hashlib import sha256

    from gapmllm.scenes.importers import find_importer
    from gapmllm.scenes.importers.base import ImportOptions
    from gapmllm.scenes.pipeline import ImportScene
    from gapmllm.tasks.questions import AskQuestions

    kind = find_importer(root, format)
    most = max_frames or (_MAX_FRAMES if kind.chooses_frames else None)
    options = ImportOptions(split=split, every=every, max_frames=most, up=up, annotations=annotations)  # type: ignore[arg-type]
    importer = kind(root, options)
    where = root.resolve()
    made_by = {"command": "import", "format": importer.format, "root": where.name, **vars(options)}
    made_by["root_id"] = sha256(str(where).encode("utf-8", "surrogateescape")).hexdigest()[:16]  # names repeat
    asked: dict[str, Any] = {"tasks": tasks, "texts": texts, "min_share": min_share, "seed": seed}
    made_by |= {"annotations": annotations and annotations.name, **asked}
    scene_ids = importer.scene_ids()[:limit]
    _write(out, scene_ids, ImportScene(importer, AskQuestions(_plan(**asked))), made_by, workers)


@app.command()
def export(
    data: Data,
    format: Annotated[str, typer.Option(help="scannet, embodiedscan, scanrefer, 7scenes or tum.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    limit: Limit = None,
) -> None:
    """Write scenes in the format of another code base."""
    from itertools import islice

    from gapmllm.cli.progress import track
    from gapmllm.scenes.dataset import stream_scenes
    from gapmllm.scenes.exporters import find_exporter
    from gapmllm.scenes.manifest import Manifest

    exporter = find_exporter(format)
    total = min(Manifest.read(data).counts(split).scenes, limit or 10**9)
    exporter.export(track(islice(stream_scenes(data, split), limit), total, f"export {format}"), out)
    print(f"{out}: {total} scenes as {format}")


@app.command()
def show(
    data: Data,
    scene: Annotated[str, typer.Option(help="Which scene: its place from 0, or its id.")] = "0",
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: DATA-show/SCENE.")] = None,
    frames: Annotated[int, typer.Option(help="Frames to draw.", min=1)] = 6,
    clip: Annotated[int | None, typer.Option(help="Whose marks to draw, from 0; default: the first.", min=0)] = None,
) -> None:
    """Pictures to look at: frames with boxes, labels and marks, depth, a top view, and a GLB for any 3D viewer."""
    from gapmllm.scenes.dataset import read_scene
    from gapmllm.viz.show import show_scene

    found = read_scene(data, scene)
    name = Path(data).resolve().name  # of a URL, too: its last part
    folder = out or Path(f"{name}-show") / _file_name(found.id)
    for path in show_scene(found, folder, max_frames=frames, clip=clip):
        print(path)


@app.command()
def info(data: Data) -> None:
    """What a data set holds, from its manifest alone."""
    from gapmllm.scenes.manifest import Manifest

    manifest = Manifest.read(data)
    print(f"{manifest.package}, made by {manifest.made_by}, {'complete' if manifest.complete else 'not finished'}")
    for split in manifest.splits():
        _summarise(f"{data} {split}", manifest.counts(split))
    _summarise_dropped(manifest)


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="A data set's folder.", metavar="DATA")],
    out: Annotated[Path | None, typer.Option(help="Write the report here, as JSON.")] = None,
    workers: Workers = _CORES,
) -> None:
    """Read everything once and say what is wrong, scene by scene. Exit status 1: something is."""
    import json

    from gapmllm.cli.progress import track
    from gapmllm.cli.tables import show as show_table
    from gapmllm.scenes.check import check_manifest, checker
    from gapmllm.scenes.pipeline import in_processes
    from gapmllm.tasks.questions.check import check_questions

    if out is not None and not out.parent.is_dir():  # before the work, not after it
        raise ValueError(f"--out {out}: a file in a folder that exists was expected")
    manifest, check_shard = checker(data, check_questions)
    reports = list(track(in_processes(check_shard, list(manifest.shards), workers), len(manifest.shards), "check"))
    problems = check_manifest(data, manifest) + [problem for report in reports for problem in report.problems]
    totals = {name: sum(getattr(report, name) for report in reports) for name in ("scenes", "frames", "pairs")}
    if out is not None:
        out.write_text(
            json.dumps({**totals, "problems": [vars(p) for p in problems]}, indent=1) + "\n", encoding="utf-8"
        )
    read = f"{totals['scenes']} scenes and {totals['frames']} frames read"
    print(f"{data}: {read}, depth of {totals['pairs']} pairs of frames compared")
    if not manifest.complete:
        print("note: the data set is not finished; run the command that made it once more")
    show_table([{"scene": p.scene, "place": p.file, "kind": p.kind, "what": p.message} for p in problems])
    print(f"{len(problems)} problems")
    if not totals["scenes"]:
        raise ValueError(f"{data}: nothing in it can be used")
    if problems:
        raise typer.Exit(1)


@app.command()
def tokenizer(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    rooms: Annotated[int, typer.Option(help="How many rooms to take texts from.", min=1)] = 64,
    vocab: Annotated[int, typer.Option(help="Tokens in all, at most.")] = 1024,
) -> None:
    """Train the small tokenizer of the presets debug and nano, on the texts of rooms; show it on other rooms."""
    from gapmllm.cli.progress import track
    from gapmllm.cli.tables import show as show_table
    from gapmllm.train.tokenizer import room_texts, tokens_per_task, train_tokenizer

    if out == Path():  # also what an unset variable of a script gives: --out "$FOLDER"
        raise ValueError("--out: the name of a folder was expected, got '' or '.'")
    out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    texts: list[str] = []
    for number in track(range(rooms), rooms, "rooms"):
        described, questions = room_texts(number)
        texts += described + [text for question in questions for text in (question.prompt, question.answer)]
    trained = train_tokenizer(texts, vocab)
    trained.save_pretrained(out, save_jinja_files=False)
    print(f"{out}: {len(trained)} tokens, from {len(texts)} texts of {rooms} rooms; on rooms of split val:")
    show_table(tokens_per_task(trained, [question for number in range(4) for question in room_texts(number, "val")[1]]))


def _write(
    out: Path,
    scene_ids: list[str],
    make: Callable[[str], Outcome],
    made_by: dict[str, Any],
    workers: int,
    vocabulary: Iterable[str] | None = None,
    *,
    notes: bool = True,
) -> None:
    """Make the scenes, count what could not be used; notes: also name it on the terminal."""
    from gapmllm.cli.progress import track
    from gapmllm.scenes.dataset import DatasetWriter, summarise
    from gapmllm.scenes.pipeline import write_scenes

    with DatasetWriter(out, made_by, vocabulary) as writer:
        total = sum(name not in writer.done for name in scene_ids)
        outcomes = write_scenes(writer, scene_ids, make, workers)
        for outcome in track(outcomes, total, f"{made_by['command']} {out.name}"):
            for entry in summarise(outcome.problems) if notes else ():
                more = f" ({entry.count - 1} more of this kind)" if entry.count > 1 else ""
                typer.echo(f"note: {entry.scene}: {entry.kind}: {entry.example}{more}", err=True)
    _summarise(str(out), writer.manifest.counts())
    _summarise_dropped(writer.manifest)
    if not writer.manifest.shards:
        raise ValueError(f"{out}: none of {len(scene_ids)} scenes could be used; the notes above say why")


def _summarise(name: str, counts: Counts) -> None:
    from gapmllm.cli.tables import show as show_table

    print(
        f"{name}: {counts.scenes} scenes, {counts.frames} frames, {sum(counts.objects.values())} objects with "
        f"{len(counts.objects)} labels, {counts.expressions} texts, {counts.clips} clips"
    )
    show_table([{"task": task, "questions": number} for task, number in counts.questions.items()])


def _summarise_dropped(manifest: Manifest) -> None:
    from gapmllm.cli.tables import show as show_table

    dropped = manifest.dropped_by_kind()
    show_table([{"could not be used": kind, "count": number} for kind, number in dropped.items()])
    if manifest.unusable:
        print(f"{len(manifest.unusable)} scenes could not be used at all")


def _plan(tasks: str, texts: int | None, min_share: float, seed: int) -> Any:
    from gapmllm.tasks import TASKS
    from gapmllm.tasks.questions import QuestionPlan

    if tasks == "none":
        return None
    named = tuple(TASKS if tasks == "all" else tasks.split(","))
    return QuestionPlan(tasks=named, texts=texts, min_share=min_share, seed=seed)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError(f"--size {text!r}: width x height in pixels was expected, as 256x192")
    return int(width), int(height)


def _file_name(text: str) -> str:
    """The text as one name in a folder."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text).strip(".") or "scene"
