"""Lengths are written as medians: against the median of all numbers that could have been written."""

from __future__ import annotations

import numpy as np
import pytest
from llguidance import LLTokenizer

from gapmllm.infer.medians import Medians

BYTES = LLTokenizer("byte")  # a token is a byte
POINT, BOX = '{"label": "bed", "pointmap": [', '[{"label": "bed", "bbox_3d": ['


def following(text: str) -> Medians:
    """Of an answer that begins so."""
    medians = Medians(BYTES)
    for token in text.encode():
        medians.take(token)
    return medians


def written(medians: Medians, numbers: dict[str, float], end: str = ", ") -> str:
    """The numeral that is chosen byte by byte, from the probabilities of whole numerals."""
    numeral = ""
    while numeral not in numbers:
        shares: dict[int, float] = {}
        for number, share in numbers.items():
            if number.startswith(numeral):
                shares[ord(number[len(numeral)])] = shares.get(ord(number[len(numeral)]), 0.0) + share
        tokens = list(shares)
        chosen = medians.choose(tokens, list(shares.values()))
        if chosen is None:
            assert len(tokens) == 1  # no choice
            (chosen,) = tokens
        medians.take(chosen)
        numeral += chr(chosen)
    for token in end.encode():
        medians.take(token)
    return numeral


def median_of(numbers: dict[str, float]) -> float:
    """The lowest number that half of the probability does not exceed."""
    values = np.array([float(number) for number in numbers])
    order = np.argsort(values)
    below = np.cumsum(np.array(list(numbers.values()))[order]) / sum(numbers.values())
    return float(values[order][np.searchsorted(below, 0.5)])


@pytest.mark.parametrize("centre", [-2.0, -0.1, 0.0, 0.96, 3.04])
def test_the_number_is_the_median_of_all_numbers(centre):
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = np.unique(np.clip(rng.normal(centre, 0.8, size=40), -9.99, 9.99).round(2))
        numbers = {f"{value + 0.0:.2f}": share for value, share in zip(values, rng.random(len(values)), strict=True)}
        assert float(written(following(POINT), numbers)) == median_of(numbers)


def test_a_digit_that_is_ahead_by_chance_is_not_taken():
    """By hand: 2.0 to 2.9 are all but alike, 2.9 a little likelier; half of the probability is reached at 2.5."""
    numbers = {f"2.{tenth}0": 1 + 0.2 * (tenth == 9) for tenth in range(10)}
    assert written(following(POINT), numbers) == "2.50"
    wavers = {"0.98": 0.49, "1.02": 0.51}  # the first digit leads to neither end of what follows it
    assert written(following(POINT), wavers) == "1.02"


def test_each_number_starts_from_the_middle():
    medians = following(POINT)
    numbers = {f"{value}.00": 1.0 for value in range(9)}
    assert [written(medians, numbers) for _ in range(3)] == ["4.00"] * 3


def test_only_lengths_are_medians():
    digits, alike = list(b"0123456789"), [0.1] * 10
    for before in (BOX + "1.00, 2.00, 3.00, 1.00, 1.00, 1.00, ", '{"frame": ', '{"label": "', "["):
        assert following(before).choose(digits, alike) is None
    assert following(BOX + "1.00, 2.00, 3.00, 1.00, 1.00, ").choose(digits, alike) == ord("4")
    assert following(BOX).choose([*digits, ord("x")], [*alike, 0.1]) is None  # something that is no number may come
    assert following(BOX).choose([ord("1")], [1.0]) is None  # no choice


def test_numbers_of_the_next_object_are_counted_anew():
    first = BOX + "1.00, 2.00, 3.00, 1.00, 1.00, 1.00, -1.00, 1.00, 3.14]}, " + BOX[1:]
    assert following(first).choose(list(b"0123456789"), [0.1] * 10) == ord("4")
