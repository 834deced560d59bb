"""The restricted unpickler: plain values come through, everything else is refused by name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from gapmllm.scenes.importers.unpickle import load_pickle


def test_the_real_pickles_are_read_as_pickle_reads_them(real):
    for path in sorted((real / "mmdet3d_scannet_scene0000_00").glob("*.pkl")):
        ours, theirs = load_pickle(path), pickle.loads(path.read_bytes())
        if isinstance(theirs, dict):
            assert ours == theirs
            continue
        for name, values in theirs[0]["annos"].items():
            np.testing.assert_array_equal(ours[0]["annos"][name], values)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_all_plain_kinds_survive_every_protocol(tmp_path, protocol):
    values = {
        "turned": np.arange(12.0).reshape(3, 4).T,
        "columns": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "swapped": np.arange(3, dtype=">u2"),
        "text": np.array(["a", "bcd"]),
        "mixed": np.array([[1], "x", None], dtype=object),
        "none": np.zeros((0, 9)),
        "scalar": np.float32(0.5),
        "set": {1, 2},
        "bytes": [b"", b"\xff"],
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(values, protocol=protocol))
    found = load_pickle(path)
    assert found.keys() == values.keys()
    for name, expected in values.items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(expected))
    again = pickle.loads(pickle.dumps(found))
    assert type(again["turned"]) is np.ndarray


class Runs:
    """Pickles as a call of its function."""

    def __init__(self, function, *values):
        self.call = (function, values)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Runs(os.system, "true"), "wants posix.system; only arrays and plain values are read"),
        (Runs(eval, "1"), r"wants builtins.eval"),
        (Path("x"), "wants pathlib"),
        (Runs(np.ndarray, (3,)), "wants a numpy.ndarray made by hand"),
        (np.zeros(1, dtype=[("a", "f8")]), "wants an array of type 'V8'"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "wants an array of type 'M8'"),
    ],
)
def test_a_pickle_that_wants_more_than_values_is_refused_by_name(tmp_path, value, message):
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps([value]))
    with pytest.raises(ValueError, match=message):
        load_pickle(path)


@pytest.mark.parametrize("data", [b"", b"hello", pickle.dumps({"a": np.arange(9.0)})[:-20]])
def test_what_is_no_whole_pickle_is_refused(tmp_path, data):
    path = tmp_path / "bad.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"bad.pkl: not a pickle that can be read"):
        load_pickle(path)


def nested(levels):
    """A key that holds a tuple twice, level upon level."""
    value = (1.5, 2.5)
    for _ in range(levels):
        value = (value, value)
    return value


class LongKey:
    """Pickles as a dtype whose unread arguments are a long key."""

    def __reduce__(self):
        return np.dtype, ("f8", nested(40), nested(40))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02Nr\x00\x00\x00\x08.", "it numbers a value 134217728, more than it has bytes"),
        (b"N" + b"p999999999\n.", "it numbers a value 999999999, more than it has bytes"),
        # {t: None} with t = (t, t) 40 times, by hand: Python cannot even hash it to pickle it
        (b"\x80\x02}G" + bytes(8) + b"q\x00" + b"h\x00\x86q\x00" * 40 + b"Ns.", "a tuple of more than 10000 values"),
        (b"\x80\x02}K\x01" + b"\x85" * 20_000 + b"Ns.", "a tuple of more than 10000 values"),
        (pickle.dumps(LongKey(), protocol=2), "a tuple of more than 10000 values"),
        (b"\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x01\x85K\x01tR.", "by more than plain values"),
        (b"\x80\x02cbuiltins\nset\nK\x01\x85\x85R.", "a set is made of a list"),
    ],
)
def test_a_small_pickle_that_would_take_for_ever_is_refused_before(tmp_path, data, message):
    path = tmp_path / "bad.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load_pickle(path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_tuples_of_all_kinds_come_back(tmp_path, protocol):
    shared = (1.5, "a")
    values = {(1, 2): shared, ("x", shared): [(), (1,), (1, 2, 3), tuple(range(300)), shared, (shared, shared)]}
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(values, protocol=protocol))
    assert load_pickle(path) == values
