"""From an answer's JSON Schema to the grammar of the one way in which we write it.

JSON leaves a writer many choices: spaces, key order, 0.1 or 0.10 or 1e-1. A model is trained on one of them, and a
decoder that may only write what the model was trained on keeps to it. The grammar is in the Lark dialect of llguidance.
"""

from __future__ import annotations

import json
from math import floor
from typing import Any

_FIRST, _CHARACTER = (rf'([^{space}"\\\x00-\x1f\x7f]|\\["\\bfnrt])' for space in (" ", ""))


def lark_grammar(schema: dict[str, Any], decimals: int) -> str:
    """A grammar whose texts are all valid under the schema, and among them what `write_json` writes.

    decimals: of every number. Control characters in a label are valid but cannot be written.
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
        more = f' (", " {item}){{0,{node["maxItems"] - 1}}}' if node["maxItems"] > 1 else ""
        return f'"[" ({item}{more})? "]"'
    if node["type"] == "string":
        return f'/"{_FIRST}{_CHARACTER}{{{node["minLength"] - 1},{node["maxLength"] - 1}}}"/'
    sign = "-?" if node["minimum"] < 0 else ""  # bounds of numbers are symmetric, or begin at 0
    return f"/{sign}({_up_to(node['maximum'], decimals if node['type'] == 'number' else 0)})/"


def _up_to(maximum: float, decimals: int) -> str:
    """A regular expression for the numbers from 0 to the maximum, with so many decimals and no leading zeros."""
    digits = str(floor(maximum * 10**decimals + 1e-6)).zfill(decimals + 1)
    whole, rest = digits[: len(digits) - decimals], digits[len(digits) - decimals :]
    shorter = ["0", *(f"[1-9][0-9]{{{more}}}" for more in range(len(whole) - 1))] if len(whole) > 1 else []
    smaller = [*shorter, *_below(whole, 1 if len(whole) > 1 else 0)]
    point, any_rest = (r"\.", f"[0-9]{{{decimals}}}") if decimals else ("", "")
    ends = "|".join([*_below(rest, 0), rest])
    return "|".join([*(f"{number}{point}{any_rest}" for number in smaller), f"{whole}{point}({ends})"])


def _below(digits: str, first: int) -> list[str]:
    """Regular expressions for the numerals of as many digits that are smaller; the first digit is not below `first`."""
    lowest = [first] + [0] * len(digits)
    return [
        f"{digits[:place]}[{lowest[place]}-{int(digit) - 1}][0-9]{{{len(digits) - place - 1}}}"
        for place, digit in enumerate(digits)
        if int(digit) > lowest[place]
    ]


def _enclosed(opening: str, parts: list[str], closing: str) -> str:
    return f'"{opening}" {" {} ".format(_literal(", ")).join(parts)} "{closing}"'


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
