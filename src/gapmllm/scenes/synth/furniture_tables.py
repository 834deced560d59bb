"""Tables, desks, and the low pieces beside beds and under televisions."""

from __future__ import annotations

import numpy as np

from gapmllm.scenes.synth.furniture_parts import Piece, Seat, Top, assemble, box, four_legs, fronts, post, rod
from gapmllm.scenes.synth.materials import CHROME, DARK, STEEL, Finish, any_finish, finish
from gapmllm.scenes.synth.room import Part


def dining_table(rng: np.random.Generator) -> Piece:
    """Rectangular, on four legs, with chairs' places along the long sides and at the ends."""
    width, depth, height = rng.uniform(1.2, 1.8), rng.uniform(0.75, 0.95), rng.uniform(0.72, 0.76)
    wood, thick, leg = finish(rng, "wooden"), rng.uniform(0.03, 0.05), rng.uniform(0.05, 0.08)
    legs = wood if rng.random() < 0.6 else finish(rng, "metal", "black", "gray", "white")
    x, y = width / 2, depth / 2
    parts = four_legs(legs.material, (x - 0.07, y - 0.07), height - thick, leg, round_=bool(rng.random() < 0.4))
    if legs is wood:
        parts.append(
            box(wood.material, (-x + 0.09, -y + 0.09, height - 0.11), (x - 0.09, y - 0.09, height - thick), "apron")
        )
    parts.append(box(wood.material, (-x, -y, height - thick), (x, y, height), "top"))
    per_side = 2 if width > 1.25 else 1
    spots = [(i + 0.5) / per_side * (width - 0.3) - (width - 0.3) / 2 for i in range(per_side)]
    seats = [Seat(spot, -y, np.pi) for spot in spots] + [Seat(spot, y, 0.0) for spot in spots]
    seats += [Seat(-x, 0, np.pi / 2), Seat(x, 0, -np.pi / 2)]
    words = wood.words(shape="rectangular")
    return assemble(parts, words, tops=[Top((-x, x), (-y, y), height)], seats=seats)


def round_table(rng: np.random.Generator) -> Piece:
    """A round dining table on a column or on four legs."""
    width, height = rng.uniform(0.85, 1.2), rng.uniform(0.72, 0.76)
    top = any_finish(rng, "wooden", "wooden", "plastic")
    parts = [post(top.material, (0, 0), (height - 0.035, height), width, "top")]
    if rng.random() < 0.5:
        base = finish(rng, "metal", "black", "white", "gray").material
        parts.append(post(base, (0, 0), (0, 0.03), width * 0.55, "foot", top=0.9))
        parts.append(post(base, (0, 0), (0.02, height - 0.03), 0.09, "column", top=0.8))
    else:
        parts += four_legs(top.material, (width * 0.27, width * 0.27), height - 0.03, 0.055, round_=True, splay=0.04)
    return assemble(parts, top.words(shape="round"), tops=[_round_top(width, height)], seats=_round_seats(width))


def _round_top(width: float, height: float) -> Top:
    inner = width / 2 / np.sqrt(2)
    return Top((-inner, inner), (-inner, inner), height)


def _round_seats(width: float) -> list[Seat]:
    return [
        Seat(0, -width / 2, np.pi),
        Seat(0, width / 2, 0.0),
        Seat(-width / 2, 0, np.pi / 2),
        Seat(width / 2, 0, -np.pi / 2),
    ]


def coffee_table(rng: np.random.Generator) -> Piece:
    """Low: rectangular with a board below the top, or round."""
    height, wood = rng.uniform(0.38, 0.48), any_finish(rng, "wooden", "wooden", "glass")
    legs = finish(rng, "metal", "black", "gray").material if wood.substance == "glass" else wood.material
    if rng.random() < 0.3:
        width = rng.uniform(0.65, 0.9)
        parts = four_legs(legs, (width * 0.27, width * 0.27), height - 0.02, 0.04, round_=True, splay=0.05)
        parts.append(post(wood.material, (0, 0), (height - 0.03, height), width, "top"))
        return assemble(parts, wood.words(shape="round"), tops=[_round_top(width, height)])
    width, depth = rng.uniform(0.85, 1.2), rng.uniform(0.45, 0.62)
    x, y = width / 2, depth / 2
    parts = four_legs(legs, (x - 0.04, y - 0.04), height - 0.03, 0.05, round_=False)
    parts.append(box(wood.material, (-x, -y, height - 0.035), (x, y, height), "top"))
    parts.append(box(wood.material, (-x + 0.03, -y + 0.03, 0.12), (x - 0.03, y - 0.03, 0.14), "board"))
    return assemble(parts, wood.words(shape="rectangular"), tops=[Top((-x, x), (-y, y), height)])


def side_table(rng: np.random.Generator) -> Piece:
    """Small, for a lamp or a plant: round on three legs, or square."""
    width, height, wood = rng.uniform(0.38, 0.5), rng.uniform(0.48, 0.62), any_finish(rng, "wooden", "wooden", "metal")
    if rng.random() < 0.5:
        parts = [post(wood.material, (0, 0), (height - 0.025, height), width, "top")]
        for angle in np.array([0.5, 2.6, 4.7]):
            reach = width * 0.42
            x, y = float(np.cos(angle)), float(np.sin(angle))
            tip = (0.6 * reach * x, 0.6 * reach * y, height - 0.02)
            parts.append(rod(wood.material, (reach * x, reach * y, 0), tip, 0.03, "leg"))
        return assemble(parts, wood.words(size="small", shape="round"), tops=[_round_top(width, height)])
    x = width / 2
    parts = four_legs(wood.material, (x - 0.02, x - 0.02), height - 0.02, 0.03, round_=False)
    parts.append(box(wood.material, (-x, -x, height - 0.025), (x, x, height), "top"))
    return assemble(parts, wood.words(size="small", shape="square"), tops=[Top((-x, x), (-x, x), height)])


def desk(rng: np.random.Generator) -> Piece:
    """A top on a chest of drawers at one side and legs or a panel at the other; the chair comes from the front."""
    width, depth, height = rng.uniform(1.1, 1.6), rng.uniform(0.6, 0.75), rng.uniform(0.72, 0.76)
    wood = finish(rng, "wooden")
    frame = wood if rng.random() < 0.6 else finish(rng, "metal", "black", "gray", "white")
    x, y, thick, chest = width / 2, depth / 2, 0.03, 0.4
    side = -1 if rng.random() < 0.5 else 1
    parts = [box(wood.material, (-x, -y, height - thick), (x, y, height), "top")]
    if drawers := rng.random() < 0.7:
        parts += _chest(rng, wood, sorted((side * (x - 0.02), side * (x - 0.02 - chest))), y - 0.03, height - thick)
    for end in (-1, 1):
        if not (drawers and end == side):
            parts += _desk_end(frame, end * (x - 0.05), y, height - thick)
    low = 0.3 if rng.random() < 0.5 else height - 0.16
    parts.append(box(frame.material, (-x + 0.06, y - 0.07, low), (x - 0.06, y - 0.05, height - thick), "panel"))
    middle = -side * chest / 2 if drawers else 0.0
    tops = [Top((-x, x), (-y, y), height)]
    return assemble(parts, wood.words(), has_front=True, tops=tops, seats=[Seat(middle, -y, np.pi)])


def _chest(rng: np.random.Generator, wood: Finish, x: list[float], y: float, z: float) -> list[Part]:
    body = box(wood.material, (x[0], -y, 0.03), (x[1], y, z), "chest")
    handle = CHROME if rng.random() < 0.6 else DARK
    grid = (1, int(rng.integers(2, 4)))
    return [body, *fronts(wood.material, handle, (x[0], x[1]), -y, (0.04, z - 0.01), grid, name="drawer", knob=False)]


def _desk_end(frame: Finish, x: float, y: float, z: float) -> list[Part]:
    """A panel of wood, or two metal legs on a foot."""
    if frame.substance == "wooden":
        return [box(frame.material, (x - 0.015, -y + 0.03, 0), (x + 0.015, y - 0.03, z), "panel")]
    legs = [
        box(frame.material, (x - 0.02, s * (y - 0.1) - 0.02, 0), (x + 0.02, s * (y - 0.1) + 0.02, z), "leg")
        for s in (-1, 1)
    ]
    return [*legs, box(frame.material, (x - 0.025, -y + 0.05, 0), (x + 0.025, y - 0.05, 0.025), "foot")]


def night_stand(rng: np.random.Generator) -> Piece:
    """A small chest with one or two drawers, on legs or on the ground."""
    width, depth, height = rng.uniform(0.4, 0.52), rng.uniform(0.36, 0.44), rng.uniform(0.46, 0.6)
    wood, x, y = finish(rng, "wooden"), width / 2, depth / 2
    legs = rng.uniform(0.12, 0.18) if rng.random() < 0.6 else 0.0
    parts = four_legs(wood.material, (x - 0.03, y - 0.03), legs, 0.035, round_=True, splay=0.0) if legs else []
    parts.append(box(wood.material, (-x + 0.01, -y + 0.02, legs), (x - 0.01, y, height - 0.02), "body"))
    parts.append(box(wood.material, (-x, -y, height - 0.025), (x, y, height), "top"))
    handle = CHROME if rng.random() < 0.5 else DARK
    grid, z = (1, int(rng.integers(1, 3))), (legs + 0.01, height - 0.035)
    knob = bool(rng.random() < 0.6)
    parts += fronts(wood.material, handle, (-x + 0.02, x - 0.02), -y + 0.02, z, grid, name="drawer", knob=knob)
    return assemble(parts, wood.words(size="small"), has_front=True, tops=[Top((-x, x), (-y, y), height)])


def tv_stand(rng: np.random.Generator) -> Piece:
    """Long and low: an open middle with a board, doors at both sides."""
    width, depth, height = rng.uniform(1.2, 1.8), rng.uniform(0.36, 0.45), rng.uniform(0.42, 0.55)
    wood, x, y, wing = finish(rng, "wooden"), width / 2, depth / 2, rng.uniform(0.35, 0.45)
    foot = 0.1 if rng.random() < 0.5 else 0.04
    parts = four_legs(DARK if foot < 0.1 else wood.material, (x - 0.06, y - 0.06), foot, 0.04, round_=False)
    parts.append(box(wood.material, (-x, -y, height - 0.025), (x, y, height), "top"))
    parts.append(box(wood.material, (-x, -y, foot), (x, y, foot + 0.02), "bottom"))
    parts.append(box(DARK, (-x + 0.01, y - 0.015, foot), (x - 0.01, y - 0.005, height - 0.01), "back"))
    parts.append(
        box(
            wood.material,
            (-x + wing, -y + 0.03, (foot + height) / 2),
            (x - wing, y - 0.02, (foot + height) / 2 + 0.02),
            "board",
        )
    )
    for side in (-1, 1):
        span = sorted((side * x, side * (x - wing)))
        body_z = (foot + 0.02, height - 0.025)
        parts.append(box(wood.material, (span[0], -y + 0.02, foot + 0.005), (span[1], y - 0.002, body_z[1]), "side"))
        parts += fronts(wood.material, STEEL, (span[0], span[1]), -y + 0.02, body_z, (1, 1), name="door", knob=True)
    return assemble(parts, wood.words(), has_front=True, tops=[Top((-x, x), (-y, y), height)])
