"""The loop: a recipe in, a model folder out. Accelerate runs it on one CPU, one GPU or many.

A step: this process's micro-batches are fetched; what their losses are divided by is added up over all processes; each
goes forward and backward; the optimiser steps. So neither the number of processes nor accumulation nor packing changes
the gradient.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from math import isfinite
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.nn.utils import clip_grad_norm_

from gapmllm.model.precision import emulates_bfloat16
from gapmllm.model.weights import CONFIG
from gapmllm.train.batch import Batch, MakeBatch
from gapmllm.train.checkpoints import (
    RunState,
    check_same,
    claimed,
    fingerprints,
    latest_for_all,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from gapmllm.train.evaluate import HeldOut, evaluate
from gapmllm.train.failures import explained, not_finite
from gapmllm.train.finish import is_finished, save_model
from gapmllm.train.loading import Shares, batches
from gapmllm.train.logs import LOG, logged
from gapmllm.train.optimizer import make_optimizer, set_learning_rates
from gapmllm.train.parallel import accelerator_for, accumulating, spread, whole
from gapmllm.train.profiling import LEARN, UPDATE, Profile
from gapmllm.train.recipe import Recipe
from gapmllm.train.report import Report
from gapmllm.train.samples import Samples
from gapmllm.train.signals import Stop
from gapmllm.train.stages import Stage, StepOutput
from gapmllm.train.start import start_model, trained
from gapmllm.train.tally import StepResult, Tally, add_up

PATIENCE = 20
"""Steps in a row in which a loss may find nothing to learn from."""


def train(recipe: Recipe, *, resume: bool = True, force: bool = False, profile: bool = False) -> bool:
    """Run a recipe, or go on with it where its last checkpoint is. True once it is finished, False if it was stopped.

    resume: False refuses a folder that holds a run. force: go on although the recipe has changed. profile: write where
    the time goes to OUT/profile.
    SIGTERM and SIGINT finish the step, save, and return. ValueError for what the user can mend; nothing is lost.
    """
    with (
        accelerator_for(recipe) as accelerator,
        claimed(recipe.out, accelerator),
        logged(recipe, accelerator),
        explained(recipe, accelerator.num_processes),
        Profile(recipe, accelerator, profile) as profiled,
        Stop() as stop,
    ):
        newest, origin = latest_for_all(recipe.out, accelerator), fingerprints(recipe)
        if newest and not resume:
            raise ValueError(
                f"{recipe.out} holds a run already: go on with --resume, or choose another folder (--set out=DIR)"
            )
        if newest and not force:
            check_same(newest, recipe, origin)
        if newest and (done := read_state(newest)["step"]) > recipe.steps:
            raise ValueError(f"{recipe.out} has done {done} steps already, more than the recipe's {recipe.steps}")
        if newest is None and (Path(recipe.out) / CONFIG).exists():
            raise ValueError(
                f"{recipe.out} holds a model and no checkpoint to go on from: it is not overwritten; choose another "
                "folder (--set out=DIR), or delete it"
            )
        if is_finished(recipe):
            LOG.info(f"{recipe.out} is finished: all {recipe.steps} steps are done, and the model is there")
            return True
        if recipe.precision == "bfloat16" and emulates_bfloat16(accelerator.device):
            LOG.warning("this CPU has no bfloat16 and will be many times slower than with --set precision=float32")
        run = Run(recipe, accelerator, stop, origin, profiled)
        if newest:
            run.step = load_checkpoint(newest, RunState(run.stage, run.optimizer), accelerator)
        return run.go()


class Run:
    """A recipe at work in this process."""

    def __init__(
        self, recipe: Recipe, accelerator: Accelerator, stop: Stop, origin: dict[str, str], profile: Profile
    ) -> None:
        self.recipe, self.accelerator, self.stop, self.origin = recipe, accelerator, stop, origin
        self.profile = profile
        self.shares = Shares.of(recipe, accelerator.num_processes, accelerator.process_index)
        # The data of all phases and of the evaluation: what is not there is told now, not hours later.
        clips = recipe.steps * recipe.batch
        self.samples = [Samples(phase.data, seed=recipe.seed, count=clips) for _, phase in recipe.schedule()]
        self.held_out = HeldOut(recipe) if recipe.evaluate else None
        torch.manual_seed(recipe.seed)  # the probes, alike in all processes
        model = start_model(recipe, accelerator.device)
        assert model.prompts is not None
        self.stage = Stage(model, recipe)
        set_seed(recipe.seed + accelerator.process_index)  # dropout
        self.prompts = model.prompts
        self.wrapped = spread(self.stage, accelerator, recipe)
        self.optimizer = make_optimizer(self.stage, recipe)
        self.tasks = sorted({task for _, phase in recipe.schedule() for s in phase.data.sources for task in s.tasks})
        self.without_truth: dict[str, int] = {}
        self.step = 0

    def go(self) -> bool:
        """All steps that are left, then the model; True at the end."""
        recipe = self.recipe
        with Report(recipe, self.accelerator, self.step) as report:
            # Again, if the run was stopped where it was due: it may not have come to it.
            if self._evaluation_is_due() and not self.evaluate(report):
                return False
            for phase, micro, wait in self._steps():
                start = time.perf_counter()
                row, asked_to_stop = self._train_step(phase, micro)
                self.step += 1
                row |= {"seconds": wait + time.perf_counter() - start, "wait": wait}
                report.step(row)
                self.profile.step(row)
                last, due = self.step == recipe.steps, self._evaluation_is_due()
                if asked_to_stop or last or due or self.step % recipe.save.every == 0:
                    self.save()
                if asked_to_stop and not last:
                    report.say(f"stopped after step {self.step}; the same command goes on")
                    return False
                if due and not self.evaluate(report):
                    return False
            if not self.evaluate(report):
                return False
            save_model(self.stage, self.accelerator, recipe)
        return True

    def save(self, out: Path | None = None) -> None:
        """A checkpoint; out: elsewhere than in the run's folder."""
        run = RunState(self.stage, self.optimizer)
        save_checkpoint(run, self.accelerator, self.recipe, self.step, self.origin, out)

    def _evaluation_is_due(self) -> bool:
        """At the start if that is wanted, then every so many steps; the end has its own."""
        wanted, step = self.recipe.evaluate, self.step
        return bool(wanted and step < self.recipe.steps and (step % wanted.every == 0 if step else wanted.at_start))

    def evaluate(self, report: Report) -> bool:
        """Ask, score and draw the held-out clips, if there are any. False if the run was asked to stop meanwhile."""
        if self.held_out is None:
            return True
        phase = [phase for start, phase in self.recipe.schedule() if start <= self.step][-1]
        self.stage.weights = phase.loss_weights()
        folder = Path(self.recipe.out) / "evaluation" / f"step-{self.step:08d}"
        scores = evaluate(self.stage, self.held_out, folder, lambda: self.stop.asked)
        if scores:
            report.evaluation(self.step, scores)
        stopped = add_up({"stop": float(self.stop.asked)}, self.accelerator)["stop"] > 0
        if stopped:
            report.say(f"stopped in the evaluation after step {self.step}; the same command goes on")
        return not stopped

    def _steps(self) -> Iterator[tuple[Recipe, list[Batch], float]]:
        """For each step that is left its phase, this process's micro-batches, and the seconds waited for them."""
        recipe, phases = self.recipe, self.recipe.schedule()
        ends = [start for start, _ in phases[1:]] + [recipe.steps]
        for (start, phase), end, samples in zip(phases, ends, self.samples, strict=True):
            if self.step >= end:
                continue
            self.stage.weights = phase.loss_weights()
            make = MakeBatch.of(phase, self.stage.model.config, self.prompts)
            loader = batches(samples, make, self.shares, max(start, self.step), end, recipe.workers)
            for _ in range(max(start, self.step), end):
                begin = time.perf_counter()
                micro = list(islice(loader, self.shares.accumulation))
                yield phase, micro, time.perf_counter() - begin

    def _train_step(self, phase: Recipe, micro: list[Batch]) -> tuple[dict[str, object], bool]:
        """One optimiser step; its row of the log, and whether any process was asked to stop."""
        own = {name: sum(batch.counts[name] for batch in micro) for name in self.stage.weights}
        counts = add_up(own, self.accelerator)
        self._check_truth(counts)
        tally = Tally(self.stage.weights, self.tasks)
        for number, batch in enumerate(micro):
            with self.profile.part(LEARN), accumulating(self.wrapped, last=number == len(micro) - 1):
                tally.add(batch, self._learn(phase, batch.to(self.accelerator.device), counts))
        result = tally.result(counts, self.accelerator, self.stop.asked)
        gradient = float(whole(clip_grad_norm_(trained(self.stage).values(), phase.clip_norm)))
        if not (isfinite(result.loss) and isfinite(gradient)):
            folder = Path(self.recipe.out) / f"not-finite-step-{self.step + 1:08d}"
            why = not_finite(self.stage, self.accelerator, micro, counts, folder, self.save)
            raise ValueError(f"step {self.step + 1}: loss {result.loss}, gradient {gradient}: {why}")
        with self.profile.part(UPDATE):
            set_learning_rates(self.optimizer, self.recipe, self.step)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self._row(result, gradient), result.stop

    def _check_truth(self, counts: dict[str, float]) -> None:
        """ValueError for a loss that finds nothing to learn from, step after step: it would be 0, and look perfect."""
        for name, count in counts.items():
            self.without_truth[name] = 0 if count else self.without_truth.get(name, 0) + 1
            if self.without_truth[name] >= min(PATIENCE, self.recipe.steps):
                raise ValueError(
                    f'the loss "{name}" had nothing to learn from in {self.without_truth[name]} steps: no clip of this '
                    "data has what it needs; leave it out of losses"
                )

    def _learn(self, phase: Recipe, batch: Batch, counts: dict[str, float]) -> StepOutput:
        """Forward and backward."""
        with explained(phase, self.accelerator.num_processes, batch):
            with self.accelerator.autocast():
                out: StepOutput = self.wrapped(batch, counts)
            # DDP and FSDP2 take the mean of the processes' gradients, and the sum is wanted.
            self.accelerator.backward(out.loss * self.accelerator.num_processes)
        return out

    def _row(self, result: StepResult, gradient: float) -> dict[str, object]:
        rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        return {"step": self.step + 1, **result.row(), "gradient": gradient, "lr": rates}
