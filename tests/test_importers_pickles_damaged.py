"""EmbodiedScan, mmdetection3d, released records: one damaged value costs what it belongs to, and nothing more."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scannet_data import CAMERA4, IMAGE, kinds, lying, small_scene
from test_importers_embodiedscan import embodied, mmdet_folder
from test_importers_released import METADATA, SHIFT, TILTED, conversation, released

from gapmllm.scenes.exporters.embodiedscan import EmbodiedScanExporter
from gapmllm.scenes.images import encode_gray16
from gapmllm.scenes.importers.embodiedscan import EmbodiedScan
from gapmllm.scenes.importers.json_records import walk_records
from gapmllm.scenes.importers.mmdet3d import MMDetection3D
from gapmllm.scenes.problems import Problems

HUGE = 10**400
BOX = {"bbox_3d": [0, 3, 1, 1, 1, 1, 0.5, 0, 0], "bbox_label_3d": 4, "bbox_id": 3}
GOOD = {"img_path": "scannet/s/00010.jpg", "cam2global": lying(0)}


def two_images(folder, image, **changes):
    """A scan with a good image and one that may not be."""
    (folder / "scannet" / "s").mkdir(parents=True)
    for name in ("00010", "00020", "\u00b2"):
        (folder / "scannet" / "s" / f"{name}.jpg").write_bytes(IMAGE)
    images = [GOOD, image if not isinstance(image, dict) else GOOD | {"img_path": "scannet/s/00020.jpg"} | image]
    return EmbodiedScan(embodied(folder, "scannet/s", images, instances=[BOX], **changes))


def loaded(importer, name):
    problems = Problems(name)
    return importer.load(name, problems), problems


@pytest.mark.parametrize(
    ("image", "frames", "kind"),
    [
        ({"cam2global": None}, 1, "lost tracking"),
        ({"cam2global": [[HUGE] * 4] * 4}, 1, "bad camera"),
        ({"cam2global": np.eye(3)}, 1, "bad camera"),
        ({"img_path": 7}, 1, "bad camera"),
        ({"img_path": "\ud800.jpg"}, 1, "bad camera"),
        (None, 1, "bad camera"),
        ({"visible_instance_ids": None}, 2, "bad visibility"),
        ({"visible_instance_ids": [float("inf")]}, 2, "bad visibility"),
        ({"img_path": "scannet/s/\u00b2.jpg"}, 2, None),
        ({"depth_path": 5}, 2, "bad depth"),
        ({"depth_path": "../x.png"}, 2, "bad depth"),
    ],
)
def test_a_bad_image_of_embodiedscan_costs_itself_alone(tmp_path, image, frames, kind):
    scene, problems = loaded(two_images(tmp_path, image), "s")
    assert (len(scene.frames), len(scene.objects)) == (frames, 1)
    assert kinds(problems) == ([kind] if kind else [])


@pytest.mark.parametrize(
    "change",
    [
        {"bbox_id": float("inf")},
        {"bbox_id": 3.7},
        {"bbox_3d": [HUGE] + [1] * 8},
        {"bbox_label_3d": float("inf")},
        {"bbox_label_3d": [4]},
    ],
)
def test_a_bad_box_of_embodiedscan_costs_itself_alone(tmp_path, change):
    importer = two_images(tmp_path, {})
    embodied(tmp_path, "scannet/s", [GOOD], instances=[BOX, BOX | {"bbox_id": 5} | change])
    scene, problems = loaded(importer, "s")
    assert ([item.id for item in scene.objects], kinds(problems)) == ([3], ["bad object"])


@pytest.mark.parametrize("camera", [None, [1], np.zeros((3, 3)), np.full((4, 4), np.nan)])
def test_a_bad_depth_camera_of_embodiedscan_costs_the_depth_alone(tmp_path, camera):
    image = {"depth_path": "scannet/s/00020.png"}
    importer = two_images(tmp_path, image, depth_cam2img=camera)
    (tmp_path / "scannet" / "s" / "00020.png").write_bytes(encode_gray16(np.ones((6, 8), np.uint16)))
    scene, problems = loaded(importer, "s")
    assert ([frame.depth for frame in scene.frames], kinds(problems)) == ([None, None], ["bad depth"])
    assert "the frame stays, without depth" in problems.found[0].message


@pytest.mark.parametrize("instances", [None, 5, "boxes", {}])
def test_instances_of_embodiedscan_that_are_no_list_cost_the_objects_alone(tmp_path, instances):
    two_images(tmp_path, {})
    scene, problems = loaded(EmbodiedScan(embodied(tmp_path, "s", [GOOD], instances=instances)), "s")
    assert (len(scene.frames), scene.objects, kinds(problems)) == (1, (), ["bad objects"])


@pytest.mark.parametrize("change", [{"cam2img": []}, {"axis_align_matrix": [[HUGE] * 4] * 4}, {"images": None}])
def test_a_bad_scan_of_embodiedscan_is_dropped_with_its_reason(tmp_path, change):
    scene, problems = loaded(two_images(tmp_path, {}), "s")
    assert len(scene.frames) == 2
    importer = EmbodiedScan(embodied(tmp_path, "scannet/s", change.pop("images", [GOOD]), **change))
    scene, problems = loaded(importer, "s")
    assert scene is None
    assert {"unreadable", "empty scene"} & set(kinds(problems))


def test_scans_alike_and_nameless_ones_are_reported(tmp_path):
    two_images(tmp_path, {})
    path = tmp_path / "embodiedscan_infos_train.pkl"
    infos = pickle.loads(path.read_bytes())
    infos["metainfo"]["categories"] |= {"odd": float("inf"), 5: 6}
    infos["data_list"] += [infos["data_list"][0] | {"images": []}, {"images": []}, 7]
    infos["data_list"] += [{"sample_idx": name, "images": []} for name in ("", "scannet/", " ")]
    path.write_bytes(pickle.dumps(infos))
    importer = EmbodiedScan(tmp_path)
    assert importer.scene_ids() == ["s", *(f"entry-{place}" for place in range(2, 7))]
    scene, problems = loaded(importer, "s")
    assert (len(scene.frames), kinds(problems)) == (2, ["bad entry"])
    assert "entry 1 is of the same scan; the first is taken" in problems.found[0].message
    scene, problems = loaded(importer, "entry-3")
    assert scene is None
    assert "entry 3 names no scan: TypeError" in problems.found[0].message
    _, problems = loaded(importer, "entry-4")
    assert "entry 4 names no scan: ValueError: the name is empty" in problems.found[0].message


@pytest.mark.parametrize("content", [[1, 2], {"metainfo": 3}, {"metainfo": {"categories": {}}, "data_list": {}}])
def test_an_export_beside_another_pickle_is_refused(tmp_path, content):
    path = tmp_path / "embodiedscan_infos_train.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="is there already, but is no EmbodiedScan pickle"):
        EmbodiedScanExporter().export([small_scene()], tmp_path)
    assert pickle.loads(path.read_bytes()) == content


# ---- mmdetection3d

OLD = {"axis_align_matrix": np.eye(4), "gt_boxes_upright_depth": np.ones((2, 6)), "name": ["chair", "desk"]}


@pytest.mark.parametrize(
    ("change", "frames", "objects", "kind"),
    [
        ({"extrinsics": [[[HUGE] * 4] * 4, lying(1)]}, 1, 2, "bad camera"),
        ({"extrinsics": [[1, 2], lying(1)]}, 1, 2, "bad camera"),
        ({"intrinsics": []}, 0, 0, "unreadable"),
        ({"annos": {"axis_align_matrix": [[HUGE] * 4] * 4}}, 0, 0, "unreadable"),
        ({"instances": [{"bbox_3d": [HUGE] * 6, "bbox_label_3d": 1}]}, 2, 0, "bad object"),
        ({"instances": [{}, {"bbox_3d": [1] * 6, "bbox_label_3d": 1}]}, 2, 1, "bad object"),
        ({"instances": [{"bbox_3d": [1] * 6, "bbox_label_3d": []}]}, 2, 0, "bad object"),
        ({"instances": None}, 2, 0, "bad objects"),
        ({"annos": OLD | {"gt_boxes_upright_depth": None, "name": None}}, 2, 0, "bad objects"),
        ({"annos": OLD | {"name": ["chair"]}}, 2, 0, "bad objects"),
    ],
)
def test_a_bad_value_of_mmdetection3d_costs_what_it_belongs_to(tmp_path, change, frames, objects, kind):
    if "instances" in change:
        change = {"annos": {"axis_align_matrix": CAMERA4 * 0 + np.eye(4), **change}}
    scene, problems = loaded(MMDetection3D(mmdet_folder(tmp_path, **change)), "scene0001_00")
    assert (len(scene.frames) if scene else 0, len(scene.objects) if scene else 0) == (frames, objects)
    assert kind in kinds(problems)


def test_scans_alike_of_mmdetection3d_are_reported(tmp_path):
    path = mmdet_folder(tmp_path) / "scannet_infos_val.pkl"
    infos = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps([*infos, infos[0] | {"img_paths": [], "extrinsics": []}, {}]))
    importer = MMDetection3D(tmp_path)
    assert importer.scene_ids() == ["scene0001_00", "entry-2"]
    scene, problems = loaded(importer, "scene0001_00")
    assert len(scene.frames) == 2
    assert "bad entry" in kinds(problems)


# ---- released records

RECORD = {"conversations": conversation({"frame": 1}), "metadata": METADATA}
SHEARED = (TILTED + np.diag([1, 0, 0, 0])).tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"cam2global": [TILTED.tolist(), SHEARED]},
        {"cam2img": [[0, 0, 3], [0, 6, 2], [0, 0, 1]]},
        {"cam2img": [[600, 0, 350], [0, 600, 250], [0, 0, 1]]},
        {"cam2img": [[6, 0], [0, 6]]},
        {"axis_align_matrix": SHEARED},
    ],
)
def test_a_released_record_with_a_bad_camera_costs_itself_alone(tmp_path, change):
    scene, problems = loaded(released(tmp_path, RECORD | change, RECORD, RECORD), "scene0001_00")
    assert (len(scene.frames), [clip.id for clip in scene.clips]) == (2, ["000001", "000002"])
    assert [(problem.kind, problem.file) for problem in problems.found] == [("unusable record", "record 0")]


def test_of_released_records_that_disagree_on_a_camera_the_first_is_kept_and_both_are_named(tmp_path):
    other = {"cam2global": [TILTED.tolist(), (SHIFT @ TILTED).tolist()]}
    wider = {"cam2img": [[3, 0, 3.5], [0, 3, 2.5], [0, 0, 1]]}
    scene, problems = loaded(released(tmp_path, RECORD, RECORD | other, RECORD | wider), "scene0001_00")
    assert (len(scene.frames), [clip.id for clip in scene.clips]) == (2, ["000000"])
    assert [problem.file for problem in problems.found] == ["record 1", "record 2"]
    for problem in problems.found:
        assert "is another one than in record 0, which is kept; left out" in problem.message


@pytest.mark.parametrize("odd", ["5", "null", '"text"', "[1]", "-1.5e+3"])
def test_a_released_record_that_is_no_object_costs_itself_alone(tmp_path, odd):
    importer = released(tmp_path, RECORD, RECORD)
    text = importer.root.read_text()
    importer.root.write_text(f"{text[:-1]}, {odd}]")
    assert importer.scene_ids() == ["scene0001_00", "records-without-images"]
    assert len(loaded(importer, "scene0001_00")[0].clips) == 2
    scene, problems = loaded(importer, "records-without-images")
    assert (scene, kinds(problems)) == (None, ["unusable record", "empty scene"])
    assert problems.found[0].file == "record 2"
    assert "a JSON object was expected, got " in problems.found[0].message


@pytest.mark.parametrize("chunk", range(1, 12))
def test_numbers_among_records_are_read_across_chunks(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("gapmllm.scenes.importers.json_records._CHUNK", chunk)
    text = '[-12.5e+31, 1E2, {"a": 1}, 70]'
    (tmp_path / "list.json").write_text(text)
    found = [(value, text[span.start :][: span.length]) for span, value in walk_records(tmp_path / "list.json")]
    assert found == [(-12.5e31, "-12.5e+31"), (100, "1E2"), ({"a": 1}, '{"a": 1}'), (70, "70")]


def test_a_released_record_that_is_not_in_utf8_costs_itself_alone(tmp_path):
    importer = released(tmp_path, RECORD, RECORD | {"conversations": conversation({"frame": 1}, prompt="a caf@ ?")})
    importer.root.write_bytes(importer.root.read_bytes().replace(b"caf@", b"caf\xe9"))
    scene, problems = loaded(importer, "scene0001_00")
    assert [clip.id for clip in scene.clips] == ["000000"]
    assert [(problem.kind, problem.file) for problem in problems.found] == [("unusable record", "record 1")]
    assert "'utf-8' codec can't decode byte 0xe9" in problems.found[0].message
