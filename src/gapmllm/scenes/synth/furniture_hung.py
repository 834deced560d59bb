"""What belongs to walls: doors, windows, curtains, pictures, mirrors, boards, towels; folded towels; rugs."""

from __future__ import annotations

import numpy as np

from gapmllm.scenes.synth.furniture_parts import Piece, assemble, ball, box, post, rod
from gapmllm.scenes.synth.materials import CHROME, STEEL, Finish, any_finish, darker, finish, linear, patterned, shade
from gapmllm.scenes.synth.room import Material, Part


def door(rng: np.random.Generator) -> Piece:
    """A leaf with panels and a handle in a frame."""
    leaf, frame = finish(rng, "wooden"), finish(rng, "wooden", "white", "brown", "gray").material
    width, height, jamb = rng.uniform(0.8, 0.92), rng.uniform(2.0, 2.08), 0.07
    x, y = width / 2, 0.025
    parts = [box(leaf.material, (-x, -y + 0.015, 0.005), (x, y, height), "leaf")]
    for side in (-1, 1):
        a, b = sorted((side * x, side * (x + jamb)))
        parts.append(box(frame, (a, -y, 0), (b, y, height + jamb), "jamb"))
    parts.append(box(frame, (-x, -y, height), (x, y, height + jamb), "lintel"))
    if rng.random() < 0.7:
        sunk = Material(
            color=darker(leaf.material.color, 0.8), second=leaf.material.second, texture=leaf.material.texture
        )
        for low, high in ((0.2, 0.85), (1.1, height - 0.2)):
            parts.append(box(sunk, (-x + 0.13, -y + 0.009, low), (x - 0.13, y, high), "panel"))
    at = (x - 0.08) * (-1 if rng.random() < 0.5 else 1)
    parts.append(rod(CHROME, (at, -y + 0.015, 1.02), (at, -y - 0.035, 1.02), 0.022, "handle"))
    parts.append(rod(CHROME, (at, -y - 0.03, 1.02), (at - np.sign(at) * 0.12, -y - 0.03, 1.02), 0.02, "handle"))
    return assemble(parts, leaf.words(), has_front=True)


def window(rng: np.random.Generator) -> Piece:
    """A frame with bars and a sill, bright with daylight."""
    width, height, bar, y = rng.uniform(0.9, 1.7), rng.uniform(1.0, 1.35), 0.06, 0.025
    frame, x = (
        any_finish(rng, "wooden", "plastic") if rng.random() < 0.4 else finish(rng, "plastic", "white"),
        width / 2,
    )
    sky = Material(color=linear(206, 226, 248), glow=rng.uniform(0.8, 1.2))
    parts = [box(sky, (-x, 0.0, 0.03), (x, y, height), "pane")]
    for side in (-1, 1):
        a, b = sorted((side * x, side * (x - bar)))
        parts.append(box(frame.material, (a, -y, 0.03), (b, y, height), "frame"))
    parts.append(box(frame.material, (-x, -y, height - bar), (x, y, height), "frame"))
    parts.append(box(frame.material, (-x, -y, 0.03), (x, y, 0.03 + bar), "frame"))
    for at in np.linspace(-x, x, 3 if width < 1.35 else 4)[1:-1]:
        middle = float(at)
        parts.append(box(frame.material, (middle - 0.025, -y + 0.008, 0.05), (middle + 0.025, y, height - 0.02), "bar"))
    if rng.random() < 0.5:
        parts.append(
            box(frame.material, (-x + 0.02, -y + 0.01, height * 0.6), (x - 0.02, y, height * 0.6 + 0.04), "bar")
        )
    parts.append(box(frame.material, (-x - 0.04, -0.08, 0), (x + 0.04, y, 0.03), "sill"))
    return assemble(parts, {"color": frame.color, "material": "glass"}, has_front=True)


def curtain(rng: np.random.Generator) -> Piece:
    """A rod and cloth in folds, long enough to reach nearly to the floor."""
    return _folds(rng, rng.uniform(1.9, 2.1))


def short_curtain(rng: np.random.Generator) -> Piece:
    """A rod and cloth in folds, about as long as a window is high."""
    return _folds(rng, rng.uniform(1.25, 1.4))


def _folds(rng: np.random.Generator, height: float) -> Piece:
    cloth, width, fold = finish(rng, "fabric"), rng.uniform(0.32, 0.5), 0.11
    shaded = patterned(rng, cloth, "plain", period=0.1).material
    count = int(width / (fold * 0.8))
    parts = [box(shaded, (-width / 2 + 0.02, 0.0, 0.0), (width / 2 - 0.02, 0.03, height), "cloth")]
    for index, at in enumerate(np.linspace(-width / 2 + fold / 2, width / 2 - fold / 2, count)):
        depth = 0.01 if index % 2 else 0.0
        parts.append(post(cloth.material, (float(at), depth), (0.0, height), (fold, 0.07), "fold", top=0.88))
    parts.append(rod(STEEL, (-width / 2 - 0.05, 0, height + 0.01), (width / 2 + 0.05, 0, height + 0.01), 0.028, "rod"))
    return assemble(parts, cloth.words(), has_front=True)


def picture(rng: np.random.Generator) -> Piece:
    """A frame, a white border, and a painting of hills or of shapes."""
    width, height, y, edge = rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.7), 0.012, rng.uniform(0.02, 0.045)
    frame, x, z = any_finish(rng, "wooden", "wooden", "metal"), width / 2, height / 2
    mat = rng.uniform(0.03, 0.07) if rng.random() < 0.5 else 0.0
    parts = [box(frame.material, (-x, -y + 0.002, -z), (x, y, z), "frame")]
    if mat:
        paper = Material(color=linear(240, 238, 230))
        parts.append(box(paper, (edge - x, -y + 0.001, edge - z), (x - edge, 0, z - edge), "mat"))
    inner = (x - edge - mat, z - edge - mat)
    parts += (_landscape if rng.random() < 0.5 else _shapes)(rng, inner, -y)
    size = {"size": "large"} if width * height > 0.36 else {"size": "small"} if width * height < 0.16 else {}
    return assemble(parts, frame.words(**size), has_front=True)


def _landscape(rng: np.random.Generator, half: tuple[float, float], y: float) -> list[Part]:
    """Sky, a sun, a far and a near strip of land."""
    x, z = half
    colors = [
        shade(rng, str(rng.choice(words))) for words in (["blue", "pink"], ["purple", "green"], ["green", "brown"])
    ]
    sky, far, near = (Material(color=color) for color in colors)
    sun, radius = Material(color=shade(rng, "yellow")), min(x, z) * 0.35
    return [
        box(sky, (-x, y, -z), (x, y + 0.003, z), "sky"),
        ball(sun, (x * rng.uniform(-0.5, 0.5), y, z * 0.4), (2 * radius, 0.004, 2 * radius), "sun"),
        box(far, (-x, y - 0.0025, -z), (x, y, -z * 0.1), "hills"),
        box(near, (-x, y - 0.004, -z), (x, y, -z * 0.5), "field"),
    ]


def _shapes(rng: np.random.Generator, half: tuple[float, float], y: float) -> list[Part]:
    """A coloured ground with a disk and two bars."""
    x, z = half
    words = rng.permutation(["red", "blue", "yellow", "green", "orange", "black", "purple", "pink"])[:4]
    ground, disk, bar, beam = (Material(color=shade(rng, str(word))) for word in words)
    radius, left, level = min(x, z) * rng.uniform(0.4, 0.7), rng.uniform(-0.8, 0.2) * x, rng.uniform(-0.8, 0.3) * z
    return [
        box(ground, (-x, y, -z), (x, y + 0.003, z), "ground"),
        box(bar, (left, y - 0.0015, -z), (left + 0.4 * x, y, z), "bar"),
        box(beam, (-x, y - 0.003, level), (x, y, level + 0.25 * z), "bar"),
        ball(disk, (rng.uniform(-0.4, 0.4) * x, y, 0), (2 * radius, 0.009, 2 * radius), "disk"),
    ]


def mirror(rng: np.random.Generator) -> Piece:
    """A pane as bright as its room, in a thin frame."""
    width, height, y = rng.uniform(0.45, 0.7), rng.uniform(0.6, 0.9), 0.012
    frame, pane = any_finish(rng, "metal", "wooden"), Material(color=linear(178, 196, 206), gloss=1.0)
    if rng.random() < 0.4:
        parts = [rod(frame.material, (0, y, 0), (0, -y + 0.006, 0), width, "frame")]
        parts.append(rod(pane, (0, 0, 0), (0, -y, 0), width - 0.05, "pane"))
        return assemble(parts, frame.words(shape="round"), has_front=True)
    x, z = width / 2, height / 2
    parts = [box(frame.material, (-x, -y + 0.004, -z), (x, y, z), "frame")]
    parts.append(box(pane, (-x + 0.03, -y, 0.03 - z), (x - 0.03, 0, z - 0.03), "pane"))
    return assemble(parts, frame.words(shape="rectangular"), has_front=True)


def whiteboard(rng: np.random.Generator) -> Piece:
    """A white pane in a metal frame, with a tray, pens and some writing."""
    x, z, y = rng.uniform(0.6, 0.95), rng.uniform(0.42, 0.55), 0.015
    pane = Material(color=linear(246, 247, 247), gloss=0.4)
    parts = [box(STEEL, (-x, -y + 0.004, -z), (x, y, z), "frame")]
    parts.append(box(pane, (-x + 0.02, -y, 0.02 - z), (x - 0.02, 0, z - 0.02), "pane"))
    parts.append(box(STEEL, (-x * 0.5, -y - 0.05, -z), (x * 0.5, -y, 0.015 - z), "tray"))
    for index in range(int(rng.integers(2, 5))):
        ink = Material(color=shade(rng, str(rng.choice(["black", "blue", "red", "green"]))))
        left, level = -x * rng.uniform(0.4, 0.85), z * (0.6 - 0.3 * index)
        parts.append(
            box(ink, (left, -y - 0.001, level), (left + x * rng.uniform(0.4, 1.0), -y, level + 0.018), "writing")
        )
    words = {"color": "white", "material": "plastic", "size": "large"}
    return assemble(parts, words, has_front=True)


def hung_towel(rng: np.random.Generator) -> Piece:
    """A towel over a bar at the wall, its back end shorter, with a band near the hem."""
    cloth, band = _towelling(rng)
    x, height = rng.uniform(0.18, 0.3), rng.uniform(0.5, 0.75)
    parts = [rod(CHROME, (-x - 0.07, 0, height), (x + 0.07, 0, height), 0.02, "bar")]
    parts += [
        rod(CHROME, (s * (x + 0.055), 0, height), (s * (x + 0.055), 0.06, height), 0.024, "bracket") for s in (-1, 1)
    ]
    parts.append(box(cloth.material, (-x, -0.026, 0), (x, -0.008, height), "front"))
    parts.append(box(cloth.material, (-x, 0.008, height * 0.25), (x, 0.024, height), "back"))
    parts.append(rod(cloth.material, (-x, 0, height), (x, 0, height), 0.05, "fold"))
    parts.append(box(band, (-x - 0.001, -0.028, 0.08), (x + 0.001, -0.007, 0.12), "band"))
    return assemble(parts, cloth.words(), has_front=True)


def folded_towel(rng: np.random.Generator) -> Piece:
    """Folded: layers with a round edge in front."""
    cloth, band = _towelling(rng)
    x, y, layer = rng.uniform(0.14, 0.19), rng.uniform(0.1, 0.13), rng.uniform(0.022, 0.03)
    parts = []
    for level in range(int(rng.integers(2, 4))):
        z = level * (layer + 0.002)
        parts.append(box(cloth.material, (-x, -y, z), (x, y, z + layer), "layer"))
        parts.append(rod(cloth.material, (-x, -y, z + layer / 2), (x, -y, z + layer / 2), layer, "fold"))
    top = parts[-2].bounds()[1][2]
    parts.append(box(band, (-x * 0.6, -y, 0.004), (-x * 0.4, y, float(top) + 0.001), "band"))
    return assemble(parts, cloth.words())


def _towelling(rng: np.random.Generator) -> tuple[Finish, Material]:
    """Rough cloth, and the band woven into it."""
    cloth = finish(rng, "fabric", "white", "blue", "green", "pink", "yellow", "red", "gray", "orange", "purple")
    cloth = patterned(rng, cloth, "noise", period=0.01)
    return cloth, Material(color=darker(cloth.material.color, 0.5))


def rug(rng: np.random.Generator) -> Piece:
    """Flat on the floor, with a border, or round."""
    cloth = finish(rng, "fabric", "red", "blue", "green", "gray", "beige", "brown", "purple", "orange")
    cloth = patterned(rng, cloth, "stripes", "checker", "noise", "weave", period=rng.uniform(0.1, 0.3))
    border = Material(color=darker(cloth.material.color, 0.45), texture="weave", period=0.02)
    if rng.random() < 0.25:
        width = rng.uniform(1.2, 1.8)
        parts = [
            post(border, (0, 0), (0, 0.006), width, "border"),
            post(cloth.material, (0, 0), (0, 0.008), width - 0.16, "pile"),
        ]
        return assemble(parts, cloth.words(shape="round"))
    x, y = rng.uniform(0.8, 1.2), rng.uniform(0.55, 0.85)
    parts = [box(border, (-x, -y, 0), (x, y, 0.006), "border")]
    parts.append(box(cloth.material, (-x + 0.08, -y + 0.08, 0), (x - 0.08, y - 0.08, 0.008), "pile"))
    return assemble(parts, cloth.words(shape="rectangular"))
