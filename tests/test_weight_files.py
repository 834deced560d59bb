"""Damaged and foreign weight files are refused with a reason, code in them is not run, the others are read."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from gapmllm.model.weights import WeightFiles, save_weights

EMBED, BIAS = "model.embed.weight", "model.merger.bias"


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {
        EMBED: torch.randn(6, 4),
        "model.merger.weight": torch.randn(3, 4),
        BIAS: torch.randn(3),
        "scale": torch.ones(2),
    }


def test_shapes_and_dtypes_are_known_without_reading_tensors(tmp_path, tensors):
    save_weights({**tensors, "half": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(5)}, tmp_path)
    files = WeightFiles.open(tmp_path)
    assert files.shapes[EMBED] == (6, 4)
    assert files.shapes["count"] == ()
    assert (files.dtypes["half"], files.dtypes["count"]) == (torch.bfloat16, torch.int64)
    assert torch.equal(files.tensor(EMBED), tensors[EMBED])
    assert files.tensor(EMBED, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert files.tensor("count", dtype=torch.bfloat16).dtype == torch.int64


@pytest.mark.parametrize(
    "name", ["model.safetensors", "other.safetensors", "pytorch_model.bin", "model.pt", "weights.bin"]
)
def test_a_folder_opens_by_the_file_it_holds(tmp_path, tensors, name):
    (save_file if name.endswith(".safetensors") else torch.save)(tensors, tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        files = WeightFiles.open(path)
        assert files.path == tmp_path / name
        assert all(torch.equal(files.tensor(key), tensor) for key, tensor in tensors.items())


def test_a_folder_prefers_safetensors(tmp_path, tensors):
    torch.save({}, tmp_path / "pytorch_model.bin")
    save_file(tensors, tmp_path / "model.safetensors")
    assert WeightFiles.open(tmp_path).path.name == "model.safetensors"


def test_a_folder_without_or_with_too_many_files_is_refused(tmp_path, tensors):
    with pytest.raises(ValueError, match=r"no weights; model.safetensors, .* is needed"):
        WeightFiles.open(tmp_path)
    save_file(tensors, tmp_path / "a.safetensors")
    save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"2 weight files \(a.safetensors, b.safetensors\) and no .*index.json"):
        WeightFiles.open(tmp_path)
    with pytest.raises(ValueError, match=r"nothing.safetensors: no such file"):
        WeightFiles.open(tmp_path / "nothing.safetensors")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ValueError, match=r"weights end in .safetensors"):
        WeightFiles.open(tmp_path / "model.gguf")


@pytest.mark.parametrize("kept", [0, 5, 8, 20, "header", -100, -1])
def test_a_truncated_file_is_refused_with_its_size_and_the_size_it_needs(tmp_path, tensors, kept):
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    part = data[: header if kept == "header" else kept]
    path.write_bytes(part)
    known = r"[\d,]+" if len(part) < 8 else f"{header if len(part) < header else len(data):,}"
    with pytest.raises(ValueError, match=rf"{path}: {len(part)} bytes, its header asks for {known}; download it again"):
        WeightFiles.open(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<!DOCTYPE html><html>404</html>", "not a safetensors file, 31 bytes; download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer of 43 bytes, .* `git lfs pull`"),
        (b"\x10" + bytes(7) + b"{this is no JSON" + bytes(9), "its header is damaged; download it again"),
        (b"\x10" + bytes(7) + b'{"a": [1, 2, 3]}' + bytes(9), "its header is damaged; download it again"),
    ],
)
def test_a_foreign_file_is_refused_with_what_it_is(tmp_path, data, reason):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        WeightFiles.open(tmp_path)


def test_quantised_weights_are_refused(tmp_path):
    save_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="tensors of F8_E4M3; quantised weights are not read"):
        WeightFiles.open(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, 700, -1])
def test_a_truncated_torch_file_is_refused(tmp_path, tensors, kept):
    path = tmp_path / "model.pt"
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"{path}: damaged or no file of torch.save, [\d,]+ bytes; download it again"):
        WeightFiles.open(path)


def test_an_old_torch_file_is_read(tmp_path, tensors):
    torch.save(tensors, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(WeightFiles.open(tmp_path).tensor(EMBED), tensors[EMBED])


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_torch_file_is_refused_and_not_run(tmp_path, save):
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    save({"a": Payload(trace)}, path)
    with pytest.raises(ValueError, match=rf"^{path}: (wants to run posix.mkdir; refused|damaged or no file of torch)"):
        WeightFiles.open(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Payload(trace)))  # the payload does work
    assert trace.exists()


@pytest.mark.parametrize(
    ("value", "found"),
    [({"step": 3, "model": {}}, "a dict with step, model"), ([torch.ones(1)], "list"), ({1: torch.ones(1)}, "with 1")],
)
def test_a_torch_file_of_something_else_is_refused(tmp_path, value, found):
    torch.save(value, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=f"holds .*{found}; a dict of tensors by name is needed"):
        WeightFiles.open(tmp_path)


def test_one_file_and_an_index_in_one_folder_are_refused(tmp_path, tensors):
    save_weights(tensors, tmp_path, max_shard_bytes=100)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors and model.safetensors.index.json: two models .* remove"):
        WeightFiles.open(tmp_path)
    assert (
        WeightFiles.open(tmp_path / "model.safetensors").shapes
        == WeightFiles.open(tmp_path / "model.safetensors.index.json").shapes
    )


@pytest.fixture
def shards(tmp_path, tensors):
    """A folder with two shards and the contents of its index."""
    save_weights(tensors, tmp_path, max_shard_bytes=100)
    index = tmp_path / "model.safetensors.index.json"
    return tmp_path, index, json.loads(index.read_text())


def test_shards_are_one_set_of_files(shards, tensors):
    folder, index, contents = shards
    assert contents["metadata"]["total_size"] == (24 + 12 + 3 + 2) * 4
    assert sorted(set(contents["weight_map"].values())) == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for path in (folder, index):
        files = WeightFiles.open(path)
        assert set(files.shapes) == set(tensors)
        assert all(torch.equal(files.tensor(name), tensor) for name, tensor in tensors.items())


def test_a_missing_or_truncated_shard_is_refused(shards):
    folder, _, _ = shards
    second = folder / "model-00002-of-00002.safetensors"
    second.write_bytes(second.read_bytes()[:-3])
    with pytest.raises(ValueError, match=rf"{second}: .* bytes, its header asks for"):
        WeightFiles.open(folder)
    second.unlink()
    with pytest.raises(ValueError, match=rf"1 of 2 shards missing: {second.name}; download them again"):
        WeightFiles.open(folder)


def test_an_index_that_is_wrong_is_refused(shards):
    folder, index, contents = shards
    contents["weight_map"][EMBED] = contents["weight_map"][BIAS]
    index.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=rf"model-00002-of-00002.safetensors does not hold {EMBED}; download both"):
        WeightFiles.open(folder)
    for text in ("{", "[]", "{}", '{"weight_map": {"a": 3}}', '{"weight_map": []}'):
        index.write_text(text)
        with pytest.raises(ValueError, match="not an index of weights"):
            WeightFiles.open(folder)
