"""Stages learn what they are shown: the loss falls by half where the truth is to be had, and only there.

JSON's format alone takes most of the loss away, whatever the answers say. So each run here starts where that is known
already: at the end of a run on shuffled truth, drawn anew at every step. From there, a few clips that come again and
again can be learned by heart from the frames and the question; shuffled ones cannot. The loss is measured apart from
training: each question in a sequence of its own, with transformers' own positions, and must be the one that is logged.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gapmllm
from gapmllm.model import IGNORE
from gapmllm.train.batch import clip_pixels
from gapmllm.train.loop import train
from gapmllm.train.metrics import FILE, read_rows
from gapmllm.train.recipe import Recipe, read_recipe
from gapmllm.train.samples import Samples

RECIPES = Path(__file__).parents[1] / "recipes" / "debug"
CLIPS = 4  # they make up every step
DRAWN = 16  # clips whose answers are shuffled
HALF = 0.5


@pytest.fixture(autouse=True)
def few_clips(monkeypatch):
    """Every run is on the same four clips; few_clips.shuffled: with other answers, or other frames, at each draw."""
    draw, kept, answers = Samples.__getitem__, {}, defaultdict(list)
    rng = np.random.default_rng(0)
    state = SimpleNamespace(shuffled=False)

    def sample(samples: Samples, index: int):
        key = samples.data.model_dump_json(), index
        if key not in kept:
            kept[key] = draw(samples, index)
        return kept[key]

    def get(samples: Samples, index: int):
        found = sample(samples, index % CLIPS)
        if not state.shuffled:
            return found
        if not found.task:
            other = sample(samples, int(rng.integers(CLIPS)))
            cameras = (replace(frame, image=shown.image) for frame, shown in zip(found.frames, other.frames, strict=True))
            return replace(found, scene=replace(found.scene, frames=tuple(cameras)))
        if not answers:
            for question in (one for number in range(DRAWN) for one in sample(samples, number).questions):
                answers[kind(question)].append(question.answer)
        questions = [replace(one, answer=str(rng.choice(answers[kind(one)]))) for one in found.questions]
        return replace(found, clip=replace(found.clip, questions=tuple(questions)))

    monkeypatch.setattr(Samples, "__getitem__", get)
    state.samples = lambda recipe: [sample(Samples(recipe.data, seed=recipe.seed, count=CLIPS), i) for i in range(CLIPS)]
    return state


def kind(question) -> tuple:
    """Questions of a kind have answers of one form."""
    return question.task, tuple(question.target), "label" in question.answer


def recipe(stage: str, out: Path, init: str, steps: int, **settings) -> Recipe:
    """The debug recipe of the stage, made smaller; `{}` in a list of sources are its own."""
    values = {
        "init": init,
        "out": out,
        "steps": steps,
        "batch": CLIPS,
        "workers": 0,
        "weight_decay": 0,
        "evaluate": "null",
        "geometry": "null",
        "data.frames": 2,
        "data.canonical_frames": 4,
        "data.neighbours": 1,
        "data.marks": 4,
        "data.questions": 4,
        "model": "{}" if init.startswith(".") else "{fusion: none}" if stage == "language" else "{}",
        "data.clips_per_scene": 1,
        "data.sources.0.rooms.count": CLIPS,
        "data.sources.0.rooms.frames": 4,
        "data.sources.0.rooms.width": 128,
        "data.sources.0.rooms.height": 96,
        **settings,
    }
    return read_recipe(RECIPES / f"{stage}.yaml", [f"{key}={value}" for key, value in values.items()])


def logged(run: Recipe, loss: str) -> list[float]:
    return [row["losses"][loss] for row in read_rows(Path(run.out) / FILE)]


@torch.no_grad()
def measured(folder: Path, samples) -> float:
    """Mean loss of the true answers' tokens, each question in a sequence of its own."""
    model = gapmllm.load(folder).eval()
    total, count = 0.0, 0
    for sample in samples:
        clip = clip_pixels(sample, model.config)
        start = model.prompts.prefix([clip.tokens_per_frame] * clip.num_frames)
        for question in sample.questions:
            asked, answer = model.prompts.question(question.prompt), model.prompts.answer(question.answer)
            ids = torch.tensor([start + asked + answer])
            labels = ids.clone()
            labels[0, : -len(answer)] = IGNORE
            losses = model(ids, [clip], labels).token_losses
            total, count = total + float(losses.sum()), count + len(losses)
    return total / count


@pytest.mark.parametrize("stage", ["language", "align", "adapt"])
def test_answers_are_learned_from_the_clip_and_the_question(stage, few_clips, tmp_path):
    few_clips.shuffled = True
    import time; t=time.time()
    form = recipe(stage, tmp_path / "form", "new debug", 200)
    assert train(form)
    few_clips.shuffled = False
    run = recipe(stage, tmp_path / "run", "../form", 100)
    assert train(run)
    f=logged(form,"answers"); r=logged(run,"answers")
    print(stage, [round(x,3) for x in f[::20]], f[-1], [round(x,3) for x in r[::10]], r[-1])
    samples = few_clips.samples(run); print(time.time()-t, [x["tokens"] for x in read_rows(Path(run.out)/FILE)][:2],[round(x["wait"],3) for x in read_rows(Path(run.out)/FILE)][:50:10],[round(x["seconds"],3) for x in read_rows(Path(run.out)/FILE)][:50:10])
    a,b = measured(form.out, samples), measured(run.out, samples)
    print(a,b,[(x.task,len(x.questions),len(x.frames)) for x in samples])
