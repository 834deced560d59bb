"""What can be said of one object of a room: the predicates that hold of it and that a person might think of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gapmllm.scenes.synth.predicates import ROW_ORDER, SIZE_ORDER, Anchor, Predicate, Statements, attributes_of
from gapmllm.scenes.synth.relations import OPENINGS, TRUE

_SEATS = frozenset({"chair", "couch"})  # with a back for all to see
_NO_FACE = frozenset({"chair", "curtain", "picture", "towel", "computer", "keyboard", "backpack"})
"""Nobody says "in front of the curtain", or "when you face the chair"."""
_MAX_ANCHORS = 8  # the nearest ones: people do not describe a thing by what is far away
_REACH = 3.0  # metres, to the anchors of "between", "nearest"


class Sayable:
    """Predicates to choose from, for each object by its position in the room. Each holds, but for the superlatives."""

    def __init__(self, statements: Statements) -> None:
        self.statements, self.graph, self.objects = statements, statements.graph, statements.objects
        self.named = np.flatnonzero(self.graph.is_object).tolist()
        doors = [k for k in self.named if self.objects[k].label == "door"]
        self.door = statements.definite[doors[0]] if len(doors) == 1 else None

    def attributes(self, k: int) -> list[Predicate]:
        """Its size, shape, colour and material, as far as they have words."""
        return [Predicate(name, value=word) for name, word in attributes_of(self.objects[k]).items()]

    def _base(self, k: int) -> int | None:
        """Id of the thing that object k stands on; None: it stands on the floor or hangs at the room's surfaces."""
        support = self.objects[k].support
        return support if support in self.graph.index and self.graph.is_object[self.graph.index[support]] else None

    def _anchors(self, k: int, reach: float, beside: bool = True) -> list[int]:
        """Positions of what may be named with object k, the nearest first: not much smaller than it.

        beside: on the same thing as it, or both on the floor; else what is on the floor will do too.
        """
        longest, apart, base = self.graph.sizes.max(1), self.graph.gap[k], self._base(k)
        good = (apart < reach) & (longest >= min(0.5 * longest[k], 1.2)) & ~self.graph.flat
        bases = {base} if beside else {base, None}
        near = [a for a in self.named if a != k and good[a] and self._base(a) in bases]
        return sorted(near, key=lambda a: (float(apart[a]), a))

    def relations(self, k: int) -> list[Predicate]:
        """All plain relations that hold of object k, by definite anchors where there are any."""
        label, on = self.objects[k].label, self.graph.pairs["on"]
        found = [Predicate(name) for name, values in self.graph.places.items() if values[k] == TRUE]
        found = [] if label in OPENINGS else [p for p in found if (label, p.name) != ("curtain", "wall")]
        for a in self.named:
            if on[k, a] == TRUE:
                found.append(Predicate("on", (self._named(a),)))
            if on[a, k] == TRUE and not self.graph.flat[k]:
                found.append(Predicate("with", (self.statements.some(self.objects[a].label),)))
        for a in self._anchors(k, 1.2):
            found += self._of_two(k, a)
        return [*dict.fromkeys(found), *self._between(k), *self._from_door(k)]

    def _named(self, a: int) -> Anchor:
        return self.statements.definite[a] or self.statements.some(self.objects[a].label)

    def _of_two(self, k: int, a: int) -> list[Predicate]:
        pairs, item, found = self.graph.pairs, self.objects[a], []
        for name in ("under", "above", "in front of", "behind", "next to", "near"):
            usual = item.label in _SEATS if name == "behind" else name != "in front of" or item.label not in _NO_FACE
            if pairs[name][k, a] == TRUE and usual:
                found.append(Predicate(name, (self._named(a),)))
                break  # what is next to something is near it too, but nobody says so
        viewer = self.statements.definite[a]
        if viewer and item.has_front and item.label not in OPENINGS:
            for name in ("left", "right"):
                if pairs[f"face {name}"][k, a] == TRUE and item.label not in _NO_FACE:
                    found.append(Predicate(name, view="face", viewer=viewer))
                if pairs[f"sit {name}"][k, a] == TRUE and item.label in _SEATS:
                    found.append(Predicate(name, view="sit", viewer=viewer))
        return found

    def _between(self, k: int) -> list[Predicate]:
        near = [a for a in self._anchors(k, _REACH)][:_MAX_ANCHORS]
        both = [anchor for a in near if (anchor := self.statements.definite[a])]
        ways = [pair for pair in combinations(both, 2) if pair[0].term != pair[1].term]
        labels = dict.fromkeys(self.objects[a].label for a in near if self.objects[a].label != self.objects[k].label)
        twos = [(two,) for label in labels if (two := self.statements.the_two(label))]
        found = [Predicate("between", way) for way in (*ways, *twos)]
        return [p for p in found if self.statements.values(p)[k] == TRUE]

    def _from_door(self, k: int) -> list[Predicate]:
        if self.door is None or self.objects[k].label == "door":
            return []
        near = (self.statements.definite[a] for a in self._anchors(k, 1.0))
        beside = [anchor for anchor in near if anchor and anchor != self.door][:_MAX_ANCHORS]
        found = []
        for side in ("left", "right"):
            found.append(Predicate(f"{side} side", view="door", viewer=self.door))
            found += [Predicate(side, (anchor,), view="door", viewer=self.door) for anchor in beside]
        return [p for p in found if self.statements.values(p)[k] == TRUE]

    def superlatives(self, k: int) -> list[Predicate]:
        """Superlatives that may hold of object k among others of its class."""
        others = self.statements.candidates(self.objects[k].label)
        if sum(self.objects[j].label == self.objects[k].label for j in self.named) < 2:
            return []
        far = [a for a in self._anchors(k, np.inf, beside=False) if not others[a] and self._base(a) is None]
        large = self.graph.sizes.max(1) > 0.4
        near = [anchor for a in far if large[a] and (anchor := self.statements.definite[a])]
        close = [anchor for anchor in near[:_MAX_ANCHORS] if self.graph.gap[k, self._of(anchor)] < _REACH]
        doors = [anchor for anchor in near if anchor.term in OPENINGS]
        found = [Predicate("nearest", (anchor,)) for anchor in dict.fromkeys((*close, *doors))]
        found += [Predicate("farthest", (anchor,)) for anchor in dict.fromkeys((*doors, *near[-1:]))]
        stands = (self.graph.bottom[others] < 0.1).all()  # "the lowest picture" would be a matter of where it hangs
        found += [Predicate(name) for name in sorted(SIZE_ORDER) if stands or name in ("largest", "smallest")]
        return found + self._rows(k, others, [anchor for anchor in near if self._is_landmark(anchor)])

    def _rows(self, k: int, others: NDArray[np.bool_], landmarks: Sequence[Anchor]) -> list[Predicate]:
        """Leftmost, rightmost, middle, of things that stand: windows and pictures are on several walls."""
        label = self.objects[k].label
        hangs = (self.graph.places["hung"] == TRUE) | (self.graph.places["ceiling"] == TRUE)
        if label in OPENINGS or label == "curtain" or self._base(k) is not None or (others & hangs).any():
            return []
        alike = all(self.objects[j].label == label for j in np.flatnonzero(others))
        names = sorted(ROW_ORDER) if alike else ["leftmost", "rightmost"]  # "the middle table" of two and a desk?
        doors = [Predicate(name, view="door", viewer=self.door) for name in names if self.door]
        return doors + [Predicate(name, view="face", viewer=anchor) for anchor in landmarks for name in names]

    def _of(self, anchor: Anchor) -> int:
        return self.graph.index[anchor.ids[0]]

    def _is_landmark(self, anchor: Anchor) -> bool:
        """Something large at a wall, that one can face from the other side of the room."""
        k = self._of(anchor)
        large = self.graph.sizes[k].max() > 0.9 and self.graph.walls[k].min() < 0.15
        return bool(large and self.objects[k].has_front and anchor.term not in _NO_FACE | {"door"})

    def counts(self, k: int) -> list[Predicate]:
        """ "two chairs next to it"."""
        beside = [a for a in self.named if self.graph.pairs["next to"][a, k] == TRUE]
        usual = [a for a in beside if self._base(a) == self._base(k) and self.objects[a].label not in OPENINGS]
        labels = dict.fromkeys(self.objects[a].label for a in usual)
        found = []
        for label in labels:
            number = sum(self.objects[a].label == label for a in beside)
            predicate = Predicate("count", (self.statements.some(label),), str(number))
            if 2 <= number <= 6 and self.statements.values(predicate)[k] == TRUE:
                found.append(predicate)
        return found
