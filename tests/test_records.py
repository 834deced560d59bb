"""Files of records that are good, and every kind that is not."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from gapmllm.evaluation import (
    CaptionRecord,
    DetectionRecord,
    GroundingRecord,
    PointsRecord,
    RecordError,
    RecordFile,
    records,
    write_records,
)

BOX = [0, 0, 2, 1, 1, 1, 0, 0, 0]
DETECTION = {
    "version": 1,
    "task": "detection",
    "id": "a",
    "scene": "room",
    "answer": "[]",
    "truth": [{"label": "chair", "bbox_3d": BOX}],
    "truth_convention": "zxy",
    "answer_convention": "zxy",
}
GROUNDING = {k: v for k, v in DETECTION.items() if k != "truth"} | {"task": "grounding", "truth": BOX}
CAPTION = {"version": 1, "task": "caption", "id": "a", "scene": "room", "truth": ["a chair"], "iou": 1}
POINTS = {"version": 1, "task": "points", "id": "a", "scene": "room", "truth": {"pointmap": [0, 0, 1]}}
UNIT = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("record_type", "values"),
    [(DetectionRecord, DETECTION), (GroundingRecord, GROUNDING), (CaptionRecord, CAPTION), (PointsRecord, POINTS)],
)
def test_what_is_written_is_read(tmp_path, record_type, values):
    (first,) = RecordFile(write(tmp_path / "one.jsonl", values), record_type)
    write_records(tmp_path / "two.jsonl", [first])
    assert list(RecordFile(tmp_path / "two.jsonl", record_type)) == [first]


@pytest.mark.parametrize(
    ("record_type", "values", "change", "message"),
    [
        (DetectionRecord, DETECTION, {"id": 5}, r"file.jsonl:1: id: Input should be a valid string, got 5"),
        (DetectionRecord, DETECTION, {"task": "grounding"}, "task: Input should be 'detection', got grounding"),
        (DetectionRecord, DETECTION, {"task": "cooking"}, "task: Input should be 'detection', got cooking"),
        (DetectionRecord, DETECTION, {"task": "a\nb"}, r"task: Input should be 'detection', got a\\nb"),
        (DetectionRecord, DETECTION, {"version": 2}, "version: Input should be 1, got 2"),
        (DetectionRecord, DETECTION, {"answers": "x"}, "answers: Extra inputs are not permitted, got x"),
        (DetectionRecord, DETECTION, {"truth": None}, "truth: Input should be a valid array, got None"),
        (DetectionRecord, DETECTION, {"truth": ...}, "truth is missing .*a prediction without truth cannot be scored"),
        (
            DetectionRecord,
            DETECTION,
            {"answer_convention": ...},
            "answer_convention is missing from this DetectionRecord",
        ),
        (
            DetectionRecord,
            DETECTION,
            {"truth_convention": "xyz"},
            "truth_convention: Input should be 'zxy' or 'ZXY', got xyz",
        ),
        (DetectionRecord, DETECTION, {"scores": [1.5]}, "scores.0: Input should be less than or equal to 1, got 1.5"),
        (DetectionRecord, DETECTION, {"truth": [{"label": "x", "bbox_3d": ["0", *BOX[1:]]}]}, "valid number, got 0"),
        (DetectionRecord, DETECTION, {"truth": [{"label": "x", "bbox_3d": BOX[:8]}]}, r"truth.0.bbox_3d.8 is missing"),
        (DetectionRecord, DETECTION, {"truth": [{"label": "x", "bbox_3d": [*BOX, 1]}]}, "at most 9 items"),
        (
            GroundingRecord,
            GROUNDING,
            {"truth": [*BOX[:3], -1, *BOX[4:]]},
            "truth.3: .*greater than or equal to 0, got -1",
        ),
        (
            GroundingRecord,
            GROUNDING,
            {"truth": [float("nan"), *BOX[1:]]},
            "truth.0: Input should be a finite number, got nan",
        ),
        (GroundingRecord, GROUNDING, {"camera_to_world": [[[1, 0], [0, 1]]]}, "camera_to_world.0.0.2 is missing"),
        (GroundingRecord, GROUNDING, {"camera_to_world": [[[2, 0, 0, 0], *UNIT[1:]]]}, "must be orthonormal"),
        (
            GroundingRecord,
            GROUNDING,
            {"camera_to_world": [UNIT], "frame": 1},
            "frame 1 has no pose: camera_to_world holds 1",
        ),
        (GroundingRecord, GROUNDING, {"camera_to_world": [UNIT, UNIT[:3]]}, "camera_to_world.1.3 is missing"),
        (GroundingRecord, GROUNDING, {"group": "many"}, "group: Input should be 'unique' or 'multiple'"),
        (CaptionRecord, CAPTION, {"truth": []}, "truth: Tuple should have at least 1 item"),
        (CaptionRecord, CAPTION, {"iou": 1.2}, "iou: Input should be less than or equal to 1, got 1.2"),
        (PointsRecord, POINTS, {"truth": {"pointmap": [0, 0]}}, "truth.pointmap.2 is missing"),
        (PointsRecord, POINTS, {"camera_to_world": [[1, 0, 0, 0]]}, "camera_to_world.1 is missing"),
    ],
)
def test_a_record_that_is_none_is_one_clear_error(tmp_path, record_type, values, change, message):
    changed = {key: value for key, value in {**values, **change}.items() if value is not ...}
    path = write(tmp_path / "file.jsonl", changed)
    with pytest.raises(RecordError, match=message) as error:
        list(RecordFile(path, record_type))
    assert str(error.value).startswith(f"{path}:1: ")
    assert "\n" not in str(error.value)


def test_the_line_of_the_error_is_named(tmp_path):
    path = write(tmp_path / "file.jsonl", CAPTION, {**CAPTION, "id": "b"}, CAPTION)
    with pytest.raises(RecordError, match=r":3: id 'a' was already used on line 1"):
        list(RecordFile(path, CaptionRecord))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no records"),
        (b"\n  \n", "holds no records"),
        (b"[1, 2", r":1: not a JSON object in UTF-8"),
        (b"\xff\xfe{}", r":1: not a JSON object in UTF-8"),
        (b'{"id": "\xe9"}', r":1: not a JSON object in UTF-8: Invalid JSON: invalid unicode code point"),
        (b"[]", r":1: record: Input should be an object"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), r":1: not a JSON object"),
    ],
)
def test_a_file_that_is_none_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=message):
        list(RecordFile(path, CaptionRecord))


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(RecordError, match="cannot be read: No such file"):
        list(RecordFile(tmp_path / "none.jsonl", CaptionRecord))
    with pytest.raises(RecordError, match="cannot be read: Is a directory"):
        list(RecordFile(tmp_path, CaptionRecord))


def test_an_endless_line_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_LINE", 1000)
    path = tmp_path / "file.jsonl"
    path.write_text(json.dumps(CAPTION) + "\n" + "x" * 2000, encoding="utf-8")
    with pytest.raises(RecordError, match=r":2: a line of more than 1000 bytes"):
        list(RecordFile(path, CaptionRecord))


def test_records_are_streamed(tmp_path):
    path = tmp_path / "file.jsonl"
    write(path, *({**CAPTION, "id": str(i), "answer": "x" * 10_000} for i in range(1000)))
    tracemalloc.start()
    count = sum(1 for _ in RecordFile(path, CaptionRecord))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 1000
    assert path.stat().st_size > 10_000_000
    assert peak < 1_000_000
