"""Which of many frames are taken."""

from __future__ import annotations

import numpy as np
import pytest

from gapmllm.scenes import choosing
from gapmllm.scenes.choosing import Kept, chosen, thumbnail


@pytest.mark.parametrize(
    ("values", "wanted", "expected"),
    [
        ([5, 6, 9, 0, 5], 1, [0]),
        ([5, 6, 9, 0, 5], 2, [0, 3]),  # by hand: 0 is 5 away from 5, and 9 is 4 away
        ([5, 6, 9, 0, 5], 3, [0, 2, 3]),
        ([5, 5, 5], 2, [0, 1]),
        ([5, 5, 5], 9, [0, 1, 2]),
        ([], 2, []),
    ],
)
def test_the_farthest_from_all_chosen_is_chosen_next(values, wanted, expected):
    assert chosen(len(values), wanted, [np.array([float(value)]) for value in values]) == expected


def test_without_features_the_choice_is_even():
    assert chosen(12, 4) == [0, 4, 7, 11]  # by hand: 0, 3.7, 7.3, 11


def test_thumbnails_have_one_length():
    sizes = ((48, 64, 3), (1, 1, 3), (500, 3, 3))
    assert {thumbnail(np.zeros(size, np.uint8)).shape for size in sizes} == {(16 * 12 * 3,)}


def test_few_are_held_of_many_and_what_is_taken_is_still_even(monkeypatch):
    monkeypatch.setattr(choosing, "_MOST", 32)
    for count in (1, 5, 33, 1000, 4097):
        kept: Kept[int] = Kept(4)
        for index in range(count):
            kept.add(index, size=1)
            assert len(kept._held) <= 32
        taken = kept.take()
        assert taken == sorted(set(taken))
        assert len(taken) == min(count, 4)
        assert (taken[0], taken[-1]) == (0, count - 1)
        assert max(abs(np.array(taken) - np.linspace(0, count - 1, len(taken)))) <= max(0.5, count / 16)


def test_large_frames_are_held_up_to_a_size_but_two_for_each_that_is_wanted():
    kept: Kept[int] = Kept(4)
    for index in range(100):
        kept.add(index, size=2**30)
        assert len(kept._held) <= 8
    assert len(kept.take()) == 4
