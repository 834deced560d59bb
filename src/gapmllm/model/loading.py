"""`load`: a preset, a folder, a hub id, a released GAP-MLLM checkpoint, or the two public checkpoints of stage 1."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gapmllm.model.config import GapMllmConfig
from gapmllm.model.gapmllm import FUSED, GapMllm
from gapmllm.model.presets import FOLDER, PRESETS, TOKENIZER, preset_config
from gapmllm.model.released import is_released, own_name, released_config
from gapmllm.model.tokenizer import Prompts, load_tokenizer
from gapmllm.model.vggt.from_shapes import config_from_shapes
from gapmllm.model.weights import WeightFiles, load_weights

CONFIG = "config.json"
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]


def load(
    name: str | Path,
    *,
    geometry: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> GapMllm:
    """A model that is ready to be asked or trained.

    name: a preset (`PRESETS`), a folder, or a hub id. A folder or hub id holds a GAP-MLLM (ours, or the released
    layout), or a plain Qwen3-VL; the latter needs `geometry`, a public VGGT checkpoint (hub id, folder or file), and
    gives the starting point of stage 1: mergers and fusions are new. The Qwen presets stand for their hub ids.
    device: default a GPU if there is one, else the CPU. dtype: default bfloat16 on a GPU, float32 on the CPU. seed: of
    what is random (new modules, presets without weights).

    Weights go from the file straight to the device. Nothing is fetched unless a hub id or a Qwen preset is named.
    ValueError where something is missing, does not fit or cannot be read: what, and what to do.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    if (preset := PRESETS.get(str(name))) is not None:
        if preset.base is None:
            _no_geometry(name, geometry)
            return _own_preset(str(name), dtype, device, seed)
        if geometry is None:
            raise ValueError(
                f'{name} starts from two public checkpoints: load("{name}", geometry="facebook/VGGT-1B") fetches '
                f'{preset.base} and VGGT; build("{name}") makes the same model with random weights'
            )
        name = preset.base
    folder = find_folder(name)
    values = _config_values(folder)
    if values.get("model_type") == "gapmllm":
        _no_geometry(name, geometry)
        config = GapMllmConfig.from_dict(values)
    elif is_released(values):
        _no_geometry(name, geometry)
        config = released_config(values)
    elif geometry is None:
        raise ValueError(
            f"{folder} is a plain Qwen3-VL. Beside it a VGGT is needed: "
            f'load("{name}", geometry="facebook/VGGT-1B"), or a folder or file with its weights'
        )
    else:
        return _compose(folder, values, geometry, dtype, device, seed)
    model = _empty(config)
    load_weights(model, WeightFiles.open(folder), rename=own_name, device=device, dtype=dtype)
    return _ready(model, folder, device)


def build(
    name: str, *, seed: int = 0, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", **fields: Any
) -> GapMllm:
    """A preset with random weights; `fields` replace those of its config (fusion, fusion_levels, …).

    device "meta" gives names and shapes without memory.
    """
    config = preset_config(name, **fields)
    device = torch.device(device)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model = GapMllm._from_config(config, dtype=dtype or torch.float32)
    if PRESETS[name].base is None:
        model.prompts = Prompts(load_tokenizer(TOKENIZER))
    return model.eval()


def find_folder(name: str | Path) -> Path:
    """The folder of a model: itself, or the files of a hub id (fetched, or from the cache)."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    text = str(name)
    if path.exists() or text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise ValueError(
            f"no model {text}: needed is a preset ({', '.join(PRESETS)}), a folder with {CONFIG} and weights, "
            "or a hub id"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(text, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"{text} is no folder here, and the hub could not give it: {error}") from error


def _config_values(folder: Path) -> dict[str, Any]:
    """config.json of a folder; ValueError for another model family."""
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        family = values.get("model_type")
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no {CONFIG}: needed is the folder of a saved model") from None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no JSON object: {error}") from error
    if family not in ("gapmllm", "qwen3_vl"):
        raise ValueError(f'{path}: model type "{family}"; needed is "gapmllm" or "qwen3_vl"')
    return values


def _no_geometry(name: str | Path, geometry: str | Path | None) -> None:
    if geometry is not None:
        raise ValueError(f"{name} brings its own geometry encoder; leave out geometry={str(geometry)!r}")


def _own_preset(name: str, dtype: torch.dtype, device: torch.device, seed: int) -> GapMllm:
    """Weights in the package if there are any, else random ones."""
    if (FOLDER / name / CONFIG).exists():
        return load(FOLDER / name, dtype=dtype, device=device)
    if name != "debug":
        warnings.warn(f"no trained weights of {name} are in this package: its weights are random", stacklevel=3)
    return build(name, seed=seed, dtype=dtype, device=device)


def _compose(
    folder: Path, values: dict[str, Any], geometry: str | Path, dtype: torch.dtype, device: torch.device, seed: int
) -> GapMllm:
    """Stage 1's starting point: public Qwen3-VL and public VGGT, with new mergers and fusions."""
    path = Path(geometry).expanduser()
    vggt = WeightFiles.open(path if path.exists() else find_folder(geometry))
    encoder = config_from_shapes(vggt.shapes)
    fields = {key: value for key, value in values.items() if key not in ("model_type", "architectures")}
    model = _empty(GapMllmConfig(**fields, geometry_config=encoder.to_dict()))
    new = ("geometry_encoder", *FUSED)
    load_weights(model, WeightFiles.open(folder), initialised=new, device=device, dtype=dtype)
    load_weights(model.geometry_encoder.vggt, vggt, rename=_without_track_head, device=device, dtype=dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name in FUSED:
            module: nn.Module = getattr(model, name)
            module.to_empty(device=device).to(dtype)
            module.apply(model._init_weights)
    return _ready(model, folder, device)


def _without_track_head(name: str) -> str | None:
    """VGGT's point tracker is not built."""
    return None if name.startswith("track_head.") else name


def _empty(config: GapMllmConfig) -> GapMllm:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return GapMllm(config)


def _ready(model: GapMllm, folder: Path, device: torch.device) -> GapMllm:
    """Rotary tables, which no file holds, and the tokenizer."""
    for module in model.modules():
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            module.to_empty(device=device, recurse=False)
            model._init_weights(module)
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not left, f"without a value: {left}"
    model.prompts = Prompts(load_tokenizer(folder))
    return model.eval()
