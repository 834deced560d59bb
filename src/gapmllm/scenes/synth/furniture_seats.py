"""Things to sit on: chairs of several styles, couches, ottomans; and what lies on them and on beds: pillows."""

from __future__ import annotations

import numpy as np

from gapmllm.scenes.synth.furniture_parts import (
    Piece,
    Top,
    assemble,
    ball,
    box,
    four_legs,
    leaned,
    post,
    rod,
    turn_z,
)
from gapmllm.scenes.synth.materials import CHROME, DARK, Finish, any_finish, finish, patterned
from gapmllm.scenes.synth.room import Material, Part


def dining_chair(rng: np.random.Generator) -> Piece:
    """Four legs, seat, and a back of slats or of one panel."""
    width, depth = rng.uniform(0.4, 0.48), rng.uniform(0.4, 0.46)
    seat, height = rng.uniform(0.43, 0.47), rng.uniform(0.82, 1.0)
    slats = rng.random() < 0.5
    frame = finish(rng, "wooden") if slats else any_finish(rng, "plastic", "fabric", "leather", "wooden")
    legs = frame if slats or frame.substance == "wooden" else any_finish(rng, "wooden", "metal")
    half, thick = (width / 2 - 0.025, depth / 2 - 0.025), 0.04
    parts = four_legs(legs.material, half, seat - 0.01, thick, round_=not slats, splay=0.0 if slats else 0.03)
    parts.append(box(frame.material, (-width / 2, -depth / 2, seat - 0.035), (width / 2, depth / 2, seat), "seat"))
    back = _slat_back if slats else _panel_back
    about = (0, half[1], seat)
    parts += [leaned(part, rng.uniform(0.06, 0.14), about) for part in back(frame, width, half[1], (seat, height))]
    if slats and rng.random() < 0.4:
        cushion = finish(rng, "fabric").material
        parts.append(box(cushion, (-half[0], -half[1], seat), (half[0], half[1] - 0.03, seat + 0.035), "cushion"))
    return assemble(parts, frame.words(), has_front=True)


def _slat_back(frame: Finish, width: float, y: float, z: tuple[float, float]) -> list[Part]:
    material, x = frame.material, width / 2 - 0.025
    parts = [box(material, (s * x - 0.02, y - 0.02, z[0]), (s * x + 0.02, y + 0.02, z[1]), "post") for s in (-1, 1)]
    for share in (0.35, 0.62, 0.9):
        level = z[0] + share * (z[1] - z[0])
        parts.append(box(material, (-x, y - 0.012, level - 0.035), (x, y + 0.012, level + 0.035), "slat"))
    return parts


def _panel_back(frame: Finish, width: float, y: float, z: tuple[float, float]) -> list[Part]:
    material, x = frame.material, width / 2
    parts = [box(material, (-x, y - 0.02, z[0] - 0.03), (x, y + 0.02, z[1] - 0.06), "back")]
    middle, bulge = z[1] - 0.06, (width, 0.04, 0.12)
    parts.append(ball(material, (0, y, middle), bulge, "back"))
    return parts


def office_chair(rng: np.random.Generator) -> Piece:
    """A star foot, a column, upholstered seat and back, often arms."""
    cloth = finish(rng, rng.choice(["fabric", "leather"]), "black", "black", "gray", "blue", "red", "green", "white")
    metal = DARK if rng.random() < 0.5 else CHROME
    width, seat, height = rng.uniform(0.46, 0.52), rng.uniform(0.44, 0.52), rng.uniform(0.9, 1.15)
    parts, reach = [], 0.3
    for angle in np.arange(5) * 2 * np.pi / 5 + np.pi / 2:
        tip = (float(reach * np.cos(angle)), float(reach * np.sin(angle)))
        parts.append(rod(metal, (*tip, 0.02), (0, 0, 0.12), 0.05, "foot", taper=0.8))
    parts.append(post(metal, (0, 0), (0.06, seat - 0.05), 0.06, "column"))
    depth = width - 0.02
    parts.append(
        box(cloth.material, (-width / 2, -depth / 2, seat - 0.09), (width / 2, depth / 2, seat - 0.02), "seat")
    )
    parts.append(ball(cloth.material, (0, 0, seat - 0.03), (width, depth, 0.07), "seat"))
    y = depth / 2 + 0.02
    parts.append(box(metal, (-0.04, depth / 2 - 0.1, seat - 0.08), (0.04, y + 0.02, seat - 0.05), "bracket"))
    parts.append(box(metal, (-0.03, y, seat - 0.08), (0.03, y + 0.02, seat + 0.2), "bracket"))
    back = box(cloth.material, (-width / 2 + 0.02, y - 0.05, seat + 0.1), (width / 2 - 0.02, y + 0.01, height), "back")
    parts.append(leaned(back, 0.1, (0, y, seat + 0.1)))
    if rng.random() < 0.7:
        parts += _office_arms(metal, width / 2, seat)
    return assemble(parts, cloth.words(), has_front=True)


def _office_arms(metal: Material, x: float, seat: float) -> list[Part]:
    parts = []
    for side in (-1, 1):
        parts.append(box(metal, (side * x - 0.02, -0.03, seat - 0.08), (side * x + 0.02, 0.03, seat + 0.2), "arm"))
        parts.append(box(DARK, (side * x - 0.035, -0.14, seat + 0.2), (side * x + 0.035, 0.12, seat + 0.235), "arm"))
    return parts


def armchair(rng: np.random.Generator) -> Piece:
    """An upholstered chair for one, with thick arms."""
    cloth = any_finish(rng, "fabric", "fabric", "leather")
    return _upholstered(rng, cloth, 1, rng.uniform(0.5, 0.58), leaf=0.0)


def couch(rng: np.random.Generator) -> Piece:
    """For two or three, upholstered."""
    cloth = any_finish(rng, "fabric", "fabric", "leather")
    return _upholstered(rng, cloth, int(rng.integers(2, 4)), rng.uniform(0.58, 0.72), leaf=0.0)


def corner_couch(rng: np.random.Generator) -> Piece:
    """L-shaped: one seat reaches far to the front."""
    cloth = any_finish(rng, "fabric", "fabric", "leather")
    return _upholstered(rng, cloth, 3, rng.uniform(0.6, 0.7), leaf=rng.uniform(0.55, 0.75))


def _upholstered(rng: np.random.Generator, cloth: Finish, seats: int, seat_width: float, *, leaf: float) -> Piece:
    """Base, cushions, back and arms; leaf: how much farther the last seat reaches to the front, metres."""
    material, arm, back = cloth.material, rng.uniform(0.1, 0.2), rng.uniform(0.16, 0.22)
    depth, seat, height = rng.uniform(0.8, 0.92), rng.uniform(0.4, 0.46), rng.uniform(0.76, 0.9)
    arm_height, foot, inner = seat + rng.uniform(0.12, 0.22), rng.uniform(0.05, 0.14), seats * seat_width
    x, y = inner / 2 + arm, depth / 2
    parts = four_legs(finish(rng, "wooden").material, (x - 0.07, y - 0.07), foot, 0.05, round_=True)
    parts.append(box(material, (-x, -y + 0.02, foot), (x, y, seat - 0.15), "base"))
    parts.append(box(material, (-x, y - back, foot), (x, y, height), "back"))
    flip = -1 if rng.random() < 0.5 else 1
    for index in range(seats):
        left = -inner / 2 + index * seat_width
        parts += _cushions(material, (left, left + seat_width), (-y, y - back), (seat, height))
    for side in (-1, 1):
        front = -y if leaf == 0 or side != flip else y - back - 0.2
        inside, outside = side * inner / 2, side * x
        low, high = (min(inside, outside), front, foot), (max(inside, outside), y, arm_height)
        parts.append(box(material, low, high, "arm"))
    words = cloth.words(size="large") if seats > 2 else cloth.words()
    if leaf:
        edge = flip * inner / 2
        span = sorted((edge, edge - flip * seat_width))
        parts.append(box(material, (span[0], -y - leaf, foot), (span[1], -y + 0.03, seat), "leaf"))
        words["shape"] = "L-shaped"
    top = Top((-inner / 2, inner / 2), (-y + 0.05, y - back - 0.13), seat)
    return assemble(parts, words, has_front=True, tops=[top])


def _cushions(material: Material, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> list[Part]:
    """A seat cushion and a back cushion with a seam around them."""
    seam = 0.01
    seat = box(material, (x[0] + seam, y[0], z[0] - 0.14), (x[1] - seam, y[1], z[0]), "cushion")
    back = box(material, (x[0] + seam, y[1] - 0.13, z[0]), (x[1] - seam, y[1] - 0.01, z[1] + 0.03), "cushion")
    return [seat, back]


def ottoman(rng: np.random.Generator) -> Piece:
    """A low upholstered block or drum on small feet."""
    cloth, wood = any_finish(rng, "fabric", "leather"), finish(rng, "wooden").material
    width, height, foot = rng.uniform(0.42, 0.62), rng.uniform(0.36, 0.45), 0.06
    dark = patterned(rng, cloth, "plain", period=0.1).material
    if rng.random() < 0.5:
        parts = four_legs(wood, (width / 4, width / 4), foot, 0.04, round_=True)
        parts.append(post(cloth.material, (0, 0), (foot, height - 0.05), width, "body"))
        parts.append(post(dark, (0, 0), (height - 0.08, height - 0.065), width + 0.012, "seam"))
        parts.append(ball(cloth.material, (0, 0, height - 0.05), (width, width, 0.1), "cushion"))
        return assemble(parts, cloth.words(shape="round"))
    depth = width * rng.uniform(0.8, 1.0)
    x, y = width / 2, depth / 2
    parts = four_legs(wood, (x - 0.05, y - 0.05), foot, 0.04, round_=False)
    parts.append(box(cloth.material, (-x, -y, foot), (x, y, height - 0.1), "body"))
    parts.append(box(dark, (-x + 0.01, -y + 0.01, height - 0.1), (x - 0.01, y - 0.01, height - 0.09), "seam"))
    parts.append(box(cloth.material, (-x, -y, height - 0.09), (x, y, height), "cushion"))
    return assemble(parts, cloth.words(shape="square" if depth > 0.93 * width else "rectangular"))


def pillow(rng: np.random.Generator) -> Piece:
    """A bed pillow, lying."""
    cloth = finish(rng, "fabric", "white", "white", "gray", "blue", "beige", "pink", "green", "yellow")
    width, depth, height = rng.uniform(0.5, 0.65), rng.uniform(0.34, 0.42), rng.uniform(0.11, 0.16)
    return assemble(_stuffed(cloth.material, (width, depth, height)), cloth.words())


def cushion(rng: np.random.Generator) -> Piece:
    """A square throw pillow that leans back."""
    cloth = finish(
        rng, "fabric", "red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "black", "gray"
    )
    width = rng.uniform(0.36, 0.46)
    parts = _stuffed(cloth.material, (width, width, rng.uniform(0.11, 0.15)))
    lean = -rng.uniform(1.0, 1.25)
    return assemble([leaned(part, lean, (0, 0, 0)) for part in parts], cloth.words())


def _stuffed(material: Material, size: tuple[float, float, float]) -> list[Part]:
    """A lens, and two from corner to corner that fill the corners."""
    width, depth, height = size
    angle, across = float(np.arctan2(depth, width)), float(np.hypot(width, depth))
    ears = (0.9 * across, 0.62 * depth, 0.85 * height)
    parts = [ball(material, (0, 0, 0), (width, depth, height), "body")]
    return parts + [ball(material, (0, 0, 0), ears, "ear", turn_z(side * angle)) for side in (-1, 1)]
