"""Scenes that are not whole, and what is no plain file: reported or refused, never skipped and never waited for."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from rgbd_data import kinds, load, write_all, write_arkit, write_rgbd

from gapmllm.scenes.importers import base, find_importer
from gapmllm.scenes.importers.arkitscenes import ArkitScenes
from gapmllm.scenes.importers.base import read_text
from gapmllm.scenes.importers.redwood import Redwood
from gapmllm.scenes.importers.replica import Replica
from gapmllm.scenes.importers.rgbd_folder import RgbdFolder
from gapmllm.scenes.importers.seven_scenes import SevenScenes
from gapmllm.scenes.importers.tum import Tum

# What is taken away from a scene's folder, and how messages call it.
PARTS = [
    (RgbdFolder, "K.txt", "K.txt"),
    (RgbdFolder, "*.pose.txt", "00000.pose.txt"),
    (RgbdFolder, "*.jpg", "00000.jpg (or .png)"),
    (SevenScenes, "seq-01/*.color.png", "frame-000000.color.png"),
    (SevenScenes, "seq-01/*.pose.txt", "frame-000000.pose.txt"),
    (SevenScenes, "seq-01/*", "frame-000000.color.png and no frame-000000.pose.txt"),
    *((Tum, name, name) for name in ("rgb.txt", "groundtruth.txt")),
    (Redwood, "trajectory.log", "trajectory.log"),
    (Redwood, "color", "color/ (or image/)"),
    (Redwood, "depth", "depth/"),
    (Replica, "traj.txt", "traj.txt"),
    (Replica, "results/*.jpg", "results/frame000000.jpg"),
    (ArkitScenes, "4711_frames/lowres_wide.traj", "4711_frames/lowres_wide.traj"),
    (ArkitScenes, "4711_frames/lowres_wide", "4711_frames/lowres_wide/"),
]


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("formats"))


@pytest.mark.parametrize(("kind", "pattern", "called"), PARTS)
def test_a_scene_that_lacks_a_part_is_refused_alone_and_reported_beside_a_whole_one(
    kind, pattern, called, formats, tmp_path
):
    root = shutil.copytree(formats[kind], tmp_path / formats[kind].name)
    for path in list(root.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = f"{'seq-01' if kind is SevenScenes else root.name} has no {called}"
    for place in (root, tmp_path):
        with pytest.raises(ValueError, match=re.escape(f"; nearly {kind.format}, but {message};")):
            find_importer(place)
        with pytest.raises(ValueError, match=re.escape(f"no scene of format {kind.format} ({message}); a scene's")):
            kind(place).scene_ids()
    if kind is ArkitScenes:
        write_arkit(tmp_path / "4712", "4712")
    else:
        shutil.copytree(formats[kind], tmp_path / "whole")
    (tmp_path / "notes").mkdir()
    assert find_importer(tmp_path) is kind
    assert len(kind(tmp_path).scene_ids()) == 2
    found, problems = load(kind, tmp_path, "room_seq-01" if kind is SevenScenes else root.name)
    assert found is None
    assert [(problem.kind, problem.message) for problem in problems] == [
        ("bad scene", f"{message}; the scene is dropped")
    ]


def test_a_scene_folder_whose_name_is_not_utf8_is_reported(tmp_path):
    write_rgbd(tmp_path / "good")
    write_rgbd(Path(os.fsdecode(os.fsencode(tmp_path) + b"/sc\xff")))
    assert RgbdFolder(tmp_path).scene_ids() == ["good", r"sc\xff"]
    found, problems = load(RgbdFolder, tmp_path, r"sc\xff")
    assert (found, kinds(problems)) == (None, ["bad scene"])
    assert "its name is not in UTF-8, rename it; the scene is dropped" in problems[0].message
    str(problems[0]).encode()


SPECIAL = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "to a pipe": lambda path: (os.mkfifo(path.parent / "pipe"), path.symlink_to(path.parent / "pipe")),
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize(
    ("end", "kind"), [(".jpg", "bad image"), (".depth.png", "bad depth"), (".pose.txt", "bad camera")]
)
def test_what_is_no_regular_file_is_reported_without_reading_it(end, kind, make, tmp_path):
    root = write_rgbd(tmp_path / "own")
    path = root / f"00001{end}"
    path.unlink()
    make(path)
    found, problems = load(RgbdFolder, root)
    assert len(found.frames) == (3 if kind == "bad depth" else 2)
    assert kinds(problems) == [kind]
    assert path.name in str(problems[0])
    assert "a file was expected, this is a folder, a pipe or a device; the frame" in problems[0].message


def test_a_file_too_large_to_read_whole_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "MAX_TEXT", 3)
    (tmp_path / "a.txt").write_bytes(b"1\r\n")
    assert read_text(tmp_path / "a.txt") == "1\n"
    (tmp_path / "a.txt").write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"a\.txt: 4 bytes, at most 3 are read"):
        read_text(tmp_path / "a.txt")
