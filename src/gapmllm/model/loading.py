"""`load`: a preset, a folder, a hub id, a released GAP-MLLM checkpoint, or the two public checkpoints of stage 1."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from gapmllm.model.config import GapMllmConfig, config_errors
from gapmllm.model.gapmllm import FUSED, GapMllm
from gapmllm.model.presets import FOLDER, PRESETS, TOKENIZER, preset_config, with_fields
from gapmllm.model.released import is_released, own_name, released_config
from gapmllm.model.tokenizer import Prompts, load_tokenizer
from gapmllm.model.vggt.from_shapes import config_from_shapes
from gapmllm.model.weights import CONFIG, WeightFiles, load_weights

GENERATION = "generation_config.json"
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
MODEL = f"a preset ({', '.join(PRESETS)}), a folder with {CONFIG} and weights, or a hub id"
VGGT = "a folder or file with the weights of a VGGT, or a hub id (facebook/VGGT-1B)"
OWN_VGGT = "geometry_encoder.vggt."
"""How the names of a geometry encoder's tensors begin in a GAP-MLLM."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def load(
    name: str | Path,
    *,
    geometry: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    **fields: Any,
) -> GapMllm:
    """A model that is ready to be asked or trained.

    name: a preset (`PRESETS`; a Path is none), a folder, or a hub id. A folder or hub id holds a GAP-MLLM (ours, or the
    released layout), or a plain Qwen3-VL; the latter needs `geometry`, a public VGGT checkpoint (hub id, folder or
    file) or a GAP-MLLM of ours whose geometry encoder is taken, and gives the starting point of stage 1: mergers and
    fusions are new. So does one of ours with fusion "none" where `geometry` is given. The Qwen presets stand for their
    hub ids.
    fields: of `GapMllmConfig`, for a starting point of stage 1: fusion, fusion_levels, image_grid, max_frame_tokens, …
    device: default a GPU if there is one, else the CPU. dtype: default bfloat16 on a GPU, float32 on the CPU. seed: of
    what is random (new modules, presets without weights).

    Weights go from the file straight to the device. Nothing is fetched unless a hub id or a Qwen preset is named.
    ValueError where something is missing, does not fit or cannot be read: what, and what to do.
    """
    device = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "meta":
        raise ValueError('device "meta" holds no weights; build makes a preset there')
    dtype = _dtype(dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    if isinstance(name, str) and (preset := PRESETS.get(name)) is not None:
        if os.path.exists(os.path.join(name, CONFIG)):
            raise ValueError(
                f'{name} is a preset and a folder here: load("./{name}") opens the folder; for the preset, rename the '
                f'folder, or build("{name}") with random weights'
            )
        if preset.base is None:
            check_whole(name, geometry, fields)
            return _own_preset(name, dtype, device, seed)
        if geometry is None and fields.get("fusion") != "none":
            raise ValueError(
                f'{name} starts from two public checkpoints: load("{name}", geometry="facebook/VGGT-1B") fetches '
                f'{preset.base} and VGGT; build("{name}") makes the same model with random weights'
            )
        name = preset.base
    folder = find_folder(name, MODEL)
    values = config_values(folder)
    if is_whole(values, geometry):
        check_whole(name, geometry, fields)
        model = _empty(folder, lambda: whole_config(values))
        load_weights(model, WeightFiles.open(folder), rename=own_name, device=device, dtype=dtype)
        return _ready(model, device, dtype)
    if geometry is None and fields.get("fusion") != "none":
        raise ValueError(
            f"{folder} is a plain Qwen3-VL. Beside it a VGGT is needed: "
            f'load("{name}", geometry="facebook/VGGT-1B"), or a folder or file with its weights'
        )
    model = _compose(folder, values, geometry, fields, dtype, device)
    if model.config.fusion != "none":
        with torch.random.fork_rng(), device:
            torch.manual_seed(seed)
            model.new_levels()
        for part in FUSED:
            getattr(model, part).to(dtype)
    return _ready(model, device, dtype)


def build(
    name: str,
    *,
    seed: int = 0,
    dtype: torch.dtype | str = "float32",
    device: torch.device | str = "cpu",
    **fields: Any,
) -> GapMllm:
    """A preset with random weights; `fields` replace those of its config (fusion, fusion_levels, …).

    device "meta" gives names and shapes without memory.
    """
    config = preset_config(name, **fields)
    with torch.random.fork_rng(), _device(device):
        torch.manual_seed(seed)
        model = GapMllm._from_config(config, dtype=_dtype(dtype))
        if PRESETS[name].base is None:
            _look_for_alike(model)
    if PRESETS[name].base is None:
        model.prompts = Prompts(load_tokenizer(TOKENIZER))
    return model.eval()


@torch.no_grad()
def _look_for_alike(model: GapMllm) -> None:
    """Let each key of the LLM begin as a query that reads it: tokens attend to those that are like them.

    From random weights it takes long until any token finds another by what it is. Source: mimetic initialisation
    (arXiv 2305.09828).
    """
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        queries = attention.q_proj.weight.unflatten(0, (-1, attention.num_key_value_groups, attention.head_dim))
        attention.k_proj.weight.copy_(queries[:, 0].flatten(0, 1))


def find_folder(name: str | Path, needed: str) -> Path:
    """The folder of a model: itself, or the files of a hub id (fetched, or from the cache).

    ValueError that says what is `needed` where there is neither.
    """
    path = _path(name, needed)
    if os.path.isdir(path):  # False, not an error, for what can be no path
        return Path(path)
    text = str(name)
    if os.path.exists(path) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise ValueError(f"no model {text!r}: needed is {needed}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(text, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, OSError, ValueError) as error:  # ValueError: what can be no hub id, or is not in the cache
        raise ValueError(f"{text} is no folder here, and the hub could not give it: {error}") from error


def _path(name: str | Path, needed: str) -> str:
    if not isinstance(name, (str, Path)):
        raise ValueError(f"no model {name!r}: needed is {needed}")
    return os.path.expanduser(name)


def _device(device: torch.device | str) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:  # each kind of device refuses in its own way
        here = ", ".join(["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))])
        raise ValueError(f"device {device!r} is not there; there is {here}") from error
    return torch.device("cpu") if found.type == "cpu" else found  # safetensors knows no "cpu:0"


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    if (found := DTYPES.get(str(dtype).removeprefix("torch."))) is None:
        raise ValueError(f"dtype {dtype!r}: choose from {', '.join(DTYPES)}")
    return found


def config_values(folder: Path) -> dict[str, Any]:
    """config.json of a folder; ValueError for another model family."""
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        family = values.get("model_type")
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no {CONFIG}: needed is the folder of a saved model") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no JSON object in plain UTF-8: {error}") from error
    if family not in ("gapmllm", "qwen3_vl"):
        raise ValueError(f'{path}: model type "{family}"; needed is "gapmllm" or "qwen3_vl"')
    return values


def is_whole(values: dict[str, Any], geometry: object) -> bool:
    """Whether a config.json is of a whole GAP-MLLM; ours with fusion "none" is not if a geometry encoder is given."""
    own = values.get("model_type") == "gapmllm"
    plain = own and values.get("fusion") == "none" and geometry is not None
    return (own and not plain) or is_released(values)


def whole_config(values: dict[str, Any]) -> GapMllmConfig:
    """The config of a whole GAP-MLLM, ours or released, from its config.json."""
    return GapMllmConfig.from_dict(values) if values["model_type"] == "gapmllm" else released_config(values)


def composed_config(
    values: dict[str, Any], encoder: dict[str, Any], source: str | Path, fields: dict[str, Any]
) -> GapMllmConfig:
    """That of a plain Qwen3-VL's config.json and a geometry encoder (`encoder_fields`), {} for none; then `fields`."""
    base = {key: value for key, value in values.items() if key not in ("model_type", "architectures")}
    base |= encoder | {"fusion": "gated"} if encoder else {"fusion": "none"}
    return with_fields(GapMllmConfig(**base), source, fields)


def check_whole(name: str | Path, geometry: str | Path | None, fields: dict[str, Any]) -> None:
    """ValueError for arguments that belong to a starting point of stage 1."""
    if geometry is not None:
        raise ValueError(f"{name} brings its own geometry encoder; leave out geometry={str(geometry)!r}")
    if fields:
        raise ValueError(f"{name} brings its own config; leave out {', '.join(fields)} (build takes them, for presets)")


def _own_preset(name: str, dtype: torch.dtype, device: torch.device, seed: int) -> GapMllm:
    """Weights in the package if there are any, else random ones."""
    if (FOLDER / name / CONFIG).exists():
        return load(FOLDER / name, dtype=dtype, device=device)
    if name != "debug":
        warnings.warn(f"no trained weights of {name} are in this package: its weights are random", stacklevel=3)
    return build(name, seed=seed, dtype=dtype, device=device)


def _compose(
    folder: Path,
    values: dict[str, Any],
    geometry: str | Path | None,
    fields: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> GapMllm:
    """Stage 1's starting point: public Qwen3-VL and public VGGT; mergers and fusions have no weights yet."""
    if geometry is None:
        model = _empty(folder, lambda: composed_config(values, {}, folder, fields))
        load_weights(model, WeightFiles.open(folder), device=device, dtype=dtype)
        return model
    if fields.get("fusion") == "none":
        raise ValueError(f'fusion "none" has no geometry encoder; leave out geometry={str(geometry)!r}')
    path = _path(geometry, VGGT)
    vggt = WeightFiles.open(path if os.path.isfile(path) else find_folder(geometry, VGGT))
    encoder = encoder_fields(vggt)
    model = _empty(folder, lambda: composed_config(values, encoder, folder, fields))
    load_weights(model, WeightFiles.open(folder), optional=("geometry_encoder", *FUSED), device=device, dtype=dtype)
    load_weights(model.geometry_encoder.vggt, vggt, rename=_of_vggt, device=device, dtype=dtype)
    return model


def encoder_fields(vggt: WeightFiles) -> dict[str, Any]:
    """The fields of the config that describe the geometry encoder in these files, a public VGGT or one of ours."""
    if any(name.startswith(OWN_VGGT) for name in vggt.shapes):
        folder = vggt.path if vggt.path.is_dir() else vggt.path.parent
        values = config_values(folder)
        if values.get("geometry_config") is None:
            raise ValueError(f"{folder / CONFIG} does not describe its geometry encoder; a GAP-MLLM of ours is needed")
        return {name: values[name] for name in ("geometry_config", "geometry_layers")}
    try:
        encoder = config_from_shapes(vggt.shapes)
    except ValueError as error:
        raise ValueError(f"{vggt.path}: {error}") from error
    return {"geometry_config": encoder.to_dict(), "geometry_layers": encoder.dense_layers}


def _of_vggt(name: str) -> str | None:
    """Name of a VGGT's tensor, None for what is not built: its point tracker, and the rest of a GAP-MLLM."""
    if name.startswith(("track_head.", "model.", "lm_head.", *FUSED)):
        return None
    return name.removeprefix(OWN_VGGT)


def _empty(folder: Path, make: Callable[[], GapMllmConfig]) -> GapMllm:
    """The model without memory for its weights, with the folder's tokenizer and generation config."""
    with config_errors(folder / CONFIG), torch.device("meta"):
        model = GapMllm(make())
    if (folder / GENERATION).exists():
        with config_errors(folder / GENERATION):
            model.generation_config = GenerationConfig.from_pretrained(folder)
    model.prompts = Prompts(load_tokenizer(folder))
    model.config.check_tokenizer(model.prompts.tokenizer, folder)
    return model


def _ready(model: GapMllm, device: torch.device, dtype: torch.dtype) -> GapMllm:
    """Rotary tables, which no file holds."""
    model.config.dtype = dtype
    for module in model.modules():
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            module.to_empty(device=device, recurse=False)
            model._init_weights(module)
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not left, f"without a value: {left}"
    return model.eval()
