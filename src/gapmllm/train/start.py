"""The model that a run starts from, with what is trained and what is frozen."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from gapmllm.model import PARTS, PRESETS, GapMllm, build, load
from gapmllm.model.weights import CONFIG
from gapmllm.train.recipe import Lora, Recipe

FINISHED = "finished.json"
"""In a run's folder: of how many steps its model is. One that is extended and killed still holds the one before."""
NEW = "new "
"""`init: new nano`: the sizes of a preset, random weights."""


def start_model(recipe: Recipe, device: torch.device | str = "cpu") -> GapMllm:
    """The model of a recipe in float32, in training mode; only what the recipe trains has gradients.

    device: "meta" for new models only, without memory. ValueError for a model that is not there, or not finished, and
    for parts that it lacks.
    """
    return made_ready(_opened(recipe, device), recipe)


def made_ready(model: GapMllm, recipe: Recipe) -> GapMllm:
    """The model with what the recipe trains, its adapters and checkpointing. ValueError for parts that it lacks."""
    parts = recipe.parts()
    for part in parts:
        if not model.modules_of(part):
            raise ValueError(
                f'{recipe.init} has no part "{part}" to train, only {_parts(model)} (fusion "{model.config.fusion}"): '
                "give learning rates by part, such as lr: {llm: 1.0e-5}; no others are trained"
            )
    model.train_only(parts)
    if recipe.stage == "geometry":  # heads that no loss reads: DDP would wait for their gradients
        vggt = model.geometry_encoder.vggt
        used = {name for _, phase in recipe.schedule() for name in phase.loss_weights()}
        for head in set(vggt.config.heads) - used:
            getattr(vggt, f"{head}_head").requires_grad_(False)
    if recipe.lora is not None:
        add_lora(model, recipe.lora)
    if recipe.checkpointing:
        model.checkpoint_activations()
    return model.train()


def _opened(recipe: Recipe, device: torch.device | str) -> GapMllm:
    if recipe.init.startswith(NEW):
        name = recipe.init.removeprefix(NEW)
        if recipe.geometry is not None:
            raise ValueError(f"init {recipe.init!r} makes a geometry encoder of its own; leave out geometry")
        if name in PRESETS and PRESETS[name].base is not None:
            raise ValueError(f"init {recipe.init!r}: {name} has no tokenizer without a download; write init: {name}")
        return build(name, seed=recipe.seed, device=device, **recipe.model)
    folders = {key: recipe.folder(name) for key, name in (("init", recipe.init), ("geometry", recipe.geometry)) if name}
    for key, folder in folders.items():
        _check_there(key, getattr(recipe, key), folder)
    return load(
        folders["init"],
        geometry=folders.get("geometry"),
        dtype="float32",
        device=device,
        seed=recipe.seed,
        **recipe.model,
    )


def _is_unfinished(folder: Path) -> bool:
    """Whether a run's folder holds no model, or that of fewer steps than the run has done by now."""
    steps = [int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-" + "[0-9]" * 8)]
    if not steps:
        return (folder / "checkpoints").exists() and not (folder / CONFIG).exists()
    note = folder / FINISHED
    return not note.exists() or json.loads(note.read_text(encoding="utf-8"))["steps"] < max(steps)


def _check_there(key: str, name: str, folder: str) -> None:
    """What a user sees who forgot the stage before."""
    place = Path(folder)
    unfinished = _is_unfinished(place)
    if not unfinished and (name == folder or place.exists()):  # presets and hub ids: `load` looks
        return
    state = "holds a run that is not finished" if unfinished else "is not there"
    raise ValueError(
        f"{key}: {name} is {folder}, which {state}: train it first (gapmllm train …/{Path(name).name}.yaml)"
    )


def _parts(model: GapMllm) -> str:
    return ", ".join(part for part in PARTS if model.modules_of(part))


def add_lora(model: GapMllm, lora: Lora) -> None:
    """Adapters on the LLM's linear layers; its own weights are frozen. ImportError without peft."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError('lora needs peft: pip install "gapmllm[lora]"') from error
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets)
    )
    for module in model.modules_of("llm"):
        module.requires_grad_(False)
    inject_adapter_in_model(config, model.model.language_model)


def merge_lora(model: GapMllm) -> None:
    """Add the adapters to the weights that they adapt and take them out: a model as any other."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in adapted:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    for module in model.modules():
        if hasattr(module, "peft_config"):
            del module.peft_config


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> the parameters that have gradients."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
