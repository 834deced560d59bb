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
from gapmllm.tasks.released import literal_objects
from gapmllm.tasks.salvage import Problem, Salvage, salvage

MAX_LITERAL_TEXT = 100_000
"""Longer texts get no second reading as Python literals, which is slower: 4,096 tokens are about 20,000 characters."""
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
_LENGTHS = {"bbox_3d": 9, "pointmap": 3, "pixel": 2}
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
        if labels is not None:
            if not labels:
                raise ValueError("the vocabulary of labels is empty; None allows every label")
            if "label" not in chosen:
                raise ValueError(f"a vocabulary of labels was given, but the answer has no label, only {list(chosen)}")
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
        """The first usable answer in the text, and the list of what was wrong."""
        found = salvage(text, self.fields + self.aliases)
        answers = [usable for _, usable in attempts(text, found, self.answer_type) if usable is not None]
        if answers:
            return Reading(answers[0], "lenient", tuple(found.problems))
        found.report("nothing", f"no usable object with {' or '.join(self.fields)} in {text[:60]!r}")
        return Reading(None, "unreadable", tuple(found.problems))


def attempts(text: str, found: Salvage, answer_type: type[AnswerT]) -> list[tuple[dict[str, Any], AnswerT | None]]:
    """Each object that was found, with the answer it makes or None; what is wrong is reported to `found`.

    A text that gave trouble is also read as lines of Python literals, which is what released models write and what the
    released readers take: where that gives as many answers, it is the surer reading.
    """
    results = [(values, _attempt(values, answer_type, found)) for values in found.objects]
    if found.problems and len(text) <= MAX_LITERAL_TEXT:
        literals = [(values, _attempt(values, answer_type, Salvage())) for values in literal_objects(text, found.keys)]
        if _count(literals) >= max(1, _count(results)):
            return literals
    return results


def _count(results: Sequence[tuple[object, object]]) -> int:
    return sum(usable is not None for _, usable in results)


def _attempt(values: dict[str, Any], answer_type: type[AnswerT], found: Salvage) -> AnswerT | None:
    """The answer that an object makes, if need be without the optional parts that are wrong."""
    while True:
        try:
            return validate(values, answer_type)
        except FieldError as error:
            found.report("field", str(error))
            field = answer_type.model_fields.get(error.field)
            if field is None or field.is_required() or error.field not in values:
                return None
            values = {key: value for key, value in values.items() if key != error.field}


class FieldError(ValueError):
    """One field of an object is wrong; the message says where, what was expected and what was given."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field or 'object'}{message}")
        self.field = field


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
    """The answer that an object makes: other keys dropped, texts trimmed, numerals taken for numbers, or FieldError."""
    if "bbox_3d" not in values and "box_3d" in values:  # released prompts ask for one and show the other
        values = {**values, "bbox_3d": values["box_3d"]}
    known = {key: values[key] for key in answer_type.model_fields if key in values}
    for key, value in known.items():
        if isinstance(value, str):
            known[key] = value.strip()
        elif isinstance(value, list | tuple):
            if len(value) != _LENGTHS.get(key):
                raise FieldError(key, f": {len(value)} numbers, needs {_LENGTHS.get(key, 'one value')}")
            known[key] = [_as_number(v) for v in value]
        elif isinstance(value, bool):  # pydantic would take True for 1
            raise FieldError(key, f": {value} is no value")
    try:
        return answer_type.model_validate(known)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field, *rest = (str(part) for part in first["loc"] or ("",))
        place = "".join(f"[{part}]" for part in rest)
        raise FieldError(field, f"{place}: {first['msg']}, got {str(first['input'])[:80]}") from error


def _as_number(value: object) -> object:
    """A numeral ("0.5", "-1e-3") as a float; anything else as it is, for the validation to refuse."""
    if not isinstance(value, str):
        return None if isinstance(value, bool) else value
    try:
        return float(value.replace("\u2212", "-"))  # the minus sign of typesetters
    except ValueError:
        return value


def _object_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the answer object: the answer itself, or the entries of an answer that is a list."""
    definitions: dict[str, dict[str, Any]] = schema.get("$defs", {"": schema})
    (definition,) = definitions.values()
    return definition
