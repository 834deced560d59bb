"""The loss `pointing`: which tokens show what an answer is about, and that the LLM learns to pick them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import board_scene

from gapmllm.model import IGNORE, build
from gapmllm.scenes.problems import Problems
from gapmllm.tasks.questions import QuestionPlan, make_clips
from gapmllm.train.batch import MakeBatch, sample_pixels
from gapmllm.train.packing import Pack, pack
from gapmllm.train.pointing import middle_attention, pointed_at, pointing_loss, pointing_target
from gapmllm.train.recipe import recipe_of
from gapmllm.train.samples import Sample
from gapmllm.train.stages import Stage


@pytest.fixture(scope="module")
def model():
    return build("debug", fusion="none")


def sample_of(task, scene=None) -> Sample:
    scene = scene or board_scene()
    clips = make_clips(scene, QuestionPlan(tasks=(task,), points=4, neighbours=1), Problems("boards"))
    return Sample(scene, next(clip for clip in clips if clip.questions[0].task == task), task)


def target_of(model, sample):
    clip = sample_pixels(sample, model.config)
    return pointing_target(sample, clip), clip


def covered(clip, frame, label_number) -> np.ndarray:
    """(rows, cols) share of each token that a board covers, counted over the pixels that lie in it."""
    ids = frame.instance_map()
    height, width = ids.shape
    found = np.zeros((clip.rows, clip.cols))
    for y, x in np.argwhere(ids == label_number):
        found[(2 * y + 1) * clip.rows // (2 * height), (2 * x + 1) * clip.cols // (2 * width)] += 1
    return found


def test_objects_of_a_list_are_shown_by_the_tokens_that_they_cover_most(model):
    sample = sample_of("detection")
    target, clip = target_of(model, sample)
    said = [entry["label"] for entry in sample.questions[0].target["objects"]]
    assert said == ["desk", "chair", "chair"]  # from left to right
    for row, board in zip(target, (2, 0, 1), strict=True):
        shares = np.stack([covered(clip, frame, board) for frame in sample.frames])
        assert row.tolist() == (shares >= shares.max() / 2).ravel().tolist()
        assert row.any()


@pytest.mark.parametrize("task", ["grounding", "frame", "captioning"])
def test_a_text_means_its_object(model, task):
    sample = sample_of(task)
    target, clip = target_of(model, sample)
    assert len(target) == len(sample.questions)
    for question, row in zip(sample.questions, target, strict=True):
        shares = np.stack([covered(clip, frame, question.target["object_id"]) for frame in sample.frames])
        assert row.tolist() == (shares >= shares.max() / 2).ravel().tolist()


def test_a_mark_is_in_one_token(model):
    sample = sample_of("points")
    target, clip = target_of(model, sample)
    assert target.sum(dim=1).tolist() == [1] * 4
    for question, row in zip(sample.questions, target.view(4, clip.num_frames, clip.rows, clip.cols), strict=True):
        width, height = sample.frames[0].size
        mark = question.mark
        assert row[mark.frame, int((mark.y + 0.5) / height * clip.rows), int((mark.x + 0.5) / width * clip.cols)]


def test_nothing_is_shown_of_what_is_not_known(model):
    scene = board_scene()
    blind = replace(scene, frames=tuple(replace(frame, instances=None) for frame in scene.frames))
    assert not target_of(model, sample_of("grounding", blind))[0].any()
    sample = sample_of("grounding")
    questions = tuple(replace(question, target={"bbox_3d": [0] * 9}) for question in sample.questions)
    unknown = replace(sample, clip=replace(sample.clip, questions=questions))
    target = target_of(model, unknown)[0]
    assert not target.any()
    assert len(pointed_at(torch.zeros(5, dtype=torch.long), target)[0]) == 0


@pytest.mark.parametrize("answer", ["[]", '[{"label": "bed"}, {"label": "tv"}]', "no list at all"])
def test_answers_of_another_form_keep_their_entries(model, answer):
    sample = sample_of("detection")  # three objects
    question = replace(sample.questions[0], answer=answer)
    other = replace(sample, clip=replace(sample.clip, questions=(question, sample_of("grounding").questions[0])))
    target, clip = target_of(model, other)
    packed = pack([(clip, [(asked.prompt, asked.answer) for asked in other.questions])], model.prompts)
    assert len(target) == int(packed.entries.max()) + 1
    assert target.any(dim=1).tolist() == [False] * (len(target) - 1) + [True]


def test_entries_are_the_braces_of_all_answers(model):
    clip = sample_pixels(sample_of("detection"), model.config)
    answers = ['[{"label": "bed"}, {"label": "tv"}]', "a red bed", '{"frame": 3}', "[]"]
    packed = pack([(clip, [("where?", answer) for answer in answers])], model.prompts)
    (entries,), (ids,) = packed.entries, packed.input_ids
    assert ((entries != IGNORE) == (packed.labels[0] != IGNORE)).all()
    assert entries[entries != IGNORE].unique_consecutive().tolist() == [0, 1, 2, 3, 4]
    texts = [model.prompts.text(ids[entries == number].tolist()) for number in range(5)]
    assert "bed" in texts[0]
    assert "tv" in texts[1]
    assert texts[2:] == ["a red bed", '{"frame": 3}', "[]"]


def test_a_token_is_predicted_where_the_one_before_it_stands():
    entries = torch.tensor([IGNORE, IGNORE, 0, 0, 1, IGNORE, 2])
    target = torch.tensor([[True, False], [False, False], [False, True]])
    place, right = pointed_at(entries, target)
    assert place.tolist() == [1, 2, 5]  # entry 1 is not shown
    assert right.tolist() == [[True, False], [True, False], [False, True]]


def test_any_right_token_will_do():
    # Two heads of the first key look at all that they may see alike; those of the second are asked nothing.
    batch = pack_of_ids([9, 9, 9, 9, 1, 2, 3, 4], entries=[IGNORE] * 5 + [0, IGNORE, 1], segments=[0] * 5 + [1, 2, 2])
    target = torch.tensor([[True, False, False, False], [True, True, True, False]])
    queries, keys = torch.zeros(1, 4, 8, 3), torch.randn(1, 2, 8, 3)
    queries[:, 2:] = torch.randn(1, 2, 8, 3)
    loss = pointing_loss(queries, keys, batch, 9, [target])
    assert loss.item() == pytest.approx(math.log(5 / 1) + math.log(6 / 3), rel=1e-5)  # of 5 and of 6 tokens


def pack_of_ids(ids, entries, segments) -> Pack:
    blank = torch.zeros(1, len(ids), dtype=torch.long)
    return Pack(
        (), torch.tensor([ids]), blank, torch.tensor([segments]), torch.tensor([entries]), blank.expand(3, 1, -1)
    )


def test_the_llm_learns_where_to_look(tmp_path: Path):
    model = build("debug", fusion="none")
    stage = Stage(model, recipe_of(recipe_values(tmp_path, {"pointing": 1, "answers": 1}), "test"))
    batch = MakeBatch(model.config, model.prompts, ("answers", "pointing"), "language", packing=True)(
        [sample_of("grounding")]
    )
    assert batch.counts["pointing"] == batch.counts["answers"]  # each token of each answer has something to look at
    optimizer = torch.optim.AdamW(stage.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        out = stage(batch, batch.counts)
        out.loss.backward()
        optimizer.step()
        losses.append(float(out.sums["pointing"] / batch.counts["pointing"]))
    assert losses[-1] < 0.3 * losses[0]


def test_without_answers_there_is_nothing_to_look_for(tmp_path: Path):
    with pytest.raises(ValueError, match="give the loss answers a weight"):
        recipe_of(recipe_values(tmp_path, {"pointing": 1, "answers": 0, "classes": 1}), "test")


def recipe_values(out: Path, losses: dict[str, float]) -> dict[str, object]:
    data = {"sources": [{"rooms": {}, "tasks": {"grounding": 1}}]}
    values = {"stage": "language", "out": str(out), "init": "new:debug", "steps": 1, "batch": 1, "lr": 1e-3}
    return values | {"data": data, "losses": losses}


def test_attention_is_heard_half_way_up(model):
    batch = MakeBatch(model.config, model.prompts, ("answers",), "language", packing=True)([sample_of("grounding")])
    layers = model.model.language_model.layers
    middle = layers[len(layers) // 2].self_attn
    inputs = batch.pack.inputs(model)
    with middle_attention(model) as heard, torch.no_grad():
        model(**inputs)
    queries, keys = heard[0]
    assert queries.shape == (1, middle.config.num_attention_heads, batch.pack.input_ids.shape[1], middle.head_dim)
    assert keys.shape[1] == middle.config.num_key_value_heads
    with torch.no_grad():
        model(**inputs)
    assert len(heard) == 1  # it listens no longer
