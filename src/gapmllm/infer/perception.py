"""What both encoders made of a clip, kept for all that is asked: marks, other orders of the frames, depth, cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures as VisualTokens

from gapmllm.geometry import decode_cameras, invert_pose, resize_intrinsics
from gapmllm.geometry.camera import FloatArray
from gapmllm.infer.encoded import EncodedClip, inference
from gapmllm.infer.pixels import clip_pixels
from gapmllm.model import ClipPixels, GapMllm
from gapmllm.model.memory import check_memory
from gapmllm.scenes.records import Mark


@dataclass(frozen=True)
class Reconstruction:
    """What VGGT's heads say about a clip of S frames; a part is None where the checkpoint lacks its head.

    In metres where the geometry encoder was trained in metres (our own are); the public VGGT is up to one scale.
    """

    depth: NDArray[np.float32] | None
    """(S, h, w) along z, on VGGT's pixels."""
    confidence: NDArray[np.float32] | None
    """(S, h, w), above 1."""
    camera_to_first: FloatArray | None
    """(S, 4, 4), from each camera to that of frame 0."""
    intrinsics: FloatArray | None
    """(S, 3, 3), pixels of the frames as they were given."""


class Perception:
    """A clip of S frames (H, W, 3), seen and measured. ValueError for frames that the model's grid refuses."""

    def __init__(
        self,
        model: GapMllm,
        frames: Sequence[NDArray[np.uint8]],
        seen: tuple[ClipPixels, list[Tensor]] | None = None,
    ) -> None:
        """seen: pixels of these frames and the levels of `GapMllm.see`, if they were seen before."""
        self.model, self.frames = model, list(frames)
        self.pixels, visual = seen or (clip_pixels(model.config, self.frames), None)
        clip = self.pixels.to(model.device)
        check_memory(model.config, clip.num_frames, clip.rows, clip.cols, model.dtype, model.device)
        with inference(model):
            self._visual = model.see([clip]) if visual is None else visual
            self._blocks = self._aggregated(clip)
            self._geometry = model.merge(model.measure([clip], self._blocks)) if self._blocks else []
        self.encoded = self._read(self.pixels, self._visual)

    def marked(self, marks: Sequence[Mark]) -> EncodedClip:
        """The clip with crosses drawn in. Only the marked frames are seen again; VGGT sees no crosses."""
        changed = sorted({mark.frame for mark in marks})
        own = [Mark(changed.index(mark.frame), mark.x, mark.y, mark.color) for mark in marks]
        seen_again = clip_pixels(self.model.config, [self.frames[index] for index in changed], own)
        with inference(self.model):
            levels = self.model.see([seen_again.to(self.model.device)])
            visual = [level.clone() for level in self._visual]
            for level, new in zip(visual, levels, strict=True):
                level[changed] = new
        return self._read(self.pixels, visual)

    def reordered(self, order: Sequence[int]) -> Perception:
        """Some of the frames in another order, their first as the reference: VGGT measures them anew."""
        order = list(order)
        pixels = replace(self.pixels, visual=self.pixels.visual[order], geometry=self.pixels.geometry[order])
        with inference(self.model):
            visual = [level[order] for level in self._visual]
        return Perception(self.model, [self.frames[index] for index in order], (pixels, visual))

    def reconstruct(self) -> Reconstruction:
        """Depth and cameras from VGGT's heads, from what it computed already."""
        heads = [] if self._blocks is None else [h for h in ("camera", "depth") if h in self._heads]
        if not heads:
            return Reconstruction(None, None, None, None)
        height, width = (int(side) for side in self.pixels.geometry.shape[-2:])
        assert self._blocks is not None
        with inference(self.model):
            found = self.model.geometry_encoder.vggt.read(self._blocks, (height, width), heads)
        depth = confidence = poses = matrices = None
        if "depth" in heads:
            depth, confidence = (found[key][0].float().cpu().numpy() for key in ("depth", "depth_confidence"))
        if "camera" in heads:
            poses, matrices = decode_cameras(found["pose_encoding"][0].double().cpu().numpy(), height, width)
            poses = invert_pose(poses[0]) @ poses  # the head's frame 0 is the identity only nearly
            size = self.frames[0].shape[1::-1]
            # It sees pixel borders at whole numbers; ours lie half a pixel before them.
            matrices[:, :2, 2] -= 0.5
            matrices = np.stack([resize_intrinsics(matrix, (width, height), size) for matrix in matrices])
        return Reconstruction(depth, confidence, poses, matrices)

    @property
    def _heads(self) -> Sequence[str]:
        return self.model.config.vggt.heads

    def _aggregated(self, clip: ClipPixels) -> dict[int, Tensor] | None:
        """VGGT's blocks, those that its heads read among them; None without a geometry encoder."""
        config = self.model.config
        if config.fusion == "none":
            return None
        layers = set(config.geometry_layers)
        if "depth" in self._heads:
            layers |= set(config.vggt.dense_layers)
        if "camera" in self._heads:
            layers.add(config.vggt.depth - 1)
        return self.model.geometry_encoder.vggt.aggregate(clip.geometry[None], layers)[0]

    def _read(self, clip: ClipPixels, visual: list[Tensor]) -> EncodedClip:
        """The LLM reads the frames."""
        with inference(self.model):
            levels = [level.flatten(0, 2) for level in self.model.fuse(visual, self._geometry)]
        tokens = VisualTokens(pooler_output=[levels[-1]], deepstack_features=[[level] for level in levels[:-1]])
        return EncodedClip(self.model, clip, tokens)
