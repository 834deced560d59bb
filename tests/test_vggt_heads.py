"""VGGT's camera, depth and point heads: golden numbers, numbers by hand, the whole of `Vggt`."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gapmllm.geometry import decode_cameras
from gapmllm.model.vggt import Vggt, VggtConfig, camera_head, dense_head
from gapmllm.model.vggt.dense_head import ResidualUnit, add_positions, inverse_log

SMALL = VggtConfig(
    patch_size=7,
    embed_dim=16,
    depth=5,
    num_heads=2,
    patch_embed="conv",
    heads=("camera", "depth", "point"),
    camera_depth=1,
    camera_num_heads=2,
    dense_layers=(0, 1, 2, 3),
    dense_channels=(8, 8, 16, 16),
    dense_features=16,
)
SIZES = ("56x84", "70x56")
CASES = [(size, rule) for rule in "AB" for size in SIZES]
# The golden README, section 6: depth and points hardly vary under rule A.
TOLERANCE = {"A": {"depth": 1e-6, "world_points": 1e-6}, "B": {}}


def small(**changes):
    torch.manual_seed(0)
    return Vggt(replace(SMALL, **changes))


def random_images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def golden_heads(golden, golden_json, golden_weights):
    """Size and rule -> what the heads give for the stored tokens, and the stored answers."""
    stated, models = golden_json("vggt_heads_small/heads.json"), {}
    dense = stated["config"]["depth_head"]
    config = VggtConfig(
        embed_dim=dense["dim_in"] // 2,
        depth=4,
        num_heads=6,
        patch_embed="conv",
        heads=tuple(SMALL.heads),
        camera_depth=stated["config"]["camera_head"]["trunk_depth"],
        camera_num_heads=stated["config"]["camera_head"]["num_heads"],
        dense_layers=tuple(dense["intermediate_layer_idx"]),
        dense_channels=tuple(dense["out_channels"]),
        dense_features=dense["features"],
    )

    def run(size, rule):
        if rule not in models:
            with torch.device("meta"):
                models[rule] = Vggt(config)
            for part, names in stated["state_dict"].items():
                weights = {name.removeprefix(f"{part}."): w for name, w in golden_weights(names, rule).items()}
                models[rule].get_submodule(part).load_state_dict(weights, assign=True)
        stored = np.load(golden / f"vggt_aggregator_small/vits_{size}.npz")
        levels = [torch.from_numpy(stored[f"aggregated_tokens_{layer}"]) for layer in range(4)]
        pixels = stored["images"].shape[-2:]
        with torch.no_grad():
            encodings = models[rule].camera_head(levels[-1][:, :, 0])
            given = {f"pose_enc_iter{number}": values for number, values in enumerate(encodings)}
            given["depth"], given["depth_conf"] = models[rule].depth_head(levels, pixels)
            given["world_points"], given["world_points_conf"] = models[rule].point_head(levels, pixels)
        expected = np.load(golden / f"vggt_heads_small/vits_heads_{size}_rule{rule}.npz")
        assert set(given) == set(expected)
        return {name: (values.numpy(), expected[name]) for name, values in given.items()}

    return run


@pytest.mark.parametrize(("size", "rule"), CASES)
def test_heads_equal_the_golden_numbers(golden_heads, size, rule):
    for name, (given, expected) in golden_heads(size, rule).items():
        np.testing.assert_allclose(given, expected, rtol=0, atol=TOLERANCE[rule].get(name, 3e-5), err_msg=name)


def plain_skip(self, features):
    return features + self.conv2(self.conv1(features.relu()).relu())


def corners_apart(features, size):
    return torch.nn.functional.interpolate(features, tuple(size), mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (ResidualUnit, "forward", plain_skip),
        (dense_head, "add_positions", lambda features, size: features),
        (dense_head, "resize", corners_apart),
        (dense_head, "POSITION_BASE", 10000.0),
    ],
)
def test_a_wrong_dense_head_breaks_the_golden_test(golden_heads, monkeypatch, owner, name, wrong):
    monkeypatch.setattr(owner, name, wrong)
    given, expected = golden_heads("56x84", "B")["world_points"]
    assert np.abs(given - expected).max() > 1e-3


def test_a_camera_head_of_three_rounds_breaks_the_golden_test(golden_heads, monkeypatch):
    monkeypatch.setattr(camera_head, "ITERATIONS", 3)
    with pytest.raises(AssertionError, match="pose_enc_iter3"):
        golden_heads("56x84", "B")


def test_points_grow_with_the_exponential_on_both_sides():
    # by hand: exp(ln 2) - 1 = 1, -(exp(ln 3) - 1) = -2
    values = inverse_log(torch.tensor([0.0, math.log(2), -math.log(3)]))
    assert values.tolist() == pytest.approx([0, 1, -2], abs=1e-6)


def test_positions_by_hand():
    # 30 x 40 pixels: the half diagonal is 25. Two cells by x: centres at -10 and 10 pixels, one by y: in the centre.
    added = add_positions(torch.zeros(1, 4, 1, 2), (30, 40))[0, :, 0]
    expected = [[-math.sin(0.4), math.sin(0.4)], [math.cos(0.4)] * 2, [0, 0], [1, 1]]
    np.testing.assert_allclose(added.numpy(), 0.1 * np.array(expected), atol=1e-7)


def test_a_residual_unit_adds_what_the_relu_leaves():
    unit = ResidualUnit(1)
    torch.nn.init.zeros_(unit.conv2.weight)
    torch.nn.init.zeros_(unit.conv2.bias)
    assert unit(torch.tensor([[[[-2.0, 3.0]]]])).flatten().tolist() == [0, 3]


def test_an_untrained_camera_looks_ahead_with_a_field_of_view_that_can_learn():
    vggt = small()
    encoding = vggt(random_images(1, 3, 3, 14, 21))["pose_encoding"]
    assert encoding[..., 7:].flatten().tolist() == pytest.approx([1] * 6, abs=0.3)
    camera_to_world, _ = decode_cameras(encoding.detach().numpy(), 14, 21)
    assert np.trace(camera_to_world[0, 0, :3, :3]) > 2.5  # nearly the identity, whose trace is 3
    encoding[..., 7:].sum().backward()
    assert vggt.camera_head.pose_branch.fc2.bias.grad[7:].tolist() == [3, 3]  # three frames, the last round


def test_vggt_gives_each_head_the_blocks_it_reads():
    vggt, images = small(), random_images(2, 3, 3, 14, 21)
    result = vggt(images)
    tokens, _ = vggt.aggregate(images, range(5))
    dense = [tokens[layer] for layer in (0, 1, 2, 3)]
    depth, confidence = vggt.depth_head(dense, (14, 21))
    points, points_confidence = vggt.point_head(dense, (14, 21))
    encodings = vggt.camera_head(tokens[4][:, :, 0])
    for name, expected, shape in (
        ("pose_encoding", encodings[3], (2, 3, 9)),
        ("depth", depth[..., 0], (2, 3, 14, 21)),
        ("depth_confidence", confidence, (2, 3, 14, 21)),
        ("points", points, (2, 3, 14, 21, 3)),
        ("points_confidence", points_confidence, (2, 3, 14, 21)),
    ):
        assert result[name].shape == shape
        torch.testing.assert_close(result[name], expected, rtol=0, atol=0)
    assert result["pose_encodings"][-1] is result["pose_encoding"]
    assert len(result["pose_encodings"]) == 4


@pytest.mark.parametrize(
    ("head", "names", "blocks"),
    [
        ("camera", {"pose_encoding", "pose_encodings"}, 5),
        ("depth", {"depth", "depth_confidence"}, 4),
        ("point", {"points", "points_confidence"}, 4),
    ],
)
def test_one_head_alone_answers_alone_and_runs_no_block_too_many(head, names, blocks):
    vggt, calls = small(heads=(head,)), []
    for block in vggt.aggregator.frame_blocks:
        block.register_forward_hook(lambda *given: calls.append(1))
    assert set(vggt(random_images(1, 1, 3, 14, 14))) == names
    assert len(calls) == blocks


def test_frames_in_groups_equal_all_at_once(monkeypatch):
    vggt, images = small(), random_images(1, 5, 3, 14, 21)
    together = vggt(images)["points"]
    monkeypatch.setattr(dense_head, "FRAMES_AT_ONCE", 2)
    torch.testing.assert_close(vggt(images)["points"], together)


def test_all_heads_learn():
    vggt, images = small().train(), random_images(1, 2, 3, 14, 21)
    vggt.gradient_checkpointing = True
    result = vggt(images)
    losses = [result[name].mean() for name in ("depth", "depth_confidence", "points", "points_confidence")]
    (sum(losses) + sum(encoding.square().mean() for encoding in result["pose_encodings"])).backward()
    assert [name for name, values in vggt.named_parameters() if values.grad is None] == []


def test_rounds_learn_each_from_its_own_loss():
    head = small().camera_head
    start = head.empty_pose_tokens  # only the first round sees it
    first, second, *_ = head(torch.randn(1, 2, 32))
    (gradient,) = torch.autograd.grad(first.sum(), start, retain_graph=True)
    assert gradient.abs().max() > 0
    assert torch.autograd.grad(second.sum(), start, allow_unused=True) == (None,)


def test_bfloat16_answers_in_float32_and_close():
    vggt, images = small(), random_images(1, 2, 3, 28, 42)
    exact = vggt(images)
    rounded = vggt.to(torch.bfloat16)(images)
    for name in set(exact) - {"pose_encodings"}:
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name], exact[name], rtol=0.02, atol=0.04)


def test_a_model_without_heads_says_so():
    with pytest.raises(ValueError, match="this Vggt has no heads; build it with heads="):
        small(heads=())(random_images(1, 1, 3, 14, 14))
