"""Losses by hand: what counts, by how much, and that unknown truth never reaches a gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import board_scene

from gapmllm.model import IGNORE, build
from gapmllm.scenes.images import encode_depth, encode_gray16, encode_image
from gapmllm.scenes.problems import Problems
from gapmllm.tasks.questions import QuestionPlan, make_clips
from gapmllm.train.batch import MakeBatch
from gapmllm.train.losses import camera_loss, classes_loss, depth_loss, marks_loss, points_loss
from gapmllm.train.probes import PROBES
from gapmllm.train.recipe import recipe_of
from gapmllm.train.samples import Sample
from gapmllm.train.stages import Stage

NAN = float("nan")


def finite_gradients(loss, *inputs) -> list[torch.Tensor]:
    loss.backward()
    for value in inputs:
        assert value.grad is not None
        assert value.grad.isfinite().all()
    return [value.grad for value in inputs]


def image(*rows) -> torch.Tensor:
    return torch.tensor([[rows]], dtype=torch.float32)  # one clip, one frame


def test_depth_error_and_slopes_are_summed_over_known_pixels():
    depth = image([1.0, 2.0, 9.0], [1.0, 2.0, 9.0]).requires_grad_()
    confidence = torch.ones_like(depth).requires_grad_()
    target = image([1.0, 3.0, 0.0], [1.0, 0.0, 0.0])  # three known pixels
    # Errors 0, 1, 0. Slopes: the first row's two pixels differ by 1, and truly by 2; the first column's agree.
    loss = depth_loss(depth, confidence, target)
    assert loss.item() == pytest.approx(1 + 1)
    depth_grad, confidence_grad = finite_gradients(loss, depth, confidence)
    unknown = target == 0
    assert not depth_grad[unknown].any()
    assert not confidence_grad[unknown].any()


def test_slopes_do_not_reach_around_the_border_or_over_a_gap():
    target = image([1.0, 0.0, 1.0], [5.0, 0.0, 7.0])
    # Both known columns: 4 and 6 from row to row. Neither from right to left around the border nor over the gap.
    depth = image([0.0, 3.0, 0.0], [0.0, 3.0, 0.0])
    assert depth_loss(depth, torch.ones_like(depth), target).item() == pytest.approx((1 + 5 + 1 + 7) + (4 + 6))


def test_confidence_weighs_the_error_and_costs_its_logarithm():
    depth, target = image([2.0]), image([1.0])
    assert depth_loss(depth, image([3.0]), target).item() == pytest.approx(3 * 1 - 0.2 * math.log(3))


def test_a_camera_round_counts_less_the_earlier_it_is():
    target = torch.zeros(1, 2, 9)
    wrong = torch.zeros(1, 2, 9)
    wrong[0, 0, 0], wrong[0, 1, 8] = 0.3, -3.0  # a place, and a field of view
    error = (0.3 + 0.5 * 3) / 9
    assert camera_loss([wrong], target).item() == pytest.approx(error)
    assert camera_loss([wrong, target, target], target).item() == pytest.approx(0.36 * error)
    assert camera_loss([target, target, wrong], target).item() == pytest.approx(error)


def test_points_are_distances_and_unknown_ones_are_left_out():
    points = torch.tensor([[3.0, 4.0, 0.0], [7.0, 7.0, 7.0], [1.0, 1.0, 1.0]], requires_grad=True)
    target = torch.tensor([[0.0, 0.0, 0.0], [NAN, NAN, NAN], [1.0, 1.0, 1.0]])  # the last one is met exactly
    loss = points_loss(points, target)
    assert loss.item() == pytest.approx(5)
    (gradient,) = finite_gradients(loss, points)
    torch.testing.assert_close(gradient, torch.tensor([[0.6, 0.8, 0], [0, 0, 0], [0, 0, 0]]))


def test_where_nothing_is_known_the_losses_are_zero_with_zero_gradients():
    points = torch.ones(2, 3, requires_grad=True)
    depth = torch.ones(1, 1, 2, 2, requires_grad=True)
    logits = torch.zeros(2, 4, requires_grad=True)
    nothing = torch.full((2,), IGNORE)
    loss = points_loss(points, torch.full((2, 3), NAN)) + depth_loss(depth, depth + 1, torch.zeros(1, 1, 2, 2))
    loss = loss + classes_loss(logits, nothing) + marks_loss(logits, nothing)
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in finite_gradients(loss, points, depth, logits))


def test_classes_are_a_log_likelihood_of_the_known_tokens():
    logits = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.1, 0.9]]))
    assert classes_loss(logits, torch.tensor([0, IGNORE, 1])).item() == pytest.approx(-math.log(0.25) - math.log(0.9))


def test_a_marked_token_counts_ten_times():
    logits = torch.log(torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]]))
    found = marks_loss(logits, torch.tensor([0, 2, IGNORE])).item()
    assert found == pytest.approx(-math.log(0.2) - 10 * math.log(0.5))


# What losses are divided by, and that each clip meets its own truth


def sample(frames, width=None) -> Sample:
    """Points of the boards; width: of the left part of the frames, which has another number of tokens."""
    scene = board_scene()
    if width is not None:
        scene = replace(scene, frames=tuple(cut(frame, width) for frame in scene.frames))
    plan = QuestionPlan(tasks=("points",), windows=1, window_frames=frames, points=4)
    (clip,) = make_clips(scene, plan, Problems(scene.id))
    return Sample(scene, clip, "points")


def cut(frame, width):
    picture = encode_image(frame.pixels()[:, :width], None)
    depth = encode_depth(frame.depth_map()[:, :width], frame.depth_scale)
    ids = encode_gray16((frame.instance_map()[:, :width] + 1).astype(np.uint16))
    return replace(frame, image=picture, depth=depth, instances=ids)


def run(stage, losses):
    values = {"stage": stage, "out": "unused", "init": "new debug", "steps": 1, "lr": 1.0e-3, "losses": losses}
    tasks = {} if stage == "geometry" else {"tasks": {"points": 1}}
    recipe = recipe_of(values | {"data": {"sources": [{"rooms": {}, **tasks}]}}, "test")
    model = build("debug")
    return Stage(model, recipe).eval(), MakeBatch.of(recipe, model.config, model.prompts)


DENSE = dict.fromkeys(("answers", "points", "centers", "yaws", "places", "classes", "labels", "marks"), 1.0)
MEASURED = dict.fromkeys(("camera", "depth", "points"), 1.0)


def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_choices():
    _, make = run("align", DENSE)
    batch = make([sample(2), sample(3)])
    assert batch.counts["answers"] == batch.pack.num_answer_tokens
    target = {
        name: torch.cat([clip[name].flatten() for clip in batch.targets]) for name in ("classes", "labels", "marks")
    }
    for name, loss in (("classes", classes_loss), ("labels", classes_loss), ("marks", marks_loss)):
        logits = torch.zeros(len(target[name]), PROBES[name])
        assert loss(logits, target[name]).item() / batch.counts[name] == pytest.approx(math.log(PROBES[name]))
    assert batch.counts["points"] == 5 * 12  # frames of 3x4 tokens, all of them known
    _, make = run("geometry", MEASURED)
    assert make([sample(2), sample(3)]).counts == {"camera": 5, "depth": 5 * 42 * 56, "points": 5 * 6 * 8}


def test_where_no_answer_is_learned_nothing_is_packed_and_the_rest_is_the_same():
    stage, make = run("align", DENSE)
    clips, counts = [sample(3), sample(2, 96)], dict.fromkeys(DENSE, 1.0)
    with torch.no_grad():
        expected = stage(make(clips), counts).sums
        dense = {name: weight for name, weight in DENSE.items() if name != "answers"}
        batch, stage.weights = replace(make, losses=tuple(dense))(clips), dense
        found = stage(batch, counts).sums
    assert batch.pack is None
    assert batch.num_tokens == 5 * 12 - 2 * 3  # frames of 3x4 tokens, two of them 3x3
    torch.testing.assert_close(found, {name: expected[name] for name in dense})


@pytest.mark.parametrize(("stage", "losses"), [("align", DENSE), ("geometry", MEASURED)])
def test_clips_of_a_batch_meet_their_own_truth(stage, losses):
    """Together as apart, also where they differ in size and number of frames."""
    module, make = run(stage, losses)
    clips = [sample(3), sample(2, 96), sample(3)]
    with torch.no_grad():
        together, *apart = (module(make(part), dict.fromkeys(losses, 1.0)) for part in (clips, *([c] for c in clips)))
    for name, total in together.sums.items():
        assert float(total) == pytest.approx(sum(float(one.sums[name]) for one in apart), rel=1e-4)
        assert float(apart[0].sums[name]) != pytest.approx(float(apart[1].sums[name]), rel=1e-2)
