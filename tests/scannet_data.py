"""Tiny ScanNet data that several test files write, and what they ask of importers."""

from __future__ import annotations

import shutil
import struct
import zlib

import numpy as np

from gapmllm.scenes.exporters.scannet import ScanNetExporter
from gapmllm.scenes.images import encode_gray16, encode_image
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Frame, Scene, SceneObject

CAMERA = np.array([[6.0, 0, 3.5], [0, 6.0, 2.5], [0, 0, 1]])  # of an image of 8x6 pixels
CAMERA4 = np.eye(4)
CAMERA4[:3, :3] = CAMERA
DEPTH_CAMERA = np.array([[3.0, 0, 1.5], [0, 3.0, 1.0], [0, 0, 1]])  # of depth of 4x3 pixels
TURN = np.array([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])  # a quarter turn about z, and a shift
IMAGE = encode_image(np.full((6, 8, 3), 128, np.uint8))
DEPTH = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100
ZIPPED = zlib.compress(DEPTH.tobytes())


def load(importer):
    """The only scene of an importer, and what it reported."""
    (name,) = importer.scene_ids()
    problems = Problems(name)
    return importer.load(name, problems), problems


def kinds(problems):
    return [problem.kind for problem in problems.found]


def lying(x: float) -> np.ndarray:
    """A camera at (x, 0, 1) that looks along the world's y."""
    return np.array([[1.0, 0, 0, x], [0, 0, 1, 0], [0, -1, 0, 1], [0, 0, 0, 1]])


def small_scene(**changes):
    frames = tuple(
        Frame(
            image=IMAGE,
            intrinsics=CAMERA,
            camera_to_world=lying(x / 3) @ turned(0.1 * x),
            depth=encode_gray16(DEPTH),
            depth_intrinsics=DEPTH_CAMERA,
            visible={7: 0.5} if x else {},
            time=x / 3,
        )
        for x in range(3)
    )
    objects = (
        SceneObject(id=7, label="office chair", center=np.array([0.1, 3, 1]), size=np.array([0.7, 0.6, 0.9])),
        SceneObject(id=2, label="lamp", center=np.array([-1, 1 / 3, 0.7]), size=np.array([0.3, 0.3, 1.4])),
    )
    return Scene(**{"id": "scene0003_00", "frames": frames, "objects": objects, **changes})


def turned(angle):
    matrix = np.eye(4)
    matrix[0, 0] = matrix[2, 2] = np.cos(angle)
    matrix[0, 2], matrix[2, 0] = np.sin(angle), -np.sin(angle)
    return matrix


def check_same(found, scene, rotations=1e-12):
    assert [item.id for item in found.objects] == [item.id for item in scene.objects]
    assert [item.label for item in found.objects] == [item.label for item in scene.objects]
    for name, tolerance in (("center", 1e-12), ("size", 1e-12), ("rotation", rotations)):
        for ours, theirs in zip(found.objects, scene.objects, strict=True):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=tolerance)
    for ours, theirs in zip(found.frames, scene.frames, strict=True):
        assert (ours.image, ours.depth, ours.depth_scale) == (theirs.image, theirs.depth, 1000)
        np.testing.assert_allclose(ours.camera_to_world, theirs.camera_to_world, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(ours.intrinsics, theirs.intrinsics)
        np.testing.assert_array_equal(ours.depth_camera(), theirs.depth_camera())


def sens(frames, *, color=2, depth=1, claimed=None, name=b"StructureSensor", size=(8, 6, 4, 3)):
    """Bytes of a .sens file of (pose, image, stored depth)."""
    depth4 = np.eye(4)
    depth4[:3, :3] = DEPTH_CAMERA
    head = struct.pack("<IQ", 4, len(name)) + name
    head += b"".join(matrix.astype("<f4").tobytes() for matrix in (CAMERA4, np.eye(4), depth4, np.eye(4)))
    head += struct.pack("<2i4IfQ", color, depth, *size, 1000.0, len(frames) if claimed is None else claimed)
    for pose, image, stored in frames:
        head += np.asarray(pose, "<f4").tobytes() + struct.pack("<4Q", 0, 0, len(image), len(stored)) + image + stored
    return head


def sens_scan(folder, data, with_alignment=True):
    scan = folder / "scene0002_00"
    scan.mkdir(parents=True)
    (scan / "scene0002_00.sens").write_bytes(data)
    if with_alignment:
        numbers = " ".join(map(str, TURN.ravel()))
        (scan / "scene0002_00.txt").write_text(f"colorWidth = 8\naxisAlignment = {numbers}\n")
    return folder


def scannet_export(folder):
    """The layout of ScanNet's own reader, from that of `posed_images`."""
    ScanNetExporter().export([small_scene()], folder / "flat")
    scan = folder / "exported" / "scene0003_00"
    flat = folder / "flat" / "posed_images" / "scene0003_00"
    for name in ("color", "depth", "pose", "intrinsic"):
        (scan / name).mkdir(parents=True)
    for number in (0, 10, 20):
        for name, suffix in (("color", "jpg"), ("depth", "png"), ("pose", "txt")):
            shutil.copy(flat / f"{number:05d}.{suffix}", scan / name / f"{number}.{suffix}")
    shutil.copy(flat / "intrinsic.txt", scan / "intrinsic" / "intrinsic_color.txt")
    shutil.copy(flat / "depth_intrinsic.txt", scan / "intrinsic" / "intrinsic_depth.txt")
    for path in (folder / "flat" / "scans" / "scene0003_00").iterdir():
        shutil.copy(path, scan)
    return scan
