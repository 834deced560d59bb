"""Procedural rooms as scenes: what the records say is what was rendered, and no split shares a room."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from gapmllm.geometry import project, transform_points, unproject
from gapmllm.scenes.check import check_scene
from gapmllm.scenes.dataset import count_scene
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import NOT_OBJECTS
from gapmllm.scenes.rows import scene_to_row
from gapmllm.scenes.synth.scene import SPLITS, MakeRoom, SynthOptions, labels, make_scene, room_of, scene_id
from gapmllm.scenes.visibility import MIN_SHARE, points_in_boxes
from gapmllm.tasks.questions import AskQuestions, QuestionPlan

SMALL = SynthOptions(frames=6, width=96, height=72)


@pytest.fixture(scope="module", params=[0, 1, 2])
def scene(request):
    return make_scene(request.param, SMALL)


def test_a_room_is_sound_and_full_of_things(scene):
    problems = Problems(scene.id)
    assert check_scene(scene, frozenset(labels()), problems) > 0
    assert problems.found == []
    counts = count_scene(scene)
    assert counts.frames == 6
    assert sum(number for label, number in counts.objects.items() if label not in NOT_OBJECTS) >= 5
    assert counts.expressions > sum(counts.objects.values())


def world_points(frame):
    return unproject(frame.depth_map(), frame.intrinsics, frame.camera_to_world)


def test_boxes_bound_the_visible_points_of_their_objects(scene):
    seen = 0
    for frame in scene.frames:
        points, ids = world_points(frame), frame.instance_map()
        for item, box in zip(scene.objects, (scene.boxes()[[i]] for i in range(len(scene.objects))), strict=True):
            mine = points[ids == item.id]
            seen += len(mine)
            assert points_in_boxes(mine, box, slack=1e-3).all(), item.label
    assert seen == 6 * 96 * 72  # every ray ends on something


def test_what_a_frame_shows_is_counted_from_its_ids(scene):
    for frame in scene.frames:
        ids = frame.instance_map()
        shares = {int(key): float((ids == key).mean()) for key in np.unique(ids)}
        assert frame.visible == pytest.approx({key: share for key, share in shares.items() if share >= MIN_SHARE})


def test_neighbouring_frames_agree_to_a_millimetre_on_what_both_see(scene):
    """Depth of one frame, seen from the next; between its pixels the inverse depth of a flat surface is linear."""
    agreed = 0
    for a, b in zip(scene.frames, scene.frames[1:], strict=False):
        pixels, z = project(world_points(a), b.intrinsics, b.camera_to_world)
        near = np.rint(pixels)
        inside = (z > 0) & (near >= 1).all(axis=-1) & (near < np.array(b.size) - 1).all(axis=-1)
        columns, rows = near[inside].astype(int).T
        inverse = 1 / b.depth_map().astype(np.float64)  # linear over the image of a plane
        slope_x = (inverse[rows, columns + 1] - inverse[rows, columns - 1]) / 2
        slope_y = (inverse[rows + 1, columns] - inverse[rows - 1, columns]) / 2
        middle = inverse[rows, columns]
        bend = np.abs(inverse[rows, columns + 1] + inverse[rows, columns - 1] - 2 * middle)
        bend += np.abs(inverse[rows + 1, columns] + inverse[rows - 1, columns] - 2 * middle)
        shift = pixels[inside] - near[inside]
        expected = 1 / (middle + slope_x * shift[:, 0] + slope_y * shift[:, 1])
        ids_a, ids_b = a.instance_map()[inside], b.instance_map()[rows, columns]
        same = (ids_a == ids_b) & (bend < 5e-5) & (np.abs(expected - z[inside]) < 0.05)  # else something hides it
        agreed += same.sum()
        assert np.percentile(np.abs(expected - z[inside])[same], 99) < 1e-3
    assert agreed > 1000


def test_the_same_number_gives_the_same_bytes_and_another_gives_another_room():
    one, again, other = make_scene(7, SMALL), make_scene(7, SMALL), make_scene(8, SMALL)
    assert scene_to_row(one) == scene_to_row(again)
    assert one.frames[0].image != other.frames[0].image


def fingerprint(split: str, number: int) -> str:
    parts = [part for item in room_of(split, number).objects for part in item.parts]
    numbers = np.concatenate([np.concatenate([part.center, part.size, part.rotation.ravel()]) for part in parts])
    return hashlib.sha256(numbers.tobytes()).hexdigest()


def test_no_split_shares_a_room():
    """The first word of the seed is the split's own, so the streams differ; and so do the rooms, looked at."""
    seeds = {np.random.default_rng([word, n, 0]).integers(2**63) for word in SPLITS.values() for n in range(3000)}
    assert len(seeds) == 9000
    rooms = {fingerprint(split, number) for split in SPLITS for number in range(20)}
    assert len(rooms) == 60
    with pytest.raises(ValueError, match=r"room number must be 0 to 4294967295, got 4294967296"):
        room_of("train", 2**32)  # a longer number would run into the next word of the seed


def test_rooms_are_made_by_their_ids_with_questions():
    make = MakeRoom(SynthOptions(frames=4, width=64, height=48, split="val"), AskQuestions(QuestionPlan()))
    outcome = make(scene_id("val", 3))
    assert outcome.scene is not None
    assert outcome.scene.id == "synth-val-0000003"
    assert outcome.scene.split == "val"
    tasks = {question.task for clip in outcome.scene.clips for question in clip.questions}
    assert tasks == {"points", "detection", "frame", "grounding", "captioning"}


def test_points_of_questions_lie_where_their_pixel_looks(scene):
    """By the records alone: the marked pixel's depth, its camera, and the first camera of the clip."""
    asked = AskQuestions(QuestionPlan(tasks=("points",)))(scene, Problems(scene.id))
    names = {item.id: item.label for item in scene.objects}
    for clip in asked.clips:
        first = np.linalg.inv(scene.frames[clip.frames[0]].camera_to_world)
        for question in clip.questions:
            mark, frame = question.mark, scene.frames[clip.frames[question.mark.frame]]
            points = transform_points(unproject(frame.depth_map(), frame.intrinsics, frame.camera_to_world), first)
            assert points[mark.y, mark.x] == pytest.approx(question.target["pointmap"], abs=1e-6)
            assert names[frame.instance_map()[mark.y, mark.x]] == question.target["label"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split must be one of train, val, test; got 'dev'"),
        ({"camera": "drone"}, "camera must be one of hand, robot; got 'drone'"),
        ({"frames": 65}, "4 to 64 frames, got 65"),
        ({"width": 8}, "16x16 to 4096x4096 pixels, got 8x192"),
    ],
)
def test_options_that_cannot_be_filmed_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SynthOptions(**options)
