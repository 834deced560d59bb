"""What an answer has to look like while it is written: the grammar of its task, within sane bounds.

Readers take more than a decoder may write: 999 m from a file are read, but no room needs them. The bounds here are the
decoder's. Every text that a form allows is read strictly, and no text is longer than `Form.longest`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from json import JSONDecodeError, JSONDecoder
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gapmllm.tasks import CAPTIONING, DETECTION, Task
from gapmllm.tasks.answers import DECIMALS, Label, write_json
from gapmllm.tasks.grammar import lark_grammar
from gapmllm.tasks.salvage import MAX_OBJECTS

MOST_METRES = 99.99
"""Of a coordinate or an edge."""
MOST_RADIANS = 3.15
"""Euler angles are written between -pi and pi."""
LABEL = 40
"""Characters of a label; the longest of ScanNet's 485 raw names has 27."""
SAME = 0.05
"""Metres: a box with the label of an earlier one whose six numbers are all this close to it is that one again."""
_JSON = JSONDecoder()
_LABEL = TypeAdapter(Label)


@dataclass(frozen=True)
class Form:
    """A task with what is asked of it. ValueError for fields and labels that the task does not have."""

    task: Task[Any]
    fields: tuple[str, ...] | None = None
    """Keys of the answer, in order; None: the task's own."""
    labels: tuple[str, ...] | None = None
    """The only ones allowed; None: any."""
    num_frames: int | None = None
    """Frames to choose from, where the answer names one."""
    max_objects: int = 64
    """In a list, at most."""

    def __post_init__(self) -> None:
        if self.task is CAPTIONING:
            raise ValueError("a caption is free text; ask for it without a form")
        if not 1 <= self.max_objects <= MAX_OBJECTS:
            raise ValueError(f"max_objects must be 1 to {MAX_OBJECTS}, got {self.max_objects}")
        for label in self.labels or ():
            try:
                _LABEL.validate_python(label)
            except ValidationError as error:  # what cannot be read must not be written
                raise ValueError(f"label {label!r:.80}: {error.errors()[0]['msg']}") from error
        self.task.schema(self.fields, self.labels)

    @property
    def is_list(self) -> bool:
        return self.task is DETECTION

    def grammar(self, max_objects: int | None = None) -> str:
        """In Lark, for llguidance. max_objects: another limit than the form's; 0 leaves the empty list."""
        schema = self._schema
        if self.is_list:
            count = self.max_objects if max_objects is None else max_objects
            if not count:
                return 'start: "[]"\n'
            schema = {**schema, "maxItems": count}
        return lark_grammar(schema, DECIMALS)

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest answer, of a list with one object; as many tokens at most, and one for the end."""
        return _longest({**self._schema, "maxItems": 1} if self.is_list else self._schema, self._schema)

    @cached_property
    def _schema(self) -> dict[str, Any]:
        labels = None if self.labels is None else list(self.labels)
        return _narrowed(self.task.schema(self.fields, labels), self.num_frames)


def complete_objects(text: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    """The objects of a list that is being written, with the places in the text where each begins and ends."""
    place = text.find("{")
    while place >= 0:
        try:
            values, end = _JSON.raw_decode(text, place)
        except JSONDecodeError:
            return
        yield values, place, end
        place = text.find("{", end)


def repeats(objects: Sequence[dict[str, Any]]) -> bool:
    """Whether the last object is an earlier one again: then a model goes round in circles."""
    *earlier, last = objects
    place = last["bbox_3d"][:6]
    return any(
        other["label"] == last["label"]
        and all(abs(a - b) <= SAME + 1e-9 for a, b in zip(other["bbox_3d"][:6], place, strict=True))
        for other in earlier
    )


def _narrowed(node: Any, num_frames: int | None) -> Any:
    """A schema with the decoder's bounds in place of the readers'."""
    if isinstance(node, list):
        return [_narrowed(part, num_frames) for part in node]
    if not isinstance(node, dict):
        return node
    node = {key: _narrowed(value, num_frames) for key, value in node.items()}
    if node.get("type") == "string" and "maxLength" in node:
        node["maxLength"] = LABEL
    if node.get("type") == "number" and node["maximum"] > 1:
        most = MOST_METRES if node["maximum"] == 1000 else MOST_RADIANS
        node |= {"maximum": most, "minimum": -most if node["minimum"] < 0 else 0}
    if num_frames is not None and "frame" in node.get("properties", {}):
        node["properties"]["frame"] |= {"maximum": num_frames - 1}
    return node


def _longest(node: dict[str, Any], root: dict[str, Any]) -> int:
    """Bytes of the longest text of a (narrowed) schema."""
    if "$ref" in node:
        return _longest(root["$defs"][node["$ref"].rsplit("/", 1)[-1]], root)
    if "enum" in node:
        return max(len(write_json(value).encode()) for value in node["enum"])
    kind = node["type"]
    if kind == "object":
        parts = [len(f'"{key}": ') + _longest(child, root) for key, child in node["properties"].items()]
        return 2 + sum(parts) + 2 * (len(parts) - 1)
    if "prefixItems" in node:
        parts = [_longest(child, root) for child in node["prefixItems"]]
        return 2 + sum(parts) + 2 * (len(parts) - 1)
    if kind == "array":
        return 2 + (_longest(node["items"], root) + 2) * node["maxItems"]
    if kind == "string":
        return 2 + 4 * node["maxLength"]  # no character of UTF-8 has more bytes
    digits = len(f"{node['maximum']:.{DECIMALS}f}" if kind == "number" else str(node["maximum"]))
    return digits + (node["minimum"] < 0)
