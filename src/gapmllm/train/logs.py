"""OUT/logs/rank-0.log, rank-1.log, …: what each process of a run has to say. The main one speaks on the terminal, too.

Everything goes through Python's `logging`: what the run says, warnings, and what other packages log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console

from gapmllm import __version__
from gapmllm.train.recipe import Recipe

LOG = logging.getLogger("gapmllm.train")
TERMINAL = Console(stderr=True)
FOLDER = "logs"
FILE_ONLY = {"file_only": True}
"""`LOG.info(text, extra=FILE_ONLY)`: not for the terminal."""


class _OnTerminal(logging.Handler):
    """Above the progress bar, where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "file_only", False):
            TERMINAL.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def logged(recipe: Recipe, accelerator: Accelerator) -> Iterator[None]:
    """Within it logs and warnings go to the file of this process, and so does the error that ends it."""
    path = Path(recipe.out) / FOLDER / f"rank-{accelerator.process_index}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.FileHandler(path, encoding="utf-8")]
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if accelerator.is_main_process:
        handlers.append(_OnTerminal())
    root, level = logging.getLogger(), LOG.level
    for handler in handlers:
        root.addHandler(handler)
    LOG.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        processes = f"process {accelerator.process_index} of {accelerator.num_processes}"
        LOG.info(f"gapmllm {__version__}, {recipe.stage}, {processes}, {accelerator.device}", extra=FILE_ONLY)
        yield
    except BaseException:
        LOG.exception("the run ended with an error", extra=FILE_ONLY)  # the terminal gets it from the caller
        raise
    finally:
        logging.captureWarnings(False)
        LOG.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
