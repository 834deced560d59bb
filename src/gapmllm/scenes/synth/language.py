"""Texts about the objects of a procedural room: referring expressions and captions, true by construction.

A referring expression fits exactly one object (`Statements.singles_out`); a caption is true, but may fit others too.
Texts come with their structured form (`Referral`), so that a test can check them against the boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gapmllm.scenes.records import Expression
from gapmllm.scenes.synth.predicates import (
    ATTRIBUTES,
    SIZE_ORDER,
    SUPERLATIVES,
    Predicate,
    Statements,
)
from gapmllm.scenes.synth.relations import FALSE, TRUE, SceneGraph
from gapmllm.scenes.synth.room import Room
from gapmllm.scenes.synth.sayable import Sayable
from gapmllm.scenes.synth.wording import Wording, in_order

MIN_CAPTIONS, MAX_CAPTIONS = 3, 5
_REFERRALS = (3, 6)  # per object, where that many can be found
# Added to the cost of an expression that uses them: people prefer what needs no comparison and no viewpoint.
_RARE = {"farthest": 1.0, "leftmost": 0.7, "rightmost": 0.7, "middle": 0.5, "nearest": 0.3, "left side": 0.5}
_RARE |= {"right side": 0.5, "color": 0.5, "material": 0.9, "shape": 0.7}
_MAX_TRIED = 8  # superlatives to try with each attribute


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
        graph = SceneGraph(room)
        self.objects, self.named = graph.objects, np.flatnonzero(graph.is_object)
        self.statements = Statements(graph)
        self.sayable = Sayable(self.statements)
        self.rng, self.wording = rng, Wording(rng)
        self._found_tops: dict[int, list[Predicate]] = {}

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
        attributes, relations = self.sayable.attributes(k), self.sayable.relations(k)
        if not len(rivals):
            return [(predicate,) for predicate in (*attributes, *relations)]
        plain = [*attributes, *relations]
        excluded = self._excluded(plain, rivals)
        alone = np.asarray(excluded.all(axis=1))
        singles = [(p,) for p, good in zip(plain, alone, strict=True) if good]
        both = np.asarray((excluded[:, None] | excluded).all(axis=2)) & ~alone[:, None] & ~alone
        pairs = [(plain[i], plain[j]) for i, j in np.argwhere(np.triu(both, 1)) if _go_together(plain[i], plain[j])]
        tops = self._tops(k)
        return [*singles, *((p,) for p in tops), *pairs, *self._best_of(k, attributes, tops)]

    def _tops(self, k: int) -> list[Predicate]:
        """The superlatives that hold of object k alone."""
        if k not in self._found_tops:
            label = self.objects[k].label
            self._found_tops[k] = [
                p for p in self.sayable.superlatives(k) if self.statements.singles_out(k, label, (p,))
            ]
        return self._found_tops[k]

    def _best_of(
        self, k: int, attributes: Sequence[Predicate], tops: Sequence[Predicate]
    ) -> list[tuple[Predicate, ...]]:
        """Pairs such as "the black chair closest to the door", where a brown one is closer."""
        usable = [p for p in attributes if p.name in ("color", "material")]
        left = [p for p in self.sayable.superlatives(k) if p not in tops]
        tried = [left[i] for i in self.rng.permutation(len(left))[:_MAX_TRIED]]
        label = self.objects[k].label
        return [(a, p) for a in usable for p in tried if self.statements.singles_out(k, label, (a, p))]

    def _excluded(self, plain: Sequence[Predicate], rivals: NDArray[np.intp]) -> NDArray[np.bool_]:
        """(P, R) whether predicate p is clearly false of rival r."""
        rows = [self.statements.values(p)[rivals] == FALSE for p in plain]
        return np.array(rows, dtype=bool).reshape(len(plain), len(rivals))

    def _spread(self, ways: Sequence[tuple[Predicate, ...]], wanted: int) -> list[tuple[Predicate, ...]]:
        """Different kinds of statements first, single ones before pairs, what people say more often rather."""
        seen: dict[str, int] = {}
        costs = []
        for way, draw in zip(ways, self.rng.random(len(ways)), strict=True):
            names = [p.name for p in way]
            repeats = max(seen.get(name, 0) for name in names)
            seen |= {name: seen.get(name, 0) + 1 for name in names}
            costs.append(repeats + 0.8 * (len(way) - 1) + draw + max(_RARE.get(name, 0.0) for name in names))
        return [ways[i] for i in np.argsort(costs, kind="stable")[:wanted]]

    def _adorned(self, k: int, way: tuple[Predicate, ...]) -> tuple[Predicate, ...]:
        """Now and then with an attribute that is not needed, as people do."""
        extra = [p for p in self.sayable.attributes(k) if not _clash(p, way)]
        if not extra or any(p.name in ATTRIBUTES for p in way) or self.rng.random() < 0.55:
            return way
        longer = (extra[int(self.rng.integers(len(extra)))], *way)
        return longer if self.statements.singles_out(k, self.objects[k].label, longer) else way

    # What may be said of it ------------------------------------------------------------------------------------------

    def captions(self) -> list[Referral]:
        """3 to 5 captions for each object, no two of one object alike."""
        return [found for k in self.named for found in self._captions(int(k))]

    def _captions(self, k: int) -> list[Referral]:
        label, wanted = self.objects[k].label, int(self.rng.integers(MIN_CAPTIONS, MAX_CAPTIONS + 1))
        relations = [*self.sayable.relations(k), *self.sayable.counts(k), *self._tops(k)]
        groups = [2 if p.name in SUPERLATIVES else 1 if p.view else 0 for p in relations]
        weights = np.array([1.0 if group == 0 else 1.0 / groups.count(group) for group in groups])
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
        same = np.array([item.label == self.objects[k].label for item in self.objects])
        return False if (same & (state == TRUE)).sum() > 1 else None

    def _some_attributes(self, k: int) -> tuple[Predicate, ...]:
        words = self.sayable.attributes(k)
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
