"""What a study would do, before it does: steps, clips and questions of each run, and how far each is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gapmllm.ablation.study import EVAL, Run, Study
from gapmllm.model import GapMllmConfig
from gapmllm.model.presets import preset_config
from gapmllm.train.checkpoints import latest, read_state
from gapmllm.train.finish import is_finished
from gapmllm.train.forecast import forecast
from gapmllm.train.recipe import Recipe

Row = dict[str, Any]


class Plan:
    """The tables of `gapmllm ablate --plan`. Questions and frames are estimates from a few clips of each kind."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._config: GapMllmConfig = preset_config("debug")  # of any size: only questions and frames are counted
        self._loads: dict[str, tuple[float, float]] = {}

    def runs(self, row: str, runs: list[Run]) -> list[Row]:
        """A line for each stage of a row, and its evaluation: what it takes, and how far each seed's run is."""
        first = runs[0]
        lines = []
        for stage, recipe in first.recipes.items():
            states = {f"seed {run.seed}": "done" if run.is_done else state_of(run.recipes[stage]) for run in runs}
            lines.append({"row": row, "stage": stage, **self.amounts(recipe), **states})
        states = {f"seed {run.seed}": "done" if run.is_done else "to do" for run in runs}
        return [*lines, {"row": row, "stage": EVAL, **dict.fromkeys(self.amounts(None)), **states}]

    def totals(self, rows: list[str]) -> list[Row]:
        """What one seed of each row takes in all its stages."""
        found = []
        for row in rows:
            (run, *_) = self.study.of(row)
            each = [self.amounts(recipe) for recipe in run.recipes.values()]
            found.append({"row": row, **{key: sum(amounts[key] for amounts in each) for key in each[0]}})
        return found

    def amounts(self, recipe: Recipe | None) -> Row:
        if recipe is None:
            return {"steps": None, "clips": None, "questions": None, "frames": None}
        ends = [start for start, _ in recipe.schedule()[1:]] + [recipe.steps]
        questions = frames = 0.0
        for (start, phase), end in zip(recipe.schedule(), ends, strict=True):
            of_clip = self._load(phase)
            clips = (end - start) * recipe.batch
            questions, frames = questions + clips * of_clip[0], frames + clips * of_clip[1]
        clips = recipe.steps * recipe.batch
        return {"steps": recipe.steps, "clips": clips, "questions": round(questions), "frames": round(frames)}

    def _load(self, phase: Recipe) -> tuple[float, float]:
        """Questions and frames of a clip, on average."""
        key = phase.data.model_dump_json()
        if key not in self._loads:
            loads = [(task.share, task.load) for task in forecast(phase, self._config, None)]
            sums = [sum(share * getattr(load, name) for share, load in loads) for name in ("questions", "frames")]
            self._loads[key] = (sums[0], sums[1])
        return self._loads[key]


def state_of(recipe: Recipe) -> str:
    """ "done", "step 40 of 100" by the newest checkpoint, or "to do"."""
    if is_finished(recipe):
        return "done"
    newest = latest(Path(recipe.out))
    return f"step {read_state(newest)['step']} of {recipe.steps}" if newest else "to do"
