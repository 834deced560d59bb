"""Records, and the data set on disk: round trips, hashes, killed and continued runs."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import board_frame, board_scene
from PIL import Image

from gapmllm.geometry import Boxes
from gapmllm.scenes import dataset, images
from gapmllm.scenes.dataset import DatasetWriter, SceneDataset, read_scene, stream_scenes
from gapmllm.scenes.images import (
    ImageError,
    decode_depth,
    decode_gray16,
    decode_image,
    encode_depth,
    encode_gray16,
    encode_image,
)
from gapmllm.scenes.manifest import Manifest, file_hash
from gapmllm.scenes.pipeline import ImportScene, Outcome, in_processes, write_scenes
from gapmllm.scenes.problems import Problem, Problems
from gapmllm.scenes.records import Clip, Expression, Frame, Scene, SceneObject
from gapmllm.tasks.questions import AskQuestions, QuestionPlan

FAR = np.array([[1.0, 0, 0, 1e7], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
MADE_BY = {"command": "test", "options": [1, 2]}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def asked(name: str = "boards") -> Scene:
    scene = AskQuestions(QuestionPlan(windows=2, points=3))(board_scene(name, frames=4), Problems(name))
    return replace(scene, proposals=Boxes.from_axis_aligned([[0, 0, 0, 1, 2, 3]]))


def write(folder: Path, names=("a", "b", "c"), problems=(), **options) -> Manifest:
    with DatasetWriter(folder, MADE_BY, **options) as writer:
        for name in names:
            writer.add(asked(name), problems)
    return writer.manifest


def plain(value: object) -> object:
    """A record as values that compare with ==."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(item) for name, item in vars(value).items()}
    return value


def test_a_scene_comes_back_from_disk_as_it_was(tmp_path):
    write(tmp_path / "set")
    for scene, name in zip(stream_scenes(tmp_path / "set"), "abc", strict=True):
        assert plain(scene) == plain(asked(name))


def test_what_is_not_known_stays_unknown(tmp_path):
    frame = replace(board_frame(0, 0), depth=None, instances=None, visible=None, time=None)
    with DatasetWriter(tmp_path / "set", MADE_BY) as writer:
        writer.add(Scene(id="bare", frames=(frame,)))
    (scene,) = stream_scenes(tmp_path / "set")
    (back,) = scene.frames
    assert (back.depth, back.instances, back.visible, back.time, back.depth_intrinsics) == (None,) * 5
    assert back.depth_map() is None
    assert back.instance_map() is None
    assert (scene.objects, scene.expressions, scene.clips, scene.proposals) == ((), (), (), None)


def test_scenes_can_be_had_by_place_and_by_id_and_memory_mapped(tmp_path):
    write(tmp_path / "set")
    scenes = SceneDataset(tmp_path / "set", "train")
    assert len(scenes) == 3
    assert [scene.id for scene in scenes[1:]] == ["b", "c"]
    assert scenes[-1].id == read_scene(tmp_path / "set", "2").id == read_scene(tmp_path / "set", "c").id == "c"
    with pytest.raises(ValueError, match=r"has no scene '3'; it has 3"):
        read_scene(tmp_path / "set", "3")
    with pytest.raises(ValueError, match=r"has no split 'val'; it has train"):
        SceneDataset(tmp_path / "set", "val")


def test_the_manifest_counts_and_hashes(tmp_path):
    manifest = write(tmp_path / "set", vocabulary=["wall", "chair", "desk"])
    written = json.loads((tmp_path / "set" / "manifest.json").read_text())
    counts = written["counts"]
    assert (counts["scenes"], counts["frames"], counts["expressions"]) == (3, 12, 12)
    assert counts["objects"] == {"chair": 6, "desk": 3, "wall": 3}
    # 4 frames half a second apart: one window; 3 points; 2 texts for grounding; 2 chairs have captions
    assert counts["questions"] == {"points": 9, "detection": 3, "frame": 6, "grounding": 6, "captioning": 6}
    assert counts["labels_asked"]["detection"] == {"chair": 6, "desk": 3}
    assert counts["labels_asked"]["grounding"] == {"chair": 6}
    (shard,) = manifest.shards
    assert file_hash(tmp_path / "set" / shard.file) == shard.sha256
    assert written["vocabulary"] == ["chair", "desk", "wall"]
    assert written["made_by"] == MADE_BY
    assert "z up" in written["conventions"]
    assert manifest.complete


def test_shards_are_cut_by_size_and_by_split(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD_BYTES", 1)
    with DatasetWriter(tmp_path / "set", MADE_BY) as writer:
        for name, split in (("a", "train"), ("b", "val"), ("c", "train")):
            writer.add(replace(asked(name), split=split))
    files = [shard.file for shard in writer.manifest.shards]
    assert files == ["data/train-00000.parquet", "data/val-00000.parquet", "data/train-00001.parquet"]
    assert [scene.id for scene in stream_scenes(tmp_path / "set", "train")] == ["a", "c"]
    assert writer.manifest.splits() == ["train", "val"]
    assert writer.manifest.counts("val").scenes == 1


def test_a_stopped_run_keeps_whole_scenes_and_is_continued(tmp_path):
    with pytest.raises(KeyboardInterrupt), DatasetWriter(tmp_path / "set", MADE_BY) as writer:  # noqa: PT012
        writer.add(asked("a"))
        raise KeyboardInterrupt
    assert not Manifest.read(tmp_path / "set").complete
    made = []

    def make(name):
        made.append(name)
        return Outcome(name, asked(name))

    with DatasetWriter(tmp_path / "set", MADE_BY) as writer:
        assert [outcome.scene_id for outcome in write_scenes(writer, ["a", "b"], make, workers=1)] == ["b"]
    assert made == ["b"]
    assert [scene.id for scene in stream_scenes(tmp_path / "set")] == ["a", "b"]
    assert writer.manifest.complete


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from gapmllm.scenes import dataset
from test_dataset import MADE_BY, asked
dataset.SHARD_BYTES = 1
replace = os.replace
def killed(source, target):
    if str(target).endswith("train-00001.parquet"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = killed
with dataset.DatasetWriter(Path(sys.argv[1]), MADE_BY) as writer:
    for name in "abc":
        writer.add(asked(name))
"""


def test_a_killed_run_leaves_a_whole_data_set_and_is_continued(tmp_path):
    folder = tmp_path / "set"
    run = subprocess.run([sys.executable, "-c", KILLED, folder, str(Path(__file__).parent)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert [scene.id for scene in stream_scenes(folder)] == ["a"]
    assert (
        os.listdir(folder / "data") == ["train-00000.parquet", "train-00001.parquet.part"]
        or len(os.listdir(folder / "data")) == 2
    )
    write(folder, names=[name for name in "abc" if name not in Manifest.read(folder).done()])
    assert [scene.id for scene in stream_scenes(folder)] == ["a", "b", "c"]
    assert not list(folder.rglob("*.part"))


def test_another_command_does_not_continue_a_data_set(tmp_path):
    write(tmp_path / "set")
    with pytest.raises(ValueError, match=r"made with other options \(options\): give the same ones"):
        DatasetWriter(tmp_path / "set", {**MADE_BY, "options": []})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"holds other files and no manifest.json"):
        DatasetWriter(tmp_path / "full", MADE_BY)


def test_what_could_not_be_used_is_in_the_manifest(tmp_path):
    lost = Problem("a", "00007.txt", "lost tracking", "the pose is not finite")
    with DatasetWriter(tmp_path / "set", MADE_BY) as writer:
        writer.add(asked("a"), [lost, replace(lost, file="00008.txt"), replace(lost, kind="no depth")])
        writer.drop("b", [replace(lost, scene="b", kind="empty scene")])
    manifest = Manifest.read(tmp_path / "set")
    assert manifest.dropped_by_kind() == {"lost tracking": 2, "no depth": 1, "empty scene": 1}
    assert manifest.dropped[0].example == "00007.txt: the pose is not finite"
    assert manifest.unusable == ("b",)
    assert manifest.done() == {"a"}
    assert manifest.complete
    with DatasetWriter(tmp_path / "set", MADE_BY) as writer:  # mended meanwhile
        assert not Manifest.read(tmp_path / "set").complete
        writer.add(asked("b"))
    again = Manifest.read(tmp_path / "set")
    assert (again.unusable, again.dropped_by_kind()) == ((), {"lost tracking": 2, "no depth": 1})
    assert again.done() == {"a", "b"}


def test_a_scene_is_not_stored_twice(tmp_path):
    with DatasetWriter(tmp_path / "set", MADE_BY) as writer:
        writer.add(asked("a"))
        with pytest.raises(ValueError, match="has a scene 'a' already; see `done`"):
            writer.add(asked("a"))
    with DatasetWriter(tmp_path / "set", MADE_BY) as writer, pytest.raises(ValueError, match="has a scene 'a' already"):
        writer.add(asked("a"))


def test_a_data_set_is_continued_by_the_same_package_and_vocabulary(tmp_path, monkeypatch):
    write(tmp_path / "set")
    with pytest.raises(ValueError, match=r"other options \(vocabulary\)"):
        DatasetWriter(tmp_path / "set", MADE_BY, ["chair"])
    manifest = Manifest.read(tmp_path / "set").model_copy(update={"package": "gapmllm 0.0.1"})
    manifest.write(tmp_path / "set")
    with pytest.raises(ValueError, match=r"other options \(package\)"):
        DatasetWriter(tmp_path / "set", MADE_BY)


def test_two_writers_do_not_meet(tmp_path):
    with DatasetWriter(tmp_path / "set", MADE_BY) as writer:
        with pytest.raises(ValueError, match="is being written by another process"):
            DatasetWriter(tmp_path / "set", MADE_BY)
        writer.add(asked("a"))
    write(tmp_path / "set", ["b"])
    assert Manifest.read(tmp_path / "set").done() == {"a", "b"}


def test_messages_are_one_line_that_can_be_stored(tmp_path):
    problems = Problems("my  room\udcff")
    problems.add("bad", Path("a\udcffb.txt"), "two\nlines \ud800")
    with DatasetWriter(tmp_path / "set", MADE_BY) as writer:
        writer.drop("my  room\udcff", problems.found)
    manifest = Manifest.read(tmp_path / "set")
    assert manifest.unusable == (r"my  room\udcff",)
    (entry,) = manifest.dropped
    assert entry.scene == r"my  room\udcff"
    assert entry.example == r"a\udcffb.txt: two lines \ud800"


def test_a_reader_that_breaks_costs_its_scene_alone(tmp_path):
    class Broken:
        root = tmp_path

        def load(self, scene_id, problems):
            if scene_id == "bad":
                raise ZeroDivisionError("by a frame rate of 0")
            return board_scene(scene_id, frames=2)

    make = ImportScene(Broken(), AskQuestions(None))
    outcomes = [make(name) for name in ("good", "bad")]
    assert outcomes[0].scene.frames[0].visible is not None
    assert outcomes[1].scene is None
    assert outcomes[1].problems[0].message == "ZeroDivisionError: by a frame rate of 0"


ORPHANS = """
import os, sys, time
from gapmllm.scenes.pipeline import in_processes
def work(seconds):
    print(os.getpid(), flush=True)
    time.sleep(seconds)
if __name__ == "__main__":
    list(in_processes(work, [600, 600], 2))
"""


def test_no_worker_outlives_its_parent(tmp_path):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    for _ in range(300):
        if not any(Path(f"/proc/{worker}").exists() for worker in workers):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_one_clear_error():
    with pytest.raises(ChildProcessError, match="a worker process died, perhaps for want of memory"):
        list(in_processes(die, [1, 2], 2))


def test_brackets_in_a_folders_name_are_no_pattern(tmp_path):
    folder = tmp_path / "br[1]*"
    write(folder)
    assert len(list(stream_scenes(folder))) == len(SceneDataset(folder)) == 3
    assert read_scene(folder, "b").id == "b"


def test_a_folder_without_a_manifest_is_no_data_set(tmp_path):
    with pytest.raises(ValueError, match=r"is no data set: it has no manifest.json"):
        next(stream_scenes(tmp_path))
    (tmp_path / "manifest.json").write_text('{"version": 2}')
    with pytest.raises(ValueError, match=r"is no manifest that this version reads"):
        next(stream_scenes(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera_to_world": np.diag([1, 1, 2.0, 1])}, "must be orthonormal"),
        ({"camera_to_world": np.full((4, 4), -np.inf)}, "must be finite"),
        ({"camera_to_world": np.diag([1, 1, -1.0, 1])}, "right-handed"),
        ({"camera_to_world": FAR}, "1e.07 m from the origin"),
        ({"intrinsics": np.diag([0, 1, 1.0])}, "fx and fy 0.1 to 1e.06"),
        ({"intrinsics": np.diag([1e308, 1, 1.0])}, "fx and fy 0.1 to 1e.06"),
        ({"intrinsics": np.array([[100, 3, 0], [0, 100, 0], [0, 0, 1.0]])}, "must be"),
        ({"depth_intrinsics": np.eye(4)}, r"depth_intrinsics must be a finite \(3, 3\)"),
        ({"depth_scale": 0}, "depth_scale must be 1 to 1e6"),
        ({"depth_scale": np.inf}, "depth_scale must be 1 to 1e6"),
        ({"name": "\ud800"}, "half a character"),
        ({"time": float("nan")}, "time must be a finite number"),
    ],
)
def test_a_frame_refuses_a_camera_that_is_none(changes, message):
    values = {**vars(board_frame(0, 0)), **changes}
    with pytest.raises(ValueError, match=message):
        Frame(**values)


def test_a_rotation_with_few_decimals_is_made_exact():
    pose = board_frame(0, 0).camera_to_world.copy()
    pose[:3, :3] += np.random.default_rng(0).uniform(-5e-7, 5e-7, (3, 3))  # as six printed decimals leave it
    frame = replace(board_frame(0, 0), camera_to_world=pose)
    exact = frame.camera_to_world[:3, :3]
    assert np.abs(exact.T @ exact - np.eye(3)).max() < 1e-15
    assert np.abs(exact - pose[:3, :3]).max() < 1e-6


def test_a_scene_refuses_ids_that_point_at_nothing():
    scene = board_scene()
    with pytest.raises(ValueError, match="describes object 9, which is not there"):
        replace(scene, expressions=(Expression(object_id=9, text="?"),))
    with pytest.raises(ValueError, match="two objects have the same id"):
        replace(scene, objects=scene.objects + scene.objects[:1])
    with pytest.raises(ValueError, match=r"clip x: frames \(8,\) of 8"):
        replace(scene, clips=(Clip(id="x", frames=(8,), questions=()),))
    with pytest.raises(ValueError, match="object 1 has no label"):
        SceneObject(id=1, label=" ", center=np.zeros(3), size=np.ones(3))
    with pytest.raises(ValueError, match=r"object 1 lies or reaches more than 1e\+06 m away"):
        SceneObject(id=1, label="moon", center=np.array([0, 0, 3.8e8]), size=np.ones(3))
    with pytest.raises(ValueError, match="a text about object 0 holds half a character"):
        Expression(object_id=0, text="a\ud800b")


def test_depth_survives_to_half_a_unit_and_what_is_too_far_is_unknown():
    depth = np.array([[0.0, np.nan, 1.0004, 13.2, -1.0, np.inf]])
    assert decode_depth(encode_depth(depth, 5000), 5000).tolist() == [[0, 0, pytest.approx(1.0004), 0, 0, 0]]
    assert decode_depth(encode_depth(depth, 1000), 1000)[0, 2:4].tolist() == pytest.approx([1.000, 13.2])


def test_a_depth_image_that_is_remembered_stays_as_it_is():
    data = encode_gray16(np.uint16([[1, 2]]))
    with pytest.raises(ValueError, match="read-only"):
        decode_gray16(data)[0, 0] = 7
    depth = decode_depth(data, 1.0)
    depth[0, 0] = 7
    assert decode_depth(data, 1.0).tolist() == [[1, 2]]


def test_images_that_cannot_be_used_say_why(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for data in (encode_image(pixels), encode_image(pixels, None)):
        with pytest.raises(ImageError, match=r"damaged|truncated|cannot"):
            decode_image(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"not an image in JPEG or PNG: starts with b'%!PS-Ado'"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0")  # Pillow would hand it to another program
    gif = io.BytesIO()
    Image.fromarray(pixels).save(gif, "GIF")
    with pytest.raises(ImageError, match="not an image in JPEG or PNG"):
        decode_image(gif.getvalue())
    with pytest.raises(ImageError, match="16-bit grey image was expected, got mode RGB"):
        decode_gray16(encode_image(pixels, None))
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="64x48 pixels, at most 1000"):
        decode_image(encode_image(pixels))


def test_an_image_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)  # some kilobytes on disk, 400 megapixels
    with pytest.raises(ImageError, match=r"20000x20000 pixels, at most|not an image that can be read"):
        decode_image(path.read_bytes())


def test_a_data_set_is_streamed_from_a_url(tmp_path):
    write(tmp_path / "set")
    assert [scene.id for scene in stream_scenes(f"file://{tmp_path}/set")] == ["a", "b", "c"]
