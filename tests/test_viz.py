"""Pictures and 3D files: pixels and vertices where they must be, on hand-made and on real scenes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gapmllm.geometry import Boxes, euler_to_matrix, transform_points
from gapmllm.scenes.images import encode_depth, encode_image
from gapmllm.scenes.importers.base import world_with_z_up
from gapmllm.scenes.records import Clip, Expression, Frame, Mark, Question, Scene, SceneObject
from gapmllm.tasks import COLORS, POINTS
from gapmllm.viz import draw_boxes
from gapmllm.viz.depth import UNKNOWN, depth_colors, depth_range, draw_depth, legend_height
from gapmllm.viz.glb import TUBE, from_gltf, scene_points, write_glb
from gapmllm.viz.labels import COMMON_LABELS, draw_labels, label_color, place_labels, srgb_to_lab
from gapmllm.viz.show import _label_of, draw_frame, questions_text, show_scene
from gapmllm.viz.topview import draw_top_view, fit_view, footprint

CAMERA = np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
AHEAD = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 1], [0, 0, 0, 1]])  # at (0, 0, 1), looks along world y


# Labels


def test_lab_of_known_colours():
    # sRGB red is L 53.24, a 80.09, b 67.20; white 100, 0, 0 (published values for D65)
    lab = srgb_to_lab(np.array([[255, 0, 0], [255, 255, 255], [0, 0, 0]]))
    np.testing.assert_allclose(lab, [[53.24, 80.09, 67.20], [100, 0, 0], [0, 0, 0]], atol=0.05)


def test_common_labels_have_well_separated_colours():
    lab = srgb_to_lab(np.array([label_color(name) for name in COMMON_LABELS]))
    gaps = [np.linalg.norm(lab[i] - lab[j]) for i, j in combinations(range(len(lab)), 2)]
    first = [np.linalg.norm(lab[i] - lab[j]) for i, j in combinations(range(15), 2)]
    assert min(gaps) > 18  # a difference of 2.3 is just noticeable
    assert min(first) > 35


def test_a_colour_depends_on_the_label_alone():
    assert label_color("chair") == label_color(" Chair") == (255, 60, 60)
    # names that are not common never take a common name's colour
    common = {label_color(name) for name in COMMON_LABELS}
    assert not common & {label_color(f"thing {i}") for i in range(200)}


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_a_label_alone_is_centred_and_a_second_one_moves_aside():
    assert place_labels([(50, 40)], [(20, 10)], (100, 80)) == [(40, 35, 60, 45)]
    first, second = place_labels([(50, 40), (50, 40)], [(20, 10), (20, 10)], (100, 80))
    assert first == (40, 35, 60, 45)
    assert second[:2] in {(40, 24), (40, 46), (30, 35), (50, 35)}
    assert not overlap(first, second)


def test_labels_that_find_no_place_are_left_out():
    placed = place_labels([(10, 10)] * 9, [(20, 10)] * 9, (20, 30))
    assert sum(place is not None for place in placed) == 2  # 30 pixels hold at most three rows of 10
    assert place_labels([(10, 10)], [(21, 10)], (20, 30)) == [None]


@given(st.lists(st.tuples(st.floats(-50, 150), st.floats(-50, 150), st.integers(5, 60)), max_size=30))
def test_placed_labels_stay_inside_and_never_overlap(wishes):
    avoid = [(30, 30, 50, 50)]
    placed = place_labels([wish[:2] for wish in wishes], [(wish[2], 12) for wish in wishes], (100, 100), avoid)
    kept = [place for place in placed if place is not None]
    assert not any(overlap(a, b) for a, b in combinations([*kept, *avoid], 2))
    assert all(0 <= x0 < x1 <= 100 and 0 <= y0 < y1 <= 100 for x0, y0, x1, y1 in kept)


def test_plates_are_drawn_where_draw_labels_says():
    picture = Image.new("RGB", (200, 100))
    places = draw_labels(picture, [(100, 50), (100, 50)], ["lamp", "bed"])
    pixels = np.asarray(picture)
    for (x0, y0, x1, y1), label in zip(places, ["lamp", "bed"], strict=True):
        assert (pixels[[y0, y1 - 1], x0] == label_color(label)).all()
        assert (pixels[y0, x1 - 1] == label_color(label)).all()


# Boxes in a frame


def test_the_label_of_a_box_half_outside_is_drawn_in_the_half_inside():
    boxes = Boxes.from_axis_aligned([[1.0, 0, 2, 1.4, 0.4, 0.4]])  # its centre is at 50 + 100 * 1 / 2 = 100: outside
    picture = np.asarray(draw_boxes(Image.new("RGB", (100, 80)), boxes, CAMERA, labels=["box"], width=1))
    drawn = (picture == label_color("box")).all(axis=-1)
    # by hand: its left end is at 50 + 100 * 0.3 / 1.8 = 66.7 on the near face
    assert drawn[33, 67]
    assert not drawn[:, :63].any()
    assert drawn.sum() > 300  # a plate, not only lines


def test_a_near_box_is_drawn_over_a_far_one():
    # near faces at depth 1 and 2, the far one twice as large: both have an edge at 50 + 100 * 0.5 / 1 = 100
    boxes = Boxes.from_axis_aligned([[0, 0, 1.5, 1, 0.5, 1], [0, 0, 4, 2, 1, 4]])
    for order in ([0, 1], [1, 0]):
        names = [("near", "far")[i] for i in order]
        picture = draw_boxes(Image.new("RGB", (101, 81)), boxes[order], CAMERA, labels=names, width=1)
        assert picture.getpixel((100, 30)) == label_color("near")


def test_lines_are_thicker_in_large_pictures():
    boxes = Boxes.from_axis_aligned([[0, 0, 2, 1, 1, 1]])
    widths = []
    for scale in (1, 12):
        camera = np.diag([scale, scale, 1]) @ CAMERA
        pixels = np.asarray(draw_boxes(Image.new("RGB", (100 * scale, 80 * scale)), boxes, camera))
        widths.append(pixels[40 * scale, 75 * scale : 90 * scale].any(axis=-1).sum())  # one near edge, at 83.3
    assert widths == [1, 4]


# Depth


def test_depth_colours_get_lighter_with_distance_and_unknown_is_grey():
    depth = np.linspace(0.5, 4, 40)[None]
    lightness = srgb_to_lab(depth_colors(depth, (0, 4)))[0, :, 0]
    assert (np.diff(lightness) > 0.5).all()
    colors = depth_colors(np.array([[0, np.nan, -1, 9, 4, 1]]), (1, 4))[0]
    assert (colors[:3] == UNKNOWN).all()
    assert (colors[3] == colors[4]).all()  # beyond the far limit: its colour
    assert colors[5].tolist() == [68, 1, 84]  # the first colour of viridis


def test_depth_range_is_from_zero_to_the_99th_percentile_of_what_is_known():
    assert depth_range([np.arange(101.0), np.zeros((2, 2))]) == (0, pytest.approx(99.01))  # 1..100
    assert depth_range([np.zeros((2, 2))]) == depth_range([]) == (0, 1)
    with pytest.raises(ValueError, match="near < far"):
        depth_colors(np.ones((2, 2)), (1, 1))


def test_a_depth_picture_is_the_map_and_a_legend_below():
    depth = np.full((50, 80), 2.0)
    picture = draw_depth(depth, (0, 4))
    assert picture.size == (80, 50 + legend_height(50))
    assert (np.asarray(picture)[:50] == depth_colors(depth, (0, 4))).all()
    left, right = (np.asarray(picture)[-1, x].astype(int) for x in (0, -1))
    assert np.abs(left - (68, 1, 84)).max() < 4
    assert np.abs(right - (253, 231, 37)).max() < 4


# From above


def test_the_view_from_above_has_x_to_the_right_and_y_up():
    boxes = Boxes.from_axis_aligned([[0, 0, 1, 4, 2, 2]])
    view = fit_view(boxes, size=1000)
    assert view.middle == (0, 0)
    assert view.span == pytest.approx(4.8)
    pixels = view.pixels([[0, 0, 5], [1, 0, 0], [0, 1, 0]])
    # by hand: the drawing is 0.925 wide and 0.935 high of 1000 pixels, for 4.8 metres
    np.testing.assert_allclose(pixels[1] - pixels[0], [925 / 4.8, 0], atol=1e-9)
    np.testing.assert_allclose(pixels[2] - pixels[0], [0, -935 / 4.8], atol=1e-9)


def test_a_footprint_is_drawn_where_it_belongs():
    boxes = Boxes.from_axis_aligned([[0, 0, 1, 4, 2, 2], [1.5, 0.5, 0.5, 0.4, 0.2, 1]])
    picture = np.asarray(draw_top_view(boxes, ["floor", "lamp"], view=fit_view(boxes))).astype(int)
    view = fit_view(boxes)

    def color_at(x, y):
        column, row = np.rint(view.pixels([x, y])).astype(int)
        return picture[row, column]

    assert np.abs(color_at(1.7, 0.53) - label_color("lamp")).max() < 12  # the middle of its right edge
    assert (color_at(-1.7, 0.53) == 255).all()  # mirrored places are empty
    assert (color_at(1.7, -0.53) == 255).all()
    assert color_at(0.03, 1).max() < 200  # the floor's outline; its inside stays white
    assert (color_at(0.3, 0.13) == 255).all()


def test_footprints_of_turned_tilted_and_flat_boxes():
    turned = Boxes([[0, 0, 0]], [[2, 2, 1]], euler_to_matrix([[np.pi / 4, 0, 0]], "zxy"))
    outline = footprint(turned.corners()[0])
    # a diamond: its corners lie on the axes, sqrt(2) from the middle
    np.testing.assert_allclose(np.sort(np.abs(outline), axis=1), [[0, np.sqrt(2)]] * len(outline), atol=1e-9)
    flat = footprint(Boxes.from_axis_aligned([[1, 2, 0, 3, 0, 1]]).corners()[0])
    assert (flat[:, 1] == 2).all()
    assert set(flat[:, 0]) == {-0.5, 2.5}
    assert (footprint(Boxes.from_axis_aligned([[1, 2, 0, 0, 0, 1]]).corners()[0]) == (1, 2)).all()


def test_cameras_and_points_are_drawn_in_the_view_from_above():
    poses = np.stack([AHEAD, AHEAD])
    poses[1, :2, 3] = (2, 0)
    points, colors = [[1, 1, 0.5], [1.55, 1.05, 5]], [[0, 0, 255], [255, 0, 0]]
    view = fit_view(Boxes.from_euler([], "zxy"), poses, points)
    picture = draw_top_view(Boxes.from_euler([], "zxy"), [], poses, points=points, colors=colors, view=view)

    def around(x, y):
        column, row = np.rint(view.pixels([x, y])).astype(int)
        return np.asarray(picture)[row - 3 : row + 4, column - 3 : column + 4].reshape(-1, 3).astype(int)

    assert (around(0, 0)[24] == (0, 160, 64)).all()
    assert (around(2, 0)[24] == (208, 0, 0)).all()
    assert (around(1, 0).max(axis=1) < 120).any()  # the way between them
    assert (around(0, 0.05).max(axis=1) < 120).any()  # looks along y
    assert (around(1, 1) @ (-1, -1, 2) > 200).any()  # the blue point
    assert (around(1.55, 1.05) @ (2, -1, -1) <= 0).all()  # the red one is above the cameras: left out


# GLB


def loaded(path):
    return trimesh.load(path, file_type="glb")


def test_boxes_in_a_glb_keep_their_extents_after_undoing_the_turn(tmp_path):
    boxes = Boxes.from_axis_aligned([[1, 2, 3, 1, 2, 4], [5, 5, 1, 1, 1, 1]])
    write_glb(tmp_path / "boxes.glb", boxes=boxes, labels=["bed", "lamp"])
    content = loaded(tmp_path / "boxes.glb")
    assert sorted(content.graph.nodes_geometry) == ["boxes bed", "boxes lamp"]
    for i, name in enumerate(("boxes bed", "boxes lamp")):
        vertices = from_gltf(content.geometry[name].vertices)
        corners = boxes.corners()[i]
        np.testing.assert_allclose(vertices.min(axis=0), corners.min(axis=0) - TUBE / 2, atol=1e-6)
        np.testing.assert_allclose(vertices.max(axis=0), corners.max(axis=0) + TUBE / 2, atol=1e-6)
    # y is up in the file: the bed's 4 metres of height
    assert content.geometry["boxes bed"].extents[1] == pytest.approx(4 + TUBE)
    assert content.geometry["boxes bed"].volume == pytest.approx(
        4 * TUBE**2 * (1 + 2 + 4 + 3 * TUBE), rel=1e-4
    )  # twelve tubes, all faces outwards


def test_the_colours_of_a_glb_are_linear(tmp_path):
    boxes = Boxes.from_axis_aligned([[0, 0, 0, 1, 1, 1]])
    write_glb(tmp_path / "a.glb", points=[[1, 2, 3]], colors=[[255, 188, 0]], boxes=boxes, labels=["chair"])
    content = loaded(tmp_path / "a.glb")
    # sRGB 188 is half of the light, 60 is 4.5 %
    assert np.abs(content.geometry["points"].colors[0].astype(int) - (255, 128, 0, 255)).max() <= 1
    material = content.geometry["boxes chair"].visual.material
    assert np.abs(np.array(material.baseColorFactor).astype(int) - (255, 11, 11, 255)).max() <= 1


def test_points_and_cameras_of_a_glb(tmp_path):
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3))
    poses = np.stack([AHEAD] * 3)
    poses[:, 0, 3] = (0, 1, 2)
    options = {"cameras": poses, "intrinsics": CAMERA, "size": (100, 80), "max_points": 120}
    write_glb(tmp_path / "a.glb", points=points, **options)
    content = loaded(tmp_path / "a.glb")
    kept = from_gltf(content.geometry["points"].vertices)
    assert len(kept) == 120
    assert np.abs(kept[:, None] - points[None]).max(axis=-1).min(axis=1).max() < 1e-6  # each is one of the points
    cameras = [name for name in content.graph.nodes_geometry if name.startswith("camera")]
    assert sorted(cameras) == ["camera 000", "camera 001", "camera 002"]
    vertices = from_gltf(content.geometry["camera 002"].vertices)
    # it is at (2, 0, 1), looks along y, and its roof is up
    assert np.abs(vertices - (2, 0, 1)).min(axis=0).max() < 0.01
    assert vertices[:, 1].max() == pytest.approx(0.15, abs=0.01)
    assert vertices[:, 1].min() > -0.01
    assert vertices[:, 2].max() - 1 > 1 - vertices[:, 2].min()
    write_glb(tmp_path / "b.glb", points=points, **options)
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()


def test_what_write_glb_refuses(tmp_path):
    with pytest.raises(ValueError, match="nothing to write"):
        write_glb(tmp_path / "a.glb")
    with pytest.raises(ValueError, match="intrinsics and image size"):
        write_glb(tmp_path / "a.glb", cameras=[np.eye(4)])
    with pytest.raises(ValueError, match="1 labels for 2 boxes"):
        write_glb(tmp_path / "a.glb", boxes=Boxes.from_axis_aligned(np.ones((2, 6))), labels=["a"])


# A scene


@pytest.fixture
def scene():
    """Two frames look along y at a wall 3 metres away, red and blue; a lamp and a bed hang before it."""
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[:, :50], pixels[:, 50:] = (200, 0, 0), (0, 0, 200)
    half = CAMERA.copy()
    half[:2] /= 2
    half[:2, 2] -= 0.25
    frame = Frame(
        image=encode_image(pixels, None),
        intrinsics=CAMERA,
        camera_to_world=AHEAD,
        depth=encode_depth(np.full((40, 50), 3.0), 1000),
        depth_intrinsics=half,
        visible={7: 0.1, 9: 0.5},
    )
    objects = (
        SceneObject(id=7, label="lamp", center=np.array([0.3, 2.5, 1]), size=np.array([0.4, 0.4, 0.4])),
        SceneObject(id=8, label="bed", center=np.array([-0.3, 2.5, 1]), size=np.array([0.4, 0.4, 0.4])),
        SceneObject(id=9, label="wall", center=np.array([0, 3.05, 1]), size=np.array([4, 0.1, 2])),
    )
    question = Question(
        task="points",
        prompt=POINTS.prompt(1),
        answer='{"label": "lamp", "pointmap": [0.3, 0, 2.3]}',
        target={},
        id="q",
        mark=Mark(frame=1, x=30, y=40),
    )
    return Scene(
        id="hand",
        frames=(frame, replace(frame, visible=None)),
        objects=objects,
        expressions=(Expression(object_id=7, text="the lamp\nby the wall"),),
        clips=(Clip(id="empty", frames=(0,), questions=()), Clip(id="c", frames=(1, 0), questions=(question,))),
    )


def test_points_of_a_scene_take_their_colours_from_an_image_of_another_size(scene):
    points, colors = scene_points(scene)
    assert len(points) == 2 * 40 * 50
    np.testing.assert_allclose(points[:, 1], 3, atol=1e-6)
    left = points[:, 0] < 0  # the image is red left of x = 49.5, that is -0.5 / 100 * 3 = -0.015 m
    assert (colors[left & (points[:, 0] < -0.04)] == (200, 0, 0)).all()
    assert (colors[points[:, 0] > 0.04] == (0, 0, 200)).all()
    few, _ = scene_points(scene, max_points=101)
    assert len(few) == 101
    without = Scene(id="no depth", frames=(replace(scene.frames[0], depth=None),))
    assert scene_points(without)[0].shape == (0, 3)


def test_a_frame_shows_the_boxes_of_what_it_sees_and_no_walls(scene):
    picture = draw_frame(scene.frames[0], scene.objects)
    assert picture.size == (1000, 800)  # 100 pixels, enlarged tenfold
    drawn = {label: (np.asarray(picture) == label_color(label)).all(axis=-1) for label in ("lamp", "bed", "wall")}
    assert drawn["lamp"].sum() > 500
    assert not drawn["bed"].any()
    assert not drawn["wall"].any()
    # the near face's left edge: x = 0.1, depth 2.3, so (50.5 + 100 * 0.1 / 2.3) * 10 - 0.5 = 548
    assert drawn["lamp"][400, 548]
    assert draw_frame(scene.frames[1], scene.objects, 200).size == (200, 160)


def test_show_scene_writes_all_files(scene, tmp_path):
    paths = show_scene(scene, tmp_path / "out" / "scene")
    names = ["frame_000.png", "frame_001.png", "depth_000.png", "depth_001.png", "marks_000.png"]
    names += ["topview.png", "overview.png", "scene.glb", "questions.md"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "out" / "scene").iterdir()) == sorted(names)
    marks = np.asarray(Image.open(paths[4]))
    assert (marks[395, 395] == COLORS["red"]).all()  # the cross is 11 pixels wide of 100, enlarged tenfold
    with Image.open(paths[6]) as overview:
        assert overview.size == (480 * 2 + 960, 960)
    content = loaded(paths[7])
    assert sorted(content.graph.nodes_geometry) == ["boxes bed", "boxes lamp", "camera 000", "camera 001", "points"]
    text = paths[8].read_text(encoding="utf-8")
    assert '    {"label": "lamp", "pointmap": [0.3, 0, 2.3]}' in text
    assert "red cross in frame 1 at 30, 40" in text
    assert "- lamp 7: the lamp by the wall" in text


def test_a_mark_shows_the_label_of_the_answer_or_else_its_point(scene):
    question = scene.clips[1].questions[0]
    assert _label_of(question) == "lamp"
    assert _label_of(replace(question, answer='{"pointmap": [0.3, 0, 2.3]}')) == "0.30, 0.00, 2.30 m"
    assert _label_of(replace(question, answer="no idea")) == "no idea"


def test_show_scene_leaves_out_what_is_not_there(scene, tmp_path):
    bare = Scene(id="bare", frames=(replace(scene.frames[0], depth=None, visible=None),))
    assert [path.name for path in show_scene(bare, tmp_path)] == [
        *("frame_000.png", "topview.png", "overview.png", "scene.glb")
    ]


def test_show_scene_says_what_it_cannot_show(scene, tmp_path):
    with pytest.raises(ValueError, match="2 clips, counted from 0; clip 2"):
        show_scene(scene, tmp_path, clip=2)
    with pytest.raises(ValueError, match="scene empty has 0 frames"):
        show_scene(Scene(id="empty", frames=()), tmp_path)
    assert not any(tmp_path.iterdir())
    assert "marks_000.png" not in [path.name for path in show_scene(scene, tmp_path, clip=0)]


def test_odd_scenes_are_shown(scene, tmp_path):
    """Labels of two lines, and pictures that are all but lines."""
    item = replace(scene.objects[0], label="two\nlines")
    assert item.label == "two lines"
    picture = Image.new("RGB", (200, 100))
    assert draw_labels(picture, [(100, 50)], ["two\nlines"])[0] is not None
    camera = np.array([[100.0, 0, 1], [0, 100.0, 1], [0, 0, 1]])
    for width, height in ((2, 900), (900, 2)):
        image = encode_image(np.zeros((height, width, 3), np.uint8), None)
        thin = Frame(image=image, intrinsics=camera, camera_to_world=np.eye(4))
        drawn = draw_frame(thin, [item])
        assert max(drawn.size) <= 3000


def test_the_text_of_many_questions_is_cut_short_and_says_so(scene):
    question = scene.clips[1].questions[0]
    clip = Clip(id="c", frames=(0,), questions=tuple(replace(question, id=f"q{i}") for i in range(5)))
    many = replace(
        scene,
        clips=tuple(replace(clip, id=f"c{i}") for i in range(7)),
        expressions=tuple(Expression(object_id=7, text=f"text {i}") for i in range(20)),
    )
    text = questions_text(many)
    assert "20 descriptions, 7 clips with 35 questions" in text
    assert text.count("### points: 5 questions, the first 3") == 5
    assert text.count("Answer:") == 15
    assert "and 2 more clips" in text
    assert "and 5 more\n" in text


# Real recordings


def test_a_hololens_recording_is_shown_upright(real, tmp_path):
    folder = real / "dvmvs_hololens_000"
    names = ("00136", "00140", "00144")
    recorded = np.array([np.loadtxt(folder / f"{name}.pose.txt") for name in names])
    poses = world_with_z_up(recorded, "auto") @ recorded
    frames = tuple(
        Frame(
            image=(folder / f"{name}.jpg").read_bytes(),
            depth=(folder / f"{name}.depth.png").read_bytes(),
            intrinsics=np.loadtxt(folder / "K.txt"),
            camera_to_world=pose,
        )
        for name, pose in zip(names, poses, strict=True)
    )
    paths = show_scene(Scene(id="hololens", frames=frames), tmp_path, max_frames=2)
    assert [path.name for path in paths[:4]] == ["frame_000.png", "frame_002.png", "depth_000.png", "depth_002.png"]
    content = loaded(tmp_path / "scene.glb")
    points = from_gltf(content.geometry["points"].vertices)
    assert len(points) == 200_000
    # most points lie below the head-worn camera, and the floor is 1.2 to 2 metres below it
    below = poses[:, 2, 3].mean() - points[:, 2]
    assert np.median(below) > 0.3
    assert 1.2 < np.percentile(below, 99) < 2
    # the middle of the third frame's depth lies before its camera, where the top view draws it
    local = transform_points(points, np.linalg.inv(poses[2]))
    assert (local[:, 2] > 0).mean() > 0.9


def test_labels_of_a_full_room_do_not_cover_each_other(real):
    folder = real / "mmdet3d_scannet_scene0000_00"
    scene = json.loads((folder / "scene.json").read_text(encoding="utf-8"))
    boxes = Boxes.from_axis_aligned([item["bbox_aligned"] for item in scene["boxes"]])
    labels = [item["label"] for item in scene["boxes"]]
    view = fit_view(boxes)
    picture = draw_top_view(boxes, labels, view=view)
    anchors = [(float(x), float(y)) for x, y in view.pixels(boxes.centers)]
    places = [place for place in draw_labels(picture, anchors, labels, font_height=650) if place is not None]
    assert len(places) == len(labels) == 27
    assert not any(overlap(a, b) for a, b in combinations(places, 2))
