"""From a list of scene ids to a data set, in several processes, with bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from gapmllm.scenes.importers.base import Importer
from gapmllm.scenes.problems import Problem, Problems
from gapmllm.scenes.records import Scene
from gapmllm.scenes.visibility import with_visibility

if TYPE_CHECKING:
    from gapmllm.scenes.dataset import DatasetWriter  # needs `datasets`, which rooms that stay in memory do without

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Outcome:
    """What became of one scene."""

    scene_id: str
    scene: Scene | None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class ImportScene:
    """Loads one scene; what its files get wrong becomes a problem of that scene, not the end of the import."""

    importer: Importer
    finish: Callable[[Scene, Problems], Scene]
    """Adds what the command asks for: the questions."""

    def __call__(self, scene_id: str) -> Outcome:
        problems = Problems(scene_id)
        try:
            scene = self.importer.load(scene_id, problems)
            if scene is not None:
                scene = self.finish(with_visibility(scene), problems)
        except Exception as error:  # whatever a damaged file makes a reader raise: one scene, not the whole import
            problems.add("unreadable scene", self.importer.root, f"{type(error).__name__}: {error}")
            scene = None
        return Outcome(scene_id, scene, tuple(problems.found))


def write_scenes(
    writer: DatasetWriter, scene_ids: Iterable[str], make: Callable[[str], Outcome], workers: int
) -> Iterator[Outcome]:
    """Make the scenes that the data set does not have yet and add them, in order; yields each outcome once added.

    make: must be picklable where workers > 1.
    """
    for outcome in in_processes(make, [name for name in scene_ids if name not in writer.done], workers):
        if outcome.scene is None:
            writer.drop(outcome.scene_id, outcome.problems)
        else:
            writer.add(outcome.scene, outcome.problems)
        yield outcome


def _start_worker() -> None:
    """Each process computes with one thread: together they fill the machine. Runs before torch is imported there.

    And none outlives the process that started it, however that ends.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def in_processes(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """work(item) of each item, in order, in several processes; at most 2 * workers results wait in memory."""
    if min(workers, len(items)) <= 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of torch and Arrow half-way
    waiting: deque[Future[R]] = deque()
    coming = iter(items)
    pool = ProcessPoolExecutor(min(workers, len(items)), context, initializer=_start_worker)
    try:
        with _without(signal.SIGINT):  # workers inherit it: Ctrl-C reaches all processes, and this one ends the others
            waiting.extend(pool.submit(work, item) for item in islice(coming, 2 * workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(coming, 1))
    except BrokenProcessPool as error:
        message = "a worker process died, perhaps for want of memory: run again with fewer workers; it continues"
        raise ChildProcessError(message) from error
    finally:
        with _without(signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not break the ending
            pool.shutdown(cancel_futures=True)


@contextmanager
def _without(*numbers: signal.Signals) -> Iterator[None]:
    """Signals that are ignored meanwhile; only a process's main thread can ignore them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
