"""What `gapmllm doctor` looks at in the software: packages, video, decoding, and the files in this package.

Every check imports what it needs itself, and yields findings; `doctor.py` runs them.
"""

from __future__ import annotations

import importlib
import json
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Literal

from gapmllm import __version__

PACKAGES = ("torch", "transformers", "accelerate", "av", "llguidance")
"""What must not only be there but be imported: their compiled parts can be broken."""
EXTRAS = {
    "pycocoevalcap": ("captions", "scores of captions"),
    "peft": ("lora", "training of adapters"),
    "tensorboard": ("track", "curves in TensorBoard"),
}
"""Package -> extra that installs it, and what it is for."""
DECODERS = {"H.264": "h264", "HEVC": "hevc", "VP9": "vp9", "AV1": "libdav1d"}
"""Format of a video -> FFmpeg's decoder for it that needs no special hardware."""
CHECKSUMS = "checksums.json"
"""Beside shipped weights: {"file": "its SHA-256, hexadecimal"}."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "note", "problem"]
    """"note": works, or is not needed, but there is something to know."""
    found: str
    advice: str = ""
    """What to do; empty where there is nothing to do."""


def python() -> Iterator[Finding]:
    """Python and the operating system; an older Python cannot install the package."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def packages() -> Iterator[Finding]:
    """What the package needs by its own metadata, and the extras."""
    yield Finding("gapmllm", "ok", __version__)
    needed = dict(_needed())
    for name in PACKAGES:
        yield _imported(name, needed.pop(name, ""))
    wrong = [f"{name} {floor}".strip() for name, floor in needed.items() if not _suits(name, floor)]
    if wrong:
        yield Finding("other packages", "problem", f"missing or too old: {', '.join(wrong)}", "pip install -U gapmllm")
    else:
        yield Finding("other packages", "ok", f"{len(needed)} installed")
    for name, (extra, use) in EXTRAS.items():
        if _suits(name, ""):
            yield Finding(name, "ok", metadata.version(name))
        else:
            yield Finding(name, "note", f"not installed: no {use}", f'pip install "gapmllm[{extra}]"')


def java() -> Iterator[Finding]:
    """What METEOR runs on."""
    if path := shutil.which("java"):
        yield Finding("java", "ok", path)
    else:
        yield Finding("java", "note", "not on the PATH: no METEOR", "install a Java runtime, version 8 or newer")


def video() -> Iterator[Finding]:
    """Write a small video and read it; then which decoders there are."""
    import av
    import numpy as np

    count, file = 3, BytesIO()
    encoder: Literal["libx264", "mpeg4"] = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(count):
            picture = np.full((48, 64, 3), 80 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as container:
        grey = [float(frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(video=0)]
    if len(grey) != count or any(abs(value - 80 * index) > 10 for index, value in enumerate(grey)):
        raise ValueError(f"{count} frames of grey 0, 80 and 160 came back as {grey}")
    yield Finding("video", "ok", f"{count} frames written with {encoder} and read")

    missing = [name for name, decoder in DECODERS.items() if decoder not in av.codecs_available]
    found = ", ".join(name for name in DECODERS if name not in missing)
    if missing:
        advice = "convert such a video first: ffmpeg -i VIDEO -c:v libx264 OTHER.mp4"
        yield Finding("video decoders", "note", f"{found}; not {', '.join(missing)}", advice)
    else:
        yield Finding("video decoders", "ok", found)


def decoding() -> Iterator[Finding]:
    """A grammar of two words allows their first letters, and no other."""
    import llguidance

    tokenizer = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_lark('start: "yes" | "no"')
    mask = llguidance.LLMatcher(tokenizer, grammar).compute_logit_bias()
    allowed = bytes(token for token in range(256) if mask[token])
    if allowed != b"ny":
        raise ValueError(f'the grammar "yes" | "no" let the letters {allowed!r} through')
    yield Finding("grammar", "ok", "what it forbids is masked")


def tokenizer() -> Iterator[Finding]:
    """The small tokenizer in the package gives text back."""
    from gapmllm.model.presets import TOKENIZER
    from gapmllm.model.tokenizer import encode_text, load_tokenizer

    text, found = '{"label": "chair", "pointmap": [0.42, -0.10, 2.35]}', load_tokenizer(TOKENIZER)
    if found.decode(encode_text(found, text)) != text:
        raise ValueError(f"{TOKENIZER} does not give back {text!r}")
    yield Finding("tokenizer", "ok", f"{len(found)} tokens")


def weights() -> Iterator[Finding]:
    """The trained models in the package, by their checksums. `debug` needs none: it is for trials."""
    from gapmllm.model.presets import FOLDER, PRESETS

    for name, preset in PRESETS.items():
        folder = FOLDER / name
        if folder.is_dir():
            yield _checked(f"weights of {name}", folder)
        elif preset.base is None and name != "debug":
            found = "none in this package: a new model is random, and so are its answers"
            yield Finding(f"weights of {name}", "note", found, f"train one (recipes/{name}), and load its folder")


def _checked(name: str, folder: Path) -> Finding:
    """A model's folder against its checksums."""
    from gapmllm.scenes.manifest import file_hash

    path = folder / CHECKSUMS
    if not path.exists():
        return Finding(name, "note", f"there, but {CHECKSUMS} is not: nothing to check them by")
    wrong = []
    for file, checksum in json.loads(path.read_text(encoding="utf-8")).items():
        if not (folder / file).is_file():
            wrong.append(f"{file} is missing")
        elif file_hash(folder / file) != checksum:
            wrong.append(f"{file} has changed")
    if wrong:
        return Finding(name, "problem", f"{folder}: {', '.join(wrong)}", "pip install --force-reinstall gapmllm")
    return Finding(name, "ok", "as shipped")


def _needed() -> Iterator[tuple[str, str]]:
    """Name and versions of each package that is always needed, as the metadata of this one says."""
    for line in metadata.requires("gapmllm") or ():
        requirement, _, marker = line.partition(";")
        if not marker and (match := re.match(r"[\w.-]+", requirement)):
            yield match[0], requirement[match.end() :].strip()


def _suits(name: str, versions: str) -> bool:
    """Whether a package is installed, in one of the versions (">=2.11")."""
    from packaging.specifiers import SpecifierSet

    try:
        return SpecifierSet(versions).contains(metadata.version(name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _imported(name: str, versions: str) -> Finding:
    try:
        importlib.import_module(name)
        version = metadata.version(name)
    except Exception as error:  # whatever a broken installation raises
        why = f"cannot be imported: {first_line(error)}"
        return Finding(name, "problem", why, f'pip install --force-reinstall "{name}{versions}"')
    if not _suits(name, versions):
        return Finding(name, "problem", f"{version}; needed is {versions}", f'pip install -U "{name}{versions}"')
    return Finding(name, "ok", version)


def first_line(error: BaseException) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
