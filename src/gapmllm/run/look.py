"""`gapmllm look`: from a video, a folder or pictures to answers, pictures, a 3D scene and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gapmllm.geometry import invert_pose, project, transform_points, unproject_pixels
from gapmllm.geometry.camera import FloatArray
from gapmllm.infer import Describe, Detect, Ground, Locate, View
from gapmllm.infer.questions import AnyQuestion
from gapmllm.run.cameras import Cameras, cameras_of, cloud_of, in_metres
from gapmllm.scenes.records import Frame
from gapmllm.tasks import Answers, Description, FreeAnswer, Truth, WatchedFrame
from gapmllm.tasks.answers import Point3
from gapmllm.viz.look import Cloud, frame_pictures, top_picture, write_scene
from gapmllm.viz.page import answers_json, write_page

ANSWERS, PAGE, SCENE, TOP, FRAMES = "answers.json", "index.html", "scene.glb", "top.png", "frames"
WRITTEN = (ANSWERS, PAGE, SCENE, TOP, FRAMES)
"""All that is in the folder of a look."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to ask of a view. Nothing at all means: detect."""

    detect: Detect | None = None
    ground: tuple[Ground, ...] = ()
    points: tuple[Locate, ...] = ()
    describe: tuple[Describe, ...] = ()
    ask: tuple[str, ...] = ()

    def or_detect(self) -> Wanted:
        return self if self != Wanted() else replace(self, detect=Detect())


def answers_of(
    view: View, wanted: Wanted, *, model: str, trained: bool, fov: float | None = None, truth: Truth | None = None
) -> tuple[Answers, Cloud | None]:
    """Ask it all at once; the answers with what is known about the cameras, and VGGT's points if it has any.

    fov: degrees along the longer side, in place of an estimate. truth: default the recorded depth's, where there is
    some.
    """
    wanted = wanted.or_detect()
    groups: list[Sequence[AnyQuestion]] = [
        [wanted.detect] if wanted.detect else [],
        wanted.ground,
        wanted.points,
        wanted.describe,
        wanted.ask,
    ]
    found = iter(view.answer([question for group in groups for question in group]))
    detections, groundings, points, texts, free = ([next(found) for _ in group] for group in groups)
    seen, scale_notes = in_metres(view, view.reconstruct())
    cameras = cameras_of(view, seen, fov)
    cloud = cloud_of(view, seen, cameras)
    notes = [*view.footage.notes, *cameras.notes, *scale_notes]
    answers = Answers(
        model=model,
        trained=trained,
        source=view.footage.source,
        frames=_frames(view, cameras),
        intrinsics_from=cameras.intrinsics_from,
        poses_from=cameras.poses_from,
        up=_point(cameras.up),
        detections=tuple(detections[0]) if detections else None,
        groundings=tuple(groundings),
        points=tuple(points),
        descriptions=tuple(
            Description(xyz=_point(question.xyz), text=text)
            for question, text in zip(wanted.describe, texts, strict=True)
        ),
        answers=tuple(
            FreeAnswer(question=question, answer=text) for question, text in zip(wanted.ask, free, strict=True)
        ),
        truth=measured_points(view, wanted.points) if truth is None else truth,
        notes=tuple(notes),
    )
    return answers, cloud


def write_all(folder: Path, view: View, answers: Answers, cloud: Cloud | None) -> None:
    """All files of a look into a folder that is there and empty."""
    pictures = frame_pictures(answers, view.frames)
    top = top_picture(answers, cloud)
    (folder / FRAMES).mkdir()
    for index, picture in enumerate(pictures):
        picture.save(folder / FRAMES / f"frame_{index:03d}.png")
    top.save(folder / TOP)
    write_scene(folder / SCENE, answers, cloud)
    write_page(folder / PAGE, answers, pictures, top, cloud)
    (folder / ANSWERS).write_text(answers_json(answers) + "\n", encoding="utf-8")


def measured_points(view: View, points: tuple[Locate, ...]) -> Truth | None:
    """The true points of located pixels, by the depth that the folder has of its frames; None where it has none."""
    recorded = view.footage.recorded
    if not points or recorded is None or all(frame.depth is None for frame in recorded):
        return None
    to_first = invert_pose(recorded[0].camera_to_world)
    assert view.footage.intrinsics is not None
    cameras = view.footage.intrinsics  # those that the user gave, if any, as in the pictures
    measured = [_measured(recorded[q.frame], q.pixel, cameras[q.frame]) for q in points]
    places = [None if place is None else _point(transform_points(place, to_first)) for place in measured]
    return Truth(points=tuple(places)) if any(places) else None


def _measured(frame: Frame, pixel: tuple[float, float], intrinsics: FloatArray) -> Any:
    """(3,) in the world, or None where the depth is not known. The depth camera stands where the image's does."""
    depth = frame.depth_map()
    if depth is None:
        return None
    ray = unproject_pixels(np.array(pixel), np.array(1.0), intrinsics)
    x, y = np.rint(project(ray, frame.depth_camera())[0]).astype(int)
    if not (0 <= y < depth.shape[0] and 0 <= x < depth.shape[1]) or depth[y, x] <= 0:
        return None
    return transform_points(ray * float(depth[y, x]), frame.camera_to_world)


def _frames(view: View, cameras: Cameras) -> tuple[WatchedFrame, ...]:
    footage, poses = view.footage, cameras.camera_to_first
    height, width = view.frames[0].shape[:2]
    return tuple(
        WatchedFrame(
            name=name,
            time=time,
            size=(width, height),
            intrinsics=cameras.intrinsics[index].tolist(),
            camera_to_first=None if poses is None else poses[index].tolist(),
        )
        for index, (name, time) in enumerate(zip(footage.names, footage.times, strict=True))
    )


def _point(values: Any) -> Point3:
    x, y, z = (float(value) for value in values)
    return x, y, z
