"""`model.watch(…)`: many questions about frames that are encoded once, against frames encoded for each question.

The questions are a mix. One asks for objects of the room's labels, MOST_OBJECTS at most; of the others a quarter each
asks for marked points, for described objects (in two steps), for an object in words, and in free text. Weights are
random: they practically never end a text, so texts have TEXT_TOKENS tokens; and each frame that they choose for a
described object is encoded with its neighbours, so the number of these frames is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapmllm.bench.memory import MIB, peak_bytes
from gapmllm.bench.model import device_name, ready_model
from gapmllm.bench.throughput import rates, take_turns
from gapmllm.bench.video import bench_video, peak_memory
from gapmllm.infer import Decoding, Describe, Detect, Ground, Locate
from gapmllm.infer.questions import AnyQuestion
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.synth.scene import SynthOptions, make_scene
from gapmllm.tasks import Grounding
from gapmllm.tasks.questions import QuestionPlan, make_clips

TEXT_TOKENS = 24
MOST_OBJECTS = 4


def bench_infer(
    preset: str = "nano",
    *,
    frames: int = 16,
    questions: int = 16,
    repeats: int = 3,
    device: str | None = None,
    dtype: str | None = None,
    video: Path | None = None,
    video_seconds: int = 30,
) -> dict[str, Any]:
    """Both ways take turns; speeds are medians. Then the reading of a video (`gapmllm.bench.video`).

    device, dtype, ValueError: as `bench_model`'s. video: a file; None makes one of so many seconds, 0 leaves it out.
    """
    model = ready_model(preset, device, dtype).eval()
    pictures, asked = room_questions(frames, questions)
    texts = Decoding(max_tokens=TEXT_TOKENS)

    def answer(some: Sequence[AnyQuestion]) -> list[Any]:
        return model.watch(pictures).answer(some, texts)

    answer(asked)  # the first time takes longer
    answers, seconds = take_turns(
        {
            "one by one": lambda: [answer([question])[0] for question in asked],
            "together": lambda: answer(asked),
        },
        repeats,
    )
    alone, together = answers.values()
    places = [place for place, question in enumerate(asked) if isinstance(question, Locate)]
    points = answer([asked[place] for place in places])
    expected = {**dict(enumerate(alone)), **dict(zip(places, points, strict=True))}
    grounded = [found.frame for found in together if isinstance(found, Grounding)]
    _, watched_peak = peak_bytes(lambda: model.watch(pictures), model.device)
    _, peak = peak_bytes(lambda: answer(asked), model.device)
    return {
        "preset": f"{preset}, random weights",
        "device": device_name(model.device),
        "frames": frames,
        "questions": ", ".join(f"{count} {name}" for name, count in _kinds(asked).items()),
        "repeats, of which the median": repeats,
        **rates("watch", seconds, len(asked)),
        "watch, together, seconds": seconds["together"],
        "equal answers": sum(_bare(found) == _bare(expected[place]) for place, found in enumerate(together)),
        "scores differ by": max(abs(a - b) for p, found in enumerate(together) for a, b in _scores(found, expected[p])),
        "points that are the same marked alone": sum(_bare(together[place]) == _bare(alone[place]) for place in places),
        "frames that groundings chose": len(set(grounded)),
        "memory, watched, peak, MiB": watched_peak / MIB,
        "memory, watched and answered, peak, MiB": peak / MIB,
        "memory of the process, peak, MiB": peak_memory(),
        **(bench_video(video, video_seconds, frames, repeats) if video or video_seconds else {}),
    }


def room_questions(frames: int, questions: int) -> tuple[list[NDArray[np.uint8]], list[AnyQuestion]]:
    """All frames of a room, and the mix of questions about it; where one kind has too few, they come again."""
    scene = make_scene(0, SynthOptions(frames=frames))
    plan = QuestionPlan(tasks=("points", "captioning"), window_frames=frames, canonical_frames=frames)
    found = [question for clip in make_clips(scene, plan, Problems(scene.id)) for question in clip.questions]
    kinds: list[list[AnyQuestion]] = [
        [Locate(question.mark.frame, (question.mark.x, question.mark.y)) for question in found if question.mark],
        [Ground(text.text) for text in scene.expressions if text.unique],
        [Describe(question.target["point"]) for question in found if question.task == "captioning"],
        [f"How many objects like the {item.label} are there?" for item in scene.objects],
    ]
    labels = sorted({item.label for item in scene.objects})
    asked: list[AnyQuestion] = [Detect(labels, MOST_OBJECTS)]
    asked += [kinds[n % 4][n // 4 % len(kinds[n % 4])] for n in range(questions - 1)]
    return [frame.pixels() for frame in scene.frames], asked


def _kinds(asked: Sequence[AnyQuestion]) -> dict[str, int]:
    names = ["text" if isinstance(question, str) else type(question).__name__.lower() for question in asked]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _results(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def _bare(found: Any) -> list[Any]:
    """An answer without its scores."""
    return [item if isinstance(item, str) else item.model_dump(exclude={"score"}) for item in _results(found)]


def _scores(found: Any, other: Any) -> list[tuple[float, float]]:
    """Of both answers; (0, 0) where there are none."""
    pairs = zip(_results(found), _results(other), strict=False)
    return [(getattr(one, "score", 0.0), getattr(two, "score", 0.0)) for one, two in pairs]
