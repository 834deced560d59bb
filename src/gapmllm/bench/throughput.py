"""Questions per second, one by one against all at once; and how much of the machine's arithmetic training uses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from gapmllm.infer.decoding import Decoded, Decoding
from gapmllm.infer.encoded import EncodedClip
from gapmllm.model import ClipPixels, GapMllm
from gapmllm.model.sequence import dense_mask
from gapmllm.train.costs import multiplication_rate
from gapmllm.train.packing import Pack, pack

Pairs = Sequence[tuple[str, str]]
T = TypeVar("T")


def bench_training(model: GapMllm, clip: ClipPixels, pairs: Pairs, repeats: int) -> dict[str, Any]:
    """One batch of the stage "align": forward and backward passes that give the same gradients on all sides.

    Without the optimiser, whose step would make one by one slower still. A question alone is given no mask: the causal
    one, which is the faster, is right for it. On a GPU the pack is also run with FlexAttention.
    """
    assert model.prompts is not None
    model.train()
    packed = pack([(clip, pairs)], model.prompts).to(model.device)
    alone = [pack([(clip, [pair])], model.prompts).to(model.device) for pair in pairs]

    def step(packs: Sequence[Pack], flex: bool = False, **inputs: None) -> float:
        losses = []
        for one in packs:
            out = model(**{**one.inputs(model, flex=flex), **inputs}, num_answer_tokens=packed.num_answer_tokens)
            out.loss.backward()
            losses.append(out.loss.item())
        model.zero_grad()
        return sum(losses)

    together = {"packed": lambda: step([packed])}
    if model.device.type == "cuda":
        together["packed, FlexAttention"] = lambda: step([packed], flex=True)
    for side in (lambda: step(alone[:1], attention_mask=None), *together.values()):
        side()  # the first time takes longer
    losses, seconds = take_turns({"one by one": lambda: step(alone, attention_mask=None), **together}, repeats)
    fastest = min(seconds[name] for name in together)
    rate, peak = step_flops(model, packed) / fastest, multiplication_rate(model.device, model.dtype, repeats)
    return {
        **rates("training", seconds, len(pairs)),
        "training, losses differ by": max(losses.values()) - min(losses.values()),
        "training, packed, tokens/s": packed.input_ids.numel() / fastest,
        "training, packed, TFLOP/s": rate / 1e12,
        "large matrix multiplication, TFLOP/s": peak / 1e12,
        "training, packed, share of that": rate / peak,
    }


def bench_inference(
    model: GapMllm, clip: ClipPixels, asked: Sequence[str], new_tokens: int, repeats: int
) -> dict[str, Any]:
    """Greedy answers of new_tokens each: the frames read for each question, against once for all."""
    decoding = Decoding(max_tokens=new_tokens)

    def read_and_answer(questions: Sequence[str]) -> list[Decoded]:
        return EncodedClip(model, clip).answer(questions, decoding)

    read_and_answer(asked)  # the first time takes longer
    answers, seconds = take_turns(
        {
            "one by one": lambda: [read_and_answer([question])[0] for question in asked],
            "shared": lambda: read_and_answer(asked),
        },
        repeats,
    )
    pairs = list(zip(*answers.values(), strict=True))
    apart = (abs(a - b) for one, other in pairs for a, b in zip(one.logprobs, other.logprobs, strict=False))
    made = sum(len(shared.ids) for _, shared in pairs)
    return {
        **rates("inference", seconds, len(asked)),
        "inference, equal answers": sum(one.ids == other.ids for one, other in pairs),
        "inference, log-probabilities differ by": max(apart),
        "inference, tokens made": made,
        "inference, shared, tokens/s": made / seconds["shared"],
    }


def take_turns(sides: dict[str, Callable[[], T]], repeats: int) -> tuple[dict[str, T], dict[str, float]]:
    """What each side gives, and the median of its seconds. Each side ends by reading a number: a GPU is then done."""
    results: dict[str, T] = {}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            results[name] = side()
            times[name].append(time.perf_counter() - start)
    return results, {name: median(values) for name, values in times.items()}


def rates(what: str, seconds: dict[str, float], questions: int) -> dict[str, float]:
    """Questions/s of each side, and how many times as fast as the first the others are."""
    first, *others = seconds
    rates = {f"{what}, {name}, questions/s": questions / value for name, value in seconds.items()}
    return rates | {f"{what}, {name}, times as fast": seconds[first] / seconds[name] for name in others}


# torch knows how to count the attention kernels of GPUs only.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
}


def step_flops(model: GapMllm, packed: Pack) -> float:
    """Floating-point operations that a training step of the stage "align" needs, forward and backward.

    The forward pass is counted as it runs. A backward pass has two multiplications for each one of the forward pass;
    the frozen encoders have none. What gradient checkpointing computes again is not needed, nor are the scores of the
    LLM's attention that the mask leaves out, whatever the kernel does. Source: PaLM (arXiv 2204.02311), appendix B.
    """
    mask = dense_mask(packed.segments, packed.segments)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        model(**packed.inputs(model, flex=False) | {"attention_mask": mask})
    counts = counter.get_flop_counts()
    encoders = ("GapMllm.model.visual", "GapMllm.geometry_encoder.vggt.aggregator")
    frozen = sum(sum(counts[name].values()) for name in encoders)
    scores = sum(n for kind, n in counts["GapMllm.model.language_model"].items() if "dot_product" in str(kind))
    unseen = 1 - mask.sum().item() / mask.numel()
    return frozen + 3 * (counter.get_total_flops() - frozen - unseen * scores)
