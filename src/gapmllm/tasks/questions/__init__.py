"""Questions from scenes: deterministic by seed, with the truth in full precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np

from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Clip, Scene
from gapmllm.scenes.visibility import with_visibility
from gapmllm.tasks.questions.detection import detection_clips
from gapmllm.tasks.questions.plan import QuestionPlan as QuestionPlan
from gapmllm.tasks.questions.points import point_clips
from gapmllm.tasks.questions.texts import caption_clips, grounding_clips


@dataclass(frozen=True)
class AskQuestions:
    """Adds the clips of a plan to scenes. A scene that brings questions of its own (released records) keeps just these.

    The order: points, detection, grounding step 1 and 2, captioning.
    """

    plan: QuestionPlan | None
    """None: no questions."""

    def __call__(self, scene: Scene, problems: Problems) -> Scene:
        if self.plan is None or scene.clips:
            return scene
        return replace(scene, clips=tuple(make_clips(scene, self.plan, problems)))


def make_clips(scene: Scene, plan: QuestionPlan, problems: Problems) -> list[Clip]:
    """All clips with their questions. What cannot be asked goes to `problems`."""
    if not scene.frames:
        return []
    scene = with_visibility(scene)
    clips: list[Clip] = []
    if "points" in plan.tasks:
        clips += point_clips(scene, plan, _rng(scene, plan, "points"))
    if "detection" in plan.tasks:
        clips += detection_clips(scene, plan)
    if {"frame", "grounding"} & set(plan.tasks):
        clips += grounding_clips(scene, plan, _rng(scene, plan, "grounding"), problems)
    if "captioning" in plan.tasks:
        clips += caption_clips(scene, plan, _rng(scene, plan, "captioning"), problems)
    return clips


def _rng(scene: Scene, plan: QuestionPlan, task: str) -> np.random.Generator:
    """Its own for each task: leaving one out does not change the questions of another."""
    return np.random.default_rng([plan.seed, crc32(scene.id.encode()), crc32(task.encode())])
