"""`load` opens what people have: presets, folders, released checkpoints in either naming, the two public ones."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

import gapmllm
from gapmllm.model import Vggt, VggtConfig, build, load, loading, save_released
from gapmllm.model.image_grid import to_patches
from gapmllm.model.presets import small_token_ids
from gapmllm.model.released import TWICE, released_config
from gapmllm.model.vggt.from_shapes import config_from_shapes


@pytest.fixture(scope="module")
def small():
    """What the released layout is written from and read into, at small size."""
    return build("debug", seed=3)


@pytest.fixture
def released(small, tmp_path):
    """Its folder, as `save_released` writes it."""
    save_released(small, tmp_path / "released")
    return tmp_path / "released"


def rename(folder, both):
    """Give the tensors their second name, instead of the first or besides it."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.startswith(TWICE)]:
        tensors[f"model.{name}"] = tensors[name].clone() if both else tensors.pop(name)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return tensors


def ask(model, clip):
    ids = torch.tensor([model.prompts.prefix([clip.tokens_per_frame] * clip.num_frames) + model.prompts.question("a")])
    with torch.no_grad():
        return ids, model(ids, [clip]).logits


def formulas(state, clip, ids, config):
    """The released model composed by hand: transformers' Qwen3-VL, our VGGT, the merger's and the gate's formulas."""
    plain = Qwen3VLConfig(
        text_config=config.text_config.to_dict(),
        vision_config=config.vision_config.to_dict(),
        image_token_id=config.image_token_id,
        tie_word_embeddings=True,
    )
    qwen = Qwen3VLForConditionalGeneration(plain).eval()
    qwen.load_state_dict({name: state[name] for name in qwen.state_dict()})
    vggt = Vggt(replace(config.vggt, heads=()))
    prefix = "geometry_encoder.vggt."
    vggt.load_state_dict({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)})
    seen = qwen.model.visual(to_patches(clip.visual, 8, 2), grid_thw=clip.grid_thw())
    layers, start = vggt.aggregate(clip.geometry[None], config.geometry_layers)

    def norm(x, name):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * state[
            f"{name}.weight"
        ] + state[f"{name}.bias"]

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def fused(visual, layer, merger, fusion):
        patches = layer[0, :, start:].unflatten(1, (clip.rows, 2, clip.cols, 2)).transpose(2, 3)
        patches = patches / (patches.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{merger}.ln_q.weight"]
        inner = linear(patches.flatten(3), f"{merger}.mlp.0")
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        geometry = linear(inner, f"{merger}.mlp.2").flatten(0, 2)
        a, b = norm(visual, f"{fusion}.norm1"), norm(geometry, f"{fusion}.norm2")
        gate = 1 / (1 + torch.exp(-linear(torch.cat([a, b], -1), f"{fusion}.gate_projection.0")))
        return gate * a + (1 - gate) * b

    numbers = config.geometry_layers
    main = fused(seen.pooler_output, layers[numbers[-1]], "geometry_merger", "feature_fusion")
    seen.deepstack_features = [
        [fused(v, layers[k], f"geometry_deepstack_merger_list.{i}", f"deepstack_feature_fusion_list.{i}")]
        for i, (v, k) in enumerate(zip(seen.deepstack_features, numbers, strict=False))
    ]
    seen.pooler_output = [main]
    slots = (ids == config.image_token_id).int()
    return qwen(ids, mm_encoder_outputs={"image": seen}, image_grid_thw=clip.grid_thw(), mm_token_type_ids=slots).logits


@pytest.mark.parametrize("naming", ["one", "other", "both"])
def test_a_released_checkpoint_gives_the_logits_of_the_formulas(small, released, clip_of, naming):
    if naming != "one":
        rename(released, both=naming == "both")
    model = load(released)
    assert model.config.image_grid == "fit"  # as `save_released` noted; without its note it is the released inference's
    clip = clip_of(small)
    ids, logits = ask(model, clip)
    state = load_file(released / "model.safetensors")
    state = {name.removeprefix("model.") if name[6:].startswith(TWICE) else name: t for name, t in state.items()}
    state |= {"lm_head.weight": state["model.language_model.embed_tokens.weight"]}
    with torch.no_grad():
        expected = formulas(state, clip, ids, small.config)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert logits.std() > 0.01


def test_a_released_config_without_our_note_is_the_one_of_vggt_1b(released):
    values = json.loads((released / "config.json").read_text())
    assert values["model_type"] == "qwen3_vl"
    assert values["architectures"] == ["Qwen3VLForConditionalGenerationWithVGGT"]
    assert values["feature_fusion_method"] == "gated"
    del values["gapmllm"]
    with pytest.raises(ValueError, match="geometry_layers"):  # the small tower has its own number of levels
        released_config(values | {"vision_config": values["vision_config"] | {"deepstack_visual_indexes": [0, 1]}})
    config = released_config(values)
    assert config.vggt == VggtConfig()
    assert config.geometry_layers == [4, 11, 17, 23]
    assert config.image_grid == "released-inference"
    with pytest.raises(ValueError, match="reference_frame is 'last'; released checkpoints have 'first'"):
        released_config(values | {"reference_frame": "last"})


def test_shards_and_the_released_layout_come_back_the_same(small, released, tmp_path):
    tensors = load_file(released / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for shard in range(3):
        part = {name: tensors[name] for name in names[shard::3]}
        file = f"model-{shard + 1:05}-of-00003.safetensors"
        save_file(part, released / file)
        weight_map |= dict.fromkeys(part, file)
    (released / "model.safetensors").unlink()
    (released / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    model = load(released)
    save_released(model, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == json.loads(
        (released / "config.json").read_text()
    )


def test_what_save_pretrained_wrote_is_loaded(small, clip_of, tmp_path):
    small.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.config.to_dict() == small.config.to_dict() | {"architectures": ["GapMllm"]}
    assert torch.equal(ask(model, clip_of(small))[1], ask(small, clip_of(small))[1])
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    half = load(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_a_damaged_released_checkpoint_is_told_in_one_error(released):
    tensors = load_file(released / "model.safetensors")
    name = "feature_fusion.gate_projection.0.weight"
    save_file(
        {k: t for k, t in tensors.items() if k != name} | {"stranger": torch.ones(2)}, released / "model.safetensors"
    )
    with pytest.raises(ValueError, match=r"(?s)gate_projection.*stranger"):
        load(released)
    save_file(tensors | {name: torch.ones(3, 4)}, released / "model.safetensors")
    with pytest.raises(ValueError, match=r"3.*4"):
        load(released)
    save_file(
        {k: t for k, t in tensors.items() if not k.startswith("geometry_encoder")}, released / "model.safetensors"
    )
    with pytest.raises(ValueError, match=r"no tensor of the geometry encoder came with this checkpoint; download"):
        load(released)
    data = (released / "model.safetensors").read_bytes()
    (released / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load(released)


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """Two folders as the public checkpoints are: a plain Qwen3-VL and a VGGT with heads and a tracker, small."""
    folder = tmp_path_factory.mktemp("public")
    small = build("debug", fusion="none", seed=4)
    ids = small_token_ids()
    ids.pop("vocab_size")
    config = Qwen3VLConfig(
        text_config=small.config.text_config.to_dict(),
        vision_config=small.config.vision_config.to_dict(),
        tie_word_embeddings=True,
        **ids,
    )
    qwen = Qwen3VLForConditionalGeneration(config)
    qwen.load_state_dict(small.state_dict())
    qwen.save_pretrained(folder / "qwen")
    small.prompts.tokenizer.save_pretrained(folder / "qwen")
    torch.manual_seed(0)
    vggt = Vggt(
        VggtConfig(
            patch_embed="conv",
            patch_size=7,
            embed_dim=48,
            num_heads=4,
            heads=("camera", "depth"),
            camera_num_heads=4,
            dense_channels=(8, 8, 8, 8),
            dense_features=8,
            camera_depth=1,
        )
    )
    (folder / "vggt").mkdir()
    save_file(vggt.state_dict() | {"track_head.x": torch.ones(2)}, folder / "vggt" / "model.safetensors")
    return folder, qwen, vggt


def test_stage_1_starts_from_the_two_public_checkpoints(public, clip_of):
    folder, qwen, vggt = public
    model = load(folder / "qwen", geometry=folder / "vggt")
    assert model.config.vggt.heads == ("camera", "depth")
    assert model.config.geometry_layers == [4, 11, 17, 23]
    state = model.state_dict()
    for name, tensor in qwen.state_dict().items():
        assert torch.equal(state[name], tensor), name
    for name, tensor in vggt.state_dict().items():
        assert torch.equal(state[f"geometry_encoder.vggt.{name}"], tensor), name
    again = load(folder / "qwen", geometry=folder / "vggt" / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert model.feature_fusion.gate_projection[0].weight.std() > 0.01
    _, logits = ask(model, clip_of(model))
    assert logits.isfinite().all()


def test_what_is_missing_for_stage_1_is_said(public, tmp_path):
    folder, *_ = public
    with pytest.raises(ValueError, match=r'(?s)is a plain Qwen3-VL.*geometry="facebook/VGGT-1B"'):
        load(folder / "qwen")
    with pytest.raises(ValueError, match=r"qwen/model.safetensors: these are not the weights of a VGGT"):
        load(folder / "qwen", geometry=folder / "qwen")
    for geometry in (tmp_path / "nothing", "", 3, "debug"):
        with pytest.raises(ValueError, match=r"no model .*: needed is a folder or file with the weights of a VGGT"):
            load(folder / "qwen", geometry=geometry)
    with pytest.raises(
        ValueError, match=r'qwen3-vl-2b starts from two public checkpoints: .*geometry="facebook/VGGT-1B"'
    ):
        load("qwen3-vl-2b")
    with pytest.raises(ValueError, match="debug brings its own geometry encoder; leave out geometry='x'"):
        load("debug", geometry="x")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_a_dtype_has_two_names(dtype):
    assert load("debug", device="cpu", dtype=dtype).dtype == torch.bfloat16
    assert build("debug", dtype=dtype).dtype == torch.bfloat16


def test_presets(clip_of):
    model = gapmllm.load("debug", device="cpu")
    clip = clip_of(model)
    assert torch.equal(ask(model, clip)[1], ask(build("debug"), clip)[1])  # the same every time
    other = load("debug", device="cpu", seed=1)
    assert torch.equal(ask(other, clip)[1], ask(build("debug", seed=1), clip)[1])
    assert not torch.equal(ask(other, clip)[1], ask(model, clip)[1])
    with pytest.raises(ValueError, match="no preset 'mini'; choose from debug, nano"):
        build("mini")


def test_weights_in_the_package_come_before_random_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "FOLDER", tmp_path)
    with pytest.warns(UserWarning, match="no trained weights of nano are in this package: its weights are random"):
        load("nano", device="cpu")
    trained = build("debug", seed=5)
    trained.save_pretrained(tmp_path / "debug")
    key = "geometry_merger.mlp.0.weight"
    assert torch.equal(load("debug", device="cpu").state_dict()[key], trained.state_dict()[key])


@pytest.mark.parametrize("fields", [{"fusion": "weighted"}, {"fusion": "add", "fusion_levels": "main"}])
def test_stage_1_may_start_with_another_fusion(public, clip_of, fields):
    folder, *_ = public
    model = load(folder / "qwen", geometry=folder / "vggt", dtype="bfloat16", **fields)
    assert {name: getattr(model.config, name) for name in fields} == fields
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    tables = {name: buffer for name, buffer in model.named_buffers() if "inv_freq" in name}
    assert tables
    for name, buffer in build("debug", fusion="none").named_buffers():  # rotary tables keep their precision
        torch.testing.assert_close(tables[name], buffer)
    assert ask(model, clip_of(model))[1].isfinite().all()


def test_stage_1_without_geometry_needs_none(public, clip_of):
    folder, qwen, _ = public
    model = load(folder / "qwen", fusion="none")
    assert model.state_dict().keys() == qwen.state_dict().keys()
    assert ask(model, clip_of(model))[1].isfinite().all()
    with pytest.raises(ValueError, match=r'fusion "none" has no geometry encoder; leave out geometry='):
        load(folder / "qwen", geometry=folder / "vggt", fusion="none")
    with pytest.raises(ValueError, match=r"no field 'fuson'; is 'fusion' meant\?"):
        load(folder / "qwen", geometry=folder / "vggt", fuson="add")
    with pytest.raises(ValueError, match="debug brings its own config; leave out fusion"):
        load("debug", fusion="add")


def test_the_full_size_lives_on_the_meta_device():
    model = build("qwen3-vl-2b", device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    names = set(model.state_dict())
    assert {"lm_head.weight", "geometry_merger.ln_q.weight", "feature_fusion.gate_projection.0.bias"} <= names
    assert model.geometry_merger.mlp[0].weight.shape == (4096, 8192)
    assert model.geometry_merger.mlp[2].weight.shape == (2048, 4096)


def test_a_vggt_tells_its_sizes_by_its_shapes():
    for heads in ((), ("camera", "depth", "point")):
        config = VggtConfig(heads=heads)
        with torch.device("meta"):
            shapes = {name: tuple(tensor.shape) for name, tensor in Vggt(config).state_dict().items()}
        assert config_from_shapes(shapes) == config
    small = config_from_shapes(small_shapes(patch_embed="cnn", patch_size=16))
    assert (small.patch_embed, small.patch_size, small.img_size) == ("cnn", 16, 112)


def small_shapes(**fields):
    config = VggtConfig(**{"embed_dim": 48, "num_heads": 4, "patch_embed": "conv", "img_size": 112, **fields})
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Vggt(config).state_dict().items()}


@pytest.mark.parametrize(
    ("depth", "layers"),
    [(24, (4, 11, 17, 23)), (4, (0, 1, 2, 3)), (12, (2, 5, 8, 11)), (48, (9, 23, 35, 47)), (2, (0, 0, 1, 1))],
)
def test_the_heads_of_a_vggt_of_any_depth_read_blocks_that_exist(depth, layers):
    shapes = small_shapes(depth=depth, heads=("depth",), dense_layers=(0, 0, 0, 0), dense_channels=(8, 8, 8, 8))
    assert config_from_shapes(shapes).dense_layers == layers


@pytest.mark.parametrize(
    ("sizes", "heads"),
    [({"embed_dim": 48, "num_heads": 4}, 16), ({"embed_dim": 36, "num_heads": 3}, 6)],  # 72 / 12 channels
)
def test_the_camera_head_has_16_attention_heads_where_it_can(sizes, heads):
    shapes = small_shapes(**sizes, depth=1, heads=("camera",), camera_num_heads=heads, dense_layers=(0, 0, 0, 0))
    assert config_from_shapes(shapes).camera_num_heads == heads


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("aggregator.register_token", ()),
        ("aggregator.register_token", (3,)),
        ("aggregator.register_token", (1, 2, 4, 0)),
        ("aggregator.frame_blocks.0.attn.q_norm.weight", ()),
        ("aggregator.frame_blocks.0.attn.q_norm.weight", (0,)),
        ("aggregator.frame_blocks.0.mlp.fc1.weight", (0, 48)),
        ("aggregator.patch_embed.proj.weight", ()),
        ("aggregator.patch_embed.pos_embed", ()),
        ("camera_head.x", (1,)),
    ],
)
def test_shapes_that_no_vggt_has_are_refused(name, shape):
    shapes = small_shapes(depth=1, dense_layers=(0, 0, 0, 0))
    assert config_from_shapes(shapes).embed_dim == 48
    with pytest.raises(ValueError, match=r"these are not the weights of a VGGT: .* Needed are the tensors of"):
        config_from_shapes({**shapes, name: shape})


def test_a_shallow_vggt_is_read_where_its_heads_read(public, tmp_path):
    folder, *_ = public
    vggt = Vggt(VggtConfig(patch_embed="conv", patch_size=7, embed_dim=48, num_heads=4, depth=5))
    save_file(vggt.state_dict(), tmp_path / "small.safetensors")
    assert load(folder / "qwen", geometry=tmp_path / "small.safetensors").config.geometry_layers == [1, 2, 3, 4]
