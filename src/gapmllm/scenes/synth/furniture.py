"""All furniture by name: how a kind is built, what it is called, where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gapmllm.scenes.synth import furniture_bath_kitchen as bath_kitchen
from gapmllm.scenes.synth import furniture_hung as hung
from gapmllm.scenes.synth import furniture_seats as seats
from gapmllm.scenes.synth import furniture_small as small
from gapmllm.scenes.synth import furniture_storage as storage
from gapmllm.scenes.synth import furniture_tables as tables
from gapmllm.scenes.synth.furniture_parts import Piece

Builder = Callable[[np.random.Generator], Piece]


@dataclass(frozen=True)
class Kind:
    """One kind of furniture: several kinds may share a label (a desk lamp and a floor lamp are lamps)."""

    label: str
    build: Builder


KINDS: dict[str, Kind] = {
    "dining chair": Kind("chair", seats.dining_chair),
    "office chair": Kind("chair", seats.office_chair),
    "armchair": Kind("chair", seats.armchair),
    "couch": Kind("couch", seats.couch),
    "corner couch": Kind("couch", seats.corner_couch),
    "ottoman": Kind("ottoman", seats.ottoman),
    "pillow": Kind("pillow", seats.pillow),
    "cushion": Kind("pillow", seats.cushion),
    "dining table": Kind("table", tables.dining_table),
    "round table": Kind("table", tables.round_table),
    "coffee table": Kind("table", tables.coffee_table),
    "side table": Kind("table", tables.side_table),
    "desk": Kind("desk", tables.desk),
    "night stand": Kind("stand", tables.night_stand),
    "tv stand": Kind("stand", tables.tv_stand),
    "wardrobe": Kind("cabinet", storage.wardrobe),
    "sideboard": Kind("cabinet", storage.sideboard),
    "base cabinet": Kind("cabinet", storage.base_cabinet),
    "wall cabinet": Kind("cabinet", storage.wall_cabinet),
    "dresser": Kind("dresser", storage.dresser),
    "bookshelf": Kind("shelf", storage.bookshelf),
    "wall shelf": Kind("shelf", storage.wall_shelf),
    "bed": Kind("bed", storage.bed),
    "kitchen sink": Kind("sink", storage.kitchen_sink),
    "pedestal sink": Kind("sink", bath_kitchen.pedestal_sink),
    "vanity": Kind("sink", bath_kitchen.vanity),
    "bathtub": Kind("bathtub", bath_kitchen.bathtub),
    "toilet": Kind("toilet", bath_kitchen.toilet),
    "refrigerator": Kind("refrigerator", bath_kitchen.refrigerator),
    "stove": Kind("stove", bath_kitchen.stove),
    "microwave": Kind("microwave", bath_kitchen.microwave),
    "floor lamp": Kind("lamp", small.floor_lamp),
    "table lamp": Kind("lamp", small.table_lamp),
    "ceiling light": Kind("light", small.ceiling_light),
    "floor plant": Kind("plant", small.floor_plant),
    "pot plant": Kind("plant", small.pot_plant),
    "bin": Kind("bin", small.waste_bin),
    "backpack": Kind("backpack", small.backpack),
    "monitor": Kind("monitor", small.monitor),
    "television": Kind("tv", small.television),
    "tower": Kind("computer", small.tower),
    "laptop": Kind("computer", small.laptop),
    "keyboard": Kind("keyboard", small.keyboard),
    "book": Kind("book", small.book),
    "bottle": Kind("bottle", small.bottle),
    "folded towel": Kind("towel", hung.folded_towel),
    "hung towel": Kind("towel", hung.hung_towel),
    "door": Kind("door", hung.door),
    "window": Kind("window", hung.window),
    "curtain": Kind("curtain", hung.curtain),
    "short curtain": Kind("curtain", hung.short_curtain),
    "picture": Kind("picture", hung.picture),
    "mirror": Kind("mirror", hung.mirror),
    "whiteboard": Kind("whiteboard", hung.whiteboard),
    "rug": Kind("rug", hung.rug),
}
"""By the name that layouts use."""

FURNITURE: dict[str, tuple[Kind, ...]] = {
    label: tuple(kind for kind in KINDS.values() if kind.label == label)
    for label in dict.fromkeys(kind.label for kind in KINDS.values())
}
"""By label, as data sets call it."""
