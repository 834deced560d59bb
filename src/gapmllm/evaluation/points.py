"""Point scores: the error of each point, and the cloud that the points of a scene make.

Per point: mean and median error, share within 0.1, 0.25 and 0.5 m, label accuracy. An answer that cannot be read has an
infinite error and a wrong label: it counts in the median, the shares and the accuracy; the mean, which cannot hold it,
is taken over the points that were read and says so in its name.

Per scene, averaged over scenes: accuracy (predicted point to nearest true point), completion (the reverse), overall
(their mean), in metres, raw and after a similarity alignment of the matched points (`align_similarity`). A scene with
no readable point has no cloud; fewer than three points, or points on one line, cannot be aligned. The notes count such
scenes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from gapmllm.evaluation.classes import plain
from gapmllm.evaluation.records import PointsRecord
from gapmllm.evaluation.report import Reader, ReadingTally, Report, SceneIndex, with_intervals
from gapmllm.geometry import align_similarity, transform_points
from gapmllm.tasks import POINTS
from gapmllm.tasks.released import released_point

DISTANCES = (0.1, 0.25, 0.5)
_CLOUD = ("accuracy", "completion", "overall", "accuracy_median", "completion_median")


def cloud_distances(predicted: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """Nearest-neighbour distances between two clouds (N, 3) and (M, 3), metres; keys as in `_CLOUD`."""
    points, true = np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    to_truth, to_points = cKDTree(true).query(points)[0], cKDTree(points).query(true)[0]
    accuracy, completion = float(to_truth.mean()), float(to_points.mean())
    medians = float(np.median(to_truth)), float(np.median(to_points))
    return dict(zip(_CLOUD, (accuracy, completion, (accuracy + completion) / 2, *medians), strict=True))


def aligned_cloud_distances(predicted: ArrayLike, truth: ArrayLike) -> dict[str, float] | None:
    """The same after the similarity that best takes predicted[i] to truth[i]; truth may hold further points.

    None if the points do not determine a similarity.
    """
    points, true = np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    try:
        scale, rotation, translation = align_similarity(points, true[: len(points)])
    except ValueError:
        return None
    return cloud_distances(scale * points @ rotation.T + translation, true)


def score_points(records: Iterable[PointsRecord], reader: Reader = "lenient") -> Report:
    """Scores of a stream of records; see the module's docstring."""
    tally = _Tally(reader)
    for record in records:
        tally.add(record)
    return tally.report()


class _Tally:
    """Per scene: true points, predicted points (NaN where unreadable), whether the label is right (NaN: unknown)."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.reading = ReadingTally(POINTS)
        self.scenes = SceneIndex()
        self.rows: list[list[NDArray[np.float64]]] = []

    def add(self, record: PointsRecord) -> None:
        point, label = self.read(record)
        pair = np.array([point or (np.nan,) * 3, record.truth.pointmap])
        if record.camera_to_world is not None:
            pair = transform_points(pair, record.camera_to_world)
        right = np.nan if record.truth.label is None else float(label == plain(record.truth.label))
        scene = self.scenes[record.scene]
        if scene == len(self.rows):
            self.rows.append([])
        self.rows[scene].append(np.array([*pair[0], *pair[1], right]))

    def read(self, record: PointsRecord) -> tuple[tuple[float, ...] | None, str | None]:
        answer = self.reading.read(record.answer).answer
        if self.reader == "released":
            label, point = released_point(record.answer or "") or (None, None)
            self.reading.count_released(point is not None)
        else:
            label, point = (answer.label, answer.pointmap) if answer else (None, None)
        return point, None if label is None else plain(label)

    def report(self) -> Report:
        scenes = [np.array(rows) for rows in self.rows]
        errors = [np.nan_to_num(np.linalg.norm(s[:, :3] - s[:, 3:6], axis=1), nan=np.inf) for s in scenes]
        per_scene = [_scene_row(name, s) for name, s in zip(self.scenes.names, scenes, strict=True)]
        clouds = {key: np.array([row[key] for row in per_scene], dtype=float) for key in per_scene[0] if "[" in key}

        def measure(draw: NDArray[np.intp]) -> dict[str, float | None]:
            metrics = _point_metrics(np.concatenate([errors[i] for i in draw]))
            right = np.concatenate([scenes[i][:, 6] for i in draw])
            metrics["label_accuracy"] = _mean(right[~np.isnan(right)])
            for key, values in clouds.items():
                drawn = values[draw]
                metrics[key] = _mean(drawn[~np.isnan(drawn)])
            return metrics

        return Report(
            task="points",
            reader=self.reader,
            euler="stated",
            records=sum(map(len, scenes)),
            scenes=len(scenes),
            readings={"answer": dict(self.reading.readings)},
            problems=dict(self.reading.problems),
            metrics=with_intervals(measure, len(scenes)),
            tables={"per_scene": [{k: v for k, v in row.items() if "median" not in k} for row in per_scene]},
            notes=tuple(_notes(clouds)),
        )


def _scene_row(name: str, rows: NDArray[np.float64]) -> dict[str, Any]:
    """One scene of the table: counts, then the cloud's distances, raw and aligned; None where there are none."""
    known = ~np.isnan(rows[:, 0])
    predicted = rows[known, :3]
    true = np.concatenate([rows[known, 3:6], rows[~known, 3:6]])  # matched points first, as the alignment needs them
    raw = cloud_distances(predicted, true) if known.any() else None
    aligned = aligned_cloud_distances(predicted, true)
    row: dict[str, Any] = {"scene": name, "points": len(rows), "read": int(known.sum())}
    for kind, values in (("raw", raw), ("aligned", aligned)):
        row |= {f"{key}[{kind}]": values[key] if values else None for key in _CLOUD}
    return row


def _point_metrics(errors: NDArray[np.float64]) -> dict[str, float | None]:
    read = errors[np.isfinite(errors)]
    median = float(np.median(errors))
    metrics: dict[str, float | None] = {
        "median_error": median if np.isfinite(median) else None,
        "mean_error_of_read": _mean(read),
        "read": len(read) / len(errors),
    }
    return metrics | {f"within_{distance}m": float((errors <= distance).mean()) for distance in DISTANCES}


def _notes(clouds: dict[str, NDArray[np.float64]]) -> Iterable[str]:
    for kind, reason in (("raw", "no readable point"), ("aligned", "fewer than 3 readable points, or all on one line")):
        values = clouds[f"overall[{kind}]"]
        if np.isnan(values).any():
            yield f"{int(np.isnan(values).sum())} of {len(values)} scenes have no {kind} cloud: {reason}"


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
