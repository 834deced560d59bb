"""Small recordings on disk in six layouts, for the tests of importers and exporters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from gapmllm.geometry import invert_pose
from gapmllm.scenes.exporters.seven_scenes import SevenScenesExporter
from gapmllm.scenes.exporters.tum import TumExporter
from gapmllm.scenes.images import encode_gray16, encode_image
from gapmllm.scenes.importers.arkitscenes import ArkitScenes
from gapmllm.scenes.importers.base import ImportOptions
from gapmllm.scenes.importers.redwood import Redwood
from gapmllm.scenes.importers.replica import Replica
from gapmllm.scenes.importers.rgbd_folder import RgbdFolder
from gapmllm.scenes.importers.seven_scenes import SevenScenes
from gapmllm.scenes.importers.tum import Tum
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame, Scene

ALL = (RgbdFolder, SevenScenes, Tum, Redwood, Replica, ArkitScenes)
WIDTH, HEIGHT = 8, 6
CAMERA = np.array([[7.0, 0, 3.5], [0, 7.0, 2.5], [0, 0, 1]])
# A level camera that looks along the world's x axis: its x axis is -y, its y axis -z, its z axis x.
LEVEL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def pose(index=0):
    """Level camera at (index, 0.5, 1.5), turned about the vertical by 0.1 rad for each index."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", 0.1 * index).as_matrix() @ LEVEL
    matrix[:3, 3] = (index, 0.5, 1.5)
    return matrix


def pixels(index=0):
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def units(index=0, most=60_000):
    values = np.random.default_rng(100 + index).integers(1, most, (HEIGHT, WIDTH), dtype=np.uint16)
    values[0, 0] = 0
    return values


def frame(index=0, **fields):
    base = {
        "image": encode_image(pixels(index), quality=None),
        "intrinsics": CAMERA,
        "camera_to_world": pose(index),
        "depth": encode_gray16(units(index)),
        "depth_scale": 5000.0,
        "time": index / 30,
        "name": f"{index:05d}",
    }
    return Frame(**base | fields)


def scene(**fields):
    return Scene(**{"id": "room", "frames": tuple(frame(index) for index in range(3))} | fields)


def text(matrix, form="%.17g"):
    return "".join(" ".join(form % value for value in row) + "\n" for row in np.atleast_2d(matrix))


def load(kind, root, scene_id=None, **options):
    """(scene or None, problems found) of one scene of a folder."""
    importer = kind(Path(root), ImportOptions(**options))
    scene_id = scene_id or importer.scene_ids()[0]
    problems = Problems(scene_id)
    return importer.load(scene_id, problems), problems.found


def kinds(found):
    return [problem.kind for problem in found]


def write_rgbd(root, count=3):
    root.mkdir(parents=True)
    (root / "K.txt").write_text(text(CAMERA))
    for i in range(count):
        (root / f"{i:05d}.jpg").write_bytes(encode_image(pixels(i)))
        (root / f"{i:05d}.depth.png").write_bytes(encode_gray16(units(i)))
        (root / f"{i:05d}.pose.txt").write_text(text(pose(i)))
    return root


def write_redwood(root, first=0, camera=True):
    for name in ("color", "depth"):
        (root / name).mkdir(parents=True)
    blocks = []
    for i in range(3):
        (root / "color" / f"{first + i:05d}.jpg").write_bytes(encode_image(pixels(i)))
        (root / "depth" / f"{first + i:05d}.png").write_bytes(encode_gray16(units(i)))
        blocks.append(f"{i} {i} {i + 1}\n{text(pose(i))}")
    (root / "trajectory.log").write_text("".join(blocks))
    if camera:
        values = {"width": WIDTH, "height": HEIGHT, "intrinsic_matrix": CAMERA.T.ravel().tolist()}
        (root / "camera_primesense.json").write_text(json.dumps(values))
    return root


def write_replica(root):
    (root / "results").mkdir(parents=True)
    for i in range(3):
        (root / "results" / f"frame{i:06d}.jpg").write_bytes(encode_image(pixels(i)))
        (root / "results" / f"depth{i:06d}.png").write_bytes(encode_gray16(units(i)))
    (root / "traj.txt").write_text("".join(text(pose(i).reshape(1, 16)) for i in range(3)))
    camera = {"w": WIDTH, "h": HEIGHT, "fx": 7, "fy": 7, "cx": 3.5, "cy": 2.5, "scale": 6553.5}
    (root.parent / "cam_params.json").write_text(json.dumps({"camera": camera}))
    return root


BOX = {"centroid": [3.0, 0.5, 1.5], "axesLengths": [2.0, 1.0, 1.5], "normalizedAxes": [0, 1, 0, -1, 0, 0, 0, 0, 1]}


def write_arkit(root, video="4711", boxes=(BOX,)):
    """Three pictures at 10.000, 10.100, 10.200 s; poses 4 ms later; the second camera file is 1 ms off."""
    frames = root / f"{video}_frames"
    for name in ("lowres_wide", "lowres_depth", "lowres_wide_intrinsics"):
        (frames / name).mkdir(parents=True)
    lines = []
    for i, (stamp, camera) in enumerate((("10.000", "10.000"), ("10.100", "10.101"), ("10.200", "10.200"))):
        (frames / "lowres_wide" / f"{video}_{stamp}.png").write_bytes(encode_image(pixels(i), quality=None))
        (frames / "lowres_depth" / f"{video}_{stamp}.png").write_bytes(
            encode_gray16(np.full((HEIGHT, WIDTH), 3000, np.uint16))
        )
        (frames / "lowres_wide_intrinsics" / f"{video}_{camera}.pincam").write_text(f"{WIDTH} {HEIGHT} 7 7 3.5 2.5")
        inverse = invert_pose(pose(i))
        row = [float(stamp) + 0.004, *Rotation.from_matrix(inverse[:3, :3]).as_rotvec(), *inverse[:3, 3]]
        lines.append(text(np.array([row])))
    (frames / "lowres_wide.traj").write_text("".join(lines))
    data = [{"label": "tv_monitor", "uid": f"u{i}", "segments": {"obbAligned": box}} for i, box in enumerate(boxes)]
    (root / f"{video}_3dod_annotation.json").write_text(json.dumps({"data": data, "skipped": False}))
    return root


def write_all(root):
    """One data set of each format, by the importer that is to read it."""
    SevenScenesExporter().export([scene()], root)
    TumExporter().export([scene(id="tum")], root)
    return {
        RgbdFolder: write_rgbd(root / "rgbd"),
        SevenScenes: root / "room",
        Tum: root / "tum",
        Redwood: write_redwood(root / "redwood"),
        Replica: write_replica(root / "replica" / "office0"),
        ArkitScenes: write_arkit(root / "4711"),
    }
