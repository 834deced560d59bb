"""Pictures of answers: what is true and what was said, where it must be."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import board_scene

from gapmllm.scenes.problems import Problems
from gapmllm.tasks import COLORS, DETECTION, POINTS, DetectedObject, DetectionAnswer, PointAnswer
from gapmllm.tasks.questions import QuestionPlan, make_clips
from gapmllm.viz.answers import PREDICTED, TRUE, answers_sheet, depth_sheet
from gapmllm.viz.depth import UNKNOWN

CELL = (400, 300)  # four frames of 128x96, side by side in 1600 pixels
SCALE = 400 / 128


@pytest.fixture(scope="module")
def scene():
    return board_scene()


def clip_of(scene, task, **plan):
    return next(clip for clip in make_clips(scene, QuestionPlan(tasks=(task,), **plan), Problems("boards")))


def sheet(scene, clip, answers):
    return np.asarray(answers_sheet(scene.clip_frames(clip), clip.questions, answers, mark_arm=0.04))


def count(pixels, color):
    """Pixels of a colour, up to what resizing and smooth edges do to it."""
    return int((np.abs(pixels.astype(int) - color).max(axis=-1) <= 3).sum())


def moved(question, shift):
    x, y, z = question.target["pointmap"]
    return POINTS.write(PointAnswer(label="lamp", pointmap=(x + shift[0], y + shift[1], z + shift[2])), decimals=6)


def test_a_ring_is_drawn_where_a_point_was_said_to_be(scene):
    clip = clip_of(scene, "points", points=4)
    answers = [moved(question, (0.3, 0.2, 0)) for question in clip.questions]
    pixels = sheet(scene, clip, answers)
    seen = 0
    for question in clip.questions:
        mark, color = question.mark, COLORS[question.mark.color]
        # by hand: at depth z, a shift by (0.3, 0.2) is 100 / z times as many pixels of the frame
        z = question.target["pointmap"][2]
        said = (np.array([mark.x + 30 / z, mark.y + 20 / z]) + 0.5) * SCALE - 0.5
        if not (0 < said[0] < CELL[0] - 12 and 0 < said[1] < CELL[1] - 12):
            continue
        seen += 1
        column, row = round(said[0]) + mark.frame * CELL[0], round(said[1])
        assert (pixels[row, column + 9] == color).all(), question.id
        assert (pixels[row, column + 12] == 0).all(), question.id
        cross = np.rint((np.array([mark.x, mark.y]) + 0.5) * SCALE - 0.5).astype(int)
        assert (np.abs(pixels[cross[1] - 5, cross[0] + mark.frame * CELL[0]].astype(int) - color) <= 3).all()
    assert seen >= 2


def test_what_cannot_be_drawn_is_left_out(scene):
    """Unreadable, missing, behind the camera, kilometres away: only the truth is in the picture."""
    clip = clip_of(scene, "points", points=4)
    none = sheet(scene, clip, [None] * 4)
    others = ["no idea", moved(clip.questions[1], (0, 0, -20)), moved(clip.questions[2], (900, 0, 0)), ""]
    drawn = sheet(scene, clip, others)
    top = slice(0, CELL[1])
    assert (none[top] == drawn[top]).all()
    color = COLORS[clip.questions[2].mark.color]
    assert count(none[top], color) > 0  # its cross
    near = sheet(scene, clip, [None, None, moved(clip.questions[2], (0.1, 0, 0)), None])
    assert count(near[CELL[1] :], color) > count(drawn[CELL[1] :], color) + 50  # a ring in the view from above


def test_boxes_are_blue_where_they_are_and_orange_where_they_are_said_to_be(scene):
    clip = clip_of(scene, "detection")
    (question,) = clip.questions
    frames, above = slice(0, CELL[1]), (slice(CELL[1], None), slice(0, 720))
    silent, right = sheet(scene, clip, [None]), sheet(scene, clip, [question.answer])
    assert count(silent[frames], TRUE) > 1000
    assert count(silent[frames], PREDICTED) == 0
    assert count(right[frames], TRUE) < 0.3 * count(silent[frames], TRUE)  # the true ones are drawn over
    for number in range(4):
        # by hand: the right edge of the wide chair is at x 0, depth 2.5; frames are 0.1 m apart; its middle is level
        column = round((63.5 - 100 * 0.1 * number / 2.5 + 0.5) * SCALE - 0.5) + number * CELL[0]
        assert count(silent[140:160, column - 2 : column + 3], TRUE) >= 20
        assert count(silent[140:160, column + 8 : column + 12], TRUE) == 0
    entry = question.target["objects"][0]
    box = (entry["bbox_3d"][0] + 0.5, *entry["bbox_3d"][1:])
    shifted = DETECTION.write(DetectionAnswer((DetectedObject(label="chair", bbox_3d=box),)))
    one = sheet(scene, clip, [shifted])
    assert 200 < count(one[frames], PREDICTED) < count(right[frames], PREDICTED)
    assert count(silent[above], PREDICTED) < count(one[above], PREDICTED)


def test_a_grounding_shows_its_box_in_every_frame(scene):
    clip = clip_of(scene, "grounding", neighbours=1)
    pixels = sheet(scene, clip, [None] * len(clip.questions))
    width = 1600 // len(clip.frames)
    for start in range(0, width * len(clip.frames), width):
        assert count(pixels[: width * 96 // 128, start : start + width], TRUE) > 100


@pytest.mark.parametrize("task", ["frame", "captioning"])
def test_texts_stand_below_the_frames_without_a_view(scene, task):
    clip = clip_of(scene, task)
    answers = [None] * len(clip.questions)
    silent, said = sheet(scene, clip, answers), sheet(scene, clip, ["a lamp"] * len(answers))
    rows = slice(2 * CELL[1], None)  # eight frames, in two rows
    dark = np.rint(0.7 * np.array(PREDICTED))
    assert count(silent[rows], np.rint(0.7 * np.array(TRUE))) > 100
    assert count(said[rows], dark) > count(silent[rows], dark) + 20
    assert len(said) < 2 * CELL[1] + 300  # the view from above would be 720 high


def test_of_many_frames_some_are_shown_and_those_with_marks(scene):
    long = board_scene(frames=20)
    clip = clip_of(long, "captioning")
    pixels = sheet(long, clip, [None] * len(clip.questions))
    assert pixels.shape[1] == 1600
    assert not (pixels[: 2 * CELL[1]] == 255).all(axis=(1, 2)).any()  # two rows of four
    assert (pixels[2 * CELL[1] + 2] == 255).all()


def test_depth_that_is_right_looks_like_the_truth(scene):
    frames = scene.frames[:2]
    true = np.stack([frame.depth_map() for frame in frames])
    unknown = true.copy()
    unknown[0, :48, :64] = 0
    pixels = np.asarray(depth_sheet(frames, unknown, true))
    below, height = pixels[600:], (len(pixels) - 600) // 2
    first, second = below[:height], below[height:]
    assert (first[300:590, 900:1500] == second[300:590, 900:1500]).all()
    assert (first[100, 100] == UNKNOWN).all()
    assert (second[100, 100] != UNKNOWN).any()
    wrong = np.asarray(depth_sheet(frames, true, true / 2))[600 + height :]
    assert (wrong[300:590, 900:1500] != second[300:590, 900:1500]).any(axis=-1).mean() > 0.9
