"""Fixtures and appliances: bathtub, toilet, sinks, refrigerator, stove, microwave."""

from __future__ import annotations

import numpy as np

from gapmllm.scenes.synth.furniture_parts import Piece, Top, assemble, box, fronts, leaned, post, rod
from gapmllm.scenes.synth.materials import CHROME, DARK, STEEL, WHITE, darker, finish
from gapmllm.scenes.synth.room import Material, Part


def bathtub(rng: np.random.Generator) -> Piece:
    """A hollow tub with a rim and a tap at one end; its back is a long side."""
    width, depth, height = rng.uniform(1.5, 1.75), rng.uniform(0.7, 0.8), rng.uniform(0.5, 0.6)
    white = finish(rng, "ceramic").material
    x, y, wall = width / 2, depth / 2, 0.07
    parts = [box(white, (-x + 0.01, -y + 0.01, 0), (x - 0.01, y - 0.01, 0.14), "bottom")]
    for side in (-1, 1):
        for low, high, bottom, top, name in (
            ((x - wall, -y + 0.01), (x - 0.01, y - 0.01), 0.0, height - 0.02, "wall"),
            ((x - wall - 0.03, -y), (x, y), height - 0.035, height, "rim"),
        ):
            left, right = sorted((side * low[0], side * high[0]))
            parts.append(box(white, (left, low[1], bottom), (right, high[1], top), name))
        front, rear = sorted((side * (y - wall), side * (y - 0.01)))
        parts.append(box(white, (-x + 0.01, front, 0), (x - 0.01, rear, height - 0.02), "wall"))
        front, rear = sorted((side * (y - wall - 0.015), side * y))
        parts.append(box(white, (-x, front, height - 0.035), (x, rear, height), "rim"))
    end = -1 if rng.random() < 0.5 else 1
    parts.append(post(CHROME, (end * (x - 0.05), 0), (height, height + 0.16), 0.04, "tap"))
    parts.append(rod(CHROME, (end * (x - 0.05), 0, height + 0.14), (end * (x - 0.22), 0, height + 0.11), 0.03, "tap"))
    return assemble(parts, {"color": "white", "material": "ceramic"}, has_front=True)


def toilet(rng: np.random.Generator) -> Piece:
    """Foot, bowl, seat, lid (shut or up) and tank."""
    white, height, width = finish(rng, "ceramic").material, rng.uniform(0.38, 0.42), rng.uniform(0.36, 0.4)
    seat = WHITE if rng.random() < 0.8 else finish(rng, "wooden", "brown").material
    tank_height, length = rng.uniform(0.74, 0.82), rng.uniform(0.46, 0.5)
    parts = [post(white, (0, 0.02), (0, height * 0.6), (width * 0.62, length * 0.8), "foot", top=0.85)]
    parts.append(post(white, (0, -0.02), (height * 0.4, height - 0.02), (width, length), "bowl", bottom=0.6))
    parts.append(box(white, (-0.12, 0.1, 0), (0.12, 0.3, height - 0.02), "foot"))
    parts.append(post(seat, (0, -0.02), (height - 0.02, height + 0.005), (width + 0.02, length + 0.02), "seat"))
    if rng.random() < 0.5:
        parts.append(post(seat, (0, -0.02), (height + 0.008, height + 0.03), (width, length), "lid"))
    else:
        hole = Material(color=darker(white.color, 0.55), gloss=0.8)
        parts.append(post(hole, (0, -0.04), (height, height + 0.007), (width * 0.62, length * 0.66), "water"))
        flat = post(seat, (0, -0.02), (height + 0.01, height + 0.03), (width, length), "lid")
        parts.append(leaned(flat, np.pi / 2 - 2 * np.pi + 0.06, (0, length / 2 - 0.04, height + 0.02)))
    parts.append(box(white, (-width / 2 - 0.01, 0.21, height - 0.04), (width / 2 + 0.01, 0.4, tank_height), "tank"))
    parts.append(
        box(white, (-width / 2 - 0.02, 0.2, tank_height), (width / 2 + 0.02, 0.405, tank_height + 0.03), "tank lid")
    )
    parts.append(post(CHROME, (0, 0.3), (tank_height + 0.03, tank_height + 0.04), 0.05, "button"))
    return assemble(parts, {"color": "white", "material": "ceramic"}, has_front=True)


def pedestal_sink(rng: np.random.Generator) -> Piece:
    """A hollow white basin on a column, with a tap at the back."""
    white, height = finish(rng, "ceramic").material, rng.uniform(0.82, 0.9)
    x, y = rng.uniform(0.26, 0.32), rng.uniform(0.2, 0.25)
    parts = [post(white, (0, 0.06), (0, height - 0.15), 0.2, "column", top=0.8)]
    parts += _hollow_basin(white, (x, y), (height - 0.17, height))
    parts += _tap(y - 0.06, height)
    return assemble(parts, {"color": "white", "material": "ceramic"}, has_front=True)


def vanity(rng: np.random.Generator) -> Piece:
    """A basin on a small cabinet with doors or drawers."""
    white, wood, height = finish(rng, "ceramic").material, finish(rng, "wooden").material, rng.uniform(0.82, 0.88)
    x, y = rng.uniform(0.3, 0.42), rng.uniform(0.22, 0.26)
    parts = [box(wood, (-x + 0.01, -y + 0.03, 0.12), (x - 0.01, y, height - 0.15), "cabinet")]
    parts.append(box(DARK, (-x + 0.04, -y + 0.08, 0), (x - 0.04, y - 0.02, 0.13), "plinth"))
    grid, name = ((2, 1), "door") if rng.random() < 0.5 else ((1, 2), "drawer")
    span, z = (-x + 0.01, x - 0.01), (0.13, height - 0.155)
    parts += fronts(wood, CHROME, span, -y + 0.03, z, grid, name=name, knob=False)
    parts += _hollow_basin(white, (x, y), (height - 0.15, height))
    parts += _tap(y - 0.06, height)
    return assemble(parts, {"color": "white", "material": "ceramic"}, has_front=True)


def _hollow_basin(white: Material, half: tuple[float, float], z: tuple[float, float]) -> list[Part]:
    """A bottom and four walls, the back one wide enough for a tap."""
    x, y = half
    wall, shelf = 0.05, 0.11
    return [
        box(white, (-x, -y, z[0]), (x, y, z[0] + 0.04), "basin"),
        box(white, (-x, -y, z[0]), (-x + wall, y, z[1]), "basin"),
        box(white, (x - wall, -y, z[0]), (x, y, z[1]), "basin"),
        box(white, (-x, -y, z[0]), (x, -y + wall, z[1]), "basin"),
        box(white, (-x, y - shelf, z[0]), (x, y, z[1]), "basin"),
        post(STEEL, (0, -0.03), (z[0] + 0.03, z[0] + 0.046), 0.05, "drain"),
    ]


def _tap(y: float, z: float) -> list[Part]:
    upright = post(CHROME, (0, y), (z - 0.01, z + 0.15), 0.035, "tap")
    return [upright, rod(CHROME, (0, y, z + 0.14), (0, y - 0.13, z + 0.1), 0.028, "tap")]


def refrigerator(rng: np.random.Generator) -> Piece:
    """Tall, two doors above each other, upright handles."""
    width, depth, height = rng.uniform(0.58, 0.75), rng.uniform(0.62, 0.72), rng.uniform(1.6, 1.9)
    metal, x, y = finish(rng, "metal", "white", "white", "gray", "gray", "black"), width / 2, depth / 2
    split = height * (0.62 if rng.random() < 0.5 else 0.4)
    side = -1 if rng.random() < 0.5 else 1
    handle = CHROME if metal.color != "gray" else DARK
    parts = [box(DARK, (-x + 0.02, -y + 0.05, 0), (x - 0.02, y - 0.02, 0.06), "foot")]
    parts.append(box(metal.material, (-x, -y + 0.06, 0.05), (x, y, height), "body"))
    for low, high in ((0.07, split), (split + 0.012, height - 0.005)):
        parts.append(box(metal.material, (-x, -y, low), (x, -y + 0.05, high), "door"))
        middle, long = (low + high) / 2, min(0.4, (high - low) * 0.6)
        at = side * (x - 0.06)
        parts.append(
            box(
                handle,
                (at - 0.015, -y - 0.04, middle - long / 2),
                (at + 0.015, -y - 0.015, middle + long / 2),
                "handle",
            )
        )
        for end in (-1, 1):
            z = middle + end * (long / 2 - 0.03)
            parts.append(box(handle, (at - 0.012, -y - 0.02, z - 0.015), (at + 0.012, -y, z + 0.015), "handle"))
    return assemble(parts, metal.words(size="large"), has_front=True)


def stove(rng: np.random.Generator) -> Piece:
    """An oven with a window, knobs, and four burners on a dark top."""
    width, depth, height = rng.uniform(0.55, 0.65), 0.6, 0.9
    metal, x, y = finish(rng, "metal", "white", "gray", "black"), width / 2, depth / 2
    parts = [box(DARK, (-x + 0.01, -y + 0.05, 0), (x - 0.01, y - 0.01, 0.08), "foot")]
    parts.append(box(metal.material, (-x, -y + 0.03, 0.07), (x, y, height - 0.02), "body"))
    parts.append(box(DARK, (-x, -y, height - 0.025), (x, y, height), "top"))
    parts.append(box(metal.material, (-x + 0.01, -y, 0.2), (x - 0.01, -y + 0.03, height - 0.16), "oven door"))
    parts.append(box(DARK, (-x + 0.07, -y - 0.005, 0.3), (x - 0.07, -y, height - 0.27), "oven window"))
    parts.append(rod(CHROME, (-x + 0.06, -y - 0.03, height - 0.2), (x - 0.06, -y - 0.03, height - 0.2), 0.02, "handle"))
    for knob in np.linspace(-x + 0.08, x - 0.08, 4):
        at = float(knob)
        knob_color = STEEL if metal.color != "gray" else DARK
        parts.append(rod(knob_color, (at, -y + 0.03, height - 0.085), (at, -y - 0.005, height - 0.085), 0.045, "knob"))
    ring = Material(color=(0.16, 0.15, 0.15), gloss=0.1)
    for column in (-1, 1):
        for row, size in ((-1, 0.19), (1, 0.15)):
            at_x, at_y = column * x * 0.48, row * y * 0.45
            parts.append(post(ring, (at_x, at_y), (height, height + 0.012), size, "burner"))
    return assemble(parts, metal.words(), has_front=True)


def microwave(rng: np.random.Generator) -> Piece:
    """A box with a dark window at the left, a handle, and a panel with a clock at the right."""
    width, depth, height = rng.uniform(0.44, 0.54), rng.uniform(0.32, 0.4), rng.uniform(0.25, 0.31)
    metal, x, y = finish(rng, "metal", "white", "gray", "black"), width / 2, depth / 2
    edge = x - 0.13
    panel = STEEL if metal.color == "black" else DARK
    clock = Material(color=(0.1, 0.8, 0.5), glow=1.0)
    parts = [box(metal.material, (-x, -y + 0.01, 0.012), (x, y, height), "body")]
    parts.append(box(DARK, (-x + 0.02, -y + 0.03, 0), (x - 0.02, y - 0.03, 0.013), "foot"))
    parts.append(box(metal.material, (-x, -y, 0.015), (edge, -y + 0.012, height - 0.003), "door"))
    parts.append(box(DARK, (-x + 0.04, -y - 0.004, 0.05), (edge - 0.05, -y, height - 0.04), "window"))
    parts.append(box(panel, (edge + 0.01, -y + 0.004, 0.02), (x - 0.01, -y + 0.012, height - 0.01), "panel"))
    parts.append(box(clock, (edge + 0.03, -y, height - 0.07), (x - 0.03, -y + 0.006, height - 0.04), "clock"))
    parts.append(rod(CHROME, (edge - 0.02, -y - 0.02, 0.05), (edge - 0.02, -y - 0.02, height - 0.04), 0.016, "handle"))
    for z in (0.07, height - 0.06):
        parts.append(box(CHROME, (edge - 0.026, -y - 0.02, z - 0.008), (edge - 0.014, -y, z + 0.008), "handle"))
    return assemble(parts, metal.words(), has_front=True, tops=[Top((-x, x), (-y + 0.02, y), height)])
