"""What stands in which kind of room, and where: one function for each kind, on top of `Placer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gapmllm.scenes.synth.placing import Placer, upright_pose


@dataclass(frozen=True)
class Recipe:
    """One kind of room."""

    furnish: Callable[[Placer], None]
    length: tuple[float, float]
    """Metres along x, and along y below."""
    width: tuple[float, float]
    fillers: tuple[str, ...]
    """What else may stand along its walls."""
    wet: bool = False
    """Tiles on the floor, and perhaps on the walls."""
    pictures: tuple[int, int] = (1, 5)


def scatter(p: Placer, support: int | None, names: Sequence[str], count: int) -> None:
    """Put up to `count` small things on something, as far as there is room."""
    if support is None:
        return
    for _ in range(count):
        p.on(support, str(p.rng.choice(names)), tries=3)


def fill(p: Placer, names: Sequence[str], count: int) -> None:
    """Put up to `count` more pieces into corners or at walls, and small things or a cushion on them."""
    for name in p.rng.choice(names, count):
        item = p.at_wall(str(name), corner=p.chance(0.4), clear=0.3, tries=5)
        if item is not None and p.objects[item].label == "chair":
            scatter(p, item, ("cushion",), int(p.rng.integers(0, 2)))
        elif item is not None and p.pieces[item].tops:
            scatter(p, item, ("table lamp", "book", "bottle", "pot plant"), int(p.rng.integers(0, 4)))


def bed_group(p: Placer) -> int | None:
    """A bed with pillows, night stands with lamps."""
    bed = p.at_wall("bed", clear=0.35, tries=24)
    if bed is None:
        return None
    double = p.objects[bed].attributes["size"] == "large"
    pillow = p.build("pillow")
    for share in (0.12, 0.88) if double else (0.5,):
        p.on(bed, "pillow", piece=pillow, x=share, y=0.9, turn=float(p.rng.normal(0, 0.05)))
    if p.chance(0.5):
        p.on(bed, "cushion", x=float(p.rng.uniform(0.3, 0.7)), y=0.05, turn=float(p.rng.normal(0, 0.2)))
    stand, lamp = p.build("night stand"), p.build("table lamp")
    for side in (-1, 1):
        item = p.beside(bed, "night stand", side, gap=0.06, piece=stand) if p.chance(0.85) else None
        if item is not None:
            if p.chance(0.75):
                p.on(item, "table lamp", piece=lamp, x=0.5, y=0.7)
            scatter(p, item, ("book", "bottle"), int(p.rng.integers(0, 2)))
    if p.chance(0.35):
        p.by(bed, "ottoman", 0.0, float(p.pieces[bed].low[1]) - 0.4, near=(bed,))
    if p.chance(0.5):
        _rug_by(p, bed)
    return bed


def _rug_by(p: Placer, item: int) -> None:
    place = p.objects[item].pose @ upright_pose(0, float(p.pieces[item].low[1]) - 0.3, 0, 0)
    p.lay("rug", place[0, 3], place[1, 3], p.turn(item))


def desk_group(p: Placer, *, office: bool) -> int | None:
    """A desk with a chair, a screen or a laptop, and what lies about."""
    desk = p.at_wall("desk", clear=0.65, tries=16)
    if desk is None:
        return None
    seat = p.pieces[desk].seats[0]
    chair = "office chair" if office or p.chance(0.5) else "dining chair"
    p.at_seat(desk, seat, chair, p.build(chair))
    middle = 0.5 + 0.5 * seat.x / float(p.pieces[desk].high[0])
    turn = float(p.rng.normal(0, 0.08))
    screen = p.on(desk, "monitor", x=middle, y=0.85, turn=turn) if p.chance(0.7 if office else 0.55) else None
    if screen is None:
        p.on(desk, "laptop", x=middle, y=0.45, turn=turn)
    else:
        p.on(desk, "keyboard", x=middle, y=0.15, turn=turn)
        away = 0.28 if seat.x <= 0 else -0.28
        p.by(desk, "tower", seat.x - away, float(p.pieces[desk].high[1]) - 0.35, near=(desk,))
    if p.chance(0.5):
        p.on(desk, "table lamp", x=float(p.rng.choice([0.03, 0.97])), y=0.9)
    scatter(p, desk, ("book", "book", "bottle", "pot plant"), int(p.rng.integers(0, 4)))
    if p.chance(0.6):
        p.beside(desk, "bin", int(p.rng.choice([-1, 1])))
    return desk


def couch_group(p: Placer) -> None:
    """A couch with cushions, a low table, perhaps armchairs, a television opposite."""
    couch = p.at_wall(str(p.rng.choice(["couch", "couch", "corner couch"])), clear=0.95, tries=24)
    if couch is None:
        return
    for share in p.rng.permutation([0.02, 0.3, 0.65, 0.98])[: int(p.rng.integers(1, 4))]:
        p.on(couch, "cushion", x=float(share), y=1.0, turn=float(p.rng.normal(0, 0.1)))
    if p.chance(0.7):
        _rug_by(p, couch)
    table, front = p.build("coffee table"), float(p.pieces[couch].low[1])
    depth = float(table.high[1])
    low = p.by(couch, "coffee table", 0.0, front - 0.35 - depth, piece=table, near=(couch,))
    scatter(p, low, ("book", "book", "bottle", "pot plant"), int(p.rng.integers(0, 4)))
    if low is not None:
        _armchairs(p, couch, low)
    _television(p, couch)
    for side in (-1, 1):
        name = str(p.rng.choice(["side table", "floor lamp", "floor plant", "none"]))
        item = p.beside(couch, name, side, gap=0.08) if name != "none" else None
        if item is not None and name == "side table":
            p.on(item, "table lamp", x=0.5, y=0.5)


def _armchairs(p: Placer, couch: int, table: int) -> None:
    """At the ends of the low table, looking at it."""
    chair, reach = p.build("armchair"), float(p.pieces[table].high[0])
    for side in (-1, 1):
        if p.chance(0.6):
            turn = -side * np.pi / 2 + float(p.rng.normal(0, 0.15))
            x = side * (reach + 0.35 + float(chair.high[1]))
            p.by(table, "armchair", x, 0.0, piece=chair, turn=turn, near=(couch,))


def _television(p: Placer, couch: int) -> None:
    wall = (p.walls[couch] + 2) % 4
    stand = p.at_wall("tv stand", wall=wall, along=-p.along(couch), tries=1)
    stand = p.at_wall("tv stand", wall=wall, clear=0.4) if stand is None else stand
    if stand is not None and p.on(stand, "television", x=0.5, y=0.6, turn=0.0) is not None:
        scatter(p, stand, ("book", "bottle", "pot plant"), int(p.rng.integers(0, 3)))


def dining_group(p: Placer) -> None:
    """A table in the open with two to six chairs of one kind, perhaps one of another."""
    name = str(p.rng.choice(["dining table", "dining table", "round table"]))
    piece, table = p.build(name), None
    for _ in range(24):
        x, y = p.rng.uniform(-0.32, 0.32, 2) * p.size[:2]
        turn = float(p.rng.choice([0, np.pi / 2]) + p.rng.normal(0, 0.04))
        table = p.put(name, piece, upright_pose(x, y, 0, turn), 0, clear=0.3)
        if table is not None:
            break
    if table is None:
        return
    chair = p.build("dining chair")
    seats = list(piece.seats)
    order = [seats[i] for i in p.rng.permutation(len(seats))]
    odd = p.chance(0.25)
    for index, seat in enumerate(order[: int(p.rng.integers(2, len(seats) + 1))]):
        p.at_seat(table, seat, "dining chair", p.build("dining chair") if odd and index == 0 else chair)
    scatter(p, table, ("bottle", "pot plant", "book", "bottle"), int(p.rng.integers(0, 4)))


def kitchen_row(p: Placer) -> None:
    """Units side by side along one wall, cabinets above, things on the worktop."""
    seed = int(p.rng.integers(2**31))
    busy = [sum(p.walls.get(item.id) == wall for item in p.objects) for wall in range(4)]
    wall = int(np.argmin(np.array(busy) + p.rng.uniform(0, 0.5, 4)))
    start = p.build("refrigerator")
    length = p.size[0] if wall % 2 else p.size[1]
    edge = -length / 2 + 0.02 - float(start.low[0])
    last = p.at_wall("refrigerator", piece=start, wall=wall, along=edge, clear=0.6, tries=3)
    base, sink = p.build("base cabinet", seed), p.build("kitchen sink", seed)
    for name in ("base cabinet", "kitchen sink", "base cabinet", "stove", "base cabinet"):
        piece = {"base cabinet": base, "kitchen sink": sink}.get(name)
        if last is None:
            last = p.at_wall(name, piece=piece, wall=wall, clear=0.6)
            continue
        placed = p.beside(last, name, 1, gap=0.002, piece=piece)
        if placed is None:
            continue
        last = placed
        p.keep_free(placed, 0.6)
        if name == "base cabinet":
            hanging = p.build("wall cabinet", seed)
            p.at_wall("wall cabinet", piece=hanging, wall=wall, along=p.along(placed), z=1.45, hung=True, tries=1)
    tops = [i for i, piece in p.pieces.items() if piece is base]
    for item, name in zip(tops, ("microwave", "bottle", "pot plant"), strict=False):
        p.on(item, name, y=0.7, turn=0.0 if name == "microwave" else None)
        scatter(p, item, ("bottle", "bottle", "folded towel"), int(p.rng.integers(0, 3)))


def bedroom(p: Placer) -> None:
    bed_group(p)
    if p.size[:2].prod() > 14 and p.chance(0.4):
        bed_group(p)
    p.at_wall("wardrobe", clear=0.6)
    if p.chance(0.6):
        scatter(p, p.at_wall("dresser", clear=0.5), ("table lamp", "book", "bottle", "pot plant"), 3)
    if p.chance(0.5):
        desk_group(p, office=False)


def living_room(p: Placer) -> None:
    couch_group(p)
    if p.chance(0.4):
        p.at_wall("couch", clear=0.5)
    if p.size[:2].prod() > 17 and p.chance(0.75):
        dining_group(p)
    if p.chance(0.7):
        p.at_wall("bookshelf", clear=0.4)


def office(p: Placer) -> None:
    for _ in range(int(p.rng.integers(2, 6))):
        desk_group(p, office=True)
    if p.chance(0.5):
        dining_group(p)
    p.at_wall("bookshelf", clear=0.4)
    for _ in range(int(p.rng.integers(1, 3))):
        p.at_wall(str(p.rng.choice(["wardrobe", "sideboard"])), clear=0.5)
    if p.chance(0.7):
        p.at_wall("whiteboard", hung=True, z=(0.95, 1.15))


def study(p: Placer) -> None:
    for _ in range(2 if p.chance(0.4) else 1):
        desk_group(p, office=False)
    for _ in range(int(p.rng.integers(2, 4))):
        p.at_wall("bookshelf", clear=0.4)
    if p.at_wall("armchair", corner=p.chance(0.5), clear=0.5) is not None and p.chance(0.6):
        p.at_wall("ottoman")
    scatter(p, p.at_wall("side table", corner=True), ("table lamp", "book"), 2)
    x, y = p.rng.uniform(-0.3, 0.3, 2)
    p.lay("rug", x, y, float(p.rng.normal(0, 0.2)))


def bathroom(p: Placer) -> None:
    p.at_wall("bathtub", corner=p.chance(0.7), clear=0.5, tries=24)
    basin = str(p.rng.choice(["pedestal sink", "vanity"]))
    sink = p.at_wall(basin, clear=0.6)
    if sink is not None and p.chance(0.3):
        p.beside(sink, basin, int(p.rng.choice([-1, 1])), gap=0.15, piece=p.pieces[sink])
    p.at_wall("toilet", clear=0.5, tries=20)
    if sink is not None:
        p.at_wall("mirror", wall=p.walls[sink], along=p.along(sink), z=(1.15, 1.3), hung=True)
    for _ in range(int(p.rng.integers(1, 4))):
        p.at_wall("hung towel", hung=True, z=(0.8, 1.1))
    if p.chance(0.6):
        scatter(p, p.at_wall("sideboard", clear=0.4), ("folded towel", "bottle", "bottle", "pot plant"), 4)
    if p.chance(0.5):
        p.at_wall("wall cabinet", hung=True, z=(1.3, 1.5))


def kitchen(p: Placer) -> None:
    kitchen_row(p)
    if p.size[:2].prod() > 12:
        dining_group(p)
    if p.chance(0.4):
        scatter(p, p.at_wall("sideboard", clear=0.4), ("bottle", "pot plant", "microwave"), 2)
    if p.chance(0.5):
        p.at_wall("hung towel", hung=True, z=(0.8, 1.0))


def dining_room(p: Placer) -> None:
    dining_group(p)
    scatter(p, p.at_wall("sideboard", clear=0.4), ("table lamp", "bottle", "bottle", "pot plant", "book"), 4)
    if p.chance(0.5):
        p.at_wall("wardrobe", clear=0.5)
    if p.chance(0.5):
        p.at_wall("bookshelf", clear=0.4)


def studio(p: Placer) -> None:
    """Everything in one room."""
    bed_group(p)
    if p.chance(0.6):
        kitchen_row(p)
    couch_group(p)
    desk_group(p, office=False)
    dining_group(p)
    p.at_wall("wardrobe", clear=0.5)
    p.at_wall("bookshelf", clear=0.4)


_STORAGE = ("sideboard", "bookshelf", "dresser", "side table")
_LOOSE = ("floor plant", "floor lamp", "bin", "backpack", "ottoman")

RECIPES: dict[str, Recipe] = {
    "bedroom": Recipe(bedroom, (3.2, 4.8), (3.0, 4.4), (*_STORAGE, *_LOOSE, "armchair", "dining chair")),
    "living room": Recipe(living_room, (4.0, 6.4), (3.6, 5.4), (*_STORAGE, *_LOOSE, "armchair", "floor plant")),
    "office": Recipe(
        office, (4.2, 7.6), (3.8, 6.4), (*_LOOSE, "bookshelf", "sideboard", "dining chair"), pictures=(0, 3)
    ),
    "study": Recipe(study, (3.2, 4.6), (3.0, 4.0), (*_STORAGE, *_LOOSE, "backpack", "dining chair")),
    "bathroom": Recipe(bathroom, (3.0, 4.0), (3.0, 3.5), ("bin", "ottoman", "floor plant", "side table"), True, (0, 2)),
    "kitchen": Recipe(kitchen, (3.6, 5.6), (3.4, 4.6), ("bin", "floor plant", "sideboard", "backpack"), True, (0, 3)),
    "dining room": Recipe(dining_room, (3.4, 5.0), (3.2, 4.6), (*_STORAGE, *_LOOSE, "armchair"), pictures=(1, 4)),
    "studio": Recipe(studio, (5.2, 7.6), (4.4, 6.4), (*_STORAGE, *_LOOSE)),
}
