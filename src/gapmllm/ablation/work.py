"""Training and evaluating the runs of a study, one after the other; what is done is left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gapmllm.ablation.page import write_page
from gapmllm.ablation.results import check_same, keep
from gapmllm.ablation.study import Run, Study
from gapmllm.run.evaluate import evaluate
from gapmllm.run.predict import make_plan
from gapmllm.run.progress import Track, untracked
from gapmllm.scenes.dataset import SceneDataset
from gapmllm.train.checkpoints import FOLDER
from gapmllm.train.finish import is_finished
from gapmllm.train.loop import train
from gapmllm.train.recipe import Recipe


def work(
    study: Study, runs: Sequence[Run], track: Track = untracked, say: Callable[[str], None] = lambda _: None
) -> bool:
    """Train, evaluate, keep what came out, and write the page after each run. True once all are done, False if it was
    asked to stop.

    Several processes may share a study where their runs are others. ValueError as of `train` and `evaluate`, and for a
    run whose recipe has changed; KeyboardInterrupt for a signal that comes between two trainings.
    """
    for run in runs:
        check_same(study, run)
    todo = [run for run in runs if not run.is_done]
    test = study.settings.test
    # What is not there to be asked is told now, not after hours of training.
    if todo:
        make_plan(SceneDataset(test.data, test.split), test.data, test.tasks, test.grounding, test.limit)
    for number, run in enumerate(todo, start=1):
        say(f"{run.row}, seed {run.seed}: run {number} of {len(todo)}")
        for recipe in run.recipes.values():
            if not train(recipe):
                return False
            drop_checkpoints(recipe)
        evaluate(test.options(str(run.model), run.evaluation), track)
        keep(study, run)
        write_page(study)
    if not todo:
        write_page(study)
    return True


def drop_checkpoints(recipe: Recipe) -> None:
    """Delete the tensors of a finished run's checkpoints; its model stays."""
    if not is_finished(recipe):
        return
    # Three times the size of the model each, for every run of a study, and nothing goes on from them. state.json stays:
    # by it `train` knows that the run is finished, and of which recipe it is.
    for path in (Path(recipe.out) / FOLDER).glob("step-*/*.safetensors"):
        path.unlink()
