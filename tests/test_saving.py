"""What a model saves replaces what was there as a whole, and is what `load` and `from_pretrained` bring back."""

from __future__ import annotations

import contextlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from gapmllm.model import GapMllm, GapMllmConfig, build, load, save_released

KEY = "geometry_merger.mlp.0.weight"


@pytest.fixture(scope="module")
def models():
    return build("debug", seed=1), build("debug", seed=2)


def single(model, folder):
    model.save_pretrained(folder)


def shards(model, folder):
    model.save_pretrained(folder, max_shard_size="2MB")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("first", "second"), [(single, shards), (shards, single), (shards, save_released), (save_released, shards)]
)
def test_a_later_save_replaces_an_earlier_one_in_any_layout(models, tmp_path, first, second):
    old, new = models
    first(old, tmp_path / "a")
    second(new, tmp_path / "a")
    second(new, tmp_path / "fresh")
    assert names(tmp_path / "a") == names(tmp_path / "fresh")
    state, again = new.state_dict(), load(tmp_path / "a").state_dict()
    assert all(torch.equal(again[name], state[name]) for name in again)
    assert not torch.equal(again[KEY], old.state_dict()[KEY])


def test_the_files_of_a_save(models, tmp_path):
    single(models[0], tmp_path / "a")
    small = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert set(small) < set(names(tmp_path / "a"))
    shards(models[0], tmp_path / "b")
    sizes = [path.stat().st_size for path in (tmp_path / "b").glob("*.safetensors")]
    assert len(sizes) > 1
    assert max(sizes) < 2e6 + 50_000  # tensors and a header
    assert models[0].config.architectures is None  # saving changes nothing in the model


@pytest.mark.parametrize("save", [single, save_released])
def test_generation_config_and_dtype_are_kept(tmp_path, save):
    model = build("debug", dtype="bfloat16")
    model.generation_config.max_new_tokens = 7
    save(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    again = load(tmp_path)
    assert (again.generation_config.max_new_tokens, again.generation_config.eos_token_id) == (7, 2)
    if save is single:
        assert GapMllm.from_pretrained(tmp_path).generation_config.max_new_tokens == 7
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"generation_config.json: .* cannot be used"):
        load(tmp_path)


def test_arguments_do_something_or_are_refused(models, tmp_path):
    model = models[0]
    model.save_pretrained(tmp_path / "a", is_main_process=False)
    assert not (tmp_path / "a").exists()
    doubled = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "a", state_dict=doubled)
    assert torch.equal(load_file(tmp_path / "a" / "model.safetensors")[KEY], 2 * model.state_dict()[KEY])
    with pytest.raises(TypeError, match="variant"):
        model.save_pretrained(tmp_path / "b", variant="fp16")


@pytest.mark.parametrize("size", [0, -1, "", "GB", "5 gigabytes", None, True, 1.5])
def test_shard_sizes_that_cannot_be_are_refused(models, tmp_path, size):
    with pytest.raises(ValueError, match=r"max_shard_size .* bytes are needed"):
        models[0].save_pretrained(tmp_path / "a", max_shard_size=size)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("save", [single, save_released])
def test_a_save_that_cannot_be_is_refused_at_once(models, tmp_path, save):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"file.*: this, or what is above it, is a file; name a folder"):
            save(models[0], path)
    with pytest.raises(ValueError, match="no weights to save: it is on the meta device"):
        save(build("debug", device="meta"), tmp_path / "new")
    assert names(tmp_path) == ["file"]


def test_a_save_that_fails_beside_the_weights_leaves_the_old_files_whole(models, tmp_path, monkeypatch):
    old, new = models
    single(old, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(new.prompts.tokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match=r"No space left.*what was there before is whole"):
        single(new, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_have_the_mode_that_new_files_have(models, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        shards(models[0], tmp_path / "a")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "a").iterdir()} == {mode}


# transformers' way in


def test_from_pretrained_is_strict(models, tmp_path):
    single(models[0], tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    model, info = GapMllm.from_pretrained(tmp_path, output_loading_info=True)
    assert torch.equal(model.state_dict()[KEY], tensors[KEY])
    assert not info["missing_keys"]
    del tensors["feature_fusion.norm1.bias"]
    save_file(tensors | {KEY: torch.ones(3, 4)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"2 tensors .* another shape: feature_fusion.norm1.bias, {KEY}"):
        GapMllm.from_pretrained(tmp_path)


def test_from_pretrained_is_for_folders_of_its_own(models, tmp_path):
    save_released(models[0], tmp_path)
    for read in (GapMllm.from_pretrained, GapMllmConfig.from_pretrained):
        with pytest.raises(ValueError, match=r'model type "qwen3_vl", "gapmllm" is needed here; gapmllm.load opens'):
            read(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(models, tmp_path):
    single(models[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    text = config["text_config"]

    def write(**values):
        (tmp_path / "config.json").write_text(json.dumps(config | values))

    write(image_token_id=17, text_config=text | {"vocab_size": 900})
    with pytest.raises(ValueError, match="not of one model") as error:
        load(tmp_path)
    assert str(error.value).splitlines()[1:] == [
        "  <|image_pad|> is 5 in the tokenizer, image_token_id is 17 in the config",
        "  the tokenizer has ids up to 986, the config a vocab_size of 900",
    ]
    write(vision_end_token_id=3)
    with pytest.raises(ValueError, match=r"vision_end\|> is 4 in the tokenizer, vision_end_token_id is 3"):
        GapMllm.from_pretrained(tmp_path)


@pytest.mark.parametrize("stop", range(8))
@pytest.mark.parametrize(("first", "second"), [(single, single), (single, shards), (shards, single)])
def test_a_stopped_save_opens_as_the_old_or_the_new_model_or_not(models, tmp_path, monkeypatch, first, second, stop):
    """Stopped before each rename: never one model's config with the other's weights."""
    old, new = models[0], build("debug", seed=2, max_frame_tokens=6)
    first(old, tmp_path)
    replace, done = os.replace, []

    def stopping(source, target):
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopping)
    with contextlib.suppress(KeyboardInterrupt):
        second(new, tmp_path)
    monkeypatch.undo()
    try:
        model = load(tmp_path)
    except ValueError:
        return
    whole = new if model.config.max_frame_tokens == 6 else old
    assert torch.equal(model.state_dict()[KEY], whole.state_dict()[KEY])
    assert model.config.max_frame_tokens == whole.config.max_frame_tokens


def test_tensors_of_something_else_do_not_replace_a_save(models, tmp_path):
    single(models[0], tmp_path)
    state = models[0].state_dict()
    half = dict(list(state.items())[: len(state) // 2])
    for wrong in ({}, half, {f"module.{name}": tensor for name, tensor in state.items()}):
        with pytest.raises(ValueError, match=r"state_dict must hold this model's tensors; \d+ differ"):
            models[1].save_pretrained(tmp_path, state_dict=wrong)
    assert torch.equal(load(tmp_path).state_dict()[KEY], state[KEY])
    models[1].save_pretrained(tmp_path, state_dict={name: t for name, t in state.items() if name != "lm_head.weight"})
    assert torch.equal(load(tmp_path, device="cpu:0").state_dict()[KEY], state[KEY])
