"""GAP-MLLM: Qwen3-VL beside a frozen VGGT, fused level by level (arXiv 2603.16461).

    frames ─ see ────── Qwen3-VL's tower: visual tokens, DeepStack and main ──┐
       └──── measure ── VGGT: a block for each level ── merge: its tokens ── fuse ── LLM

Nothing of Qwen3-VL is written again: `GapMllm` is transformers' own model, whose visual tokens pass through the fusion
on their way to the LLM. Module names are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import cross_entropy
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
from gapmllm.model.placing import alike_clips, check_clips, place, refuse_slots
from gapmllm.model.tokenizer import Prompts, load_tokenizer
from gapmllm.model.vggt import Vggt
from gapmllm.model.weight_files import shorten
from gapmllm.model.weights import save_folder

if TYPE_CHECKING:
    from gapmllm.infer import View

IGNORE = -100  # a label that is not learned, as everywhere in torch

PARTS = {
    "vision": ("model.visual",),
    "llm": ("model.language_model", "lm_head"),
    "geometry": ("geometry_encoder",),
    "mergers": ("geometry_merger", "geometry_deepstack_merger_list"),
    "fusion": ("feature_fusion", "deepstack_feature_fusion_list"),
}
"""Part of a model -> its modules. Together they are all of it; what is frozen and learning rates go by part."""
FUSED = PARTS["mergers"] + PARTS["fusion"]
TRAINED = {
    "geometry": ("geometry",),
    "language": ("vision", "llm"),
    "align": ("llm", "mergers", "fusion"),
    "adapt": ("llm", "mergers", "fusion"),
}
"""Stage -> the parts that it trains; all others are frozen. align and adapt: as in the paper."""


@dataclass
class AnswerOutput(CausalLMOutputWithPast):
    """What `GapMllm.forward` returns where labels are given."""

    token_losses: Tensor | None = None
    """(answer tokens,) negative log-likelihood of each, row by row, float32."""


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
        if config.fusion != "none":
            self.geometry_encoder = GeometryEncoder(config)
            self.new_levels()
        self.post_init()

    def new_levels(self) -> None:
        """A new merger and a new fusion for each level (`FUSED`), as stage 1 begins with them."""
        config = self.config
        width, context = config.text_config.hidden_size, 2 * config.vggt.embed_dim
        merge, number = config.vision_config.spatial_merge_size, len(config.geometry_layers)
        mergers = [GeometryMerger(context, config.merger_hidden_size, width, merge) for _ in range(number)]
        fusions = [FUSIONS[config.fusion](width) for _ in range(number)]
        for level in (*mergers, *fusions):
            level.apply(self._init_weights)
        self.geometry_merger, self.geometry_deepstack_merger_list = mergers[-1], nn.ModuleList(mergers[:-1])
        self.feature_fusion, self.deepstack_feature_fusion_list = fusions[-1], nn.ModuleList(fusions[:-1])

    # The forward pass, from the frames to the loss.

    @can_return_tuple  # type: ignore[untyped-decorator]
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
        kwargs |= {  # named above because generate gives only what the signature names
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "image_grid_thw": image_grid_thw,
            "mm_token_type_ids": mm_token_type_ids,
            "mm_encoder_outputs": mm_encoder_outputs,
        }
        if clips is not None:
            kwargs |= self.visual_inputs(input_ids, clips)
        elif not mm_encoder_outputs:  # pixel_values are refused, too: they would pass the fusion by
            refuse_slots(input_ids, self.config.image_token_id, past_key_values)
        if labels is None:
            return super().forward(input_ids, **kwargs)
        out = self.model(input_ids, **kwargs | {"use_cache": False})
        answers = labels[:, 1:] != IGNORE
        logits = self.lm_head(out.last_hidden_state[:, :-1][answers])
        losses = cross_entropy(logits.float(), labels[:, 1:][answers], reduction="none")
        if num_answer_tokens is None and not len(logits):
            raise ValueError(f"the labels hold no answer token (all are {IGNORE}): there is no mean over none")
        loss = losses.sum() / (len(logits) if num_answer_tokens is None else num_answer_tokens)
        return AnswerOutput(loss=loss, logits=logits, token_losses=losses.detach())

    def visual_inputs(
        self, input_ids: Tensor | None, clips: Sequence[ClipPixels], tokens: Any = None
    ) -> dict[str, Any]:
        """The clips, encoded, as `forward` takes them in place of `clips`. tokens: what `encode` gave, if it ran."""
        clips = self._here(clips)
        sizes, kinds = place(input_ids, clips, self.config.image_token_id)
        encoded = {"image": self.encode(clips) if tokens is None else tokens}
        return {"image_grid_thw": sizes, "mm_token_type_ids": kinds, "mm_encoder_outputs": encoded}

    def encode(self, clips: Sequence[ClipPixels]) -> VisualTokens:
        """Clips -> the visual tokens that the LLM reads, of all levels.

        pooler_output: for each clip (S * rows * cols, width); deepstack_features: for each DeepStack level the same.
        Clips of the same size go through the encoders together. ValueError if a clip cannot fit into memory.
        """
        clips = self._here(clips)
        tokens: list[list[Tensor]] = [[] for _ in clips]
        for alike in alike_clips(clips):
            clip, frames = clips[alike[0]], sum(clips[index].num_frames for index in alike)
            check_memory(self.config, frames, clip.rows, clip.cols, self.dtype, self.device)
            same = [clips[index] for index in alike]
            geometry = [] if self.config.fusion == "none" else self.merge(self.measure(same))
            levels = self.fuse(self.see(same), geometry)
            levels = [level.unflatten(0, (len(alike), -1)).flatten(1, 3) for level in levels]
            for row, index in enumerate(alike):
                tokens[index] = [level[row] for level in levels]
        *deepstack, main = (list(level) for level in zip(*tokens, strict=True))
        return VisualTokens(pooler_output=main, deepstack_features=deepstack)

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

    def measure(self, clips: Sequence[ClipPixels], blocks: dict[int, Tensor] | None = None) -> list[Tensor]:
        """VGGT: B clips of one size -> its blocks `geometry_layers`, each (B * S, patch rows, patch cols, 2C).

        The frames of a clip are seen together. Camera and register tokens are dropped. blocks: what VGGT's `aggregate`
        gave for these clips, if it ran already.
        """
        vggt, (height, width) = self.config.vggt, clips[0].geometry.shape[-2:]
        if blocks is None:
            frames = torch.stack([clip.geometry for clip in clips])
            with _grad_if_trained(self.geometry_encoder):
                blocks, _ = self.geometry_encoder.vggt.aggregate(frames, self.config.geometry_layers)
        grid, start = (height // vggt.patch_size, width // vggt.patch_size), vggt.patch_start
        return [blocks[k][:, :, start:].flatten(0, 1).unflatten(1, grid) for k in self.config.geometry_layers]

    def merge(self, blocks: list[Tensor]) -> list[Tensor]:
        """VGGT's blocks -> geometry tokens of their levels, each (B * S, rows, cols, width), as the visual ones."""
        mergers = (*self.geometry_deepstack_merger_list, self.geometry_merger)
        return [merger(block) for merger, block in zip(mergers, blocks, strict=True)]

    def fuse(self, visual: list[Tensor], geometry: list[Tensor]) -> list[Tensor]:
        """The visual tokens of each level, mixed with the geometry of theirs; a level that has none stays."""
        if not geometry:
            return visual
        fused = [fusion(seen, measured) for fusion, seen, measured in self._by_level(visual, geometry)]
        return visual[: -len(fused)] + fused

    def _by_level(self, visual: list[Tensor], geometry: list[Tensor]) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        """For each fused level its fusion, its visual tokens and its geometry."""
        fusions = (*self.deepstack_feature_fusion_list, self.feature_fusion)
        return zip(fusions, visual[-len(fusions) :], geometry, strict=True)

    def _here(self, clips: Sequence[ClipPixels]) -> list[ClipPixels]:
        """The clips where the model is. On "meta", accelerate keeps the weights and brings the inputs to them."""
        check_clips(clips, self.config.grid)
        return [clip if self.device.type == "meta" else clip.to(self.device) for clip in clips]

    def watch(self, source: Any, **options: Any) -> View:
        """A video, folder or list of frames, encoded once, to be asked anything: see `gapmllm.infer.watch`."""
        from gapmllm.infer import watch  # the one step up: a model is asked where users look for it

        return watch(self, source, **options)

    # What transformers' users expect.

    def generate(self, inputs: Tensor | None = None, clips: Sequence[ClipPixels] | None = None, **kwargs: Any) -> Any:
        """transformers' generate; clips are encoded once, before the first token."""
        if clips is not None:
            with torch.no_grad():
                kwargs |= self.visual_inputs(kwargs.get("input_ids", inputs), clips)
        return super().generate(inputs, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
    ) -> None:
        """config.json, generation_config.json, weights and tokenizer. They replace those of an earlier save at the end.

        state_dict: the weights, where sharded training gathered them from elsewhere; then all processes but the main
        one write nothing. max_shard_size: bytes of a file, or a text such as "500MB". ValueError for a model on the
        meta device and where a file is in the folder's place.
        """
        if is_main_process:
            values = self.config.to_diff_dict() | {"architectures": [GapMllm.__name__]}
            own = self.state_dict()
            tensors = own if state_dict is None else state_dict
            if wrong := sorted((own.keys() ^ tensors.keys()) - self.all_tied_weights_keys.keys()):
                raise ValueError(f"state_dict must hold this model's tensors; {len(wrong)} differ: {shorten(wrong)}")
            save_folder(self, save_directory, values, tensors, max_shard_size)

    @classmethod
    def from_pretrained(cls, name: str | Path, *args: Any, **kwargs: Any) -> Any:
        """transformers' from_pretrained, for folders of `save_pretrained`. `gapmllm.load` opens other layouts too.

        ValueError for another model family, for no tokenizer or one of another model, and where weights are missing
        or have another shape: transformers would make them random.
        """
        with_info = kwargs.get("output_loading_info", False)
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = super().from_pretrained(name, *args, **kwargs)
        if lost := sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}):
            raise ValueError(f"{name}: {len(lost)} tensors are missing or of another shape: {shorten(lost)}")
        model.prompts = Prompts(load_tokenizer(name, download=True))
        model.config.check_tokenizer(model.prompts.tokenizer, name)
        return (model, info) if with_info else model

    def checkpoint_activations(self, on: bool = True) -> None:
        """In training, keep what goes into each block (LLM, tower, VGGT) and compute the rest again when needed."""
        # transformers has renamed the method: the second name is the one before.
        verb = "enable" if on else "disable"
        names = (f"activation_checkpointing_{verb}", f"gradient_checkpointing_{verb}")
        next(getattr(self, name) for name in names if hasattr(self, name))()

    def train_only(self, what: str | Sequence[str]) -> None:
        """Freeze all but the parts (`PARTS`) that are named, or that a stage (`TRAINED`) trains.

        What this model lacks is left out; ValueError if it has none of it.
        """
        if isinstance(what, str) and what not in TRAINED:
            raise ValueError(f"stage {what!r} is not known; choose from {', '.join(TRAINED)}")
        parts = TRAINED[what] if isinstance(what, str) else what
        self.requires_grad_(False)
        trained = [module for part in parts for module in self.modules_of(part)]
        if not trained:
            raise ValueError(f"{', '.join(parts)}: this model has nothing of what is to be trained")
        for module in trained:
            module.requires_grad_(True)

    def modules_of(self, part: str) -> list[nn.Module]:
        """The modules of a part (`PARTS`) that this model has."""
        if part not in PARTS:
            raise ValueError(f"no part {part!r}; a model has {', '.join(PARTS)}")
        modules = dict(self.named_modules())
        return [modules[name] for name in PARTS[part] if name in modules]


def gates(model: GapMllm, clips: Sequence[ClipPixels]) -> list[list[Tensor]]:
    """Where geometry is trusted: for each clip and level (DeepStack, shallow to deep, main) the gate of each token.

    Returns tensors (S, rows, cols), the mean over the channels of g in out = g LN(v) + (1 - g) LN(q): 1 = the visual
    token alone, 0 = geometry alone. ValueError where the fusion has no gates.
    """
    if model.config.fusion != "gated":
        raise ValueError(f'gates exist for fusion "gated" only; this model has "{model.config.fusion}"')
    clips = model._here(clips)
    with torch.no_grad():
        return [
            [
                fusion.gate(seen, geometry).float().mean(-1)  # type: ignore[operator]
                for fusion, seen, geometry in model._by_level(model.see([clip]), model.merge(model.measure([clip])))
            ]
            for clip in clips
        ]


@contextmanager
def _grad_if_trained(module: nn.Module) -> Iterator[None]:
    """A frozen encoder keeps no activations."""
    trained = any(parameter.requires_grad for parameter in module.parameters())
    with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
        yield


AutoModel.register(GapMllmConfig, GapMllm)
AutoModelForImageTextToText.register(GapMllmConfig, GapMllm)
