"""Grounding scores: mean IoU, accuracy at IoU >= 0.25 and >= 0.5, frame accuracy; overall, unique and multiple.

The answer's box is moved to the frame of the truth with the pose of the frame that it names, or that the record names.
Unreadable and missing answers have IoU 0. *Refined* scores replace the box by the proposal that overlaps it most; they
need a 3D segmentation of the scene and are never mixed with the raw ones. Source: ScanRefer (arXiv 1912.08830).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gapmllm.evaluation.boxes import as_overlapped, boxes_from_rows, check_convention
from gapmllm.evaluation.records import GroundingRecord, batches
from gapmllm.evaluation.report import Euler, Reader, ReadingTally, Report, SceneIndex, weighted_mean, with_intervals
from gapmllm.geometry import Boxes, iou_matrix, iou_pairs
from gapmllm.geometry.camera import FloatArray
from gapmllm.tasks import FRAME, GROUNDING
from gapmllm.tasks.released import released_grounding

THRESHOLDS = (0.25, 0.5)
_GROUPS = ("overall", "unique", "multiple")


def score_grounding(records: Iterable[GroundingRecord], reader: Reader = "lenient", euler: Euler = "stated") -> Report:
    """Scores of a stream of records; see the module's docstring."""
    return _tallied(records, reader, euler).report()


def answer_ious(records: Iterable[GroundingRecord]) -> FloatArray:
    """IoU of each answer's box with the truth, (N,); 0 where there is no box that can be used."""
    return np.array([iou for _, _, iou, _, _ in _tallied(records, "lenient", "stated").rows], dtype=np.float64)


def _tallied(records: Iterable[GroundingRecord], reader: Reader, euler: Euler) -> _Tally:
    tally = _Tally(reader, euler)
    for batch in batches(records):
        tally.add(batch)
    return tally


class _Tally:
    """One row per record: scene, group, raw IoU, refined IoU (NaN: no proposals), frame right (NaN: unknown)."""

    def __init__(self, reader: Reader, euler: Euler) -> None:
        self.reader, self.euler = reader, euler
        self.reading, self.frame_reading = ReadingTally(GROUNDING), ReadingTally(FRAME)
        self.scenes = SceneIndex()
        self.rows: list[tuple[int, int, float, float, float]] = []

    def add(self, batch: list[GroundingRecord]) -> None:
        """Read the answers, then compute all overlaps at once. A record without a usable box has IoU 0."""
        found = [self.read(record) for record in batch]
        has_box = np.nonzero([len(boxes) for boxes, _ in found])[0]
        answers = Boxes.concatenate([boxes for boxes, _ in found])
        truths = Boxes.concatenate([boxes_from_rows([record.truth], record.truth_convention) for record in batch])
        iou, refined = np.zeros(len(batch)), np.zeros(len(batch))
        iou[has_box] = self.iou(answers, truths[has_box])
        refined[has_box] = self.iou(self.refine(answers, [batch[i] for i in has_box]), truths[has_box])
        for i, record in enumerate(batch):
            group = _GROUPS.index(record.group or "overall")
            refined_iou = np.nan if record.proposals is None else refined[i]
            self.rows.append((self.scenes[record.scene], group, iou[i], refined_iou, found[i][1]))

    def iou(self, a: Boxes, b: Boxes) -> NDArray[np.float64]:
        return iou_pairs(as_overlapped(a, self.euler), as_overlapped(b, self.euler))

    def read(self, record: GroundingRecord) -> tuple[Boxes, float]:
        """The answer's box in the frame of the truth (none or one), and whether its frame is right (NaN: unknown)."""
        check_convention(record, self.euler)
        reading = self.reading.read(record.answer)
        if self.reader == "released":
            frame, numbers = released_grounding(record.answer or "") or (None, None)
            self.reading.count_released(numbers is not None)
        else:
            answer = reading.answer
            frame, numbers = (answer.frame, answer.bbox_3d) if answer else (None, None)
        frame_right = self.frame_right(record, frame)
        none = boxes_from_rows([], record.answer_convention)
        if numbers is None:
            return none, frame_right
        boxes = boxes_from_rows([numbers], record.answer_convention)
        if record.camera_to_world is None:
            return boxes, frame_right
        frame = record.frame if frame is None else frame
        if frame is None or frame >= len(record.camera_to_world):
            self.reading.problems["frame"] += 1
            return none, frame_right
        return boxes.transform(record.camera_to_world[frame]), frame_right

    def frame_right(self, record: GroundingRecord, frame: int | None) -> float:
        """Whether step 1, or the one-step answer, names a frame that is right; NaN where the record does not tell."""
        if record.frame_answer is not None:
            answer = self.frame_reading.read(record.frame_answer).answer
            frame = answer.frame if answer else None
        return np.nan if record.truth_frames is None else float(frame in record.truth_frames)

    def refine(self, answers: Boxes, records: list[GroundingRecord]) -> Boxes:
        """Each box replaced by the proposal that overlaps it most; kept where none overlaps it or none is given."""
        result = []
        for i, record in enumerate(records):
            proposals = boxes_from_rows(record.proposals or [], record.truth_convention)
            overlap = iou_matrix(as_overlapped(answers[[i]], self.euler), as_overlapped(proposals, self.euler))[0]
            result.append(proposals[[overlap.argmax()]] if overlap.any() else answers[[i]])
        return Boxes.concatenate(result)

    def report(self) -> Report:
        scene, group, iou, refined, frame_right = (np.array(column) for column in zip(*self.rows, strict=True))
        notes = []
        columns = {"": iou}
        if not np.isnan(refined).any():
            columns[", refined"] = refined
        elif not np.isnan(refined).all():
            notes.append(f"no refined scores: {int(np.isnan(refined).sum())} of {len(iou)} records have no proposals")
        if 0 < (group == 0).sum() < len(group):
            notes.append(f"{int((group == 0).sum())} of {len(iou)} records are neither unique nor multiple")

        groups = [(index, name) for index, name in enumerate(_GROUPS) if index == 0 or (group == index).any()]
        known = ~np.isnan(frame_right)

        def measure(draw: NDArray[np.intp]) -> dict[str, float | None]:
            weight = np.bincount(draw, minlength=len(self.scenes))[scene.astype(int)].astype(float)
            metrics: dict[str, float | None] = {}
            for kind, values in columns.items():
                for index, name in groups:
                    members = weight * ((group == index) | (index == 0))
                    metrics[f"mIoU[{name}{kind}]"] = weighted_mean(values, members)
                    for threshold in THRESHOLDS:
                        metrics[f"acc[{name}{kind}]@{threshold}"] = weighted_mean(values >= threshold, members)
            if known.any():
                metrics["frame_accuracy"] = weighted_mean(frame_right[known], weight[known])
            return metrics

        return Report(
            task="grounding",
            reader=self.reader,
            euler=self.euler,
            records=len(self.rows),
            scenes=len(self.scenes),
            readings={"answer": dict(self.reading.readings), "frame_answer": dict(self.frame_reading.readings)},
            problems=dict(self.reading.problems + self.frame_reading.problems),
            metrics=with_intervals(measure, len(self.scenes)),
            notes=tuple(notes),
        )
