"""The page's tables: what was said, and beside it what is true where that is known."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from gapmllm.geometry import Boxes, iou_pairs
from gapmllm.tasks import Answers
from gapmllm.tasks.results import boxes_of_results
from gapmllm.viz.things import Spot, Thing, at, shorten, spots_of, things_of

GOOD_IOU = 0.25
"""From here on a box counts as found, as in the benchmarks."""
_LONG = 400  # characters: longer texts are folded
_NONE = "\N{EN DASH}"


def safe(text: str) -> str:
    """Text for HTML: markup escaped; control characters, which may reorder or hide what follows, are made visible."""
    marks = (mark if mark == "\n" or unicodedata.category(mark)[0] != "C" else "\ufffd" for mark in text)
    return html.escape("".join(marks))


def tables(answers: Answers) -> str:
    """HTML sections, one for each kind of answer that there is."""
    made = (_detections(answers), _groundings(answers), _points(answers), _descriptions(answers), _free(answers))
    return "\n".join(section for section in made if section)


def _section(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], summary: str = "") -> str:
    """heads: "=" before a name marks numbers, "~" what is true, "~=" both. rows: HTML of the cells."""
    marks = {"=": ' class="number"', "~": ' class="truth"', "~=": ' class="truth number"', "": ""}
    styles = [marks[head[: len(head) - len(head.lstrip("~="))]] for head in heads]
    names = [head.lstrip("~=") for head in heads]
    top = "".join(f"<th{style}>{name}</th>" for name, style in zip(names, styles, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f'<td data-name="{n}"{s}><div>{c}</div></td>' for n, s, c in zip(names, styles, row, strict=True))
        + "</tr>\n"
        for row in rows
    )
    table = f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table>" if rows else "<p>None.</p>"
    return f"<section>\n<h2>{title}</h2>\n{table}{f'<p class=summary>{summary}</p>' if summary else ''}\n</section>"


# One section each


def _detections(answers: Answers) -> str:
    if answers.detections is None:
        return ""
    true = answers.truth.detections if answers.truth else ()
    pairs = _matched(answers)
    rows = []
    for thing in sorted((thing for thing in things_of(answers) if thing.kind == "detection"), key=_by_score):
        found = answers.detections[thing.number]
        row = [_find(thing, found.label), _bar(found.score), _numbers(found.center), _numbers(found.size)]
        row.append(_metres(float(np.linalg.norm(found.center))))
        if true:
            pair = pairs.get(thing.number)
            row += [_NONE, _NONE] if pair is None else _compared(thing.boxes, boxes_of_results([true[pair].bbox_3d]))
        rows.append(row)
    heads = ["Object", "=Score", "=Centre", "=Size", "=Distance", *(["~=Off by", "~=IoU"] if true else [])]
    missed = sorted(box.label for i, box in enumerate(true) if i not in pairs.values())
    texts = [f"Compared with the true object of the same label. {len(true)} objects are in view."] if true else []
    texts += [f"Not found: {safe(', '.join(missed))}."] if missed else []
    return _section("Objects", heads, rows, " ".join(texts))


def _groundings(answers: Answers) -> str:
    known = answers.truth.groundings if answers.truth else ()
    rows = []
    for thing in (thing for thing in things_of(answers) if thing.kind == "grounding"):
        said = answers.groundings[thing.number]
        row = [_find(thing, said.text), _bar(said.score), str(said.frame)]
        row += [_numbers(said.bbox_3d[:3]), _numbers(said.bbox_3d[3:6])]
        true, to_first = at(known, thing.number), answers.to_first(said.frame)
        if known and (true is None or to_first is None):
            row += [_NONE, _NONE]
        elif true is not None and to_first is not None:
            row += _compared(thing.boxes.transform(to_first), boxes_of_results([true]))
        rows.append(row)
    heads = ["Text", "=Score", "=Frame", "=Centre in its camera", "=Size", *(["~=Off by", "~=IoU"] if known else [])]
    return _section("Asked for by a text", heads, rows) if rows else ""


def _points(answers: Answers) -> str:
    truth = answers.truth
    known, labels = (truth.points, truth.point_labels) if truth else ((), ())
    rows = []
    for spot in (spot for spot in spots_of(answers) if spot.kind == "point"):
        said, label = answers.points[spot.number], at(labels, spot.number)
        row = [_find(spot, said.label), _bar(said.score), f"{said.frame}: {said.pixel[0]}, {said.pixel[1]}"]
        row += [_numbers(said.xyz), _metres(float(np.linalg.norm(said.xyz)))]
        if known:
            off = _NONE if spot.true is None else _metres(float(np.linalg.norm(spot.xyz - spot.true)))
            row += [_NONE if spot.true is None else _numbers(spot.true.tolist()), off]
        if labels:
            row.append(_NONE if label is None else _judged(safe(label), _same(label, said.label)))
        rows.append(row)
    heads = ["Here is", "=Score", "=Frame: pixel", "=Place", "=Distance"]
    heads += ["~=True place", "~=Off by"] * bool(known) + ["~True label"] * bool(labels)
    return _section("Points", heads, rows) if rows else ""


def _descriptions(answers: Answers) -> str:
    known = answers.truth.descriptions if answers.truth else ()
    rows = []
    for spot in (spot for spot in spots_of(answers) if spot.kind == "description"):
        said = answers.descriptions[spot.number]
        texts = "<br>".join(map(folded, at(known, spot.number) or ())) or _NONE
        rows.append([_find(spot, _numbers(said.xyz)), folded(said.text), *([texts] if known else [])])
    heads = ["=Place", "Description", *(["~What people would say"] if known else [])]
    return _section("Descriptions", heads, rows) if rows else ""


def _free(answers: Answers) -> str:
    rows = [[folded(row.question), folded(row.answer)] for row in answers.answers]
    return _section("Questions", ["Question", "Answer"], rows) if rows else ""


# Truth


def _matched(answers: Answers) -> dict[int, int]:
    """Detection -> true object of the same label; each at most once, nearest in all."""
    said, true = answers.detections or (), answers.truth.detections if answers.truth else ()
    far = 1e6  # more than any two coordinates are apart
    cost = np.full((len(said), len(true)), far)
    for i, found in enumerate(said):
        for j, box in enumerate(true):
            if _same(found.label, box.label):
                cost[i, j] = np.linalg.norm(np.subtract(found.center, box.center))
    rows, columns = linear_sum_assignment(cost)
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if cost[i, j] < far}


def _compared(said: Boxes, true: Boxes) -> list[str]:
    """Distance of the centres, and IoU."""
    iou = float(iou_pairs(said, true)[0])
    return [
        _metres(float(np.linalg.norm(said.centers - true.centers))),
        _judged(f"{iou:.2f}", round(iou, 2) >= GOOD_IOU),
    ]


def _same(a: str, b: str) -> bool:
    return " ".join(a.lower().split()) == " ".join(b.lower().split())


# Cells


def _find(item: Thing | Spot, text: str) -> str:
    """A button that shows the thing in the 3D view; the script enables it."""
    red, green, blue = item.color
    chip = f'<span class="chip" style="background:rgb({red},{green},{blue})"></span>'
    name = f'<button class="find" data-id="{item.kind}-{item.number}" disabled>{chip}<span>'
    if len(text) <= _LONG:
        return f"{name}{safe(text)}</span></button>"
    return f"{name}{safe(shorten(text, _LONG))}</span></button>{_fold('All of it', text)}"


def folded(text: str) -> str:
    """A text; of a long one the beginning, and the rest on demand."""
    return safe(text) if len(text) <= _LONG else f"{safe(shorten(text, _LONG))}{_fold('All of it', text)}"


def _fold(title: str, text: str) -> str:
    return (
        f'<details><summary>{title}, {len(text):,} characters</summary><div class="full">{safe(text)}</div></details>'
    )


def _bar(score: float) -> str:
    return f'<span class="bar" aria-hidden="true"><i style="width:{score:.0%}"></i></span>{score:.0%}'


def _judged(text: str, good: bool) -> str:
    return f'<span class="{"good" if good else "bad"}">{text} {"✓" if good else "✗"}</span>'


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value + 0.0:.2f}" for value in values)


def _metres(value: float) -> str:
    return f"{value:.2f} m"


def _by_score(thing: Thing) -> float:
    return -(thing.score or 0)
