"""`gapmllm eval`: what a model and baselines answer to a data set, as records, and what these are worth.

OUT/run.json                what is evaluated: fingerprints of the model and the data set, options
OUT/model/points.jsonl      records, one file a task (`gapmllm.evaluation.records`); likewise blind, mean, no-geometry
OUT/model/points.json       the whole report on them
OUT/scores.json             the headline scores of all

Some clips of a task are answered at a time (`gapmllm.run.parts`), in several processes each its share. The same command
goes on with a run that was killed, and shows the scores of one that is done; another command is refused the folder.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState

from gapmllm import __version__
from gapmllm.evaluation import Metric, score_file
from gapmllm.evaluation.captions import MissingCaptionMetrics
from gapmllm.evaluation.headline import headline
from gapmllm.infer import Decoding
from gapmllm.model import load
from gapmllm.run.baselines import MeanAnswers, ModelAnswers
from gapmllm.run.calibrating import calibrate_model
from gapmllm.run.folder import (
    BASELINES,
    DATA,
    MODEL,
    RANDOM,
    RUN,
    SCORES,
    TEMPERATURES,
    check_same,
    claimed,
    model_identity,
    temperatures_of,
    write_whole,
)
from gapmllm.run.importing import import_released
from gapmllm.run.parts import Parts
from gapmllm.run.predict import RECORDS, Answer, Grounding, Plan, Unit, make_plan, records_of
from gapmllm.run.progress import Track, untracked
from gapmllm.scenes.dataset import SceneDataset
from gapmllm.scenes.manifest import Manifest, fingerprint

_PATIENCE = timedelta(days=30)  # processes wait for the slowest one; if one dies, their launcher ends the others


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to evaluate. ValueError for names that are not known."""

    model: str
    """A preset, a folder or a hub id."""
    data: str
    """A data set, or a JSON file of released records."""
    out: Path
    tasks: tuple[str, ...] = ()
    """Of `RECORDS`; none: all that the data set stores."""
    split: str = "test"
    baselines: tuple[str, ...] = ()
    train_data: str | None = None
    """Where the baseline "mean" finds its split train; None: in `data`."""
    grounding: Grounding | None = None
    """None: two-step where the data set stores its questions."""
    decoding: Literal["constrained", "free"] | None = None
    """None: constrained, but for models of the released layouts, which write in their own way."""
    limit: int | None = None
    """Clips of each task, at most."""
    media: Path | None = None
    """Folder of the images of released records, where it cannot be found from the file."""
    device: str | None = None
    dtype: str | None = None
    max_tokens: int = 2048
    """Of an answer."""
    batch: int = 8
    """Clips of a task that are answered together, at most. Another number changes answers by no more than rounding."""
    calibrate: bool = False
    """Fit the temperatures of scores to what comes out, and keep them in the model's folder."""
    overwrite: bool = False
    """Delete an earlier evaluation in the folder."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.baselines if name not in BASELINES]:
            raise ValueError(f"no baseline {', '.join(unknown)}; choose from {', '.join(BASELINES)}")
        if self.decoding not in (None, "constrained", "free"):
            raise ValueError(f"no decoding {self.decoding!r}; choose from constrained, free")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if self.calibrate and self.split in ("train", "test"):
            raise ValueError("calibration needs clips that are neither trained nor tested on, such as --split val")

    @property
    def subjects(self) -> tuple[str, ...]:
        """Who answers: the model, and the baselines."""
        return MODEL, *dict.fromkeys(self.baselines)


@dataclass(frozen=True)
class Evaluation:
    """What came out."""

    scores: dict[str, dict[str, Metric]]
    """Of each subject, by the names of `gapmllm.evaluation.headline`."""
    notes: tuple[str, ...]
    """What a reader of the scores has to know."""
    was_done: bool
    """Whether all records were there already."""


def evaluate(options: Options, track: Track = untracked) -> Evaluation | None:
    """Answer, write, score. Every process of a launch calls it; the first one returns the scores, the others None.

    ValueError for what is not there or does not fit; OSError where nothing can be written.
    """
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
    main = state.is_main_process
    if state.num_processes > 1:
        atexit.register(state.destroy_process_group)
    with claimed(options.out, overwrite=options.overwrite) if main else nullcontext():
        notes: tuple[str, ...] = ()
        data = options.data
        if Path(data).is_file():
            if main:
                notes = import_released(Path(data), options.media, options.split, options.out / DATA, track)
            data = str(options.out / DATA)
        state.wait_for_everyone()
        run = {TEMPERATURES: temperatures_of(options.model), **check_same(options.out, _run(options, data))}
        scenes = SceneDataset(data, options.split)
        plan = make_plan(scenes, data, options.tasks, options.grounding, options.limit)
        waiting = [who for who in options.subjects if _missing(options.out / who, plan)]
        subjects = _subjects(options, waiting, data, plan, state, run[TEMPERATURES])
        if main:
            write_whole(options.out / RUN, run)
        state.wait_for_everyone()
        for who, answer in subjects.items():
            _predict(options, who, answer, scenes, plan, state, track)
        state.wait_for_everyone()
        if not main:
            return None
        for who in waiting:
            _merge(options.out, who, plan)
        if options.calibrate:
            notes += calibrate_model(options.model, options.out, plan.units, run[TEMPERATURES])
        notes += _notes(scenes, run) + plan.notes
        return _scored(options, run, plan, notes, was_done=not waiting)


def _run(options: Options, data: str) -> dict[str, Any]:
    """What the records depend on. ValueError for a model or a data set that is not there."""
    learned = {"train_data": options.train_data or data} if "mean" in options.subjects else {}
    for name in (data, *learned.values()):
        Manifest.read(name).check_conventions(name)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "package": f"gapmllm {__version__}",
        "model": model_identity(options.model),
        "data": fingerprint(data),
        "device": device.partition(":")[0],
        **{key: fingerprint(name) for key, name in learned.items()},
        **{name: getattr(options, name) for name in ("split", "grounding", "decoding", "limit", "dtype", "max_tokens")},
    }


def _missing(folder: Path, plan: Plan) -> list[str]:
    """Tasks without a file of records."""
    return [task for task in plan.units if not (folder / f"{RECORDS[task]}.jsonl").exists()]


def _subjects(
    options: Options,
    waiting: Sequence[str],
    data: str,
    plan: Plan,
    state: PartialState,
    temperatures: dict[str, float],
) -> dict[str, Answer]:
    """Those who have to answer yet. The model is loaded where one of them is it. temperatures: of all its scores."""
    found: dict[str, Answer] = {}
    if set(waiting) - {"mean"}:
        device = options.device or (state.device if state.num_processes > 1 else None)
        model = load(options.model, device=device, dtype=options.dtype)
        model.config.score_temperatures = temperatures
        decoding = options.decoding or ("constrained" if model.config.image_grid == "fit" else "free")
        if options.calibrate and decoding == "free":
            raise ValueError("scores are calibrated for constrained answers; give --decoding constrained")
        how = Decoding(max_tokens=options.max_tokens)
    for who in waiting:
        if who == "mean":
            found[who] = MeanAnswers(options.train_data or data, plan.units)
        else:
            found[who] = ModelAnswers(model, who, how, constrained=decoding == "constrained")
    return found


def _predict(
    options: Options, who: str, answer: Answer, scenes: SceneDataset, plan: Plan, state: PartialState, track: Track
) -> None:
    """This process's share of the clips, some of a task at a time, but for those that are answered already."""
    out, size = options.out, options.batch
    parts, missing = Parts(out, who, state.process_index), _missing(out / who, plan)
    # The same clips go together whatever is done already, so that roundings are the same, too.
    groups = [units[start : start + size] for units in plan.units.values() for start in range(0, len(units), size)]
    share = groups[state.process_index :: state.num_processes]
    todo = [some for some in share if some[0].task in missing and any(unit.key not in parts for unit in some)]

    def answered() -> Iterator[Unit]:
        for group in todo:
            found = records_of([(unit, scenes[unit.scene]) for unit in group], answer, plan.grounding)
            for unit, records in zip(group, found, strict=True):
                if unit.key not in parts:
                    parts.add(unit.key, records)
                yield unit

    for _ in track(answered(), sum(map(len, todo)), who) if state.is_main_process else answered():
        pass


def _merge(out: Path, who: str, plan: Plan) -> None:
    """The records of all processes, in the order of the data set; parts that are in a file of records go."""
    parts = Parts(out, who)
    (out / who).mkdir(exist_ok=True)
    for task in _missing(out / who, plan):
        parts.merge([unit.key for unit in plan.units[task]], out / who / f"{RECORDS[task]}.jsonl")
    parts.clear(set(plan.units))


def _notes(scenes: SceneDataset, run: dict[str, Any]) -> tuple[str, ...]:
    notes = []
    if run["model"]["weights"] == RANDOM:
        notes.append("the weights of this model are random: the scores show that everything runs, and nothing else")
    if not scenes.manifest.complete:
        notes.append("the data set is not finished: run the command that made it once more")
    return tuple(notes)


def _scored(options: Options, run: dict[str, Any], plan: Plan, notes: tuple[str, ...], *, was_done: bool) -> Evaluation:
    """Score all files of records; write the reports and the table."""
    scores: dict[str, dict[str, Metric]] = {}
    for who in options.subjects:
        scores[who] = {}
        for task in map(RECORDS.__getitem__, plan.units):
            path = options.out / who / f"{task}.jsonl"
            try:
                report = score_file(path, task)
            except MissingCaptionMetrics as error:
                notes += (f"{who}, {task}: {error}",)
                continue
            report.write(path.with_suffix(".json"))
            scores[who] |= headline(task, report.metrics)
            notes += tuple(f"{who}, {task}: {note}" for note in report.notes)
    notes = tuple(dict.fromkeys(notes))
    table = {who: {name: metric.model_dump() for name, metric in found.items()} for who, found in scores.items()}
    write_whole(options.out / SCORES, {"version": 1, "run": run, "scores": table, "notes": notes})
    return Evaluation(scores, notes, was_done)
