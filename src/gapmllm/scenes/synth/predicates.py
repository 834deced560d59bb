"""Statements about objects, and which objects of a room they fit: the words' side of the scene graph in `relations.py`.

A statement is a `Predicate`; an expression is a term ("chair") and some predicates. `Statements.matching` says for
every object whether the expression fits it: TRUE, FALSE, or UNKNOWN where people might disagree. An expression singles
out its target only if it is TRUE for that one object and FALSE for all others, so that doubt never decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.synth.relations import FALSE, TRUE, UNKNOWN, SceneGraph, Truth, decide
from gapmllm.scenes.synth.room import RoomObject

ATTRIBUTES = ("size", "shape", "color", "material")
"""In the order in which they are said."""
SIZE_ORDER = frozenset({"largest", "smallest", "tallest", "lowest"})
ROW_ORDER = frozenset({"leftmost", "rightmost", "middle"})
SUPERLATIVES = frozenset({"nearest", "farthest"}) | SIZE_ORDER | ROW_ORDER

# Labels, by their last word, that people do not keep apart: an expression must tell its target from these too.
_ALIKE = (
    {"table", "desk", "stand"},
    {"cabinet", "dresser", "stand"},
    {"monitor", "tv", "computer"},
    {"lamp", "light"},
)
_ALIKE_WORDS = (
    {"brown", "beige"},
    {"white", "beige"},
    {"black", "gray"},
    {"red", "orange", "pink"},
    {"orange", "yellow", "brown"},
    {"blue", "purple"},
    {"purple", "pink"},
    {"square", "rectangular"},
)


_UNSAID: dict[str, frozenset[str] | None] = {  # word -> of what it is not said; None: it is no adjective
    "paint": None,
    "paper": None,
    "fabric": frozenset({"pillow", "towel", "curtain", "rug", "backpack", "bed"}),
    "plastic": frozenset({"tv", "monitor", "keyboard", "computer", "whiteboard"}),
    "glass": frozenset({"window", "mirror", "light", "bottle"}),
    "white": frozenset({"whiteboard"}),
    "ceramic": frozenset({"toilet", "sink", "bathtub"}),
}


@dataclass(frozen=True)
class Anchor:
    """What a predicate refers to: the one object (or pair) that it singles out, or any of a class."""

    term: str
    ids: tuple[int, ...]
    words: tuple[str, ...] = ()
    """Attributes that single it out."""
    definite: bool = True
    """False: any of the objects will do."""


@dataclass(frozen=True)
class Predicate:
    """One statement about an object."""

    name: str
    """A name in the tables of `relations.py`, an attribute, or "count"."""
    anchors: tuple[Anchor, ...] = ()
    value: str = ""
    """The word of an attribute; the number of `count`."""
    view: Literal["", "door", "face", "sit"] = ""
    viewer: Anchor | None = None
    """The door, or what is faced or sat on."""


@lru_cache(maxsize=4096)
def may_be_called(label: str, term: str) -> bool:
    """Whether a person might use this term for an object of this label. Wide on purpose."""
    if label == term:
        return True
    one, other = label.split(), term.split()
    if one[-1] == other[-1]:
        return len(one) == 1 or len(other) == 1  # a coffee table is no dining table, but either is a table
    return len(other) == 1 and any({one[-1], other[-1]} <= group for group in _ALIKE)


def same_word(word: str, other: str | None) -> int:
    """Whether an attribute with the value `other` passes for `word`."""
    if other == word:
        return TRUE
    alike = any({word, other} <= group for group in _ALIKE_WORDS)
    return UNKNOWN if other is None or alike else FALSE


def attributes_of(item: RoomObject) -> dict[str, str]:
    """The attributes of an object that people would say, in order: nobody speaks of a ceramic toilet."""
    found = {name: item.attributes[name] for name in ATTRIBUTES if item.attributes.get(name)}
    return {name: word for name, word in found.items() if not _goes_unsaid(word, item.label)}


def _goes_unsaid(word: str, label: str) -> bool:
    labels = _UNSAID.get(word, frozenset())
    return labels is None or label in labels


class Statements:
    """What can be said about the objects of one scene graph. N objects, by their position in the room."""

    def __init__(self, graph: SceneGraph) -> None:
        self.graph, self.objects = graph, graph.objects
        self._values: dict[Predicate, Truth] = {}
        self._beats: dict[Predicate, NDArray[np.bool_]] = {}
        self._candidates: dict[str, NDArray[np.bool_]] = {}

    def candidates(self, term: str) -> NDArray[np.bool_]:
        """(N,) the objects that a person might call by this term."""
        if term not in self._candidates:
            self._candidates[term] = np.array([may_be_called(item.label, term) for item in self.objects], dtype=bool)
        return self._candidates[term]

    @cached_property
    def definite(self) -> list[Anchor | None]:
        """For each object "the ...", by its label or one attribute and its label; None where that fits others too."""
        return [self._single_out(k) for k in range(len(self.objects))]

    def _single_out(self, k: int) -> Anchor | None:
        item = self.objects[k]
        others = [other for j, other in enumerate(self.objects) if j != k and self.candidates(item.label)[j]]
        if not others:
            return Anchor(item.label, (item.id,))
        for name in ("color", "shape", "size", "material"):
            word = attributes_of(item).get(name)
            if word and all(same_word(word, other.attributes.get(name)) == FALSE for other in others):
                return Anchor(item.label, (item.id,), (word,))
        return None

    def some(self, label: str) -> Anchor:
        """ "A ..." of this label."""
        return Anchor(label, tuple(item.id for item in self.objects if item.label == label), definite=False)

    def the_two(self, label: str) -> Anchor | None:
        """ "The two ...", if there are exactly two that may be called so."""
        ids = tuple(item.id for item in self.objects if may_be_called(item.label, label))
        return Anchor(label, ids) if len(ids) == 2 and self.some(label).ids == ids else None

    def values(self, predicate: Predicate) -> Truth:
        """(N,) truth of a predicate that is no superlative."""
        if predicate not in self._values:
            self._values[predicate] = self._value(predicate)
        return self._values[predicate]

    def _value(self, predicate: Predicate) -> Truth:
        name, graph = predicate.name, self.graph
        if name in ATTRIBUTES:
            words = [same_word(predicate.value, item.attributes.get(name)) for item in self.objects]
            return np.array(words, dtype=np.int8)
        if name in graph.places:
            return graph.places[name]
        if name == "between":
            first, second = (graph.index[i] for anchor in predicate.anchors for i in anchor.ids)
            return graph.between(first, second)
        if name == "count":
            return self._count(predicate.anchors[0], int(predicate.value))
        if predicate.view == "door":
            sign = -1 if name.startswith("left") else 1
            if name.endswith("side"):
                return graph.side_of_room(self._viewer(predicate), sign)
            return self._of_any(graph.from_door(self._viewer(predicate), sign), predicate.anchors[0])
        if predicate.view:
            return graph.pairs[f"{predicate.view} {name}"][:, self._viewer(predicate)]
        matrix = graph.pairs["on"].T if name == "with" else graph.pairs[name]
        return self._of_any(matrix, predicate.anchors[0])

    def _viewer(self, predicate: Predicate) -> int:
        assert predicate.viewer is not None, predicate
        return self.graph.index[predicate.viewer.ids[0]]

    def _of_any(self, matrix: Truth, anchor: Anchor) -> Truth:
        """(N,) from (target, anchor): to the one, or to any of the class; what may pass for the class makes doubt."""
        exact = matrix[:, [self.graph.index[i] for i in anchor.ids]].max(1)
        if anchor.definite:
            return exact
        return np.maximum(exact, np.minimum(matrix[:, self.candidates(anchor.term)].max(1), UNKNOWN))

    def _count(self, anchor: Anchor, number: int) -> Truth:
        """(N,) exactly this many of the class are next to it."""
        near = self.graph.pairs["next to"].T[:, self.candidates(anchor.term)]
        least, most = (near == TRUE).sum(1), (near != FALSE).sum(1)
        state = np.where((least == number) & (most == number), TRUE, UNKNOWN)
        return np.where(most < number, FALSE, state).astype(np.int8)

    def beats(self, predicate: Predicate) -> NDArray[np.bool_]:
        """(N, N) whether object i comes clearly before object j in a superlative's order ("middle": is right of)."""
        if predicate not in self._beats:
            self._beats[predicate] = self._order(predicate)
        return self._beats[predicate]

    def _order(self, predicate: Predicate) -> NDArray[np.bool_]:
        name, graph = predicate.name, self.graph
        if name in ROW_ORDER:
            right = self._right_of(predicate)
            return right.T if name == "leftmost" else right
        if name in SIZE_ORDER:
            if name in ("largest", "smallest"):
                more = _more(graph.sizes.prod(1), 1.3, 0.0) & _more(graph.sizes.max(1), 1.1, 0.0)
            else:
                level = np.abs(graph.bottom[:, None] - graph.bottom) < 0.1
                more = _more(graph.sizes[:, 2], 1.15, 0.05) & level
            return more if name in ("largest", "tallest") else more.T
        k = graph.index[predicate.anchors[0].ids[0]]
        apart = np.linalg.norm(graph.centers[:, :2] - graph.centers[k, :2], axis=1)
        farther = _more(apart, 1.15, 0.1) & _more(graph.gap[:, k], 1.15, 0.1)
        return farther if name == "farthest" else farther.T

    def _right_of(self, predicate: Predicate) -> NDArray[np.bool_]:
        right, ahead, angle = self.graph.seen(predicate.view, self._viewer(predicate)).T
        across = right[:, None] - right
        if predicate.view == "door":
            return (across > 0.3) & (np.degrees(angle[:, None] - angle) > 8)
        return (across > 0.4) & (across > 0.5 * np.abs(ahead[:, None] - ahead))

    def matching(self, term: str, predicates: Sequence[Predicate]) -> Truth:
        """(N,) whether each object is a `term` of which all predicates hold.

        A superlative, at most one, compares the objects that the rest leaves over, those in doubt included.
        """
        state = np.where(self.candidates(term), TRUE, FALSE).astype(np.int8)
        for predicate in predicates:
            if predicate.name not in SUPERLATIVES:
                state = np.minimum(state, self.values(predicate))
        for predicate in predicates:
            if predicate.name in SUPERLATIVES:
                state = self._best(predicate, state)
        return state

    def _best(self, predicate: Predicate, state: Truth) -> Truth:
        pool = np.flatnonzero(state != FALSE)
        sure = state[pool] == TRUE
        result = np.minimum(state, UNKNOWN)
        if predicate.name == "middle":
            if len(pool) != 3 or not sure.all():
                return result
            beats = self.beats(predicate)[np.ix_(pool, pool)]
            first = beats.any(axis=1) & beats.any(axis=0)
            beaten = np.asarray(~first & first.any())
        else:
            if sure.sum() < 2:
                return result
            beats = self.beats(predicate)[np.ix_(pool, pool)]
            first = beats.sum(axis=1) == len(pool) - 1
            beaten = np.asarray(beats[sure].any(axis=0))
        result[pool] = decide(first & sure, beaten)
        return result

    def singles_out(self, k: int, term: str, predicates: Sequence[Predicate]) -> bool:
        """Whether the expression fits object k, and clearly no other."""
        state = self.matching(term, predicates)
        return bool(state[k] == TRUE and (np.delete(state, k) == FALSE).all())


def _more(values: FloatArray, ratio: float, margin: float) -> NDArray[np.bool_]:
    """(N, N) values[i] exceeds values[j] by a ratio and a margin."""
    return values[:, None] > values * ratio + margin
