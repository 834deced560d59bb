"""Question-answer pairs per minute from scenes that are rendered already."""

from __future__ import annotations

import time
from collections import Counter
from statistics import median
from typing import Any

from gapmllm.scenes.problems import Problems
from gapmllm.scenes.synth.scene import SynthOptions, make_scene
from gapmllm.tasks.questions import QuestionPlan, make_clips


def bench_questions(scenes: int = 4, frames: int = 16) -> dict[str, Any]:
    """All tasks on 256x192 rooms, in one process; median over the rooms."""
    counts: Counter[str] = Counter()
    rates = []
    for number in range(scenes):
        scene = make_scene(number, SynthOptions(frames=frames))
        start = time.perf_counter()
        clips = make_clips(scene, QuestionPlan(), Problems(scene.id))
        seconds = time.perf_counter() - start
        tasks = Counter(question.task for clip in clips for question in clip.questions)
        counts += tasks
        rates.append(60 * tasks.total() / seconds)
    return {
        "rooms": scenes,
        "frames of each": frames,
        **{f"{task} questions": count for task, count in counts.items()},
        "pairs/minute, one process": median(rates),
    }
