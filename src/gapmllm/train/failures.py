"""What a run says and saves where it cannot go on: a loss that is no number, a full memory, a process that died."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from errno import EDQUOT, ENOSPC
from math import isfinite
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import get_total_norm

from gapmllm.model.weight_files import shorten
from gapmllm.train.batch import Batch
from gapmllm.train.loading import Shares
from gapmllm.train.parallel import whole
from gapmllm.train.recipe import Recipe
from gapmllm.train.samples import WINDOWED
from gapmllm.train.stages import Stage
from gapmllm.train.start import trained

DIED = ("is killed by signal", "exited unexpectedly")
"""What torch says of a process of the loader."""


@contextmanager
def explained(recipe: Recipe, processes: int, batch: Batch | None = None) -> Iterator[None]:
    """ValueError that says what to do, in place of the error of a full disk or memory, or a loader's dead process.

    batch: the micro-batch at work.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise
        raise ValueError(
            f"the disk is full ({error}); the last checkpoint is whole. Make room and run the same command again"
        ) from error
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
            raise ValueError(_memory_advice(recipe, processes, batch, text)) from error
        if any(words in text for words in DIED):
            raise ValueError(
                f"a process that prepares batches died ({' '.join(text.split())}). Most often the machine's memory is "
                f"full: lower workers (now {recipe.workers}; with 0 the training process prepares them itself); the "
                "same command goes on from the last checkpoint"
            ) from error
        raise


def _memory_advice(recipe: Recipe, processes: int, batch: Batch | None, said: str) -> str:
    lines = [f"out of memory: {said.split(' If reserved')[0]}"]
    if batch is not None:
        lines.append(
            f"at work were {len(batch.clips)} clips at once, {batch.num_frames} frames, {batch.num_tokens:,} tokens"
        )
    lines.append("lower one after the other, until it fits (the last checkpoint is kept):")
    return "\n  ".join(lines + _what_to_lower(recipe, processes))


def _what_to_lower(recipe: Recipe, processes: int) -> list[str]:
    """Settings that change no loss, then those that make it another run."""
    data, found = recipe.data, []
    micro = Shares.of(recipe, processes, 0).micro_batch
    if micro > 1:
        less = max(number for number in range(1, micro) if micro % number == 0)
        found.append(f"micro_batch: {less}, now {micro} (the same gradients, in more turns)")
    if not recipe.checkpointing:
        found.append("checkpointing: true (activations are computed twice: about a third more time)")
    if recipe.parallel == "ddp":
        found.append(f"parallel: fsdp2, with more processes than {processes} (each holds a share of the weights)")
    if recipe.precision == "float32":
        found.append("precision: bfloat16, now float32 (with --force)")
    tasks = {task for source in data.sources for task in source.tasks or [""]}
    used = {
        "canonical_frames": bool(tasks & {"frame", "captioning"}),
        "neighbours": "grounding" in tasks,
        "frames": bool(tasks & set(WINDOWED)),
        "questions": tasks != {""},
    }
    for name in (name for name, matters in used.items() if matters):
        if (now := getattr(data, name)) > 1:
            found.append(f"data.{name}: {now // 2}, now {now} (with --force)")
    if recipe.lora is None and "llm" in recipe.parts():
        found.append("lora: {rank: 16}, in a new folder (adapters instead of the LLM's own weights)")
    return found


@dataclass(frozen=True)
class _Alone:
    """What one clip of a step gives by itself, divided as in the step."""

    rank: int
    micro_batch: int
    clip: int
    name: str
    task: str
    losses: dict[str, str]
    """As text: JSON has no NaN."""
    gradient: str

    @property
    def losses_are_finite(self) -> bool:
        return all(isfinite(float(value)) for value in self.losses.values())


def not_finite(
    stage: Stage,
    accelerator: Accelerator,
    batches: Sequence[Batch],
    counts: Mapping[str, float],
    folder: Path,
    save: Callable[[Path], None],
) -> str:
    """Which clips make a step's loss or gradient no number, and where they were put. All processes call it.

    Each clip is run by itself. folder gets the batch of each process (batch-rank-0.safetensors, …), what each clip
    gives (clips.json), and, by `save`, a checkpoint of the state before the step. The optimiser must not have stepped.
    """
    own = [
        _alone(stage, accelerator, batch, number, place, counts)
        for number, batch in enumerate(batches)
        for place in range(len(batch.clips))
    ]
    clips: list[_Alone] = gather_object(own)
    broken = [name for name, value in stage.named_parameters() if not whole(value).isfinite().all()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_tensors(batches), folder / f"batch-rank-{accelerator.process_index}.safetensors")
        if accelerator.is_main_process:
            text = json.dumps([asdict(clip) for clip in clips], indent=1)
            (folder / "clips.json").write_text(text + "\n", encoding="utf-8")
        save(folder)
        kept = f"the step's batch and the state before it are in {folder}"
    except (OSError, ValueError, SafetensorError) as error:
        kept = f"{folder} could not be written: {error}"
    return f"{_blame(clips, broken)}; {kept}"


def _blame(clips: Sequence[_Alone], broken: Sequence[str]) -> str:
    if broken:
        return f"by weights that were no numbers before it: {shorten(broken)}"
    guilty = [clip.name for clip in clips if not clip.losses_are_finite]
    guilty = guilty or [clip.name for clip in clips if not isfinite(float(clip.gradient))]
    if not guilty:
        return f"by none of its {len(clips)} clips alone: lower lr or clip_norm, or try precision: float32"
    return f"by {len(guilty)} of its {len(clips)} clips: {shorten(guilty)}"


def _alone(
    stage: Stage, accelerator: Accelerator, batch: Batch, number: int, place: int, counts: Mapping[str, float]
) -> _Alone:
    stage.zero_grad()
    with accelerator.autocast():
        out = stage(_one_clip(batch, place).to(accelerator.device), counts)
    out.loss.backward()
    gradients = [value.grad for value in trained(stage).values() if value.grad is not None]
    return _Alone(
        rank=accelerator.process_index,
        micro_batch=number,
        clip=place,
        name=batch.names[place],
        task=batch.tasks[place],
        losses={name: str(float(value)) for name, value in out.sums.items()},
        gradient=str(float(whole(get_total_norm(gradients)))),
    )


def _one_clip(batch: Batch, place: int) -> Batch:
    """A batch of one of its clips, with the questions about it."""
    rows = [row for row, clip in enumerate(batch.rows) if clip == place]
    packed = batch.pack
    if packed is not None:
        packed = replace(
            packed,
            clips=tuple(packed.clips[row] for row in rows),
            input_ids=packed.input_ids[rows],
            labels=packed.labels[rows],
            segments=packed.segments[rows],
            positions=packed.positions[:, rows],
        )
    return replace(
        batch,
        clips=(batch.clips[place],),
        pack=packed,
        rows=(0,) * len(rows),
        targets=(batch.targets[place],),
        tasks=(batch.tasks[place],),
        names=(batch.names[place],),
    )


def _tensors(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """ "micro-batch/name" of the packed rows, "micro-batch/clip/name" of pixels and targets."""
    found: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        if batch.pack is not None:
            for name in ("input_ids", "labels", "segments", "positions"):
                found[f"{number}/{name}"] = getattr(batch.pack, name)
        for place, (clip, true) in enumerate(zip(batch.clips, batch.targets, strict=True)):
            values = {"visual": clip.visual, "geometry": clip.geometry}
            values |= {f"true_{name}": value for name, value in true.items()}
            found |= {f"{number}/{place}/{name}": value for name, value in values.items()}
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in found.items()}
