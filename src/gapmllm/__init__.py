"""GAP-MLLM: a multimodal LLM that sees in 3D from RGB frames alone (arXiv 2603.16461)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gapmllm.model import load as load


def __getattr__(name: str) -> Any:
    """`gapmllm.load` brings torch and transformers with it: only when it is asked for."""
    if name == "load":
        from gapmllm.model import load

        return load
    raise AttributeError(f"module 'gapmllm' has no attribute {name!r}")
