"""Builds furnished rooms: size, surfaces, door and windows, furniture by the kind of room, pictures, lights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gapmllm.geometry import transform_points
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.synth.furniture_parts import Piece, assemble, box
from gapmllm.scenes.synth.materials import Finish, finish
from gapmllm.scenes.synth.placing import Placer, upright_pose
from gapmllm.scenes.synth.recipes import RECIPES, Recipe, fill
from gapmllm.scenes.synth.room import Color, Light, Room

_THICK = 0.1  # of walls, floor and ceiling, metres
_WARM: Color = (2.6, 2.5, 2.3)  # a ceiling light
_DAY: Color = (1.5, 1.65, 1.8)  # what a window adds
_SHADE: Color = (0.75, 0.62, 0.42)  # a lit lamp
_AMBIENT: Color = (0.34, 0.34, 0.35)


def build_room(rng: np.random.Generator) -> Room:
    """A furnished room, the same for the same random numbers. Never fails: what finds no place is left out.

    Ids are 0 for the floor, 1 for the ceiling, 2 to 5 for the walls (+x, +y, -x, -y), then door, windows and the rest.
    """
    recipe = RECIPES[str(rng.choice(list(RECIPES)))]
    size = np.array([rng.uniform(*recipe.length), rng.uniform(*recipe.width), rng.uniform(2.4, 2.9)])
    placer = Placer(rng, size)
    _add_shell(placer, recipe)
    _add_door(placer)
    for _ in range(int(rng.integers(0 if recipe.wet else 1, 3))):
        _add_window(placer)
    recipe.furnish(placer)
    fill(placer, recipe.fillers, int(rng.uniform(0.2, 0.75) * size[:2].sum()))
    for _ in range(int(rng.integers(recipe.pictures[0], recipe.pictures[1] + 1))):
        placer.at_wall("picture", hung=True, z=(1.2, 1.5), tries=8)
    if not recipe.wet and rng.random() < 0.4:
        placer.at_wall("wall shelf", hung=True, z=(1.3, 1.6))
    _add_ceiling_lights(placer)
    return Room(objects=tuple(placer.objects), lights=_lights(placer), ambient=_AMBIENT, size=size)


def _add_shell(placer: Placer, recipe: Recipe) -> None:
    """Floor, ceiling and walls around the room: slabs whose inner sides bound it, without a gap."""
    rng, (length, width, height) = placer.rng, placer.size.tolist()
    outer = (length + 2 * _THICK, width + 2 * _THICK)
    placer.add("floor", _slab(_floor_finish(rng, recipe), outer, _THICK), upright_pose(0, 0, -_THICK, 0), None)
    placer.add("ceiling", _slab(finish(rng, "plaster", "white"), outer, _THICK), upright_pose(0, 0, height, 0), None)
    paint = _wall_finish(rng, recipe)
    accent = finish(rng, "plaster") if rng.random() < 0.35 else paint
    special = int(rng.integers(4))
    for wall in range(4):
        along = outer[0] if wall % 2 else width  # the walls at +-y also close the corners
        look = accent if wall == special else paint
        pose = placer.wall_pose(wall, 0.0, -_THICK / 2, 0.0)
        placer.add("wall", _slab(look, (along, _THICK), height), pose, None)


def _slab(look: Finish, sides: tuple[float, float], height: float) -> Piece:
    x, y = sides[0] / 2, sides[1] / 2
    return assemble([box(look.material, (-x, -y, 0), (x, y, height), "slab")], look.words())


def _floor_finish(rng: np.random.Generator, recipe: Recipe) -> Finish:
    kind = rng.random()
    if recipe.wet or kind < 0.15:
        return _tiled(finish(rng, "ceramic", "white", "gray", "beige"), rng.uniform(0.2, 0.5))
    if kind < 0.4:
        carpet = finish(rng, "fabric", "gray", "beige", "blue", "brown", "green")
        return replace(carpet, material=replace(carpet.material, texture="noise", period=0.15))
    return finish(rng, "wooden", "brown", "brown", "beige", "gray")


def _wall_finish(rng: np.random.Generator, recipe: Recipe) -> Finish:
    if recipe.wet and rng.random() < 0.5:
        return _tiled(finish(rng, "ceramic", "white", "blue", "green", "beige", "gray"), rng.uniform(0.2, 0.45))
    return finish(rng, "plaster", "white", "white", "beige", "gray", "yellow")


def _tiled(look: Finish, period: float) -> Finish:
    joint: Color = (0.55, 0.54, 0.52) if max(look.material.color) < 0.5 else (0.42, 0.41, 0.4)
    return replace(look, material=replace(look.material, texture="tiles", second=joint, period=period, gloss=0.3))


def _add_door(placer: Placer) -> None:
    item = placer.at_wall("door", hung=True, tries=60)
    if item is not None:
        placer.keep_free(item, 0.9)
        placer.enter_at(item)


def _add_window(placer: Placer) -> None:
    """A window, most often with curtains at both sides of it."""
    item = placer.at_wall("window", hung=True, z=(0.92, 1.02), tries=12)
    if item is None or placer.chance(0.35):
        return
    pane, top = placer.pieces[item], placer.pieces[item].high[2] + placer.objects[item].pose[2, 3]
    seed = int(placer.rng.integers(2**31))
    for side in (-1, 1):
        for name in ("curtain", "short curtain") if placer.chance(0.7) else ("short curtain",):
            piece = placer.build(name, seed)
            along = placer.along(item) + side * float(pane.high[0] + piece.high[0] + 0.005)
            level = max(0.02, float(top) + 0.08 - float(piece.high[2]))
            args = {"piece": piece, "wall": placer.walls[item], "along": along, "z": level}
            if placer.at_wall(name, hung=True, tries=1, **args) is not None:  # type: ignore[arg-type]
                break


def _add_ceiling_lights(placer: Placer) -> None:
    piece, (length, width, height) = placer.build("ceiling light"), placer.size
    spots = [(-length / 4, 0.0), (length / 4, 0.0)] if length * width > 24 else [(0.0, 0.0)]
    for x, y in spots:
        placer.put("ceiling light", piece, upright_pose(x, y, height - float(piece.high[2]), 0), 1)


def _lights(placer: Placer) -> tuple[Light, ...]:
    """Below the ceiling lights, and one of: in front of a window, in the shade of a lit lamp."""
    lights = [_light(item.center - (0, 0, 0.2), _WARM) for item in placer.objects if item.label == "light"]
    for item in placer.objects:
        spot = item.center + 0.8 * item.front
        if item.label == "window" and len(lights) < 3 and not _is_solid(placer, spot):
            lights.append(_light(spot, _DAY))
    for item in placer.objects:
        shade = item.parts[-1]
        if item.label == "lamp" and shade.material.glow and len(lights) < 3:
            lights.append(_light(shade.center, _SHADE))  # what glows lets light pass
    return tuple(lights)


def _light(place: FloatArray, color: Color) -> Light:
    x, y, z = (float(value) for value in place)
    return Light(position=(x, y, z), color=color)


def _is_solid(placer: Placer, place: FloatArray) -> bool:
    """Whether a point is within 5 cm of an object's box, or outside of the room."""
    if (np.abs(place[:2]) > placer.size[:2] / 2 - 0.05).any():
        return True
    return any(
        bool((item.low - 0.05 < local).all() and (local < item.high + 0.05).all())
        for item in placer.objects
        for local in [transform_points(place, np.linalg.inv(item.pose))]
    )
