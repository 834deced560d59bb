"""Texts about the objects of a procedural room: referring expressions and captions, true by construction.

A referring expression fits exactly one object (`Statements.singles_out`); a caption is true, but may fit others too.
Texts come with their structured form (`Referral`), so that a test can check them against the boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gapmllm.scenes.records import Expression
from gapmllm.scenes.synth.predicates import (
    ATTRIBUTES,
    ROW_ORDER,
    SIZE_ORDER,
    SUPERLATIVES,
    Anchor,
    Predicate,
    Statements,
)
from gapmllm.scenes.synth.relations import FALSE, OPENINGS, TRUE, SceneGraph
from gapmllm.scenes.synth.room import Room
from gapmllm.scenes.synth.wording import Wording, in_order

MIN_CAPTIONS, MAX_CAPTIONS = 3, 5
_REFERRALS = (3, 6)  # per object, where that many can be found
_BEHIND = frozenset({"chair", "office chair", "armchair", "couch", "sofa", "bench"})  # has a back for all to see
_SEATS = frozenset({"chair", "office chair", "armchair", "couch", "sofa", "bench"})
_UNSAID = frozenset({"paint", "paper"})  # materials that are no adjectives
_MAX_ANCHORS = 8  # the nearest ones: people do not describe a thing by what is far away
_REACH = 3.0  # metres, to the anchors of "between", "nearest"


@dataclass(frozen=True)
class Referral:
    """A text about one object, and what it says: it is a `term` of which all predicates hold."""

    object_id: int
    term: str
    predicates: tuple[Predicate, ...]
    text: str
    unique: bool | None

    @property
    def kind(self) -> str:
        """The relation that it rests on; "attribute" where there is none."""
        rest = [p.name for p in self.predicates if p.name not in ATTRIBUTES]
        return rest[-1] if rest else "attribute"

    @property
    def view_dependent(self) -> bool:
        """Whether it names a viewpoint."""
        return any(p.view for p in self.predicates)


def describe_room(room: Room, rng: np.random.Generator) -> tuple[Expression, ...]:
    """Referring expressions and captions (kind "caption") of all objects but walls, floor and ceiling.

    Ids are "0", "1", … in order. Same room and generator state: same texts.
    """
    talker = _Talker(room, rng)
    found = [(item, item.kind) for item in talker.referrals()] + [(item, "caption") for item in talker.captions()]
    return tuple(
        Expression(
            object_id=item.object_id,
            text=item.text,
            id=str(number),
            kind=kind,
            view_dependent=item.view_dependent,
            unique=item.unique,
        )
        for number, (item, kind) in enumerate(found)
    )


def referring_expressions(room: Room, rng: np.random.Generator) -> list[Referral]:
    """The structured form of the room's referring expressions."""
    return _Talker(room, rng).referrals()


def captions(room: Room, rng: np.random.Generator) -> list[Referral]:
    """The structured form of captions, 3 to 5 for each object, no two of one object alike."""
    return _Talker(room, rng).captions()


class _Talker:
    def __init__(self, room: Room, rng: np.random.Generator) -> None:
        self.graph = SceneGraph(room)
        self.statements = Statements(self.graph)
        self.rng, self.wording = rng, Wording(rng)
        self.objects = self.graph.objects
        self.named = np.flatnonzero(self.graph.is_object)
        doors = [k for k in self.named if self.objects[k].label == "door"]
        self.door = self.statements.definite[doors[0]] if len(doors) == 1 else None

    # What is true of one object --------------------------------------------------------------------------------------

    def attributes(self, k: int) -> list[Predicate]:
        """Its size, shape, colour and material, as far as they have words."""
        words = self.objects[k].attributes
        return [Predicate(name, value=words[name]) for name in ATTRIBUTES if words.get(name, "paint") not in _UNSAID]

    def _anchors(self, k: int, reach: float, small: bool = False) -> list[int]:
        """Positions of what may be named beside object k, the nearest first; not much smaller things unless `small`."""
        longest = self.graph.sizes.max(1)
        least = 0.0 if small else min(0.5 * longest[k], 0.8)
        apart = self.graph.gap[k]
        near = [a for a in self.named if a != k and apart[a] < reach and longest[a] >= least]
        return sorted((int(a) for a in near), key=lambda a: (float(apart[a]), a))

    def relations(self, k: int) -> list[Predicate]:
        """All plain relations that hold of object k, by definite anchors where there are any."""
        found = [Predicate(name) for name, values in self.graph.places.items() if values[k] == TRUE]
        if self.objects[k].label in OPENINGS:
            found = []
        for a in self._anchors(k, 1.2, small=True):
            found += self._of_two(k, a)
        return [*dict.fromkeys(found), *self._between(k), *self._from_door(k)]

    def _of_two(self, k: int, a: int) -> list[Predicate]:
        pairs, item = self.graph.pairs, self.objects[a]
        definite, some = self.statements.definite[a], self.statements.some(item.label)
        found = [Predicate("with", (some,))] if pairs["on"][a, k] == TRUE else []
        if pairs["on"][k, a] == TRUE:
            found.append(Predicate("on", (definite or some,)))
        if self.graph.flat[a] or a not in self._anchors(k, 1.2):
            return found
        for name in ("under", "above", "next to", "near", "in front of", "behind"):
            if pairs[name][k, a] == TRUE and (name != "behind" or item.label in _BEHIND):
                found.append(Predicate(name, (definite or some,)))
        if definite and item.has_front and item.label not in OPENINGS:
            for name in ("left", "right"):
                if pairs[f"face {name}"][k, a] == TRUE:
                    found.append(Predicate(name, view="face", viewer=definite))
                if item.label in _SEATS and pairs[f"sit {name}"][k, a] == TRUE:
                    found.append(Predicate(name, view="sit", viewer=definite))
        return found

    def _between(self, k: int) -> list[Predicate]:
        near = [a for a in self._anchors(k, _REACH) if not self.graph.flat[a]][:_MAX_ANCHORS]
        both = [anchor for a in near if (anchor := self.statements.definite[a])]
        ways = [pair for pair in combinations(both, 2) if pair[0].term != pair[1].term]
        labels = dict.fromkeys(self.objects[a].label for a in near if self.objects[a].label != self.objects[k].label)
        twos = [(two,) for label in labels if (two := self.statements.the_two(label))]
        found = [Predicate("between", way) for way in (*ways, *twos)]
        return [p for p in found if self.statements.values(p)[k] == TRUE]

    def _from_door(self, k: int) -> list[Predicate]:
        if self.door is None or self.objects[k].label == "door":
            return []
        near = (self.statements.definite[a] for a in self._anchors(k, 1.0) if not self.graph.flat[a])
        beside = [anchor for anchor in near if anchor and anchor != self.door][:_MAX_ANCHORS]
        found = []
        for side in ("left", "right"):
            found.append(Predicate(f"{side} side", view="door", viewer=self.door))
            found += [Predicate(side, (anchor,), view="door", viewer=self.door) for anchor in beside]
        return [p for p in found if self.statements.values(p)[k] == TRUE]

    def superlatives(self, k: int) -> list[Predicate]:
        """Superlatives that may hold of object k among others of its class."""
        others = self.statements.candidates(self.objects[k].label)
        far = [a for a in self._anchors(k, np.inf) if not others[a] and not self.graph.flat[a]]
        near = [anchor for a in far if (anchor := self.statements.definite[a])]
        close = [anchor for anchor in near[:_MAX_ANCHORS] if self.graph.gap[k, self._of(anchor)] < _REACH]
        doors = [anchor for anchor in near if anchor.term in OPENINGS]
        found = [Predicate("nearest", (anchor,)) for anchor in dict.fromkeys((*close, *doors))]
        found += [Predicate("farthest", (anchor,)) for anchor in dict.fromkeys((*doors, *near[-2:]))]
        found += [Predicate(name) for name in sorted(SIZE_ORDER)]
        for name in sorted(ROW_ORDER):
            if self.door and self.objects[k].label != "door":
                found.append(Predicate(name, view="door", viewer=self.door))
            found += [Predicate(name, view="face", viewer=anchor) for anchor in near if self._is_landmark(anchor)]
        return found

    def _of(self, anchor: Anchor) -> int:
        return self.graph.index[anchor.ids[0]]

    def _is_landmark(self, anchor: Anchor) -> bool:
        """Something at a wall that one faces from anywhere in the room."""
        k = self._of(anchor)
        large = self.graph.sizes[k].max() > 0.9 and self.graph.walls[k].min() < 0.15
        return bool(large and anchor.term != "door" and (self.objects[k].has_front or anchor.term == "window"))

    # What singles it out ---------------------------------------------------------------------------------------------

    def referrals(self) -> list[Referral]:
        """Expressions that each fit one object, a few for every object that has any."""
        return [found for k in self.named for found in self._referrals(int(k))]

    def _referrals(self, k: int) -> list[Referral]:
        label, wanted = self.objects[k].label, int(self.rng.integers(_REFERRALS[0], _REFERRALS[1] + 1))
        ways = self._spread(self._ways(k), wanted)
        found: dict[str, Referral] = {}
        for way in ways:
            said = self._adorned(k, way)
            text = self.wording.refer(label, said)
            found.setdefault(text.lower().rstrip("."), Referral(self.objects[k].id, label, said, text, True))
        return list(found.values())

    def _ways(self, k: int) -> list[tuple[Predicate, ...]]:
        """Sets of predicates that single out object k: single ones first, then pairs."""
        rivals = np.flatnonzero(self.statements.candidates(self.objects[k].label))
        rivals = rivals[rivals != k]
        attributes, relations = self.attributes(k), self.relations(k)
        if not len(rivals):
            return self._shuffled((relation,) for relation in relations)
        plain = [*attributes, *relations]
        excluded = self._excluded(plain, rivals)
        alone: NDArray[np.bool_] = excluded.all(axis=1)
        singles = [(p,) for p, good in zip(plain, alone, strict=True) if good]
        both = (excluded[:, None] | excluded).all(axis=2) & ~alone[:, None] & ~alone
        pairs = [(plain[i], plain[j]) for i, j in np.argwhere(np.triu(both, 1)) if _go_together(plain[i], plain[j])]
        best = self.superlatives(k)
        tops = [(p,) for p in best if self.statements.singles_out(k, self.objects[k].label, (p,))]
        return [
            *self._shuffled([*singles, *tops]),
            *self._shuffled([*pairs, *self._best_of(k, attributes, best, tops)]),
        ]

    def _best_of(
        self, k: int, attributes: Sequence[Predicate], best: Sequence[Predicate], done: Sequence[tuple[Predicate, ...]]
    ) -> list[tuple[Predicate, ...]]:
        """Pairs such as "the black chair closest to the door", where a brown one is closer."""
        usable = [p for p in attributes if p.name in ("color", "material")]
        left = [p for p in best if (p,) not in done]
        label = self.objects[k].label
        return [(a, p) for a in usable for p in left if self.statements.singles_out(k, label, (a, p))]

    def _excluded(self, plain: Sequence[Predicate], rivals: NDArray[np.intp]) -> NDArray[np.bool_]:
        """(P, R) whether predicate p is clearly false of rival r."""
        rows = [self.statements.values(p)[rivals] == FALSE for p in plain]
        return np.array(rows, dtype=bool).reshape(len(plain), len(rivals))

    def _spread(self, ways: Sequence[tuple[Predicate, ...]], wanted: int) -> list[tuple[Predicate, ...]]:
        """The first of each kind of relation, then the second of each, and so on, until there are enough."""
        seen: dict[str, int] = {}
        ranks = []
        for way in ways:
            kind = way[-1].name
            seen[kind] = seen.get(kind, -1) + 1
            ranks.append((seen[kind], len(way)))
        order = sorted(range(len(ways)), key=lambda i: (ranks[i], i))
        return [ways[i] for i in order[:wanted]]

    def _adorned(self, k: int, way: tuple[Predicate, ...]) -> tuple[Predicate, ...]:
        """Now and then with an attribute that is not needed, as people do."""
        extra = [p for p in self.attributes(k) if not _clash(p, way)]
        if not extra or any(p.name in ATTRIBUTES for p in way) or self.rng.random() < 0.55:
            return way
        longer = (extra[int(self.rng.integers(len(extra)))], *way)
        return longer if self.statements.singles_out(k, self.objects[k].label, longer) else way

    def _shuffled(self, ways: Iterable[tuple[Predicate, ...]]) -> list[tuple[Predicate, ...]]:
        rows = list(ways)
        return [rows[i] for i in self.rng.permutation(len(rows))]

    # What may be said of it ------------------------------------------------------------------------------------------

    def captions(self) -> list[Referral]:
        """3 to 5 captions for each object, no two of one object alike."""
        return [found for k in self.named for found in self._captions(int(k))]

    def _captions(self, k: int) -> list[Referral]:
        label, wanted = self.objects[k].label, int(self.rng.integers(MIN_CAPTIONS, MAX_CAPTIONS + 1))
        relations = [*self.relations(k), *self._counts(k), *self._true_superlatives(k)]
        weights = np.array([0.35 if p.view else 0.6 if p.name in ("near", *SUPERLATIVES) else 1.0 for p in relations])
        found: dict[str, Referral] = {}
        for _ in range(20 * wanted):  # a bare object has few things to say: attributes in other words
            said = (*self._some_attributes(k), *self._some_relations(relations, weights))
            text = self.wording.caption(label, said)
            if said and text not in found:
                found[text] = Referral(self.objects[k].id, label, said, text, self._fits_one(k, said))
            if len(found) == wanted:
                break
        return list(found.values())

    def _fits_one(self, k: int, said: Sequence[Predicate]) -> bool | None:
        state = self.statements.matching(self.objects[k].label, said)
        if (np.delete(state, k) == FALSE).all():
            return True
        return False if (state == TRUE).sum() > 1 else None

    def _some_attributes(self, k: int) -> tuple[Predicate, ...]:
        words = self.attributes(k)
        return tuple(in_order([p for p in words if self.rng.random() < (0.85 if p.name == "color" else 0.5)]))

    def _some_relations(self, relations: Sequence[Predicate], weights: NDArray[np.float64]) -> list[Predicate]:
        """1 to 3 that go together, drawn by weight."""
        if not len(relations):
            return []
        number = min(int(self.rng.choice([1, 2, 3], p=[0.45, 0.4, 0.15])), len(relations))
        drawn = self.rng.choice(len(relations), size=number, replace=False, p=weights / weights.sum())
        chosen: list[Predicate] = []
        for i in drawn:
            if all(_go_together(other, relations[i]) for other in chosen):
                chosen.append(relations[i])
        return chosen

    def _counts(self, k: int) -> list[Predicate]:
        """ "two chairs next to it"."""
        beside = [a for a in self.named if self.graph.pairs["next to"][a, k] == TRUE]
        labels = dict.fromkeys(self.objects[a].label for a in beside if self.objects[a].label not in OPENINGS)
        found = []
        for label in labels:
            number = sum(self.objects[a].label == label for a in beside)
            predicate = Predicate("count", (self.statements.some(label),), str(number))
            if 2 <= number <= 6 and self.statements.values(predicate)[k] == TRUE:
                found.append(predicate)
        return found

    def _true_superlatives(self, k: int) -> list[Predicate]:
        label = self.objects[k].label
        return [p for p in self.superlatives(k) if self.statements.singles_out(k, label, (p,))]


def _clash(one: Predicate, way: Sequence[Predicate]) -> bool:
    """ "the largest large table"."""
    return one.name == "size" and any(p.name in SIZE_ORDER for p in way)


def _go_together(one: Predicate, other: Predicate) -> bool:
    """Whether both may be said in one text: different kinds, different anchors, one viewpoint at most."""
    if one.name == other.name or (one.view and other.view) or {one.name, other.name} <= {"next to", "near", "between"}:
        return False
    if {one.name, other.name} <= SUPERLATIVES or {one.name, other.name} <= {"corner", "wall", "hung"}:
        return False
    terms = [{a.term for a in (*p.anchors, *([p.viewer] if p.viewer else []))} for p in (one, other)]
    return not terms[0] & terms[1]
