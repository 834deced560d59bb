"""What is loaded into a module is whole, or one error says what does not fit; what is saved is whole too."""

from __future__ import annotations

import os
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from gapmllm.model.weights import WeightFiles, load_weights, save_weights


class Tied(nn.Module):
    """A head tied to an embedding, a branch, a buffer that is saved and one that is not."""

    def __init__(self):
        super().__init__()
        self.model = nn.ModuleDict({"embed": nn.Embedding(6, 4), "merger": nn.Linear(4, 3)})
        self.lm_head = nn.Linear(4, 6, bias=False)
        self.lm_head.weight = self.model["embed"].weight
        self.register_buffer("scale", torch.full((2,), 3.0))
        self.register_buffer("rotary", torch.full((2,), 7.0), persistent=False)


EMBED, HEAD, WEIGHT, BIAS = "model.embed.weight", "lm_head.weight", "model.merger.weight", "model.merger.bias"


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {EMBED: torch.randn(6, 4), WEIGHT: torch.randn(3, 4), BIAS: torch.randn(3), "scale": torch.ones(2)}


@pytest.fixture
def loaded(tmp_path):
    """(tensors, options of load_weights) -> the module it filled."""

    def load(tensors, module=None, **options):
        module = module or Tied()
        save_file(tensors, tmp_path / "loaded.safetensors")
        files = WeightFiles.open(tmp_path / "loaded.safetensors")
        load_weights(module, files, **{"device": "cpu", **options})
        return module

    return load


def on_meta():
    with torch.device("meta"):
        return Tied()


def equal(module, tensors):
    state = module.state_dict()
    return all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("make", [Tied, on_meta])
def test_a_module_gets_all_of_its_tensors(loaded, tensors, make):
    module = make()
    module.model["merger"].requires_grad_(False)
    rotary = module.rotary
    loaded(tensors, module)
    assert equal(module, tensors)
    assert module.rotary is rotary  # no file holds it: whoever makes the module fills it
    assert [name for name, parameter in module.named_parameters() if parameter.requires_grad] == [EMBED]


@pytest.mark.parametrize("make", [Tied, on_meta])
@pytest.mark.parametrize("names", [[EMBED], [HEAD], [EMBED, HEAD]])
def test_either_name_of_a_tied_tensor_is_enough_and_the_tie_stays(loaded, tensors, make, names):
    embedding = tensors.pop(EMBED)
    module = make()
    loaded(tensors | {name: embedding.clone() for name in names}, module)
    assert module.lm_head.weight is module.model["embed"].weight
    assert torch.equal(module.lm_head.weight, embedding)


@pytest.mark.parametrize("names", [["merger"], ["model.merger"], ["merger", "model.merger"]])
def test_one_tensor_may_have_both_namings_of_the_released_checkpoints(loaded, tensors, names):
    weight, bias = tensors.pop(WEIGHT), tensors.pop(BIAS)
    bias[0] = torch.nan  # a NaN is equal to itself here
    for name in names:
        tensors |= {f"{name}.weight": weight.clone(), f"{name}.bias": bias.clone()}
    module = loaded(tensors, rename=lambda name: f"model.{name}" if name.startswith("merger") else name)
    assert torch.equal(module.model["merger"].weight, weight)
    assert torch.equal(module.model["merger"].bias[1:], bias[1:])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: (t, t + 1e-6),
        lambda t: (t, t.bfloat16()),
        lambda t: (t.half(), t.half().view(torch.bfloat16)),  # the same bytes
    ],
)
def test_two_names_with_different_contents_are_refused(loaded, tensors, change):
    tensors[EMBED], tensors[HEAD] = change(tensors[EMBED])
    with pytest.raises(ValueError, match=r"different contents .*\* \(1\): weight against .*weight$"):
        loaded(tensors)


def test_dtype_converts_floating_point_tensors_and_none_keeps_the_files(loaded, tensors):
    tensors[BIAS] = tensors[BIAS].half()
    module = loaded(tensors)
    assert (module.lm_head.weight.dtype, module.model["merger"].bias.dtype) == (torch.float32, torch.float16)
    module = loaded(tensors, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.bfloat16}


def test_a_tensor_may_be_left_aside(loaded, tensors):
    extra = {"track_head.weight": torch.ones(2)}
    module = loaded(tensors | extra, rename=lambda name: None if name.startswith("track_head.") else name)
    assert equal(module, tensors)
    with pytest.raises(ValueError, match=r"  unexpected: track_head.\* \(1\): weight"):
        loaded(tensors | extra)


def test_parts_that_may_be_missing_stay_as_they_are(loaded, tensors):
    module = Tied()
    before = module.model["merger"].weight.detach().clone()
    rest = {name: tensors[name] for name in (EMBED, "scale")}
    loaded(rest, module, optional=["model.merger"])
    assert equal(module, rest)
    assert torch.equal(module.model["merger"].weight, before)
    module = loaded(rest, on_meta(), optional=["model.merger"])
    assert [name for name, tensor in module.state_dict().items() if tensor.is_meta] == [WEIGHT, BIAS]
    with pytest.raises(ValueError, match="missing"):
        loaded(rest, optional=["model.merge"])  # a name, not the beginning of one


def test_a_part_of_which_some_is_there_may_not_lack_the_rest(loaded, tensors):
    del tensors[BIAS]
    with pytest.raises(ValueError, match=r"  missing: model.merger.\* \(1\): bias$"):
        loaded(tensors, optional=["model.merger"])


def test_all_that_does_not_fit_is_in_one_error_and_the_module_stays_as_it_was(loaded, tensors):
    module = Tied()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    wrong = {EMBED: torch.ones(7, 4), "scale": torch.ones(2, dtype=torch.int64), BIAS: tensors[BIAS]}
    extra = {f"head.{number}": torch.ones(1) for number in range(8)}
    with pytest.raises(ValueError, match="do not fit") as error:
        loaded(wrong | extra, module)
    assert str(error.value).splitlines()[1:] == [
        "  missing: model.merger.* (1): weight",
        "  unexpected: head.* (8): 0, 1, 2, 3, 4 and 3 more",
        "  wrong: model.embed.* (1): weight (7, 4) in the file, (6, 4) in the model",
        "  wrong: scale (1): scale torch.int64 in the file, torch.float32 in the model",
    ]
    assert equal(module, before)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda t: {f"module.{name}": tensor for name, tensor in t.items()}, "every name begins with 'module.'"),
        (lambda t: {f"encoder.{name}x": tensor for name, tensor in t.items()}, "the weights of another kind of model"),
        (lambda t: {name: torch.ones(9) for name in t}, "another model size than the configuration's"),
        (lambda t: t, "no tensor of the geometry encoder came with this checkpoint; download it again"),
    ],
)
def test_the_likely_cause_is_named(loaded, tensors, change, cause):
    module = Tied()
    module.geometry_encoder = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=f"  likely cause: {cause}"):
        loaded(change(tensors), module)


def test_no_cause_is_named_where_none_is_known(loaded, tensors):
    del tensors[BIAS]
    with pytest.raises(ValueError, match=r"bias$"):
        loaded(tensors)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_no_second_copy_of_the_module_is_held(tmp_path, tensors, monkeypatch, dtype):
    """Each tensor is in the module, as it was read, before the next is read; and it is read on the device asked for."""
    save_weights(tensors, tmp_path)
    module, files, read = on_meta(), WeightFiles.open(tmp_path), []
    original = files.tensor

    def held():
        return {tensor.data_ptr() for tensor in module.state_dict().values() if not tensor.is_meta}

    def watched(name, device, dtype):
        assert set(read) == held()
        tensor = original(name, device, dtype)
        assert str(device) == "cpu"
        read.append(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(files, "tensor", watched)
    load_weights(module, files, device="cpu", dtype=dtype)
    assert set(read) == held()
    assert len(read) == 4


# Out again


def test_a_save_is_read_by_plain_safetensors(tmp_path):
    module = Tied()
    save_weights(module.state_dict(), tmp_path / "new" / "folder")
    path = tmp_path / "new" / "folder" / "model.safetensors"
    saved = load_file(path)
    assert list(saved) == sorted([EMBED, WEIGHT, BIAS, "scale"])  # the tied head once, under its first name
    assert equal(module, saved)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_shards_are_as_full_as_they_may_be(tmp_path):
    sizes = {"a": 10, "b": 14, "c": 30, "d": 1}  # floats; a shard holds 24
    save_weights({name: torch.zeros(size) for name, size in sizes.items()}, tmp_path, max_shard_bytes=96)
    contents = [sorted(load_file(path)) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert contents == [["a", "b"], ["c"], ["d"]]


def test_turned_and_empty_tensors_are_saved(tmp_path):
    turned = torch.arange(6.0).reshape(2, 3).T
    save_weights({"a": turned, "b": torch.zeros(0), "c": torch.zeros(0)}, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert torch.equal(saved["a"], turned)
    assert set(saved) == {"a", "b", "c"}


@pytest.mark.parametrize(("first", "second"), [(60, 1e9), (1e9, 60), (60, 100), (100, 60)])
def test_a_later_save_replaces_an_earlier_one_whole(tmp_path, tensors, first, second):
    save_weights({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path, max_shard_bytes=first)
    save_weights(tensors, tmp_path, max_shard_bytes=second)
    module = Tied()
    load_weights(module, WeightFiles.open(tmp_path), device="cpu")
    assert equal(module, tensors)
    fresh = tmp_path / "fresh"
    save_weights(tensors, fresh, max_shard_bytes=second)
    assert {path.name for path in tmp_path.iterdir()} - {"fresh"} == {path.name for path in fresh.iterdir()}


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
@pytest.mark.parametrize("earlier", [100, 1e9])
def test_a_save_that_is_stopped_between_its_renames_leaves_no_mixture(tmp_path, tensors, monkeypatch, renames, earlier):
    save_weights({name: tensor * 0 for name, tensor in tensors.items()}, tmp_path, max_shard_bytes=earlier)
    replace, done = os.replace, []

    def stop(source, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(replace(source, target))

    monkeypatch.setattr(os, "replace", stop)
    if renames < 3:  # two shards and the index
        with pytest.raises(KeyboardInterrupt):
            save_weights(tensors, tmp_path, max_shard_bytes=100)
    else:
        save_weights(tensors, tmp_path, max_shard_bytes=100)
    if renames < 3 and earlier == 100:
        with pytest.raises(ValueError, match=r"2 weight files \(.*\) and no model.safetensors.index.json"):
            WeightFiles.open(tmp_path)
    else:
        files = WeightFiles.open(tmp_path)
        new = renames == 3
        assert all(torch.equal(files.tensor(name), tensor * new) for name, tensor in tensors.items())


def test_a_module_can_be_saved_over_the_file_it_was_loaded_from(tmp_path, tensors):
    save_weights(tensors, tmp_path)
    module = on_meta()
    load_weights(module, WeightFiles.open(tmp_path), device="cpu")
    with torch.no_grad():
        module.model["merger"].bias += 1
    for _ in range(2):
        save_weights(module.state_dict(), tmp_path)
        assert equal(module, load_file(tmp_path / "model.safetensors"))
    assert torch.equal(module.model["merger"].bias, tensors[BIAS] + 1)


@pytest.mark.parametrize("shard", [1e9, 5000])
def test_a_full_disk_leaves_the_old_files_whole(tmp_path, tensors, shard):
    save_weights(tensors, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # no file may grow further, as on a full disk
    try:
        with pytest.raises(OSError, match=r"cannot write the weights \(.*\); what was there before is whole"):
            save_weights({"small": torch.ones(1000), "large": torch.ones(5000)}, tmp_path, max_shard_bytes=shard)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
