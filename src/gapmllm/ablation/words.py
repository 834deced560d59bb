"""Verdicts in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gapmllm.ablation.numbers import verdict
from gapmllm.evaluation import Metric
from gapmllm.evaluation.markdown import cell, label, less_is_better, number


def summary(reference: str, other: str, differences: Mapping[str, Metric]) -> str:
    """How the reference does against one row. differences: metric -> row minus reference."""
    names: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
    for name, found in differences.items():
        if found.value is not None:
            names[verdict(name, found)].append(name)
    better, worse, undecided = names["worse"], names["better"], names["undecided"]  # seen from the reference
    parts = [f"better in {len(better)} of {sum(map(len, names.values()))} metrics" + _listed(better)]
    parts.append(f"worse in {len(worse)}" + _listed(worse))
    parts.append(f"undecided in {len(undecided)}")
    claim = {
        (True, False): "holds where it is decided",
        (True, True): "holds in part",
        (False, True): "does not hold here",
        (False, False): "is not decided at this size",
    }
    said = f"That `{reference}` is better {claim[bool(better), bool(worse)]}"
    return f"Against `{other}`: {', '.join(parts)}. {said}."


def sentence(name: str, reference: str, differences: Mapping[str, Metric]) -> str:
    """What a metric says about the reference. differences: row -> row minus reference."""
    parts = []
    for other, found in differences.items():
        ours = found if less_is_better(name) else _negative(found)  # above 0: the reference is better
        judged = verdict(name, found)
        if found.value is None:
            parts.append(f"not compared with `{other}` (no number)")
        elif judged == "undecided":
            parts.append(f"undecided at this size against `{other}` ({cell(ours, sign=True)})")
        else:
            word, by = ("better", ours) if judged == "worse" else ("worse", _negative(ours))
            parts.append(f"{word} than `{other}` by {cell(by)}")
    return f"{label(name)}: `{reference}` is {'; '.join(parts)}."


def judged(name: str, metric: Metric | None) -> str:
    """A difference with its verdict, bold if it is decided."""
    if metric is None or metric.value is None:
        return "-"
    word = verdict(name, metric)
    return f"{cell(metric, sign=True)} {word if word == 'undecided' else f'**{word}**'}"


def plain(value: Any) -> str:
    return "-" if value is None else number(value) if isinstance(value, float) else str(value)


def _negative(metric: Metric) -> Metric:
    if metric.value is None or metric.low is None or metric.high is None:
        return Metric(value=None if metric.value is None else -metric.value)
    return Metric(value=-metric.value, low=-metric.high, high=-metric.low)


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
