"""Paths to data that lies beside the repository. It is read from there, never copied; without it tests skip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run, and no time limit: machines differ.
settings.register_profile("gapmllm", derandomize=True, deadline=None, max_examples=200)
settings.load_profile("gapmllm")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{name} data is not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers from independent code."""
    return _folder("golden")


@pytest.fixture(scope="session")
def real() -> Path:
    """Real recordings."""
    return _folder("real")


@pytest.fixture(scope="session")
def golden_json(golden: Path) -> Callable[[str], Any]:
    return lambda name: json.loads((golden / name).read_text(encoding="utf-8"))
