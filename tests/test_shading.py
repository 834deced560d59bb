"""The renderer's colours: shadows, glow, exposure, textures; and how fast it is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from primitive_rooms import GRAY, camera, looking, part, pose_at, random_path, random_room, reference_part, room_of
from scipy import ndimage
from typer.testing import CliRunner

from gapmllm.bench.synth import bench_synth
from gapmllm.cli.main import app
from gapmllm.geometry import unproject
from gapmllm.scenes.synth.render import render
from gapmllm.scenes.synth.room import Light, Material


def brightness(result, *pixel):
    x, y = pixel
    return result.images[0, y - 1 : y + 2, x - 1 : x + 2].mean()


def lit_floor(*things, light=(0.0, 2.0, 3.0)):
    floor = part("box", (0, 2, -0.05), (8, 8, 0.1))
    return room_of(floor, *things, lights=[Light(position=light, color=(6, 6, 6))])


DOWN = pose_at((0, 2, 2.5), np.diag([1.0, -1, -1]))  # from above: x right, y up in the picture


def test_behind_an_occluder_it_is_darker_than_beside_it():
    board = part("box", (0.5, 2, 1), (0.2, 0.2, 0.02))
    # by hand: light at x = 0, 3 m up; the board, 1 m up at x = 0.5, hides the floor around 0.5 * 3 / 2 = 0.75. The
    # camera stands at x = 2, 2.5 m up, so that the board is not in its way.
    aside = DOWN.copy()
    aside[0, 3] = 2.0
    result = render(lit_floor(board), camera(aside, size=(65, 49), focal=40.0), seed=0)
    shadow, mirrored = (round(32 + 40 * (x - 2) / 2.5) for x in (0.75, 1.25))
    assert result.ids[0, 24, shadow] == result.ids[0, 24, mirrored] == 10
    assert brightness(result, shadow, 24) < 0.75 * brightness(result, mirrored, 24)
    assert brightness(result, shadow, 24) > 20  # not black: light from everywhere


@pytest.mark.parametrize("seed", range(6))
def test_shadows_agree_with_a_cast_in_float64(seed):
    room, path = random_room(seed, count=40), random_path(seed, frames=1, size=(96, 72))
    parts = [replace(p, material=GRAY) for item in room.objects for p in item.parts]
    lamp = np.array([0.5, -1.5, 2.0])
    room = room_of(*parts, lights=[Light(position=tuple(lamp), color=(9, 9, 9))], ambient=(0, 0, 0))
    result = render(room, path, seed=seed)
    points, normals = unproject(result.depth[0], path.intrinsics, path.poses[0]), result.normals[0]
    ways = points + 2e-3 * normals - lamp  # lifted off the surface, as a point on it is at t = 1 of its own thing
    length = np.linalg.norm(ways, axis=-1)
    falling = -(ways * normals).sum(-1) / length**3  # cosine over the squared distance
    usable = (result.parts[0] >= 0) & (falling > 0.3 * np.nanmedian(falling[falling > 0]))
    shaded = np.zeros(usable.shape, dtype=bool)
    for p in parts:
        shaded[usable] |= reference_part(p, lamp, ways[usable])[0] < 1
    # The lens mixes a pixel with its neighbours: only those that have neighbours of their own kind.
    alike = [ndimage.minimum_filter(mask, 3) for mask in (usable & shaded, usable & ~shaded)]
    bright = result.images[0].mean(-1)
    dark, lit = (bright[mask] for mask in alike)
    assert min(len(dark), len(lit)) > 60
    assert (dark > 45).mean() < 0.003
    assert (lit < 60).mean() < 0.003


@pytest.mark.parametrize("shape", ["box", "frustum", "ellipsoid"])
def test_the_shadow_has_the_things_outline(shape):
    thing = part(shape, (0, 2, 0.5), (0.8, 0.8, 0.2))
    pose = pose_at((0, 2, 40), np.diag([1.0, -1, -1]))
    result = render(lit_floor(thing, light=(0, 2, 1.5)), camera(pose, size=(129, 129), focal=1600.0), seed=0)
    # by hand: seen from 40 m straight down, 40 pixels to the metre. Box and cylinder shade widest with the top, 0.6 m
    # high, 0.9 m under the light: 0.4 * 1.5 / 0.9 = 0.667 m, 26.7 pixels from the middle; the thing covers 16.
    row = result.images[0, 64].mean(axis=-1)
    lit, dark = row[64 + 34], row[64 + 20]
    assert result.ids[0, 64, 64 + 20] == 10
    edge = int(np.flatnonzero(row[64 + 17 :] > (lit + dark) / 2)[0]) + 17
    if shape == "ellipsoid":  # tangent from 1 m above the centre to the ellipse with half axes 0.4 and 0.1
        assert edge == pytest.approx(40 * 1.5 * 0.4 / np.sqrt(1 - 0.01), abs=1.5)
    else:
        assert edge == pytest.approx(26.7, abs=1.5)


def test_no_surface_shades_itself():
    # A ball and a cone under a light over the camera: no dark speckle, so neighbours differ little.
    ball, cone = (
        part("ellipsoid", (-0.6, 3, 0.4), (0.8, 0.8, 0.8)),
        part("frustum", (0.6, 3, 0.4), (0.8, 0.8, 0.8), top=0),
    )
    room = lit_floor(ball, cone, light=(0.0, -3.0, 4.0))
    result = render(room, camera(looking((0, -0.5, 1), (0, 3, 0.3)), size=(96, 72), focal=80.0), seed=0)
    inner = result.parts[0]
    same = (inner[1:-1, 1:-1] == inner[1:-1, 2:]) & (inner[1:-1, 1:-1] == inner[2:, 1:-1]) & (inner[1:-1, 1:-1] > 0)
    step = np.abs(np.diff(result.images[0].mean(-1), axis=1))[1:-1, 1:]
    assert step[same].max() < 30


def test_what_glows_casts_no_shadow_and_is_bright():
    lamp = part("ellipsoid", (0, 2, 1), (0.4, 0.4, 0.4), replace(GRAY, glow=3.0))
    with_lamp, with_ball = (
        render(lit_floor(thing), camera(looking((0, -1, 1.5), (0, 2, 0.4)), size=(65, 49), focal=40.0), seed=0)
        for thing in (lamp, replace(lamp, material=GRAY))
    )
    (rows, columns) = (with_lamp.parts[0] == 1).nonzero()
    assert with_lamp.images[0, rows, columns].mean() > with_ball.images[0, rows, columns].mean() + 40


def test_what_glows_does_not_darken_the_floor():
    lamp = part("ellipsoid", (0, 2, 1), (0.4, 0.4, 0.4), replace(GRAY, glow=0.5))
    path = camera(pose_at((2.0, 2, 2.5), np.diag([1.0, -1, -1])), size=(65, 49), focal=40.0)
    result = render(lit_floor(lamp, light=(-1.0, 2, 3.0)), path, seed=0)
    # by hand: the light is 3 m up at x = -1, the lamp 1 m up at x = 0: a shadow would lie around x = 0.5
    inside, beside = (round(32 + 40 * (x - 2) / 2.5) for x in (0.5, 1.0))
    assert brightness(result, inside, 24) > brightness(result, beside, 24) - 5


def test_a_light_inside_of_a_thing_shines_out_of_it():
    shade = part("frustum", (0, 2, 1), (0.4, 0.4, 0.4), top=0.5)
    result = render(lit_floor(shade, light=(0, 2, 1)), camera(DOWN, size=(65, 49), focal=40.0), seed=0)
    near, far = result.images[0, 24, [40, 2]].mean(
        axis=-1
    )  # 0.5 and 1.9 m aside; without the light as bright as each other
    assert near > 1.3 * far


def test_one_exposure_for_the_clip_whatever_the_lights_strength():
    lit = lit_floor()
    dim = replace(lit, lights=(replace(lit.lights[0], color=(0.06, 0.06, 0.06)),), ambient=(0.002, 0.002, 0.002))
    path = camera(DOWN)
    bright, dark = (render(room, path, seed=0).images.mean() for room in (lit, dim))
    assert bright == pytest.approx(dark, abs=12)
    assert 80 < bright < 200


@pytest.mark.parametrize("texture", ["plain", "wood", "checker", "stripes", "tiles", "noise", "weave"])
def test_textures_show_near_and_fade_far_away(texture):
    material = Material(color=(0.6, 0.5, 0.4), second=(0.1, 0.1, 0.1), texture=texture, period=0.2)
    floor = part("box", (0, 2, -0.05), (8, 8, 0.1), material)
    room = room_of(floor, lights=[Light(position=(0, 2, 60), color=(9e3, 9e3, 9e3))])
    spreads = []
    for height in (0.6, 30.0):
        path = camera(pose_at((0, 2, height), np.diag([1.0, -1, -1])), size=(128, 96), focal=120.0)
        result = render(room, path, seed=0)
        spreads.append(np.std(result.images[0, 42:54, 58:70].mean(-1) if height > 1 else result.images[0].mean(-1)))
    assert spreads[0] < 6 if texture == "plain" else spreads[0] > 7
    assert spreads[1] < 3


def test_a_texture_sticks_to_its_thing():
    material = Material(color=(0.8, 0.8, 0.8), second=(0.1, 0.1, 0.1), texture="noise", period=0.5)
    images = []
    for shift in (0.0, 1.3):  # thing, light and camera move together: only noise and the room's corners may differ
        thing = part("box", (shift, 2, 0), (2, 0.5, 2), material)
        room = room_of(thing, lights=[Light(position=(shift, 0, 1), color=(3, 3, 3))], ambient=(0, 0, 0))
        images.append(render(room, camera(pose_at((shift, 0, 0))), seed=0).images[0].astype(int))
    assert np.abs(images[0] - images[1]).mean() < 2
    assert images[0].std() > 20


def test_the_benchmark_measures_furnished_rooms(tmp_path):
    out = tmp_path / "synth.json"
    result = CliRunner().invoke(app, ["bench", "synth", "--frames", "1", "--device", "cpu", "--out", str(out)])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(out.read_text())
    assert row["primitives, median"] > 50
    assert row["frames/s, slowest room"] <= row["frames/s, median"] <= row["frames/s, fastest room"]


def test_the_benchmark_says_which_devices_there_are():
    with pytest.raises(ValueError, match="this machine can render on cpu"):
        bench_synth(frames=1, device="abacus")
