"""The model in the package: what it weighs, that it is whole, and that it sees in 3D."""

from __future__ import annotations

import numpy as np
import pytest

from gapmllm import load
from gapmllm.infer import Detect, Locate, View
from gapmllm.model.presets import FOLDER
from gapmllm.run.checks import weights
from gapmllm.run.demo import cut, footage_of
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.synth.scene import SynthOptions, make_scene
from gapmllm.tasks.questions import QuestionPlan, make_clips

ROOMS = range(900, 906)
"""Of the split val: neither trained on nor used to fit the temperatures of scores."""
OPTIONS = SynthOptions(split="val", frames=4, width=128, height=96, camera="robot")
ASKED = QuestionPlan(tasks=("points",), window_frames=4, windows=1, points=8, min_share=0.01)


@pytest.fixture(scope="module")
def nano():
    return load("nano", device="cpu")


def test_it_is_small_and_as_it_was_shipped():
    assert sum(path.stat().st_size for path in (FOLDER / "nano").iterdir()) < 50e6
    assert [(found.name, found.state) for found in weights()] == [("weights of nano", "ok")]


def test_the_card_says_how_it_was_made_and_what_it_scores():
    card = (FOLDER / "nano" / "MODEL_CARD.md").read_text(encoding="utf-8")
    for part in ("## Data", "## Scores", "| metric | model | blind | mean | no-geometry |", "## Limits", "## Commands"):
        assert part in card
    assert "gapmllm train" in card


def test_it_locates_and_names_what_is_marked_in_rooms_that_it_has_not_seen(nano):
    """By hand: the mean point of the answers' own distribution is 1.5 m off, and one label in five is a wall."""
    errors, right = [], []
    for number in ROOMS:
        scene = make_scene(number, OPTIONS)
        questions = [q for clip in make_clips(scene, ASKED, Problems(scene.id)) for q in clip.questions]
        view = View(nano, footage_of(cut(scene)))
        found = view.answer([Locate(q.mark.frame, (q.mark.x, q.mark.y)) for q in questions])
        for answer, question in zip(found, questions, strict=True):
            errors.append(np.linalg.norm(np.subtract(answer.xyz, question.target["pointmap"])))
            right.append(answer.label == question.target["label"])
    assert len(errors) >= 40
    assert np.median(errors) < 0.5
    assert np.mean(right) > 0.45


def test_it_lists_objects_with_boxes_in_front_of_the_camera(nano):
    view = View(nano, footage_of(cut(make_scene(ROOMS[0], OPTIONS))))
    (found,) = view.answer([Detect()])
    assert found
    assert all(item.bbox_3d[2] > 0 and 0 < item.score <= 1 for item in found)
