"""Temperatures of scores from an evaluation on held-out clips, and where they are kept: the model's config.json."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gapmllm.evaluation.calibration import Calibration, calibrate, judged
from gapmllm.model import PRESETS
from gapmllm.model.loading import config_values
from gapmllm.model.weights import CONFIG
from gapmllm.run.folder import CALIBRATION, MODEL, RELIABILITY, TEMPERATURES, model_folder, write_whole
from gapmllm.viz.reliability import reliability_plot

SCORED = ("points", "detection", "grounding")
"""Tasks whose answers have scores."""


def calibrate_model(name: str, out: Path, tasks: Iterable[str], before: dict[str, float]) -> tuple[str, ...]:
    """Fit the temperature of each task to the records in OUT/model; write them, a plot, and the model's config.json.

    name: of the model. before: the temperatures that the records were made with. Returns what was done, in sentences.
    ValueError where no task's answers determine a temperature.
    """
    folder = model_folder(name)
    values = config_values(folder) if (folder / CONFIG).exists() else {}
    found: dict[str, Calibration] = {}
    notes = []
    for task in (task for task in tasks if task in SCORED):
        try:
            found[task] = calibrate(*judged(out / MODEL / f"{task}.jsonl", task), before.get(task, 1.0))
        except ValueError as error:
            notes.append(f"{task} is not calibrated: {error}")
            continue
        fit = found[task]
        change = f"calibration error {fit.before.ece:.3f} -> {fit.after.ece:.3f}"
        notes.append(f"{task}: temperature {fit.temperature:.3g} from {fit.count} answers, {change}")
    if not found:
        raise ValueError("nothing can be calibrated. " + "; ".join(notes or ["none of the tasks has scores"]))
    write_whole(out / CALIBRATION, {task: fit.model_dump() for task, fit in found.items()})
    reliability_plot(found).save(out / RELIABILITY)
    if name in PRESETS or not Path(name).is_dir() or values.get("model_type") != "gapmllm":
        return (*notes, f"{name} is no folder of a model of ours here: its config.json is left as it is")
    kept = values.get(TEMPERATURES) or {}
    write_whole(
        folder / CONFIG, {**values, TEMPERATURES: kept | {task: fit.temperature for task, fit in found.items()}}
    )
    return (*notes, f"the temperatures are in {folder / CONFIG}: scores are calibrated from now on")
