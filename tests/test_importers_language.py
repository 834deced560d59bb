"""Texts about ScanNet objects, and boxes of 3D segmentations."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import board_scene
from scannet_data import kinds, load
from scipy.sparse import csr_array, save_npz

from gapmllm.scenes.exporters.scannet import ScanNetExporter
from gapmllm.scenes.exporters.scanrefer import ScanReferExporter
from gapmllm.scenes.importers.base import ImportOptions
from gapmllm.scenes.importers.scannet_folders import PosedImages
from gapmllm.scenes.importers.scanrefer import add_texts, read_texts
from gapmllm.scenes.problems import Problems
from gapmllm.scenes.records import Expression


def test_texts_come_back_as_they_were_written_beside_the_images(tmp_path):
    scene = board_scene("scene0000_00")
    ScanNetExporter().export([scene], tmp_path)
    ScanReferExporter().export([scene], tmp_path)
    found, problems = load(PosedImages(tmp_path))
    assert kinds(problems) == []
    assert [(text.object_id, text.text) for text in found.expressions] == [
        (0, "the wide chair"),
        (1, "the narrow chair"),
    ]  # captions may fit several objects, and would be asked as if they did not
    assert [text.id for text in found.expressions] == ["scanrefer-0-0", "scanrefer-1-1"]
    with pytest.raises(ValueError, match="is there already; name another folder"):
        ScanReferExporter().export([scene], tmp_path)


def test_texts_of_many_scenes_go_into_one_file_of_each_split(tmp_path):
    silent = replace(board_scene("silent"), expressions=())
    scenes = [board_scene("one"), silent, replace(board_scene("two"), split="val"), board_scene("three")]
    ScanReferExporter().export(scenes, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ScanRefer_filtered_train.json",
        "ScanRefer_filtered_val.json",
    ]
    entries = json.loads((tmp_path / "ScanRefer_filtered_train.json").read_text())
    assert [entry["scene_id"] for entry in entries] == ["one"] * 2 + ["three"] * 2
    with pytest.raises(ValueError, match="no scene has texts"):
        ScanReferExporter().export([silent], tmp_path / "nothing")


def test_a_file_of_texts_is_named_or_found_by_its_split(tmp_path):
    scene = board_scene("scene0000_00")
    ScanNetExporter().export([scene], tmp_path / "scans")
    ScanReferExporter().export([scene], tmp_path / "texts")
    root, file = tmp_path / "scans", tmp_path / "texts" / "ScanRefer_filtered_train.json"
    assert load(PosedImages(root))[0].expressions == ()
    for place in (file, file.parent):
        assert len(load(PosedImages(root, ImportOptions(annotations=place)))[0].expressions) == 2
    found, _ = load(PosedImages(root, ImportOptions(annotations=file.parent, split="val")))
    assert found.expressions == ()


def test_a_text_about_an_unknown_object_is_left_out_and_reported():
    problems = Problems("boards")
    texts = [
        Expression(object_id=1, text="the chair"),
        Expression(object_id=77, text="a ghost", id="g"),
        Expression(object_id=1, text=""),
    ]
    scene = add_texts(board_scene(), texts, problems)
    assert [text.text for text in scene.expressions[4:]] == ["the chair"]
    assert [str(problem) for problem in problems.found] == [
        "boards: g: describes object 77, which is not there; left out",
        "boards: : the text about object 1 is empty; left out",
    ]


def test_nr3d_tells_the_view_by_words_and_sr3d_by_its_relation(tmp_path):
    nr3d, sr3d = tmp_path / "nr3d.csv", tmp_path / "sr3d.csv"
    nr3d.write_text(
        "dataset,scan_id,target_id,instance_type,utterance,tokens\n"
        'nr3d,scene0000_00,4,chair,"The chair on the left, facing you","[\'the\']"\n'
        "nr3d,scene0000_00,5,chair,The bright chair,\n"
    )
    sr3d.write_text(
        "scan_id,target_id,utterance,reference_type,coarse_reference_type,dataset\n"
        "scene0000_01,4,the desk left of the bed,left,allocentric,sr3d\n"
        "scene0000_01,4,the desk closest to the left wall,closest,horizontal,sr3d\n"
    )
    assert tuple(read_texts(nr3d).by_scan["scene0000_00"]) == (
        Expression(object_id=4, text="The chair on the left, facing you", id="nr3d-0", view_dependent=True),
        Expression(object_id=5, text="The bright chair", id="nr3d-1", view_dependent=False),
    )
    assert [(text.kind, text.view_dependent) for text in read_texts(sr3d).by_scan["scene0000_01"]] == [
        ("left", True),
        ("closest", False),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"a": 1}', "a JSON list of descriptions was expected"),
        ("a.json", '[{"scene_id": "s"}]', "entry 0: lacks 'object_id'"),
        ("a.json", "[", "not JSON"),
        ("a.csv", "scan_id,target_id,utterance\ns,x,y\n", "entry 0: invalid literal"),
    ],
)
def test_a_file_that_holds_no_texts_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_texts(tmp_path / name)


def test_masks_give_the_boxes_around_their_vertices(tmp_path):
    scene = board_scene("scene0000_00")
    ScanNetExporter().export([scene], tmp_path)
    masks = np.zeros((60, 32), dtype=bool)  # the mesh has 8 vertices a board
    masks[:, 8:16] = True  # every proposal is the narrow chair,
    masks[1] = False  # but for one without vertices
    (tmp_path / "mask").mkdir()
    save_npz(tmp_path / "mask" / "scene0000_00.mask.npz", csr_array(masks))
    found, problems = load(PosedImages(tmp_path))
    assert kinds(problems) == []
    assert len(found.proposals) == 49  # of the first 50 rows
    np.testing.assert_allclose(found.proposals.centers[0], scene.objects[1].center)
    np.testing.assert_allclose(found.proposals.sizes[0], scene.objects[1].size)
    save_npz(tmp_path / "mask" / "scene0000_00.mask.npz", csr_array(masks[:, :20]))
    found, problems = load(PosedImages(tmp_path))
    assert found.proposals is None
    assert "masks of 20 vertices, but the mesh has 32" in str(problems.found[0])


def test_predicted_boxes_of_a_scan_are_its_proposals(tmp_path):
    ScanNetExporter().export([board_scene("scene0000_00")], tmp_path)
    path = tmp_path / "scannet_val_pred_box.json"
    path.write_text(json.dumps({"scannet/scene0000_00": [[0, 1, 2, 3, 4, 5]], "scannet/other": []}))
    found, _ = load(PosedImages(tmp_path))
    np.testing.assert_array_equal(found.proposals.centers, [[0, 1, 2]])
    np.testing.assert_array_equal(found.proposals.sizes, [[3, 4, 5]])
    path.write_text(json.dumps({"scannet/scene0000_00": [[0, 1]]}))
    _, problems = load(PosedImages(tmp_path, ImportOptions(every=2)))
    assert kinds(problems) == ["bad proposals"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"description": None}, "entry 1: a text was expected, got NoneType None"),
        ({"description": 7}, "entry 1: a text was expected, got int 7"),
        ({"description": ["x"]}, "entry 1: a text was expected, got list ['x']"),
        ({"description": "half \ud800"}, "entry 1: 'utf-8' codec can't encode"),
        ({"ann_id": "\ud800"}, "entry 1: a text about object 1 holds half a character"),
        ({"object_id": float("inf")}, "entry 1: invalid literal for int"),
        ({"object_id": 0.9}, "entry 1: invalid literal for int"),
        ({"scene_id": []}, "entry 1: a text was expected, got list []"),
        ({"scene_id": None}, "entry 1: a text was expected, got NoneType"),
    ],
)
def test_a_bad_entry_of_scanrefer_costs_itself_alone(tmp_path, entry, message):
    ScanNetExporter().export([board_scene("scene0000_00")], tmp_path)
    good = {"scene_id": "scene0000_00", "object_id": "1", "ann_id": "0", "description": "the narrow chair"}
    path = tmp_path / "ScanRefer_filtered_train.json"
    path.write_text(json.dumps([good, good | entry, good | {"ann_id": "1"}]))
    scene, problems = load(PosedImages(tmp_path))
    assert [text.id for text in scene.expressions] == ["scanrefer-1-0", "scanrefer-1-1"]
    (problem,) = problems.found
    assert (problem.kind, problem.file) == ("bad text", str(path))
    assert message in problem.message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("scene0000_00,1", "entry 1: a text was expected, got NoneType"),
        ("scene0000_00,x,text", "entry 1: invalid literal"),
        ("scene0000_00,1," + "x" * 140_000, "entry 1: field larger than field limit"),
    ],
)
def test_a_bad_row_of_nr3d_costs_itself_alone(tmp_path, row, message):
    path = tmp_path / "nr3d.csv"
    path.write_text(f"scan_id,target_id,utterance\nscene0000_00,1,a chair\n{row}\nscene0000_00,0,a desk\n")
    ScanNetExporter().export([board_scene("scene0000_00")], tmp_path)
    scene, problems = load(PosedImages(tmp_path))
    assert [text.text for text in scene.expressions] == ["a chair", "a desk"]
    (problem,) = problems.found
    assert message in problem.message


def hostile(indices, indptr, kind=b"csr"):
    """What scipy saves of a matrix of 3 rows and 32 columns, with indices of one's own."""
    arrays = {"indices": np.array(indices, np.int32), "indptr": np.array(indptr, np.int32)}
    return arrays | {"format": kind, "shape": np.array([3, 32]), "data": np.ones(len(indices), bool)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (hostile([0, 1], [0, 2**30, 1, 2]), "ValueError"),
        (hostile([0, 1], [0, 2**30, 0, 0]), "its row pointers go back"),
        (hostile([0, 32], [0, 1, 1, 2]), "indices"),
        (hostile([0, -1], [0, 1, 1, 2]), "indices"),
        (hostile([0, 1], [0, 1, 1, 2], b"dia"), "KeyError"),
        (None, "EOFError"),
    ],
)
def test_masks_that_point_outside_the_mesh_are_refused(tmp_path, arrays, message):
    ScanNetExporter().export([board_scene("scene0000_00")], tmp_path)
    (tmp_path / "mask").mkdir()
    path = tmp_path / "mask" / "scene0000_00.mask.npz"
    path.write_bytes(b"")
    if arrays is not None:
        np.savez(path, **arrays)
    scene, problems = load(PosedImages(tmp_path))
    assert (scene.proposals, len(scene.objects)) == (None, 4)
    assert kinds(problems) == ["bad proposals"]
    assert message in problems.found[0].message


def test_a_predicted_box_too_large_for_a_number_costs_the_proposals_alone(tmp_path):
    ScanNetExporter().export([board_scene("scene0000_00")], tmp_path)
    boxes = {"scannet/scene0000_00": [[10**400, 1, 2, 3, 4, 5]]}
    (tmp_path / "scannet_val_pred_box.json").write_text(json.dumps(boxes))
    scene, problems = load(PosedImages(tmp_path))
    assert (scene.proposals, kinds(problems)) == (None, ["bad proposals"])
