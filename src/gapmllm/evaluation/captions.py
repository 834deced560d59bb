"""Caption scores: CIDEr, BLEU-1 to 4, ROUGE-L and METEOR at IoU >= k, the Scan2Cap protocol, through pycocoevalcap.

A caption counts only if the box that was asked about overlaps the true one with IoU >= k, else it is scored as empty.
Texts are lower-cased, '.' and ',' set apart, and put between "sos" and "eos"; there is no other tokenisation.
Missing and unreadable answers are empty captions. Values are raw; printed tables multiply by 100.
METEOR needs Java. Its corpus value is the one that METEOR aggregates, not a mean over objects, so it has no interval.
Source: Scan2Cap (arXiv 2012.02206), section 5.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapmllm.evaluation.records import CaptionRecord
from gapmllm.evaluation.report import Metric, Reader, ReadingTally, Report, SceneIndex, weighted_mean, with_intervals
from gapmllm.tasks import CAPTIONING

THRESHOLDS = (0.25, 0.5)
NO_JAVA = "no METEOR: it needs Java, and no `java` was found on the PATH"


class MissingCaptionMetrics(ImportError):
    """pycocoevalcap is not installed."""


def score_captions(records: Iterable[CaptionRecord], reader: Reader = "lenient", *, with_meteor: bool = True) -> Report:
    """Scores of the records, each an object; see the module's docstring. Raises MissingCaptionMetrics.

    reader: "released" scores the raw text, "lenient" the one line that the reader finds in it. with_meteor: False
    leaves METEOR out, whose program takes ten seconds to start.
    """
    reading, scenes = ReadingTally(CAPTIONING), SceneIndex()
    captions, references, overlaps, scene = [], [], [], []
    for record in records:
        answer = reading.read(record.answer).answer
        text = answer.text if answer else ""
        captions.append((record.answer or "") if reader == "released" else text)
        references.append(record.truth)
        overlaps.append(record.iou)
        scene.append(scenes[record.scene])
    corpora = {
        k: Corpus([text if iou >= k else "" for text, iou in zip(captions, overlaps, strict=True)], references, scene)
        for k in THRESHOLDS
    }

    def measure(draw: NDArray[np.intp]) -> dict[str, float | None]:
        return {f"{name}@{k}": value for k, corpus in corpora.items() for name, value in corpus.scores(draw).items()}

    metrics = with_intervals(measure, len(scenes))
    notes: tuple[str, ...] = ()
    if with_meteor:
        values, notes = _meteor_or_reason(list(corpora.values()))
        metrics |= {f"METEOR@{k}": Metric(value=value) for k, value in zip(corpora, values, strict=True)}
    return Report(
        task="caption",
        reader=reader,
        euler="stated",
        records=len(captions),
        scenes=len(scenes),
        readings={"answer": dict(reading.readings)},
        problems=dict(reading.problems),
        metrics=metrics,
        notes=notes,
    )


def normalise(text: str) -> str:
    """A caption as the metrics see it. Line breaks and bars would break the lines that METEOR is fed."""
    text = text.replace("\n", " ").replace("\r", " ").replace("|||", " ")
    return f"sos {text.replace('.', ' . ').replace(',', ' , ')} eos".lower()


class Corpus:
    """Captions with their references, scored object by object, and summed scene by scene."""

    def __init__(self, captions: Sequence[str], references: Sequence[Sequence[str]], scene: Sequence[int]) -> None:
        self.captions = {i: [normalise(text)] for i, text in enumerate(captions)}
        self.references = {i: [normalise(text) for text in texts] for i, texts in enumerate(references)}
        self.scene = np.array(scene)
        try:
            from pycocoevalcap.bleu.bleu_scorer import BleuScorer
            from pycocoevalcap.cider.cider import Cider
            from pycocoevalcap.rouge.rouge import Rouge
        except ImportError as error:
            raise MissingCaptionMetrics("caption scores need pycocoevalcap: pip install 'gapmllm[captions]'") from error
        self.cider = np.array(Cider().compute_score(self.references, self.captions)[1])
        self.rouge = np.array(Rouge().compute_score(self.references, self.captions)[1])
        self._bleu = BleuScorer(n=4)
        for i, (caption,) in self.captions.items():
            self._bleu += (caption, self.references[i])
        objects = self._bleu.ctest
        self._bleu_of_scene = [
            _sum_of_counts([objects[i] for i in np.nonzero(self.scene == s)[0]]) for s in range(self.scene.max() + 1)
        ]

    def scores(self, draw: NDArray[np.intp]) -> dict[str, float | None]:
        """CIDEr, BLEU and ROUGE-L of the drawn scenes. CIDEr keeps the document frequencies of the whole corpus."""
        weight = np.bincount(draw, minlength=len(self._bleu_of_scene))[self.scene]
        self._bleu.ctest = [self._bleu_of_scene[scene] for scene in draw]
        bleu = self._bleu.recompute_score("closest")[0]
        values = {"CIDEr": weighted_mean(self.cider, weight)}
        values |= {f"BLEU-{n}": float(value) for n, value in enumerate(bleu, start=1)}
        return values | {"ROUGE-L": weighted_mean(self.rouge, weight)}


def meteor(corpora: Sequence[Corpus]) -> list[tuple[float, list[float]]]:
    """METEOR of each corpus, as the program aggregates it, and of its objects. Needs Java; starts it once."""
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()
    try:
        return [program.compute_score(corpus.references, corpus.captions) for corpus in corpora]
    finally:
        program.meteor_p.stdout.close()
        program.meteor_p.stderr.close()


def _meteor_or_reason(corpora: Sequence[Corpus]) -> tuple[list[float | None], tuple[str, ...]]:
    """The values, or no values and a note that says why."""
    none: list[float | None] = [None] * len(corpora)
    if shutil.which("java") is None:
        return none, (NO_JAVA,)
    try:
        return [score for score, _ in meteor(corpora)], ()
    except (OSError, ValueError) as error:
        return none, (f"no METEOR: the Java program failed ({error})",)


def _sum_of_counts(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """BLEU's counts of several objects as if they were one; of each object's references the closest length counts."""
    closest = [min(item["reflen"], key=lambda n: (abs(n - item["testlen"]), n)) for item in objects]
    return {
        "reflen": [sum(closest)],
        "testlen": sum(item["testlen"] for item in objects),
        **{key: np.sum([item[key] for item in objects], axis=0).tolist() for key in ("guess", "correct")},
    }
