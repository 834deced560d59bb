"""Stages learn what they are shown: the loss falls by half where the truth is to be had, and only there.

JSON's format alone takes most of the loss away, whatever the answers say. So each run here starts where that is known
already: at the end of a run on shuffled truth, drawn anew at every step. From there, a few clips that come again and
again can be learned by heart from the frames and the questions; shuffled truth cannot. The loss is measured apart from
training: each question in a sequence of its own, at transformers' own positions, and must be the one that was logged.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gapmllm
from gapmllm.model import IGNORE
from gapmllm.train.batch import sample_pixels
from gapmllm.train.loop import train
from gapmllm.train.metrics import FILE, read_rows
from gapmllm.train.packing import Pack, pack
from gapmllm.train.recipe import Recipe, read_recipe
from gapmllm.train.samples import Sample, Samples
from gapmllm.train.targets import depth_target

RECIPES = Path(__file__).parents[1] / "recipes" / "debug"
CLIPS, DRAWN = 4, 16  # that are learned, all of them in every step; whose answers are shuffled
HALF = 0.5
FORM_STEPS = {"geometry": 40, "language": 120, "align": 120, "adapt": 120}
STEPS = {"geometry": 60, "language": 26, "align": 50, "adapt": 26}


@pytest.fixture(scope="module")
def clips():
    """clips(recipe): the few clips that runs are on; clips.shuffled: whether they come with shuffled truth."""
    draw, rng = Samples.__getitem__, np.random.default_rng(0)
    kept, answers = {}, defaultdict(list)

    def clip(samples: Samples, index: int) -> Sample:
        key = samples.data.model_dump_json(), index
        if key not in kept:
            kept[key] = draw(samples, index)
        return kept[key]

    def shuffled(samples: Samples, found: Sample) -> Sample:
        if not found.task:  # the pictures of another clip
            shown = clip(samples, int(rng.integers(CLIPS))).frames
            frames = (replace(frame, image=other.image) for frame, other in zip(found.frames, shown, strict=True))
            return replace(found, scene=replace(found.scene, frames=tuple(frames)))
        if found.task not in answers:
            for question in (one for index in range(DRAWN) for one in clip(samples, index).questions):
                answers[form_of(question)].append(question.answer)
            answers[found.task] = []
        asked = (replace(one, answer=str(rng.choice(answers[form_of(one)]))) for one in found.questions)
        return replace(found, clip=replace(found.clip, questions=tuple(asked)))

    def get(samples: Samples, index: int) -> Sample:
        found = clip(samples, index % CLIPS)
        return shuffled(samples, found) if state.shuffled else found

    def all_of(recipe: Recipe) -> list[Sample]:
        samples = Samples(recipe.data, seed=recipe.seed, count=recipe.steps * recipe.batch)
        return [clip(samples, index) for index in range(CLIPS)]

    state = SimpleNamespace(shuffled=False, of=all_of)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Samples, "__getitem__", get)
        yield state


def form_of(question) -> tuple:
    """Questions whose answers look alike."""
    return question.task, tuple(question.target)


def recipe(stage: str, out: Path, init: str, steps: int) -> Recipe:
    """The debug recipe of the stage, made smaller."""
    values = {
        "init": init,
        "out": out,
        "steps": steps,
        "batch": CLIPS,
        "workers": 0,
        "weight_decay": 0,
        "evaluate": "null",
        "geometry": "null",
        "model": "{fusion: none}" if (stage, init) == ("language", "new debug") else "{}",
        "data.frames": 1 if stage == "geometry" else 2,
        "data.canonical_frames": 2,
        "data.neighbours": 1,
        "data.marks": 4,
        "data.questions": 4,
        "data.sources.0.rooms": f"{{count: {DRAWN}, frames: 4, width: 128, height: 96}}",
    }
    return read_recipe(RECIPES / f"{stage}.yaml", [f"{key}={value}" for key, value in values.items()])


@pytest.fixture(scope="module")
def start(clips, tmp_path_factory):
    """start(stage): the folder of a run on shuffled truth."""
    folders = {}

    def trained(stage: str) -> Path:
        if stage not in folders:
            folder = tmp_path_factory.mktemp(stage) / "form"
            run(clips, recipe(stage, folder, "new debug", FORM_STEPS[stage]), shuffled=True)
            folders[stage] = folder
        return folders[stage]

    return trained


def run(clips, wanted: Recipe, *, shuffled: bool) -> list[float]:
    """Train; the logged loss of each step: of the answers, or of the depth."""
    clips.shuffled = shuffled
    assert train(wanted)
    clips.shuffled = False
    name = "depth" if wanted.stage == "geometry" else "answers"
    return [row["losses"][name] for row in read_rows(Path(wanted.out) / FILE)]


@torch.no_grad()
def measured(folder: Path, samples: list[Sample]) -> float:
    """Mean loss of the true answers' tokens, each alone behind its clip; without questions, metres of depth."""
    model = gapmllm.load(folder).eval()
    total, count = 0.0, 0
    for sample in samples:
        clip = sample_pixels(sample, model.config)
        if not sample.questions:
            error = model.geometry_encoder.vggt(clip.geometry[None])["depth"][0] - depth_target(sample, clip)
            total, count = total + float(error.abs().mean()), count + 1
        prefix = model.prompts.prefix([clip.tokens_per_frame] * clip.num_frames)
        for question in sample.questions:
            asked, answer = model.prompts.question(question.prompt), model.prompts.answer(question.answer)
            ids = torch.tensor([prefix + asked + answer])
            labels = ids.clone()
            labels[0, : -len(answer)] = IGNORE
            losses = model(ids, [clip], labels).token_losses
            total, count = total + float(losses.sum()), count + len(losses)
    return total / count


@dataclass(frozen=True)
class Outcome:
    """Of a run that started at `form`: the true answers' loss before and after, and the losses that it logged."""

    before: float
    after: float
    logged: list[float]

    @property
    def is_the_truths(self) -> bool:
        """Whether the first loss that was logged is that of the true answers."""
        return self.logged[0] == pytest.approx(self.before, rel=1e-3)

    @property
    def is_learned(self) -> bool:
        return self.after <= HALF * self.before


def outcome(clips, form: Path, wanted: Recipe, *, shuffled: bool = False) -> Outcome:
    logged = run(clips, wanted, shuffled=shuffled)
    before, after = (measured(folder, clips.of(wanted)) for folder in (form, Path(wanted.out)))
    print(f"{wanted.stage}: {before:.3f} -> {after:.3f}, logged {logged[0]:.3f} -> {logged[-1]:.3f}")
    return Outcome(before, after, logged)


@pytest.mark.parametrize("stage", STEPS)
def test_the_truth_is_learned(stage, clips, start, tmp_path):
    form = start(stage)
    found = outcome(clips, form, recipe(stage, tmp_path / "run", str(form), STEPS[stage]))
    assert found.is_learned
    if stage != "geometry":  # where the measure is another one: metres
        assert found.is_the_truths
        assert found.logged[-1] == pytest.approx(found.after, rel=0.1)


@pytest.mark.parametrize("stage", STEPS)
def test_shuffled_truth_is_not_learned(stage, clips, start, tmp_path):
    form = start(stage)
    found = outcome(clips, form, recipe(stage, tmp_path / "run", str(form), STEPS[stage]), shuffled=True)
    assert not found.is_learned
    if stage != "geometry":
        assert np.mean(found.logged[-10:]) > HALF * found.before


def shift_labels(good: Pack) -> Pack:
    return replace(good, labels=good.labels.roll(1, dims=1))


def learn_questions(good: Pack) -> Pack:
    return replace(good, labels=torch.where(good.segments > 0, good.input_ids, IGNORE))


def stand_still(good: Pack) -> Pack:
    return replace(good, positions=torch.zeros_like(good.positions))


def start_at_zero(good: Pack) -> Pack:
    """Each question starts where the prefix does, not where it ends."""
    asked = good.segments > 0
    first = torch.stack([row[mask].min() for row, mask in zip(good.positions[0], asked, strict=True)])
    return replace(good, positions=torch.where(asked, good.positions - first[:, None], good.positions))


def go_on(good: Pack) -> Pack:
    """Each question starts where the one before it ended."""
    length = torch.arange(good.positions.shape[-1])
    return replace(good, positions=torch.where(good.segments > 0, length, good.positions))


@pytest.mark.parametrize("broken", [shift_labels, learn_questions, stand_still, start_at_zero, go_on])
def test_with_a_broken_mask_or_wrong_positions_it_is_not(broken, clips, start, tmp_path, monkeypatch):
    form = start("align")
    monkeypatch.setattr("gapmllm.train.batch.pack", lambda *args: broken(pack(*args)))
    found = outcome(clips, form, recipe("align", tmp_path / "run", str(form), STEPS["align"]))
    assert not found.is_learned
    assert not found.is_the_truths
    assert np.mean(found.logged[-5:]) < 0.7 * found.logged[0]  # and yet its own loss falls: what it logs is not enough
