"""Recipes before they are checked: a YAML file as a table, with settings on top; and what the check found, in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError


class _Loader(yaml.SafeLoader):
    """YAML's safe loader takes the last of two equal keys; here they are an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_table(path: Path, settings: Sequence[str] = (), data: str | None = None) -> dict[str, Any]:
    """The table in a YAML file, with settings such as "batch=4" or "data.marks=2" on top; values are YAML, too.

    data: a data set that takes the place of those it names. ValueError that names the file or the setting.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    if not isinstance(values, dict):
        given = "an empty file" if values is None else type(values).__name__
        raise ValueError(f"{path}: a recipe is a table of keys and values, got {given}")
    for setting in settings:
        _put(values, setting)
    if data is not None:
        _use_dataset(values, data)
    return values


def error_lines(error: ValidationError) -> list[str]:
    """One for each key, where a key that may be one thing or another is wrong as both."""
    found: dict[str, str] = {}
    for item in error.errors():
        # Where a key may be a number or a table, pydantic adds the type that it tried, such as dict[str,…].
        place = ".".join(str(part) for part in item["loc"] if "[" not in str(part)) or "recipe"
        wrong = "no such key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        if item["type"] not in ("extra_forbidden", "missing", "value_error"):
            wrong += f", got {_as_json(item['input'])}"
        found.setdefault(place, wrong)
    return [f"{place}: {wrong}" for place, wrong in found.items()]


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, default=str)[:80]
    except (ValueError, RecursionError):  # YAML can put a table into itself
        return type(value).__name__


def _put(values: dict[str, Any], setting: str) -> None:
    """Set one key, by its path, in a table of values."""
    path, equals, text = setting.partition("=")
    if not (equals and path):
        raise ValueError(f"--set {setting}: key=value is needed, such as batch=4 or data.marks=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {setting}: {text!r} is no YAML value: {' '.join(str(error).split())}") from error
    *parents, last = path.split(".")
    table: Any = values
    try:
        for parent in parents:
            if isinstance(table, dict) and table.get(parent) is None:
                table[parent] = {}
            table = table[int(parent) if isinstance(table, list) else parent]
        table[int(last) if isinstance(table, list) else last] = value
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"--set {setting}: this recipe has no place {path}") from error


def _use_dataset(values: dict[str, Any], dataset: str) -> None:
    """Every source reads this data set."""
    phases = values.get("phases")
    parts = [values, *(phases if isinstance(phases, list) else [])]
    for table in (part.get(name) for part in parts if isinstance(part, dict) for name in ("data", "evaluate")):
        sources = table.get("sources") if isinstance(table, dict) else None
        for source in sources if isinstance(sources, list) else []:
            if isinstance(source, dict):  # what is not is told when the recipe is checked
                if isinstance(rooms := source.pop("rooms", None), dict):
                    source.setdefault("split", rooms.get("split", "train"))
                source["dataset"] = dataset
