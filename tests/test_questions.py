"""Questions from scenes, on boards whose truth is plane geometry."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import BOARDS, board_scene

from gapmllm.geometry import Boxes, invert_pose, transform_points
from gapmllm.scenes.images import encode_depth
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Expression, Scene
from gapmllm.scenes.visibility import visible_objects
from gapmllm.tasks import COLORS, POINTS, TASKS
from gapmllm.tasks.questions import AskQuestions, QuestionPlan, make_clips
from gapmllm.tasks.questions.points import ask_only
from gapmllm.tasks.questions.texts import neighbourhood


def ask(scene: Scene | None = None, problems: Problems | None = None, **plan):
    scene = scene or board_scene()
    return make_clips(scene, QuestionPlan(**plan), problems or Problems(scene.id))


def test_every_answer_is_read_strictly_by_its_task_and_ids_are_unique():
    questions = [question for clip in ask() for question in clip.questions]
    assert {question.task for question in questions} == set(TASKS)
    assert len({question.id for question in questions}) == len(questions)
    for question in questions:
        assert TASKS[question.task].read(question.answer).how == "strict"


def test_points_lie_on_the_marked_pixel_and_carry_the_label_of_the_board():
    scene = board_scene()
    for clip in ask(scene, tasks=("points",), seed=3):
        first = scene.frames[clip.frames[0]].camera_to_world
        for question in clip.questions:
            mark, x, z = question.mark, *question.target["pointmap"][::2]
            shift = 0.05 * (clip.frames[mark.frame] - clip.frames[0])
            # by hand: the board's depth is its y, and x in the first camera is (column - 63.5) * depth / 100 + shift
            assert x == pytest.approx((mark.x - 63.5) * z / 100 + shift, abs=1e-6)
            boards = {board[0]: board[5] for board in BOARDS if abs(board[5] - z) < 1e-6}
            assert question.target["label"] in boards
            assert f"Frame {mark.frame} is marked with a {mark.color} cross" in question.prompt
        assert first[0, 3] == pytest.approx(0.05 * clip.frames[0])


def test_points_are_spread_over_frames_objects_background_and_places():
    clips = [clip for seed in range(5) for clip in ask(tasks=("points",), seed=seed)]
    questions = [question for clip in clips for question in clip.questions]
    assert all(len(clip.questions) == 8 for clip in clips)
    labels = Counter(question.target["label"] for question in questions)
    assert labels["wall"] == len(questions) // 2  # the background, half of the marks
    assert labels["chair"] > 0 < labels["desk"]
    for clip in clips:
        assert Counter(question.mark.frame for question in clip.questions) == {0: 2, 1: 2, 2: 2, 3: 2}
        assert sorted(question.mark.color for question in clip.questions) == sorted(COLORS)
        for a in clip.questions:
            for b in clip.questions:
                if a is not b and a.mark.frame == b.mark.frame:
                    assert max(abs(a.mark.x - b.mark.x), abs(a.mark.y - b.mark.y)) > 21
    for color in COLORS:  # that of a mark does not tell what it is on
        assert 0.2 < np.mean([q.target["label"] == "wall" for q in questions if q.mark.color == color]) < 0.8
    columns = [question.mark.x for question in questions]
    assert min(columns) < 20
    assert max(columns) > 105


def test_marks_stay_off_the_edges_of_things():
    scene = board_scene()
    for clip in ask(scene, tasks=("points",), windows=8):
        for question in clip.questions:
            mark = question.mark
            depth = scene.frames[clip.frames[mark.frame]].depth_map()
            assert np.ptp(depth[mark.y - 1 : mark.y + 2, mark.x - 1 : mark.x + 2]) == 0


def test_without_instances_a_point_belongs_to_the_smallest_box_around_it():
    scene = board_scene()
    frames = tuple(replace(frame, instances=None) for frame in scene.frames)
    blind = replace(scene, frames=frames, objects=scene.objects[:3])  # no wall: its points have no label
    clips = [clip for seed in range(5) for clip in ask(blind, tasks=("points",), seed=seed)]
    questions = [question for clip in clips for question in clip.questions]
    labels = {question.target.get("label") for question in questions}
    assert labels == {"chair", "desk", None}
    for question in questions:  # what is not known is not asked for
        asked = '"label"' in question.prompt
        assert asked == ('"label"' in question.answer) == ("label" in question.target)


def test_half_of_a_points_question_asks_and_answers_that_half():
    for question in (question for clip in ask(tasks=("points",)) for question in clip.questions):
        mark, whole = question.mark, POINTS.read_strict(question.answer)
        label, point = ask_only(question, "label"), ask_only(question, "point")
        assert POINTS.read_strict(label.answer).model_dump() == {"label": whole.label, "pointmap": None}
        assert POINTS.read_strict(point.answer).model_dump() == {"label": None, "pointmap": whole.pointmap}
        assert label.prompt == POINTS.prompt(mark.frame, mark.color, point=False) != question.prompt
        assert point.prompt == POINTS.prompt(mark.frame, mark.color, label=False) != question.prompt
        # a record of the task needs the point; a label that nobody asked for would count as missing
        assert label.target == question.target
        assert point.target == {"pointmap": question.target["pointmap"]}
        for half in (label, point):
            assert (half.id, half.mark, half.task) == (question.id, mark, "points")


def test_without_a_label_both_halves_are_the_point():
    for question in (
        question for clip in ask(replace(board_scene(), objects=(), expressions=())) for question in clip.questions
    ):
        assert "label" not in question.target
        assert ask_only(question, "label") == ask_only(question, "point") == question


def test_frames_without_depth_have_no_points():
    scene = board_scene()
    assert ask(replace(scene, frames=tuple(replace(f, depth=None) for f in scene.frames)), tasks=("points",)) == []


def test_depth_of_another_size_is_found_through_both_cameras():
    scene = board_scene()
    half = np.array([[50.0, 0, 31.75], [0, 50.0, 23.75], [0, 0, 1]])
    frames = []
    for frame in scene.frames:
        small = encode_depth(frame.depth_map()[::2, ::2], 1000)
        frames.append(replace(frame, depth=small, depth_intrinsics=half))
    for clip in ask(replace(scene, frames=tuple(frames)), tasks=("points",)):
        for question in clip.questions:
            x, _, z = question.target["pointmap"]
            shift = 0.05 * (clip.frames[question.mark.frame] - clip.frames[0])
            assert x == pytest.approx((question.mark.x - 63.5) * z / 100 + shift, abs=1e-6)


def test_detection_windows_are_a_second_apart_and_hold_every_object_once():
    clips = ask(tasks=("detection",))
    assert [clip.frames for clip in clips] == [(0, 2, 4, 6), (1, 3, 5, 7)]  # frames are half a second apart
    (question,) = clips[1].questions
    # from the left, and no wall
    assert [entry["label"] for entry in question.target["objects"]] == ["desk", "chair", "chair"]
    # by hand: the wide chair's centre is at x -0.5, y 2.5, and the first camera of this window at x 0.05
    box = question.target["objects"][1]["bbox_3d"]
    assert box[:3] == pytest.approx([-0.55, 0, 2.501], abs=1e-9)


def test_what_is_small_in_every_frame_is_not_asked_for():
    scene = board_scene()
    largest = {item.id: max(frame.visible.get(item.id, 0) for frame in scene.frames) for item in scene.objects[:3]}
    small, middle, large = sorted(largest, key=largest.__getitem__)
    clips = ask(scene, tasks=("detection", "grounding", "captioning"), min_share=(largest[small] + largest[middle]) / 2)
    asked = [question for clip in clips for question in clip.questions]
    labels = {entry["label"] for question in asked for entry in question.target.get("objects", ())}
    assert labels == {scene.objects[key].label for key in (middle, large)}
    assert {question.target["object_id"] for question in asked if "object_id" in question.target} == {middle, large}


def test_windows_without_times_take_neighbours_and_short_scenes_what_there_is():
    scene = board_scene(frames=6)
    untimed = replace(scene, frames=tuple(replace(frame, time=None) for frame in scene.frames))
    assert [clip.frames for clip in ask(untimed, tasks=("detection",))] == [(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)]
    assert [clip.frames for clip in ask(board_scene(frames=2), tasks=("detection",))] == [(0, 1)]
    assert len(ask(board_scene(frames=8, seconds=1.0), tasks=("detection",), windows=2)) == 2


def test_boxes_of_answers_come_back_to_the_world():
    scene = board_scene()
    for clip in ask(scene, tasks=("detection",)):
        truth = [entry["bbox_3d"] for question in clip.questions for entry in question.target["objects"]]
        boxes = Boxes.from_euler(truth, "zxy").transform(scene.frames[clip.frames[0]].camera_to_world)
        assert np.abs(boxes.corners() - scene.boxes()[[2, 0, 1]].corners()).max() < 1e-9


def test_grounding_asks_for_the_best_frame_and_the_box_in_that_frames_camera():
    scene = board_scene()
    clips = {clip.id: clip for clip in ask(scene, tasks=("frame", "grounding"))}
    assert clips["frame"].frames == tuple(range(8))
    for question in clips["frame"].questions:
        shares = [frame.visible.get(question.target["object_id"], 0) for frame in scene.frames]
        assert question.target["frame"] == int(np.argmax(shares))
        right = [i for i, share in enumerate(shares) if share >= max(shares) / 2]
        assert question.target["frames"] == right
        assert question.target["group"] == "multiple"  # two chairs are described
    for clip in (clip for name, clip in clips.items() if name != "frame"):
        for question in clip.questions:
            camera = scene.frames[clip.frames[0]].camera_to_world
            center = scene.objects[question.target["object_id"]].center
            assert question.target["bbox_3d"][:3] == pytest.approx(transform_points(center, invert_pose(camera)))
    texts = {question.prompt.splitlines()[0] for question in clips["frame"].questions}
    assert texts == {"Object: the wide chair", "Object: the narrow chair"}  # captions are no expressions to ground by


def test_of_many_texts_some_are_asked_in_their_order_in_both_steps():
    texts = tuple(Expression(object_id=1, text=f"the wide chair {number}", id=str(number)) for number in range(30))
    scene = replace(board_scene(), expressions=texts)

    def asked(**plan):
        frames, boxes = ask(scene, tasks=("frame", "grounding"), **plan)
        assert [q.id.split("-")[1] for q in frames.questions] == [q.id.split("-")[1] for q in boxes.questions]
        return [int(question.id.split("-")[1]) for question in frames.questions]

    some = asked(texts=5)
    assert len(some) == 5
    assert some == sorted(some) == asked(texts=5) != asked(texts=5, seed=1)
    assert asked(texts=30) == asked() == list(range(30))


def test_neighbours_come_after_the_chosen_frame_first():
    assert neighbourhood(5, 9, 2) == (5, 6, 7, 4, 3)
    assert neighbourhood(0, 3, 9) == (0, 1, 2)


def test_captions_take_references_and_the_point_in_the_first_camera():
    (clip,) = ask(tasks=("captioning",))
    wide, narrow = clip.questions
    assert wide.target["references"] == ["a wide chair before the wall.", "this chair is wide."]
    assert wide.answer in wide.target["references"]
    assert wide.target["point"] == pytest.approx([-0.5, 0, 2.501])
    assert "[-0.50, 0.00, 2.50]" in wide.prompt
    assert narrow.target["references"] == ["the narrow chair"]  # nothing was written as a caption of it


def test_captions_of_val_scenes_are_asked_at_the_best_proposal():
    scene = board_scene()
    boxes = scene.boxes()
    proposals = Boxes(boxes.centers[:3] + np.array([0.25, 0, 0]), boxes.sizes[:3], boxes.rotations[:3])
    (clip,) = ask(replace(scene, proposals=proposals, split="val"), tasks=("captioning",))
    wide, narrow = (question.target for question in clip.questions)
    assert wide["point"] == pytest.approx([-0.25, 0, 2.501])
    assert wide["iou"] == pytest.approx(0.75 / 1.25)  # by hand: 1 m wide, moved by a quarter
    assert narrow["iou"] == pytest.approx(0.25 / 0.75)
    (clip,) = ask(replace(scene, proposals=proposals), tasks=("captioning",))  # train: the true box
    assert [question.target["iou"] for question in clip.questions] == [1.0, 1.0]
    assert clip.questions[0].target["point"] == pytest.approx([-0.5, 0, 2.501])


def test_an_object_that_no_frame_shows_is_reported():
    scene = board_scene()
    hidden = replace(scene, frames=tuple(replace(frame, visible={0: 0.1}) for frame in scene.frames))
    problems = Problems("boards")
    clips = ask(hidden, problems, tasks=("frame", "captioning"))
    assert [str(problem) for problem in problems.found] == [
        "boards: object 1: no frame shows this chair; its texts are not asked for"
    ]
    assert {question.target["object_id"] for clip in clips for question in clip.questions} == {0}


def test_the_same_seed_asks_the_same_and_tasks_do_not_change_each_other():
    assert ask(seed=1) == ask(seed=1)
    assert ask(seed=1) != ask(seed=2)
    assert ask(tasks=("captioning",)) == [clip for clip in ask() if clip.id == "captioning"]


def test_a_scene_that_brings_its_questions_keeps_them():
    own = replace(board_scene(), clips=tuple(ask(tasks=("detection",))))
    assert AskQuestions(QuestionPlan())(own, Problems("x")) is own
    assert AskQuestions(None)(board_scene(), Problems("x")).clips == ()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"tasks": ("point",)}, "tasks must be some of points, detection, frame, grounding, captioning; got point"),
        ({"tasks": ()}, "got none"),
        ({"points": 9}, "at most 8"),
        ({"texts": 0}, "texts must be 1 or more, or None for all, got 0"),
        ({"windows": 0}, "windows must be 1 or more"),
        ({"neighbours": -1}, "neighbours -1"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        QuestionPlan(**plan)


def test_objects_are_seen_by_depth_or_by_their_projected_box():
    scene = board_scene()
    frame = scene.frames[0]
    by_depth = visible_objects(frame, scene.objects[:3])
    for key, share in frame.visible.items():
        if key < 3:
            assert by_depth[key] == pytest.approx(share, rel=0.15)
    by_box = visible_objects(replace(frame, depth=None), scene.objects[:3])
    # by hand: 1 m x 1 m at 2.5 m is 40 x 40 pixels (42 with the part right before it hidden by nothing)
    assert by_box[0] == pytest.approx(40 * 40 / (128 * 96), rel=0.01)
    # the desk hangs out of the picture on the left: x -1.6 m at 3.5 m is pixel 17.8, so it is whole
    assert by_box[2] == pytest.approx((0.5 / 3.5 * 100) * (1.1 / 3.5 * 100) / (128 * 96), rel=0.01)
    behind = replace(scene.objects[0], center=np.array([0.0, -2.0, 0.0]))
    assert visible_objects(replace(frame, depth=None), [behind]) == {}


def test_depth_that_is_all_unknown_hides_nothing():
    scene = board_scene()
    blank = replace(scene.frames[0], depth=encode_depth(np.zeros((96, 128)), 1000))
    without = replace(scene.frames[0], depth=None)
    assert visible_objects(blank, scene.objects) == visible_objects(without, scene.objects)


def test_questions_need_no_visibility_that_is_known_and_no_frames():
    scene = board_scene()
    unknown = replace(scene, frames=tuple(replace(frame, visible=None) for frame in scene.frames))
    tasks = {question.task for clip in ask(unknown) for question in clip.questions}
    assert tasks == set(TASKS)
    assert ask(replace(scene, frames=())) == []
    clip = ask(scene, tasks=("detection",))[1]
    assert [frame.time for frame in scene.clip_frames(clip)] == [0.5, 1.5, 2.5, 3.5]


def test_a_box_around_the_camera_covers_the_whole_image():
    scene = board_scene()
    room = replace(scene.objects[0], center=np.zeros(3), size=np.full(3, 8.0))
    assert visible_objects(replace(scene.frames[0], depth=None), [room]) == {0: pytest.approx(1.0)}


def test_texts_of_unknown_uniqueness_are_asked_and_captions_are_not():
    scene = board_scene()
    unknown = Expression(object_id=2, text="the desk", id="9")
    clips = ask(replace(scene, expressions=(*scene.expressions, unknown)), tasks=("frame",))
    assert {question.target["object_id"] for question in clips[0].questions} == {0, 1, 2}
    assert {question.target["group"] for question in clips[0].questions} == {"multiple", "unique"}
