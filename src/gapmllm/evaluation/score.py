"""One entry for all scores: a file of records in, a report out."""

from __future__ import annotations

from pathlib import Path

from gapmllm.evaluation.captions import score_captions
from gapmllm.evaluation.detection import score_detection
from gapmllm.evaluation.grounding import score_grounding
from gapmllm.evaluation.points import score_points
from gapmllm.evaluation.records import (
    CaptionRecord,
    DetectionRecord,
    GroundingRecord,
    PointsRecord,
    read_records,
)
from gapmllm.evaluation.report import Euler, Reader, Report

TASKS = ("detection", "grounding", "caption", "points")


def score_file(path: Path, task: str, reader: Reader = "lenient", euler: Euler = "stated") -> Report:
    """Score the records of a JSONL file, streamed. Raises RecordError for a file that cannot be scored as a whole.

    task: one of TASKS; every record must be of it. reader, euler: see `report.py`; for a comparison with printed tables
    of the released code, set both to "released".
    """
    if task == "detection":
        return score_detection(read_records(path, DetectionRecord), reader, euler)
    if task == "grounding":
        return score_grounding(read_records(path, GroundingRecord), reader, euler)
    if euler != "stated":
        raise ValueError(f"euler={euler!r} is about boxes, and task {task!r} scores none")
    if task == "caption":
        return score_captions(read_records(path, CaptionRecord), reader)
    if task == "points":
        return score_points(read_records(path, PointsRecord), reader)
    raise ValueError(f"no task {task!r}, choose from {', '.join(TASKS)}")
