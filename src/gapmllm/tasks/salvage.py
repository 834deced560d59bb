"""The tolerant scanner behind every lenient reader: finds the JSON-like objects in whatever a model wrote.

It accepts code fences, text before and after, everything on one line or spread over many, trailing or missing commas,
Python quotes, tuples, True/None, comments, unquoted words, a missing closing bracket, and an end that was cut off. It
never evaluates and never raises. One pass, a bounded number of tokens and a bounded result: linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

MAX_OBJECTS = 1_000
"""Objects returned at most: a room has dozens."""
MAX_TOKENS = 200_000
"""Tokens looked at inside brackets: 1,000 boxes take about 25,000."""
MAX_DEPTH = 16
"""Brackets within brackets: our answers need 3."""
MAX_PROBLEMS = 50
"""Problems listed at most, so that a report stays readable."""


@dataclass(frozen=True)
class Problem:
    """One thing that was wrong with an answer's text."""

    kind: str
    """One word to count by, such as "cut" or "box"."""
    detail: str
    """What was found and what was expected, for a person."""


@dataclass
class Salvage:
    """What the scanner found: objects in the order in which they were closed, and what was wrong."""

    keys: frozenset[str] = frozenset()
    """What an object was known by."""
    objects: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def report(self, kind: str, detail: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(kind, detail))


# The quantifiers are possessive (++, *+): a token is never given back, so no text makes the expression backtrack.
# Strings end at braces: where a quote is missing, the next object is whole again.
_TOKEN = re.compile(
    r"""(?P<open>[{\[(])
      | (?P<close>[}\])])
      | (?P<comma>,)
      | (?P<string>"(?:[^"\\\n{}]|\\.)*+"? | '(?:[^'\\\n{}]|\\.|(?<=\w)'(?=\w))*+'?)
      | (?P<comment>(?:\#|//)[^\n]*+)
      | (?P<key>[^\s{}\[\](),:"'\#]++(?=\s*+:))
      | (?P<word>[^\s{}\[\](),:"'\#]++)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_CONSTANTS: dict[str, object] = {
    "true": True, "True": True, "false": False, "False": False, "null": None, "None": None,
}  # fmt: skip


class _Node:
    """A bracket that is still open."""

    __slots__ = ("key", "unquoted", "value")

    def __init__(self, value: dict[str, Any] | list[Any]) -> None:
        self.value = value
        self.key: str | None = None
        """In an object: the key that waits for its value."""
        self.unquoted: str | None = None
        """In an object: the key whose value is an unquoted text that may go on."""

    @property
    def is_object(self) -> bool:
        return isinstance(self.value, dict)

    def put(self, value: object) -> None:
        if isinstance(self.value, list):
            self.value.append(value)
        elif self.key is not None:
            self.value[self.key] = value
            self.key = None
        elif isinstance(value, str):
            self.key = value

    def put_word(self, word: str) -> None:
        """A word without quotes: a constant, a numeral, or (part of) a text such as {label: coffee table}."""
        if isinstance(self.value, dict) and self.key is None and self.unquoted is not None:
            self.value[self.unquoted] += f" {word}"
            return
        key = self.key
        value = _CONSTANTS.get(word, word)
        self.put(value)
        self.unquoted = key if isinstance(value, str) else None


class _Scanner:
    def __init__(self, text: str, keys: Collection[str]) -> None:
        self.text = text
        self.stack: list[_Node] = []
        self.result = Salvage(frozenset(keys))
        self.end = 0  # of the last token that was taken

    def run(self) -> Salvage:
        """Outside an object the scanner only looks for the next "{": prose may hold any quotes and brackets."""
        first = position = self.text.find("{")
        tokens = wasted = 0
        while position >= 0 and (match := _TOKEN.search(self.text, position)):
            kind, token = match.lastgroup or "", match.group()
            tokens += 1
            if tokens > MAX_TOKENS or wasted > 4 * len(self.text) or len(self.result.objects) >= MAX_OBJECTS:
                looked = f"{len(self.result.objects)} objects and {tokens - 1} tokens"
                self.result.report("too_long", f"stopped after {looked}, at character {match.start()}")
                return self.result
            if kind == "string" and (len(token) < 2 or token[-1] != token[0]):
                self.result.report("string", f"a string is not closed: {token[:40]}")
                wasted += len(token)  # counted, so that a text full of stray quotes still takes linear time
                position = match.start() + 1  # what follows the stray quote is read without it
            else:
                position = self.end = match.end()
                self.take(kind, token)
            if not self.stack:
                position = self.text.find("{", position)
        if self.stack:
            self.result.report("cut", f"the text ends inside {len(self.stack)} open bracket(s)")
        elif self.text[: max(first, 0)].rstrip().endswith("[") and "]" not in self.text[self.end :]:
            self.result.report("cut", "the text ends inside a list")
        return self.result

    def take(self, kind: str, token: str) -> None:
        if kind == "open":
            self.open(token)
            return
        if kind == "close":
            self.close(token)
            return
        node = self.stack[-1]
        if kind == "word":
            node.put_word(token)
            return
        node.unquoted = None
        if kind == "comma":
            self.expect_value(node)
            node.key = None
        elif kind == "key":
            node.put(token)
        elif kind == "string":
            node.put(_unquote(token))

    def open(self, token: str) -> None:
        if token == "{" and self.stack and self.stack[-1].is_object and self.stack[-1].key is None:
            self.missing("}")
            self.pop()  # the next object starts where a key was expected: the last one was not closed
        if len(self.stack) >= MAX_DEPTH:
            self.result.report("depth", f"brackets are nested more than {MAX_DEPTH} deep")
            self.stack.clear()
        self.stack.append(_Node({} if token == "{" else []))

    def close(self, token: str) -> None:
        wanted_object = token == "}"
        if not any(node.is_object == wanted_object for node in self.stack):
            self.result.report("bracket", f"{token!r} closes nothing")
            return
        while self.stack[-1].is_object != wanted_object:
            self.missing("}" if self.stack[-1].is_object else "]")
            self.pop()
        self.pop()

    def expect_value(self, node: _Node) -> None:
        if node.key is not None:
            self.result.report("value", f"{node.key[:40]!r} has no value")

    def missing(self, bracket: str) -> None:
        self.result.report("bracket", f"{bracket!r} is missing")

    def pop(self) -> None:
        node = self.stack.pop()
        self.expect_value(node)
        value = node.value
        if isinstance(value, dict) and not self.result.keys.isdisjoint(value):
            self.result.objects.append(value)
        if self.stack:
            self.stack[-1].put(value)


def salvage(text: str, keys: Collection[str]) -> Salvage:
    """Every complete object of the text that has one of the keys. Values are dict, list, str, bool or None.

    Numbers stay text, as written: `validate` of `answers.py` makes floats of them where numbers are expected.
    """
    return _Scanner(text, keys).run()


def _unquote(token: str) -> str:
    inner = token[1:-1]
    if "\\" not in inner:
        return inner
    plain = _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], chr(int(m[1][1:], 16)) if len(m[1]) == 5 else m[1]), inner)
    return mend_surrogates(plain)


def mend_surrogates(text: str) -> str:
    """Two surrogates become the character they spell; one alone has no meaning and becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
