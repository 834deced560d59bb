"""`gapmllm data …`, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import board_scene

from gapmllm import __version__
from gapmllm.cli.main import main
from gapmllm.scenes.dataset import DatasetWriter, stream_scenes
from gapmllm.scenes.exporters import exporters, find_exporter
from gapmllm.scenes.importers import find_importer, importers
from gapmllm.scenes.manifest import Manifest
from gapmllm.tasks.questions import QuestionPlan


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs `gapmllm data arguments` in an empty folder; returns the exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["gapmllm", "data", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    return command


@pytest.fixture
def boards(tmp_path):
    with DatasetWriter(tmp_path / "boards", {"command": "test"}, ["chair", "desk", "wall"]) as writer:
        for name in ("one", "two"):
            writer.add(board_scene(name, frames=4))
    return tmp_path / "boards"


def test_rooms_are_made_checked_shown_and_made_again_alike(run, tmp_path, capsys):
    synth = ["synth", "--scenes", 2, "--frames", 4, "--size", "64x48", "--workers", 1]
    assert run(*synth, "--out", "rooms") == 0
    printed = capsys.readouterr().out
    assert "rooms: 2 scenes, 8 frames" in printed
    assert all(task in printed for task in ("points", "detection", "frame", "grounding", "captioning"))
    assert run("check", "rooms", "--out", "report.json") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["scenes"], report["frames"], report["problems"]) == (2, 8, [])
    assert report["pairs"] > 0
    assert run("show", "rooms", "--scene", "synth-train-0000001") == 0
    shown = tmp_path / "rooms-show" / "synth-train-0000001"
    assert {"overview.png", "topview.png", "scene.glb", "questions.md", "frame_000.png"} <= {
        path.name for path in shown.iterdir()
    }
    assert run(*synth[:-1], 2, "--out", "again") == 0  # in two processes
    one, two = (Manifest.read(tmp_path / name) for name in ("rooms", "again"))
    assert [shard.sha256 for shard in one.shards] == [shard.sha256 for shard in two.shards]


def test_more_rooms_are_added_to_those_that_are_there(run, tmp_path, capsys):
    synth = ["synth", "--frames", 4, "--size", "32x24", "--workers", 1, "--tasks", "none", "--out", "rooms"]
    assert run(*synth, "--scenes", 1) == 0
    assert run(*synth, "--scenes", 2) == 0
    assert [scene.id for scene in stream_scenes(tmp_path / "rooms")] == ["synth-train-0000000", "synth-train-0000001"]
    assert run(*synth, "--scenes", 1, "--split", "val") == 0
    capsys.readouterr()
    assert run("info", "rooms") == 0
    printed = capsys.readouterr().out
    assert "rooms train: 2 scenes, 8 frames" in printed
    assert "rooms val: 1 scenes, 4 frames" in printed
    assert run(*synth, "--scenes", 2, "--seed", 5) == 2
    assert "made with other options (seed)" in capsys.readouterr().err


def test_a_robots_rooms_and_few_texts_of_each(run, tmp_path):
    synth = ["synth", "--scenes", 1, "--frames", 4, "--size", "64x48", "--workers", 1, "--tasks", "frame"]
    assert run(*synth, "--camera", "robot", "--texts", 2, "--out", "rooms") == 0
    (scene,) = stream_scenes(tmp_path / "rooms")
    assert [frame.camera_to_world[2, 3] for frame in scene.frames] == pytest.approx([1.4] * 4)
    (clip,) = scene.clips  # of all texts, dozens; one may tell of what is never in view
    assert 1 <= len(clip.questions) <= 2
    assert run("export", "rooms", "--format", "embodiedscan", "--out", "es") == 0  # it carries no texts
    assert run("import", "es", "--out", "back", "--workers", 1, "--texts", 3) == 0
    assert [Manifest.read(tmp_path / name).made_by["texts"] for name in ("rooms", "back")] == [2, 3]


def test_what_is_small_is_not_asked_for(run, tmp_path):
    synth = ["synth", "--scenes", 1, "--frames", 4, "--size", "64x48", "--workers", 1, "--tasks", "detection"]
    assert run(*synth, "--out", "all") == 0
    assert run(*synth, "--min-share", 0.05, "--out", "large") == 0
    assert Manifest.read(tmp_path / "all").made_by["min_share"] == QuestionPlan.min_share
    (all_of_it,), (large,) = (next(iter(stream_scenes(tmp_path / name))).clips for name in ("all", "large"))
    assert len(all_of_it.questions[0].target["objects"]) > len(large.questions[0].target["objects"]) > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_an_export_is_imported_with_questions(run, boards, tmp_path, workers):
    assert run("export", boards, "--format", "embodiedscan", "--out", "es") == 0
    assert run("import", "es", "--out", "back", "--workers", workers, "--tasks", "detection,points") == 0
    before, after = list(stream_scenes(boards)), list(stream_scenes(tmp_path / "back"))
    assert len(after) == 2
    for a, b in zip(before, after, strict=True):
        assert abs(a.boxes().corners() - b.boxes().corners()).max() < 1e-9
        assert {question.task for clip in b.clips for question in clip.questions} == {"detection", "points"}


def test_an_import_of_nothing_usable_ends_with_2(run, boards, tmp_path, capsys):
    assert run("export", boards, "--format", "7scenes", "--out", "seven") == 0
    for pose in (tmp_path / "seven").rglob("*.pose.txt"):
        pose.write_text("-inf -inf -inf -inf\n" * 4)
    assert run("import", "seven", "--out", "back") == 2
    captured = capsys.readouterr()
    assert "lost tracking" in captured.out
    assert "none of 2 scenes could be used" in captured.err
    assert Manifest.read(tmp_path / "back").dropped_by_kind()["lost tracking"] == 8


def test_the_numbers_of_rooms_and_of_frames_can_be_chosen(run, tmp_path):
    synth = ["synth", "--frames", 4, "--size", "32x24", "--workers", 1, "--tasks", "none", "--out", "rooms"]
    assert run(*synth, "--scenes", 1, "--first", 5) == 0
    assert Manifest.read(tmp_path / "rooms").done() == {"synth-train-0000005"}


def test_scenes_frames_and_splits_are_left_out_as_asked(run, boards, tmp_path, capsys):
    assert run("export", boards, "--format", "tum", "--split", "val", "--out", "none") == 2
    assert "has no split 'val'; it has train" in capsys.readouterr().err
    assert run("export", boards, "--format", "tum", "--split", "train", "--limit", 1, "--out", "tum") == 0
    assert [path.name for path in (tmp_path / "tum").iterdir()] == ["one"]
    assert run("export", boards, "--format", "tum", "--out", "both") == 0
    some = ["--every", 2, "--limit", 1, "--tasks", "none", "--split", "test", "--up=-x"]
    assert run("import", "both", "--out", "back", *some) == 0
    (scene,) = stream_scenes(tmp_path / "back")
    assert (scene.id, scene.split) == ("one", "test")
    assert [frame.time for frame in scene.frames] == [0.0, 1.0]
    # by hand: the board's camera moves along +x, which is down where -x is up
    step = scene.frames[1].camera_to_world[:3, 3] - scene.frames[0].camera_to_world[:3, 3]
    assert step == pytest.approx([0, 0, -0.1], abs=1e-9)
    assert run("import", "both", "--out", "less", "--max-frames", 2, "--limit", 1, "--tasks", "none") == 0
    (scene,) = stream_scenes(tmp_path / "less")
    assert [frame.time for frame in scene.frames] == [0.0, 1.5]


def test_texts_that_lie_elsewhere_are_named(run, boards, tmp_path):
    assert run("export", boards, "--format", "scannet", "--out", "scans") == 0
    assert run("export", boards, "--format", "scanrefer", "--out", "texts") == 0
    texts = tmp_path / "texts" / "ScanRefer_filtered_train.json"
    assert run("import", "scans", "--out", "back", "--annotations", texts, "--tasks", "frame", "--seed", 3) == 0
    first, second = stream_scenes(tmp_path / "back")
    assert {text.text for text in first.expressions} == {"the wide chair", "the narrow chair"}
    assert first.clips[0].questions[0].task == "frame"
    assert second.id == "two"


def test_what_is_shown_can_be_chosen(run, boards, tmp_path, capsys):
    assert run("export", boards, "--format", "tum", "--out", "tum") == 0
    assert run("import", "tum", "--out", "back", "--tasks", "points", "--limit", 1) == 0
    assert run("show", "back", "--frames", 2, "--clip", 0, "--out", "pictures") == 0
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"frame_000.png", "frame_003.png", "marks_000.png"} <= names
    assert "frame_001.png" not in names
    assert run("show", "back", "--clip", 9, "--out", "pictures") == 2
    assert "clip 9" in capsys.readouterr().err


def test_released_records_are_imported_with_all_their_frames(run, boards, tmp_path):
    assert run("export", boards, "--format", "scannet", "--out", "scannet") == 0
    media = tmp_path / "scannet" / "posed_images"
    images = [str(path.relative_to(media)) for path in sorted((media / "one").glob("*.jpg"))]
    turns = [{"from": "human", "value": "<image>" * len(images) + "Where?"}, {"from": "gpt", "value": "[]"}]
    box = {"bbox_3d": [0.0, 0, 3, 1, 1, 1, 0, 0, 0], "label": "chair"}
    (media / "records.json").write_text(json.dumps([{"conversations": turns, "images": images, "boxes": [box]}]))
    assert run("import", media / "records.json", "--out", "back") == 0
    (scene,) = stream_scenes(tmp_path / "back")
    assert len(scene.frames) == len(images) == 4
    assert scene.clips[0].questions[0].prompt == turns[0]["value"]
    assert run("import", media / "records.json", "--out", "some", "--max-frames", 2) == 2


def test_a_run_that_is_told_to_end_keeps_what_it_made(run, tmp_path, monkeypatch):
    def told_to_end(writer, scene_ids, make, workers):
        writer.add(make(scene_ids[0]).scene)
        os.kill(os.getpid(), signal.SIGTERM)
        yield from ()

    monkeypatch.setattr("gapmllm.scenes.pipeline.write_scenes", told_to_end)
    assert run("synth", "--scenes", 3, "--frames", 4, "--size", "32x24", "--out", "rooms") == 130
    manifest = Manifest.read(tmp_path / "rooms")
    assert manifest.done() == {"synth-train-0000000"}
    assert not manifest.complete


def test_two_recordings_of_one_name_do_not_mix(run, boards, tmp_path, capsys):
    for place in ("x", "y"):
        assert run("export", boards, "--format", "7scenes", "--out", f"{place}/seven") == 0
    assert run("import", "x/seven", "--out", "back") == 0
    assert run("import", "y/seven", "--out", "back") == 2
    assert "made with other options (root_id)" in capsys.readouterr().err


def test_what_is_wrong_is_printed_and_gives_status_1(run, tmp_path, capsys):
    scene = board_scene(frames=3)
    late = replace(scene.frames[0], time=9.0)
    with DatasetWriter(tmp_path / "set", {"command": "test"}) as writer:
        writer.add(replace(scene, frames=(late, *scene.frames[1:])))
    assert run("check", "set") == 1
    assert "frames out of order" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synth", "--out", "x", "--size", "256"], "width x height in pixels was expected"),
        (["synth", "--out", "x", "--camera", "drone"], "camera must be one of hand, robot; got 'drone'"),
        (["synth", "--out", "x", "--frames", "3"], "4 to 64 frames, got 3"),
        (["synth", "--out", "x", "--tasks", "seeing"], "tasks must be some of"),
        (["import", "boards", "--out", "x"], "is in none of the known formats"),
        (["import", "boards", "--out", "x", "--format", "kitti"], "no format 'kitti'; choose from auto, rgbd"),
        (["import", "boards", "--out", "x", "--format", "tum", "--up", "w"], "up must be one of"),
        (["export", "boards", "--out", "x", "--format", "kitti"], "no export format 'kitti'; choose from scannet"),
        (["show", "boards", "--scene", "7"], "has no scene '7'; it has 2"),
        (["check", "nothing"], "is no data set"),
        (["check", "boards", "--out", "no/report.json"], "a file in a folder that exists was expected"),
        (["synth", "--out", "x", "--workers", "1", "--device", "gpu"], "device 'gpu' cannot be used"),
        (["synth", "--out", "x", "--workers", "1", "--device", "meta"], "rooms are rendered on cpu or cuda"),
    ],
)
def test_mistakes_end_in_one_line(run, boards, capsys, arguments, message):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    *bars, last = error.splitlines()  # those that start to work have shown a progress bar
    assert last.startswith("error: ")
    assert message in last
    assert len(bars) == ("--device" in arguments)


def test_the_commands_run_without_an_install(tmp_path):
    command = [sys.executable, "-m", "gapmllm", "--version"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__


def test_every_format_has_a_name():
    assert all(find_importer(boards, name).format == name for name, boards in [(name, None) for name in importers()])
    assert all(find_exporter(name).format == name for name in exporters())
