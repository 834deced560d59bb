"""Detection scores: greedy one-to-one matching, precision, recall, F1 and average precision.

Matching, per question and label: claims are taken in order of score where scores are given, else in the order written;
each takes the free true box of its label with the largest IoU, and is a true positive if that IoU is *greater* than the
threshold. True boxes left over are misses. This is the released evaluators' rule. An object whose box cannot be used is
a claim that matches nothing; an answer that cannot be read makes no claims, so its truth is missed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapmllm.evaluation.boxes import as_overlapped, boxes_from_rows, check_convention
from gapmllm.evaluation.classes import CLASS_LISTS, plain
from gapmllm.evaluation.records import DetectionRecord, RecordError, batches
from gapmllm.evaluation.report import Euler, Reader, ReadingTally, Report, SceneIndex, with_intervals
from gapmllm.geometry import Boxes, iou_pairs
from gapmllm.geometry.camera import FloatArray
from gapmllm.tasks import DETECTION
from gapmllm.tasks.released import released_objects
from gapmllm.tasks.salvage import MAX_OBJECTS

THRESHOLDS = (0.25, 0.5)
CURVE_POINTS = 101


@dataclass
class _Claims:
    """What one answer claims: a label for each object, and boxes for those that have a usable one."""

    labels: list[str]
    rows: list[int]
    """Index into `labels` of each box."""
    boxes: Boxes
    scores: tuple[float, ...] | None


def score_detection(records: Iterable[DetectionRecord], reader: Reader = "lenient", euler: Euler = "stated") -> Report:
    """Scores of a stream of records; see the module's docstring for the rule and `Report` for what comes back."""
    return _tallied(records, reader, euler).report()


def judge_claims(records: Iterable[DetectionRecord]) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Score of each object claimed, (N,), and whether it is matched at IoU 0.25, (N,); of records with scores."""
    claims = _tallied((record for record in records if record.scores is not None), "lenient", "stated").claims
    return np.array(claims["score"]), np.array(claims["hits"]) & 1 > 0


def _tallied(records: Iterable[DetectionRecord], reader: Reader, euler: Euler) -> _Tally:
    tally = _Tally(reader, euler)
    for batch in batches(records):
        tally.add(batch)
    return tally


class _Tally:
    """One row per claim and one per true box: scene, label, score, whether it was matched at each threshold."""

    def __init__(self, reader: Reader, euler: Euler) -> None:
        self.reader, self.euler = reader, euler
        self.reading = ReadingTally(DETECTION)
        self.scenes = SceneIndex()
        self.labels: dict[str, int] = {}
        # Plain arrays: a file may hold millions of claims. Bit k of `hits` says: matched at THRESHOLDS[k].
        self.claims: dict[str, array[Any]] = {name: array("q") for name in ("scene", "label", "hits")}
        self.claims["score"] = array("d")
        self.truths: dict[str, array[Any]] = {name: array("q") for name in ("scene", "label")}
        self.num_records = self.num_unscored = 0

    def add(self, batch: list[DetectionRecord]) -> None:
        """Read the answers, compute all overlaps between equal labels at once, then match each record."""
        claims = [self.read(record) for record in batch]
        pairs = [list(_same_label(claim, self.names(record))) for claim, record in zip(claims, batch, strict=True)]
        left, right = [], []
        for record, claim, pair in zip(batch, claims, pairs, strict=True):
            check_convention(record, self.euler)
            truth = boxes_from_rows([item.bbox_3d for item in record.truth], record.truth_convention)
            left.append(claim.boxes[np.array([row for row, _ in pair], dtype=int)])
            right.append(truth[np.array([column for _, column in pair], dtype=int)])
        sides = (as_overlapped(Boxes.concatenate(side), self.euler) for side in (left, right))
        overlaps = iter(iou_pairs(*sides).tolist())
        for record, claim, pair in zip(batch, claims, pairs, strict=True):
            self.match(record, claim, {(claim.rows[row], column): next(overlaps) for row, column in pair})

    def names(self, record: DetectionRecord) -> list[str]:
        return [self.name(item.label) for item in record.truth]

    def name(self, label: str) -> str:
        """Labels compare exactly in the released evaluators, else without regard to case and spacing."""
        return label if self.reader == "released" else plain(label)

    def read(self, record: DetectionRecord) -> _Claims:
        reading = self.reading.read(record.answer)
        if self.reader == "released":
            found = [(label, box if len(box) == 9 else None) for label, box in released_objects(record.answer or "")]
            self.reading.count_released(bool(found))
        else:
            objects = reading.answer.objects if reading.answer else ()
            found = [(item.label, item.bbox_3d) for item in objects]
            for place, label in reading.unusable:
                found.insert(place, (label, None))
        scores = None if self.reader == "released" else record.scores
        if scores is not None and len(found) == MAX_OBJECTS:
            scores = scores[:MAX_OBJECTS]  # the reader stops there
        if scores is not None and len(scores) != len(found):
            raise RecordError(
                f"{len(scores)} scores for {len(found)} objects in the answer; each needs one, in the order written",
                record.id,
            )
        named = [i for i, (label, _) in enumerate(found) if label]  # what has no name claims nothing of any class
        found = [found[i] for i in named]
        scores = None if scores is None else tuple(scores[i] for i in named)
        rows = [i for i, (_, box) in enumerate(found) if box is not None]
        numbers = [box for _, box in found if box is not None]
        boxes = boxes_from_rows(numbers, record.answer_convention)
        return _Claims([self.name(label) for label, _ in found], rows, boxes, scores)

    def match(self, record: DetectionRecord, claim: _Claims, iou: dict[tuple[int, int], float]) -> None:
        """Add one record's claims and truths, matched at each threshold."""
        scene = self.scenes[record.scene]
        self.num_records += 1
        self.num_unscored += claim.scores is None and record.answer is not None
        scores = claim.scores or (0.0,) * len(claim.labels)
        order = sorted(range(len(scores)), key=lambda i: -scores[i])  # stable: as written where scores are equal
        hits = [_greedy(order, len(record.truth), iou, threshold) for threshold in THRESHOLDS]
        for i, label in enumerate(claim.labels):
            self.claims["scene"].append(scene)
            self.claims["label"].append(self.labels.setdefault(label, len(self.labels)))
            self.claims["score"].append(scores[i])
            self.claims["hits"].append(sum(1 << k for k, matched in enumerate(hits) if i in matched))
        for label in self.names(record):
            self.truths["scene"].append(scene)
            self.truths["label"].append(self.labels.setdefault(label, len(self.labels)))

    def report(self) -> Report:
        measure = _Measure(self)
        notes = []
        if self.reader == "released":
            notes.append("no AP: the released evaluators take objects in the order written, without scores")
        elif self.num_unscored:
            notes.append(f"no AP: {self.num_unscored} of {self.num_records} records have no scores")
        return Report(
            task="detection",
            reader=self.reader,
            euler=self.euler,
            records=self.num_records,
            scenes=len(self.scenes),
            readings={"answer": dict(self.reading.readings)},
            problems=dict(self.reading.problems),
            metrics=with_intervals(measure, len(self.scenes)),
            tables={"per_class": measure.per_class()},
            curves=measure.curves(),
            notes=tuple(notes),
        )


class _Measure:
    """Metrics of any multiset of scenes, from the rows of a tally."""

    def __init__(self, tally: _Tally) -> None:
        self.claims = {name: np.asarray(column) for name, column in tally.claims.items()}
        self.truths = {name: np.asarray(column) for name, column in tally.truths.items()}
        self.num_scenes = len(tally.scenes)
        self.has_scores = not tally.num_unscored and bool(len(self.claims["score"]))
        self.all_labels = list(tally.labels)
        # Tables of scenes x labels hold the labels that a mean can need; a model may invent any number of others.
        listed = {name for names in CLASS_LISTS.values() for name in names}
        wanted = sorted({*self.truths["label"].tolist(), *(tally.labels[n] for n in listed & tally.labels.keys())})
        columns = np.full(len(self.all_labels), -1)
        columns[wanted] = np.arange(len(wanted))
        self.labels = [self.all_labels[label] for label in wanted]
        self.claimed = self.table(columns, self.claims)
        self.true = self.table(columns, self.truths)
        hits = self.claims["hits"]
        self.hits = np.stack([self.table(columns, self.claims, hits >> k & 1) for k in range(len(THRESHOLDS))])
        order = np.lexsort((-self.claims["score"], self.claims["label"]))
        bounds = np.searchsorted(self.claims["label"][order], np.arange(len(self.all_labels) + 1))
        self.by_label = [order[bounds[label] : bounds[label + 1]] for label in wanted]

    def table(
        self, columns: NDArray[np.intp], rows: dict[str, NDArray[Any]], weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Sums over rows by scene and wanted label, (scenes, labels)."""
        result = np.zeros((self.num_scenes, len(self.labels)))
        column = columns[rows["label"]]
        keep = column >= 0
        np.add.at(result, (rows["scene"][keep], column[keep]), 1 if weights is None else weights[keep])
        return result

    def __call__(self, draw: NDArray[np.intp]) -> dict[str, float | None]:
        weights = np.bincount(draw, minlength=self.num_scenes).astype(float)
        hits, claimed, true = weights @ self.hits, weights @ self.claimed, weights @ self.true
        metrics: dict[str, float | None] = {}
        for k, threshold in enumerate(THRESHOLDS):
            scores = dict(zip(("precision", "recall", "f1"), _precision_recall_f1(hits[k], claimed, true), strict=True))
            for list_name, names in (*CLASS_LISTS.items(), ("present", None)):
                for metric, values in scores.items():
                    metrics[f"{metric}[{list_name}]@{threshold}"] = self.mean_over(names, values, true)
            if self.has_scores:
                metrics[f"mAP[present]@{threshold}"] = self.mean_ap(k, weights, true)
        return metrics

    def mean_over(
        self, names: tuple[str, ...] | None, values: NDArray[np.float64], true: NDArray[np.float64]
    ) -> float | None:
        """Mean over a class list, where classes that never occur count as 0; None = the classes in the truth."""
        if names is None:
            return float(values[true > 0].mean()) if (true > 0).any() else None
        by_name = dict(zip(self.labels, values.tolist(), strict=True))
        return sum(by_name.get(name, 0.0) for name in names) / len(names)

    def mean_ap(self, k: int, weights: NDArray[np.float64], true: NDArray[np.float64]) -> float | None:
        present = np.nonzero(true)[0]
        values = [average_precision(*self.curve(int(label), k, weights)) for label in present]
        return float(np.mean(values)) if values else None

    def curve(
        self, label: int, k: int, weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Recall and precision after each claim of a label, best score first."""
        rows = self.by_label[label]
        weight = weights[self.claims["scene"][rows]]
        hits = np.cumsum(weight * (self.claims["hits"][rows] >> k & 1))
        claimed = np.cumsum(weight)
        precision = np.divide(hits, claimed, out=np.zeros_like(hits), where=claimed > 0)
        return hits / (weights @ self.true[:, label]), precision

    def per_class(self) -> list[dict[str, Any]]:
        """TP, FP, FN, precision, recall, F1 and AP of every class that was claimed or is true."""
        size = len(self.all_labels)
        claimed, true = (
            np.bincount(rows["label"], minlength=size).astype(float) for rows in (self.claims, self.truths)
        )
        everything = np.ones(self.num_scenes)
        wanted = {name: column for column, name in enumerate(self.labels)}
        table = []
        for k, threshold in enumerate(THRESHOLDS):
            hits = np.bincount(self.claims["label"], self.claims["hits"] >> k & 1, minlength=size).astype(float)
            precision, recall, f1 = _precision_recall_f1(hits, claimed, true)
            for label in np.argsort(self.all_labels):
                row = {
                    "class": self.all_labels[label],
                    "iou": threshold,
                    "tp": int(hits[label]),
                    "fp": int(claimed[label] - hits[label]),
                    "fn": int(true[label] - hits[label]),
                    "precision": float(precision[label]),
                    "recall": float(recall[label]),
                    "f1": float(f1[label]),
                }
                if self.has_scores:
                    curve = self.curve(wanted[row["class"]], k, everything) if true[label] else None
                    row["ap"] = None if curve is None else average_precision(*curve)
                table.append(row)
        return table

    def curves(self) -> dict[str, dict[str, list[float]]]:
        """Interpolated precision at evenly spaced recalls, for each class in the truth."""
        if not self.has_scores:
            return {}
        grid = np.linspace(0, 1, CURVE_POINTS)
        result = {}
        for label in np.nonzero(self.true.sum(axis=0))[0]:
            for k, threshold in enumerate(THRESHOLDS):
                recall, precision = self.curve(int(label), k, np.ones(self.num_scenes))
                best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
                values = best[np.searchsorted(recall, grid - 1e-12)]
                result[f"{self.labels[label]}@{threshold}"] = {"recall": grid.tolist(), "precision": values.tolist()}
        return result


def average_precision(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Area under the interpolated precision-recall curve, all points (PASCAL VOC 2010 and after)."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * best).sum())


def _precision_recall_f1(
    hits: NDArray[np.float64], claimed: NDArray[np.float64], true: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """0 where a denominator is 0, as in the released evaluators."""
    pairs = ((hits, claimed), (hits, true), (2 * hits, claimed + true))
    return tuple(np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0) for top, bottom in pairs)


def _same_label(claim: _Claims, names: list[str]) -> Iterator[tuple[int, int]]:
    """(index of the claim's box, index of the true box) of all pairs that could match."""
    for row, i in enumerate(claim.rows):
        for column, name in enumerate(names):
            if claim.labels[i] == name:
                yield row, column


def _greedy(order: list[int], num_true: int, iou: dict[tuple[int, int], float], threshold: float) -> set[int]:
    """Indices of the claims that are true positives."""
    free = set(range(num_true))
    matched = set()
    for claim in order:
        best = max(free, key=lambda column: (iou.get((claim, column), 0.0), -column), default=None)
        if best is not None and iou.get((claim, best), 0.0) > threshold:
            free.remove(best)
            matched.add(claim)
    return matched
