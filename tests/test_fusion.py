"""The merger and the fusions give the golden numbers, and every part of them learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gapmllm.model.fusion import FUSIONS, CrossAttentionFusion, GatedFusion
from gapmllm.model.merger import GeometryMerger

CASES = [(grid, rule) for grid in ("6x8", "7x9") for rule in "AB"]
WIDTH = 40


class Golden:
    """Inputs and outputs of one grid under one weight rule, and modules with that rule's weights."""

    def __init__(self, folder, names, weights, grid, rule):
        self.names, self.weights, self.rule = names, weights, rule
        with np.load(folder / f"grid_{grid}.npz") as arrays:
            self.arrays = {name: torch.from_numpy(arrays[name]) for name in arrays.files}

    def fill(self, module, key):
        """Exactly the names and shapes of the list, without their prefix."""
        tensors = self.weights(self.names[key], self.rule)
        module.load_state_dict({name.partition(".")[2]: tensor for name, tensor in tensors.items()}, strict=True)
        return module.eval().requires_grad_(False)

    def error(self, output, key):
        expected = self.arrays[f"{key}_rule{self.rule}"]
        return (output.reshape(expected.shape) - expected).abs().max().item()

    def merger(self):
        return self.fill(GeometryMerger(32, 48, WIDTH), "merger_mlp")

    def tokens(self):
        return self.arrays["features_2d"], self.merger()(self.arrays["geometry"])


@pytest.fixture(params=CASES, ids="-".join)
def case(request, golden, golden_json, golden_weights):
    names = golden_json("fusion/fusion.json")["state_dict"]
    return Golden(golden / "fusion", names, golden_weights, *request.param)


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, WIDTH), torch.randn(2, 3, 4, WIDTH)


def test_the_merger_gives_the_golden_numbers(case):
    assert case.error(case.merger()(case.arrays["geometry"]), "merger_mlp") < 1e-5


def test_a_merger_that_concatenates_columns_first_does_not(case):
    turned = case.merger()(case.arrays["geometry"].transpose(1, 2)).transpose(1, 2)
    assert case.error(turned, "merger_mlp") > 1e-3


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_gives_the_golden_numbers(case, name):
    visual, geometry = case.tokens()
    fusion = case.fill(FUSIONS[name](WIDTH), f"fusion_{name}")
    output = fusion(visual, geometry)
    assert output.shape == visual.shape
    assert case.error(output, f"fusion_{name}") < 1e-5
    if name != "add":  # a sum is the same the other way round
        assert case.error(fusion(geometry, visual), f"fusion_{name}") > 1e-2


def test_cross_attention_of_two_layers_gives_the_golden_numbers(case):
    fusion = case.fill(CrossAttentionFusion(WIDTH, num_heads=4, num_layers=2), "fusion_cross_attention_2layers")
    assert case.error(fusion(*case.tokens()), "fusion_cross_attention_2layers") < 1e-5


def test_the_gate_mixes_normalised_tokens_not_raw_ones(case):
    visual, geometry = case.tokens()
    fusion = case.fill(GatedFusion(WIDTH), "fusion_gated")
    gate = fusion.gate(visual, geometry)
    normalised = gate * fusion.norm1(visual) + (1 - gate) * fusion.norm2(geometry)
    assert case.error(normalised, "fusion_gated") < 1e-5
    assert case.error(gate * visual + (1 - gate) * geometry, "fusion_gated") > 0.1


@pytest.mark.parametrize(("bias", "side"), [(50.0, "norm1"), (-50.0, "norm2")])
def test_an_open_gate_gives_the_visual_token_and_a_shut_one_geometry(tokens, bias, side):
    visual, geometry = tokens
    fusion = GatedFusion(WIDTH)
    torch.nn.init.zeros_(fusion.gate_projection[0].weight)
    torch.nn.init.constant_(fusion.gate_projection[0].bias, bias)
    expected = torch.nn.functional.layer_norm({"norm1": visual, "norm2": geometry}[side], (WIDTH,))
    assert torch.allclose(fusion.gate(visual, geometry), torch.tensor(float(bias > 0)), atol=1e-6)
    assert torch.allclose(fusion(visual, geometry), expected, atol=1e-6)


def test_weighted_begins_as_the_mean(tokens):
    visual, geometry = tokens
    assert torch.allclose(FUSIONS["weighted"](WIDTH)(visual, geometry), (visual + geometry) / 2)


@pytest.mark.parametrize("name", FUSIONS)
def test_frames_do_not_see_each_other(tokens, name):
    visual, geometry = tokens
    fusion = FUSIONS[name](WIDTH)
    changed = geometry.clone()
    changed[1] = torch.randn_like(changed[1])
    before, after = fusion(visual, geometry), fusion(visual, changed)
    assert torch.equal(before[0], after[0])
    assert (before[1] - after[1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", FUSIONS)
def test_all_of_a_fusion_and_its_merger_learns(name):
    torch.manual_seed(0)
    merger, fusion = GeometryMerger(32, 48, WIDTH), FUSIONS[name](WIDTH)
    loss = (fusion(torch.randn(2, 3, 4, WIDTH), merger(torch.randn(2, 7, 9, 32))) * torch.randn(2, 3, 4, WIDTH)).sum()
    loss.backward()
    for key, parameter in (*merger.named_parameters(), *fusion.named_parameters()):
        if not key.endswith("norm1_key.bias"):  # softmax does not notice what is added to all keys alike
            assert parameter.grad.abs().max() > 1e-4, key


@pytest.mark.parametrize("name", FUSIONS)
def test_fusions_run_in_bfloat16(tokens, name):
    visual, geometry = (tensor.bfloat16() for tensor in tokens)
    fusion = FUSIONS[name](WIDTH)
    exact = fusion(visual.float(), geometry.float())
    rounded = fusion.bfloat16()(visual, geometry)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).abs().max() < 0.05


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 32), (1, 3, 4, WIDTH), (2, 4, 3, WIDTH)])
def test_tokens_of_different_shapes_are_refused(tokens, name, shape):
    with pytest.raises(ValueError, match=r"visual tokens \(2, 3, 4, 40\), geometry tokens .* need one shape"):
        FUSIONS[name](WIDTH)(tokens[0], torch.zeros(shape))
    with pytest.raises(ValueError, match=r"need one shape \(\.\.\., 44\)"):
        FUSIONS[name](44)(*tokens)


def test_cross_attention_wants_a_grid_and_a_width_that_divides(tokens):
    with pytest.raises(ValueError, match=r"grid of tokens \(n, h, w, width\), got \(6, 4, 40\)"):
        FUSIONS["cross_attention"](WIDTH)(*(tensor.flatten(0, 1) for tensor in tokens))
    with pytest.raises(ValueError, match="width 42 must divide by 4"):
        FUSIONS["cross_attention"](42)
