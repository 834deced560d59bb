"""Pickles of other code bases, read without running anything: containers, numbers, texts and numpy arrays.

A pickle is a program that may call any function by name. Here the few names that numpy's arrays need are answered by
harmless stand-ins of this file, and every other name is refused.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapmllm.scenes.importers.pickle_check import check_pickle

MAX_PICKLE = 4 * 2**30
"""Largest pickle that is read, bytes. In memory its values take about three times that."""

_PLAIN_TYPE = re.compile(r"[biuf]\d{1,2}|[SU]\d{1,6}|O8?|\?")
_NUMPY = {f"{core}.{module}" for core in ("numpy.core", "numpy._core") for module in ("multiarray", "numeric")}


def load_pickle(path: Path) -> Any:
    """The value in a pickle file; arrays come as numpy arrays.

    Raises ValueError that names the file for what is damaged, too large, or asks for anything but plain values.
    """
    size = path.stat().st_size
    if size > MAX_PICKLE:
        raise ValueError(f"{path}: {size} bytes, at most {MAX_PICKLE} are read")
    try:
        check_pickle(path)
        with path.open("rb") as stream:
            return _Unpickler(stream).load()
    except _Refused as error:
        raise ValueError(f"{path}: the pickle wants {error}; only arrays and plain values are read") from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything, from IndexError to MemoryError
        raise ValueError(f"{path}: not a pickle that can be read: {type(error).__name__}: {error}") from error


class _Refused(Exception):
    """Holds the name that the pickle asked for."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in _NUMPY and name in _STAND_INS:
            return _STAND_INS[name]
        try:
            return _NAMES[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


class _Kind:
    """Stands for a numpy dtype of a plain kind while the pickle is read."""

    def __init__(self, code: str, *flags: object) -> None:
        _check_plain(flags)
        if not (isinstance(code, str) and _PLAIN_TYPE.fullmatch(code)):
            raise _Refused(f"an array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _check_plain(state)
        if state[1] in ("<", ">"):  # the rest of the state repeats what the code says
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that checks what a pickle puts into it."""

    def __reduce__(self) -> Any:
        return np.array(self).__reduce__()  # pickled again it is a plain array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, kind, fortran, data = state
        _check_plain((version, fortran))
        values = _filled(data, kind, shape, "F" if fortran else "C")
        content = values.ravel().tolist() if values.dtype == object else values.tobytes()
        super().__setstate__((1, values.shape, values.dtype, False, content))  # type: ignore[arg-type]


def _empty(kind: object, shape: object, code: object) -> _Array:
    """Stands for numpy's _reconstruct, which is only ever asked for an empty array to be filled in."""
    if kind is not _ArrayName:
        raise _Refused(f"an array of class {kind!r}")
    if shape != (0,) or not isinstance(code, bytes | str):
        raise ValueError("an array that is to be filled in must be empty at first")
    return np.empty(0, dtype=np.int8).view(_Array)


def _filled(data: Any, kind: _Kind, shape: tuple[int, ...], order: Any = "C") -> NDArray[Any]:
    """An array of its raw bytes (or its list of objects), with every size checked."""
    count = math.prod(shape)
    if kind.dtype == object:
        if not isinstance(data, list) or len(data) != count:
            raise ValueError(f"an array of shape {shape} needs a list of {count} values")
        values = np.empty(count, dtype=object)
        values[:] = data
    else:
        values = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=kind.dtype)
    return values.reshape(shape, order=order)


def _frombuffer(data: Any, kind: _Kind, shape: tuple[int, ...], order: str) -> NDArray[Any]:
    """Stands for numpy's reader of pickle protocol 5."""
    return _filled(data, kind, shape, order).copy()


def _scalar(kind: _Kind, data: Any) -> Any:
    return _filled(data, kind, ()).item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stands for codecs.encode: how old pickles spell bytes."""
    if encoding != "latin1":
        raise _Refused(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _set(values: list[Any]) -> set[Any]:
    """Stands for set as old pickles call it."""
    if not isinstance(values, list):
        raise ValueError("a set is made of a list")
    return set(values)


def _frozenset(values: list[Any]) -> frozenset[Any]:
    return frozenset(_set(values))


def _check_plain(values: Any) -> None:
    """Arguments that are kept, though nothing reads them: see `pickle_check` for why they may hold no tuples."""
    if not all(value is None or isinstance(value, int | str | bytes) for value in values):
        raise ValueError("an array or its type is described by more than plain values")


def _no_bytes() -> bytes:
    """Stands for bytes: old pickles call it without arguments for b""."""
    return b""


class _ArrayName:
    """Stands for numpy.ndarray, which a pickle may name but not call."""

    def __init__(self, *_: object) -> None:
        raise _Refused("a numpy.ndarray made by hand")


_STAND_INS: dict[str, Callable[..., Any]] = {"_reconstruct": _empty, "scalar": _scalar, "_frombuffer": _frombuffer}
_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayName,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): _frozenset,
    ("builtins", "complex"): complex,
    ("__builtin__", "bytes"): _no_bytes,
    ("__builtin__", "set"): _set,
    ("__builtin__", "frozenset"): _frozenset,
}
