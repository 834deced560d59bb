"""What every task's answer shares: number types, the writer, the JSON Schema, the strict and the lenient reader.

An answer is a frozen pydantic model. That one definition is the type that users get, the schema and through it the
grammar for a decoder, and the strict reader. The lenient reader goes through `salvage.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gapmllm.tasks.grammar import lark_grammar
from gapmllm.tasks.salvage import Problem, Salvage, salvage

DECIMALS = 2
"""Decimals of metres and radians in an answer: a centimetre, half a degree."""

# Powers of ten: `grammar.py` turns them into a count of digits.
Coordinate = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
Size = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Angle = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Point3 = tuple[Coordinate, Coordinate, Coordinate]
"""x, y, z in metres."""
Box9 = tuple[Coordinate, Coordinate, Coordinate, Size, Size, Size, Angle, Angle, Angle]
"""Centre, full sizes (metres), Euler angles a, b, c (radians, see `geometry/rotation.py`)."""
_LENGTHS = {"bbox_3d": 9, "pointmap": 3}
Label = Annotated[str, Field(min_length=1, max_length=100)]


class Answer(BaseModel):
    """Base of the answers that are one JSON object."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnswerT = TypeVar("AnswerT", bound=BaseModel)


@dataclass(frozen=True)
class Reading(Generic[AnswerT]):
    """What a reader made of one answer text."""

    answer: AnswerT | None
    """The typed answer; None if nothing usable was found."""
    how: Literal["strict", "lenient", "unreadable"]
    """"strict": the text is exactly what the schema asks for. "lenient": an answer was found in it all the same."""
    problems: tuple[Problem, ...] = ()
    """What was wrong with the text; empty if it was read strictly."""
    unusable: tuple[tuple[int, str], ...] = ()
    """Objects of a list that cannot be used: place in the list as written, and label ("" if it has none)."""


class Task(Generic[AnswerT]):
    """One task: its prompt (each task has its own `prompt`), answer writer, schema and readers.

    The text of a prompt holds no image tokens: whoever builds the model's input puts the frames first.
    """

    name: str
    version: int
    """Raised whenever prompt or answer change: answers of different versions do not compare."""
    answer_type: type[AnswerT]
    fields: tuple[str, ...]
    """Keys of the answer object, in the order in which they are written."""
    aliases: tuple[str, ...] = ()
    """Other keys by which the lenient reader knows an object of this task."""

    def write(self, answer: AnswerT, decimals: int = DECIMALS) -> str:
        """The answer as the model should write it: one line of JSON, numbers with a fixed count of decimals."""
        return write_json(answer.model_dump(exclude_none=True), decimals)

    def schema(self, fields: Sequence[str] | None = None, labels: Sequence[str] | None = None) -> dict[str, Any]:
        """JSON Schema (2020-12) of the answer.

        fields: the keys that the answer must have, in order (default: the task's own). labels: the only ones allowed.
        """
        schema = self.answer_type.model_json_schema()
        entry = _object_of(schema)
        unknown = set(fields or ()) - set(entry["properties"])
        if unknown:
            raise ValueError(f"answer has no field {sorted(unknown)}, choose from {sorted(entry['properties'])}")
        chosen = {name: entry["properties"][name] for name in fields or self.fields}
        # A field that an answer may leave out is "its type or null" to pydantic; a field that is asked for is its type.
        entry["properties"] = {name: node.get("anyOf", [node])[0] for name, node in chosen.items()}
        entry["required"] = list(chosen)
        if labels is not None and "label" not in chosen:
            raise ValueError(f"a vocabulary of labels was given, but the answer has no label, only {list(chosen)}")
        if labels is not None:
            entry["properties"]["label"] = {"enum": list(labels)}
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

    def grammar(
        self, fields: Sequence[str] | None = None, labels: Sequence[str] | None = None, decimals: int = DECIMALS
    ) -> str:
        """The grammar of what `write` writes, for constrained decoding (see `grammar.py`)."""
        return lark_grammar(self.schema(fields, labels), decimals)

    def read(self, text: str) -> Reading[AnswerT]:
        """Read strictly, or else leniently. Never raises, never evaluates; time is linear in the text."""
        strict = self.read_strict(text)
        if strict is not None:
            return Reading(strict, "strict")
        return self.read_lenient(text)

    def read_strict(self, text: str) -> AnswerT | None:
        """The answer if the whole text is valid JSON of the schema (white space around it is allowed), else None."""
        try:
            return self.answer_type.model_validate_json(text, strict=True)
        except ValueError:  # pydantic's ValidationError is one; a text that is not Unicode raises another
            return None

    def read_lenient(self, text: str) -> Reading[AnswerT]:
        """Whatever usable answer is in the text, and the list of what was wrong with it."""
        found = salvage(text, self.fields + self.aliases)
        answer = self.first_usable(found)
        if answer is None and not found.problems:
            found.report("nothing", f"no object with {' or '.join(self.fields)} in {text[:60]!r}")
        return Reading(answer, "unreadable" if answer is None else "lenient", tuple(found.problems))

    def first_usable(self, found: Salvage) -> AnswerT | None:
        """The first object that makes a valid answer; what is wrong with the ones before it is reported."""
        for values in found.objects:
            try:
                return validate(values, self.answer_type)
            except ValueError as error:
                found.report("field", str(error))
        return None


def write_json(value: object, decimals: int = DECIMALS) -> str:
    """One line of JSON with ", " and ": ", and floats in fixed-point notation ("0.10", never "-0.00")."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write_json(k)}: {write_json(v, decimals)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(write_json(v, decimals) for v in value) + "]"
    if isinstance(value, float):
        # Adding 0.0 turns the negative zero that rounding leaves into zero.
        return f"{round(value, decimals) + 0.0:.{decimals}f}"
    return json.dumps(value, ensure_ascii=False)


def validate(values: dict[str, Any], answer_type: type[AnswerT]) -> AnswerT:
    """The answer that a salvaged object makes: other keys dropped, texts trimmed, numerals taken for numbers.

    Raises ValueError, in one line: where, what was expected, what was given.
    """
    if "bbox_3d" not in values and "box_3d" in values:  # released prompts ask for one and show the other
        values = {**values, "bbox_3d": values["box_3d"]}
    known = {key: values[key] for key in answer_type.model_fields if key in values}
    for key, value in known.items():
        if isinstance(value, str):
            known[key] = value.strip()
        elif isinstance(value, list):
            if len(value) != _LENGTHS.get(key):
                raise ValueError(f"{key}: {len(value)} numbers, needs {_LENGTHS.get(key, 'one value')}")
            known[key] = [_as_number(v) for v in value]
    try:
        return answer_type.model_validate(known)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in first["loc"])
        raise ValueError(f"{place or 'object'}: {first['msg']}, got {str(first['input'])[:80]}") from error


def _as_number(value: object) -> object:
    """A numeral ("0.5", "-1e-3") as a float; anything else as it is, for the validation to refuse."""
    if not isinstance(value, str):
        return None if isinstance(value, bool) else value  # pydantic would take True for 1
    try:
        return float(value.replace("\u2212", "-"))  # the minus sign of typesetters
    except ValueError:
        return value


def _object_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the answer object: the answer itself, or the entries of an answer that is a list."""
    definitions: dict[str, dict[str, Any]] = schema.get("$defs", {"": schema})
    (definition,) = definitions.values()
    return definition
