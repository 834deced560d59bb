"""Weights into a module: strict, one tensor at a time, straight to the device. And out again, in one step."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from gapmllm.model.weight_files import INDEX, SINGLE, shorten
from gapmllm.model.weight_files import WeightFiles as WeightFiles

if TYPE_CHECKING:
    from gapmllm.model.gapmllm import GapMllm

CONFIG = "config.json"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

Rename = Callable[[str], str | None]
"""Name in a file -> name in the module, or None for a tensor that is not wanted."""


def load_weights(
    module: nn.Module,
    files: WeightFiles,
    *,
    rename: Rename = lambda name: name,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    optional: Collection[str] = (),
) -> None:
    """Give every parameter and persistent buffer of the module its tensor from the files, one tensor at a time.

    The module may be on the meta device; tensors go straight to `device`. Parameters are replaced (ties and
    requires_grad stay), so make the optimiser afterwards. What no file holds, such as rotary tables, stays as it is.
    rename may lead several names in the file to one tensor of the module if their contents are equal; the names of
    tied tensors are such names too.
    dtype: of floating-point tensors, None = the file's.
    optional: names of submodules that may be missing as a whole.
    Raises one ValueError that lists all that does not fit. Then the module is as it was.
    """
    slots = _slots(module)
    sources, unexpected = _sources(slots, files, rename)
    reached = [name for slot in sources for name in slot.names]
    absent = [part for part in optional if not any(_under(name, part) for name in reached)]
    missing = [slot.names[0] for slot in dict.fromkeys(slots.values()) if slot not in sources]
    problems = {
        "missing": {name: "" for name in missing if not any(_under(name, part) for part in absent)},
        "unexpected": dict.fromkeys(unexpected, ""),
        "wrong": _misfits(sources, files),
        "one tensor of the model, different contents in the file": _contradictions(sources, files),
    }
    if any(problems.values()):
        cause = _likely_cause(problems, slots, files, rename)
        raise ValueError("\n".join([f"{files.path}: these weights do not fit the model", *_listing(problems), *cause]))
    for slot, names in sources.items():
        _place(module, slot, files.tensor(names[0], device, dtype))


@dataclass(frozen=True, eq=False)
class _Slot:
    """A parameter or persistent buffer of a module, with all of its names: more than one where it is tied."""

    names: tuple[str, ...]
    tensor: Tensor


def _slots(module: nn.Module) -> dict[str, _Slot]:
    state: dict[str, Tensor] = module.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    slots = (_Slot(tuple(tied), state[tied[0]]) for tied in names.values())
    return {name: slot for slot in slots for name in slot.names}


def _sources(slots: dict[str, _Slot], files: WeightFiles, rename: Rename) -> tuple[dict[_Slot, list[str]], list[str]]:
    """Slot -> the names in the file that lead to it; and the names that lead nowhere."""
    sources: dict[_Slot, list[str]] = {}
    unexpected = []
    for name in files.shapes:
        target = rename(name)
        if target in slots:
            sources.setdefault(slots[target], []).append(name)
        elif target is not None:
            unexpected.append(name)
    return sources, unexpected


def _misfits(sources: dict[_Slot, list[str]], files: WeightFiles) -> dict[str, str]:
    found = {}
    for slot, names in sources.items():
        for name in names:
            if files.shapes[name] != tuple(slot.tensor.shape):
                found[name] = f" {files.shapes[name]} in the file, {tuple(slot.tensor.shape)} in the model"
            elif files.dtypes[name].is_floating_point != slot.tensor.is_floating_point():
                found[name] = f" {files.dtypes[name]} in the file, {slot.tensor.dtype} in the model"
    return found


def _contradictions(sources: dict[_Slot, list[str]], files: WeightFiles) -> dict[str, str]:
    def content(name: str) -> Tensor:  # bytes, so that NaN equals NaN
        return files.tensor(name).reshape(-1).view(torch.uint8)

    return {
        other: f" against {first}"
        for first, *others in sources.values()
        for other in others
        if files.dtypes[first] != files.dtypes[other] or not torch.equal(content(first), content(other))
    }


def _listing(problems: dict[str, dict[str, str]]) -> list[str]:
    """One line for each kind of problem and part of the model: how many, and the first few."""
    groups: dict[tuple[str, str], list[str]] = {}
    for kind, entries in problems.items():
        for name, detail in entries.items():
            words = name.split(".")
            depth = 2 if words[0] == "model" else 1
            part, leaf = ".".join(words[:depth]), ".".join(words[depth:])
            groups.setdefault((kind, f"{part}.*" if leaf else part), []).append((leaf or name) + detail)
    return [f"  {kind}: {part} ({len(entries)}): {shorten(entries)}" for (kind, part), entries in groups.items()]


def _likely_cause(
    problems: dict[str, dict[str, str]],
    slots: dict[str, _Slot],
    files: WeightFiles,
    rename: Rename,
) -> list[str]:
    wrapper = next(iter(files.shapes), "").partition(".")[0] + "."
    has_geometry = any("geometry_encoder." in name for name in files.shapes)
    inner = [rename(name.removeprefix(wrapper)) for name in files.shapes if name.startswith(wrapper)]
    unexpected = len(problems["unexpected"])
    if unexpected and len(inner) == len(files.shapes) and all(name is None or name in slots for name in inner):
        cause = f"every name begins with {wrapper!r}, as DDP, FSDP and torch.compile make it; save the module inside"
    elif unexpected == len(files.shapes):
        cause = "the weights of another kind of model"
    elif len(problems["wrong"]) > len(files.shapes) / 2:
        cause = "another model size than the configuration's"
    elif any("geometry_encoder." in name for name in problems["missing"]) and not has_geometry:
        cause = "no tensor of the geometry encoder came with this checkpoint; download it again"
    else:
        return []
    return [f"  likely cause: {cause}"]


def _place(module: nn.Module, slot: _Slot, tensor: Tensor) -> None:
    """Put the tensor in place of the slot's, under all of its names."""
    if isinstance(slot.tensor, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=slot.tensor.requires_grad)
    for name in slot.names:
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, tensor)


def _under(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def save_weights(
    tensors: Mapping[str, Tensor],
    folder: str | Path,
    *,
    max_shard_bytes: float = 5e9,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Write model.safetensors, or shards and an index where that is larger than max_shard_bytes.

    Tied tensors (one memory, several names) are written once, under the first name. The files of an earlier save are
    replaced at the very end: OSError (a full disk) leaves them whole. beside: writes other files into the folder that
    it is given; they replace those of the same name together with the weights.
    ValueError for tensors on the meta device, and where a file is in the folder's place.
    """
    if any(tensor.is_meta for tensor in tensors.values()):
        raise ValueError("this model has no weights to save: it is on the meta device; load it, or build it elsewhere")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{folder}: this, or what is above it, is a file; name a folder to save in") from None
    shards = _split(_once(tensors), max_shard_bytes)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as written:
        try:
            names = _write(Path(written), shards)
            if beside is not None:
                beside(Path(written))
        except (SafetensorError, OSError) as error:
            raise OSError(f"{folder}: cannot write the weights ({error}); what was there before is whole") from error
        _move(Path(written), folder, names)


def save_folder(
    model: GapMllm, folder: str | Path, values: dict[str, Any], tensors: Mapping[str, Tensor], max_shard_size: int | str
) -> None:
    """A model's folder: config.json with these values, generation_config.json, the tensors, and the tokenizer if any.

    Errors and what a stopped save leaves are those of `save_weights`. max_shard_size: bytes, or a text such as "5GB".
    """

    def beside(written: Path) -> None:
        kind = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
        config = values | {"dtype": str(kind).removeprefix("torch.")}
        (written / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        model.generation_config.save_pretrained(written)
        if model.prompts is not None:
            model.prompts.tokenizer.save_pretrained(written)

    save_weights(tensors, folder, max_shard_bytes=_bytes(max_shard_size), beside=beside)


def _bytes(size: int | str) -> int:
    match = re.fullmatch(r"([1-9]\d*) *([KMGT]B|)", str(size), re.ASCII)
    if match is None:
        raise ValueError(f'max_shard_size {size!r}: bytes are needed, or a text such as "500MB" or "5GB"')
    return int(match[1]) * _UNITS[match[2]]


def _write(folder: Path, shards: list[dict[str, Tensor]]) -> list[str]:
    """The names of the files written, the index last."""
    count = len(shards)
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    names = names if count > 1 else [SINGLE]
    for name, shard in zip(names, shards, strict=True):
        # transformers reads no file without "format"
        save_file({key: tensor.contiguous() for key, tensor in shard.items()}, folder / name, {"format": "pt"})
    if count == 1:
        return names
    places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*names, INDEX]


def _move(source: Path, folder: Path, names: list[str]) -> None:
    """Replace what is in the folder. Without its config, which goes first and comes last, it does not open meanwhile:
    stopped half-way, it opens as the old or the new model, or not at all."""
    others = [str(path.relative_to(source)) for path in source.rglob("*") if path.is_file() and path.name not in names]
    _give_usual_mode(source)
    if INDEX in names:
        (folder / INDEX).unlink(missing_ok=True)
    if CONFIG in others:
        (folder / CONFIG).unlink(missing_ok=True)
    for name in sorted((*others, *names), key=lambda name: (name == CONFIG, name == INDEX)):
        (folder / name).parent.mkdir(exist_ok=True)
        os.replace(source / name, folder / name)
    for old in (folder / SINGLE, folder / INDEX, *folder.glob("model-*-of-*.safetensors")):
        if old.name not in names:
            old.unlink(missing_ok=True)


def _give_usual_mode(folder: Path) -> None:
    """Files get the mode that a new file has here (umask); safetensors gives its files to their owner alone."""
    new = folder / "new"
    new.touch()
    mode = new.stat().st_mode & 0o777
    new.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen = set()
    kept = {}
    for name, tensor in tensors.items():
        memory = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if memory not in seen or tensor.numel() == 0:
            kept[name] = tensor
        seen.add(memory)
    return kept


def _split(tensors: Mapping[str, Tensor], max_bytes: float) -> list[dict[str, Tensor]]:
    """In order, each shard as full as it may be; a larger tensor gets a shard of its own."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards
