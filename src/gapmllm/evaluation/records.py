"""Prediction records: one JSON object a line, one line a question, with its answer and its truth. Version 1.

Scores are computed from these files alone. A record carries the *text* that a model wrote, so that reading it is part
of the score; a detector that writes no text writes its boxes as JSON. `answer` null or absent: the question was not
answered, which counts as a miss. The truth is always in the record.

    {"version": 1, "task": "detection", "id": "scene0000_00/0", "scene": "scene0000_00",
     "answer": "[{\\"label\\": \\"chair\\", \\"bbox_3d\\": [0.4, 0.3, 2.3, 0.5, 0.6, 0.9, 0.8, 1.1, 2.9]}]",
     "answer_convention": "zxy", "truth_convention": "zxy",
     "truth": [{"label": "chair", "bbox_3d": [0.41, 0.3, 2.34, 0.5, 0.6, 0.92, 0.79, 1.17, 2.96]}]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gapmllm.geometry import EulerConvention, check_pose
from gapmllm.tasks import Box9, Label, Point3
from gapmllm.tasks.frame import FrameIndex

MAX_LINE = 64 * 2**20
"""Bytes in one record at most: a wrong kind of file is refused before it fills the memory."""

BATCH = 256
"""Records whose overlaps are computed at once."""

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Row = tuple[_Finite, _Finite, _Finite, _Finite]
Matrix4 = tuple[_Row, _Row, _Row, _Row]


class RecordError(ValueError):
    """A file of records that cannot be scored. The message says where and what was expected."""

    def __init__(self, message: str, record_id: str | None = None) -> None:
        super().__init__(message)
        self.record_id = record_id
        """The record at fault, where the message does not name its line."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Record(_Part):
    """What every record has."""

    version: Literal[1]
    id: Annotated[str, Field(min_length=1)]
    """Unique in the file."""
    scene: Annotated[str, Field(min_length=1)]
    """What belongs together: intervals come from resampling scenes."""
    answer: str | None = None
    """The text that the model wrote."""


class TrueObject(_Part):
    """An object that is there."""

    label: Label
    bbox_3d: Box9


class DetectionRecord(Record):
    """All objects of a clip, in one frame (usually the first camera's) for truth and answer."""

    task: Literal["detection"]
    truth: tuple[TrueObject, ...]
    truth_convention: EulerConvention
    answer_convention: EulerConvention
    scores: tuple[Probability, ...] | None = None
    """One confidence for each object of the answer, in the order in which they are written."""


class GroundingRecord(Record):
    """One described object. `truth` may be in a world frame: `camera_to_world` takes the answer there."""

    task: Literal["grounding"]
    truth: Box9
    truth_convention: EulerConvention
    answer_convention: EulerConvention
    camera_to_world: tuple[Matrix4, ...] | None = None
    """A rigid (4, 4) matrix for each frame, from its camera to the frame of `truth`; absent: the two are the same."""
    frame: FrameIndex | None = None
    """The frame whose camera the box is in, where the answer itself does not name it."""
    frame_answer: str | None = None
    """The text of step 1, if it was asked."""
    truth_frames: tuple[FrameIndex, ...] | None = None
    """Frames that are right for step 1."""
    group: Literal["unique", "multiple"] | None = None
    """ScanRefer: whether the object is the only one of its class in the scene."""
    proposals: tuple[Box9, ...] | None = None
    """Boxes of a 3D segmentation, in the frame and convention of `truth`, for scores with refinement."""
    score: Probability | None = None
    """The confidence of the answer."""

    @model_validator(mode="after")
    def _check_poses(self) -> GroundingRecord:
        if self.camera_to_world is not None:
            check_pose(self.camera_to_world)
            if self.frame is not None and self.frame >= len(self.camera_to_world):
                raise ValueError(f"frame {self.frame} has no pose: camera_to_world holds {len(self.camera_to_world)}")
        return self


class CaptionRecord(Record):
    """One object to describe."""

    task: Literal["caption"]
    truth: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """The reference descriptions."""
    iou: Probability
    """Overlap of the box that was asked about with the true box: 1 where the true box was given."""


class TruePoint(_Part):
    """Label (if known) and x, y, z in metres."""

    pointmap: Point3
    label: str | None = None


class PointsRecord(Record):
    """One marked pixel."""

    task: Literal["points"]
    truth: TruePoint
    camera_to_world: Matrix4 | None = None
    """Rigid (4, 4), from the frame of answer and truth to one that the scene shares; absent: they are the same."""
    score: Probability | None = None
    """The confidence of the answer."""

    @model_validator(mode="after")
    def _check_pose(self) -> PointsRecord:
        if self.camera_to_world is not None:
            check_pose(self.camera_to_world)
        return self


RecordT = TypeVar("RecordT", bound=Record)


class RecordFile(Generic[RecordT]):
    """The records of a JSONL file, streamed each time it is iterated.

    Iteration raises RecordError at the first line that is no record, and for an empty file.
    """

    def __init__(self, path: Path, record_type: type[RecordT]) -> None:
        self.path, self.record_type = path, record_type
        self.line_of: dict[str, int] = {}
        """Line of each record read so far, by its id."""

    def __iter__(self) -> Iterator[RecordT]:
        self.line_of.clear()
        for number, line in _lines(self.path):
            try:
                record = self.record_type.model_validate_json(line)
            except ValidationError as error:
                message = printable(_explain(error, self.record_type))
                raise RecordError(f"{self.path}:{number}: {message}") from error
            first = self.line_of.setdefault(record.id, number)
            if first != number:
                raise RecordError(f"{self.path}:{number}: id {record.id!r} was already used on line {first}")
            yield record
        if not self.line_of:
            raise RecordError(f"{self.path}: the file holds no records; one JSON object a line was expected")


def batches(records: Iterable[RecordT]) -> Iterator[list[RecordT]]:
    """Lists of BATCH records, the last one shorter."""
    iterator = iter(records)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSONL, UTF-8."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(record.model_dump_json(exclude_none=True) + "\n")


def printable(text: str) -> str:
    """The text on one line, with control characters spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise RecordError(f"{path}:{number}: a line of more than {MAX_LINE} bytes; is this a JSONL file?")
                if line.strip():
                    yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # a byte order mark
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error


def _explain(error: ValidationError, record_type: type[Record]) -> str:
    """The first thing that is wrong, in one line, with the hint that fits the usual mistakes."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "record"
    message = f"{place}: {first['msg']}"
    if first["type"] == "value_error":
        return f"{place}: {first['ctx']['error']}"
    if first["type"] == "json_invalid":
        return f"not a JSON object in UTF-8: {first['msg']}"
    if first["type"] == "missing":
        hint = "; a prediction without truth cannot be scored" if place == "truth" else ""
        return f"{place} is missing from this {record_type.__name__}{hint}"
    given = str(first["input"])
    return f"{message}, got {given if len(given) <= 80 else given[:77] + '...'}"
