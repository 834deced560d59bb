"""`gapmllm train --profile`: where a run's time goes. OUT/profile/summary.json, trace.json, and a table.

A trace is taken of three steps after the first ones; chrome://tracing and Perfetto show it. Neither these nor the
first ones, in which things start up, count in the table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from gapmllm.train.display import workers_memory
from gapmllm.train.logs import LOG
from gapmllm.train.recipe import Recipe
from gapmllm.train.report import memory

FOLDER = "profile"
LEARN, UPDATE = "forward and backward", "optimiser"
"""Parts of a step that the loop names (`Profile.part`)."""
WAIT, REST, STEP = "waiting for data", "rest", "step"
_START, _WARM, _TRACED = 3, 1, 3  # steps: that start up; in which the tracer warms up; in the trace
_OPERATORS = 12
_SPEEDS = ("questions", "frames", "tokens")


class Profile:
    """Of the main process. Unless wanted, it does nothing and costs nothing.

    with Profile(recipe, accelerator, wanted) as profile:
        …each step:  with profile.part(LEARN): …    with profile.part(UPDATE): …    profile.step(row)
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, wanted: bool) -> None:
        self.on = wanted and accelerator.is_main_process
        self.folder, self.device = Path(recipe.out) / FOLDER, accelerator.device
        self._parts: dict[str, float] = {}  # of the step that runs
        self._steps: list[dict[str, float]] = []
        self._memory: list[dict[str, int]] = []  # after each step
        self._operators: list[dict[str, Any]] = []

    def __enter__(self) -> Profile:
        if self.on:
            self.folder.mkdir(parents=True, exist_ok=True)
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
            plan = schedule(wait=_START, warmup=_WARM, active=_TRACED, repeat=1)
            self._tracer = profile(activities=kinds, schedule=plan, on_trace_ready=self._keep_trace)
            self._tracer.start()
            self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.on:
            return
        self._tracer.stop()
        if self._steps:
            summary = self._summary()
            (self.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
            LOG.info(table(summary))

    def part(self, name: str) -> AbstractContextManager[None]:
        """A part of a step; what it gave a GPU to do is waited for, so that no part does another's waiting."""
        return self._timed(name) if self.on else nullcontext()

    def step(self, row: dict[str, Any]) -> None:
        """A finished step: its row of the log, with `seconds` and `wait`."""
        if not self.on:
            return
        step = {STEP: row["seconds"], WAIT: row["wait"], LEARN: 0.0, UPDATE: 0.0} | self._parts
        step[REST] = step[STEP] - step[WAIT] - step[LEARN] - step[UPDATE]
        self._steps.append(step | {name: row[name] for name in _SPEEDS})
        self._memory.append(self._memory_now())
        self._parts = {}
        self._tracer.step()

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with record_function(name):
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        self._parts[name] = self._parts.get(name, 0.0) + time.perf_counter() - start

    def _memory_now(self) -> dict[str, int]:
        found = {"process": int(psutil.Process().memory_info().rss), "workers": workers_memory()}
        return found | ({"gpu": memory(self.device)} if self.device.type == "cuda" else {})

    def _keep_trace(self, tracer: profile) -> None:
        """Operators by self time: on a GPU what ran there, else on the CPU."""
        tracer.export_chrome_trace(str(self.folder / "trace.json"))
        where = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        events = [event for event in tracer.key_averages() if not event.key.startswith((LEARN, UPDATE, "ProfilerStep"))]
        events.sort(key=lambda event: -getattr(event, where))
        total = sum(getattr(event, where) for event in events) or 1.0
        self._operators = [
            {
                "name": event.key,
                "seconds": getattr(event, where) / 1e6,
                "share": getattr(event, where) / total,
                "calls": event.count,
            }
            for event in events[:_OPERATORS]
        ]

    def _summary(self) -> dict[str, Any]:
        counted = self._steps[_START + _WARM + _TRACED :] or self._steps
        total = {name: sum(step[name] for step in counted) for name in counted[0]}
        seconds = {
            name: {
                "median": median(step[name] for step in counted),
                "total": total[name],
                "share": total[name] / total[STEP],
            }
            for name in (WAIT, LEARN, UPDATE, REST, STEP)
        }
        count = len(self._steps)
        return {
            "device": "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device),
            "threads": torch.get_num_threads(),
            "steps": count,
            "counted": len(counted),
            "seconds": seconds,
            "outside": time.perf_counter() - self._began - sum(step[STEP] for step in self._steps),
            "per_second": {name: total[name] / total[STEP] for name in _SPEEDS},
            "memory": {str(step): self._memory[step - 1] for step in (1, (count + 1) // 2, count)},
            "operators": self._operators,
        }


def table(summary: dict[str, Any]) -> str:
    """A summary to read."""
    lines = [f"time of {summary['counted']} of {summary['steps']} steps (the first ones and those traced left out)"]
    lines.append(f"{'':24}{'median s':>10}{'total s':>10}{'share':>8}")
    for name, row in summary["seconds"].items():
        lines.append(f"{name:24}{row['median']:10.4f}{row['total']:10.2f}{row['share']:8.1%}")
    lines.append(f"outside of the steps, in evaluations, checkpoints and logs: {summary['outside']:.1f} s")
    lines.append(", ".join(f"{value:.4g} {name}/s" for name, value in summary["per_second"].items()))
    for step, kinds in summary["memory"].items():
        held = ", ".join(f"{kind} {count / 1e6:.0f} MB" for kind, count in kinds.items())
        lines.append(f"memory after step {step} of these: {held}")
    lines.append(f"{'total s':>10}{'share':>8}{'calls':>8}  operator, by self time in the traced steps")
    for row in summary["operators"]:
        lines.append(f"{row['seconds']:10.4f}{row['share']:8.1%}{row['calls']:8}  {row['name']}")
    return "\n".join(lines)
