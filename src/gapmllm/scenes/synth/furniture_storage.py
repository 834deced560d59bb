"""What things are kept in, and beds: cabinets, dressers, shelves, beds."""

from __future__ import annotations

import numpy as np

from gapmllm.scenes.synth.furniture_parts import Piece, Top, assemble, box, four_legs, fronts, post
from gapmllm.scenes.synth.materials import CHROME, DARK, STEEL, WHITE, any_finish, finish, patterned
from gapmllm.scenes.synth.room import Material, Part


def wardrobe(rng: np.random.Generator) -> Piece:
    """A tall cabinet with two to four doors."""
    doors = int(rng.integers(2, 5))
    width, depth, height = doors * rng.uniform(0.4, 0.5), rng.uniform(0.52, 0.62), rng.uniform(1.85, 2.15)
    wood, x, y = finish(rng, "wooden"), width / 2, depth / 2
    parts = [box(DARK, (-x + 0.02, -y + 0.05, 0), (x - 0.02, y - 0.01, 0.08), "plinth")]
    parts.append(box(wood.material, (-x, -y + 0.02, 0.07), (x, y, height), "body"))
    handle = CHROME if rng.random() < 0.5 else DARK
    parts += fronts(wood.material, handle, (-x, x), -y + 0.02, (0.08, height), (doors, 1), name="door", knob=False)
    return assemble(parts, wood.words(size="large"), has_front=True)


def sideboard(rng: np.random.Generator) -> Piece:
    """A low cabinet: doors, often with a row of drawers above."""
    columns = int(rng.integers(2, 4))
    width, depth, height = columns * rng.uniform(0.42, 0.5), rng.uniform(0.38, 0.48), rng.uniform(0.7, 0.92)
    wood, x, y = finish(rng, "wooden"), width / 2, depth / 2
    foot = rng.uniform(0.08, 0.2)
    parts = four_legs(wood.material, (x - 0.05, y - 0.05), foot, 0.04, round_=True)
    parts.append(box(wood.material, (-x, -y + 0.02, foot), (x, y, height - 0.025), "body"))
    parts.append(box(wood.material, (-x - 0.01, -y, height - 0.03), (x + 0.01, y, height), "top"))
    handle, knob = (CHROME if rng.random() < 0.5 else DARK), bool(rng.random() < 0.5)
    middle = height - 0.2 if rng.random() < 0.5 else height - 0.03
    common = (wood.material, handle, (-x, x), -y + 0.02)
    parts += fronts(*common, (foot, middle), (columns, 1), name="door", knob=knob)
    if middle < height - 0.1:
        parts += fronts(*common, (middle, height - 0.03), (columns, 1), name="drawer", knob=knob)
    return assemble(parts, wood.words(), has_front=True, tops=[Top((-x, x), (-y, y), height)])


def base_cabinet(rng: np.random.Generator) -> Piece:
    """A kitchen's floor cabinet with a worktop. Its finishes are drawn first: all of one kitchen share a seed."""
    front, worktop = finish(rng, "wooden"), finish(rng, "wooden", "brown", "beige", "black", "gray")
    doors = int(rng.integers(1, 3))
    width, depth, height = doors * rng.uniform(0.42, 0.5), 0.6, 0.9
    x, y = width / 2, depth / 2
    parts = _kitchen_carcass(front.material, (x, y, height), doors)
    parts.append(box(worktop.material, (-x, -y, height - 0.04), (x, y, height), "worktop"))
    return assemble(parts, front.words(), has_front=True, tops=[Top((-x, x), (-y, y), height)])


def kitchen_sink(rng: np.random.Generator) -> Piece:
    """A sink unit: cabinet, worktop with a steel basin let in, tap."""
    front, worktop = finish(rng, "wooden"), finish(rng, "wooden", "brown", "beige", "black", "gray").material
    x, y, height = rng.uniform(0.4, 0.5), 0.3, 0.9
    parts = _kitchen_carcass(front.material, (x, y, height - 0.18), 2)
    parts.append(box(front.material, (-x, -y + 0.012, height - 0.2), (x, -y + 0.05, height - 0.04), "apron"))
    for side in (-1, 1):
        left, right = sorted((side * x, side * (x - 0.02)))
        parts.append(box(front.material, (left, -y + 0.03, height - 0.22), (right, y, height - 0.04), "side"))
    parts += _basin_in_top(worktop, STEEL, (x, y, height), (0.27, 0.2), 0.18)
    parts.append(post(CHROME, (0, y - 0.05), (height, height + 0.24), 0.028, "tap"))
    parts.append(box(CHROME, (-0.012, y - 0.2, height + 0.22), (0.012, y - 0.05, height + 0.245), "tap"))
    return assemble(parts, {"color": "gray", "material": "metal"}, has_front=True)


def _kitchen_carcass(front: Material, half: tuple[float, float, float], doors: int) -> list[Part]:
    """Plinth, body and doors below the worktop; half: half width, half depth, full height with the worktop."""
    x, y, height = half
    parts = [box(DARK, (-x, -y + 0.07, 0), (x, y, 0.1), "plinth")]
    parts.append(box(front, (-x, -y + 0.03, 0.09), (x, y, height - 0.035), "body"))
    parts += fronts(front, STEEL, (-x, x), -y + 0.03, (0.1, height - 0.04), (doors, 1), name="door", knob=False)
    return parts


def _basin_in_top(
    top: Material, basin: Material, size: tuple[float, float, float], hole: tuple[float, float], deep: float
) -> list[Part]:
    """A worktop of four strips around a hole, and a basin in it. size: half, half, height; hole: half extents."""
    x, y, z = size
    low, high = z - 0.04, z
    strips = [
        ((-x, -y, low), (x, -hole[1], high)),
        ((-x, hole[1], low), (x, y, high)),
        ((-x, -hole[1], low), (-hole[0], hole[1], high)),
        ((hole[0], -hole[1], low), (x, hole[1], high)),
    ]
    parts = [box(top, a, b, "worktop") for a, b in strips]
    rim, bottom = 0.02, z - deep
    parts.append(box(basin, (-hole[0], -hole[1], bottom), (hole[0], hole[1], bottom + 0.015), "basin"))
    for side in (-1, 1):
        a, b = sorted((side * hole[0], side * (hole[0] + rim)))
        parts.append(box(basin, (a, -hole[1] - rim, bottom), (b, hole[1] + rim, z + 0.006), "basin"))
        a, b = sorted((side * hole[1], side * (hole[1] + rim)))
        parts.append(box(basin, (-hole[0], a, bottom), (hole[0], b, z + 0.006), "basin"))
    return parts


def wall_cabinet(rng: np.random.Generator) -> Piece:
    """Hangs at a wall, above a worktop or a basin."""
    wood, doors = finish(rng, "wooden"), int(rng.integers(1, 3))
    width, depth, height = doors * rng.uniform(0.38, 0.46), rng.uniform(0.3, 0.36), rng.uniform(0.55, 0.7)
    x, y = width / 2, depth / 2
    parts = [box(wood.material, (-x, -y + 0.02, 0), (x, y, height), "body")]
    parts += fronts(wood.material, STEEL, (-x, x), -y + 0.02, (0, height), (doors, 1), name="door", knob=False)
    return assemble(parts, wood.words(), has_front=True)


def dresser(rng: np.random.Generator) -> Piece:
    """A chest of drawers."""
    rows, columns = ((3, 1), (4, 1), (3, 2))[rng.integers(3)]
    width, depth = columns * rng.uniform(0.52, 0.62) + 0.1, rng.uniform(0.42, 0.5)
    height, foot = rows * rng.uniform(0.2, 0.25) + 0.12, rng.uniform(0.05, 0.12)
    wood, x, y = finish(rng, "wooden"), width / 2, depth / 2
    parts = four_legs(wood.material, (x - 0.05, y - 0.05), foot, 0.06, round_=False)
    parts.append(box(wood.material, (-x + 0.01, -y + 0.02, foot), (x - 0.01, y, height - 0.025), "body"))
    parts.append(box(wood.material, (-x, -y, height - 0.03), (x, y, height), "top"))
    handle, knob = (CHROME, DARK, STEEL)[rng.integers(3)], bool(rng.random() < 0.6)
    z, grid = (foot + 0.01, height - 0.04), (columns, rows)
    parts += fronts(wood.material, handle, (-x + 0.03, x - 0.03), -y + 0.02, z, grid, name="drawer", knob=knob)
    return assemble(parts, wood.words(), has_front=True, tops=[Top((-x, x), (-y, y), height)])


def bookshelf(rng: np.random.Generator) -> Piece:
    """Boards between two sides, blocks of books on them."""
    width, depth, height = rng.uniform(0.65, 1.1), rng.uniform(0.26, 0.34), rng.uniform(1.2, 2.05)
    wood, x, y, thick = any_finish(rng, "wooden", "wooden", "metal"), width / 2, depth / 2, 0.025
    levels = max(3, round(height / 0.42))
    step = (height - thick) / levels
    parts = [box(wood.material, (s * x - thick / 2, -y, 0), (s * x + thick / 2, y, height), "side") for s in (-1, 1)]
    if wood.substance == "wooden":
        parts.append(box(wood.material, (-x, y - 0.012, 0.01), (x, y - 0.002, height - 0.01), "back"))
    for level in range(levels + 1):
        z = level * step
        parts.append(box(wood.material, (-x, -y + 0.002, z), (x, y - 0.004, z + thick), "board"))
        if level < levels and rng.random() < 0.85:
            parts += _row_of_books(rng, (-x + 0.02, x - 0.02), (-y + 0.03, y - 0.02), z + thick, step - thick)
    return assemble(parts, wood.words(), has_front=True)


def wall_shelf(rng: np.random.Generator) -> Piece:
    """A board on two brackets, with books; hangs at a wall."""
    width, depth = rng.uniform(0.6, 1.1), rng.uniform(0.2, 0.26)
    wood, x, y = finish(rng, "wooden"), width / 2, depth / 2
    parts = [box(wood.material, (-x, -y, 0.1), (x, y, 0.125), "board")]
    for side in (-1, 1):
        at = side * (x - 0.12)
        parts.append(box(STEEL, (at - 0.012, y - 0.02, 0), (at + 0.012, y - 0.002, 0.1), "bracket"))
        parts.append(box(STEEL, (at - 0.012, -y + 0.04, 0.085), (at + 0.012, y - 0.002, 0.1), "bracket"))
    parts += _row_of_books(rng, (-x + 0.04, x - 0.04), (-y + 0.02, y - 0.02), 0.125, 0.3)
    return assemble(parts, wood.words(), has_front=True)


def _row_of_books(
    rng: np.random.Generator, x: tuple[float, float], y: tuple[float, float], z: float, room: float
) -> list[Part]:
    """A few blocks of books of one colour each, standing from one end; some rows stay half empty."""
    parts: list[Part] = []
    at = x[0]
    stop = x[1] - rng.uniform(0, 0.45) * (x[1] - x[0])
    while True:
        width, height = rng.uniform(0.1, 0.22), rng.uniform(0.6, 0.88) * min(room, 0.36)
        if at + width > stop:
            return parts
        cover = finish(rng, "paper").material
        front = y[0] + rng.uniform(0, 0.03)
        parts.append(box(cover, (at, front, z), (at + width, y[1], z + height), "books"))
        at += width + rng.choice([0.002, 0.002, 0.06])


def bed(rng: np.random.Generator) -> Piece:
    """Single or double: frame, mattress, blanket over the lower part, headboard at the back."""
    double = rng.random() < 0.6
    width = rng.uniform(1.4, 1.8) if double else rng.uniform(0.9, 1.05)
    length, lie = rng.uniform(1.95, 2.1), rng.uniform(0.46, 0.58)
    frame, sheet = any_finish(rng, "wooden", "wooden", "metal"), finish(rng, "fabric", "white", "beige").material
    cloth = finish(
        rng, "fabric", "blue", "red", "gray", "green", "purple", "pink", "yellow", "brown", "orange", "white"
    )
    if rng.random() < 0.4:
        cloth = patterned(rng, cloth, "stripes", "checker", period=rng.uniform(0.08, 0.25))
    x, y, head = width / 2, length / 2, rng.uniform(0.85, 1.15)
    parts = four_legs(frame.material, (x - 0.05, y - 0.05), 0.2, 0.06, round_=False)
    parts.append(box(frame.material, (-x, -y, 0.16), (x, y, 0.3), "frame"))
    parts.append(box(sheet, (-x + 0.02, -y + 0.02, 0.29), (x - 0.02, y - 0.01, lie), "mattress"))
    parts.append(box(frame.material, (-x - 0.02, y, 0.02), (x + 0.02, y + 0.06, head), "headboard"))
    fold = y - rng.uniform(0.64, 0.8)
    parts.append(box(cloth.material, (-x - 0.025, -y - 0.02, 0.22), (x + 0.025, fold, lie + 0.03), "blanket"))
    turned = patterned(rng, cloth, "plain", period=0.1).material if rng.random() < 0.5 else WHITE
    parts.append(box(turned, (-x - 0.03, fold - 0.02, 0.24), (x + 0.03, fold + 0.16, lie + 0.04), "fold"))
    if rng.random() < 0.35:
        parts.append(box(frame.material, (-x - 0.02, -y - 0.07, 0.02), (x + 0.02, -y - 0.02, lie + 0.1), "footboard"))
    top = Top((-x + 0.04, x - 0.04), (fold + 0.17, y - 0.01), lie)
    words = cloth.words(size="large" if double else "small")
    return assemble(parts, words, has_front=True, tops=[top])
