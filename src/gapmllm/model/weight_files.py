"""Tensors on disk, opened without reading them.

safetensors, in one file or in shards with an index. Files of torch.save are read too, tensors only: code in them is
refused, not run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_IN_A_FOLDER = (SINGLE, INDEX, "*.safetensors", "pytorch_model.bin", "model.pt", "*.bin")  # the first that is there
_TORCH_SUFFIXES = (".bin", ".pt", ".pth")
_SHOWN = 5  # names of one group in an error message
_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
}


@dataclass(frozen=True)
class _File:
    """One file with tensors."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    read: Callable[[str, str], Tensor]
    """(name, device) -> the tensor."""


class WeightFiles:
    """The tensors of one checkpoint by name; no data is read before `tensor` asks for it.

    shapes and dtypes come from the headers. `open` makes one of these.
    """

    def __init__(self, path: Path, files: Mapping[str, _File]) -> None:
        """files: name of a tensor -> the file that holds it."""
        self.path = path
        self._files = files
        self.shapes = {name: file.shapes[name] for name, file in files.items()}
        self.dtypes = {name: file.dtypes[name] for name, file in files.items()}

    @classmethod
    def open(cls, path: str | Path) -> WeightFiles:
        """A .safetensors, .bin, .pt or .pth file, an index of shards, or a folder that holds one of these.

        Raises ValueError that names the file where it is missing, truncated, no weights file or not of tensors only.
        """
        file = Path(path)
        file = _in_folder(file) if file.is_dir() else file
        if file.name.endswith(".index.json"):
            return cls(file, _open_index(file))
        opened = _open_file(file)
        return cls(file, dict.fromkeys(opened.shapes, opened))

    def tensor(self, name: str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Tensor:
        """One tensor, on the device; dtype converts floating-point tensors, None keeps the file's.

        Unconverted on the CPU it is the mapped file itself, not a copy: replace such a file, do not write into it.
        """
        tensor = self._files[name].read(name, str(device))
        return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _in_folder(folder: Path) -> Path:
    if (folder / SINGLE).exists() and (folder / INDEX).exists():
        raise ValueError(f"{folder}: {SINGLE} and {INDEX}: two models in one folder; remove the one that is not meant")
    for pattern in _IN_A_FOLDER:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:_SHOWN])
            raise ValueError(
                f"{folder}: {len(found)} weight files ({names}) and no {INDEX}; name one, or add the index"
            )
        if found:
            return found[0]
    raise ValueError(
        f"{folder}: no weights; {SINGLE}, {INDEX} with its shards, pytorch_model.bin or model.pt is needed"
    )


def _open_file(file: Path) -> _File:
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    if file.suffix == ".safetensors":
        return _open_safetensors(file)
    if file.suffix in _TORCH_SUFFIXES:
        return _open_torch(file)
    raise ValueError(f"{file}: weights end in .safetensors, .safetensors.index.json, {', '.join(_TORCH_SUFFIXES)}")


def _open_index(index: Path) -> dict[str, _File]:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {name: index.parent / Path(name).name for name in sorted(set(places.values()))}
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{index}: not an index of weights ({error}); download it again") from error
    if missing := [name for name, shard in shards.items() if not shard.is_file()]:
        raise ValueError(
            f"{index}: {len(missing)} of {len(shards)} shards missing: {shorten(missing)}; download them again"
        )
    files = {name: _open_file(shard) for name, shard in shards.items()}
    for shard, file in files.items():
        if lost := [name for name, place in places.items() if place == shard and name not in file.shapes]:
            raise ValueError(f"{index}: {shard} does not hold {shorten(lost)}; download both again")
    return {name: files[shard] for name, shard in places.items()}


def _open_safetensors(file: Path) -> _File:
    @functools.cache  # kept open: reading the header anew for each of 1,800 tensors takes seconds
    def handle(device: str) -> Any:
        return safe_open(file, framework="pt", device=device)

    try:
        heads = {name: handle("cpu").get_slice(name) for name in handle("cpu").keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file}: {_damage(file)} ({error})") from error
    if foreign := {head.get_dtype() for head in heads.values()} - set(_DTYPES):
        raise ValueError(
            f"{file}: tensors of {shorten(sorted(foreign))}; quantised weights are not read, only {shorten(_DTYPES)}"
        )
    return _File(
        shapes={name: tuple(head.get_shape()) for name, head in heads.items()},
        dtypes={name: _DTYPES[head.get_dtype()] for name, head in heads.items()},
        read=lambda name, device: handle(device).get_tensor(name),
    )


def _damage(file: Path) -> str:
    """What is wrong with a file that safetensors refuses. The format: 8 bytes length of the header, header, data."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(9)
        if start.startswith(b"version "):
            return f"a Git LFS pointer of {size} bytes, not the weights; fetch them with `git lfs pull`"
        if start[8:] not in (b"", b"{"):
            return f"not a safetensors file, {size:,} bytes; download it again"
        needed = 8 + int.from_bytes(start[:8], "little")
        try:
            stream.seek(8)
            tensors = json.loads(stream.read(needed - 8)) if size >= needed else {}
            needed += max(
                (value["data_offsets"][1] for name, value in tensors.items() if name != "__metadata__"), default=0
            )
        except Exception:  # a damaged header can raise nearly anything
            return "its header is damaged; download it again"
    return f"{size:,} bytes, its header asks for {needed:,}; download it again"


def _open_torch(file: Path) -> _File:
    try:
        values = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged pickle can raise nearly anything; torch's own advice here is to trust it
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(f"{file}: wants to run {code[1]}; refused, only files of plain tensors are read") from None
        size = file.stat().st_size
        raise ValueError(f"{file}: damaged or no file of torch.save, {size:,} bytes; download it again") from error
    plain = isinstance(values, dict) and all(isinstance(key, str) for key in values)
    if not plain or not all(isinstance(value, Tensor) for value in values.values()):
        found = f"a dict with {shorten(map(str, values))}" if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{file}: holds {found}; a dict of tensors by name is needed (save model.state_dict())")
    return _File(
        shapes={name: tuple(value.shape) for name, value in values.items()},
        dtypes={name: value.dtype for name, value in values.items()},
        read=lambda name, device: values[name].detach().to(device),
    )


def fingerprint(place: Path) -> str:
    """Of a file of weights, or of the safetensors in a folder: names and contents. Reads all of them."""
    digest = hashlib.sha256()
    for path in [place] if place.is_file() else sorted(place.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def shorten(items: Iterable[str]) -> str:
    """The first five, and how many more, for a message."""
    items = list(items)
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
