"""Evaluation while training: held-out clips, asked and scored as any model is, with sample answers and pictures.

A folder holds the records of each task (`points.jsonl`, …: `gapmllm score` reads them), `scores.json`, `answers.md`,
and a picture of some clips. The stage geometry, which is asked nothing, has the error of its depth in metres instead.
All stages have their losses on the held-out clips.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import distributed

from gapmllm.evaluation import score_file, write_records
from gapmllm.evaluation.asked import is_right, record_of
from gapmllm.evaluation.captions import MissingCaptionMetrics
from gapmllm.evaluation.headline import headline
from gapmllm.evaluation.records import Record
from gapmllm.infer import Decoding, EncodedClip
from gapmllm.model import ClipPixels, GapMllm
from gapmllm.scenes.manifest import Manifest
from gapmllm.train.batch import MakeBatch
from gapmllm.train.parallel import gathered
from gapmllm.train.recipe import Recipe, Source
from gapmllm.train.samples import Sample, Samples
from gapmllm.train.stages import Stage
from gapmllm.train.targets import depth_target
from gapmllm.viz.answers import answers_sheet, depth_sheet

_SEED = 0  # not the recipe's: runs with different seeds compare
_SHOWN, _TEXTS = 2, 4  # clips of each task and source that are drawn and written out; questions of each


class HeldOut:
    """The clips that a run is evaluated on, the same each time. Each task has a share of them by weight, one at least.

    What clips look like is as in the recipe's last phase. ValueError for a source that holds nothing out.
    """

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.evaluate is not None
        self.recipe, wanted = recipe, recipe.evaluate
        self.decoding = Decoding(max_tokens=wanted.max_tokens)
        self.shown: dict[int, str] = {}
        """Of the clips that are drawn, the picture's file."""
        data = recipe.schedule()[-1][1].data
        self.points = data.points
        sources = wanted.sources or [held_out_source(source, wanted.clips) for source in data.sources]
        for source in sources:
            _check_unseen(source, [seen for _, phase in recipe.schedule() for seen in phase.data.sources])
        # All marks of a clip are asked for: questions about their number see no others.
        fewer = {"questions": wanted.questions, "marks": min(data.marks, wanted.questions), "clips_per_scene": 1}
        data = data.model_copy(update=fewer)
        parts = [(source, *part) for source in sources for part in (source.tasks or {"": source.weight}).items()]
        total = sum(weight for *_, weight in parts)
        self._clips: list[tuple[Samples, int]] = []
        for source, task, weight in parts:
            one = source.model_copy(update={"tasks": {task: weight} if task else {}})
            count = max(1, round(wanted.clips * weight / total))
            samples = Samples(data.model_copy(update={"sources": (one,)}), seed=_SEED, count=count, held_out=True)
            for position in range(count):
                number = len(self._clips)
                if position < _SHOWN:
                    self.shown[number] = f"{task or 'depth'}_{number:03d}.png"
                self._clips.append((samples, position))
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Sample:
        """Made when it is first asked for, then kept: each process makes its own clips only."""
        if index not in self._kept:
            samples, position = self._clips[index]
            self._kept[index] = samples[position]
        return self._kept[index]


def held_out_source(source: Source, clips: int) -> Source:
    """What training does not see of a source: the frames that `hold_out` keeps, or else the split val.

    clips: rooms that are made, as many as clips at most. ValueError for a data set with neither.
    """
    if source.rooms is not None:
        split = "val" if source.rooms.split != "val" else "test"
        return source.model_copy(update={"rooms": source.rooms.model_copy(update={"split": split, "count": clips})})
    if source.hold_out is not None:
        return source
    assert source.dataset is not None
    splits = Manifest.read(source.dataset).splits()
    if source.split in (None, "val") or "val" not in splits:
        raise ValueError(
            f"{source.dataset} holds nothing out to evaluate on: training reads the split {source.split or 'all'}, and "
            f"it has {', '.join(splits) or 'none'}; give the source hold_out: 8, name evaluate.sources, or write "
            "evaluate: null"
        )
    return source.model_copy(update={"split": "val"})


def _check_unseen(source: Source, trained: Sequence[Source]) -> None:
    """ValueError for a source of an evaluation that training sees."""
    for seen in trained:
        if source.rooms and seen.rooms and source.rooms.split == seen.rooms.split:
            ours, theirs = source.rooms, seen.rooms
            same = ours.first < theirs.first + theirs.count and theirs.first < ours.first + ours.count
        else:
            either = source.split == seen.split or None in (source.split, seen.split)
            kept = source.hold_out is not None and source.hold_out == seen.hold_out
            same = bool(source.dataset) and source.dataset == seen.dataset and either and not kept
        if same:
            what = f"rooms of split {source.rooms.split}" if source.rooms else f"{source.dataset}, {source.split}"
            raise ValueError(
                f"evaluate: the run is trained on {what}, too; name another split or other rooms in evaluate.sources"
            )


@dataclass
class _Result:
    """What one clip gave; goes from process to process."""

    index: int
    ratios: list[tuple[str, float, float]]
    """(name of a score, a sum, what it is divided by): the score is the sum of the sums, divided likewise."""
    records: list[Record] = field(default_factory=list)
    picture: Image.Image | None = None
    """Of some clips, with their texts."""
    text: list[str] = field(default_factory=list)


def evaluate(
    stage: Stage, held_out: HeldOut, folder: Path, stop: Callable[[], bool] = lambda: False
) -> dict[str, float]:
    """Ask, score, draw; the scores by name, such as "points/median_error". All processes call it.

    stage: without DDP's wrapper. stop: asked before each clip; an evaluation that is stopped gives nothing. The main
    process writes the folder and gets the scores, the others get none. What has no value is left out: the median of
    errors where most answers cannot be read, CIDEr without pycocoevalcap.
    """
    alone = not (distributed.is_available() and distributed.is_initialized())
    rank, processes = (0, 1) if alone else (distributed.get_rank(), distributed.get_world_size())
    results = []
    with _inference(stage, held_out.recipe):
        for index in range(rank, len(held_out), processes):
            if stop():
                break
            results.append(_result(stage, held_out, index))
    if processes > 1:
        shares: list[list[_Result]] = [[] for _ in range(processes)]
        distributed.all_gather_object(shares, results)
        results = sorted((result for share in shares for result in share), key=lambda result: result.index)
    if rank or len(results) < len(held_out):
        return {}
    return _write(results, held_out, folder)


@contextmanager
def _inference(stage: Stage, recipe: Recipe) -> Iterator[None]:
    """As the stage trains, but without gradients and dropout; then as it was."""
    training, device = stage.training, stage.model.device.type
    stage.eval()
    try:
        bfloat16 = torch.autocast(device, torch.bfloat16, enabled=recipe.precision == "bfloat16")
        with torch.no_grad(), bfloat16, gathered(stage):
            yield
    finally:
        stage.train(training)


def _result(stage: Stage, held_out: HeldOut, index: int) -> _Result:
    """One clip: its losses, and what its stage is about."""
    sample, model = held_out[index], stage.model
    assert model.prompts is not None
    make = MakeBatch(model.config, model.prompts, tuple(stage.weights), stage.stage, packing=True)
    batch = make([sample]).to(model.device)
    out = stage(batch, batch.counts)
    ratios = [(f"loss/{name}", float(value), batch.counts[name]) for name, value in out.sums.items()]
    result = _Result(index, ratios)
    look = _measure if stage.stage == "geometry" else _ask
    look(model, held_out, batch.clips[0], result)
    return result


def _ask(model: GapMllm, held_out: HeldOut, clip: ClipPixels, result: _Result) -> None:
    """The questions, answered: records of what can be one, the others judged at once."""
    sample = held_out[result.index]
    asked = [question.prompt for question in sample.questions]
    decoded = EncodedClip(model, clip).answer(asked, held_out.decoding)
    answers = [answer.text for answer in decoded]
    assert model.prompts is not None
    cut_off = sum(answer.ids[-1] != model.prompts.end_id for answer in decoded)
    result.ratios.append((f"{sample.task}/cut_off", float(cut_off), float(len(decoded))))
    for question, answer in zip(sample.questions, answers, strict=True):
        record = record_of(sample.scene, sample.clip, question, answer)
        if record is None:
            result.ratios.append((f"{question.task}/accuracy", float(is_right(question, answer)), 1.0))
        else:  # a scene may be drawn twice, with the same questions
            result.records.append(record.model_copy(update={"id": f"{result.index}/{record.id}"}))
    if result.index in held_out.shown:
        arm = model.config.mark_arm
        result.picture = answers_sheet(sample.frames, sample.questions, answers, mark_arm=arm)
        result.text = _text(sample, answers, held_out.shown[result.index])


def _measure(model: GapMllm, held_out: HeldOut, clip: ClipPixels, result: _Result) -> None:
    """The depth of each pixel, if VGGT has a head for it; metres."""
    vggt, sample = model.geometry_encoder.vggt, held_out[result.index]
    if "depth" not in vggt.config.heads:
        return
    true = depth_target(sample, clip).numpy()
    said = vggt(clip.geometry[None])["depth"][0].float().cpu().numpy()
    known = true > 0
    result.ratios.append(("depth/mean_error", float(np.abs(said - true)[known].sum()), float(known.sum())))
    if result.index in held_out.shown:
        result.picture = depth_sheet(sample.frames, true, said)


def _write(results: Sequence[_Result], held_out: HeldOut, folder: Path) -> dict[str, float]:
    """All files of the folder, and the scores."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = _ratios(results)
    by_task: dict[str, list[Record]] = defaultdict(list)
    for record in (record for result in results for record in result.records):
        by_task[record.model_dump()["task"]].append(record)
    for task, records in by_task.items():
        write_records(folder / f"{task}.jsonl", records)
        scores |= _scores(folder / f"{task}.jsonl", task, held_out.points)
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    for result in results:
        if result.picture is not None:
            result.picture.save(folder / held_out.shown[result.index])
    if lines := [line for result in results for line in result.text]:
        (folder / "answers.md").write_text("\n".join(lines), encoding="utf-8")
    return scores


def _ratios(results: Sequence[_Result]) -> dict[str, float]:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, value, count in (ratio for result in results for ratio in result.ratios):
        sums[name][0] += value
        sums[name][1] += count
    return {name: value / count for name, (value, count) in sums.items() if count}


def _scores(path: Path, task: str, points: str) -> dict[str, float]:
    """The metrics of a file of records. points: what is asked of a marked pixel; without the point it has no error."""
    try:
        metrics = score_file(path, task, with_meteor=False).metrics
    except MissingCaptionMetrics as error:
        warnings.warn(str(error), stacklevel=2)
        return {}
    found = {name: metric.value for name, metric in headline(task, metrics).items()}
    if task == "points" and points == "label":
        found = {name: value for name, value in found.items() if name == "points/label_accuracy"}
    return {name: value for name, value in found.items() if value is not None}


def _text(sample: Sample, answers: Sequence[str], picture: str) -> list[str]:
    """Questions, answers and true answers in Markdown; four spaces: shown as they are."""
    lines = [f"## {sample.task}: {sample.scene.id}/{sample.clip.id}", "", f"![answers]({picture})", ""]
    for question, answer in list(zip(sample.questions, answers, strict=True))[:_TEXTS]:
        for name, text in (("Question", question.prompt), ("Answer", answer), ("Truth", question.answer)):
            lines += [f"{name} ({question.id}):" if name == "Question" else f"{name}:", ""]
            lines += [f"    {line}" for line in text.strip().splitlines() or [""]] + [""]
    return lines
