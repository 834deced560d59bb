"""The scores that stand for the others: what a training run reports, and what the table of `gapmllm eval` shows."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gapmllm.evaluation.report import Metric

_GROUP = re.compile(r"\[.*\]")
METRICS = {
    "points": ("median_error", "within_0.25m", "label_accuracy"),
    "detection": ("f1[present]@0.25", "mAP[present]@0.25"),
    "grounding": ("acc[overall]@0.25", "acc[overall]@0.5", "mIoU[overall]", "frame_accuracy"),
    "caption": ("CIDEr@0.5",),
}
"""Task of a record -> names of its scores in a `Report`."""


def headline(task: str, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Those of a report's metrics by "task/name", without the group in brackets: "grounding/acc@0.25"."""
    return {f"{task}/{_GROUP.sub('', name)}": metrics[name] for name in METRICS[task] if name in metrics}
