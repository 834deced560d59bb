"""Where the visual tokens of clips go in the text: checked against the slots that the prompt has for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache

from gapmllm.model.image_grid import ClipPixels, ImageGrid


def check_clips(clips: Sequence[ClipPixels], grid: ImageGrid) -> None:
    """ValueError for what a model with this grid cannot read."""
    if isinstance(clips, ClipPixels) or not clips or not all(isinstance(clip, ClipPixels) for clip in clips):
        raise ValueError("clips must be a list of ClipPixels, one for each clip: [config.grid.prepare(frames), …]")
    needed = (grid.merge_size, grid.patch_size, grid.geometry_patch_size)
    for clip in clips:
        given = (clip.merge_size, clip.patch_size, clip.geometry_patch_size)
        if given != needed:
            raise ValueError(
                "a clip was prepared for {0}x{0} patches a token, of {1} and {2} pixels; ".format(*given)
                + "this model has {0}x{0}, of {1} and {2}: prepare it with its own config.grid".format(*needed)
            )


def alike_clips(clips: Sequence[ClipPixels]) -> list[list[int]]:
    """Indices of the clips, in groups of the same number and sizes of frames."""
    groups: dict[tuple[torch.Size, torch.Size], list[int]] = {}
    for index, clip in enumerate(clips):
        groups.setdefault((clip.visual.shape, clip.geometry.shape), []).append(index)
    return list(groups.values())


def place(input_ids: Tensor | None, clips: Sequence[ClipPixels], image_id: int) -> tuple[Tensor, Tensor]:
    """transformers' image_grid_thw (frames, 3) and mm_token_type_ids (B, L), which place the clips' tokens.

    Each frame needs a run of slots (`image_id`) of its own, and a clip's frames stand in one row; else ValueError.
    """
    if not isinstance(input_ids, Tensor) or input_ids.ndim != 2:
        raise ValueError("clips need input_ids (B, L): the frames' tokens go where the prompt has slots for them")
    slots = input_ids == image_id
    edges = pad(slots.int(), (1, 1)).diff(dim=1)
    (rows, starts), (_, ends) = (edge.nonzero().T.tolist() for edge in (edges == 1, edges == -1))
    runs = [end - start for start, end in zip(starts, ends, strict=True)]
    frames = [clip.tokens_per_frame for clip in clips for _ in range(clip.num_frames)]
    if runs != frames:
        shown = ", ".join(f"{clip.num_frames} frames of {clip.rows}x{clip.cols}" for clip in clips)
        raise ValueError(
            f"the prompt holds {sum(runs)} image slots in {len(runs)} runs, but the clips give {sum(frames)} visual "
            f"tokens ({shown}). Build the prompt from the same clips, in the same order: "
            "Prompts.prefix([clip.tokens_per_frame] * clip.num_frames)"
        )
    places = iter(rows)
    if any(len({next(places) for _ in range(clip.num_frames)}) > 1 for clip in clips):
        raise ValueError("a clip's frames would fall into several rows of input_ids; give the clips row by row")
    return torch.cat([clip.grid_thw() for clip in clips]).to(input_ids.device), slots.int()


def refuse_slots(input_ids: Tensor | None, image_id: int, cache: Cache | None) -> None:
    """ValueError for a prompt with slots that nothing fills; in an answer, such a token is one like any other."""
    if input_ids is None or (cache is not None and cache.get_seq_length()):
        return
    if slots := int((input_ids == image_id).sum()):
        raise ValueError(f"the prompt holds {slots} image slots, but no clips were given to fill them")
