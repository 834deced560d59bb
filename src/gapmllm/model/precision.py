"""Where mixed precision does not pay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def float32_on_cpu(*values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Queries, keys and values as attention should get them: on a CPU in float32, under autocast, too.

    There the backward pass of torch's scaled_dot_product_attention takes several times as long in bfloat16.
    """
    if values[0].device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            yield tuple(value.float() for value in values)
    else:
        yield values


def emulates_bfloat16(device: torch.device) -> bool:
    """A CPU without instructions for bfloat16: torch multiplies tens of times as slowly as in float32 there."""
    on_cpu = device.type == "cpu" and torch.backends.mkldnn.is_available()
    return on_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
