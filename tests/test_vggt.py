"""VGGT's trunk: golden numbers, names of the public checkpoint, what is run and kept, bad input."""

from __future__ import annotations

import json
import math
import weakref
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from gapmllm.model.vggt import Vggt, VggtConfig, aggregator
from gapmllm.model.vggt.config import DINOV2
from gapmllm.model.vggt.layers import rotary_table, rotate

SMALL = VggtConfig(patch_size=7, embed_dim=16, depth=3, num_heads=2, patch_embed="conv")
TOLERANCE = 3e-5  # of the golden README; differences seen are below 3e-6
CASES = {
    "conv": ("conv_56x84", "conv_56x84_ruleB", "conv_70x56", "conv_70x56_ruleB"),
    "vits": ("vits_56x84", "vits_56x84_ruleB", "vits_70x56"),
}


def small(seed=0, **changes):
    torch.manual_seed(seed)
    return Vggt(replace(SMALL, **changes))


def random_images(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def golden_case(golden, golden_json, golden_weights):
    """Name of a case -> model with its weights, images, expected arrays."""
    models = {}

    def case(name):
        kind, rule = name.split("_")[0], name[-1] if "rule" in name else "A"
        if (kind, rule) not in models:
            stated = golden_json(f"vggt_aggregator_small/{kind}.json")
            known = {field.name for field in fields(VggtConfig)}
            config = VggtConfig(**{key: value for key, value in stated["config"].items() if key in known})
            with torch.device("meta"):
                models[kind, rule] = Vggt(config)
            weights = golden_weights(stated["state_dict"], rule)
            models[kind, rule].aggregator.load_state_dict(weights, assign=True)
        folder = golden / "vggt_aggregator_small"
        images = torch.from_numpy(np.load(folder / f"{name.removesuffix('_ruleB')}.npz")["images"])
        return models[kind, rule], images, np.load(folder / f"{name}.npz")

    return case


def largest_error(vggt, images, expected):
    with torch.no_grad():
        tokens, _ = vggt.aggregate(images, range(vggt.config.depth))
    return max(np.abs(tokens[layer].numpy() - expected[f"aggregated_tokens_{layer}"]).max() for layer in tokens)


@pytest.mark.parametrize("name", [*CASES["conv"], *CASES["vits"]])
def test_every_layer_equals_the_golden_numbers(golden_case, name):
    vggt, images, expected = golden_case(name)
    seen = []
    hook = vggt.aggregator.patch_embed.register_forward_hook(lambda module, given, output: seen.append(output))
    assert largest_error(vggt, images, expected) < TOLERANCE
    hook.remove()
    np.testing.assert_allclose(seen[0].numpy(), expected["patch_tokens"], rtol=0, atol=TOLERANCE)
    assert vggt.config.patch_start == expected["patch_start_idx"]


@pytest.mark.parametrize("name", ["vits_56x84", "vits_70x56"])
def test_position_tables_are_resized_as_the_golden_numbers(golden_case, name):
    vggt, images, expected = golden_case(name)
    rows, columns = (size // 14 for size in images.shape[-2:])
    with torch.no_grad():
        positions = vggt.aggregator.patch_embed.positions(rows, columns).numpy()
    np.testing.assert_allclose(positions, expected["pos_embed_interpolated"], rtol=0, atol=1e-6)


def no_turn(*arguments, **options):
    cosines, sines = rotary_table(*arguments, **options)
    return torch.ones_like(cosines), torch.zeros_like(sines)


def columns_first(rows, columns, special, head_dim, like):
    """The table with the halves for row and column exchanged."""
    table = rotary_table(rows, columns, special, head_dim, like)
    return tuple(part.roll(head_dim // 2, dims=1) for part in table)


def one_step_too_far(rows, columns, special, head_dim, like):
    """The table with the first patch at (2, 2)."""
    numbers = torch.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)[1:, 1:].flatten() + special
    keep = torch.cat([torch.arange(special), numbers])
    return tuple(part[keep] for part in rotary_table(rows + 1, columns + 1, special, head_dim, like))


@pytest.mark.parametrize("table", [no_turn, columns_first, one_step_too_far])
@pytest.mark.parametrize("name", ["conv_56x84", "conv_56x84_ruleB"])
def test_a_wrong_rotary_table_breaks_the_golden_test(golden_case, monkeypatch, name, table):
    monkeypatch.setattr(aggregator, "rotary_table", table)
    assert largest_error(*golden_case(name)) > 20 * TOLERANCE


def test_a_wrong_eps_breaks_the_golden_test(golden_case, monkeypatch):
    vggt, images, expected = golden_case("conv_56x84")
    for module in vggt.modules():
        if isinstance(module, torch.nn.LayerNorm):
            monkeypatch.setattr(module, "eps", 1e-6)
    assert largest_error(vggt, images, expected) > 5 * TOLERANCE


def test_positions_resized_without_antialiasing_break_the_golden_test(golden_case, monkeypatch):
    plain = torch.nn.functional.interpolate

    def aliased(*arguments, **options):
        return plain(*arguments, **(options | {"antialias": False}))

    monkeypatch.setattr(torch.nn.functional, "interpolate", aliased)
    assert largest_error(*golden_case("vits_56x84")) > 1e-2


def test_names_and_shapes_are_those_of_the_public_checkpoint(golden_json):
    stated = golden_json("vggt_1b_keys.json")["modules"]
    with torch.device("meta"):
        vggt = Vggt(VggtConfig(heads=("camera", "depth", "point")))
    for part in ("aggregator", "camera_head", "depth_head", "point_head"):
        module = vggt.get_submodule(part)
        shapes = {name: list(values.shape) for name, values in module.state_dict().items()}
        assert shapes == dict(stated[part]["state_dict"])
        assert sum(values.numel() for values in module.parameters()) == stated[part]["parameters"]
    assert not list(vggt.buffers())
    assert {name.split(".")[0] for name in vggt.state_dict()} == set(stated) - {"track_head"}


def test_without_heads_there_is_the_aggregator_alone_and_meta_images_give_shapes():
    with torch.device("meta"):
        vggt = Vggt(VggtConfig())
        tokens, patch_start = vggt.aggregate(torch.zeros(2, 3, 3, 28, 42), [0])
    assert {name for name, _ in vggt.named_children()} == {"aggregator"}
    # by hand: 1 camera token, 4 registers, 2 rows of 3 patches; 2 * 1024 channels
    assert tokens[0].shape == (2, 3, 11, 2048)
    assert patch_start == 5


def test_turning_by_hand():
    table = rotary_table(2, 2, 1, 4, torch.zeros(()))
    turned = rotate(torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(1, 1, 5, 4), table)[0, 0]
    # four channels: one pair turns by the row, one by the column, both counted from 1; the special token does not turn
    for values, (row, column) in zip(turned.tolist(), [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)], strict=True):
        assert values == pytest.approx([math.cos(row), math.sin(row), math.cos(column), math.sin(column)], abs=1e-6)


def test_channels_turn_in_halves_with_falling_frequencies():
    cosines, _ = rotary_table(1, 2, 0, 16, torch.zeros(()))
    # by hand: 16 channels, 8 for the column, of these 4 frequencies 100^(-i / 4), each for two channels
    angles = [2 * 100 ** (-i / 4) for i in range(4)]
    assert cosines[1, 8:].tolist() == pytest.approx([math.cos(angle) for angle in [*angles, *angles]], abs=1e-6)


def test_only_the_blocks_up_to_the_deepest_layer_run():
    vggt, calls = small(depth=5), []
    for name, module in vggt.aggregator.named_modules():
        if name.count(".") == 1 and "blocks" in name:
            module.register_forward_hook(lambda module, given, output, name=name: calls.append(name))
    tokens, _ = vggt.aggregate(random_images(1, 2, 3, 14, 21), [2, 0])
    assert set(tokens) == {0, 2}
    assert calls == [f"{kind}_blocks.{layer}" for layer in range(3) for kind in ("frame", "global")]


def test_four_layers_of_24_keep_a_sixth():
    vggt, alive = small(depth=24, embed_dim=8), []
    for block in [*vggt.aggregator.frame_blocks, *vggt.aggregator.global_blocks]:
        block.register_forward_hook(lambda module, given, output: alive.append(weakref.ref(output)))
    with torch.no_grad():
        every, _ = vggt.aggregate(random_images(1, 2, 3, 14, 21), range(24))
        alive.clear()
        four, _ = vggt.aggregate(random_images(1, 2, 3, 14, 21), (4, 11, 17, 23))
    kept, total = (sum(values.untyped_storage().nbytes() for values in tokens.values()) for tokens in (four, every))
    assert kept / total == 4 / 24
    assert len(alive) == 48
    assert not [reference for reference in alive if reference() is not None]
    for layer, values in four.items():
        torch.testing.assert_close(values, every[layer], rtol=0, atol=0)


def test_two_clips_at_once_equal_each_alone():
    vggt, images = small(), random_images(2, 3, 3, 14, 21)
    both = vggt.aggregate(images, [2])[0][2]
    for clip in (0, 1):
        torch.testing.assert_close(both[clip : clip + 1], vggt.aggregate(images[clip : clip + 1], [2])[0][2])
    assert (both[0] - both[1]).abs().max() > 1e-2


def test_the_order_of_frames_matters_through_the_first_alone():
    vggt, images = small(), random_images(1, 4, 3, 14, 21)
    with torch.no_grad():  # larger branches than at the start, so that differences show
        for block in [*vggt.aggregator.frame_blocks, *vggt.aggregator.global_blocks]:
            block.ls1.gamma.fill_(1.0)

    def difference(order):
        straight, shuffled = vggt.aggregate(images, [2])[0][2], vggt.aggregate(images[:, order], [2])[0][2]
        return (straight[:, order] - shuffled).abs().max()

    assert difference([0, 3, 1, 2]) < 1e-5
    assert difference([1, 0, 2, 3]) > 1e-3


def test_one_frame_is_enough():
    tokens, patch_start = small().aggregate(random_images(1, 1, 3, 7, 7), [0])
    assert tokens[0].shape == (1, 1, patch_start + 1, 32)


def test_bfloat16_is_close_and_casts_the_images():
    vggt, images = small(), random_images(1, 2, 3, 28, 42)
    exact = vggt.aggregate(images, [2])[0][2]
    rounded = vggt.to(torch.bfloat16).aggregate(images, [2])[0][2]
    assert rounded.dtype == torch.bfloat16
    # bfloat16 has 8 bits: a relative error of some 1 / 256
    assert 1e-4 < (rounded.float() - exact).norm() / exact.norm() < 0.02


def test_autocast_leaves_attention_on_a_cpu_in_float32(monkeypatch):
    seen, attend = [], functional.scaled_dot_product_attention

    def watched(*heads):
        seen.append((torch.is_autocast_enabled("cpu"), {values.dtype for values in heads}))
        return attend(*heads)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    with torch.autocast("cpu", torch.bfloat16):
        assert small().aggregator.frame_blocks[0].attn.qkv(torch.ones(1, 16)).dtype == torch.bfloat16
        small().aggregate(random_images(1, 2, 3, 28, 42), [0])
    assert seen == [(False, {torch.float32})] * 2


def test_dinov2_in_bfloat16_resizes_its_positions_in_float32(monkeypatch):
    monkeypatch.setitem(DINOV2, "dinov2_vits14_reg", (16, 1, 2))
    encoder = small(patch_embed="dinov2_vits14_reg").to(torch.bfloat16).aggregator.patch_embed
    rounded, exact = encoder.positions(3, 5), encoder.float().positions(3, 5)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded, exact.to(torch.bfloat16), rtol=0, atol=0)  # one rounding, at the end


def gradients(vggt, images):
    vggt.zero_grad()
    tokens, _ = vggt.aggregate(images, [1, 2])
    (tokens[1].square().mean() + tokens[2].square().mean()).backward()
    return {name: values.grad.clone() for name, values in vggt.named_parameters()}


def test_gradient_checkpointing_gives_the_same_gradients():
    vggt, images, runs = small().train(), random_images(1, 2, 3, 14, 21), []
    vggt.aggregator.global_blocks[1].mlp.register_forward_hook(lambda *given: runs.append(1))
    assert not vggt.gradient_checkpointing
    plain = gradients(vggt, images)
    assert len(runs) == 1
    vggt.gradient_checkpointing = True
    assert vggt.gradient_checkpointing
    again = gradients(vggt, images)
    assert len(runs) == 3  # once forward, once more on the way back
    assert all(values.abs().max() > 0 for values in plain.values())
    for name, values in plain.items():
        torch.testing.assert_close(again[name], values, rtol=1e-5, atol=1e-8)
    gradients(vggt.eval(), images)
    assert len(runs) == 4  # not outside of training


def test_the_same_seed_gives_the_same_weights():
    one, same, other = small(3).state_dict(), small(3).state_dict(), small(4).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    name = "aggregator.frame_blocks.0.mlp.fc1.weight"
    assert not torch.equal(one[name], other[name])
    # 16 * 64 normal numbers: their deviation is known to 2 %
    assert float(one[name].std()) == pytest.approx(0.02 * (1024 / 16) ** 0.5, rel=0.1)
    assert not one["aggregator.frame_blocks.0.mlp.fc1.bias"].any()


def test_a_cnn_gives_a_token_a_patch_and_sees_over_its_edges():
    encoder = small(patch_embed="cnn", patch_size=8).aggregator.patch_embed
    images = random_images(2, 3, 24, 40).requires_grad_()
    tokens = encoder(images)
    assert tokens.shape == (2, 15, 16)
    tokens[1, 7].sum().backward()  # the patch in the middle: rows 8 to 15, columns 16 to 23
    seen = images.grad[1].abs().sum(0) > 0
    assert seen[8:16, 16:24].all()
    assert seen[7, 16:24].any()
    assert not images.grad[0].any()


def test_layer_scale_starts_where_the_config_says():
    for start in (0.01, 1.0):
        trunk = small(layer_scale=start).aggregator
        factors = [scale for name, scale in trunk.named_parameters() if name.endswith("gamma")]
        assert len(factors) == 2 * 2 * SMALL.depth
        assert all((scale == start).all() for scale in factors)


@pytest.mark.parametrize("config", [SMALL, VggtConfig(heads=["depth"]), VggtConfig()])
def test_a_config_survives_json(config):
    assert VggtConfig(**json.loads(json.dumps(asdict(config)))) == config
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "depth must be positive, got 0"),
        ({"num_register_tokens": 0}, "num_register_tokens must be positive"),
        ({"embed_dim": 18}, "embed_dim must be a multiple of 8"),
        ({"num_heads": 8}, "each head needs a multiple of 4 channels"),
        ({"patch_embed": "resnet"}, "'resnet' is not known; choose from dinov2_vits14_reg"),
        ({"patch_embed": "cnn"}, r"patch_size must be one of \(2, 4, 8, 16, 32\) with patch_embed 'cnn', got 7"),
        ({"layer_scale": 0}, "layer_scale must be a positive number, got 0"),
        ({"patch_embed": "dinov2_vits14_reg"}, "embed_dim must be 384 with patch_embed 'dinov2_vits14_reg', got 16"),
        (
            {"patch_embed": "dinov2_vits14_reg", "embed_dim": 384, "num_heads": 6, "img_size": 520},
            "img_size 520 is not a multiple of patch_size 7",
        ),
        ({"heads": ("camera", "track")}, "heads may hold each of camera, depth, point once"),
        ({"heads": ("depth", "depth")}, "heads may hold each of camera, depth, point once"),
        ({"heads": ("camera",), "camera_num_heads": 5}, "2 \\* embed_dim divisible by its heads"),
        ({"heads": ("depth",)}, r"dense_layers must be four blocks from 0 to 2, got \(4, 11, 17, 23\)"),
        ({"heads": ("point",), "dense_layers": (0, 1, 2)}, "dense_layers must be four"),
        ({"heads": ("point",), "dense_layers": (0, 1, 1, 2), "dense_channels": (4, 6, 8, 8)}, "multiples of 4"),
        ({"heads": ("point",), "dense_layers": (0, 1, 1, 2), "dense_features": 20}, "multiple of 8, got 20"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 14, 14), r"images must be \(clips, frames, 3, height, width\).*got \(2, 3, 14, 14\)"),
        ((1, 2, 1, 14, 14), r"got \(1, 2, 1, 14, 14\)"),
        ((1, 0, 3, 14, 14), "at least one clip of one frame"),
        ((0, 2, 3, 14, 14), "at least one clip of one frame"),
        ((1, 2, 3, 14, 10), "multiples of the patch size 7, got 14x10"),
    ],
)
def test_images_that_cannot_be_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        small().aggregate(torch.zeros(shape), [0])


def test_images_of_bytes_are_refused():
    with pytest.raises(ValueError, match=r"floating-point RGB in \[0, 1\], got .* of torch.uint8"):
        small().aggregate(torch.zeros(1, 1, 3, 14, 14, dtype=torch.uint8), [0])


@pytest.mark.parametrize("layers", [[], [3], [-1, 0]])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(ValueError, match="layers must be some of the blocks 0 to 2"):
        small().aggregate(random_images(1, 1, 3, 7, 7), layers)
