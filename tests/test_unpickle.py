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
