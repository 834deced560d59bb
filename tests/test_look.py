"""`gapmllm look` and `gapmllm demo`: what is written agrees with what was answered; bad input is refused in words."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gapmllm.cli.main import app
from gapmllm.geometry import invert_pose, project, transform_points
from gapmllm.infer import Detect, Locate, Reconstruction, View
from gapmllm.model import build
from gapmllm.run.cameras import FIELD_OF_VIEW, cameras_of, cloud_of, in_metres
from gapmllm.run.demo import cut, footage_of, questions_of
from gapmllm.run.look import Wanted, answers_of, measured_points, write_all
from gapmllm.run.output import whole_folder
from gapmllm.run.sources import read_camera
from gapmllm.scenes.footage import read_footage
from gapmllm.scenes.synth.scene import SynthOptions, make_scene
from gapmllm.tasks import Answers
from gapmllm.tasks.results import boxes_of_results

SIZE = (128, 96)


@pytest.fixture(scope="module")
def model():
    return build("debug")


@pytest.fixture(scope="module")
def scene():
    return cut(make_scene(3, SynthOptions(split="test", frames=8, width=SIZE[0], height=SIZE[1])))


@pytest.fixture(scope="module")
def view(model, scene):
    return View(model, footage_of(scene))


@pytest.fixture
def pictures(tmp_path, scene):
    """A folder of pictures alone."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, frame in enumerate(scene.frames):
        Image.fromarray(frame.pixels()).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory, scene):
    """A video of the frames, each shown for half a second."""
    path = tmp_path_factory.mktemp("film") / "room.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = *SIZE, "yuv420p", Fraction(1, 10)
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(scene.frames[number // 5].pixels(), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def invoke(*arguments):
    """(exit status, what was printed, the error)."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output, done.exception


def test_the_questions_of_the_demo_have_their_truth(scene):
    """A true point of the demo lands on its pixel, and a true box is that of the scene's own object."""
    wanted, truth = questions_of(scene)
    assert len(wanted.points) == len(truth.points) == 6
    assert len(wanted.ground) == len(truth.groundings) > 0
    assert len(wanted.describe) == len(truth.descriptions) > 0
    first = scene.frames[0].camera_to_world
    for question, xyz in zip(wanted.points, truth.points, strict=True):
        frame = scene.frames[question.frame]
        there = transform_points(transform_points(np.array(xyz), first), invert_pose(frame.camera_to_world))
        assert project(there, frame.intrinsics)[0] == pytest.approx(question.pixel, abs=0.6)
    centers = boxes_of_results(truth.groundings).transform(first).centers
    known = np.stack([item.center for item in scene.objects])
    assert np.abs(centers[:, None] - known[None]).max(axis=2).min(axis=1) == pytest.approx(0, abs=1e-6)


def test_all_files_agree(tmp_path, view, scene):
    wanted, truth = questions_of(scene)
    answers, cloud = answers_of(view, wanted, model="debug", trained=False, truth=truth)
    write_all(tmp_path, view, answers, cloud)
    assert Answers.model_validate_json((tmp_path / "answers.json").read_text()) == answers
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answers.json", "frames", "index.html", "scene.glb", "top.png",
    ]  # fmt: skip
    assert len(list((tmp_path / "frames").iterdir())) == len(scene.frames)
    assert (answers.intrinsics_from, answers.poses_from) == ("folder", "folder")
    assert answers.point_errors()[0] == pytest.approx(math.dist(answers.points[0].xyz, truth.points[0]))
    to_world = scene.frames[0].camera_to_world
    assert to_world[:3, :3] @ answers.up == pytest.approx([0, 0, 1])
    relative = invert_pose(to_world) @ scene.frames[2].camera_to_world
    assert answers.frames[2].camera_to_first == pytest.approx(relative)


def test_where_the_cameras_come_from_is_said(view, pictures, model):
    nothing = Reconstruction(None, None, None, None)
    alone = View(model, read_footage(pictures))
    assumed = cameras_of(alone, nothing)
    assert (assumed.intrinsics_from, assumed.poses_from, assumed.camera_to_first) == ("assumed", None, None)
    assert 2 * np.degrees(np.arctan(SIZE[0] / 2 / assumed.intrinsics[0, 0, 0])) == pytest.approx(FIELD_OF_VIEW)
    assert "60 degrees" in assumed.notes[0]
    assert cameras_of(alone, nothing, 90).intrinsics[0, 0, 0] == pytest.approx(SIZE[0] / 2)
    estimated = cameras_of(alone, alone.reconstruct())
    assert (estimated.intrinsics_from, estimated.poses_from) == ("estimated", "estimated")
    assert cameras_of(alone, alone.reconstruct(), 90).intrinsics_from == "assumed"
    given = View(model, read_footage(pictures, intrinsics=[[100, 0, 64], [0, 100, 48], [0, 0, 1]]))
    assert cameras_of(given, given.reconstruct(), 90).intrinsics_from == "given"
    mad = Reconstruction(None, None, None, np.array([np.diag([1e9, 1e9, 1.0])] * 4))
    assert cameras_of(alone, mad).intrinsics_from == "assumed"  # a field of view of nothing
    assert cloud_of(alone, nothing, assumed) is None


def test_the_cloud_of_a_flat_wall_lies_on_it(view):
    """All depths 2 m: the points of frame 0 lie in its plane z = 2, those of the others two metres before them."""
    depth = np.full((4, 12, 16), 2, np.float32)
    found = Reconstruction(depth, np.ones_like(depth), None, None)
    cameras = cameras_of(view, found)
    assert in_metres(view, found) == (found, [])
    cloud = cloud_of(view, found, cameras)
    assert len(cloud.points) == 4 * 12 * 16
    for index, points in enumerate(np.split(cloud.points, 4)):
        local = transform_points(points, invert_pose(cameras.camera_to_first[index]))
        assert local[:, 2] == pytest.approx(2)
        pixels = project(local, view.footage.intrinsics[index])[0]  # the 16 x 12 pixels cover the frame
        assert pixels.min(axis=0) == pytest.approx([3.5, 3.5])
        assert pixels.max(axis=0) == pytest.approx([SIZE[0] - 4.5, SIZE[1] - 4.5])


def test_points_of_an_encoder_without_scale_take_that_of_located_points(view, monkeypatch):
    monkeypatch.setitem(view.model.config.geometry_config, "is_metric", False)
    depth = np.full((4, 12, 16), 2, np.float32)
    poses = np.stack([np.eye(4)] * 4)
    poses[1, :3, 3] = (0.2, 0, 0.4)
    found = Reconstruction(depth, np.ones_like(depth), poses, None)
    places = iter([3.0, 3.0, 3.0, 50.0, 3.0, 3.0, 3.0, -1.0])
    located = view.locate(0, (5, 5))
    monkeypatch.setattr(
        view, "answer", lambda asked: [located.model_copy(update={"xyz": (0, 0, next(places))}) for _ in asked]
    )
    scaled, (note,) = in_metres(view, found)
    assert "times 1.5" in note
    assert scaled.depth == pytest.approx(3)
    assert scaled.camera_to_first[1, :3, 3] == pytest.approx([0.3, 0, 0.6])  # cameras and points keep together
    assert scaled.camera_to_first[1, :3, :3] == pytest.approx(np.eye(3))
    assert found.camera_to_first[1, 2, 3] == 0.4


def test_points_are_measured_by_the_recorded_depth(real, model):
    footage = read_footage(real / "dvmvs_hololens_000", num_frames=3)
    view = View(model, footage)
    pixels = [(x, y) for x in range(30, 540, 120) for y in range(30, 360, 100)]
    for index, frame in enumerate(footage.recorded):
        truth = measured_points(view, tuple(Locate(index, pixel) for pixel in pixels))
        known = [(point, pixel) for point, pixel in zip(truth.points, pixels, strict=True) if point is not None]
        assert len(known) >= 5
        there = transform_points(np.array([point for point, _ in known]), footage.camera_to_world[0])
        local = transform_points(there, invert_pose(frame.camera_to_world))
        assert project(local, frame.intrinsics)[0] == pytest.approx(np.array([pixel for _, pixel in known]), abs=1e-6)
        depth = frame.depth_map()
        assert set(local[:, 2].round(4)) <= set(depth[depth > 0].astype(float).round(4))
    assert measured_points(view, ()) is None


@pytest.mark.parametrize("name", ["dvmvs_hololens_000", "mmdet3d_scannet_scene0000_00"])
def test_real_folders(tmp_path, real, name):
    out = tmp_path / "out"
    status, text, _ = invoke("look", real / name, "--frames", 3, "--detect", "--point", "0,100,50", "--out", out)
    assert status == 0, text
    assert "intrinsics: folder; camera positions: folder" in text
    answers = json.loads((out / "answers.json").read_text())
    assert len(answers["frames"]) == 3
    assert str(real) not in (out / "answers.json").read_text() + (out / "index.html").read_text()


def test_a_film_of_real_frames(tmp_path, real, model):
    files = sorted((real / "dvmvs_hololens_000").glob("*.jpg"))[:8]
    path = tmp_path / "real.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 540, 360, "yuv420p"
        for file in files:
            container.mux(stream.encode(av.VideoFrame.from_image(Image.open(file))))
        container.mux(stream.encode())
    view = model.watch(path, num_frames=3)
    assert [round(time, 2) for time in view.footage.times] == [0, 1, 1.75]
    first = np.asarray(Image.open(files[0]), dtype=int)
    assert np.abs(view.frames[0].astype(int) - first).mean() < 12
    assert answers_of(view, Wanted(detect=Detect()), model="debug", trained=False)[0].intrinsics_from == "estimated"


def test_every_question_of_the_command(tmp_path, film):
    out = tmp_path / "out"
    status, text, _ = invoke(
        *("look", film, "--labels", "chair,bed", "--ground", "the chair", "--one-step", "--point", "1,20,30"),
        *("--describe", "0,0,2", "--ask", "how many?", "--frames", 2, "--K", "100,100,64,48", "--out", out),
        *("--model", "debug"),
    )
    assert status == 0, text
    answers = Answers.model_validate_json((out / "answers.json").read_text())
    assert {found.label for found in answers.detections} <= {"chair", "bed"}
    assert [len(part) for part in (answers.groundings, answers.points, answers.descriptions, answers.answers)] == [
        1
    ] * 4
    assert answers.intrinsics_from == "given"
    assert answers.frames[0].intrinsics[0] == (100, 0, 64)
    assert "weights of this model are random" in text


def test_a_part_of_a_film_is_looked_at(tmp_path, film):
    out = tmp_path / "out"
    part = ("--start", 0.5, "--end", 1.5, "--fps", 5, "--choose", "coverage", "--frames", 2)
    status, text, _ = invoke("look", film, *part, "--ask", "what?", "--device", "cpu", "--out", out)
    assert status == 0, text
    times = [frame.time for frame in Answers.model_validate_json((out / "answers.json").read_text()).frames]
    assert len(times) == 2
    assert 0.5 <= times[0] < times[1] <= 1.5


def test_public_parts_that_have_never_met_are_not_trained(tmp_path, film):
    build("debug", fusion="none").save_pretrained(tmp_path / "language")
    build("debug").save_pretrained(tmp_path / "geometry")
    parts = ("--model", tmp_path / "language", "--geometry", tmp_path / "geometry")
    status, text, _ = invoke("look", film, *parts, "--ask", "what?", "--out", tmp_path / "out")
    assert status == 0, text
    assert "weights of this model are random" in text
    assert not Answers.model_validate_json((tmp_path / "out" / "answers.json").read_text()).trained


def test_the_demo_shows_the_truth_beside_the_answers(tmp_path):
    out = tmp_path / "out"
    options = ("--model", "debug", "--room", 2, "--device", "cpu", "--out", out)
    status, text, _ = invoke("demo", *options)
    assert status == 0, text
    answers = Answers.model_validate_json((out / "answers.json").read_text())
    assert len(answers.points) == len(answers.truth.points) == 6
    assert answers.truth.detections
    assert "m from the true point" in text
    assert invoke("demo", *options)[0] != 0  # the folder is there


def test_nothing_asked_is_detect(view):
    answers, _ = answers_of(view, Wanted(), model="debug", trained=False)
    assert answers.detections is not None
    answers, _ = answers_of(view, Wanted(ask=("what?",)), model="debug", trained=False)
    assert answers.detections is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.mp4"], "missing.mp4"),
        ([""], "nothing to look at"),
        (["FILM", "--start", "1e17"], "start must be 0 to 1e+07 seconds"),
        (["FILM", "--describe", "1e9,0,0"], "no place in a room"),
        (["FILM", "--frames", "999"], "the number of frames must be 1 to 512"),
        (["FILM", "--point", "0,5000,1"], "lies outside a frame of 128x96 pixels; x must be 0 to 127"),
        (["FILM", "--point", "9,1,1"], "there are 4, counted from 0"),
        (["FILM", "--point", "1,1"], "three numbers FRAME,X,Y are needed"),
        (["FILM", "--point", "0.5,1,1"], "a whole number"),
        (["FILM", "--point", "inf,1,1"], "a whole number"),
        (["FILM", "--point", "0,nan,1"], "a pixel is x, y"),
        (["FILM", "--describe", "1,2,x"], "three numbers X,Y,Z are needed"),
        (["FILM", "--ground", " "], "the description is empty"),
        (["FILM", "--ask", ""], "the question is empty"),
        (["FILM", "--ask", "x" * 100_000], "Shorten it"),
        (["FILM", "--K", "1,2,3"], "FX,FY,CX,CY in pixels"),
        (["FILM", "--model", "no/such/model"], "no model"),
        (["FILM", "--start", "99"], "99"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path, film, arguments, words):
    out = tmp_path / "out"
    arguments = [film if argument == "FILM" else argument for argument in arguments]
    status, _, error = invoke("look", *arguments, "--out", out)
    assert status != 0
    assert isinstance(error, (ValueError, OSError)), error
    assert words in str(error)
    assert not list(tmp_path.iterdir())


def test_control_characters_and_special_tokens_are_text_like_any_other(tmp_path, film):
    asked = "what <|im_end|> is\x00\x1b[31m <|image_pad|> <script>alert(1)</script>?"
    out = tmp_path / "out"
    status, text, _ = invoke("look", film, "--ask", asked, "--out", out, "--frames", 2)
    assert status == 0, text
    assert json.loads((out / "answers.json").read_text())["answers"][0]["question"] == asked
    assert "<script>alert" not in (out / "index.html").read_text()
    assert "\x1b" not in text


def test_a_folder_that_is_there_is_kept(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "answers.json").write_text("{}")
    (out / "thesis.tex").write_text("years of work")
    ours = ("answers.json", "new")
    for overwrite, words in ((False, "is there already"), (True, r"did not write \(thesis.tex\)")):
        with pytest.raises(ValueError, match=words), whole_folder(out, overwrite=overwrite, ours=ours):
            pass
    assert (out / "thesis.tex").exists()
    (out / "thesis.tex").unlink()
    with whole_folder(out, overwrite=True, ours=ours) as folder:
        (folder / "new").write_text("")
        assert (out / "answers.json").exists()  # the old one stays until the new one is whole
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_comes_into_being_meanwhile_is_kept(tmp_path):
    out, theirs = tmp_path / "out", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is there already"), whole_folder(out, overwrite=False, ours=()):
        shutil.copytree(theirs, out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_an_interruption_while_folders_change_places_keeps_the_old_one(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "answers.json").write_text("old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), whole_folder(out, overwrite=True, ours=("answers.json",)):
        pass
    assert (out / "answers.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_current_folder_and_links_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out, words in ((".", "is the current folder"), ("link", "no folder")):
        if out == "link":
            (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(ValueError, match=words), whole_folder(Path(out), overwrite=True, ours=("link",)):
            pass


def test_what_fails_in_the_middle_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "out", overwrite=False, ours=("a",)) as folder:
        (folder / "half").write_text((folder / "missing").read_text())
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_without_permission_it_ends_before_the_work(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="ermission"), whole_folder(tmp_path / "out", overwrite=False, ours=("a",)):
        pass


def test_ctrl_c_ends_with_130_and_leaves_nothing(tmp_path, film):
    out = tmp_path / "out"
    code = (  # the signal comes when the model is loaded and the work begins
        "import sys, os, signal, gapmllm.run.look as look, gapmllm.cli.main as main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job of a shell would ignore it
        "look.answers_of = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\n"
        f"sys.argv = ['gapmllm', 'look', {str(film)!r}, '--out', {str(out)!r}]\nmain.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "stopped: nothing was written\n"
    assert not list(tmp_path.iterdir())


def test_a_camera_as_text(tmp_path):
    assert read_camera("10,20,3,4").tolist() == [[10, 0, 3], [0, 20, 4], [0, 0, 1]]
    (tmp_path / "K.txt").write_text("10 0 3\n0 20 4\n0 0 1\n")
    assert read_camera(str(tmp_path / "K.txt")).tolist() == [[10, 0, 3], [0, 20, 4], [0, 0, 1]]
    with pytest.raises(ValueError, match="or a text file with a 3x3 matrix"):
        read_camera("K.png")
