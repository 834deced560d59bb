"""Class lists over which detection scores are averaged.

"8", "20" and "31-released" are those of the released evaluators (VG-LLM, GAP-MLLM); a class that never occurs counts as
0 in the mean, as there. "31-released" holds `lamp` twice and `towl`, which no truth is called; "31-corrected" is the
same list with `lamp` once and `towel`, 30 names. "present" stands for the classes that occur in the truth.
"""

from __future__ import annotations

_EIGHT = ("chair", "cabinet", "table", "bin", "couch", "bed", "bathtub", "toilet")
_TWENTY = (
    "chair", "pillow", "cabinet", "table", "lamp", "couch", "desk", "stand", "bed", "backpack",
    "bathtub", "ottoman", "dresser", "bin", "toilet", "refrigerator", "stove", "microwave", "monitor", "computer",
)  # fmt: skip
_EIGHT_MORE = ("window", "shelf", "curtain", "plant", "stairs", "picture", "book", "bottle")


def plain(label: str) -> str:
    """A label without regard to case and spacing: how labels compare, except to the released evaluators."""
    return " ".join(label.lower().split())


CLASS_LISTS: dict[str, tuple[str, ...]] = {
    "8": _EIGHT,
    "20": _TWENTY,
    "31-released": (*_TWENTY, *_EIGHT_MORE, "lamp", "towl", "sink"),
    "31-corrected": (*_TWENTY, *_EIGHT_MORE, "towel", "sink"),
}
