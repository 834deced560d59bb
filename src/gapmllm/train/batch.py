"""Samples -> what one forward pass takes: pixels, packed questions, dense truth. Made in the loader's processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from gapmllm.infer.pixels import clip_pixels
from gapmllm.model import IGNORE, ClipPixels, GapMllmConfig, Prompts
from gapmllm.tasks.marks import mark_size
from gapmllm.train import targets as truth
from gapmllm.train.losses import MARKED
from gapmllm.train.packing import Pack, pack
from gapmllm.train.pointing import pointed_at, pointing_target
from gapmllm.train.recipe import Recipe
from gapmllm.train.samples import Sample


@dataclass(frozen=True)
class Batch:
    """B clips with what is asked about them and what is true of them."""

    clips: tuple[ClipPixels, ...]
    pack: Pack | None
    """None where no answer is learned."""
    rows: tuple[int, ...]
    """Of each row of the pack, the clip that it asks about."""
    targets: tuple[dict[str, Tensor], ...]
    """Of each clip, the dense truth that the recipe's losses need (`gapmllm.train.targets`)."""
    counts: dict[str, float]
    """Loss -> what it is a mean over: answer tokens, known pixels, frames, …"""
    tasks: tuple[str, ...]
    """Of each clip."""
    names: tuple[str, ...]
    """Of each clip, for messages."""
    questions: int

    @property
    def num_frames(self) -> int:
        return sum(clip.num_frames for clip in self.clips)

    @property
    def num_tokens(self) -> int:
        """Of the LLM's rows, padding left out; where no answer is learned, visual tokens."""
        return int((self.pack.segments >= 0).sum()) if self.pack else sum(clip.num_tokens for clip in self.clips)

    def to(self, device: torch.device) -> Batch:
        targets = tuple({name: value.to(device) for name, value in clip.items()} for clip in self.targets)
        clips = tuple(clip.to(device) for clip in self.clips)
        packed = None
        if self.pack:  # its rows show these clips: no second copy of their pixels
            packed = replace(replace(self.pack, clips=()).to(device), clips=tuple(clips[row] for row in self.rows))
        return replace(self, clips=clips, pack=packed, targets=targets)


@dataclass(frozen=True)
class MakeBatch:
    """Samples -> a `Batch`, for a model's sizes and a recipe's losses. Can be sent to other processes."""

    config: GapMllmConfig
    prompts: Prompts
    losses: tuple[str, ...]
    stage: str
    packing: bool

    @classmethod
    def of(cls, recipe: Recipe, config: GapMllmConfig, prompts: Prompts) -> MakeBatch:
        return cls(config, prompts, tuple(recipe.loss_weights()), recipe.stage, recipe.packing)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        clips, dense = zip(*map(self._clip, samples), strict=True)
        packed, rows = self._pack(samples, clips) if "answers" in self.losses else (None, ())
        return Batch(
            clips=clips,
            pack=packed,
            rows=rows,
            targets=dense,
            counts=self._counts(packed, dense),
            tasks=tuple(sample.task for sample in samples),
            names=tuple(sample.name for sample in samples),
            questions=sum(len(sample.questions) for sample in samples),
        )

    def _clip(self, sample: Sample) -> tuple[ClipPixels, dict[str, Tensor]]:
        """Pixels and dense truth. ValueError that names the clip, for a picture that cannot be read."""
        try:
            clip = sample_pixels(sample, self.config)
            return clip, self._targets(sample, clip)
        except ValueError as error:
            raise ValueError(f"{sample.name}: {error}") from error

    def _pack(self, samples: Sequence[Sample], clips: Sequence[ClipPixels]) -> tuple[Pack, tuple[int, ...]]:
        asked = [[(question.prompt, question.answer) for question in sample.questions] for sample in samples]
        if self.packing:
            return pack(list(zip(clips, asked, strict=True)), self.prompts), tuple(range(len(clips)))
        alone = [(place, [pair]) for place, pairs in enumerate(asked) for pair in pairs]
        rows = tuple(place for place, _ in alone)
        return pack([(clips[place], pair) for place, pair in alone], self.prompts), rows

    def _targets(self, sample: Sample, clip: ClipPixels) -> dict[str, Tensor]:
        scale = clip.merge_size if self.stage == "geometry" else 1  # VGGT has patches, the LLM tokens
        make = {
            "camera": partial(truth.camera_target, sample, clip),
            "depth": partial(truth.depth_target, sample, clip),
            "points": partial(truth.points_target, sample, clip.rows * scale, clip.cols * scale),
            "classes": partial(truth.classes_target, sample, clip),
            "labels": partial(truth.labels_target, sample, clip),
            "centers": partial(truth.centers_target, sample, clip),
            "yaws": partial(truth.yaws_target, sample, clip),
            "places": partial(truth.places_target, clip),
            "pointing": partial(pointing_target, sample, clip),
            "marks": partial(truth.marks_target, sample, clip, partial(mark_size, share=self.config.mark_arm)),
        }
        return {name: make[name]() for name in self.losses if name in make}

    def _counts(self, packed: Pack | None, dense: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        counts = dict.fromkeys(self.losses, 0.0)
        if packed is not None and "answers" in counts:
            counts["answers"] = float(packed.num_answer_tokens)
        for row, clip in enumerate(dense):
            for name, value in clip.items():
                if name != "pointing":
                    counts[name] += _known(name, value)
                elif packed is not None:
                    counts[name] += len(pointed_at(packed.entries[row], value)[0])
        return counts


def sample_pixels(sample: Sample, config: GapMllmConfig) -> ClipPixels:
    """The frames of a sample with the marks of its questions."""
    marks = [question.mark for question in sample.questions if question.mark is not None]
    return clip_pixels(config, [frame.pixels() for frame in sample.frames], marks)


def _known(name: str, target: Tensor) -> float:
    """What a clip's truth adds to the number that the loss is divided by."""
    if name == "camera":
        return len(target)
    if name == "depth":
        return float((target > 0).sum())
    if target.is_floating_point():  # points
        return float(target[..., 0].isfinite().sum())
    known = target != IGNORE
    return float(known.sum() + (MARKED - 1) * (known & (target > 0)).sum() if name == "marks" else known.sum())
