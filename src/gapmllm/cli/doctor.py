"""`gapmllm doctor`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def doctor(out: Annotated[Path | None, typer.Option(help="Write all of it here, as JSON.")] = None) -> None:
    """Check this machine: versions, GPU, memory, video, decoding, shipped weights; what will work and what will not.

    Fetches nothing. Exit status 1: there is a problem, and the output says what to do.
    """
    from gapmllm.run.doctor import diagnose

    found = diagnose()
    print(found)
    if out is not None:
        out.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    if found.problems:
        raise typer.Exit(1)
