"""The renderer's geometry: depths known by hand, an independent cast in float64, triangles, views that must agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from primitive_rooms import camera, looking, part, pose_at, random_path, random_room, reference_part, room_of

from gapmllm.geometry import euler_to_matrix, project, transform_points, unproject
from gapmllm.scenes.synth.layout import build_room
from gapmllm.scenes.synth.render import render

# --- by hand ---------------------------------------------------------------------------------------------------------


def test_a_wall_two_metres_ahead_is_at_depth_two_in_every_pixel_that_meets_it():
    result = render(room_of(part("box", (0, 2.5, 0), (4, 1, 0.8))), camera(), seed=0)
    # by hand: 0.4 m above and below at 2 m with focal length 30 is 6 pixels up and down from the middle row 12
    np.testing.assert_allclose(result.depth[0, 7:18], 2, atol=1e-6)
    assert (result.depth[0, [5, 19]] == 0).all()
    assert (result.ids[0, 7:18] == 10).all()
    assert (result.ids[0, 5] == -1).all()
    assert (result.parts[0, 7:18] == 0).all()
    assert (result.parts[0, 5] == -1).all()
    np.testing.assert_allclose(result.normals[0, 12, 16], (0, -1, 0), atol=1e-7)
    assert (result.normals[0, 5] == 0).all()


def test_the_pixels_centre_is_what_counts():
    edge = part("box", (0.5, 1.5, 0), (1, 1, 2))  # its left face is the plane x = 0
    path = camera(size=(5, 5), focal=4.0)
    for shift, first in ((0.01, 2), (-0.01, 3)):  # the middle pixel's ray is x = 0 exactly
        result = render(room_of(edge), replace(path, poses=np.array([pose_at((shift, 0, 0))])), seed=0)
        assert (result.ids[0, 2] == [-1] * first + [10] * (5 - first)).all()


def test_the_middle_of_a_ball_is_its_radius_nearer_than_its_centre():
    result = render(room_of(part("ellipsoid", (0, 3, 0), (1, 1, 1))), camera(), seed=0)
    assert result.depth[0, 12, 16] == pytest.approx(2.5, abs=1e-6)
    # by hand: the outline is where sin(angle) = 0.5 / 3, so 30 tan(asin(1 / 6)) = 5.07 pixels from the middle
    assert (result.ids[0, 12] == 10).nonzero()[0].tolist() == list(range(11, 22))


def test_a_cylinder_seen_from_the_side_and_from_above():
    post = part("frustum", (0, 2, 0), (1, 1, 2))
    result = render(room_of(post), camera(), seed=0)
    assert result.depth[0, 12, 16] == pytest.approx(1.5, abs=1e-6)
    x = 5 / 30  # five pixels to the right: the ray meets x^2 + (y - 2)^2 = 1/4 at y = t, x = t / 6
    t = (4 - np.sqrt(16 - 4 * (1 + x * x) * 3.75)) / 2 / (1 + x * x)
    assert result.depth[0, 12, 21] == pytest.approx(t, abs=1e-5)
    np.testing.assert_allclose(result.normals[0, 12, 21], (2 * x * t, 2 * (t - 2), 0), atol=1e-5)
    above = render(room_of(post), camera(pose_at((0, 2, 4), np.diag([1.0, -1, -1]))), seed=0)
    assert above.depth[0, 12, 16] == pytest.approx(3, abs=1e-6)
    np.testing.assert_allclose(above.normals[0, 12, 16], (0, 0, 1), atol=1e-7)


def test_the_side_of_a_frustum_slants():
    cup = part("frustum", (0, 2, 0), (1, 1, 1), bottom=0.5)
    result = render(room_of(cup), camera(), seed=0)
    # by hand: the radius grows from 1/4 to 1/2 over 1 m of height; 3/8 half-way. The normal leans down by 1 : 4.
    assert result.depth[0, 12, 16] == pytest.approx(1.625, abs=1e-6)
    np.testing.assert_allclose(result.normals[0, 12, 16], np.array([0, -4, -1]) / np.sqrt(17), atol=1e-6)


def test_a_thin_leg_far_away_keeps_its_shape():
    # 2 cm thick, 9 m away, seen by a long lens: the quadratic's terms are some 200000 times its result.
    leg = part("frustum", (0, 9, 0), (0.02, 0.02, 1))
    path = camera(size=(41, 5), focal=17000.0)
    result = render(room_of(leg), path, seed=0)
    x = (np.arange(41) - 20) * 9 / 17000  # half a millimetre per pixel
    seen = np.abs(x) < 0.01
    assert (result.ids[0, 2] == 10).nonzero()[0].tolist() == seen.nonzero()[0].tolist()
    np.testing.assert_allclose(result.depth[0, 2][seen], 9 - np.sqrt(0.0001 - x[seen] ** 2), atol=1e-4)


def test_squashed_shapes_have_the_normals_of_their_squashed_surface():
    egg = part("ellipsoid", (0, 2, 0), (2, 1, 1))
    result = render(room_of(egg), camera(), seed=0)
    row, column = 12, 22
    x, y, _ = transform_points(unproject(result.depth[0], camera().intrinsics)[row, column], pose_at((0, 0, 0)))
    gradient = np.array([x, (y - 2) / 0.25, 0])  # of x^2 / 1 + (y - 2)^2 / 0.25 + z^2 / 0.25
    np.testing.assert_allclose(result.normals[0, row, column], gradient / np.linalg.norm(gradient), atol=1e-5)


def test_the_nearer_thing_hides_the_farther_and_a_camera_inside_of_a_thing_looks_through_it():
    near, far, around = (part("box", (0, y, 0), (side, side, side)) for y, side in ((2, 0.2), (3, 1), (0, 0.5)))
    result = render(room_of(far, near, around), camera(), seed=0)
    assert result.ids[0, 12, 16] == 11
    assert result.ids[0, 12, 11] == 10


def test_a_room_without_parts_is_refused():
    with pytest.raises(ValueError, match="no parts to render"):
        render(room_of(), camera(), seed=0)


# --- against independent casts ---------------------------------------------------------------------------------------


def reference(room, path, frame):
    """Depth, part and normal of each pixel (N,), computed another way than the renderer's: half-spaces, float64."""
    width, height = path.size
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    focal, middle = path.intrinsics[0, 0], path.intrinsics[:2, 2]
    pose = path.poses[frame]
    rays = np.column_stack([(grid - middle) / focal, np.ones(len(grid))]) @ pose[:3, :3].T
    parts = [p for item in room.objects for p in item.parts]
    entries, normals = np.full((len(parts), len(grid)), np.inf), np.zeros((len(parts), len(grid), 3))
    for i, p in enumerate(parts):
        offset, radius = p.center - pose[:3, 3], np.linalg.norm(p.size) / 2
        near = np.linalg.norm(np.cross(rays, offset), axis=1) < radius * np.linalg.norm(rays, axis=1) + 1e-6
        entries[i, near], normals[i, near] = reference_part(p, pose[:3, 3], rays[near])
    owner, every = entries.argmin(0), np.arange(len(grid))
    depth = entries[owner, every]
    return np.where(np.isfinite(depth), depth, 0), np.where(np.isfinite(depth), owner, -1), normals[owner, every]


def assert_agrees(room, path, result, wrong_at_most=0.004):
    parts = [p for item in room.objects for p in item.parts]
    is_frustum = np.array([p.shape == "frustum" for p in parts] + [False])
    owners = np.array([item.id for item in room.objects for _ in item.parts] + [-1])
    for frame in range(len(path.poses)):
        depth, owner, normal = reference(room, path, frame)
        ours = {name: getattr(result, name)[frame].reshape(len(depth), -1) for name in ("depth", "parts", "normals")}
        same = ours["parts"][:, 0] == owner
        wrong = ~same & (np.abs(ours["depth"][:, 0] - depth) > 1e-3)  # not: two faces in one plane
        assert wrong.mean() < wrong_at_most  # rays along an edge
        assert (~same).mean() < 0.02
        np.testing.assert_array_equal(result.ids[frame].ravel(), owners[ours["parts"][:, 0]])
        seen = same & (owner >= 0)
        far = np.abs(ours["depth"][:, 0] - depth)
        assert far[seen & ~is_frustum[owner]].max(initial=0) < 2e-4
        round_sides = far[seen & is_frustum[owner]]  # the reference's are 180 planes
        assert len(round_sides) < 30 or np.quantile(round_sides, 0.97) < 1e-3
        turn = (ours["normals"] * normal).sum(1)[seen]
        assert (turn < 0.999).mean() < 0.01
        np.testing.assert_allclose(np.linalg.norm(ours["normals"][seen], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_random_primitives_agree_with_a_cast_in_float64(seed):
    room, path = random_room(seed), random_path(seed)
    assert_agrees(room, path, render(room, path, seed=seed))


@pytest.mark.parametrize("seed", range(3))
def test_no_tile_misses_the_wide_end_of_a_cone(seed):
    room, path = random_room(seed, count=60, shapes=("frustum",)), random_path(seed, frames=1, size=(96, 72))
    assert_agrees(room, path, render(room, path, seed=seed), wrong_at_most=0.001)


@pytest.mark.parametrize("seed", range(20))
def test_furnished_rooms_agree_with_a_cast_in_float64(seed):
    rng = np.random.default_rng(seed)
    room = build_room(rng)
    x, y, height = room.size / 2
    path = camera(looking((-0.6 * x, -0.6 * y, 1.5), (0.3 * x, 0.4 * y, 0.4 * height)), size=(40, 30), focal=24.0)
    result = render(room, path, seed=seed)
    assert_agrees(room, path, result)
    assert len(np.unique(result.ids)) >= 5


def mesh_of(thing):
    if thing.shape == "box":
        mesh = trimesh.creation.box((1, 1, 1))
    elif thing.shape == "ellipsoid":
        mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    else:
        outline = [[0, -0.5], [thing.bottom / 2, -0.5], [thing.top / 2, 0.5], [0, 0.5]]
        mesh = trimesh.creation.revolve(outline, sections=48)
    mesh.apply_transform(pose_at(thing.center, thing.rotation * thing.size))
    return mesh


def triangle_cast(room, path):
    """Depth, part and normal of each pixel (N,) of the first frame, by trimesh's rays against triangles."""
    meshes = [mesh_of(p) for item in room.objects for p in item.parts]
    triangles = trimesh.util.concatenate(meshes)
    owner = np.repeat(np.arange(len(meshes)), [len(m.faces) for m in meshes])
    width, height = path.size
    pixels = np.indices((height, width))[::-1].reshape(2, -1).T
    rays = np.column_stack([(pixels - path.intrinsics[:2, 2]) / path.intrinsics[0, 0], np.ones(len(pixels))])
    world = rays @ path.poses[0, :3, :3].T
    eyes = np.broadcast_to(path.poses[0, :3, 3], world.shape)
    points, ray, face = triangles.ray.intersects_location(eyes, world, multiple_hits=True)
    depth = project(points, path.intrinsics, path.poses[0])[1]
    order = np.lexsort((depth, ray))
    ray, first = np.unique(ray[order], return_index=True)
    assert len(ray) == len(pixels)  # a room is closed
    face = face[order][first]
    return depth[order][first], owner[face], triangles.face_normals[face]


@pytest.mark.parametrize("seed", range(20))
def test_furnished_rooms_agree_with_triangles(seed):
    room = build_room(np.random.default_rng(100 + seed))
    x, y, height = room.size / 2
    path = camera(looking((0.6 * x, -0.6 * y, 1.6), (-0.3 * x, 0.4 * y, 0.3 * height)), size=(20, 15), focal=12.0)
    result = render(room, path, seed=seed)
    depth, owner, normal = triangle_cast(room, path)
    far = np.abs(result.depth[0].ravel() - depth)
    same = result.parts[0].ravel() == owner
    assert (same | (far < 1e-3)).mean() > 0.97  # else: rays along an edge, or past the corners of a round mesh
    parts = [p for item in room.objects for p in item.parts]
    flat = np.array([p.shape == "box" for p in parts])[owner] & same
    assert far[flat].max() < 1e-4
    assert np.quantile(far[same], 0.98) < 5e-3  # a round mesh lies inside of the true surface
    facing = (result.normals[0].reshape(-1, 3) * normal).sum(axis=1)
    assert (facing[flat] > 0.9999).mean() > 0.995  # rays along an edge meet the other face
    assert (facing[same] > 0.9).mean() > 0.98
    owners = np.array([item.id for item in room.objects for _ in item.parts])
    np.testing.assert_array_equal(result.ids[0].ravel()[same], owners[owner][same])


# --- views that must agree -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_two_views_of_a_point_agree_within_a_millimetre(seed):
    room = random_room(seed)
    path = replace(random_path(seed, frames=2, size=(160, 120)))
    result = render(room, path, seed=0)
    points = unproject(result.depth[0], path.intrinsics, path.poses[0])
    pixels, expected = project(points, path.intrinsics, path.poses[1])
    nearest = np.nan_to_num(np.round(pixels), nan=-1).astype(int)
    x, y = np.moveaxis(nearest, -1, 0)
    inside = (x > 0) & (x < 159) & (y > 0) & (y < 119) & (result.parts[0] >= 0)
    x, y = x[inside], y[inside]
    # The other view's surface near the pixel is its tangent plane: where does the ray to the exact point meet it?
    there = unproject(result.depth[1], path.intrinsics, path.poses[1])[y, x]
    normal = result.normals[1][y, x]
    eye = path.poses[1][:3, 3]
    ray = (points[inside] - eye) / expected[inside][:, None]
    across = (ray * normal).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = ((there - eye) * normal).sum(1) / across
    is_box = np.array([p.shape == "box" for item in room.objects for p in item.parts])[result.parts[0][inside]]
    same_face = (result.parts[1][y, x] == result.parts[0][inside]) & (
        (result.normals[0][inside] * normal).sum(1) > 0.9999
    )
    covisible = same_face & is_box & (np.abs(across) > 0.05)
    assert covisible.sum() > 500
    assert np.abs(depth - expected[inside])[covisible].max() < 1e-3


def test_points_seen_of_a_thing_lie_on_it():
    room, path = random_room(3), random_path(3, frames=3, size=(80, 60))
    result = render(room, path, seed=0)
    for frame, pose in enumerate(path.poses):
        points = unproject(result.depth[frame], path.intrinsics, pose)
        for item in room.objects:
            own = item.local(points[result.ids[frame] == item.id])
            assert ((own >= item.low - 2e-5) & (own <= item.high + 2e-5)).all()


def test_normals_look_towards_the_camera():
    room, path = random_room(4), random_path(4, frames=2)
    result = render(room, path, seed=0)
    for frame, pose in enumerate(path.poses):
        rays = unproject(result.depth[frame], path.intrinsics, pose) - pose[:3, 3]
        assert ((rays * result.normals[frame]).sum(-1)[result.parts[frame] >= 0] < 1e-4).all()


def test_faces_in_one_plane_do_not_mottle():
    turn = euler_to_matrix([0.3, 0, 0], "zxy")
    # The same front face, 2.5 m ahead along the boxes' own y, of a shallow box and a deep one.
    boxes = [part("box", turn @ (0, 2.5 + deep / 2, 0), (2, deep, 2), rotation=turn) for deep in (0.3, 0.7)]
    result = render(room_of(*boxes), camera(size=(96, 72), focal=60.0), seed=0)
    front = result.normals[0] @ turn[:, 1] < -0.99
    assert front.sum() > 1000
    assert (result.ids[0][front] == 10).all()


def test_frames_do_not_depend_on_their_neighbours():
    room, path = random_room(5), random_path(5, frames=5, size=(256, 192))  # more than one chunk
    one = replace(path, poses=path.poses[3:4], times=path.times[3:4])
    whole, alone = render(room, path, seed=0), render(room, one, seed=0)
    for name in ("depth", "ids", "normals", "parts"):
        np.testing.assert_array_equal(getattr(whole, name)[3], getattr(alone, name)[0])


def test_the_same_seed_gives_the_same_bytes_with_one_thread_and_two():
    room, path = random_room(6), random_path(6, frames=3, size=(250, 190))
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        results.append(render(room, path, seed=9))
    torch.set_num_threads(threads)
    for name in ("images", "depth", "ids", "normals", "parts"):
        first, *others = (getattr(result, name).tobytes() for result in results)
        assert all(first == other for other in others), name
    other = render(room, path, seed=10)
    assert (other.images != results[0].images).mean() > 0.3
    assert (other.depth == results[0].depth).all()
