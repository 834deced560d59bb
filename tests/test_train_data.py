"""Which clips a run sees, and the dense truth that it learns from."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from conftest import BOARDS, board_scene

from gapmllm.geometry import decode_cameras, project
from gapmllm.model import IGNORE
from gapmllm.model.presets import preset_config
from gapmllm.scenes.dataset import DatasetWriter
from gapmllm.scenes.importers.rgbd_folder import RgbdFolder
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Clip, Mark, Question
from gapmllm.scenes.synth.scene import SynthOptions, make_scene
from gapmllm.tasks import COLORS
from gapmllm.tasks.marks import mark_size
from gapmllm.tasks.questions import AskQuestions, QuestionPlan, make_clips
from gapmllm.train import targets as truth
from gapmllm.train.batch import sample_pixels
from gapmllm.train.recipe import Data
from gapmllm.train.samples import MIXED as MIXED_SCENES
from gapmllm.train.samples import Sample, Samples

NANO = preset_config("nano")  # a frame of 128x96 pixels: 6x8 tokens of 16 pixels
ODD = preset_config("nano", max_frame_tokens=35)  # 5x7 tokens, which do not end where pixels do
CLASS = {label: number for number, label in enumerate(truth.CLASSES)}


def question(frame: int, x: int, y: int, color: str = "red") -> Question:
    return Question(task="points", prompt="?", answer="{}", target={}, id=color, mark=Mark(frame, x, y, color))


def sample_of(scene, frames, questions=()) -> Sample:
    return Sample(scene, Clip(id="c", frames=tuple(frames), questions=tuple(questions)), "points")


@pytest.fixture(scope="module")
def boards():
    """Frames 0, 2 and 4 of the boards: the camera moves 10 cm to the right each time and does not turn."""
    return sample_of(board_scene(), (0, 2, 4))


def asked(scene, frames) -> Sample:
    plan = QuestionPlan(tasks=("points",), windows=1, window_frames=frames, points=8)
    (clip,) = make_clips(scene, plan, Problems(scene.id))
    assert len(clip.questions) == 8
    return Sample(scene, clip, "points")


@pytest.fixture(scope="module")
def room():
    return asked(make_scene(3, SynthOptions(frames=4, width=128, height=96)), 4)


@pytest.fixture(scope="module")
def hololens(real):
    """Frames of 540x360 pixels from a real depth camera, with holes."""
    (importer, name), problems = (RgbdFolder(real / "dvmvs_hololens_000"), "dvmvs_hololens_000"), Problems("hololens")
    return asked(importer.load(name, problems), 4)


def first_of(sample: Sample):
    return sample.frames[0].camera_to_world


# Depth, cameras, points


def test_depth_is_the_boards_distance_at_vggts_pixels(boards):
    clip = sample_pixels(boards, preset_config("debug", max_frame_tokens=48))  # VGGT sees 112x84
    depth = truth.depth_target(boards, clip).numpy()
    assert depth.shape == (3, 84, 112)
    rows, columns = np.mgrid[0:84, 0:112]
    for number, frame in enumerate(depth):
        # VGGT's pixels are 128 / 112 wide: the ray through their centres, in metres at distance 1
        right, up = ((columns + 0.5) * 128 / 112 - 64) / 100, (48 - (rows + 0.5) * 96 / 84) / 100
        wanted = np.zeros_like(frame)
        for _, x0, x1, z0, z1, y in sorted(BOARDS, key=lambda board: -board[-1]):
            x, z = right * y + 0.1 * number, up * y
            wanted[(x >= x0) & (x <= x1) & (z >= z0) & (z <= z1)] = y
        assert (frame == wanted).mean() > 0.98  # not all: the depth image is read at its nearest pixel
        # Beside the middle: the first chair ends at x = 0 of frame 0, and is out of the way in the others.
        assert frame[42, 55:57].tolist() == {0: [2.5, 4], 1: [4, 4], 2: [4, 4]}[number]


def test_camera_encodings_decode_to_the_moves_between_the_boards_frames(boards):
    poses, intrinsics = decode_cameras(truth.camera_target(boards, sample_pixels(boards, NANO)).numpy(), 84, 112)
    np.testing.assert_allclose(poses[:, :3, 3], [[0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(poses[:, :3, :3], np.stack([np.eye(3)] * 3), atol=1e-6)
    np.testing.assert_allclose(intrinsics[0], [[87.5, 0, 56], [0, 87.5, 42], [0, 0, 1]], rtol=1e-6)  # 100 * 112 / 128


@pytest.mark.parametrize("name", ["room", "hololens"])
def test_camera_encodings_decode_to_the_cameras(name, request):
    sample = request.getfixturevalue(name)
    clip = sample_pixels(sample, NANO)
    height, width = clip.geometry.shape[-2:]
    poses, intrinsics = decode_cameras(truth.camera_target(sample, clip).numpy(), height, width)
    for frame, pose, matrix in zip(sample.frames, poses, intrinsics, strict=True):
        np.testing.assert_allclose(first_of(sample) @ pose, frame.camera_to_world, atol=1e-5)
        scale = np.divide((width, height), frame.size)
        np.testing.assert_allclose(matrix[[0, 1], [0, 1]], frame.intrinsics[[0, 1], [0, 1]] * scale, rtol=1e-5)


@pytest.mark.parametrize("name", ["boards", "room", "hololens"])
def test_points_project_to_the_centres_of_their_cells(name, request):
    sample = request.getfixturevalue(name)
    points = truth.points_target(sample, 6, 8).numpy()
    assert points.shape == (len(sample.frames), 6, 8, 3)
    for frame, found in zip(sample.frames, points, strict=True):
        to_first = np.linalg.inv(first_of(sample)) @ frame.camera_to_world
        pixels, depth = project(found.astype(np.float64), frame.intrinsics, to_first)
        known = np.isfinite(found[..., 0])
        assert known.mean() > 0.25
        width, height = frame.size
        for row, col in np.argwhere(known):
            wanted = (col + 0.5) * width / 8 - 0.5, (row + 0.5) * height / 6 - 0.5
            np.testing.assert_allclose(pixels[row, col], wanted, atol=1e-3)
            x, y = np.array(wanted, dtype=int)  # a centre lies between pixels: the truth is that of one beside it
            assert np.abs(frame.depth_map()[y : y + 2, x : x + 2] - depth[row, col]).min() < 1e-4


@pytest.mark.parametrize("name", ["room", "hololens"])
def test_points_are_those_of_the_points_questions(name, request):
    """With a cell for each pixel, the cell of a mark holds the very point that is asked for."""
    sample = request.getfixturevalue(name)
    width, height = sample.frames[0].size
    points = truth.points_target(sample, height, width).numpy()
    for asked_for in sample.questions:
        mark = asked_for.mark
        assert points[mark.frame, mark.y, mark.x] == pytest.approx(asked_for.target["pointmap"], abs=1e-4)


def test_without_depth_nothing_is_known(boards):
    frames = tuple(replace(frame, depth=None) for frame in boards.scene.frames)
    blind = sample_of(replace(boards.scene, frames=frames), (0, 1))
    assert torch.isnan(truth.points_target(blind, 6, 8)).all()
    assert not truth.depth_target(blind, sample_pixels(blind, NANO)).any()


# Classes, marks


@pytest.mark.parametrize("config", [NANO, ODD], ids=["6x8", "5x7"])
@pytest.mark.parametrize("name", ["boards", "room"])
def test_classes_are_what_most_pixels_of_a_token_show(name, config, request):
    sample = request.getfixturevalue(name)
    clip = sample_pixels(sample, config)
    found = truth.classes_target(sample, clip).numpy()
    label_of = {item.id: item.label for item in sample.scene.objects}
    seen = set()
    width, height = sample.frames[0].size
    row_of = [config.grid.token_of_pixel(0, y, width, height)[0] for y in range(height)]
    col_of = [config.grid.token_of_pixel(x, 0, width, height)[1] for x in range(width)]
    for frame, classes in zip(sample.frames, found, strict=True):
        counts = [[Counter() for _ in range(clip.cols)] for _ in range(clip.rows)]
        for (y, x), number in np.ndenumerate(frame.instance_map()):
            counts[row_of[y]][col_of[x]][CLASS.get(label_of.get(int(number)), IGNORE)] += 1
        for row, col in product(range(clip.rows), range(clip.cols)):
            assert counts[row][col][classes[row, col]] == max(counts[row][col].values()), (row, col)
            seen.add(classes[row, col])
    assert len(seen) > 1


def test_the_classes_of_the_boards_by_hand(boards):
    classes = truth.classes_target(boards, sample_pixels(boards, NANO)).numpy()
    # Frame 0, pixel rows 48 to 63: columns 18 to 23 are the desk, 24 to 63 the first chair, 81 to 96 the second.
    wall, chair = CLASS["wall"], CLASS["chair"]
    assert classes[0, 3].tolist() == [wall, chair, chair, chair, wall, chair, wall, wall]
    assert classes[0, 0].tolist() == [wall] * 8


def test_a_token_of_an_object_has_the_centre_of_its_box(boards):
    sample = sample_of(boards.scene, (2, 4))
    centers = truth.centers_target(sample, sample_pixels(sample, NANO)).numpy()
    # The tokens of the test above, five pixels later: the first chair's centre is at x -0.5, y 2.5 of the world, the
    # second's at 0.75 and 3; the camera of frame 2 stands at x 0.1.
    first, second = [-0.6, 0, 2.501], [0.65, 0, 3.001]
    for index in (0, 1):
        assert centers[index, 3, 2] == pytest.approx(first, abs=1e-6)
        assert centers[index, 3, 5] == pytest.approx(second, abs=1e-6)
        assert np.isnan(centers[index, 0]).all()  # the wall is no object
    bare = sample_of(replace(boards.scene, frames=(replace(boards.scene.frames[0], instances=None),)), (0,))
    assert truth.centers_target(bare, sample_pixels(bare, NANO)).isnan().all()
    empty = sample_of(replace(boards.scene, objects=(), expressions=()), (0,))
    assert truth.centers_target(empty, sample_pixels(empty, NANO)).isnan().all()


def test_a_token_of_an_object_has_the_yaw_of_its_box_but_for_half_a_turn(boards):
    def turned(angle):
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        objects = tuple(replace(item, rotation=turn @ item.rotation) for item in boards.scene.objects)
        sample = sample_of(replace(boards.scene, objects=objects), (2, 4))
        return truth.yaws_target(sample, sample_pixels(sample, NANO)).numpy()

    straight, by_a_bit = turned(0), turned(0.3)
    assert straight[0, 3, 2] == pytest.approx([1, 0], abs=1e-6)  # across the view
    for index, row in product((0, 1), (2, 5)):
        once, more = (complex(*yaws[index, 3, row]) for yaws in (straight, by_a_bit))
        assert abs(once) == pytest.approx(1)
        assert abs(np.angle(more / once)) == pytest.approx(0.6, abs=1e-5)
    assert np.isnan(straight[:, 0]).all()  # the wall is no object
    np.testing.assert_allclose(turned(np.pi), straight, atol=1e-6)


def test_labels_beyond_the_vocabulary_and_missing_maps_are_left_out(boards):
    chairs = tuple(
        replace(item, label="throne" if item.label == "chair" else item.label) for item in boards.scene.objects
    )
    other = sample_of(replace(boards.scene, objects=chairs), (0,))
    assert truth.classes_target(other, sample_pixels(other, NANO))[0, 3, 2] == IGNORE
    bare = sample_of(replace(boards.scene, frames=(replace(boards.scene.frames[0], instances=None),)), (0,))
    assert (truth.classes_target(bare, sample_pixels(bare, NANO)) == IGNORE).all()
    for sample in (other, bare):
        marked = sample_of(sample.scene, (0,), [question(0, 40, 56)])  # on the first chair
        assert (truth.labels_target(marked, sample_pixels(marked, NANO)) == IGNORE).all()


def test_a_label_is_of_the_pixel_under_a_cross_and_no_other_token_has_one(boards):
    # In token (3, 1) of frame 0 the desk covers six columns, the chair eight: a cross on the desk asks for the desk.
    sample = sample_of(boards.scene, (0, 1), [question(0, 20, 56), question(0, 90, 56, "green"), question(1, 5, 5)])
    found = truth.labels_target(sample, sample_pixels(sample, NANO))
    known = {tuple(place): truth.CLASSES[found[tuple(place)]] for place in (found != IGNORE).nonzero().tolist()}
    assert known == {(0, 3, 1): "desk", (0, 3, 5): "chair", (1, 0, 0): "wall"}


def test_places_are_where_the_tokens_points_are_seen(room):
    clip = sample_pixels(room, NANO)
    places = truth.places_target(clip)
    assert places.shape == (4, clip.rows, clip.cols, 2)
    assert places[3, 0, 0].tolist() == pytest.approx([0.5 / clip.cols, 0.5 / clip.rows])
    width, height = room.frames[0].size
    for row, col in product(range(clip.rows), range(clip.cols)):
        x, y = (places[0, row, col] * torch.tensor([width, height]) - 0.5).tolist()
        assert NANO.grid.token_of_pixel(round(x), round(y), width, height) == (row, col)


def marks_of(sample: Sample, config) -> np.ndarray:
    size = partial(mark_size, share=config.mark_arm)
    return truth.marks_target(sample, sample_pixels(sample, config), size).numpy()


@pytest.mark.parametrize("config", [NANO, ODD], ids=["6x8", "5x7"])
def test_the_token_with_a_crosss_centre_has_its_colour(boards, config):
    pixels = [(x, 40) for x in range(0, 128, 3)] + [(70, y) for y in range(0, 96, 3)]
    for x, y in pixels:
        found = marks_of(sample_of(boards.scene, (0, 1), [question(1, x, y, "green")]), config)
        assert not found[0].any()
        assert [tuple(place) for place in np.argwhere(found[1] > 0)] == [config.grid.token_of_pixel(x, y, 128, 96)]
        assert found.max() == 1 + list(COLORS).index("green")


def test_tokens_that_a_cross_reaches_into_are_left_out(boards):
    # arm 5, 3 thick; a token is 16 pixels: at (30, 24) the cross covers columns 25 to 35, of tokens 1 and 2
    found = marks_of(sample_of(boards.scene, (0,), [question(0, 30, 24)]), NANO)[0]
    assert found[1].tolist() == [0, 1, IGNORE, 0, 0, 0, 0, 0]
    assert np.delete(found, 1, axis=0).max() == 0
    # In the same token a second cross: which of the two colours is not known. A third one has a token of its own.
    two = [question(0, 18, 24), question(0, 30, 24, "green"), question(0, 88, 72, "blue")]
    found = marks_of(sample_of(boards.scene, (0,), two), NANO)[0]
    assert found[1].tolist() == [IGNORE, IGNORE, IGNORE, 0, 0, 0, 0, 0]
    assert (found[4, 5], found.max()) == (3, 3)


def test_a_mark_that_several_questions_ask_about_is_one_mark(boards):
    one = marks_of(sample_of(boards.scene, (0,), [question(0, 24, 24)]), NANO)
    assert one.max() == 1
    assert (marks_of(sample_of(boards.scene, (0,), [question(0, 24, 24)] * 3), NANO) == one).all()


def test_marks_are_drawn_for_the_vision_tower_alone(boards):
    plain, marked = sample_pixels(boards, NANO), sample_pixels(replace(boards, clip=asked(boards.scene, 4).clip), NANO)
    assert torch.equal(plain.geometry[0], marked.geometry[0])
    assert not torch.equal(plain.visual[0], marked.visual[0])


# Which clip is the i-th

SCENES = tuple("abcde")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Five scenes of the boards, each with 2 clips of 8 points, and clips of descriptions and detection."""
    folder = tmp_path_factory.mktemp("samples")
    plan = QuestionPlan(windows=2, points=8)
    with pytest.MonkeyPatch.context() as patch, DatasetWriter(folder / "set", {"command": "test"}) as writer:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        for name in SCENES:
            writer.add(AskQuestions(plan)(board_scene(name), Problems(name)))
    return str(folder / "set")


@pytest.fixture
def samples(dataset, tmp_path, monkeypatch):
    """samples(source fields, data fields): the clips of a run on the data set."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(source, count=400, seed=0, held_out=False, **fields) -> Samples:
        data = Data.model_validate({"sources": [{"dataset": dataset, **source}], **fields})
        return Samples(data, seed=seed, count=count, held_out=held_out)

    return make


def content(sample: Sample) -> tuple:
    return sample.scene.id, [frame.name for frame in sample.frames], sample.questions


MIXED = {"tasks": {"points": 3, "detection": 1, "looking": 1}}


def test_a_clip_depends_on_its_number_alone(samples):
    run = samples(MIXED, questions=4)
    forward = [content(run[index]) for index in range(12)]
    assert [content(run[index]) for index in reversed(range(12))] == forward[::-1]
    elsewhere = pickle.loads(pickle.dumps(run))  # as the loader's processes get it
    assert content(elsewhere[7]) == content(samples(MIXED, questions=4)[7]) == forward[7]
    assert len({str(one) for one in forward}) == 12
    assert [content(samples(MIXED, seed=1, questions=4)[index]) for index in range(12)] != forward
    assert max(len(questions) for _, _, questions in forward) == 4


def test_every_scene_comes_once_an_epoch(samples):
    run = samples({"tasks": {"points": 1}})
    names = [run[index].scene.id for index in range(15)]
    epochs = [names[start : start + 5] for start in range(0, 15, 5)]
    assert [sorted(epoch) for epoch in epochs] == [list(SCENES)] * 3
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_scenes_that_give_several_clips_take_turns(samples):
    one, three = samples({"tasks": {"points": 1}}), samples({"tasks": {"points": 1}}, clips_per_scene=3)
    order = [one[index].scene.id for index in range(2 * MIXED_SCENES)]
    turns = [three[index].scene.id for index in range(6 * MIXED_SCENES)]
    # eight scenes three times over, then the next eight: a step of eight clips never sees one room alone
    assert turns == order[:MIXED_SCENES] * 3 + order[MIXED_SCENES:] * 3


def test_tasks_come_by_their_weights(samples):
    run = samples(MIXED)
    counts = Counter(run[index].task for index in range(400))
    assert counts["points"] == pytest.approx(240, abs=30)  # 3 standard deviations of a binomial: 29
    assert counts["detection"] == pytest.approx(80, abs=24)
    assert counts["looking"] == pytest.approx(80, abs=24)


@pytest.mark.parametrize("most", [3, 8, 100])
def test_stored_questions_come_once_an_epoch(samples, most):
    run = samples({"tasks": {"points": 1}, "ask": "stored"}, questions=most, clips_per_scene=4)
    clips = 5 * 2 * -(-8 // most)
    for epoch in range(2):
        drawn = [run[epoch * clips + index] for index in range(clips)]
        assert max(len(sample.questions) for sample in drawn) == min(most, 8)
        asked_for = Counter((sample.scene.id, question.id) for sample in drawn for question in sample.questions)
        assert (len(asked_for), set(asked_for.values())) == (5 * 2 * 8, {1})


def test_frames_that_are_held_out_are_in_no_clip_of_training(samples):
    source = {"tasks": {"points": 1}, "hold_out": 2}
    shown = {held_out: set() for held_out in (False, True)}
    for held_out, names in shown.items():
        run = samples(source, held_out=held_out, frames=3)
        for index in range(60):
            names.update(frame.name for frame in run[index].frames)
    every_other = {f"{0.5 * place:g}" for place in range(0, 8, 2)}
    assert shown == {True: every_other, False: {f"{0.5 * place:g}" for place in range(1, 8, 2)}}


def test_strides_of_a_long_recording_double_as_often_as_not(samples):
    run = samples({"tasks": {"points": 1}}, frames=2)
    apart = Counter(round(2 * (run[i].frames[1].time - run[i].frames[0].time)) for i in range(300))
    # of 2 frames of 8 the stride is 1 to 7: 1, 2 or 3, and 4 to 7 a third of the time each
    assert sorted(apart) == [1, 2, 3, 4, 5, 6, 7]
    assert apart[1] == pytest.approx(100, abs=25)
    assert apart[2] + apart[3] == pytest.approx(100, abs=25)


def test_geometry_needs_no_questions(samples):
    sample = samples({}, frames=4)[0]
    assert (sample.task, sample.questions, len(sample.frames)) == ("", (), 4)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"tasks": {"grounding": 1}, "ask": "stored", "hold_out": 2},
            "hold_out keeps frames of a dataset whose questions are asked anew",
        ),
        ({"tasks": {"points": 1}, "split": "val"}, "has no split 'val'; it has train"),
    ],
)
def test_sources_that_cannot_be_used(samples, source, message):
    with pytest.raises(ValueError, match=message):
        samples(source)
