"""Write a small file of prediction records for each task, to see what `gapmllm score` does with them.

    python examples/make_records.py demo-out && gapmllm score demo-out/detection.jsonl --task detection

The "model" here is the truth with noise on it; now and then it writes badly, as models do. It shows the format of the
records, nothing more: the numbers say nothing about GAP-MLLM.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from gapmllm.evaluation import CaptionRecord, DetectionRecord, GroundingRecord, PointsRecord, write_records
from gapmllm.evaluation.records import TrueObject, TruePoint
from gapmllm.tasks import (
    CAPTIONING,
    DETECTION,
    FRAME,
    GROUNDING,
    POINTS,
    Caption,
    DetectedObject,
    DetectionAnswer,
    FrameAnswer,
    GroundingAnswer,
    PointAnswer,
)

LABELS = ("chair", "table", "bed", "lamp", "couch", "desk")
COLORS = ("black", "white", "brown", "grey")
SCENES = 12


def random_object(rng: np.random.Generator) -> DetectedObject:
    """A piece of furniture that stands upright before a level camera: angles "zxy" (0, 0, yaw)."""
    center = rng.uniform([-2, 0, 1], [2, 1, 4])
    size = rng.uniform(0.3, 1.8, 3)
    return DetectedObject(label=str(rng.choice(LABELS)), bbox_3d=(*center, *size, 0.0, 0.0, rng.uniform(-1.5, 1.5)))


def blurred(rng: np.random.Generator, item: DetectedObject, meters: float = 0.05) -> DetectedObject:
    """The object as an imperfect model sees it."""
    noise = np.concatenate([rng.normal(0, meters, 6), rng.normal(0, 0.05, 3)])
    values = np.array(item.bbox_3d) + noise
    values[3:6] = np.abs(values[3:6])
    return DetectedObject(label=item.label, bbox_3d=tuple(values.tolist()))


def detection(rng: np.random.Generator, scene: int) -> DetectionRecord:
    truth = tuple(random_object(rng) for _ in range(6))
    found = (*(blurred(rng, item) for item in truth[:5]), random_object(rng))  # one missed, one made up
    scores = (*rng.uniform(0.5, 1, 5).round(3).tolist(), float(rng.uniform(0, 0.6)))
    answer = DETECTION.write(DetectionAnswer(found))
    return DetectionRecord(
        version=1,
        task="detection",
        id=f"room{scene}/0",
        scene=f"room{scene}",
        answer=f"Here you are:\n```json\n{answer}\n```" if scene % 4 == 0 else answer,
        scores=scores,
        truth=tuple(TrueObject(label=item.label, bbox_3d=item.bbox_3d) for item in truth),
        truth_convention="zxy",
        answer_convention="zxy",
    )


def grounding(rng: np.random.Generator, scene: int) -> GroundingRecord:
    item = random_object(rng)
    answer = GROUNDING.write(GroundingAnswer(bbox_3d=blurred(rng, item, 0.1).bbox_3d))
    return GroundingRecord(
        version=1,
        task="grounding",
        id=f"room{scene}/0",
        scene=f"room{scene}",
        answer=answer[: len(answer) // 2] if scene == 5 else answer,  # one answer is cut off at the token limit
        frame_answer=FRAME.write(FrameAnswer(frame=int(rng.integers(3)))),
        truth_frames=(0, 1),
        truth=item.bbox_3d,
        truth_convention="zxy",
        answer_convention="zxy",
        group="unique" if scene % 3 == 0 else "multiple",
        proposals=tuple(blurred(rng, item, 0.02 * k).bbox_3d for k in (1, 4)),
    )


def caption(rng: np.random.Generator, scene: int) -> CaptionRecord:
    label, color = str(rng.choice(LABELS)), str(rng.choice(COLORS))
    said = color if rng.random() < 0.7 else str(rng.choice(COLORS))
    return CaptionRecord(
        version=1,
        task="caption",
        id=f"room{scene}/0",
        scene=f"room{scene}",
        answer=CAPTIONING.write(Caption(f"This is a {said} {label}. It is next to the wall.")),
        truth=(f"This is a {color} {label}. It is near the wall.", f"A {color} {label}, next to the wall of the room."),
        iou=float(rng.uniform(0.4, 1)),
    )


def point(rng: np.random.Generator, scene: int, number: int) -> PointsRecord:
    truth = TruePoint(pointmap=tuple(rng.uniform([-2, -1, 1], [2, 1, 4]).tolist()), label=str(rng.choice(LABELS)))
    x, y, z = np.array(truth.pointmap) + rng.normal(0, 0.1, 3)
    label = truth.label if rng.random() < 0.8 else str(rng.choice(LABELS))
    return PointsRecord(
        version=1,
        task="points",
        id=f"room{scene}/{number}",
        scene=f"room{scene}",
        answer=None if number == 7 else POINTS.write(PointAnswer(label=label, pointmap=(x, y, z))),
        truth=truth,
    )


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "detection.jsonl", [detection(rng, scene) for scene in range(SCENES)])
    write_records(folder / "grounding.jsonl", [grounding(rng, scene) for scene in range(SCENES)])
    write_records(folder / "caption.jsonl", [caption(rng, scene) for scene in range(SCENES)])
    write_records(folder / "points.jsonl", [point(rng, scene, i) for scene in range(SCENES) for i in range(8)])
    print(f"wrote four files of records to {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out"))
