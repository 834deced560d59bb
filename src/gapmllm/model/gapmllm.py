"""GAP-MLLM: Qwen3-VL beside a frozen VGGT, fused level by level (paper, figure 2 and section 3).

Nothing of Qwen3-VL is written again: `GapMllm` is transformers' own model, whose visual tokens pass through the fusion
on their way to the LLM. Module names are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import cross_entropy, pad
from transformers import AutoModel, AutoModelForImageTextToText, Cache, Qwen3VLForConditionalGeneration
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures as VisualTokens
from transformers.utils import can_return_tuple

from gapmllm.model.attention import PACKED
from gapmllm.model.config import GapMllmConfig
from gapmllm.model.fusion import FUSIONS
from gapmllm.model.image_grid import ClipPixels, to_patches
from gapmllm.model.memory import check_memory
from gapmllm.model.merger import GeometryMerger
from gapmllm.model.tokenizer import Prompts, load_tokenizer
from gapmllm.model.vggt import Vggt

IGNORE = -100  # a label that is not learned, as everywhere in torch

LLM = ("model.language_model", "lm_head")
FUSED = (
    "geometry_merger",
    "geometry_deepstack_merger_list",
    "feature_fusion",
    "deepstack_feature_fusion_list",
)
TRAINED = {
    "geometry": ("geometry_encoder",),
    "language": ("model.visual", *LLM),
    "align": (*LLM, *FUSED),
    "adapt": (*LLM, *FUSED),
}
"""Stage -> the modules that it trains; all others are frozen (paper, section 4.1, for align and adapt)."""


class GeometryEncoder(nn.Module):
    """Holds VGGT under the name that released checkpoints give it."""

    def __init__(self, config: GapMllmConfig) -> None:
        super().__init__()
        self.vggt = Vggt(config.vggt)
        for module in self.vggt.modules():  # it has its own initialisation; transformers' would undo it
            module._is_hf_initialized = True  # type: ignore[assignment]


class GapMllm(Qwen3VLForConditionalGeneration):
    """A multimodal LLM that sees in 3D from RGB frames alone.

    Frames come as `ClipPixels` (`config.grid.prepare(frames)`), one for each clip; text as token ids in which every
    visual token has a slot (`Prompts`). The tokenizer's side is `prompts`, where the checkpoint brings a tokenizer.
    """

    config_class = GapMllmConfig
    config: GapMllmConfig
    prompts: Prompts | None = None

    def __init__(self, config: GapMllmConfig) -> None:
        super().__init__(config)
        if config.text_config._attn_implementation == "sdpa":
            config.text_config._attn_implementation = PACKED
        self.geometry_deepstack_merger_list = nn.ModuleList()
        self.deepstack_feature_fusion_list = nn.ModuleList()
        if config.fusion != "none":
            self.geometry_encoder = GeometryEncoder(config)
            self.geometry_merger, self.feature_fusion = self._level()
            for _ in config.geometry_layers[:-1]:
                merger, fusion = self._level()
                self.geometry_deepstack_merger_list.append(merger)
                self.deepstack_feature_fusion_list.append(fusion)
        self.post_init()

    def _level(self) -> tuple[GeometryMerger, nn.Module]:
        width, context = self.config.text_config.hidden_size, 2 * self.config.vggt.embed_dim
        merge = self.config.vision_config.spatial_merge_size
        merger = GeometryMerger(context, self.config.merger_hidden_size, width, merge)
        return merger, FUSIONS[self.config.fusion](width)

    # The forward pass, from the frames to the loss.

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        clips: Sequence[ClipPixels] | None = None,
        labels: Tensor | None = None,
        num_answer_tokens: int | Tensor | None = None,
        *,
        attention_mask: Tensor | BlockMask | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        image_grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        mm_encoder_outputs: dict[str, VisualTokens] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Frames and text -> logits, and the loss where labels are given.

        input_ids: (B, L). clips: in the order of their slots in input_ids. labels: (B, L), `IGNORE` where nothing is
        to be learned. The loss is the sum over the answer tokens of their negative log-likelihood, divided by
        num_answer_tokens (default: their number in this call; training gives the number in the global batch). With
        labels, logits are those that predict an answer token, (answer tokens, vocabulary), row by row; without, (B, L,
        vocabulary). Other arguments are those of transformers' Qwen3-VL.
        """
        if clips is not None:
            image_grid_thw, mm_token_type_ids = self.slots(input_ids, clips)
            mm_encoder_outputs = {"image": self.encode(clips)}
        elif not mm_encoder_outputs and "pixel_values" not in kwargs:
            self._no_slots(input_ids, past_key_values)
        kwargs |= {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "image_grid_thw": image_grid_thw,
            "mm_token_type_ids": mm_token_type_ids,
            "mm_encoder_outputs": mm_encoder_outputs,
        }
        if labels is None:
            return super().forward(input_ids, **kwargs)
        out = self.model(input_ids, **kwargs, use_cache=False)
        answers = labels[:, 1:] != IGNORE
        logits = self.lm_head(out.last_hidden_state[:, :-1][answers])
        loss = cross_entropy(logits.float(), labels[:, 1:][answers], reduction="sum")
        if num_answer_tokens is None and not len(logits):
            raise ValueError(f"the labels hold no answer token (all are {IGNORE}): there is no mean over none")
        loss = loss / (len(logits) if num_answer_tokens is None else num_answer_tokens)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions
        )

    def encode(self, clips: Sequence[ClipPixels]) -> VisualTokens:
        """Clips -> the visual tokens that the LLM reads, of all levels.

        pooler_output: for each clip (S * rows * cols, width); deepstack_features: for each DeepStack level the same.
        Clips of the same size go through the encoders together. ValueError if a clip cannot fit into memory.
        """
        clips = self._clips(clips)
        tokens: list[list[Tensor]] = [[] for _ in clips]
        for alike in _alike(clips):
            clip, frames = clips[alike[0]], sum(clips[index].num_frames for index in alike)
            check_memory(self.config, frames, clip.rows, clip.cols, self.dtype, self.device)
            fused = self._fuse([clips[index] for index in alike])
            levels = [level.unflatten(0, (len(alike), -1)).flatten(1, 3) for level in fused]
            for row, index in enumerate(alike):
                tokens[index] = [level[row] for level in levels]
        *deepstack, main = (list(level) for level in zip(*tokens, strict=True))
        return VisualTokens(pooler_output=main, deepstack_features=deepstack)

    def _fuse(self, clips: Sequence[ClipPixels]) -> list[Tensor]:
        """What the LLM sees (figure 2): the visual tokens of each level, mixed with the geometry of theirs."""
        visual = self.see(clips)
        if self.config.fusion == "none":
            return visual
        pairs = self._pairs(visual, self.measure(clips))
        fused = [fusion(seen, geometry) for fusion, seen, geometry in pairs]
        return visual[: -len(fused)] + fused

    def _pairs(self, visual: list[Tensor], geometry: list[Tensor]) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        """For each fused level: its fusion, the visual tokens, and the geometry merged to their grid and width."""
        mergers = (*self.geometry_deepstack_merger_list, self.geometry_merger)
        fusions = (*self.deepstack_feature_fusion_list, self.feature_fusion)
        for fusion, merger, seen, layer in zip(fusions, mergers, visual[-len(fusions) :], geometry, strict=True):
            yield fusion, seen, merger(layer)

    def see(self, clips: Sequence[ClipPixels]) -> list[Tensor]:
        """Qwen3-VL's vision tower: B clips of one size -> levels (B * S, rows, cols, width), DeepStack, then main."""
        vision = self.config.vision_config
        frames = torch.cat([clip.visual for clip in clips])
        patches = to_patches(frames, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
        sizes = torch.cat([clip.grid_thw() for clip in clips])
        with _grad_if_trained(self.model.visual):
            seen = self.model.visual(patches.to(self.dtype), grid_thw=sizes)
        levels = (*seen.deepstack_features, seen.pooler_output)
        return [level.view(len(frames), clips[0].rows, clips[0].cols, -1) for level in levels]

    def measure(self, clips: Sequence[ClipPixels]) -> list[Tensor]:
        """VGGT: B clips of one size -> its blocks `geometry_layers`, each (B * S, patch rows, patch cols, 2C).

        The frames of a clip are seen together. Camera and register tokens are dropped.
        """
        patch = self.config.vggt.patch_size
        frames = torch.stack([clip.geometry for clip in clips])
        with _grad_if_trained(self.geometry_encoder):
            layers, start = self.geometry_encoder.vggt.aggregate(frames, self.config.geometry_layers)
        grid = [size // patch for size in frames.shape[-2:]]
        return [layers[k][:, :, start:].flatten(0, 1).unflatten(1, grid) for k in self.config.geometry_layers]

    def slots(self, input_ids: Tensor | None, clips: Sequence[ClipPixels]) -> tuple[Tensor, Tensor]:
        """transformers' image_grid_thw and mm_token_type_ids, which place the clips' tokens.

        Each frame needs its own run of slots, and the frames of a clip stand in one row; ValueError otherwise.
        """
        if not isinstance(input_ids, Tensor) or input_ids.ndim != 2:
            raise ValueError("clips need input_ids (B, L): the frames' tokens go where the prompt has slots for them")
        clips = self._clips(clips)
        images = input_ids == self.config.image_token_id
        edges = pad(images.int(), (1, 1)).diff(dim=1)
        (rows, starts), (_, ends) = (edge.nonzero().T.tolist() for edge in (edges == 1, edges == -1))
        runs = [end - start for start, end in zip(starts, ends, strict=True)]
        frames = [clip.tokens_per_frame for clip in clips for _ in range(clip.num_frames)]
        if runs != frames:
            shown = ", ".join(f"{clip.num_frames} frames of {clip.rows}x{clip.cols}" for clip in clips)
            raise ValueError(
                f"the prompt holds {sum(runs)} image slots in {len(runs)} runs, but the clips give {sum(frames)} "
                f"visual tokens ({shown}). Build the prompt from the same clips, in the same order: "
                "Prompts.prefix([clip.tokens_per_frame] * clip.num_frames)"
            )
        places = iter(rows)
        if any(len({next(places) for _ in range(clip.num_frames)}) > 1 for clip in clips):
            raise ValueError("a clip's frames would fall into several rows of input_ids; give the clips row by row")
        return torch.cat([clip.grid_thw() for clip in clips]).to(input_ids.device), images.int()

    def _clips(self, clips: Sequence[ClipPixels]) -> list[ClipPixels]:
        """The clips where the model is; ValueError for what this model cannot read."""
        if isinstance(clips, ClipPixels) or not clips or not all(isinstance(clip, ClipPixels) for clip in clips):
            raise ValueError("clips must be a list of ClipPixels, one for each clip: [config.grid.prepare(frames), …]")
        grid = self.config.grid
        for clip in clips:
            if (clip.patch_size, clip.geometry_patch_size) != (grid.patch_size, grid.geometry_patch_size):
                raise ValueError(
                    f"a clip was prepared for patches of {clip.patch_size} and {clip.geometry_patch_size} pixels, this "
                    f"model has {grid.patch_size} and {grid.geometry_patch_size}: prepare it with its own config.grid"
                )
        if self.device.type == "meta":  # weights that accelerate keeps elsewhere: it brings the inputs to them
            return list(clips)
        return [clip.to(self.device) for clip in clips]

    def _no_slots(self, input_ids: Tensor | None, cache: Cache | None) -> None:
        """ValueError for a prompt with slots that nothing fills; in an answer, such a token is one like any other."""
        if input_ids is None or (cache is not None and cache.get_seq_length()):
            return
        if slots := int((input_ids == self.config.image_token_id).sum()):
            raise ValueError(f"the prompt holds {slots} image slots, but no clips were given to fill them")

    # What transformers' users expect.

    def generate(self, inputs: Tensor | None = None, clips: Sequence[ClipPixels] | None = None, **kwargs: Any) -> Any:
        """transformers' generate; clips are encoded once, before the first token."""
        if clips is not None:
            places = self.slots(kwargs.get("input_ids", inputs), clips)
            kwargs["image_grid_thw"], kwargs["mm_token_type_ids"] = places
            with torch.no_grad():
                kwargs["mm_encoder_outputs"] = {"image": self.encode(clips)}
        return super().generate(inputs, **kwargs)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """transformers' save_pretrained, with the tokenizer beside the weights."""
        super().save_pretrained(save_directory, **kwargs)
        if self.prompts is not None:
            self.prompts.tokenizer.save_pretrained(save_directory)

    @classmethod
    def from_pretrained(cls, name: str | Path, *args: Any, **kwargs: Any) -> Any:
        """transformers' from_pretrained, for folders of `save_pretrained`. `gapmllm.load` opens other layouts too."""
        loaded = super().from_pretrained(name, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # output_loading_info=True
        model.prompts = Prompts(load_tokenizer(name, download=True))
        return loaded

    def train_only(self, stage: str) -> None:
        """Freeze all but what a stage trains (`TRAINED`); a module that this model lacks is left out."""
        if stage not in TRAINED:
            raise ValueError(f"stage {stage!r} is not known; choose from {', '.join(TRAINED)}")
        self.requires_grad_(False)
        modules = dict(self.named_modules())
        trained = [modules[name] for name in TRAINED[stage] if name in modules]
        if not trained:
            raise ValueError(f'stage "{stage}" trains {", ".join(TRAINED[stage])}, and this model has none of it')
        for module in trained:
            module.requires_grad_(True)


def gates(model: GapMllm, clips: Sequence[ClipPixels]) -> list[list[Tensor]]:
    """Where geometry is trusted: for each clip and level (DeepStack, shallow to deep, main) the gate of each token.

    Returns tensors (S, rows, cols), the mean over the channels of g in out = g LN(v) + (1 - g) LN(q): 1 = the visual
    token alone, 0 = geometry alone (paper, gated fusion). ValueError where the fusion has no gates.
    """
    if model.config.fusion != "gated":
        raise ValueError(f'gates exist for fusion "gated" only; this model has "{model.config.fusion}"')
    clips = model._clips(clips)
    with torch.no_grad():
        return [
            [
                fusion.gate(seen, geometry).float().mean(-1)  # type: ignore[operator]
                for fusion, seen, geometry in model._pairs(model.see([clip]), model.measure([clip]))
            ]
            for clip in clips
        ]


@contextmanager
def _grad_if_trained(module: nn.Module) -> Iterator[None]:
    """A frozen encoder keeps no activations."""
    trained = any(parameter.requires_grad for parameter in module.parameters())
    with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
        yield


def _alike(clips: Sequence[ClipPixels]) -> list[list[int]]:
    """Indices of the clips, in groups of the same number and sizes of frames."""
    groups: dict[tuple[torch.Size, torch.Size], list[int]] = {}
    for index, clip in enumerate(clips):
        groups.setdefault((clip.visual.shape, clip.geometry.shape), []).append(index)
    return list(groups.values())


AutoModel.register(GapMllmConfig, GapMllm)
AutoModelForImageTextToText.register(GapMllmConfig, GapMllm)
