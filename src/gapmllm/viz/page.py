"""All of `Answers` on one page: a single HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from PIL import Image

from gapmllm.tasks import Answers
from gapmllm.viz.page_scene import scene_json
from gapmllm.viz.page_tables import safe, tables
from gapmllm.viz.things import Cloud

_INLINE = ("style.css", "webgl.js", "viewer.js", "page.js")
_QUALITY = 88
_LONGEST = 1280  # pixels of an embedded picture; of many frames, fewer
_MANY = 16

_INTRINSICS = {
    "given": "given by the user",
    "folder": "read from the folder",
    "estimated": "estimated from the frames (VGGT's camera head)",
    "assumed": "not known: a usual field of view was assumed",
}
_POSES = {
    "folder": "read from the folder",
    "estimated": "estimated from the frames (VGGT's camera head)",
    None: "not known: what belongs to another frame's camera is not shown",
}
_RANDOM = "The weights of this model are random: the answers mean nothing. They only show that everything runs."


def write_page(
    path: Path, answers: Answers, pictures: Sequence[Image.Image], top: Image.Image, cloud: Cloud | None
) -> None:
    """Write the page, UTF-8. pictures, top: as `look` draws them. Raises OSError.

    Of the cloud at most 60,000 points go in; pictures are embedded as JPEG, at most 1280 pixels long.
    """
    parts = files("gapmllm.viz") / "page_parts"
    scene = scene_json(answers, cloud)
    page = Template((parts / "index.html").read_text(encoding="utf-8")).substitute(
        title=f"{safe(answers.source)} · gapmllm",
        source=safe(answers.source),
        counts=_counts(answers),
        banner="" if answers.trained else f'<p class="banner" role="alert">{_RANDOM}</p>',
        facts=_facts(answers),
        notes="".join(f'<p class="note">{safe(note)}</p>' for note in answers.notes),
        shows=_shows(answers, cloud, scene["view"]["low"][2], scene["view"]["high"][2]),
        top=_jpeg(top, _LONGEST),
        frames="".join(_figure(answers, index, picture) for index, picture in enumerate(pictures)),
        tables=tables(answers),
        answers=_in_script(answers_json(answers)),
        scene=_in_script(json.dumps(scene)),
        **{name.split(".")[0]: (parts / name).read_text(encoding="utf-8") for name in _INLINE},
    )
    path.write_text(page, encoding="utf-8")


def answers_json(answers: Answers) -> str:
    """The text of `answers.json`: indented, but a list of numbers on one line."""
    # No text in JSON holds a line break of its own, so what is matched is never inside one.
    return re.sub(r"\[\n[\s\d.,eE+-]*\]", _one_line, answers.model_dump_json(indent=2))


def _one_line(match: re.Match[str]) -> str:
    return f"[{', '.join(match[0][1:-1].replace(',', ' ').split())}]"


def _in_script(text: str) -> str:
    """JSON that cannot end the script element or open a comment in it: "<" occurs in texts only, and is escaped."""
    return text.replace("<", "\\u003c")


def _counts(answers: Answers) -> str:
    counts = (
        (len(answers.frames), "frame", ""),
        (len(answers.detections or ()), "object", " found"),
        (len(answers.groundings), "text", " grounded"),
        (len(answers.points), "point", " located"),
        (len(answers.descriptions), "place", " described"),
        (len(answers.answers), "question", " answered"),
    )
    return "".join(f"<li><b>{n}</b> {noun}{'s' * (n > 1)}{done}</li>" for n, noun, done in counts if n)


def _facts(answers: Answers) -> str:
    facts = {
        "Model": safe(answers.model) + ("" if answers.trained else " (random weights)"),
        "Focal length and centre": _INTRINSICS[answers.intrinsics_from],
        "Camera positions": _POSES[answers.poses_from],
    }
    facts |= {"Truth": "known in part, shown dashed and in grey columns"} if answers.truth else {}
    return "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in facts.items())


def _shows(answers: Answers, cloud: Cloud | None, lowest: float, highest: float) -> str:
    """The switches of the 3D view, for what there is."""
    has = {
        "points": cloud is not None,
        "boxes": bool(answers.detections or answers.groundings),
        "places": bool(answers.points or answers.descriptions),
        "truth": answers.truth is not None,
        "cameras": True,
        "names": True,
    }
    boxes = [f'<label><input type="checkbox" data-show="{name}" checked>{name}</label>' for name in has if has[name]]
    limits = f'min="{lowest:.2f}" max="{highest + 1:.2f}" step="0.05"'
    hidden = "" if cloud is not None else " hidden"
    return "".join(boxes) + f'<label{hidden}>up to<input type="range" name="cut" {limits}></label>'


def _figure(answers: Answers, index: int, picture: Image.Image) -> str:
    frame = answers.frames[index]
    time = "" if frame.time is None else f"{frame.time:.2f} s"
    caption = f"Frame {index}: {safe(frame.name)}" + ("" if time in frame.name else f", {time}")  # a video's tell it
    source = _jpeg(picture, _LONGEST if len(answers.frames) <= _MANY else _LONGEST * 3 // 4)
    image = f'<img src="{source}" alt="{caption}, with the answers drawn in" loading="lazy">'
    button = f'<button aria-label="Enlarge frame {index}">{image}</button>'
    return f"<figure>{button}<figcaption>{caption}</figcaption></figure>"


def _jpeg(picture: Image.Image, longest: int) -> str:
    """A data URI."""
    small = picture.convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
