"""From nine numbers of a record to boxes, under the convention that a score names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gapmllm.evaluation.records import DetectionRecord, GroundingRecord, RecordError
from gapmllm.evaluation.report import Euler
from gapmllm.geometry import Boxes, EulerConvention


def boxes_from_rows(rows: Sequence[Sequence[float]], convention: EulerConvention) -> Boxes:
    """(N, 9) as written. Sizes count by their magnitude: the released reader lets negative ones through."""
    values = np.array(rows, dtype=np.float64).reshape(-1, 9)
    values[:, 3:6] = np.abs(values[:, 3:6])
    return Boxes.from_euler(values, convention)


def as_overlapped(boxes: Boxes, euler: Euler) -> Boxes:
    """The boxes whose overlap is computed: themselves, or what the released evaluators make of them.

    Those write a box with "zxy" angles and compute its corners as if they were "ZXY".
    """
    return boxes if euler == "stated" else Boxes.from_euler(boxes.to_euler("zxy"), "ZXY")


def check_convention(record: DetectionRecord | GroundingRecord, euler: Euler) -> None:
    """Raise RecordError for a record to which the mixed pair of the released evaluators cannot apply."""
    stated = {record.truth_convention, record.answer_convention}
    if euler == "released" and stated != {"zxy"}:
        raise RecordError(
            "euler='released' means angles written as 'zxy' and overlapped as 'ZXY', but this record states 'ZXY'; "
            "score the file with euler='stated'",
            record.id,
        )
