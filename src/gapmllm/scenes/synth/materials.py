"""What things are made of: colours by their name in descriptions, the surfaces of wood, cloth, metal, …."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gapmllm.scenes.images import srgb_to_linear
from gapmllm.scenes.synth.room import Color, Material, Texture

SHADES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((30, 30, 32), (40, 38, 38)),
    "white": ((238, 236, 230), (245, 244, 241)),
    "gray": ((128, 129, 132), (100, 103, 108), (158, 158, 157)),
    "brown": ((122, 78, 46), (142, 92, 54), (98, 62, 40)),
    "beige": ((216, 197, 164), (224, 208, 180)),
    "red": ((172, 38, 36), (190, 56, 48)),
    "blue": ((44, 82, 156), (68, 112, 178), (36, 56, 112)),
    "green": ((58, 116, 72), (92, 136, 78), (38, 90, 64)),
    "yellow": ((228, 186, 52), (222, 196, 92)),
    "orange": ((218, 112, 40), (226, 130, 62)),
    "purple": ((112, 72, 146), (134, 98, 162)),
    "pink": ((222, 144, 164), (228, 166, 180)),
}
"""Colour words and what they look like, sRGB 0 to 255. Far enough apart that people agree on the word."""

_WOODS = {"brown": ((124, 80, 48), (150, 98, 58), (100, 64, 40)), "beige": ((206, 176, 136), (218, 192, 154))}


@dataclass(frozen=True)
class _Substance:
    colors: tuple[str, ...]
    """Words to draw from; a word that stands twice is twice as likely."""
    textures: tuple[Texture, ...] = ("plain",)
    period: float = 0.1
    gloss: float = 0.0


_SUBSTANCES = {
    "wooden": _Substance(("brown", "brown", "beige", "white", "black", "gray"), ("wood",), 0.12, 0.15),
    "metal": _Substance(("gray", "gray", "black", "white"), gloss=0.6),
    "plastic": _Substance(("white", "black", "gray", "red", "blue", "green", "yellow", "orange"), gloss=0.3),
    "fabric": _Substance(
        ("gray", "beige", "blue", "green", "red", "brown", "black", "purple", "pink", "yellow", "orange", "white"),
        ("weave", "weave", "noise", "plain"),
        0.012,
    ),
    "leather": _Substance(("brown", "black", "white", "red", "beige"), ("noise",), 0.03, 0.3),
    "glass": _Substance(("green", "blue", "brown", "white"), gloss=0.8),
    "ceramic": _Substance(("white",), gloss=0.6),
    "paper": _Substance(("red", "blue", "green", "black", "orange", "purple", "yellow", "white"), gloss=0.1),
    "plaster": _Substance(("white", "white", "beige", "gray", "blue", "green", "yellow", "pink")),
}


@dataclass(frozen=True, kw_only=True)
class Finish:
    """A surface and the words that describe it."""

    color: str
    substance: str
    material: Material

    def words(self, **more: str) -> dict[str, str]:
        """Attributes of an object that is mostly of this finish."""
        return {"color": self.color, "material": self.substance, **more}


def linear(red: float, green: float, blue: float) -> Color:
    """sRGB, 0 to 255 -> linear RGB, 0 to 1."""
    r, g, b = srgb_to_linear((red, green, blue)).tolist()
    return r, g, b


def shade(rng: np.random.Generator, color: str, *, wood: bool = False) -> Color:
    """One look of a colour word, linear RGB, a little different each time."""
    shades = _WOODS.get(color, SHADES[color]) if wood else SHADES[color]
    red, green, blue = shades[rng.integers(len(shades))]
    dim = rng.uniform(0.93, 1.03)
    return linear(*(min(value * dim, 250.0) for value in (red, green, blue)))


def darker(color: Color, share: float) -> Color:
    """The colour times a share, 0 to 1."""
    red, green, blue = (value * share for value in color)
    return red, green, blue


def finish(rng: np.random.Generator, substance: str, *colors: str) -> Finish:
    """A finish of one substance, its colour drawn from the words given, or from those that suit the substance."""
    kind = _SUBSTANCES[substance]
    words = colors or kind.colors
    color = words[rng.integers(len(words))]
    wood = substance == "wooden"
    base = shade(rng, color, wood=wood)
    if substance == "plaster":
        red, green, blue = (0.6 * value + 0.3 for value in base)  # walls are painted in pale colours
        base = (red, green, blue)
    texture = kind.textures[rng.integers(len(kind.textures))]
    if wood and color not in _WOODS:
        texture = "plain"  # painted
    second = darker(base, {"wood": 0.62, "noise": 0.75, "weave": 0.68}.get(texture, 0.7))
    material = Material(color=base, second=second, texture=texture, period=kind.period, gloss=kind.gloss)
    return Finish(color=color, substance=substance, material=material)


def any_finish(rng: np.random.Generator, *substances: str) -> Finish:
    """A finish of one of several substances, in a colour that suits it."""
    return finish(rng, substances[rng.integers(len(substances))])


def patterned(rng: np.random.Generator, cloth: Finish, *textures: Texture, period: float) -> Finish:
    """The finish with a pattern whose second colour keeps the colour word true: a lighter or darker shade."""
    share = rng.uniform(0.5, 0.75)
    second = darker(cloth.material.color, share)
    texture = textures[rng.integers(len(textures))]
    return replace(cloth, material=replace(cloth.material, texture=texture, second=second, period=period))


def glowing(material: Material, glow: float) -> Material:
    """The material as a light source: plain, sending out `glow` times its colour."""
    return replace(material, texture="plain", glow=glow)


CHROME = Material(color=linear(190, 192, 196), gloss=0.8)
DARK = Material(color=linear(36, 36, 38), gloss=0.2)
STEEL = Material(color=linear(140, 143, 148), gloss=0.6)
WHITE = Material(color=linear(240, 239, 235), gloss=0.3)
PAPER = Material(color=linear(236, 230, 214))
SCREEN = Material(color=linear(22, 24, 28), gloss=0.5)
