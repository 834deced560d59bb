"""Gates by hand: those of a model whose gates are known, their picture, and their means over scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import LEVEL
from PIL import Image

from gapmllm.ablation import gates as ablation
from gapmllm.ablation.gates import gate_maps
from gapmllm.infer.gates import clip_gates
from gapmllm.model import build
from gapmllm.scenes.dataset import DatasetWriter
from gapmllm.scenes.images import encode_depth, encode_gray16, encode_image
from gapmllm.scenes.records import Frame, Scene, SceneObject
from gapmllm.viz.gates import gates_sheet

LEVELS = ["DeepStack 1 (VGGT 0)", "DeepStack 2 (VGGT 1)", "DeepStack 3 (VGGT 2)", "visual tokens (VGGT 3)"]
KNOWN = (0.2, 0.4, 0.6, 0.8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def known_gates():
    """A model whose gates are KNOWN, level by level, whatever it sees: sigmoid(ln(p / (1 - p))) = p."""
    model = build("debug")
    for fusion, gate in zip((*model.deepstack_feature_fusion_list, model.feature_fusion), KNOWN, strict=True):
        linear = fusion.gate_projection[0]
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.fill_(float(np.log(gate / (1 - gate))))
    return model


def striped_scene(name="stripes", frames=5, with_truth=True):
    """64x48 pixels, so 3x4 tokens of 16: from left to right two of wall at 1 m, floor at 3 m, a chair at 5 m."""
    ids, depth = (np.tile(np.repeat(values, 16), (48, 1)) for values in ([0, 0, 1, 2], [1, 1, 3, 5]))
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    truth = {"depth": encode_depth(depth, 1000), "instances": encode_gray16((ids + 1).astype(np.uint16))}
    frame = Frame(
        image=encode_image(picture, None),
        intrinsics=np.array([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]]),
        camera_to_world=LEVEL,
        **(truth if with_truth else {}),
    )
    objects = [
        SceneObject(id=number, label=label, center=np.zeros(3), size=np.ones(3))
        for number, label in enumerate(("wall", "floor", "chair"))
    ]
    return Scene(id=name, frames=(frame,) * frames, objects=tuple(objects), source="stripes")


def written(folder, *scenes):
    with DatasetWriter(folder, {"command": "test"}) as writer:
        for scene in scenes:
            writer.add(scene)
    return folder


def test_gates_that_are_known_come_out_under_the_names_of_their_levels(clip_of):
    model = known_gates()
    found = clip_gates(model, clip_of(model, frames=2))
    assert list(found) == LEVELS
    for gates, known in zip(found.values(), KNOWN, strict=True):
        np.testing.assert_allclose(gates, np.full((2, 3, 4), known), rtol=1e-6)
    main = build("debug", fusion_levels="main")
    assert list(clip_gates(main, clip_of(main))) == ["visual tokens (VGGT 3)"]


def test_a_gate_moves_most_where_the_picture_does():
    model = build("debug")
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    before = clip_gates(model, model.config.grid.prepare(list(frames)))
    frames[1, 32:48, 16:32] = (255, 0, 0)  # frame 1, token row 2 of 3, token column 1 of 4
    after = clip_gates(model, model.config.grid.prepare(list(frames)))
    for level in LEVELS:
        moved = np.abs(after[level] - before[level])
        assert np.unravel_index(moved.argmax(), moved.shape) == (1, 2, 1)


@pytest.mark.parametrize("fusion", ["add", "concat", "none"])
def test_a_model_without_gates_is_refused(fusion, clip_of):
    model = build("debug", fusion=fusion)
    with pytest.raises(ValueError, match=f'gates exist for fusion "gated" only; this model has "{fusion}"'):
        clip_gates(model, clip_of(model))


def test_the_sheet_bears_the_names_of_the_levels():
    frames, gates = [np.zeros((60, 300, 3), dtype=np.uint8)], np.zeros((1, 3, 4))
    plain, named, other = (gates_sheet(frames, levels) for levels in ([gates], {"main": gates}, {"other": gates}))
    np.testing.assert_array_equal(plain, named)
    assert other.shape == named.shape
    assert (other[:15, 304:] != named[:15, 304:]).any()  # the caption


def test_a_model_of_known_gates_gives_them_in_the_table_and_the_picture(tmp_path):
    known_gates().save_pretrained(tmp_path / "model")
    data = written(tmp_path / "set", striped_scene("a"), striped_scene("b", frames=2))
    rows = gate_maps(tmp_path / "model", data, "train", tmp_path / "gates.png")
    assert [row.pop("level") for row in rows] == LEVELS
    for row, known in zip(rows, KNOWN, strict=True):
        assert list(row) == ["gate", "5 %", "95 %", "wall", "floor", "object", "under 2 m", "over 4 m"]
        assert list(row.values()) == pytest.approx([known] * 8)
    picture = np.asarray(Image.open(tmp_path / "gates.png"))
    assert picture.shape[1:] == (5 * 300 + 4 * 4, 3)
    assert 3 * 225 < picture.shape[0] < 3 * 225 + 80  # three frames of 300x225, captions and legend
    # over the same frame viridis has the more green, the higher the gate
    green = [picture[100:200, 304 * column : 304 * column + 300, 1].mean() for column in range(1, 5)]
    assert np.diff(green).min() > 20


def test_means_go_by_what_covers_a_token_and_by_how_far_it_is(tmp_path, monkeypatch):
    # a gate of 0, 0.1, 0.2, 0.3 from left to right
    columns = np.broadcast_to(np.array([0, 0.1, 0.2, 0.3]), (4, 3, 4))
    monkeypatch.setattr(ablation, "clip_gates", lambda model, clip: {"main": columns[: clip.num_frames]})
    data = written(tmp_path / "set", striped_scene("a"), striped_scene("b", with_truth=False))
    assert gate_maps("debug", data, "train", tmp_path / "gates.png") == [
        {
            "level": "main",
            "gate": pytest.approx(0.15),
            "5 %": 0,
            "95 %": pytest.approx(0.3),
            "wall": pytest.approx(0.05),
            "floor": pytest.approx(0.2),
            "object": pytest.approx(0.3),
            "under 2 m": pytest.approx(0.05),
            "over 4 m": pytest.approx(0.3),
        }
    ]


def test_what_is_not_known_has_no_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "SCENES", 1)  # the second scene, which knows, is not looked at
    data = written(tmp_path / "set", striped_scene("a", with_truth=False), striped_scene("b"))
    for row in gate_maps("debug", data, "train", tmp_path / "gates.png"):
        assert [row[key] for key in ("wall", "floor", "object", "under 2 m", "over 4 m")] == [None] * 5
        assert 0 < row["5 %"] < row["gate"] < row["95 %"] < 1
