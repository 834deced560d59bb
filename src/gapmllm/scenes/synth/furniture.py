"""All furniture by name: how a kind is built, what it is called, where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gapmllm.scenes.synth import furniture_bath_kitchen as bath_kitchen
from gapmllm.scenes.synth import furniture_hung as hung
from gapmllm.scenes.synth import furniture_seats as seats
from gapmllm.scenes.synth import furniture_small as small
from gapmllm.scenes.synth import furniture_storage as storage
from gapmllm.scenes.synth import furniture_tables as tables
from gapmllm.scenes.synth.furniture_parts import Piece

Builder = Callable[[np.random.Generator], Piece]
Stands = Literal["wall", "floor", "top", "hung", "ceiling"]


@dataclass(frozen=True)
class Kind:
    """One kind of furniture: several kinds may share a label (a desk lamp and a floor lamp are lamps)."""

    label: str
    build: Builder
    stands: Stands
    """At a wall, free on the floor, on something level, hung at a wall, or below the ceiling."""


KINDS: dict[str, Kind] = {
    "dining chair": Kind("chair", seats.dining_chair, "floor"),
    "office chair": Kind("chair", seats.office_chair, "floor"),
    "armchair": Kind("chair", seats.armchair, "wall"),
    "couch": Kind("couch", seats.couch, "wall"),
    "corner couch": Kind("couch", seats.corner_couch, "wall"),
    "ottoman": Kind("ottoman", seats.ottoman, "floor"),
    "pillow": Kind("pillow", seats.pillow, "top"),
    "cushion": Kind("pillow", seats.cushion, "top"),
    "dining table": Kind("table", tables.dining_table, "floor"),
    "round table": Kind("table", tables.round_table, "floor"),
    "coffee table": Kind("table", tables.coffee_table, "floor"),
    "side table": Kind("table", tables.side_table, "wall"),
    "desk": Kind("desk", tables.desk, "wall"),
    "night stand": Kind("stand", tables.night_stand, "wall"),
    "tv stand": Kind("stand", tables.tv_stand, "wall"),
    "wardrobe": Kind("cabinet", storage.wardrobe, "wall"),
    "sideboard": Kind("cabinet", storage.sideboard, "wall"),
    "base cabinet": Kind("cabinet", storage.base_cabinet, "wall"),
    "wall cabinet": Kind("cabinet", storage.wall_cabinet, "hung"),
    "dresser": Kind("dresser", storage.dresser, "wall"),
    "bookshelf": Kind("shelf", storage.bookshelf, "wall"),
    "wall shelf": Kind("shelf", storage.wall_shelf, "hung"),
    "bed": Kind("bed", storage.bed, "wall"),
    "kitchen sink": Kind("sink", storage.kitchen_sink, "wall"),
    "pedestal sink": Kind("sink", bath_kitchen.pedestal_sink, "wall"),
    "vanity": Kind("sink", bath_kitchen.vanity, "wall"),
    "bathtub": Kind("bathtub", bath_kitchen.bathtub, "wall"),
    "toilet": Kind("toilet", bath_kitchen.toilet, "wall"),
    "refrigerator": Kind("refrigerator", bath_kitchen.refrigerator, "wall"),
    "stove": Kind("stove", bath_kitchen.stove, "wall"),
    "microwave": Kind("microwave", bath_kitchen.microwave, "top"),
    "floor lamp": Kind("lamp", small.floor_lamp, "wall"),
    "table lamp": Kind("lamp", small.table_lamp, "top"),
    "ceiling light": Kind("light", small.ceiling_light, "ceiling"),
    "floor plant": Kind("plant", small.floor_plant, "wall"),
    "pot plant": Kind("plant", small.pot_plant, "top"),
    "bin": Kind("bin", small.waste_bin, "wall"),
    "backpack": Kind("backpack", small.backpack, "wall"),
    "monitor": Kind("monitor", small.monitor, "top"),
    "television": Kind("tv", small.television, "top"),
    "tower": Kind("computer", small.tower, "wall"),
    "laptop": Kind("computer", small.laptop, "top"),
    "keyboard": Kind("keyboard", small.keyboard, "top"),
    "book": Kind("book", small.book, "top"),
    "bottle": Kind("bottle", small.bottle, "top"),
    "folded towel": Kind("towel", hung.folded_towel, "top"),
    "hung towel": Kind("towel", hung.hung_towel, "hung"),
    "door": Kind("door", hung.door, "hung"),
    "window": Kind("window", hung.window, "hung"),
    "curtain": Kind("curtain", hung.curtain, "hung"),
    "short curtain": Kind("curtain", hung.short_curtain, "hung"),
    "picture": Kind("picture", hung.picture, "hung"),
    "mirror": Kind("mirror", hung.mirror, "hung"),
    "whiteboard": Kind("whiteboard", hung.whiteboard, "hung"),
    "rug": Kind("rug", hung.rug, "floor"),
}
"""By the name that layouts use."""

FURNITURE: dict[str, tuple[Kind, ...]] = {
    label: tuple(kind for kind in KINDS.values() if kind.label == label)
    for label in dict.fromkeys(kind.label for kind in KINDS.values())
}
"""By label, as data sets call it."""
