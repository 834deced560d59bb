"""What sharing the frames between questions is worth, in time; and what reading them costs, in memory.

Weights are random: they do not change the work, and they practically never end an answer before its last token.
"""

from __future__ import annotations

from typing import Any

import torch

from gapmllm.bench.memory import bench_memory
from gapmllm.bench.synth import devices
from gapmllm.bench.throughput import Pairs, bench_inference, bench_training
from gapmllm.model import PRESETS, ClipPixels, GapMllm, build
from gapmllm.model.memory import GIB, free_memory
from gapmllm.model.presets import TOKENIZER, small_token_ids
from gapmllm.model.tokenizer import Prompts, load_tokenizer
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.synth.scene import SynthOptions, make_scene
from gapmllm.tasks.marks import draw_marks
from gapmllm.tasks.questions import QuestionPlan, make_clips


def bench_model(
    preset: str = "nano",
    *,
    frames: int = 16,
    questions: int = 16,
    new_tokens: int = 24,
    repeats: int = 3,
    device: str | None = None,
    dtype: str | None = None,
    memory_frames: int = 32,
    checkpointing: bool | None = None,
) -> dict[str, Any]:
    """One clip of a procedural room and questions about it: trained on, answered, and the memory of its reading.

    Speeds are medians of `repeats`; what is compared takes turns. device, dtype ("float32", "bfloat16"): default as
    `gapmllm.load`. checkpointing: of gradients; default: with the Qwen presets. ValueError for a model that does not
    fit, or a Qwen preset where there is no GPU and device "cpu" was not asked for.
    """
    model = ready_model(preset, device, dtype)
    clip, pairs = room_clip(model, frames, questions)
    if checkpointing is None:
        checkpointing = PRESETS[preset].base is not None
    if checkpointing:
        model.checkpoint_activations()
    return {
        "preset": f"{preset}, random weights, {_name(model.dtype)}",
        "device": device_name(model.device),
        "frames": frames,
        "visual tokens": clip.num_tokens,
        "questions": questions,
        "repeats, of which the median": repeats,
        "training, gradient checkpointing": checkpointing,
        **bench_training(model, clip, pairs, repeats),
        **bench_inference(model, clip, [question for question, _ in pairs], new_tokens, repeats),
        **bench_memory(model, clip, memory_frames),
    }


def ready_model(preset: str, device: str | None, dtype: str | None) -> GapMllm:
    """Ready for the stage "align", with the small tokenizer: the Qwen presets bring none without a download."""
    if device not in (None, *devices()):
        raise ValueError(f"device {device!r}: this machine has {' and '.join(devices())}")
    where = torch.device(device or devices()[-1])
    kind = getattr(torch, dtype or ("float32" if where.type == "cpu" else "bfloat16"))
    ids = small_token_ids()
    del ids["vocab_size"]
    shapes = build(preset, device="meta", dtype=kind, **ids)
    shapes.train_only("align")
    need = sum(weight.nbytes * (1 + weight.requires_grad) for weight in shapes.parameters())
    size = f"{preset} in {_name(kind)} has {need / GIB:.1f} GiB of weights and gradients"
    if device is None and where.type == "cpu" and PRESETS[preset].base is not None:
        raise ValueError(f"{size} and needs a GPU; none was found. --device cpu tries it all the same, and takes hours")
    if need > (free := free_memory(where)):
        raise ValueError(f"{size}; {free / GIB:.1f} GiB are free on {where}. Choose a smaller preset, or bfloat16")
    model = build(preset, device=where, dtype=kind, **ids)
    model.train_only("align")
    model.prompts = Prompts(load_tokenizer(TOKENIZER))
    return model


def device_name(device: torch.device) -> str:
    """As it is printed."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def room_clip(model: GapMllm, frames: int, questions: int) -> tuple[ClipPixels, Pairs]:
    """All frames of a room as one clip, with questions about marked points, then about the frame that shows an object.

    If there are fewer than asked for, they come again.
    """
    scene = make_scene(0, SynthOptions(frames=frames))
    plan = QuestionPlan(tasks=("points", "frame"), window_frames=frames, canonical_frames=frames)
    found = [question for clip in make_clips(scene, plan, Problems(scene.id)) for question in clip.questions]
    asked = [found[index % len(found)] for index in range(questions)]
    plain = [frame.pixels() for frame in scene.frames]
    marked = draw_marks(plain, [question.mark for question in asked if question.mark])
    clip = model.config.grid.prepare(marked, plain).to(model.device)
    return clip, [(question.prompt, question.answer) for question in asked]
