"""The check: every kind of damage is found and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import board_scene

from gapmllm.geometry import euler_to_matrix
from gapmllm.scenes.check import check_scene, checker
from gapmllm.scenes.consistency import depth_disagreement
from gapmllm.scenes.dataset import DatasetWriter
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Scene


def problems_of(scene: Scene, vocabulary: frozenset[str] | None = None) -> list[tuple[str, str]]:
    problems = Problems(scene.id)
    check_scene(scene, vocabulary, problems)
    return [(problem.kind, problem.file) for problem in problems.found]


def changed_frame(index: int, **changes) -> Scene:
    scene = board_scene()
    frames = list(scene.frames)
    frames[index] = replace(frames[index], **changes)
    return replace(scene, frames=tuple(frames))


def test_a_sound_scene_has_no_problems_and_its_depth_was_compared():
    problems = Problems("boards")
    assert check_scene(board_scene(), frozenset({"chair", "desk", "wall"}), problems) == 7
    assert problems.found == []


def test_images_are_read_whole():
    image = board_scene().frames[2].image
    assert problems_of(changed_frame(2, image=image[: len(image) // 2])) == [("bad image", "frame 2 1")]
    small = board_scene(frames=1).frames[0].depth
    assert small is not None
    assert problems_of(changed_frame(1, depth=image)) == [("bad image", "frame 1 0.5")]


def test_sizes_that_do_not_fit_are_found():
    from gapmllm.scenes.images import encode_depth, encode_gray16

    half = encode_depth(np.ones((48, 64)), 1000)
    assert problems_of(changed_frame(0, depth=half)) == [("size", "frame 0 0")]
    assert problems_of(changed_frame(0, instances=encode_gray16(np.ones((48, 64), np.uint16)))) == [
        ("size", "frame 0 0")
    ]


def test_frames_out_of_order_are_found():
    assert problems_of(changed_frame(3, time=0.2)) == [("frames out of order", "frame 3")]
    assert problems_of(changed_frame(3, time=1.0)) == [("frames out of order", "frame 3")]  # as frame 2


def test_tilted_boxes_and_unknown_labels_are_found():
    scene = board_scene()
    leaning = replace(scene.objects[1], rotation=euler_to_matrix([0.3, 0.05, 0], "zxy"))
    lying = replace(scene.objects[2], rotation=euler_to_matrix([0.3, np.pi / 2, 0], "ZXY"))  # still along the vertical
    odd = replace(scene, objects=(scene.objects[0], leaning, lying))
    odd = replace(odd, expressions=())
    assert problems_of(odd, frozenset({"chair"})) == [
        ("tilted box", "object 1 'chair'"),
        ("unknown label", "object 2 'desk'"),
    ]


def test_a_wrong_pose_a_wrong_scale_and_wrong_intrinsics_show_in_the_depth():
    scene = board_scene()
    turned = scene.frames[4].camera_to_world.copy()
    turned[:3, :3] = turned[:3, :3] @ euler_to_matrix([0, 0, 0.5], "zxy")
    assert ("depth disagrees", "frames 1.5 and 2") in problems_of(changed_frame(4, camera_to_world=turned))
    assert ("depth disagrees", "frames 2 and 2.5") in problems_of(changed_frame(4, depth_scale=1200.0))
    assert np.median(depth_disagreement(scene.frames[0], scene.frames[1])) == 0
    far = scene.frames[4].camera_to_world.copy()
    far[1, 3] = 50  # behind the wall: the two see nothing of each other
    assert problems_of(changed_frame(4, camera_to_world=far)) == []


def test_an_empty_scene_is_found():
    assert problems_of(Scene(id="none", frames=())) == [("empty scene", "-")]


@pytest.fixture
def folder(tmp_path) -> Path:
    with DatasetWriter(tmp_path / "set", {"command": "test"}, ["chair", "desk", "wall"]) as writer:
        for name in "ab":
            writer.add(board_scene(name, frames=4))
    return tmp_path / "set"


def test_a_sound_data_set_passes(folder):
    manifest, check_shard = checker(folder)
    report = check_shard(manifest.shards[0])
    assert (report.scenes, report.frames, report.pairs, report.problems) == (2, 8, 6, ())


def test_a_changed_a_cut_and_a_lost_shard_are_found(folder):
    manifest, check_shard = checker(folder)
    (shard,) = manifest.shards
    path = folder / shard.file
    data = path.read_bytes()
    place = data.index(b"\x89PNG") + 600
    path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    assert "hash" in {problem.kind for problem in check_shard(shard).problems}
    path.write_bytes(data[:-100])
    assert {problem.kind for problem in check_shard(shard).problems} == {"hash", "unreadable shard"}
    path.unlink()
    assert [problem.kind for problem in check_shard(shard).problems] == ["unreadable shard"]
