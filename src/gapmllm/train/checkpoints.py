"""Checkpoints of a run: all that is needed to go on as if nothing had happened.

out/checkpoints/step-00000200/
    weights.safetensors     what is trained, float32, by name; frozen weights come from `init` again
    optimizer.safetensors   Adam's moments, by kind and name
    rng.safetensors         the state of torch's random numbers, of each process and device
    state.json              step, recipe, package version, fingerprint of the models it started from

A checkpoint appears whole or not at all. No pickle: what is read cannot run code. Weights are stored whole, so a run
may go on with another number of processes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gapmllm import __version__
from gapmllm.model.weight_files import fingerprint as fingerprint_of_weights
from gapmllm.model.weight_files import shorten
from gapmllm.scenes.manifest import FILE as MANIFEST
from gapmllm.scenes.manifest import fingerprint as fingerprint_of_data
from gapmllm.train.parallel import agreed, share_of, whole_tensors
from gapmllm.train.recipe import Recipe
from gapmllm.train.stages import Stage
from gapmllm.train.start import trained

FOLDER = "checkpoints"
STATE = "state.json"
_IN_STATE = {"step", "recipe", "package", "origin"}
_LOCK = ".lock"
_HALF = ".half-"  # begins the name of a checkpoint that is being written or deleted
MAY_CHANGE = ("workers", "save", "evaluate", "track", "micro_batch", "parallel", "checkpointing", "out")
"""Fields of a recipe that change no loss (but for rounding): a run may go on with others."""


@dataclass(frozen=True)
class RunState:
    """What learns: the stage's trained parameters and their optimiser."""

    stage: Stage
    optimizer: torch.optim.Optimizer


@contextmanager
def claimed(out: str, accelerator: Accelerator) -> Iterator[None]:
    """The run's folder is made, and no other run gets it meanwhile. ValueError if one has it, or it cannot be made."""
    if not accelerator.is_main_process:
        yield
        return
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        lock = FileLock(Path(out) / _LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"another process trains in {out}: wait for it or stop it, or choose another folder (--set out=DIR)"
        ) from error
    except OSError as error:
        raise ValueError(f"out: {out} cannot be written: {error.strerror}; choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def save_checkpoint(
    run: RunState, accelerator: Accelerator, recipe: Recipe, step: int, origin: dict[str, str], out: Path | None = None
) -> None:
    """After `step` steps. All processes call it; the main one writes. Of older ones the last `save.keep` stay.

    out: instead of the run's folder. ValueError where it cannot be written (a full disk, …): older checkpoints are as
    they were.
    """
    parameters, main = trained(run.stage), accelerator.is_main_process
    moments = {
        f"{kind}/{name}": value
        for name, parameter in parameters.items()
        for kind, value in run.optimizer.state[parameter].items()
    }
    tensors = {"weights": whole_tensors(parameters, main), "optimizer": whole_tensors(moments, main)}
    tensors["rng"] = _merge(gather_object([_rng_state(accelerator)]))
    state = {
        "step": step,
        "recipe": recipe.model_dump(mode="json"),
        "package": __version__,
        "origin": origin,
    }
    root = (out or Path(recipe.out)) / FOLDER
    agreed(accelerator, lambda: _write(root, step, tensors, state, recipe.save.keep))


def load_checkpoint(folder: Path, run: RunState, accelerator: Accelerator) -> int:
    """Put a checkpoint into the run; returns its step. ValueError for a damaged one."""
    state = read_state(folder)
    weights, moments, rng = (_tensors(folder, name) for name in ("weights", "optimizer", "rng"))
    parameters = trained(run.stage)
    own, found = ({name: tuple(value.shape) for name, value in group.items()} for group in (parameters, weights))
    if wrong := sorted(name for name in own | found if own.get(name) != found.get(name)):
        raise ValueError(
            f"{folder} holds other weights than this run trains: {shorten(wrong)}. Start anew in another folder "
            "(--set out=DIR)"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(share_of(weights[name], parameter))
    if not moments:
        raise _damaged(folder, "optimizer.safetensors holds nothing")
    for key, value in moments.items():
        kind, _, name = key.partition("/")
        if name not in parameters:
            raise _damaged(folder, f"optimizer.safetensors: no weight has the name {name}")
        parameter = parameters[name]
        if kind != "step" and value.shape != parameter.shape:
            raise _damaged(folder, f"optimizer.safetensors: {name} has the shape {tuple(value.shape)}")
        run.optimizer.state[parameter][kind] = value if kind == "step" else share_of(value, parameter)
    _set_rng_state(rng, accelerator)
    return int(state["step"])


def latest(out: str | Path) -> Path | None:
    """The newest checkpoint of a run, None if there is none."""
    found = sorted((Path(out) / FOLDER).glob("step-" + "[0-9]" * 8))
    return found[-1] if found else None


def latest_for_all(out: str, accelerator: Accelerator) -> Path | None:
    """What the main process sees as the newest. ValueError in a process that does not see it."""
    found = [latest(out)]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if (newest := found[0]) is not None and not newest.exists():
        raise ValueError(
            f"process {accelerator.process_index} does not see {newest}: all nodes need the same folder (out), on a "
            "disk that they share"
        )
    return newest


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint. ValueError for a damaged one."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f"{STATE}: {error}") from error
    sound = isinstance(state, dict) and state.keys() >= _IN_STATE and isinstance(state["recipe"], dict)
    if not (sound and type(state["step"]) is int and state["step"] >= 1 and isinstance(state["origin"], dict)):
        raise _damaged(folder, f"{STATE}: a table with {', '.join(sorted(_IN_STATE))} was expected")
    return state


def _damaged(folder: Path, what: str) -> ValueError:
    return ValueError(f"{folder} is damaged: {what}. Delete this folder to go on from the checkpoint before it, if any")


def check_same(folder: Path, recipe: Recipe, origin: dict[str, str]) -> None:
    """ValueError if a run with this recipe is not the one of the checkpoint: what differs, and what to do."""
    state = read_state(folder)
    old, new = state["recipe"], recipe.model_dump(mode="json")
    lines = differences(old, new, MAY_CHANGE)
    lines += [
        f"{key}: its files are others than at the start of the run"
        for key, value in origin.items()
        if state["origin"].get(key, value) != value
    ]
    if lines:
        raise ValueError(
            "\n  ".join([f"{folder} belongs to another recipe", *lines])
            + "\nTo go on with it, give its own recipe, or --force to go on with the changes; to start anew, give "
            "another folder (--set out=DIR)"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], free: Container[str] = ()) -> list[str]:
    """What is other in settings than it was, a line for each key; `free` may be."""
    changed = [key for key in new if key not in free and old.get(key) != new[key]]
    return [f"{key}: {json.dumps(old.get(key))} there, {json.dumps(new[key])} now" for key in changed]


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """What the run started from, hashed: weights of init and geometry where they are here, manifests of data sets."""
    found = {}
    sources = [source for _, phase in recipe.schedule() for source in phase.data.sources]
    for folder in sorted({source.dataset for source in sources if source.dataset}):
        if (Path(folder) / MANIFEST).exists():
            found[f"dataset {folder}"] = fingerprint_of_data(folder)
    for key, name in (("init", recipe.init), ("geometry", recipe.geometry)):
        place = Path(recipe.folder(name)) if name else None
        if place is not None and place.exists():
            found[key] = fingerprint_of_weights(place)
    return found


def _write(root: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int) -> None:
    name = f"step-{step:08d}"
    partial = root / (_HALF + name)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(_HALF + "*"):  # of a run that was killed meanwhile
            shutil.rmtree(left)
        partial.mkdir()
        for kind, values in tensors.items():
            save_file({key: value.contiguous() for key, value in values.items()}, partial / f"{kind}.safetensors")
        (partial / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        for path in (*partial.iterdir(), partial):
            _to_disk(path)
        if (root / name).exists():  # of what a failed step left, when it has failed again
            _delete(root / name)
        os.replace(partial, root / name)
        _to_disk(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        before = latest(root.parent)
        whole_one = f"the one before, {before}, is whole" if before else "there is none before it"
        raise ValueError(
            f"the checkpoint of step {step} could not be written ({error}); {whole_one}. Make room (save.keep is "
            f"{keep}) and run the same command again"
        ) from error
    for old in sorted(root.glob("step-*"))[:-keep]:
        _delete(old)


def _delete(folder: Path) -> None:
    """Under another name, so that no half of it is taken for a checkpoint."""
    going = folder.with_name(f"{_HALF}old-{folder.name}")
    os.replace(folder, going)
    shutil.rmtree(going)


def _to_disk(path: Path) -> None:
    """What the operating system still holds in memory."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _tensors(folder: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_file(folder / f"{name}.safetensors")
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, f"{name}.safetensors: {error}") from error


def _rng_state(accelerator: Accelerator) -> dict[str, Tensor]:
    """Of this process, by "device/rank"."""
    states = {f"cpu/{accelerator.process_index}": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        states[f"cuda/{accelerator.process_index}"] = torch.cuda.get_rng_state(accelerator.device)
    return states


def _set_rng_state(states: dict[str, Tensor], accelerator: Accelerator) -> None:
    """A process that the checkpoint does not know keeps its own: only dropout draws from it."""
    rank = accelerator.process_index
    if (state := states.get(f"cpu/{rank}")) is not None:
        torch.set_rng_state(state)
    if accelerator.device.type == "cuda" and (state := states.get(f"cuda/{rank}")) is not None:
        torch.cuda.set_rng_state(state, accelerator.device)


def _merge(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: value for part in parts for key, value in part.items()}
