"""Small heads of the dense losses: a gradient for every visual token. They are thrown away after training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from gapmllm.model import GapMllm
from gapmllm.tasks import COLORS
from gapmllm.train.targets import CLASSES

PROBES = {
    "points": 3,
    "centers": 3,
    "yaws": 2,
    "places": 2,
    "classes": len(CLASSES),
    "labels": len(CLASSES),
    "marks": 1 + len(COLORS),
}
"""Loss -> outputs of its probe."""
_SCALE = 10.0


class PointProbe(nn.Sequential):
    """Tokens (..., width) -> points (..., size)."""

    def __init__(self, width: int, size: int = PROBES["points"]) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, size))


class WordProbe(nn.Module):
    """Visual tokens (N, width) -> logits (N, free + names): how much each points the way of a name's word embeddings.

    A token that shows a chair, or a red mark, thus comes to the LLM as what "chair" and "red" are to it: its attention
    finds it by the question's word, and what it finds is the answer's. free: outputs before the names, that no word
    stands for.
    """

    def __init__(self, model: GapMllm, names: Sequence[str], free: int = 0) -> None:
        super().__init__()
        if model.prompts is not None:  # a plan asks for sizes alone, and may have no tokenizer
            self._spell(model.prompts.tokenizer, names)
        width = model.config.text_config.hidden_size
        self.free = nn.Parameter(torch.randn(free, width)) if free else None  # FSDP2 shards no empty ones
        self.scale, self.bias = nn.Parameter(torch.full((1,), _SCALE)), nn.Parameter(torch.zeros(free + len(names)))

    def _spell(self, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> None:
        spellings = [
            tokenizer(text, add_special_tokens=False).input_ids for name in names for text in (name, f" {name}")
        ]
        length = max(map(len, spellings))
        ids = [[*spelling, *spelling[:1] * (length - len(spelling))] for spelling in spellings]
        share = [[1 / len(s)] * len(s) + [0.0] * (length - len(s)) for s in spellings]
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        self.register_buffer("share", torch.tensor(share)[..., None], persistent=False)

    def forward(self, tokens: Tensor, words: nn.Module) -> Tensor:
        """words: the LLM's embedding of token ids."""
        spelled = (words(self.ids) * self.share).sum(dim=1)
        names = spelled.unflatten(0, (-1, 2)).mean(dim=1)
        directions = names if self.free is None else torch.cat([self.free, names])
        directions = functional.normalize(directions.float(), dim=-1)
        return self.scale * functional.normalize(tokens.float(), dim=-1) @ directions.T + self.bias
