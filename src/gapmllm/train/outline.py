"""The model of a recipe before there is one: its sizes, from config files, presets and the recipes of earlier stages.

Nothing is fetched, and no weights are made: the model is on the "meta" device.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from gapmllm.model import PRESETS, GapMllm, GapMllmConfig, Prompts, VggtConfig
from gapmllm.model.loading import (
    check_whole,
    composed_config,
    config_values,
    encoder_fields,
    is_whole,
    whole_config,
)
from gapmllm.model.presets import FOLDER, TOKENIZER, preset_config
from gapmllm.model.tokenizer import load_tokenizer
from gapmllm.model.vggt.config import HEADS
from gapmllm.model.weight_files import WeightFiles
from gapmllm.model.weights import CONFIG
from gapmllm.train.recipe import Recipe, read_recipe
from gapmllm.train.start import NEW, made_ready, start_model

PUBLIC_VGGT = "facebook/VGGT-1B"
_CACHED, _TO_FETCH = "in the local cache", "is fetched from the hub when training starts"
_BASES = {preset.base: name for name, preset in PRESETS.items() if preset.base is not None}


@dataclass(frozen=True)
class Outline:
    """What is known of the model that a run starts from."""

    model: GapMllm | None
    """On "meta", with what is trained and what frozen; None where the sizes are not known."""
    prompts: Prompts | None
    """None where the tokenizer is not here."""
    sources: dict[str, str]
    """init and geometry -> what is there, in words."""


@dataclass(frozen=True)
class _Found:
    """A model that a recipe names. values: of its config.json, None if they are not known."""

    values: dict[str, Any] | None
    state: str
    tokenizer: Path | None = None


def outline(recipe: Recipe, recipes: Path | None = None) -> Outline:
    """recipes: the folder of the recipe's file; a stage that is not trained yet is described by its recipe there.

    ValueError for what `start_model` would refuse, as far as it can be seen before weights are loaded.
    """
    if recipe.init.startswith(NEW):
        model = start_model(recipe, "meta")
        return Outline(model, model.prompts, {"init": f"{recipe.init}: random weights"})
    init, geometry = _find(recipe.init, recipe, recipes), None
    sources = {"init": f"{recipe.init}: {init.state}"}
    if recipe.geometry is not None:
        geometry = _find(recipe.geometry, recipe, recipes, encoder=True)
        sources["geometry"] = f"{recipe.geometry}: {geometry.state}"
    prompts = Prompts(load_tokenizer(init.tokenizer)) if init.tokenizer is not None else None
    config = _config(recipe, init, geometry)
    if config is None:
        return Outline(None, prompts, sources)
    with torch.device("meta"):
        return Outline(made_ready(GapMllm(config), recipe), prompts, sources)


def _config(recipe: Recipe, init: _Found, geometry: _Found | None) -> GapMllmConfig | None:
    """As `load` puts it together."""
    if init.values is None or (geometry is not None and geometry.values is None):
        return None
    if is_whole(init.values, geometry):
        check_whole(recipe.init, recipe.geometry, recipe.model)
        return whole_config(init.values)
    values = {} if geometry is None or geometry.values is None else geometry.values
    encoder = {key: values[key] for key in ("geometry_config", "geometry_layers") if values}
    if not encoder and recipe.model.get("fusion") != "none":
        raise ValueError(f"init {recipe.init} is a plain Qwen3-VL; beside it a VGGT is needed: geometry: {PUBLIC_VGGT}")
    return composed_config(init.values, encoder, recipe.init, recipe.model)


def _find(name: str, recipe: Recipe, recipes: Path | None, *, encoder: bool = False) -> _Found:
    """encoder: a model whose geometry encoder is taken; a plain VGGT may be named, too."""
    folder = Path(recipe.folder(name)).expanduser()
    if name in PRESETS:
        return _preset(name)
    here = (folder / CONFIG).exists()
    if encoder and (here or (folder.exists() and not name.startswith("."))):
        return _Found(encoder_fields(WeightFiles.open(folder)), "here")
    if here:
        return _folder(folder, "here")
    if name.startswith("."):
        return _earlier_stage(name, folder, recipes)
    return _hub(name, encoder)


def _preset(name: str) -> _Found:
    if (base := PRESETS[name].base) is not None:
        return _hub(base, encoder=False)
    if (FOLDER / name / CONFIG).exists():
        return _folder(FOLDER / name, "in the package")
    return _Found(preset_config(name).to_dict(), "random weights, none are in the package", TOKENIZER)


def _folder(folder: Path, state: str) -> _Found:
    return _Found(config_values(folder), state, folder if (folder / "tokenizer_config.json").exists() else None)


def _earlier_stage(name: str, folder: Path, recipes: Path | None) -> _Found:
    """A run that is not finished, by its recipe: that of ../align is align.yaml."""
    path = recipes / f"{folder.name}.yaml" if recipes is not None else None
    shown = os.path.relpath(folder)
    if path is None or not path.exists():
        return _Found(None, f"not trained yet ({shown}); its sizes are known then")
    recipe = read_recipe(path)
    if recipe.init == name:
        raise ValueError(f"{path}: this recipe starts from itself; name another init")
    earlier = outline(recipe, recipes)
    values = None if earlier.model is None else earlier.model.config.to_dict()
    tokenizer = Path(earlier.prompts.tokenizer.name_or_path) if earlier.prompts is not None else None
    return _Found(values, f"not trained yet ({shown}); sizes as {path} says", tokenizer)


def _hub(name: str, encoder: bool) -> _Found:
    try:
        cached = try_to_load_from_cache(name, CONFIG)
    except HFValidationError as error:
        raise ValueError(f"no model {name!r}: no preset, no folder here, and no hub id") from error
    if encoder and name == PUBLIC_VGGT:  # its own config.json says other things
        config = VggtConfig(heads=HEADS)
        values = {"geometry_config": config.to_dict(), "geometry_layers": config.dense_layers}
        return _Found(values, _CACHED if isinstance(cached, str) else _TO_FETCH)
    if isinstance(cached, str) and not encoder:
        return _folder(Path(cached).parent, _CACHED)
    if (preset := _BASES.get(name)) is not None:
        return _Found(preset_config(preset).to_dict() | {"model_type": "qwen3_vl"}, _TO_FETCH)
    return _Found(None, f"{_TO_FETCH}; its sizes are known then")
