"""Whether a pickle is safe to unpack: small files that would fill the memory, or take for ever, are refused before.

Two ways to do so are known. A number for the memo (the list of values to come back to) makes the reader reserve that
many places. And tuples that hold a tuple twice, level upon level, double the time to hash a key with each level.

Pickles of real data sets hold tuples of whole numbers, and tuples as arguments, which `unpickle` checks. A quick look
by patterns makes sure of that; only where there are others are all of them weighed, instruction by instruction.
"""

from __future__ import annotations

import mmap
import pickletools
import re
from pathlib import Path
from typing import Any

MAX_TUPLE = 10_000
"""Values in a tuple and in those within it, each counted as often as it is met."""

_SIZED = {0x8C: 1, 0x58: 4, 0x8D: 8, 0x43: 1, 0x42: 4, 0x8E: 8, 0x96: 8, 0x55: 1, 0x54: 4, 0x8A: 1, 0x8B: 4}
"""Texts, bytes and long numbers: the instruction is followed by a length of so many bytes, and then by as much."""
_PUT = ("PUT", "BINPUT", "LONG_BINPUT")


def check_pickle(path: Path) -> None:
    """Raises ValueError for a pickle that must not be unpacked, or is none."""
    with path.open("rb") as stream:
        size = path.stat().st_size
        if not size:
            raise ValueError("the file is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            quiet = _is_quiet(data)
        if not quiet:
            _weigh(stream, size)


def _quiet_instructions(size: int) -> re.Pattern[bytes]:
    whole = rb"(?:K.|M..|J.{4})"
    put = rb"(?:\x94|q.|r..[\x00-\x%02x]\x00)" % min(size >> 16, 255)
    return re.compile(
        rb"(?:%s"
        % b"|".join(
            (
                rb"%s\x85|%s{2}\x86|%s{3}\x87|\((?:%s)*+t" % (whole, whole, whole, whole),
                rb"[\x85-\x87t]%s?[Rb]" % put,  # arguments, and the state of an array
                rb"G.{8}|[N\x88\x89(\])}aesuRb.\x93\x8f\x90\x91]|h.|j.{4}|\x80.|\x95.{8}|c[^\n]*\n[^\n]*\n",
                whole,
                put,
            )
        )
        + rb")++",
        re.DOTALL,
    )


def _is_quiet(data: mmap.mmap) -> bool:
    instructions, position, end = _quiet_instructions(len(data)), 0, len(data)
    while position < end:
        if (width := _SIZED.get(data[position])) is not None:
            start = position + 1 + width
            position = start + int.from_bytes(data[position + 1 : start], "little")
        elif (match := instructions.match(data, position)) is not None:
            position = match.end()
        else:
            return False
    return True


def _weigh(stream: Any, size: int) -> None:
    """The pickle's stack, with the weight of each value in place of it; None stands for a mark."""
    stack: list[int | None] = []
    memo: dict[int, int] = {}
    argument: Any
    for code, argument, _ in pickletools.genops(stream):
        if code.name in _PUT and argument > size:
            raise ValueError(f"it numbers a value {argument}, more than it has bytes")
        if code.name in _PUT or code.name == "MEMOIZE":
            memo[len(memo) if code.name == "MEMOIZE" else argument] = stack[-1] or 0
        elif "GET" in code.name:
            stack.append(memo[argument])
        elif code.name == "DUP":
            stack.append(stack[-1])
        else:
            weight = _popped(stack, code.stack_before)
            weight = weight if "TUPLE" in code.name else 0
            if weight > MAX_TUPLE:
                raise ValueError(f"it holds a tuple of more than {MAX_TUPLE} values")
            stack += [None if kind is pickletools.markobject else 1 + weight for kind in code.stack_after]


def _popped(stack: list[int | None], kinds: list[Any]) -> int:
    """Weight of the values that an instruction takes off the stack."""
    weight, count = 0, len(kinds)
    if pickletools.markobject in kinds:
        count = kinds.index(pickletools.markobject)
        while (value := stack.pop()) is not None:
            weight += value
    for _ in range(count):
        weight += stack.pop() or 0
    return weight
