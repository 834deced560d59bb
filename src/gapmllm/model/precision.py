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
