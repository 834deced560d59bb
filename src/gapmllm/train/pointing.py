"""The loss `pointing`: while the LLM writes about an object, it looks where the object is.

That a text, a point or the colour of a cross means certain visual tokens is the hard part of what a small model learns:
told only which digits were right, it takes long to find out where they could have been read. So at each token of an
answer a state inside the LLM has to pick out, among the clip's visual tokens, those that show the object it is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gapmllm.model import IGNORE, ClipPixels, GapMllm
from gapmllm.scenes.records import Question
from gapmllm.tasks.questions.plan import asked_objects, boxes_in_camera
from gapmllm.train.packing import Pack, num_entries
from gapmllm.train.samples import Sample
from gapmllm.train.targets import cell_shares, crosses

_DIGITS = 4
_UNKNOWN = -2
"""The id of no object: no pixel has it."""


def pointing_target(sample: Sample, clip: ClipPixels) -> Tensor:
    """(entries, visual tokens) bool: the tokens that show what each entry (`Pack.entries`) of the answers is about.

    An object is shown by the tokens that it covers at least half as much of as of the token that it covers most of, a
    marked pixel by the token with the cross in it. No token is set for an object that is not in view, or not known.
    """
    maps = [frame.instance_map() for frame in sample.frames]
    marked = {mark: (mark.frame * clip.rows + row) * clip.cols + col for mark, (row, col) in crosses(sample, clip)}
    rows = []
    for question in sample.questions:
        if question.mark is not None:
            rows.append(np.arange(clip.num_tokens) == marked[question.mark])
        else:
            rows += [_showing(maps, key, clip) for key in _objects(question, sample)]
    return torch.from_numpy(np.stack(rows))


def _showing(maps: Sequence[NDArray[np.int32] | None], key: int, clip: ClipPixels) -> NDArray[np.bool_]:
    """(visual tokens,) which of them show the object of that id."""
    blank = np.zeros((clip.rows, clip.cols))
    covered = np.stack([blank if ids is None else cell_shares(ids == key, clip.rows, clip.cols) for ids in maps])
    return (covered > 0).ravel() & (2 * covered >= covered.max()).ravel()


def _objects(question: Question, sample: Sample) -> list[int]:
    """Ids of the objects of an answer's entries, `_UNKNOWN` where that is not known."""
    found = [question.target.get("object_id", _UNKNOWN)]
    if "objects" in question.target:
        boxes = boxes_in_camera(asked_objects(sample.scene).values(), sample.frames[0])
        ids = {_key(box): key for key, box in boxes.items()}
        found = [ids.get(_key(entry["bbox_3d"]), _UNKNOWN) for entry in question.target["objects"]]
    entries = num_entries(question.answer)
    return found if len(found) == entries else [_UNKNOWN] * entries  # an empty list; an imported answer of its own form


def _key(box: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(number, _DIGITS) for number in box[:6])  # angles may turn around by rounding


class Pointer(nn.Module):
    """States of text (T, width) and of visual tokens (V, width) -> log-probabilities (T, V) of what is looked at."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, text: Tensor, visual: Tensor) -> Tensor:
        query, key = self.query(self.norm(text)), self.key(self.norm(visual))
        return (query @ key.T / query.shape[-1] ** 0.5).float().log_softmax(dim=-1)

    def loss(self, states: Tensor, pack: Pack, slots: int, targets: Sequence[Tensor]) -> Tensor:
        """Negative log-probability of looking at a right token, summed over the answer tokens that have any.

        states: (B, L, width) inside the LLM. slots: the token id of a visual token's place. targets: of each row.
        """
        total = states.new_zeros((), dtype=torch.float32)
        for row, target in enumerate(targets):
            place, right = pointed_at(pack.entries[row], target)
            if len(place):
                said = self(states[row, place], states[row, pack.input_ids[row] == slots])
                total = total - said.masked_fill(~right, -torch.inf).logsumexp(dim=-1).sum()
        return total


def pointed_at(entries: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Entries (L,) of a row and its `pointing_target` -> (T,) the positions that predict a token about something shown,
    and (T, V) the tokens that show it."""
    place = (entries[1:] != IGNORE).nonzero()[:, 0]
    right = target[entries[1:][place]]
    shown = right.any(dim=-1)
    return place[shown], right[shown]


@contextmanager
def states_inside(model: GapMllm) -> Iterator[list[Tensor]]:
    """Collects (B, L, width), what the LLM's layer two thirds up gives: after DeepStack, with layers left to use it."""
    found: list[Tensor] = []
    layers = model.model.language_model.layers
    hook = layers[2 * len(layers) // 3 - 1].register_forward_hook(lambda _module, _args, out: found.append(out))
    try:
        yield found
    finally:
        hook.remove()
