"""What `load` and `build` refuse: names, devices, fields and configs that cannot be, each with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gapmllm.model import GapMllmConfig, VggtConfig, build, load


@pytest.fixture(scope="module")
def small():
    return build("debug", seed=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "llava"}', r'model type "llava"; needed is "gapmllm" or "qwen3_vl"'),
        ("{", "is no JSON object"),
        ("[]", "is no JSON object"),
        ("\ufeff{}", "is no JSON object in plain UTF-8: Unexpected UTF-8 BOM"),
        ("a folder", r"config.json cannot be read: Is a directory"),
        (None, "holds no config.json"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path, text, message):
    if text == "a folder":
        (tmp_path / "config.json").mkdir()
    elif text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["nanoo", "/no/such/folder", "./a/b", "a/b/c"])
def test_a_name_that_is_nothing_is_told_what_there_is(name):
    with pytest.raises(ValueError, match=r"no model .* needed is a preset .debug, nano, qwen3-vl-2b"):
        load(name)


@pytest.mark.parametrize("name", [None, 3, True, "", "debug ", "a" * 5000, "\0"])
def test_what_is_no_name_is_told_what_there_is(name):
    with pytest.raises(ValueError, match=r"no model .* needed is a preset .debug, nano, qwen3-vl-2b"):
        load(name)


@pytest.mark.parametrize("name", ["a b/c", "a" * 5000 + "/b", "a/\udcff"])
def test_what_is_no_hub_id_is_refused_without_a_network(name):
    with pytest.raises(ValueError, match="is no folder here, and the hub could not give it"):
        load(name)


def test_a_preset_and_a_folder_of_its_name_are_not_mistaken(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("debug").mkdir()
    load("debug")  # a folder that holds no model is in nobody's way
    small.save_pretrained("debug")
    with pytest.raises(ValueError, match=r'debug is a preset and a folder here: load\("./debug"\).* rename'):
        load("debug")
    key = "geometry_merger.mlp.0.weight"
    for name in ("./debug", "debug/", Path("debug"), tmp_path / "debug"):
        assert torch.equal(load(name).state_dict()[key], small.state_dict()[key])
    with pytest.raises(ValueError, match="no model 'nano'"):
        load(Path("nano"))  # a path is never a preset


@pytest.mark.parametrize("make", [load, build])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bf16"}, "dtype 'bf16': choose from float32, bfloat16, float16, float64"),
        ({"dtype": torch.int32}, "dtype torch.int32: choose from float32"),
        ({"dtype": "nn"}, "dtype 'nn': choose from float32"),
        ({"device": "gpu"}, "device 'gpu' is not there; there is cpu"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not there; there is cpu"),
        ({"device": 1.5}, "device 1.5 is not there; there is cpu"),
    ],
)
def test_dtypes_and_devices_that_are_not_there_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make("debug", **options)


def test_weights_are_not_loaded_on_the_meta_device():
    with pytest.raises(ValueError, match='device "meta" holds no weights; build'):
        load("debug", device="meta")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fuson": "add"}, "no field 'fuson'; is 'fusion' meant"),
        ({"max_tokens": 3}, "no field 'max_tokens'; is 'max_frame_tokens' meant"),
        ({"zzz": 1}, "no field 'zzz'$"),
        ({"max_frame_tokens": 0}, "max_frame_tokens must be positive, got 0; a whole number is needed"),
        ({"max_frame_tokens": "12"}, "max_frame_tokens must be positive, got '12'"),
        ({"merger_hidden_size": True}, "merger_hidden_size must be positive, got True"),
        ({"geometry_layers": None}, "geometry_layers must be a list, got None"),
        ({"geometry_layers": [0, 1, 2, "3"]}, "rising block numbers from 0 to 3 are needed"),
        ({"geometry_config": {"foo": 1}}, "preset debug: this config cannot be used: TypeError: .*foo"),
        ({"text_config": {"hidden_size": "x"}}, "preset debug: this config cannot be used: .*hidden_size"),
    ],
)
def test_fields_that_cannot_be_are_refused_when_a_preset_is_built(fields, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build("debug", **fields)


@pytest.mark.parametrize("name", [None, ["debug"], Path("debug")])
def test_only_the_name_of_a_preset_is_built(name):
    with pytest.raises(ValueError, match=r"no preset .* choose from debug, nano"):
        build(name)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tie_word_embeddings", 1),  # the config's own check
        ("merger_hidden_size", None),
        ("geometry_layers", 3),
        ("geometry_config", "x"),
        ("geometry_config.heads", None),
        ("geometry_config.heads", [["camera"]]),
        ("geometry_config.patch_embed", ["conv"]),
        ("geometry_config.camera_num_heads", 0),
        ("text_config", []),
        ("text_config.hidden_size", -1),  # found where the modules are made, as are the next
        ("text_config.num_attention_heads", 0),
        ("text_config.rope_parameters", {"rope_type": "x"}),
        ("vision_config.patch_size", []),
        ("vision_config.deepstack_visual_indexes", None),
    ],
)
def test_a_config_that_cannot_be_is_one_error_with_its_path(small, tmp_path, path, value):
    values = small.config.to_dict()
    *above, last = path.split(".")
    (values[above[0]] if above else values)[last] = value
    file = tmp_path / "config.json"
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"^{file}: this config cannot be used: "):
        load(tmp_path)
    file.write_text(json.dumps(small.config.to_dict()))
    with pytest.raises(ValueError, match="no tokenizer"):  # without the change the config is right
        load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 1.5}, "depth must be positive, got 1.5; a whole number is needed"),
        ({"num_register_tokens": True}, "num_register_tokens must be positive, got True"),
        ({"embed_dim": float("nan")}, "embed_dim must be positive, got nan"),
        ({"img_size": None}, "img_size must be positive, got None"),
        ({"camera_num_heads": 0}, "camera_num_heads must be positive, got 0"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be a positive number, got nan"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio must be a positive number, got inf"),
        ({"mlp_ratio": "4"}, "mlp_ratio must be a positive number, got '4'"),
        ({"heads": "camera"}, "heads must be a list, got 'camera'"),
        ({"dense_channels": 3}, "dense_channels must be a list, got 3"),
        ({"heads": ["depth"], "dense_layers": [0, 1, 2, 3.0]}, "dense_layers must be four blocks"),
        ({"heads": ["depth"], "dense_channels": [8, 8, 8, True]}, "dense_channels must be four multiples of 4"),
    ],
)
def test_sizes_of_the_wrong_type_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        VggtConfig(**fields)
    with pytest.raises(ValueError, match=message):
        GapMllmConfig(geometry_config=fields)
