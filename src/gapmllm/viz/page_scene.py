"""What the page's 3D view shows, as JSON: all in the level world (`Answers.level`), metres."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapmllm.geometry import BOX_EDGES, transform_points
from gapmllm.geometry.camera import FloatArray
from gapmllm.tasks import Answers
from gapmllm.viz.glb import frustum, subsample
from gapmllm.viz.things import Cloud, cameras_in_world, extent, spots_of, things_in_world

MAX_POINTS = 60_000
_STEPS = 65_535  # of a coordinate of a packed point


def scene_json(answers: Answers, cloud: Cloud | None) -> dict[str, Any]:
    """{"points", "things", "spots", "cameras", "edges", "view"}.

    things: {"id", "kind", "plate", "color", "corners" (8, 3)}; edges: pairs of corners. spots: {"id", "kind", "plate",
    "color", "xyz", "true"}. cameras: segments (10, 2, 3) of each. points: see `_packed`. view: "low" and "high", the
    box that is to be in view; "cut", a height just above the cameras: what is above would hide the room; "forward" of
    the first camera, which is at 0, and "fov", its vertical angle in radians.
    """
    level = answers.level()
    known, poses = cameras_in_world(answers)
    places = extent(answers, cloud)
    first = answers.frames[0]
    things = [
        {"id": f"{thing.kind}-{thing.number}", "kind": thing.kind, "plate": thing.plate, "color": thing.color}
        | {"corners": _rounded(box.corners()[0])}
        for thing, box in things_in_world(answers)
    ]
    spots = [
        {"id": f"{spot.kind}-{spot.number}", "kind": spot.kind, "plate": spot.plate, "color": spot.color}
        | {"xyz": _rounded(transform_points(spot.xyz, level))}
        | {"true": None if spot.true is None else _rounded(transform_points(spot.true, level))}
        for spot in spots_of(answers)
    ]
    frusta = [
        frustum(pose, np.array(answers.frames[i].intrinsics), np.array(answers.frames[i].size))
        for i, pose in zip(known, poses, strict=True)
    ]
    view = {
        "low": _rounded(places.min(axis=0)),
        "high": _rounded(places.max(axis=0)),
        "cut": round(float(poses[:, 2, 3].max()) + 0.2, 2),
        "forward": _rounded(level[:3, 2]),
        "fov": round(float(2 * np.arctan(first.size[1] / 2 / first.intrinsics[1][1])), 4),
    }
    points = None if cloud is None else _packed(transform_points(cloud.points, level), cloud.colors, places)
    cameras = [_rounded(lines) for lines in frusta]
    return {"points": points, "things": things, "spots": spots, "cameras": cameras, "edges": BOX_EDGES, "view": view}


def _packed(points: FloatArray, colors: NDArray[np.uint8], places: FloatArray) -> dict[str, Any] | None:
    """{"count", "origin", "step", "xyz", "rgb"}: a coordinate is origin + step * (int16, little endian), in base64.

    At most MAX_POINTS. What lies far from all else is left out: the steps of the others would become coarse.
    """
    margin = np.ptp(places, axis=0) / 2 + 2
    low, high = places.min(axis=0) - margin, places.max(axis=0) + margin
    inside = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
    kept = inside[subsample(len(inside), MAX_POINTS, seed=0)]
    if not len(kept):
        return None
    step = (high - low) / _STEPS
    origin = low + step * (_STEPS + 1) / 2
    packed = np.rint((points[kept] - origin) / step).astype("<i2")
    texts = {"xyz": _base64(packed.tobytes()), "rgb": _base64(colors[kept].astype(np.uint8).tobytes())}
    return {"count": len(kept), "origin": origin.tolist(), "step": step.tolist(), **texts}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _rounded(values: FloatArray) -> Any:
    return values.round(4).tolist()
