"""What stands on the floor or on tables: lamps, plants, bins, backpacks, screens, computers, books, bottles."""

from __future__ import annotations

import numpy as np

from gapmllm.scenes.synth.furniture_parts import Piece, Top, assemble, ball, box, leaned, post, rod, turn_x, turn_z
from gapmllm.scenes.synth.materials import (
    CHROME,
    DARK,
    PAPER,
    SCREEN,
    STEEL,
    any_finish,
    darker,
    finish,
    glowing,
    linear,
)
from gapmllm.scenes.synth.room import Material, Part

_LEAVES = ((62, 120, 58), (84, 140, 64), (46, 98, 60))


def floor_lamp(rng: np.random.Generator) -> Piece:
    """A foot, a pole, a shade at head height."""
    height, shade = rng.uniform(1.4, 1.75), rng.uniform(0.3, 0.42)
    metal = finish(rng, "metal", "black", "gray", "white").material
    parts = [post(metal, (0, 0), (0, 0.03), rng.uniform(0.24, 0.3), "foot", top=0.9)]
    parts.append(post(metal, (0, 0), (0.02, height - 0.05), 0.028, "pole"))
    return _with_shade(rng, parts, height, shade)


def table_lamp(rng: np.random.Generator) -> Piece:
    """A foot or a round body, a neck, a shade."""
    height, shade = rng.uniform(0.36, 0.55), rng.uniform(0.2, 0.3)
    base = any_finish(rng, "metal", "wooden", "plastic").material
    parts = [post(base, (0, 0), (0, 0.025), shade * 0.55, "foot", top=0.9)]
    if rng.random() < 0.5:
        body = height * 0.45
        parts.append(ball(base, (0, 0, body / 2 + 0.01), (shade * 0.55, shade * 0.55, body), "body"))
    parts.append(post(base, (0, 0), (0.01, height - 0.04), 0.025, "neck"))
    return _with_shade(rng, parts, height, shade)


def _with_shade(rng: np.random.Generator, parts: list[Part], height: float, width: float) -> Piece:
    """Adds a shade of cloth, lit or not; the piece is called after the shade."""
    cloth = finish(rng, "fabric", "white", "beige", "yellow", "orange", "red", "blue", "green", "gray")
    lit = glowing(cloth.material, rng.uniform(1.2, 2.0)) if rng.random() < 0.6 else cloth.material
    tall, top = width * rng.uniform(0.6, 0.85), rng.uniform(0.55, 1.0)
    parts.append(post(lit, (0, 0), (height - tall, height), width, "shade", top=top))
    return assemble(parts, cloth.words())


def ceiling_light(rng: np.random.Generator) -> Piece:
    """A flat bright disk or panel below the ceiling."""
    width, lit = rng.uniform(0.3, 0.5), Material(color=linear(255, 246, 228), glow=2.0)
    if rng.random() < 0.5:
        parts = [post(lit, (0, 0), (0, 0.06), width, "shade", bottom=0.85)]
        parts.append(post(CHROME, (0, 0), (0.05, 0.07), width * 1.04, "rim"))
        return assemble(parts, {"color": "white", "material": "glass", "shape": "round"})
    x = width / 2
    parts = [box(lit, (-x, -x, 0), (x, x, 0.04), "shade")]
    parts.append(box(STEEL, (-x - 0.015, -x - 0.015, 0.01), (x + 0.015, x + 0.015, 0.05), "rim"))
    return assemble(parts, {"color": "white", "material": "glass", "shape": "square"})


def floor_plant(rng: np.random.Generator) -> Piece:
    """A big pot with a small tree or a tuft of long leaves."""
    return _plant(rng, rng.uniform(0.26, 0.36), rng.uniform(0.85, 1.4), {"size": "large"})


def pot_plant(rng: np.random.Generator) -> Piece:
    """A small pot with leaves, for tables."""
    return _plant(rng, rng.uniform(0.11, 0.16), rng.uniform(0.26, 0.42), {"size": "small"})


def _plant(rng: np.random.Generator, pot: float, height: float, words: dict[str, str]) -> Piece:
    rim = pot * rng.uniform(0.75, 1.0)
    clay = (
        any_finish(rng, "ceramic", "plastic").material
        if rng.random() < 0.6
        else finish(rng, "ceramic", "brown", "orange").material
    )
    soil = Material(color=linear(60, 44, 34), texture="noise", period=0.02)
    parts = [
        post(clay, (0, 0), (0, rim), pot, "pot", bottom=0.7),
        post(soil, (0, 0), (rim - 0.01, rim + 0.004), pot * 0.88, "soil"),
    ]
    leaf = Material(color=linear(*_LEAVES[rng.integers(len(_LEAVES))]), texture="noise", period=pot * 0.2, gloss=0.1)
    parts += _crown(rng, leaf, pot, rim, height) if rng.random() < 0.4 else _tuft(rng, leaf, pot, rim, height)
    return assemble(parts, {"color": "green", "material": "leafy", **words})


def _crown(rng: np.random.Generator, leaf: Material, pot: float, rim: float, height: float) -> list[Part]:
    """A trunk and round bunches of leaves."""
    bark = Material(color=linear(104, 74, 50), texture="noise", period=0.02)
    bunch = pot * 0.9
    parts = [post(bark, (0, 0), (rim - 0.02, height - bunch * 0.6), pot * 0.12, "trunk", top=0.8)]
    for angle in np.arange(4) * 1.6 + rng.uniform(0, 6):
        reach, z = pot * rng.uniform(0.2, 0.5), height - bunch * rng.uniform(0.45, 1.0)
        size = bunch * rng.uniform(0.7, 1.0)
        center = (float(reach * np.cos(angle)), float(reach * np.sin(angle)), z)
        parts.append(ball(leaf, center, (size, size, size * 0.8), "leaves"))
    parts.append(ball(leaf, (0, 0, height - bunch * 0.4), (bunch, bunch, bunch * 0.8), "leaves"))
    return parts


def _tuft(rng: np.random.Generator, leaf: Material, pot: float, rim: float, height: float) -> list[Part]:
    """Long leaves that rise from the pot and lean outwards."""
    parts, lighter = [], Material(color=darker(leaf.color, 0.7), texture="plain", gloss=0.1)
    count = int(rng.integers(8, 11))
    for index in range(count):
        angle, lean = index * 2.4 + rng.uniform(-0.3, 0.3), rng.uniform(0.1, 0.85) * (0.25 + 0.75 * index / count)
        long = (height - rim) * rng.uniform(0.8, 1.0) * (1.15 - 0.3 * index / count)
        turn = turn_z(angle) @ turn_x(lean)
        center = turn @ np.array([0, 0, long / 2]) + np.array([0, 0, rim - 0.02])
        size = (long * rng.uniform(0.16, 0.24), long * 0.05, long)
        at = (float(center[0]), float(center[1]), float(center[2]))
        parts.append(ball(leaf if index % 2 else lighter, at, size, "leaf", turn))
    return parts


def waste_bin(rng: np.random.Generator) -> Piece:
    """A round or square bin, open or with a lid."""
    kind, height = any_finish(rng, "plastic", "plastic", "metal"), rng.uniform(0.28, 0.42)
    width = height * rng.uniform(0.7, 0.85)
    inside = Material(color=darker(kind.material.color, 0.12))
    if rng.random() < 0.7:
        lid = rng.random() < 0.35
        parts = [post(kind.material, (0, 0), (0, height), width, "body", bottom=0.78)]
        parts.append(post(kind.material, (0, 0), (height - 0.02, height + 0.004), width * 1.05, "rim"))
        if lid:
            parts.append(ball(kind.material, (0, 0, height), (width, width, width * 0.35), "lid"))
            parts.append(box(DARK, (-0.05, -width / 2 - 0.05, 0.01), (0.05, 0, 0.03), "pedal"))
        else:
            parts.append(post(inside, (0, 0), (height, height + 0.008), width * 0.94, "inside"))
        return assemble(parts, kind.words(shape="round"))
    x, y = width / 2, width * 0.4
    parts = [box(kind.material, (-x, -y, 0), (x, y, height), "body")]
    parts.append(box(kind.material, (-x - 0.01, -y - 0.01, height - 0.03), (x + 0.01, y + 0.01, height), "rim"))
    parts.append(box(inside, (-x + 0.015, -y + 0.015, height), (x - 0.015, y - 0.015, height + 0.004), "inside"))
    return assemble(parts, kind.words(shape="rectangular"))


def backpack(rng: np.random.Generator) -> Piece:
    """A rounded bag with a front pocket, a handle and straps at the back."""
    cloth = finish(rng, "fabric", "black", "blue", "red", "green", "gray", "orange", "purple", "pink")
    width, depth, height = rng.uniform(0.28, 0.34), rng.uniform(0.15, 0.2), rng.uniform(0.4, 0.5)
    dark = Material(color=darker(cloth.material.color, 0.45), texture="weave", period=0.01)
    x, y, shoulder = width / 2, depth / 2, height * 0.72
    parts = [post(cloth.material, (0, 0), (0, shoulder), (width, depth), "body", bottom=0.96)]
    parts.append(ball(cloth.material, (0, 0, shoulder), (width, depth, 2 * (height - shoulder)), "body"))
    zipper = (shoulder * 0.98, shoulder * 0.98 + 0.014)
    parts.append(post(dark, (0, 0), zipper, (width + 0.006, depth + 0.006), "zip"))
    pocket = (x * 0.8, -y - 0.05, height * 0.42)
    parts.append(box(cloth.material, (-pocket[0], pocket[1], 0.02), (pocket[0], -y + 0.01, pocket[2]), "pocket"))
    parts.append(ball(cloth.material, (0, -y, pocket[2]), (2 * pocket[0], 0.1, 0.1), "pocket"))
    parts.append(
        box(dark, (-pocket[0], pocket[1] - 0.004, pocket[2] * 0.8), (pocket[0], -y, pocket[2] * 0.8 + 0.014), "zip")
    )
    for side in (-1, 1):
        parts.append(
            rod(dark, (side * x * 0.55, y + 0.02, 0.05), (side * x * 0.4, y + 0.015, height * 0.9), 0.035, "strap")
        )
        parts.append(
            box(
                dark,
                (side * 0.035 - 0.008, -0.01, height - 0.02),
                (side * 0.035 + 0.008, 0.01, height + 0.04),
                "handle",
            )
        )
    parts.append(box(dark, (-0.043, -0.01, height + 0.03), (0.043, 0.01, height + 0.048), "handle"))
    return assemble(parts, cloth.words(), has_front=True)


def _screen(rng: np.random.Generator, x: tuple[float, float], y: float, z: tuple[float, float]) -> list[Part]:
    """A pane that is off, or shows a bright ground with a bar and two windows, on the plane y, towards -y."""
    if rng.random() < 0.35:
        return [box(SCREEN, (x[0], y - 0.002, z[0]), (x[1], y + 0.002, z[1]), "screen")]
    color = ((70, 120, 190), (60, 130, 120), (120, 90, 160), (190, 120, 80))[rng.integers(4)]
    ground, window = Material(color=linear(*color), glow=0.6), Material(color=linear(225, 228, 232), glow=0.6)
    bar = Material(color=darker(linear(*color), 0.3), glow=0.6)
    width, height, split = x[1] - x[0], z[1] - z[0], rng.uniform(0.4, 0.65)
    parts = [box(ground, (x[0], y - 0.002, z[0]), (x[1], y + 0.002, z[1]), "screen")]
    parts.append(box(bar, (x[0], y - 0.003, z[0]), (x[1], y, z[0] + 0.07 * height), "bar"))
    for left, right, low in ((0.06, split - 0.03, 0.2), (split + 0.03, 0.94, rng.uniform(0.2, 0.6))):
        at = (x[0] + left * width, y - 0.003, z[0] + low * height)
        parts.append(box(window, at, (x[0] + right * width, y, z[0] + 0.92 * height), "window"))
    return parts


def _display(rng: np.random.Generator, size: tuple[float, float, float], neck: float) -> list[Part]:
    """A flat panel on a neck and a foot. size: width, thickness, height of the panel."""
    x, thick, height = size[0] / 2, size[1], size[2]
    foot = min(0.3, size[0] * 0.45)
    border, chin = 0.012, 0.02
    return [
        box(DARK, (-foot / 2, -0.09, 0), (foot / 2, 0.09, 0.014), "foot"),
        box(DARK, (-0.035, 0.015, 0.01), (0.035, 0.04, neck + height / 2), "neck"),
        box(DARK, (-x, -thick / 2, neck), (x, thick / 2, neck + height), "panel"),
        *_screen(rng, (border - x, x - border), -thick / 2, (neck + chin, neck + height - border)),
    ]


def monitor(rng: np.random.Generator) -> Piece:
    """A computer's screen on its foot."""
    width = rng.uniform(0.46, 0.62)
    return assemble(
        _display(rng, (width, 0.03, width * 0.58), 0.11), {"color": "black", "material": "plastic"}, has_front=True
    )


def television(rng: np.random.Generator) -> Piece:
    """A wide flat screen on a low foot."""
    width = rng.uniform(0.9, 1.25)
    words = {"color": "black", "material": "plastic", "size": "large"}
    return assemble(_display(rng, (width, 0.035, width * 0.57), 0.07), words, has_front=True)


def tower(rng: np.random.Generator) -> Piece:
    """A computer's upright case with a drive and a lit button."""
    case = finish(rng, "metal", "black", "black", "white", "gray")
    x, y, height = rng.uniform(0.09, 0.11), rng.uniform(0.2, 0.23), rng.uniform(0.4, 0.46)
    front = Material(color=darker(case.material.color, 0.4), gloss=0.3)
    lit = Material(color=(0.1, 0.5, 0.9), glow=1.5)
    parts = [box(case.material, (-x, -y + 0.01, 0), (x, y, height), "case")]
    parts.append(box(front, (-x, -y, 0), (x, -y + 0.01, height), "front"))
    for z in (0.86, 0.74):
        parts.append(box(STEEL, (-x * 0.75, -y - 0.004, height * z), (x * 0.75, -y, height * z + 0.03), "drive"))
    parts.append(rod(lit, (0, -y, height * 0.6), (0, -y - 0.004, height * 0.6), 0.03, "button"))
    for z in (0.1, 0.2, 0.3):
        parts.append(box(case.material, (-x * 0.6, -y - 0.003, height * z), (x * 0.6, -y, height * z + 0.015), "vent"))
    return assemble(parts, case.words(), has_front=True)


def laptop(rng: np.random.Generator) -> Piece:
    """Open: keys in front, screen leaned back."""
    case = finish(rng, "metal", "gray", "gray", "black", "white")
    x, y = rng.uniform(0.16, 0.19), rng.uniform(0.11, 0.125)
    keys = Material(color=linear(50, 50, 54), second=linear(90, 90, 96), texture="checker", period=0.018)
    parts = [box(case.material, (-x, -y, 0), (x, y, 0.018), "base")]
    parts.append(box(keys, (-x + 0.02, -y * 0.15, 0.01), (x - 0.02, y * 0.85, 0.02), "keys"))
    parts.append(box(DARK, (-0.05, -y * 0.85, 0.01), (0.05, -y * 0.3, 0.02), "touchpad"))
    lid = box(case.material, (-x, y - 0.01, 0.01), (x, y, 0.01 + 1.8 * y), "lid")
    glass = _screen(rng, (0.01 - x, x - 0.01), y - 0.01, (0.03, 1.8 * y))
    parts += [leaned(part, 0.3, (0, y, 0.01)) for part in (lid, *glass)]
    return assemble(parts, case.words(), has_front=True)


def keyboard(rng: np.random.Generator) -> Piece:
    """Lies before a monitor."""
    case = finish(rng, "plastic", "black", "white", "gray")
    color = case.material.color
    keys = Material(color=darker(color, 0.85), second=darker(color, 0.45), texture="checker", period=0.019)
    x = rng.uniform(0.17, 0.23)
    parts = [box(case.material, (-x, -0.07, 0), (x, 0.07, 0.02), "case")]
    parts.append(box(keys, (0.01 - x, -0.06, 0.01), (x - 0.01, 0.06, 0.026), "keys"))
    return assemble(parts, case.words(), has_front=True)


def book(rng: np.random.Generator) -> Piece:
    """Lies shut: two covers, a spine at the left, pages."""
    cover = finish(rng, "paper", "red", "blue", "green", "black", "orange", "purple", "yellow", "brown")
    x, y, thick = rng.uniform(0.07, 0.11), rng.uniform(0.1, 0.15), rng.uniform(0.025, 0.05)
    parts = [box(PAPER, (-x + 0.004, -y + 0.004, 0.003), (x - 0.004, y - 0.004, thick - 0.003), "pages")]
    parts.append(box(cover.material, (-x, -y, 0), (x, y, 0.005), "cover"))
    parts.append(box(cover.material, (-x, -y, thick - 0.005), (x, y, thick), "cover"))
    parts.append(box(cover.material, (-x - 0.003, -y, 0), (-x + 0.003, y, thick), "spine"))
    return assemble(parts, cover.words(), tops=[Top((-x, x), (-y, y), thick)])


def bottle(rng: np.random.Generator) -> Piece:
    """A body, shoulders, neck and cap, with a label."""
    kind = any_finish(rng, "glass", "plastic")
    width, height = rng.uniform(0.065, 0.09), rng.uniform(0.22, 0.32)
    label = finish(rng, "paper").material
    cap = finish(rng, "plastic", "white", "black", "red", "blue").material
    parts = [post(kind.material, (0, 0), (0, height * 0.6), width, "body")]
    parts.append(post(label, (0, 0), (height * 0.18, height * 0.46), width + 0.002, "label"))
    parts.append(post(kind.material, (0, 0), (height * 0.6, height * 0.78), width, "shoulders", top=0.4))
    parts.append(post(kind.material, (0, 0), (height * 0.77, height * 0.94), width * 0.4, "neck"))
    parts.append(post(cap, (0, 0), (height * 0.92, height), width * 0.44, "cap"))
    return assemble(parts, kind.words())
