"""Paths to data that lies beside the repository (read from there, never copied; without it tests skip), and a scene of
boards that can be computed by hand."""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is there: for tensors this small, threads only wait for each other

import numpy as np
import pytest
from hypothesis import settings

from gapmllm.scenes.images import encode_depth, encode_gray16, encode_image
from gapmllm.scenes.records import Expression, Frame, Scene, SceneObject

if TYPE_CHECKING:
    from torch import Tensor

# The same examples in every run, and no time limit: machines differ.
settings.register_profile("gapmllm", derandomize=True, deadline=None, max_examples=200)
settings.load_profile("gapmllm")


@pytest.fixture(scope="module", autouse=True)
def _runs_draw_no_curves(request: pytest.FixtureRequest) -> Iterator[None]:
    """To draw the curves of a run takes longer than to train it, at the size of tests; test_train_report draws them."""
    report = sys.modules.get("gapmllm.train.report")
    with pytest.MonkeyPatch.context() as patch:
        if report is not None and request.module.__name__ != "test_train_report":
            patch.setattr(report.Report, "_draw", lambda _: None)
        yield


# What the tests of killed and of several processes fork from: it is imported once, not in each of them.
set_forkserver_preload(["gapmllm.train.loop", "peft"])

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


# q_norm.weight and k_norm.weight end so as well.
NORM_WEIGHTS = tuple(
    f"{name}.weight" for name in ("norm", "norm1", "norm2", "ln_q", "norm1_query", "norm1_key", "norm1_value")
)


@pytest.fixture(scope="session")
def golden_weights() -> Callable[[Iterable[tuple[str, Sequence[int]]], str], dict[str, Tensor]]:
    """(names and shapes, rule "A" or "B") -> float32 tensors made from the names alone (golden README, section 1)."""
    import torch

    def weight(name: str, shape: Sequence[int], rule: str) -> Tensor:
        random = np.random.RandomState(zlib.crc32(name.encode()))
        values = np.asarray(random.standard_normal(tuple(shape)), dtype=np.float32)
        if rule == "B" and name.endswith("weight") and len(shape) >= 2:
            return torch.from_numpy(values / np.float32(np.sqrt(np.prod(shape[1:]))))
        offset = 0.1 * name.endswith(".gamma") + name.endswith(NORM_WEIGHTS)
        offset += 0.5 * name.endswith(("weight_2d", "weight_3d"))
        return torch.from_numpy(np.asarray(values * np.float32(0.02) + np.float32(offset)))

    def weights(names_and_shapes: Iterable[tuple[str, Sequence[int]]], rule: str) -> dict[str, Tensor]:
        assert rule in ("A", "B")
        return {name: weight(name, shape, rule) for name, shape in names_and_shapes}

    return weights


SIZE = (128, 96)
# The camera looks along the world's +y: its x is the world's x, its y (down) is -z, its z (forward) is y.
LEVEL = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
# label, x from .. to, z from .. to, y: boards that stand across the view, and the wall behind them
BOARDS = (
    ("chair", -1.0, 0.0, -0.5, 0.5, 2.5),
    ("chair", 0.5, 1.0, -0.5, 0.5, 3.0),
    ("desk", -1.6, -1.1, -0.9, 0.2, 3.5),
    ("wall", -9.0, 9.0, -9.0, 9.0, 4.0),
)


def board_frame(shift: float, time: float) -> Frame:
    """The boards from a camera `shift` metres to the right: depth, ids and picture follow from plane geometry."""
    camera = LEVEL.copy()
    camera[0, 3] = shift
    intrinsics = np.array([[100.0, 0, 63.5], [0, 100.0, 47.5], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    depth, ids = np.zeros((SIZE[1], SIZE[0])), np.full((SIZE[1], SIZE[0]), -1)
    for number, (_, left, right, low, high, y) in reversed(list(enumerate(BOARDS))):  # from far to near
        x, z = (columns - 63.5) * y / 100 + shift, (47.5 - rows) * y / 100
        hit = (x >= left) & (x <= right) & (z >= low) & (z <= high)
        depth[hit], ids[hit] = y, number
    image = np.stack([ids * 60 + 40, rows * 2, columns], axis=-1).astype(np.uint8)
    return Frame(
        image=encode_image(image, None),
        intrinsics=intrinsics,
        camera_to_world=camera,
        depth=encode_depth(depth, 1000),
        instances=encode_gray16((ids + 1).astype(np.uint16)),
        visible={key: float((ids == key).mean()) for key in range(len(BOARDS)) if (ids == key).any()},
        time=time,
        name=f"{time:g}",
    )


def board_scene(name: str = "boards", frames: int = 8, seconds: float = 0.5) -> Scene:
    """A scene that a person can compute by hand: boards across the view, the camera moves 5 cm a frame to the right."""
    thick = 0.002
    objects = tuple(
        SceneObject(
            id=number,
            label=label,
            center=np.array([(left + right) / 2, y + thick / 2, (low + high) / 2]),
            size=np.array([right - left, thick, high - low]),
        )
        for number, (label, left, right, low, high, y) in enumerate(BOARDS)
    )
    texts = (
        Expression(object_id=0, text="the wide chair", id="0", kind="size", view_dependent=False, unique=True),
        Expression(object_id=1, text="the narrow chair", id="1", kind="size", view_dependent=False, unique=True),
        Expression(object_id=0, text="a wide chair before the wall.", id="2", kind="caption"),
        Expression(object_id=0, text="this chair is wide.", id="3", kind="caption"),
    )
    return Scene(
        id=name,
        frames=tuple(board_frame(0.05 * index, seconds * index) for index in range(frames)),
        objects=objects,
        expressions=texts,
        source="boards",
    )


@pytest.fixture(scope="session")
def clip_of() -> Callable[..., Any]:
    """clip_of(model, frames, size=(width, height), seed): frames of noise, on the model's image grid."""

    def make(model: Any, frames: int = 3, size: tuple[int, int] = (64, 48), seed: int = 0) -> Any:
        width, height = size
        pictures = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
        return model.config.grid.prepare(list(pictures))

    return make
