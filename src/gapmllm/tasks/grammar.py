"""From an answer's JSON Schema to the grammar of the one way in which we write it.

JSON leaves a writer many choices: spaces, key order, 0.1 or 0.10 or 1e-1. A model is trained on one of them, and a
decoder that may only write what the model was trained on keeps to it. The grammar is in the Lark dialect of llguidance.
"""

from __future__ import annotations

import json
from math import ceil, log10
from typing import Any

_CHARACTER = r'([^"\\\x00-\x1f\x7f]|\\["\\bfnrt])'


def lark_grammar(schema: dict[str, Any], decimals: int) -> str:
    """A grammar whose texts are all valid under the schema, and among them what `write_json` writes.

    decimals: of every number. Two things are valid but cannot be written: a number on its bound (1000.00), since bounds
    are powers of ten and become a count of digits here, and control characters in a label.
    """
    return f"start: {_rule(schema, schema.get('$defs', {}), decimals)}\n"


def _rule(node: dict[str, Any], definitions: dict[str, Any], decimals: int) -> str:
    if "$ref" in node:
        return _rule(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions, decimals)
    if "enum" in node:
        return "(" + " | ".join(_literal(json.dumps(value, ensure_ascii=False)) for value in node["enum"]) + ")"
    if node["type"] == "object":
        parts = [
            f"{_literal(json.dumps(key) + ': ')} {_rule(child, definitions, decimals)}"
            for key, child in node["properties"].items()
        ]
        return _enclosed("{", parts, "}")
    if "prefixItems" in node:
        return _enclosed("[", [_rule(child, definitions, decimals) for child in node["prefixItems"]], "]")
    if node["type"] == "array":
        item = _rule(node["items"], definitions, decimals)
        return f'"[" ({item} (", " {item}){{0,{node["maxItems"] - 1}}})? "]"'
    if node["type"] == "string":
        return f'/"{_CHARACTER}{{{node["minLength"]},{node["maxLength"]}}}"/'
    digits = ceil(log10(node["maximum"]))
    sign = "-?" if node["minimum"] < 0 else ""
    fraction = rf"\.[0-9]{{{decimals}}}" if node["type"] == "number" and decimals else ""
    if not digits:  # a share
        return f"/{sign}(0{fraction}|1{fraction.replace('[0-9]', '0')})/"
    return f"/{sign}(0|[1-9][0-9]{{0,{digits - 1}}}){fraction}/"


def _enclosed(opening: str, parts: list[str], closing: str) -> str:
    return f'"{opening}" {" {} ".format(_literal(", ")).join(parts)} "{closing}"'


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
