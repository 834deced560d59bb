"""The check: every kind of damage is found and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from conftest import board_scene

from gapmllm.geometry import euler_to_matrix
from gapmllm.scenes.check import check_manifest, check_scene, checker
from gapmllm.scenes.consistency import depth_disagreement
from gapmllm.scenes.dataset import DatasetWriter
from gapmllm.scenes.manifest import Manifest
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Clip, Mark, Question, Scene
from gapmllm.tasks.questions import AskQuestions, QuestionPlan
from gapmllm.tasks.questions.check import check_questions


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
    odd = replace(scene, objects=(scene.objects[0], leaning, lying, scene.objects[3]))
    odd = replace(odd, expressions=())
    assert problems_of(odd, frozenset({"chair", "wall"})) == [
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


def test_other_problems_do_not_hide_what_the_depth_says():
    scene = changed_frame(4, depth_scale=1200.0)
    kinds = [kind for kind, _ in problems_of(scene, frozenset({"chair", "wall"}))]
    assert kinds[0] == "unknown label"
    assert "depth disagrees" in kinds


def test_an_empty_scene_is_found():
    assert problems_of(Scene(id="none", frames=())) == [("empty scene", "-")]


@pytest.fixture
def folder(tmp_path) -> Path:
    with DatasetWriter(tmp_path / "set", {"command": "test"}, ["chair", "desk", "wall"]) as writer:
        for name in "ab":
            writer.add(board_scene(name, frames=4))
    return tmp_path / "set"


def test_a_sound_data_set_passes(folder):
    manifest, check_shard = checker(folder, check_questions)
    assert check_manifest(folder, manifest) == []
    report = check_shard(manifest.shards[0])
    assert (report.scenes, report.frames, report.pairs, report.problems) == (2, 8, 6, ())


def test_a_changed_a_cut_and_a_lost_shard_are_found(folder):
    manifest, check_shard = checker(folder, check_questions)
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


def test_a_manifest_that_does_not_fit_its_shards_is_found(folder):
    manifest, check_shard = checker(folder, check_questions)
    (shard,) = manifest.shards
    for change, kinds in (
        ({"scene_ids": ("b", "a")}, ["scenes differ"]),
        ({"split": "val"}, ["split", "split"]),
        ({"counts": shard.counts.model_copy(update={"frames": 99})}, ["counts differ"]),
    ):
        changed = shard.model_copy(update=change)
        assert [problem.kind for problem in check_shard(changed).problems] == kinds
    twice = manifest.model_copy(update={"shards": (shard, shard)})
    assert [problem.message for problem in check_manifest(folder, twice)] == [
        f"shard {shard.file} is listed 2 times",
        "scene a is listed 2 times",
        "scene b is listed 2 times",
    ]


def test_a_file_that_is_not_listed_and_a_path_that_leaves_the_folder_are_found(folder):
    (folder / "data" / "train-00009.parquet").touch()
    (problem,) = check_manifest(folder, Manifest.read(folder))
    assert (problem.kind, Path(problem.file).name) == ("not listed", "train-00009.parquet")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("data/train-00000.parquet", "data/../../other.parquet"))
    with pytest.raises(ValueError, match="is no manifest that this version reads"):
        Manifest.read(folder)


@pytest.mark.parametrize("text", ["[]", "7", "[" * 100_000])
def test_a_manifest_of_another_shape_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="is no manifest that this version reads"):
        Manifest.read(tmp_path)


def damaged_row(folder, change):
    """Kinds of problems after a change of the first row."""
    (shard,) = checker(folder, check_questions)[0].shards
    table = parquet.read_table(folder / shard.file)
    rows = table.to_pylist()
    change(rows[0])
    parquet.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / shard.file)
    report = checker(folder, check_questions)[1](shard)
    return [(problem.scene, problem.kind) for problem in report.problems]


@pytest.mark.parametrize("visible", [{9: 0.5}, {0: 7.0}, {0: float("nan")}])
def test_visibility_that_cannot_be_is_found(visible):
    assert problems_of(changed_frame(2, visible=visible)) == [("bad visibility", "frame 2 1")]


def test_a_row_that_is_no_scene_is_named(folder, tmp_path):
    assert damaged_row(folder, lambda row: row["objects"][0].update(label=None)) == [
        ("-", "hash"),
        ("-", "scenes differ"),
        ("a", "bad record"),
    ]


@pytest.mark.parametrize("target", ["[1]", "null", '{"objects": 5}', "{"])
def test_a_target_that_is_none_is_a_bad_record(folder, target):
    question = {"task": "points", "prompt": "", "answer": "", "target": target, "id": "q", "mark": None}
    clip = {"id": "c", "frames": [0], "questions": [question]}
    found = damaged_row(folder, lambda row: row.update(clips=[clip]))
    assert ("a", "bad record") in found


def test_questions_are_read_by_their_tasks():
    scene = AskQuestions(QuestionPlan())(board_scene(), Problems("boards"))
    problems = Problems("boards")
    check_questions(scene, problems)
    assert problems.found == []
    good = scene.clips[0].questions[0]
    bad = (
        good,
        replace(good, task="poetry", id="1"),
        replace(good, answer="a chair", id="2"),
        replace(good, mark=Mark(77, 0, 0), id="3"),
        replace(good, mark=Mark(0, 128, 0), id="4"),
        good,
    )
    check_questions(replace(scene, clips=(Clip(id="c", frames=scene.clips[0].frames, questions=bad),)), problems)
    assert [problem.kind for problem in problems.found] == [
        "repeated id",
        "unknown task",
        "bad answer",
        "bad mark",
        "bad mark",
    ]
    own_words = Question(task="points", prompt="<image>", answer="```json", target={}, id="5")
    released = replace(scene, source="released", clips=(Clip(id="c", frames=(0,), questions=(own_words,)),))
    problems.found.clear()
    check_questions(released, problems)
    assert problems.found == []
