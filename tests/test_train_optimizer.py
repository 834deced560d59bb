"""Learning rates by part, decay, the schedule."""

from __future__ import annotations

from math import cos, pi

import pytest
import torch

from gapmllm.train.optimizer import make_optimizer, parameter_groups, set_learning_rates
from gapmllm.train.recipe import recipe_of
from gapmllm.train.stages import Stage
from gapmllm.train.start import start_model, trained

RATES = {"llm": 1e-3, "mergers": 2e-3, "fusion": 3e-3}
PREFIXES = {
    "llm": ("model.model.language_model", "model.lm_head"),
    "mergers": ("model.geometry_merger", "model.geometry_deepstack_merger_list"),
    "fusion": ("model.feature_fusion", "model.deepstack_feature_fusion_list"),
    "probes": ("probes",),
}


def recipe(**values):
    data = {"sources": [{"rooms": {}, "tasks": {"points": 1}}]}
    usual = {"stage": "align", "out": "unused", "init": "new debug", "steps": 100, "lr": RATES, "data": data}
    return recipe_of(usual | {"losses": {"answers": 1, "points": 1}} | values, "test")


def stage_of(run) -> Stage:
    return Stage(start_model(run), run)


def grouped(stage: Stage, run) -> dict[str, dict]:
    """Name of each trained parameter -> its group."""
    groups = [(group, parameter) for group in parameter_groups(stage, run) for parameter in group["params"]]
    of = {id(parameter): group for group, parameter in groups}
    parameters = trained(stage)
    assert len(groups) == len(of) == len(parameters)  # each once
    return {name: of[id(parameter)] for name, parameter in parameters.items()}


def test_each_trained_parameter_has_the_rate_of_its_part_once():
    run = recipe()
    stage = stage_of(run)
    groups = grouped(stage, run)
    for name, group in groups.items():
        (part,) = (part for part, prefixes in PREFIXES.items() if name.startswith(prefixes))
        assert group["name"] == part, name
        assert group["lr"] == RATES.get(part, 3e-3), name  # probes: the largest
    assert {group["name"] for group in groups.values()} == PREFIXES.keys()
    # The embedding is the LLM's head as well: one tensor.
    assert stage.model.lm_head.weight is stage.model.model.language_model.embed_tokens.weight
    assert [name for name in groups if name.endswith(("embed_tokens.weight", "lm_head.weight"))] == [
        "model.model.language_model.embed_tokens.weight"
    ]


def test_matrices_decay_and_norms_and_biases_do_not():
    run = recipe(weight_decay=0.1)
    stage = stage_of(run)
    groups = grouped(stage, run)
    decays = {
        f"{prefix}.{name}": 0.0 if name == "bias" or "Norm" in type(module).__name__ else 0.1
        for prefix, module in stage.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }
    assert {name: group["weight_decay"] for name, group in groups.items()} == {name: decays[name] for name in groups}
    assert {group["weight_decay"] for group in groups.values()} == {0.0, 0.1}


def test_one_rate_is_everyones_and_probes_may_have_their_own():
    run = recipe(lr=5e-4)
    assert {group["lr"] for group in parameter_groups(stage_of(run), run)} == {5e-4}
    run = recipe(lr={"llm": 1e-5, "probes": 1e-2})
    rates = {group["name"]: group["lr"] for group in parameter_groups(stage_of(run), run)}
    assert rates == {"llm": 1e-5, "probes": 1e-2}


def test_rates_rise_in_a_line_and_fall_as_a_cosine():
    run = recipe(warmup=0.04, losses={"answers": 1})
    optimizer = make_optimizer(stage_of(run), run)
    seen = []
    for step in range(100):
        set_learning_rates(optimizer, run, step)
        rates = {group["name"]: group["lr"] / RATES[group["name"]] for group in optimizer.param_groups}
        assert len({round(rate, 12) for rate in rates.values()}) == 1  # all parts alike
        seen.append(rates["llm"])
    assert seen[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])  # four steps up, then the peak
    assert seen[52] == pytest.approx(0.5)  # half-way: 4 + 96 / 2
    assert seen[99] == pytest.approx((1 + cos(pi * 95 / 96)) / 2)
    assert 0 < seen[99] < 0.001


def test_a_step_decays_matrices_by_rate_times_decay():
    """With gradients of zero AdamW does nothing but decay: w <- w (1 - lr * decay)."""
    run = recipe(lr={"llm": 0.1}, weight_decay=0.5, losses={"answers": 1})
    stage = stage_of(run)
    before = {name: parameter.detach().clone() for name, parameter in trained(stage).items()}
    optimizer = make_optimizer(stage, run)
    for parameter in trained(stage).values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in trained(stage).items():
        factor = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)
