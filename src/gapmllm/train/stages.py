"""What a run computes for a batch: the losses of its stage. The root module that DDP and FSDP2 wrap.

geometry            VGGT: its camera and depth heads; and 3D points read off the patches of each block that is fused
language            Qwen3-VL alone: answers; classes, labels, mark colours and places read off the visual tokens
align, adapt        all of it: answers; the dense losses, too, if a recipe wants them

Dense losses go through `probes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gapmllm.model import GapMllm
from gapmllm.model.placing import alike_clips
from gapmllm.tasks import COLORS
from gapmllm.train.batch import Batch
from gapmllm.train.losses import camera_loss, classes_loss, depth_loss, marks_loss, points_loss
from gapmllm.train.pointing import middle_attention, pointing_loss
from gapmllm.train.probes import PROBES, PointProbe, WordProbe
from gapmllm.train.recipe import LOSSES, Recipe
from gapmllm.train.targets import CLASSES

_DENSE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "points": points_loss,
    "places": points_loss,
    "centers": points_loss,
    "yaws": points_loss,
    "classes": classes_loss,
    "labels": classes_loss,
    "marks": marks_loss,
}
"""Loss -> how what its probe reads off the LLM's visual tokens is held against the truth."""


@dataclass
class StepOutput:
    """What `Stage.forward` gives."""

    loss: Tensor
    """Weighted sum of the losses, each a mean over the counts that it was given."""
    sums: dict[str, Tensor]
    """Loss -> its sum, detached."""
    token_losses: Tensor | None = None
    """(answer tokens,) of the pack, row by row."""


class Stage(nn.Module):
    """A model and the probes of a recipe's losses; `weights` may change between phases."""

    def __init__(self, model: GapMllm, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.stage = model, recipe.stage
        self.weights = recipe.loss_weights()
        used = {name for _, phase in recipe.schedule() for name in phase.loss_weights()}
        if self.stage == "geometry":
            self._check_heads(used)
        self.probes = nn.ModuleDict({name: self._probe(name) for name in sorted(used & PROBES.keys())})

    def _probe(self, name: str) -> nn.Module:
        config = self.model.config
        if self.stage == "geometry":  # of points: one for each block that is fused
            return nn.ModuleList(PointProbe(2 * config.vggt.embed_dim) for _ in config.geometry_layers)
        if _DENSE[name] is points_loss:
            return PointProbe(config.text_config.hidden_size, PROBES[name])
        return WordProbe(self.model, tuple(COLORS), free=1) if name == "marks" else WordProbe(self.model, CLASSES)

    def _check_heads(self, used: set[str]) -> None:
        heads = self.model.config.vggt.heads
        if missing := sorted((used & {"camera", "depth"}) - set(heads)):
            raise ValueError(
                f"the losses {', '.join(missing)} need VGGT heads of these names, and this model has "
                f"{', '.join(heads) or 'none'}: leave them out of losses, or start from a VGGT with heads"
            )

    def forward(self, batch: Batch, counts: Mapping[str, float]) -> StepOutput:
        """counts: loss -> what it is divided by, of all batches of the step in all processes."""
        out = self._measure(batch) if self.stage == "geometry" else self._answer(batch)
        sums, token_losses = out
        loss = sum(self.weights[name] * value / max(counts[name], 1.0) for name, value in sums.items())
        return StepOutput(loss, {name: value.detach() for name, value in sums.items()}, token_losses)  # type: ignore[arg-type]

    def _measure(self, batch: Batch) -> tuple[dict[str, Tensor], None]:
        """VGGT's losses; clips of the same size go through together."""
        sums: dict[str, Tensor] = {}
        for alike in alike_clips(batch.clips):
            images = torch.stack([batch.clips[index].geometry for index in alike])
            true = {name: torch.stack([batch.targets[i][name] for i in alike]) for name in self.weights}
            for name, value in self._measure_alike(images, true).items():
                sums[name] = sums[name] + value if name in sums else value
        return sums, None

    def _measure_alike(self, images: Tensor, true: dict[str, Tensor]) -> dict[str, Tensor]:
        config, vggt = self.model.config, self.model.geometry_encoder.vggt
        heads = [name for name in ("camera", "depth") if name in true]
        layers = set(config.geometry_layers) | (set(config.vggt.dense_layers) if "depth" in heads else set())
        tokens, start = vggt.aggregate(images, layers | {config.vggt.depth - 1})
        said = vggt.read(tokens, (images.shape[-2], images.shape[-1]), heads)
        sums: dict[str, Tensor] = {}
        if "camera" in heads:
            sums["camera"] = camera_loss(said["pose_encodings"], true["camera"])
        if "depth" in heads:
            sums["depth"] = depth_loss(said["depth"], said["depth_confidence"], true["depth"])
        if "points" in true:
            flat = true["points"].flatten(2, 3)  # (B, S, patches, 3)
            probes = self.probes["points"]
            assert isinstance(probes, nn.ModuleList)
            read = zip(config.geometry_layers, probes, strict=True)
            each = [points_loss(probe(tokens[layer][:, :, start:]).float(), flat) for layer, probe in read]
            sums["points"] = torch.stack(each).mean()
        return sums

    def _answer(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        """The answers' loss, and what probes read off the visual tokens that the LLM gets."""
        sums: dict[str, Tensor] = {}
        token_losses = None
        clips: Sequence[int] = range(len(batch.clips))
        if batch.pack is None:
            seen = self.model.encode(batch.clips)
        else:
            inputs = batch.pack.inputs(self.model)
            placed = self.model.visual_inputs(inputs["input_ids"], inputs.pop("clips"))
            with middle_attention(self.model) as heard:
                out: Any = self.model(**inputs, **placed, num_answer_tokens=1)
            sums["answers"], token_losses = out.loss, out.token_losses
            if "pointing" in self.weights:
                right = [batch.targets[row]["pointing"] for row in batch.rows]
                sums["pointing"] = pointing_loss(*heard[0], batch.pack, self.model.config.image_token_id, right)
            seen, clips = placed["mm_encoder_outputs"]["image"], batch.rows
        tokens = torch.cat(list(seen.pooler_output))
        for name in [name for name in self.weights if name in _DENSE]:  # in their order: sums round by it
            target = torch.cat([batch.targets[i][name].flatten(0, 2) for i in clips])
            words = () if isinstance(self.probes[name], PointProbe) else (self.model.get_input_embeddings(),)
            sums[name] = _DENSE[name](self.probes[name](tokens, *words).float(), target)
        return sums, token_losses


assert set(LOSSES["language"]) == {"answers", "pointing", *PROBES}
