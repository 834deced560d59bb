"""Furniture, rooms and camera paths: sizes, supports, nothing in anything else, and walks that stay in free space."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from gapmllm.geometry import Boxes, check_pose, iou_matrix
from gapmllm.scenes.synth.camera_path import MARGIN, RIGS, camera_path
from gapmllm.scenes.synth.furniture import FURNITURE, KINDS
from gapmllm.scenes.synth.furniture_parts import assemble, box, leaned, post, rod
from gapmllm.scenes.synth.layout import build_room
from gapmllm.scenes.synth.materials import SHADES, Finish, finish, linear
from gapmllm.scenes.synth.placing import Placer, parts_meet, upright_pose
from gapmllm.scenes.synth.recipes import RECIPES
from gapmllm.scenes.synth.room import Material

SEEDS = range(60)
GREY = Material(color=(0.5, 0.5, 0.5))
TWENTY = (
    "chair", "pillow", "cabinet", "table", "lamp", "couch", "desk", "stand", "bed", "backpack",
    "bathtub", "ottoman", "dresser", "bin", "toilet", "refrigerator", "stove", "microwave", "monitor", "computer",
)  # fmt: skip
SHELL = {"wall", "floor", "ceiling"}

# Width, depth, height in metres: least and most of what such a thing measures.
SIZES = {
    "dining chair": ((0.38, 0.56), (0.38, 0.6), (0.75, 1.1)),
    "office chair": ((0.45, 0.75), (0.45, 0.75), (0.85, 1.25)),
    "armchair": ((0.65, 1.0), (0.7, 1.0), (0.7, 1.0)),
    "couch": ((1.3, 2.6), (0.7, 1.0), (0.7, 1.0)),
    "bed": ((0.9, 2.0), (1.9, 2.3), (0.7, 1.3)),
    "desk": ((1.0, 1.7), (0.55, 0.85), (0.7, 0.8)),
    "dining table": ((1.1, 2.0), (0.7, 1.0), (0.7, 0.8)),
    "wardrobe": ((0.8, 2.1), (0.5, 0.7), (1.8, 2.3)),
    "toilet": ((0.33, 0.5), (0.55, 0.8), (0.65, 1.0)),
    "bathtub": ((1.4, 1.8), (0.65, 0.85), (0.45, 0.8)),
    "refrigerator": ((0.55, 0.8), (0.55, 0.85), (1.4, 2.0)),
    "door": ((0.8, 1.1), (0.02, 0.12), (1.95, 2.25)),
    "bottle": ((0.05, 0.1), (0.05, 0.1), (0.15, 0.4)),
}


@cache
def room(seed):
    return build_room(np.random.default_rng(seed))


@cache
def path(seed, frames=24):
    return camera_path(np.random.default_rng(seed), room(seed), frames)


def boxes_of(objects):
    rotations = np.stack([item.pose[:3, :3] for item in objects])
    return Boxes(np.stack([item.center for item in objects]), np.stack([item.size for item in objects]), rotations)


def furniture_of(seed):
    return [item for item in room(seed).objects if item.label not in SHELL]


# Pieces


def test_pieces_are_put_on_the_ground_and_centred():
    piece = assemble([box(GREY, (1, 2, 3), (3, 3, 7), "block")], {})
    np.testing.assert_allclose([piece.low, piece.high], [(-1, -0.5, 0), (1, 0.5, 4)])


def test_leaning_moves_the_top_back():
    slat = leaned(box(GREY, (-0.1, 0, 0), (0.1, 0.02, 1), "slat"), np.pi / 6, (0, 0, 0))
    # by hand: the far corner (y 0.02, z 1) goes to 0.02 cos 30 + sin 30, and -0.02 sin 30 + cos 30
    assert slat.bounds()[1][1] == pytest.approx(0.02 * np.cos(np.pi / 6) + 0.5)
    assert slat.bounds()[1][2] == pytest.approx(np.cos(np.pi / 6))


def test_a_rod_reaches_from_its_start_to_its_end():
    bar = rod(GREY, (0, 0, 1), (0, 2, 1), 0.1, "bar")
    np.testing.assert_allclose(bar.bounds(), [(-0.05, 0, 0.95), (0.05, 2, 1.05)], atol=1e-12)


def test_linear_light_of_middle_grey():
    assert linear(188, 188, 188)[0] == pytest.approx(0.5029, abs=1e-4)
    assert linear(0, 255, 0) == (0, 1, 0)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_sound_with_every_seed(name):
    looks = set()
    for seed in range(12):
        piece = KINDS[name].build(np.random.default_rng(seed))
        bounds = np.array([part.bounds() for part in piece.parts])
        assert piece.low[2] == pytest.approx(0, abs=1e-9)
        np.testing.assert_allclose((piece.low + piece.high)[:2], 0, atol=1e-9)
        np.testing.assert_allclose([piece.low, piece.high], [bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)])
        assert all((part.size > 0).all() and part.name for part in piece.parts)
        assert all(0 <= value <= 1 for part in piece.parts for value in part.material.color)
        assert piece.attributes["color"] in SHADES
        assert piece.attributes["material"]
        assert 1 <= len(piece.parts) <= 36
        for low, high in zip(piece.low, piece.high, strict=True):
            assert high - low > 0.005
        looks.add((tuple(piece.high), piece.attributes["color"]))
    assert len(looks) > 4


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_real_things(name):
    for seed in range(30):
        piece = KINDS[name].build(np.random.default_rng(seed))
        for value, (least, most) in zip(piece.high - piece.low, SIZES[name], strict=True):
            assert least <= value <= most


@pytest.mark.parametrize("name", ["bed", "couch", "desk", "coffee table", "night stand", "dresser", "round table"])
def test_a_top_is_the_upper_side_of_a_part(name):
    for seed in range(10):
        piece = KINDS[name].build(np.random.default_rng(seed))
        (top,) = piece.tops
        middle = 0.3 * np.array([top.x[0], top.y[0]]) + 0.7 * np.array([top.x[1], top.y[1]])  # beside any seam
        bounds = [part.bounds() for part in piece.parts]
        under = [high[2] for low, high in bounds if (low[:2] < middle).all() and (middle < high[:2]).all()]
        assert max(under) == pytest.approx(top.z, abs=1e-9)


def test_the_back_of_a_chair_is_at_its_back():
    for name in ("dining chair", "office chair", "armchair"):
        piece = KINDS[name].build(np.random.default_rng(0))
        highest = max(piece.parts, key=lambda part: part.bounds()[1][2])
        assert highest.center[1] > 0.1


def test_all_classes_of_the_benchmark_can_be_built():
    assert set(TWENTY) <= set(FURNITURE)
    assert {"window", "shelf", "curtain", "plant", "picture", "book", "bottle", "towel", "sink"} <= set(FURNITURE)


def test_the_color_word_is_true_of_the_material():
    rng = np.random.default_rng(0)
    for word, channel in (("red", 0), ("green", 1), ("blue", 2)):
        look = finish(rng, "fabric", word)
        assert isinstance(look, Finish)
        assert look.color == word
        assert int(np.argmax(look.material.color)) == channel


# Placing


def small_room():
    placer = Placer(np.random.default_rng(0), np.array([4.0, 3.0, 2.5]))
    for label in ("floor", "ceiling", "wall", "wall", "wall", "wall"):
        slab = assemble([box(GREY, (0, 0, 0), (1, 1, 0.1), "slab")], {"color": "gray", "material": "plaster"})
        placer.add(label, slab, upright_pose(0, 0, -1, 0), None)
    return placer


def block(width, depth, height):
    part = box(GREY, (-width / 2, -depth / 2, 0), (width / 2, depth / 2, height), "block")
    return assemble([part], {"color": "gray", "material": "wooden"})


@pytest.mark.parametrize("wall", range(4))
def test_what_stands_at_a_wall_has_its_back_there(wall):
    placer = small_room()
    item = placer.at_wall("dresser", wall=wall, along=0.3, piece=block(1.0, 0.4, 0.8))
    outward = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][wall])
    thing = placer.objects[item]
    np.testing.assert_allclose(thing.front[:2], -outward, atol=1e-12)
    gap = placer.size[:2] @ np.abs(outward) / 2 - (thing.footprint() @ outward).max()
    assert 0 < gap < 0.031
    # along: to the right of who looks at the wall; at the wall +y that is +x, at the wall +x it is -y
    right = np.array([outward[1], -outward[0]])
    assert thing.center[:2] @ right == pytest.approx(0.3)
    assert placer.along(item) == pytest.approx(0.3)


def test_two_things_do_not_share_a_place_but_may_touch():
    placer = small_room()
    first = placer.put("dresser", block(1, 1, 1), upright_pose(0, 0, 0, 0), 0)
    assert first == 6
    assert placer.put("dresser", block(1, 1, 1), upright_pose(0.99, 0, 0, 0), 0) is None
    assert placer.put("dresser", block(1, 1, 1), upright_pose(1.0, 0, 0, 0), 0) == 7
    # turned by 45 degrees a corner reaches 0.707 m: its middle must be 1.207 m away
    turned = block(1, 1, 1)
    assert placer.put("dresser", turned, upright_pose(-1.2, 0, 0, np.pi / 4), 0) is None
    assert placer.put("dresser", turned, upright_pose(-1.208, 0, 0, np.pi / 4), 0) == 8


def test_nothing_stands_outside_or_where_the_floor_is_kept_free():
    placer = small_room()
    assert placer.put("dresser", block(1, 1, 1), upright_pose(1.51, 0, 0, 0), 0) is None
    first = placer.at_wall("dresser", wall=1, along=0.0, piece=block(0.8, 0.4, 1), clear=0.5)
    before = upright_pose(0, 0.8, 0, 0)
    assert placer.put("bin", block(0.3, 0.3, 0.3), before, 0) is None
    assert placer.put("bin", block(0.3, 0.3, 0.3), before, 0, near=(first,)) is not None


def test_a_piece_that_would_cut_the_floor_in_two_is_left_out():
    placer = small_room()
    assert placer.put("couch", block(0.8, 2.9, 0.8), upright_pose(0, 0, 0, 0), 0) is None


def test_a_chair_goes_under_a_table_but_not_through_its_legs():
    top = box(GREY, (-0.6, -0.4, 0.7), (0.6, 0.4, 0.75), "top")
    leg = box(GREY, (-0.05, -0.4, 0), (0.05, -0.3, 0.7), "leg")
    stool = post(GREY, (0.0, -0.35), (0, 0.5), 0.3, "stool")
    assert not parts_meet([top], [stool])
    assert parts_meet([top, leg], [stool])


# Rooms


@pytest.mark.parametrize("seed", SEEDS)
def test_ids_count_from_zero_and_walls_bound_the_room(seed):
    this = room(seed)
    assert [item.id for item in this.objects] == list(range(len(this.objects)))
    assert [item.label for item in this.objects[:6]] == ["floor", "ceiling", "wall", "wall", "wall", "wall"]
    assert (this.size >= (3, 3, 2.3)).all()
    assert (this.size <= (8, 7, 3)).all()
    shell = boxes_of(this.objects[:6])
    # a point 5 cm beyond each inner side, wherever along it, is in a slab: nothing looks out of the room
    rng = np.random.default_rng(seed)
    reach = this.size / 2 + 0.05
    for axis in range(3):
        points = rng.uniform(-1, 1, (40, 3)) * reach
        points[:, axis] = np.sign(points[:, axis]) * reach[axis]
        points[:, 2] += this.size[2] / 2
        local = np.einsum("nij,mni->mnj", shell.rotations, points[:, None] - shell.centers)
        assert (np.abs(local) <= shell.sizes / 2 + 1e-9).all(axis=-1).any(axis=-1).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_intersects_and_all_is_within_the_walls(seed):
    things = [item for item in furniture_of(seed) if item.label != "rug"]
    for item in furniture_of(seed):
        assert (np.abs(item.footprint()) <= room(seed).size[:2] / 2 + 1e-3).all()
        assert item.center[2] + item.size[2] / 2 <= room(seed).size[2] + 1e-3
    boxes = boxes_of(things)
    shared = iou_matrix(Boxes(boxes.centers, np.maximum(boxes.sizes - 2e-3, 1e-4), boxes.rotations), boxes) > 0
    for i, j in np.argwhere(np.triu(shared, 1)):
        a, b = things[i], things[j]
        labels = {a.label, b.label}
        pushed_under = labels in ({"chair", "table"}, {"chair", "desk"}, {"computer", "desk"})
        assert pushed_under or a.support == b.id or b.support == a.id, (a.label, b.label)
        assert not parts_meet(a.parts, b.parts), (a.label, b.label)


@pytest.mark.parametrize("seed", SEEDS)
def test_things_rest_on_what_they_say_they_rest_on(seed):
    this = room(seed)
    for item in furniture_of(seed):
        support, bottom = this.object(item.support), item.center[2] - item.size[2] / 2
        if support.label == "wall":
            inner = support.local(np.array([item.pose @ (0, item.high[1], 0, 1)])[..., :3])[0, 1]
            assert inner == pytest.approx(support.low[1], abs=1e-3)
        elif support.label == "ceiling":
            assert item.center[2] + item.size[2] / 2 == pytest.approx(this.size[2], abs=1e-3)
        else:
            tops = [part.bounds()[1][2] for part in support.parts]
            assert min(abs(top - bottom) for top in tops) < 1e-3, item.label
            corners = support.local(np.column_stack([item.footprint(), np.zeros(4)]))[:, :2]
            assert (corners > support.low[:2] - 0.02).all(), item.label
            assert (corners < support.high[:2] + 0.02).all(), item.label
            assert item.label == "pillow" or support.label not in {"bed", "couch", "chair"}, item.label


@pytest.mark.parametrize("seed", SEEDS)
def test_the_floor_before_the_door_is_free(seed):
    (door,) = (item for item in furniture_of(seed) if item.label == "door")
    size = np.array([door.size[0], 0.85, 1.9])
    middle = door.center + (door.size[1] / 2 + 0.85 / 2) * door.front
    before = Boxes([[*middle[:2], 1.0]], [size], door.pose[None, :3, :3])
    standing = [item for item in furniture_of(seed) if item.support == 0 and item.label != "rug"]
    assert iou_matrix(before, boxes_of(standing)).max() < 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_lights_are_in_the_room_and_not_in_solids(seed):
    this = room(seed)
    assert 1 <= len(this.lights) <= 3
    for light in this.lights:
        place = np.array(light.position)
        assert (np.abs(place[:2]) < this.size[:2] / 2).all()
        assert 0 < place[2] < this.size[2]
        for item in this.objects:
            local = item.local(place)
            inside = (item.low < local).all() and (local < item.high).all()
            assert not inside or item.label == "lamp"  # in the shade, which glows


def test_rooms_hold_all_twenty_classes_and_several_of_a_kind():
    counts = [Counter(item.label for item in furniture_of(seed)) for seed in SEEDS]
    assert set(TWENTY) <= set().union(*counts)
    assert {"window", "shelf", "curtain", "plant", "picture", "book", "bottle", "towel", "sink", "door"} <= set().union(
        *counts
    )
    several = [sum(1 for label, n in count.items() if n >= 2 and label != "light") for count in counts]
    assert np.mean(np.array(several) >= 3) > 0.7
    assert all(count["door"] == 1 for count in counts)


def test_a_chair_at_a_desk_looks_at_it():
    found = 0
    for seed in SEEDS:
        desks = [item for item in furniture_of(seed) if item.label == "desk"]
        chairs = [item for item in furniture_of(seed) if item.label == "chair"]
        for desk in desks:
            near = [c for c in chairs if np.linalg.norm((c.center - desk.center)[:2] - 0.5 * desk.front[:2]) < 0.5]
            for chair in near:
                found += 1
                assert chair.front @ desk.front < -0.8
    assert found > 5


def test_the_same_seed_gives_the_same_room_and_another_another():
    first, again, other = (build_room(np.random.default_rng(seed)) for seed in (3, 3, 4))
    for a, b in zip(first.objects, again.objects, strict=True):
        assert (a.label, a.attributes, a.support) == (b.label, b.attributes, b.support)
        np.testing.assert_array_equal(a.pose, b.pose)
        for p, q in zip(a.parts, b.parts, strict=True):
            np.testing.assert_array_equal(p.size, q.size)
            assert p.material == q.material
    assert not np.array_equal(first.size, other.size)


@pytest.mark.parametrize("name", RECIPES)
def test_every_kind_of_room_can_be_furnished(name):
    sizes = [RECIPES[name].length, RECIPES[name].width]
    for end in (0, 1):
        placer = Placer(np.random.default_rng(end), np.array([sizes[0][end], sizes[1][end], 2.4]))
        RECIPES[name].furnish(placer)
        assert len(placer.objects) >= 3


# Camera paths


@pytest.mark.parametrize("seed", SEEDS)
def test_the_camera_keeps_its_distance(seed):
    places = path(seed).poses[:, :3, 3]
    assert (np.abs(places[:, :2]) <= room(seed).size[:2] / 2 - MARGIN + 1e-6).all()
    assert (places[:, 2] > 0.9).all()
    assert (places[:, 2] < 1.8 + 1e-6).all()
    for item in room(seed).objects:
        if item.label in SHELL:
            continue
        beyond = np.abs(item.local(places) - (item.low + item.high) / 2) - item.size / 2
        # the grid's cells are 8 cm: half a diagonal may be lost between two of them
        assert (np.linalg.norm(np.maximum(beyond, 0), axis=1) > MARGIN - 0.06).all(), item.label


@pytest.mark.parametrize("seed", SEEDS)
def test_the_camera_moves_like_a_hand_held_one(seed):
    this = path(seed)
    poses = check_pose(this.poses)
    steps = np.diff(this.times)
    assert (steps > 0.2).all()
    assert (steps < 0.5).all()
    moved = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    assert (moved / steps < 0.75).all()
    turned = np.einsum("nij,nij->n", poses[1:, :3, :3], poses[:-1, :3, :3])
    assert (np.degrees(np.arccos(np.clip((turned - 1) / 2, -1, 1))) < 30).all()
    assert moved.sum() > 0.3
    forward, right = poses[:, :3, 2], poses[:, :3, 0]
    tilt = np.degrees(np.arcsin(forward[:, 2]))
    assert (tilt < -5).all()
    assert (tilt > -35).all()
    assert (np.abs(np.degrees(np.arcsin(right[:, 2]))) < 5).all()
    assert (poses[:, 2, 1] < -0.7).all()  # the picture's down is the world's down


@pytest.mark.parametrize("seed", range(20))
def test_intrinsics_have_square_pixels_and_a_common_field_of_view(seed):
    this = camera_path(np.random.default_rng(seed), room(0), 4, (320, 240))
    matrix = this.intrinsics
    assert matrix[0, 0] == matrix[1, 1]
    assert 50 <= np.degrees(2 * np.arctan(160 / matrix[0, 0])) <= 85
    np.testing.assert_allclose(matrix[:2, 2], [159.5, 119.5], atol=3.2)
    assert this.poses.shape == (4, 4, 4)
    assert this.times[0] == 0


def test_long_paths_see_most_of_the_room():
    shares = []
    for seed in range(8):
        this = path(seed, 48)
        things = np.array([item.center for item in furniture_of(seed)])
        local = np.einsum("fij,fni->fnj", this.poses[:, :3, :3], things - this.poses[:, None, :3, 3])
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = local[..., :2] / local[..., 2:] * this.intrinsics[0, 0] + this.intrinsics[:2, 2]
        seen = (local[..., 2] > 0.3) & (pixels >= 0).all(axis=-1) & (pixels < this.size).all(axis=-1)
        shares.append(seen.any(axis=0).mean())
    assert np.mean(shares) > 0.7


def test_paths_are_the_same_for_the_same_seed():
    first, again = (camera_path(np.random.default_rng(5), room(5), 6) for _ in range(2))
    np.testing.assert_array_equal(first.poses, again.poses)


def test_a_path_without_frames_is_refused():
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        camera_path(np.random.default_rng(0), room(0), 0)


@pytest.mark.parametrize("seed", range(5))
def test_a_robots_camera_is_always_the_same_one_and_stays_level(seed):
    this = camera_path(np.random.default_rng(seed), room(seed), 6, (320, 240), RIGS["robot"])
    assert np.degrees(2 * np.arctan(160 / this.intrinsics[0, 0])) == pytest.approx(70)
    np.testing.assert_allclose(this.intrinsics[:2, 2], [159.5, 119.5])
    np.testing.assert_allclose(this.poses[:, 2, 3], 1.4)
    np.testing.assert_allclose(np.degrees(np.arcsin(this.poses[:, 2, 2])), -20)
    np.testing.assert_allclose(this.poses[:, 2, 0], 0, atol=1e-12)
    assert np.ptp(this.poses[:, :2, 3], axis=0).max() > 0.01  # it drives
