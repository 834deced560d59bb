"""MODEL_CARD.md: how a model came to be, from what its run left on disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator

from gapmllm import __version__
from gapmllm.model import PRESETS
from gapmllm.scenes.manifest import Manifest
from gapmllm.train.metrics import EVALUATIONS, FILE, read_rows
from gapmllm.train.recipe import Recipe, Rooms, Source
from gapmllm.train.start import NEW

CARD = "MODEL_CARD.md"
_BEFORE = "Stages before"
_TEACHES = {
    "geometry": "The stage teaches the geometry encoder depth, cameras and 3D points; it trains nothing else.",
    "language": "The stage teaches to answer questions about marks and objects in pictures; 3D comes later.",
    "align": "The stage teaches which 3D point a marked pixel shows, and what is there.",
    "adapt": "The stage teaches what people ask for: 3D grounding, dense captioning, object detection in video.",
}
_LIMITS = """- Not for safety-critical use, such as driving, robots near people or medicine: positions and sizes can be
  wrong by metres without any sign of it.
- It knows scenes like those that it was trained on, the synthetic rooms or recordings named above; others it may read
  wrongly. Scores hold for the data that they were measured on.
- Answers are metres in the camera frame of a clip's first frame.
- Public checkpoints and data sets that it started from bring licences of their own."""


def model_card(recipe: Recipe, hardware: str) -> str:
    """Markdown about the run in `recipe.out`: recipe, data with hashes, scores, what it started from."""
    rows = list(read_rows(Path(recipe.out) / FILE))
    facts = {
        "steps, clips": f"{recipe.steps:,}, {recipe.steps * recipe.batch:,}",
        "questions": f"{sum(row['questions'] for row in rows):,}",
        "time": timedelta(seconds=round(sum(row["seconds"] for row in rows))),
        "hardware": hardware,
        "seed": recipe.seed,
        "package": f"gapmllm {__version__}",
    }
    return "\n".join(
        [
            f"# GAP-MLLM, stage {recipe.stage}",
            "",
            f"{_summary(recipe)} {_TEACHES[recipe.stage]}",
            "Of the method GAP-MLLM (arXiv 2603.16461): Qwen3-VL beside VGGT, fused by gates.",
            "",
            *("```python", "import gapmllm", "", 'model = gapmllm.load("this folder")', "```", ""),
            *("## Training", "", *(f"- {name}: {value}" for name, value in facts.items()), ""),
            *("## Data", "", *_data(_trained_on(recipe)), ""),
            *("## Scores", "", *_scores(recipe), ""),
            *(f"## {_BEFORE}", "", *_before(recipe), ""),
            *("## Limits", "", _LIMITS, ""),
            *("## Recipe", "", "```yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False) + "```", ""),
        ]
    )


def hardware_of(accelerator: Accelerator) -> str:
    """Processes and what each runs on."""
    processes = accelerator.num_processes
    if accelerator.device.type == "cuda":
        name = torch.cuda.get_device_name(accelerator.device)
        return f"{processes} x {name}" if processes > 1 else name
    name = f"CPU with {os.cpu_count()} cores"
    return f"{name}, {processes} processes" if processes > 1 else name


def _trained_on(recipe: Recipe) -> list[Source]:
    return [source for _, phase in recipe.schedule() for source in phase.data.sources]


def _summary(recipe: Recipe) -> str:
    """One line, which the cards of later stages repeat."""
    tasks = {task: None for source in _trained_on(recipe) for task in source.tasks}
    about = f" of {', '.join(tasks)}" if tasks else ""
    return f"Stage {recipe.stage}: {recipe.steps} steps{about}."


def _data(sources: Iterable[Source]) -> Iterator[str]:
    """Each once, whatever is asked about it."""
    same = {source.model_copy(update={"tasks": {}, "weight": 1.0}).model_dump_json(): source for source in sources}
    for source in same.values():
        yield from _rooms(source.rooms) if source.rooms is not None else _dataset(source)


def _rooms(rooms: Rooms) -> Iterator[str]:
    last = rooms.first + rooms.count - 1
    yield (
        f"- Synthetic rooms of split {rooms.split}, made as training ran, from number {rooms.first} to {last} at most: "
        f"{rooms.frames} frames of {rooms.width}x{rooms.height} pixels each"
    )


def _dataset(source: Source) -> Iterator[str]:
    assert source.dataset is not None
    split = f"split {source.split}" if source.split else "all splits"
    try:
        manifest = Manifest.read(source.dataset)
    except ValueError as error:  # moved away meanwhile: no reason to lose the model
        yield f"- {source.dataset}, {split}: {error}"
        return
    counts = manifest.counts(source.split)
    kept = f"; every {source.hold_out}th frame kept out" if source.hold_out else ""
    yield f"- {source.dataset}, {split}: {counts.scenes} scenes, {counts.frames} frames{kept}."
    yield f"  Made by {', '.join(f'{name}: {value}' for name, value in manifest.made_by.items())}."
    yield "  SHA-256 of its files:"
    yield ""
    for shard in manifest.shards:
        if source.split in (None, shard.split):
            yield f"      {shard.sha256}  {shard.file}"


def _scores(recipe: Recipe) -> Iterator[str]:
    rows = list(read_rows(Path(recipe.out) / EVALUATIONS))
    if not rows:
        yield "None: the run was not evaluated."
        return
    scores: Mapping[str, float] = rows[-1]["scores"]
    yield f"On clips kept out of training, after step {rows[-1]['step']}:"
    if recipe.evaluate is not None and recipe.evaluate.sources:
        yield from ("", *_data(recipe.evaluate.sources))
    yield ""
    yield "Grounding is the box with the true frame given; captions are asked at the true box where there are no"
    yield "proposals; cut_off is the share of answers that reached the limit of tokens."
    yield from ("", "| score | value |", "|---|---|")
    yield from (f"| {name} | {value:.4g} |" for name, value in scores.items())


def _before(recipe: Recipe) -> Iterator[str]:
    """What it started from; for a stage that has a card what that says, too."""
    for key, name in (("init", recipe.init), ("geometry", recipe.geometry)):
        if name is None:
            continue
        card = Path(recipe.folder(name)) / CARD
        if card.exists():
            text = card.read_text(encoding="utf-8")
            said, before = re.search(r"^Stage .*?: .*?\.(?= |$)", text, re.MULTILINE), _section(text, _BEFORE)
            yield f"- {key} {name}: {said[0] if said else 'its card does not say what it is'}"
            yield from (f"  {line}" for line in before.splitlines())
        elif name.startswith(NEW):
            yield f"- {key}: random weights, sizes of {name.removeprefix(NEW)}"
        else:
            base = PRESETS[name].base if name in PRESETS else None
            yield f"- {key} {name}" + (f": the public {base}" if base else "")


def _section(text: str, title: str) -> str:
    found = re.search(rf"^## {title}\n\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""
