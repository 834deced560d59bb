"""One entry for all scores: a file of records in, a report out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gapmllm.evaluation.captions import score_captions
from gapmllm.evaluation.detection import score_detection
from gapmllm.evaluation.grounding import score_grounding
from gapmllm.evaluation.points import score_points
from gapmllm.evaluation.records import (
    CaptionRecord,
    DetectionRecord,
    GroundingRecord,
    PointsRecord,
    RecordError,
    RecordFile,
    RecordT,
)
from gapmllm.evaluation.report import Euler, Reader, Report

T = TypeVar("T")
TASKS = ("detection", "grounding", "caption", "points")


def score_file(
    path: Path, task: str, reader: Reader = "lenient", euler: Euler = "stated", *, with_meteor: bool = True
) -> Report:
    """Score the records of a JSONL file, streamed. Raises RecordError for a file that cannot be scored as a whole.

    task: one of TASKS; every record must be of it. reader, euler: see `report.py`; for a comparison with printed tables
    of the released code, set both to "released". with_meteor: see `score_captions`.
    """
    if task == "detection":
        return with_line(RecordFile(path, DetectionRecord), lambda records: score_detection(records, reader, euler))
    if task == "grounding":
        return with_line(RecordFile(path, GroundingRecord), lambda records: score_grounding(records, reader, euler))
    if euler != "stated":
        raise ValueError(f"euler={euler!r} is about boxes, and task {task!r} scores none")
    if task == "caption":
        return with_line(
            RecordFile(path, CaptionRecord), lambda records: score_captions(records, reader, with_meteor=with_meteor)
        )
    if task == "points":
        return with_line(RecordFile(path, PointsRecord), lambda records: score_points(records, reader))
    raise ValueError(f"no task {task!r}, choose from {', '.join(TASKS)}")


def with_line(records: RecordFile[RecordT], scorer: Callable[[RecordFile[RecordT]], T]) -> T:
    """What a scorer makes of the records; where it finds one at fault, the error says on which line that stands."""
    try:
        return scorer(records)
    except RecordError as error:
        if error.record_id is None:
            raise
        raise RecordError(f"{records.path}:{records.line_of[error.record_id]}: {error}") from error
