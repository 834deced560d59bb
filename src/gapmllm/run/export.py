"""`gapmllm export`: a trained model as a folder to hand on, with its checksums and its scores.

OUT/config.json, model.safetensors, tokenizer   what `gapmllm.load` opens
OUT/MODEL_CARD.md                               the card of the training run, with the scores of `gapmllm eval`
OUT/checksums.json                              SHA-256 of the others; `gapmllm doctor` compares those in the package
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from gapmllm.evaluation.markdown import scores_table
from gapmllm.model import load
from gapmllm.run.checks import CHECKSUMS
from gapmllm.run.folder import SCORES
from gapmllm.run.output import whole_folder
from gapmllm.scenes.manifest import file_hash

CARD = "MODEL_CARD.md"
_ABOUT = "By `gapmllm eval`, on scenes kept out of training; 95 % intervals over scenes."
_NAMES = (CARD, CHECKSUMS, "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_OURS = (*_NAMES, "model.safetensors", "chat_template.jinja", "special_tokens_map.json")


def export(
    model: str,
    out: Path,
    *,
    dtype: str = "bfloat16",
    scores: Path | None = None,
    made_by: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write `model` to the folder `out`, its weights as dtype.

    scores: the folder of a finished `gapmllm eval`. made_by: a file with the commands that made the model. Both go into
    the card. ValueError for a model or scores that are not there, and for what is in the way; nothing is half written.
    """
    text = _card(Path(model) / CARD, scores)
    if made_by is not None:
        text += f"\n## Commands\n\n```sh\n{made_by.read_text(encoding='utf-8').strip()}\n```\n"
    with whole_folder(out, overwrite=overwrite, ours=_OURS) as folder:
        load(model, device="cpu", dtype=dtype).save_pretrained(folder)
        if text:
            (folder / CARD).write_text(text, encoding="utf-8")
        sums = {path.name: file_hash(path) for path in sorted(folder.iterdir())}
        (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def _card(path: Path, scores: Path | None) -> str:
    """The card of a training run; its section on scores is replaced by the table of an evaluation, if there is one."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if scores is None:
        return text
    if not (scores / SCORES).is_file():
        raise ValueError(f"{scores} holds no {SCORES}: finish the evaluation first (gapmllm eval … --out {scores})")
    section = "\n".join(["## Scores", "", _ABOUT, "", *scores_table(scores / SCORES), ""])
    replaced, found = re.subn(r"(?ms)^## Scores\n.*?(?=^## |\Z)", lambda _: section, text, count=1)
    return replaced if found else f"{text}\n{section}"
