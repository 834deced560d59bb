"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(out: Path, *, overwrite: bool, ours: str) -> Iterator[Path]:
    """A folder to write into; it takes the place of `out` at the end, and is gone if anything fails before.

    overwrite: a folder that holds the file `ours` is replaced. ValueError for what is in the way, OSError where nothing
    may be written: both before the work begins.
    """
    if out.exists() or out.is_symlink():
        if not overwrite:
            raise ValueError(f"{out} is there already: choose another --out, or give --overwrite")
        if not (out / ours).is_file() or out.is_symlink():
            raise ValueError(f"{out} holds no {ours}, so it is none of ours: choose another --out, or delete it")
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=parent))
    try:
        written = partial / "new"
        written.mkdir()  # with the usual rights: mkdtemp's are for its owner alone
        yield written
        if out.exists():
            os.replace(out, partial / "old")
        try:
            os.replace(written, out)
        except BaseException:  # an interruption between the two: the old one is better than none
            if (partial / "old").exists() and not out.exists():
                os.replace(partial / "old", out)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
