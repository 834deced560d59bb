"""The end of a run: its folder becomes a model that `gapmllm.load` opens, with a model card."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from gapmllm.model.weights import CONFIG
from gapmllm.train.card import CARD, hardware_of, model_card
from gapmllm.train.checkpoints import latest, read_state
from gapmllm.train.parallel import agreed, whole_tensors
from gapmllm.train.recipe import Recipe
from gapmllm.train.stages import Stage
from gapmllm.train.start import FINISHED, merge_lora


def is_finished(recipe: Recipe) -> bool:
    """Whether this recipe's steps are all done and the model of the last one is saved."""
    newest, note = latest(recipe.out), Path(recipe.out) / FINISHED
    if newest is None or not note.exists() or not (Path(recipe.out) / CONFIG).exists():
        return False
    return read_state(newest)["step"] == recipe.steps and note.read_text(encoding="utf-8") == _note(recipe)


def _note(recipe: Recipe) -> str:
    return json.dumps({"steps": recipe.steps}) + "\n"


def save_model(stage: Stage, accelerator: Accelerator, recipe: Recipe) -> None:
    """All processes call it; the main one writes. bfloat16 if the run was. Adapters are merged into the weights."""
    model = stage.model
    if recipe.lora is not None:
        merge_lora(model)
    kind = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    tied = model.all_tied_weights_keys  # gathered or cast, they would no longer be seen to be one
    own = {name: value for name, value in model.state_dict().items() if name not in tied}
    weights = {name: value.to(kind) for name, value in whole_tensors(own, accelerator.is_main_process).items()}
    for config in (model.config, model.config.text_config, model.config.vision_config):
        config.dtype = kind

    def write() -> None:
        out = Path(recipe.out)
        try:
            (out / CARD).write_text(model_card(recipe, hardware_of(accelerator)), encoding="utf-8")
            model.save_pretrained(out, state_dict=weights)
            (out / FINISHED).write_text(_note(recipe), encoding="utf-8")
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(
                f"the model could not be written to {out}: {error}; the last checkpoint is whole. Make room and run "
                "the same command again"
            ) from error

    agreed(accelerator, write)
