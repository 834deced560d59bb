"""The folder of an evaluation: who may write there, what it belongs to, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gapmllm.model import PRESETS
from gapmllm.model.loading import MODEL as NEEDED
from gapmllm.model.loading import config_values, find_folder
from gapmllm.model.presets import FOLDER
from gapmllm.model.weight_files import fingerprint
from gapmllm.model.weights import CONFIG
from gapmllm.run.parts import HALF, PARTS

RUN, SCORES, DATA, CALIBRATION, RELIABILITY = "run.json", "scores.json", "data", "calibration.json", "reliability.png"
MODEL = "model"
"""The subject that is no baseline, and the folder of its records."""
RANDOM = "random"
"""Stands in place of a fingerprint for weights that are in no file."""
TEMPERATURES = "score_temperatures"
"""The field of a model's config, and of run.json: those that its records were made with."""
BASELINES = ("blind", "mean", "no-geometry")
_LOCK = ".lock"
_OURS = (PARTS, SCORES, DATA, CALIBRATION, RELIABILITY, MODEL, *BASELINES, RUN)  # deleted in this order


@contextmanager
def claimed(out: Path, *, overwrite: bool) -> Iterator[None]:
    """The folder is there, this process alone writes to it, and nothing in it is of another program.

    overwrite: what an evaluation writes is deleted. ValueError if another process has the folder, or other files are in
    it.
    """
    _check_ours(out)
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another process evaluates into {out}: wait for it, or choose another folder") from error
    try:
        for name in _OURS if _check_ours(out) and overwrite else ():
            _delete(out / name)
        yield
    finally:
        lock.release()
        if {path.name for path in out.iterdir()} == {_LOCK}:  # nothing came of it
            (out / _LOCK).unlink()
            out.rmdir()


def _check_ours(out: Path) -> bool:
    """Whether the folder holds an evaluation. ValueError for one of another program, and for a file."""
    if not out.is_dir():
        if out.exists():
            raise ValueError(f"{out} is a file: a folder is needed")
        return False
    ours = (out / RUN).exists()
    begun = {_LOCK, DATA, RUN + HALF}  # of a run that was stopped before it wrote down what it is
    others = sorted({path.name for path in out.iterdir()} - begun)
    if others and not ours:
        raise ValueError(f"{out} holds other files ({', '.join(others[:3])}): choose a folder that is new or empty")
    return ours


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_same(out: Path, run: dict[str, Any]) -> dict[str, Any]:
    """`run` with what the folder's own says besides. ValueError if that is of another evaluation: what differs, and
    what to do."""
    try:
        found = dict(json.loads((out / RUN).read_text(encoding="utf-8")))
        common = [name for name in run if name in found]
        changed = [f"{name}: {found[name]} there, {run[name]} now" for name in common if found[name] != run[name]]
    except FileNotFoundError:
        return run
    except (ValueError, TypeError) as error:
        raise ValueError(f"{out / RUN} cannot be read: give --overwrite to start anew, or another --out") from error
    if changed:
        raise ValueError(
            "\n  ".join([f"{out} belongs to another evaluation", *changed])
            + "\nGive the same options to go on with it, another --out, or --overwrite to start anew"
        )
    return {**found, **run}


def model_folder(name: str) -> Path:
    """Where a model's files are; for a preset without weights this holds none. ValueError for no model."""
    return FOLDER / name if name in PRESETS else find_folder(name, NEEDED)


def model_identity(name: str) -> dict[str, str]:
    """What tells models apart: config.json and weight files, hashed; of a preset without weights, its name."""
    folder = model_folder(name)
    if not (folder / CONFIG).exists():
        return {"preset": name, "weights": RANDOM}
    values = {**config_values(folder), TEMPERATURES: None}  # they change no answer
    config = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    return {"config": config, "weights": fingerprint(folder)}


def temperatures_of(name: str) -> dict[str, float]:
    """Of a model's scores, by task; none where none were fitted."""
    folder = model_folder(name)
    return (config_values(folder).get(TEMPERATURES) or {}) if (folder / CONFIG).exists() else {}


def write_whole(path: Path, values: Any) -> None:
    """As JSON; the file appears whole or not at all."""
    partial = path.with_name(path.name + HALF)
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
