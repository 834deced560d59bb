"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(out: Path, *, overwrite: bool, ours: Collection[str]) -> Iterator[Path]:
    """A folder to write into; it takes the place of `out` at the end, and is gone if anything fails before.

    overwrite: a folder that holds nothing but files named in `ours` is replaced. ValueError for what is in the way,
    before the work begins and again at its end; OSError where nothing may be written.
    """
    out = Path(os.path.abspath(out))
    _check_free(out, overwrite, ours)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        written = partial / "new"
        written.mkdir()  # with the usual rights: mkdtemp's are for its owner alone
        yield written
        _check_free(out, overwrite, ours)  # others may have been there meanwhile
        if out.exists():
            os.replace(out, partial / "old")
        try:
            os.rename(written, out)
        except BaseException:  # an interruption between the two: the old one is better than none
            if (partial / "old").exists() and not out.exists():
                os.replace(partial / "old", out)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_free(out: Path, overwrite: bool, ours: Collection[str]) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ValueError(f"{out} is there already, and no folder: choose another --out")
    if not out.exists():
        return
    if not overwrite:
        raise ValueError(f"{out} is there already: choose another --out, or give --overwrite")
    if others := sorted({path.name for path in out.iterdir()} - set(ours)):
        raise ValueError(f"{out} holds what this command did not write ({', '.join(others[:3])}): choose another --out")
    if out == Path.cwd():
        raise ValueError(f"{out} is the current folder: go up, and name it from there")
