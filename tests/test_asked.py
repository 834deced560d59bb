"""From questions and answers to records: the truth scores perfectly, what is wrong does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import board_scene

from gapmllm.evaluation import score_file, write_records
from gapmllm.evaluation.asked import is_right, record_of
from gapmllm.geometry import Boxes
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Clip, Question, Scene
from gapmllm.tasks import FRAME, GROUNDING, LOOK, LOOKING, POINTS, FrameAnswer, PointAnswer
from gapmllm.tasks.grounding import GroundingAnswer
from gapmllm.tasks.looking import LookingAnswer
from gapmllm.tasks.questions import QuestionPlan, make_clips
from gapmllm.tasks.questions.points import ask_only

WRONG = {
    "points": '{"label": "lamp", "pointmap": [9.00, 9.00, 9.00]}',
    "detection": '[{"label": "chair", "bbox_3d": [9, 9, 9, 1, 1, 1, 0, 0, 0]}]',
    "grounding": '{"bbox_3d": [9, 9, 9, 1, 1, 1, 0, 0, 0]}',
    "captioning": "something else entirely",
}
PLACE = {"frame": 1, "pixel": (0.5, 0.25)}
SCORED_AS = {"points": "points", "detection": "detection", "grounding": "grounding", "captioning": "caption"}
PERFECT = {
    "points": {"within_0.1m": 1, "label_accuracy": 1, "overall[raw]": pytest.approx(0, abs=0.01)},
    "detection": {"f1[present]@0.5": 1},
    "grounding": {"acc[overall]@0.5": 1, "acc[multiple]@0.5": 1},
    "caption": {"BLEU-4@0.5": pytest.approx(1, abs=1e-6)},
}


@pytest.fixture(scope="module")
def scene() -> Scene:
    """The boards, 0.3 m thick: answers are rounded to centimetres, which is too much for 2 mm."""
    thick = [replace(item, size=np.maximum(item.size, 0.3)) for item in board_scene().objects]
    return replace(board_scene(), objects=tuple(thick))


@pytest.fixture(scope="module")
def asked(scene) -> list[tuple[Clip, Question]]:
    return [(clip, q) for clip in make_clips(scene, QuestionPlan(), Problems("boards")) for q in clip.questions]


def scores(path, scene, asked, task, answers):
    """Metrics of the records of one task, with answers(question)."""
    records = [record_of(scene, clip, q, answers(q)) for clip, q in asked if q.task == task]
    write_records(path, records)
    report = score_file(path, SCORED_AS[task])
    assert report.records == len(records) > 0
    return {name: metric.value for name, metric in report.metrics.items()}


@pytest.mark.parametrize("task", SCORED_AS)
def test_the_true_answer_scores_perfectly_and_others_do_not(scene, asked, tmp_path, task, monkeypatch):
    if task == "captioning":
        pytest.importorskip("pycocoevalcap")
        monkeypatch.setattr("gapmllm.evaluation.captions.shutil.which", lambda name: None)  # no Java: no METEOR
    path, expected = tmp_path / "records.jsonl", PERFECT[SCORED_AS[task]]
    right = scores(path, scene, asked, task, lambda question: question.answer)
    assert {name: right[name] for name in expected} == expected
    for wrong in (lambda question: WRONG[task], lambda question: None):
        found = scores(path, scene, asked, task, wrong)
        assert all(found[name] is None or found[name] < 0.01 or name == "overall[raw]" for name in expected), found
    if task == "points":
        assert scores(path, scene, asked, task, lambda question: WRONG[task])["overall[raw]"] > 5


def test_points_of_a_scene_share_the_world(scene, asked):
    """Two clips that start at different frames: the same point of the world, seen from both."""
    for clip, question in asked:
        if question.task == "points":
            record = record_of(scene, clip, question, question.answer)
            # by hand: the cameras stand 5 cm a frame to the right of the world's origin, level, and look along +y
            assert record.camera_to_world[0][3] == pytest.approx(0.05 * clip.frames[0])
            assert record.camera_to_world[1][:3] == pytest.approx((0, 0, 1))


def test_ids_name_scene_and_question_and_are_unique(scene, asked):
    records = [record_of(scene, clip, question, None) for clip, question in asked]
    ids = [record.id for record in records if record is not None]
    assert len(set(ids)) == len(ids) > 10
    assert "boards/detection-0-0" in ids
    assert all(record.answer is None and record.scene == "boards" for record in records if record is not None)


def test_a_detection_carries_its_scores(scene, asked):
    clip, question = next(pair for pair in asked if pair[1].task == "detection")
    assert record_of(scene, clip, question, question.answer, scores=[0.5, 0.25, 1]).scores == (0.5, 0.25, 1.0)


@pytest.mark.parametrize("task", ["grounding", "points"])
def test_a_grounding_and_a_point_carry_their_one_score(scene, asked, task):
    clip, question = next(pair for pair in asked if pair[1].task == task)
    assert record_of(scene, clip, question, question.answer, scores=[0.5]).score == 0.5
    assert record_of(scene, clip, question, question.answer).score is None


def test_answers_are_read_in_the_convention_that_the_target_names(scene, asked):
    for task in ("detection", "grounding"):
        clip, question = next(pair for pair in asked if pair[1].task == task)
        other = replace(question, target={**question.target, "euler": "ZXY"})
        record = record_of(scene, clip, other, question.answer)
        assert (record.truth_convention, record.answer_convention) == ("zxy", "ZXY")


def test_a_grounding_in_one_step_is_in_the_camera_of_the_frame_that_it_names(scene, asked, tmp_path):
    clip, question = next(pair for pair in asked if pair[1].task == "grounding")
    one_step = replace(question, target={**question.target, "frame": 2})
    # by hand: the camera of clip frame k stands 5 cm * (its number - the first one's) to the right of the first
    first = Boxes.from_euler([question.target["bbox_3d"]], "zxy")
    shift = 0.05 * (clip.frames[2] - clip.frames[0])
    box = (first.centers[0] - (shift, 0, 0)).tolist() + question.target["bbox_3d"][3:]
    for frame, right in ((2, 1.0), (1, 0.0)):
        answer = GROUNDING.write(GroundingAnswer(frame=frame, bbox_3d=tuple(box)), decimals=6)
        write_records(tmp_path / "one.jsonl", [record_of(scene, clip, one_step, answer)])
        metrics = score_file(tmp_path / "one.jsonl", "grounding").metrics
        assert metrics["frame_accuracy"].value == right
        assert (metrics["mIoU[overall]"].value > 0.999) == bool(right)


def test_a_group_that_is_no_group_of_scanrefer_is_left_out(scene, asked):
    clip, question = next(pair for pair in asked if pair[1].task == "grounding")
    assert record_of(scene, clip, question, None).group == "multiple"
    for group in (None, "zt_w_d"):
        other = replace(question, target={**question.target, "group": group})
        assert record_of(scene, clip, other, None).group is None


def test_a_label_alone_is_scored_and_a_point_alone_has_no_label_to_score(scene, asked, tmp_path):
    clip, question = next(pair for pair in asked if pair[1].task == "points")
    for what, label in (("label", 1.0), ("point", None)):
        half = ask_only(question, what)
        write_records(tmp_path / "one.jsonl", [record_of(scene, clip, half, half.answer)])
        assert score_file(tmp_path / "one.jsonl", "points").metrics["label_accuracy"].value == label
    lamp = POINTS.write(PointAnswer(label="lamp"))
    write_records(tmp_path / "one.jsonl", [record_of(scene, clip, ask_only(question, "label"), lamp)])
    assert score_file(tmp_path / "one.jsonl", "points").metrics["label_accuracy"].value == 0


def test_any_frame_that_shows_the_object_well_is_right(scene, asked):
    clip, question = next(pair for pair in asked if pair[1].task == "frame")
    assert record_of(scene, clip, question, question.answer) is None
    shown = replace(question, target={**question.target, "frames": [2, 3]})
    answers = [FRAME.write(FrameAnswer(frame=frame)) for frame in range(5)]
    assert [is_right(shown, answer) for answer in answers] == [False, False, True, True, False]
    assert not any(is_right(shown, answer) for answer in (None, "", "the third"))


@pytest.mark.parametrize(
    ("true", "right", "wrong"),
    [
        ({"label": "Coffee table"}, '{"label": "coffee  table"}', '{"label": "table"}'),
        ({"color": "red"}, '{"color": "red"}', '{"color": "blue"}'),
        ({"count": 3}, '{"count": 3}', '{"count": 4}'),
        (
            {"frame": 1, "pixel": (0.5, 0.25)},
            '{"frame": 1, "pixel": [0.54, 0.21]}',
            '{"frame": 1, "pixel": [0.54, 0.19]}',
        ),
        (
            {"frame": 1, "pixel": (0.5, 0.25)},
            '{"frame": 1, "pixel": [0.50, 0.25]}',
            '{"frame": 2, "pixel": [0.50, 0.25]}',
        ),
        (PLACE, '{"frame": 1, "pixel": [0.50, 0.25]}', '{"pixel": [0.50, 0.25]}'),
        ({"label": "red"}, '{"label": "red"}', '{"color": "red"}'),
        ({"label": "red"}, '{"label": "red"}', None),
    ],
)
def test_what_is_seen_is_right_if_all_of_it_agrees(scene, asked, true, right, wrong):
    clip, question = asked[0]
    target = LookingAnswer(**true).model_dump(mode="json", exclude_none=True)
    looking = replace(question, task=LOOKING, target=target, answer=LOOK.write(LookingAnswer(**true)))
    assert record_of(scene, clip, looking, right) is None
    assert is_right(looking, looking.answer)
    assert is_right(looking, right)
    assert not is_right(looking, wrong)
