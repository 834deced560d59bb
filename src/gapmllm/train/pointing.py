"""The loss `pointing`: while the LLM writes about an object, it looks where the object is.

That a text, a point or the colour of a cross means certain visual tokens is the hard part of what a small model learns:
told only which digits were right, it takes long to find out where they could have been read. So some heads of a layer
in the middle are told where to look, at each token of an answer: at the visual tokens that show the object it is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gapmllm.model import IGNORE, ClipPixels, GapMllm
from gapmllm.model.attention import overheard
from gapmllm.model.sequence import PREFIX
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


def pointing_loss(queries: Tensor, keys: Tensor, pack: Pack, slots: int, targets: Sequence[Tensor]) -> Tensor:
    """Negative log of the attention that right tokens get, summed over the answer tokens that have any, mean of heads.

    queries: (B, heads, L, head_dim), keys: (B, key heads, L, head_dim), rotated (`overheard`); the heads of the first
    key are taught, the others look where they like. targets: `pointing_target` of each row.
    """
    taught, scale = queries.shape[1] // keys.shape[1], keys.shape[-1] ** -0.5
    total = queries.new_zeros((), dtype=torch.float32)
    for row, target in enumerate(targets):
        places, right = pointed_at(pack.entries[row], target)
        segments = pack.segments[row]
        for segment in segments[places].unique():
            asked = segments[places] == segment
            seen = ((segments == PREFIX) | (segments == segment)).nonzero()[:, 0]
            scores = queries[row, :taught, places[asked]].float() @ keys[row, 0, seen].float().T * scale
            looks = scores.masked_fill(places[asked, None] < seen, -torch.inf).log_softmax(dim=-1)  # (heads, T, seen)
            visual = looks[:, :, pack.input_ids[row, seen] == slots]
            total = total - visual.masked_fill(~right[asked], -torch.inf).logsumexp(dim=-1).mean(dim=0).sum()
    return total


def pointed_at(entries: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Entries (L,) of a row and its `pointing_target` -> (T,) the positions that predict a token about something shown,
    and (T, V) the tokens that show it."""
    place = (entries[1:] != IGNORE).nonzero()[:, 0]
    right = target[entries[1:][place]]
    shown = right.any(dim=-1)
    return place[shown], right[shown]


@contextmanager
def middle_attention(model: GapMllm) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects the queries and keys of the LLM's layer half way up: after DeepStack, with layers left to use it."""
    layers = model.model.language_model.layers
    with overheard(layers[len(layers) // 2].self_attn) as found:
        yield found
