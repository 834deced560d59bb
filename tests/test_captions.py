"""Caption scores."""

from __future__ import annotations

import builtins
import shutil

import numpy as np
import pytest

from gapmllm.evaluation import CaptionRecord, captions
from gapmllm.evaluation.captions import Corpus, MissingCaptionMetrics, meteor, normalise, score_captions

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java, and there is no `java` here")
METRICS = {"CIDEr": "CIDEr", "ROUGE_L": "ROUGE-L"} | {f"BLEU_{n}": f"BLEU-{n}" for n in range(1, 5)}


def record(number, answer, truth=("a black chair.", "the chair is black."), iou=1.0, scene=None):
    return CaptionRecord(
        version=1,
        task="caption",
        id=str(number),
        scene=scene or str(number),
        answer=answer,
        truth=tuple(truth),
        iou=iou,
    )


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(captions.shutil, "which", lambda name: None)


def golden_records(golden_json):
    return [
        record(case["id"], case["prediction"], case["annotations"], case["iou"], scene=str(case["id"] % 7))
        for case in golden_json("caption_metrics/inputs.json")
    ]


def test_normalise_as_scan2cap_does():
    assert normalise("A chair, black.") == "sos a chair ,  black .  eos"
    assert normalise("a\nb|||c") == "sos a b c eos"


def test_golden_corpus(golden_json, no_java):
    report = score_captions(golden_records(golden_json))
    expected = golden_json("caption_metrics/results.json")["corpus"]
    for theirs, ours in METRICS.items():
        assert report.metrics[f"{ours}@0.5"].value == pytest.approx(expected[theirs], abs=1e-9)
    bleu = report.metrics["BLEU-4@0.5"]
    assert bleu.low < bleu.value < bleu.high


def test_golden_objects(golden_json):
    results = golden_json("caption_metrics/results.json")["per_object"]
    cases = golden_json("caption_metrics/inputs.json")
    texts = [case["prediction"] if case["iou"] >= 0.5 else "" for case in cases]
    corpus = Corpus(texts, [case["annotations"] for case in cases], range(len(cases)))
    for i, expected in enumerate(results):
        assert corpus.captions[i] == [expected["normalised_prediction"]]
        assert corpus.references[i] == expected["normalised_references"]
        assert corpus.cider[i] == pytest.approx(expected["CIDEr"], abs=1e-9)
        scores = corpus.scores([i])
        for theirs, ours in METRICS.items():
            assert scores[ours] == pytest.approx(expected[theirs], abs=1e-9)


@pytest.mark.parametrize(("name", "count"), [("first5", 5), ("first1", 1)])
def test_golden_subsets(golden_json, no_java, name, count):
    report = score_captions(golden_records(golden_json)[:count])
    for theirs, value in golden_json("caption_metrics/subsets.json")[name]["corpus"].items():
        if theirs in METRICS:
            assert report.metrics[f"{METRICS[theirs]}@0.5"].value == pytest.approx(value, abs=1e-9)


@needs_java
def test_golden_meteor(golden_json):
    results = golden_json("caption_metrics/results.json")
    cases = golden_json("caption_metrics/inputs.json")
    texts = [case["prediction"] if case["iou"] >= 0.5 else "" for case in cases]
    ((score, objects),) = meteor([Corpus(texts, [case["annotations"] for case in cases], range(len(cases)))])
    assert score == pytest.approx(results["corpus"]["METEOR"], abs=1e-12)
    assert objects == pytest.approx([item["METEOR"] for item in results["per_object"]], abs=1e-12)


@needs_java
def test_the_report_has_meteor_at_both_thresholds():
    report = score_captions([record(0, "a black chair.", iou=0.3), record(1, "a black chair.")])
    assert report.metrics["METEOR@0.25"].value > report.metrics["METEOR@0.5"].value > 0
    assert report.metrics["METEOR@0.5"].low is None
    assert report.notes == ()


def test_without_java_the_report_says_so_and_has_no_number(no_java):
    report = score_captions([record(0, "a black chair.")])
    assert report.metrics["METEOR@0.5"].value is None
    assert report.notes == ("no METEOR: it needs Java, and no `java` was found on the PATH",)


def test_a_java_program_that_fails_is_a_note(monkeypatch):
    def broken(corpora):
        raise BrokenPipeError("it died")

    monkeypatch.setattr(captions, "meteor", broken)
    monkeypatch.setattr(captions.shutil, "which", lambda name: "java")
    report = score_captions([record(0, "a black chair.")])
    assert report.metrics["METEOR@0.5"].value is None
    assert report.notes == ("no METEOR: the Java program failed (it died)",)


def test_a_box_that_overlaps_too_little_makes_the_caption_empty(no_java):
    for iou, counts in ((0.5, True), (0.49, False)):
        report = score_captions([record(0, "a black chair.", ["a black chair."], iou)])
        assert report.metrics["BLEU-1@0.25"].value == pytest.approx(1)
        # by hand: of "sos a black chair . eos" the empty caption keeps 2 words of 6, all right: exp(1 - 6 / 2)
        assert report.metrics["BLEU-1@0.5"].value == pytest.approx(1 if counts else np.exp(-2))


def test_missing_and_unreadable_captions_are_empty(no_java):
    report = score_captions([record(0, None), record(1, " \n"), record(2, "a\nblack chair.")])
    assert report.readings["answer"] == {"strict": 0, "lenient": 1, "unreadable": 1, "missing": 1}
    empty = score_captions([record(0, ""), record(1, ""), record(2, "a black chair.")])
    assert report.metrics == empty.metrics


def test_the_released_reader_takes_the_raw_text(no_java):
    fenced = "```\na black chair.\n```"
    lenient, raw = (
        score_captions([record(0, fenced, ["a black chair."])], reader) for reader in ("lenient", "released")
    )
    assert lenient.metrics["ROUGE-L@0.5"].value == pytest.approx(1)
    assert raw.metrics["ROUGE-L@0.5"].value < 0.9


def test_without_pycocoevalcap_the_error_names_the_extra(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("pycocoevalcap"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingCaptionMetrics, match=r"pip install 'gapmllm\[captions\]'"):
        score_captions([record(0, "a chair")])
