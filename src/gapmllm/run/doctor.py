"""`gapmllm doctor`: look at a machine, and say what will work on it and what will not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gapmllm.run import checks, hardware
from gapmllm.run.checks import Finding, first_line

Check = Callable[[], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    checks.python,
    hardware.cores,
    hardware.memory,
    hardware.disk,
    checks.packages,
    hardware.gpu,
    hardware.largest_model,
    checks.video,
    checks.decoding,
    checks.tokenizer,
    checks.weights,
    checks.java,
)

_MODELS = ("torch", "transformers", "accelerate", "tokenizer", "largest model")
ABLE = {
    "score prediction records": ("other packages",),
    "score captions": ("pycocoevalcap",),
    "METEOR among the scores of captions": ("pycocoevalcap", "java"),
    "ask a model about images": (*_MODELS, "llguidance", "grammar"),
    "ask a model about a video": (*_MODELS, "llguidance", "grammar", "av", "video"),
    "answers of a trained model of this package": (*_MODELS, "llguidance", "grammar", "weights of nano"),
    "train": _MODELS,
    "train adapters (lora)": (*_MODELS, "peft"),
    "curves in TensorBoard": ("tensorboard",),
}
"""What people want to do, and the findings that must be "ok" for it."""


@dataclass(frozen=True)
class Diagnosis:
    """All that was found, and what follows from it."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.state == "problem"]

    @property
    def able(self) -> dict[str, list[str]]:
        """What people want to do -> what is in its way; nothing: it will work."""
        fine = {finding.name for finding in self.findings if finding.state == "ok"}
        return {wish: [name for name in needed if name not in fine] for wish, needed in ABLE.items()}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": 1,
            "findings": [asdict(finding) for finding in self.findings],
            "works": [wish for wish, missing in self.able.items() if not missing],
            "does_not_work": {wish: missing for wish, missing in self.able.items() if missing},
        }

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        lines = [f"{finding.state:7}  {finding.name:{width}}  {finding.found}" for finding in self.findings]
        advice = [f"{f.state}: {f.name}: {f.advice}" for f in self.findings if f.advice]
        works = [f"works: {wish}" for wish, missing in self.able.items() if not missing]
        fails = [f"does not work: {wish} ({', '.join(missing)})" for wish, missing in self.able.items() if missing]
        return "\n".join(_paragraphs(lines, advice, works, fails))


def diagnose(wanted: Iterable[Check] = CHECKS) -> Diagnosis:
    """Run all checks, some seconds. What cannot be checked is a finding, too."""
    found: list[Finding] = []
    for check in wanted:
        name = check.__name__.replace("_", " ")
        try:
            for finding in check():
                found.append(finding)
        except Exception as error:  # broken in a way that nobody thought of, and the other checks must go on
            told = isinstance(error, ImportError) and any(f.state == "problem" for f in found)
            advice = "" if told else "pip install --force-reinstall gapmllm; if that does not help, report this"
            found.append(Finding(name, "note" if told else "problem", f"not checked: {first_line(error)}", advice))
    return Diagnosis(tuple(found))


def _paragraphs(*parts: Sequence[str]) -> Iterator[str]:
    for number, part in enumerate(filter(None, parts)):
        yield from (["", *part] if number else part)
