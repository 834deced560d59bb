"""Wording: turns a label and predicates into English. It decides nothing about truth; see `predicates.py` for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gapmllm.scenes.synth.predicates import ATTRIBUTES, SUPERLATIVES, Anchor, Predicate

_SYNONYMS = {
    "couch": ("sofa",),
    "bin": ("trash can", "trash bin"),
    "refrigerator": ("fridge",),
    "tv": ("television",),
    "rug": ("carpet",),
    "monitor": ("computer screen",),
}
_MADE_OF = {"wooden": "wood", "metal": "metal", "leather": "leather", "glass": "glass", "plastic": "plastic"}
_NUMBERS = {"2": "two", "3": "three", "4": "four", "5": "five", "6": "six"}
_TABLES = ("table", "desk")

# After the noun, or after "it is". {a} and {b} stand for the anchors.
_POSTS = {
    "on": ("on {a}", "on {a}", "on top of {a}"),
    "under": ("under {a}", "under {a}", "below {a}"),
    "above": ("above {a}",),
    "next to": ("next to {a}", "next to {a}", "beside {a}"),
    "opening": ("by {a}", "near {a}", "next to {a}"),
    "seat": ("at {a}", "next to {a}"),
    "near": ("near {a}", "close to {a}"),
    "in front of": ("in front of {a}",),
    "behind": ("behind {a}",),
    "between": ("between {a} and {b}", "in between {a} and {b}"),
    "the two": ("between {a}",),
    "corner": ("in the corner of the room", "in the corner"),
    "wall": ("against the wall",),
    "hung": ("on the wall", "hanging on the wall"),
    "ceiling": ("on the ceiling", "hanging from the ceiling"),
    "middle of the room": ("in the middle of the room", "in the center of the room"),
    "left": ("to the left of {a}", "on the left of {a}"),
    "right": ("to the right of {a}", "on the right of {a}"),
    "left side": ("on the left side of the room", "in the left half of the room"),
    "right side": ("on the right side of the room", "in the right half of the room"),
    "nearest": ("closest to {a}", "nearest to {a}"),
    "farthest": ("farthest from {a}", "farthest away from {a}"),
}
_SIT_POSTS = {"left": ("to your left", "on your left"), "right": ("to your right", "on your right")}
_ADJECTIVES = {
    "largest": ("largest", "biggest"),
    "smallest": ("smallest",),
    "tallest": ("tallest",),
    "lowest": ("lowest",),
    "leftmost": ("leftmost",),
    "rightmost": ("rightmost",),
    "middle": ("middle",),
}
_LEADS = {
    "door": (
        "when you stand in {a} and look into the room",
        "if you stand in {a} and look into the room",
        "looking into the room from {a}",
    ),
    "face": ("when you face {a}", "facing {a}", "when you look at {a}"),
    "across": ("when you face {a} from across the room", "facing {a} from the other side of the room"),
    "sit": ("when you sit on {a}", "sitting on {a}"),
}
_TAILS = {
    "door": ("when you stand in {a} and look into the room", "when looking into the room from {a}"),
    "face": ("when you face it", "as you face it", "when you look at it"),
    "across": ("when you face {a} from across the room", "when facing {a} from the other side of the room"),
    "sit": ("when you sit on {a}", "when sitting on {a}"),
}


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def with_article(words: str) -> str:
    """ "a" or "an" in front of words."""
    vowel = words[0] in "aeiou" and not words.startswith(("uni", "use", "one", "eu"))
    vowel = vowel or words.startswith("L-shaped")
    return f"{'an' if vowel else 'a'} {words}"


def plural(label: str) -> str:
    """ "two ..." of a label."""
    for ending, many in (("shelf", "shelves"), ("bench", "benches"), ("couch", "couches"), ("box", "boxes")):
        if label.endswith(ending):
            return label[: -len(ending)] + many
    return label + "s"


def sentence(words: str) -> str:
    """With a capital and a full stop."""
    return words[0].upper() + words[1:] + "."


def _listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


class Wording:
    """Chooses among ways to say the same thing, by one random generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def noun(self, label: str) -> str:
        """The label, or now and then another word for it."""
        return _pick(self.rng, _SYNONYMS[label]) if label in _SYNONYMS and self.rng.random() < 0.2 else label

    def anchor(self, anchor: Anchor, label: str = "") -> str:
        """ "the brown desk", "a desk", "another desk" (beside a desk), "the two desks"."""
        if len(anchor.ids) == 2 and anchor.definite:
            return f"the two {plural(anchor.term)}"
        words = " ".join((*anchor.words, self.noun(anchor.term)))
        if anchor.definite:
            return f"the {words}"
        return f"another {words}" if anchor.term == label else with_article(words)

    def post(self, predicate: Predicate, label: str, led: bool = False) -> str:
        """What follows the noun, or "it is": "next to the desk". led: what is faced has just been named."""
        name, anchors = predicate.name, predicate.anchors
        if name == "with":
            return f"with {self.anchor(anchors[0])} on it"
        if name == "count":
            return f"with {_NUMBERS[predicate.value]} {plural(anchors[0].term)} next to it"
        if predicate.view == "sit" and name in _SIT_POSTS:
            return _pick(self.rng, _SIT_POSTS[name])
        if predicate.view == "face" and name in _SIT_POSTS:
            assert predicate.viewer is not None
            if led:
                return _pick(self.rng, _POSTS[name]).format(a="it")
            anchors = (predicate.viewer,)
        if name == "next to" and anchors[0].term in ("door", "window"):
            name = "opening"
        elif name == "next to" and label == "chair" and anchors[0].term.endswith(_TABLES):
            name = "seat"
        elif name == "between" and len(anchors) == 1:
            name = "the two"
        said = dict(zip("ab", [self.anchor(anchor, label) for anchor in anchors], strict=False))
        return _pick(self.rng, _POSTS[name]).format(**said)

    def _verb(self, predicate: Predicate, label: str, led: bool = False) -> str:
        """What follows "it": "is next to the desk", "has a lamp on it"."""
        post = "" if predicate.name in _ADJECTIVES else self.post(predicate, label, led)
        if predicate.name in ("with", "count"):
            return "has" + post.removeprefix("with")
        if not post:
            return f"is the {_pick(self.rng, _ADJECTIVES[predicate.name])} one"
        return f"is the one {post}" if predicate.name in SUPERLATIVES else f"is {post}"

    def _view(self, predicate: Predicate, ways: Mapping[str, Sequence[str]]) -> str:
        assert predicate.viewer is not None
        place = self.anchor(predicate.viewer)
        if predicate.view == "door" and self.rng.random() < 0.3:
            place = place.replace(predicate.viewer.term, "doorway")
        view = "across" if predicate.view == "face" and predicate.name in SUPERLATIVES else predicate.view
        return _pick(self.rng, ways[view]).format(a=place)

    def _seen(self, predicate: Predicate, label: str, subject: str) -> str:
        """A clause with a viewpoint. After "it", what is faced is named last, so that the two cannot be confused."""
        if self.rng.random() < 0.5 and (subject != "it" or predicate.view != "face"):
            return f"{self._view(predicate, _LEADS)}, {subject} {self._verb(predicate, label, led=True)}"
        return f"{subject} {self._verb(predicate, label)} {self._view(predicate, _TAILS)}"

    def _clauses(self, predicates: Sequence[Predicate], label: str, subject: str = "it") -> list[str]:
        """One clause for what needs no viewpoint, one for each statement that does."""
        plain = [p for p in predicates if not p.view]
        plain.sort(key=lambda p: (p.name in SUPERLATIVES, p.name in ("with", "count")))
        verbs = [self._verb(p, label) for p in plain]
        for i in range(1, len(verbs)):
            if verbs[i - 1].startswith("is ") and not verbs[i].startswith("is the "):
                verbs[i] = verbs[i].removeprefix("is ")
        best = [verb for p, verb in zip(plain, verbs, strict=True) if p.name in SUPERLATIVES]
        others = verbs[: len(verbs) - len(best)]
        said = (", and " if len(others) > 1 else " and ").join([part for part in (_listed(others), *best) if part])
        clauses = [f"{subject} {said}"] if said else []
        return clauses + [self._seen(p, label, "it" if clauses else subject) for p in predicates if p.view]

    def _phrase(self, label: str, predicates: Sequence[Predicate], verb: str = "") -> str:
        """ "the black chair next to the desk", behind a verb such as "choose " where one is given."""
        rest = [p for p in predicates if p.name not in ATTRIBUTES]
        seen = next((p for p in rest if p.view), None)
        led = seen is not None and self.rng.random() < 0.5
        best = [_pick(self.rng, _ADJECTIVES[p.name]) for p in rest if p.name in _ADJECTIVES]
        posts = [self.post(p, label, led) for p in rest if p.name not in _ADJECTIVES]
        head = " ".join(["the", *best, *(p.value for p in in_order(predicates)), self.noun(label)])
        said = f"{verb}{head} {' and '.join(posts)}".strip()
        if seen is None:
            return said
        return f"{self._view(seen, _LEADS)}, {said}" if led else f"{said} {self._view(seen, _TAILS)}"

    def refer(self, label: str, predicates: Sequence[Predicate]) -> str:
        """A text that says all predicates: a noun phrase, a request, or sentences."""
        draw, rest = self.rng.random(), [p for p in predicates if p.name not in ATTRIBUTES]
        if draw < 0.6 and not (len(rest) > 1 and any(p.view or p.name == "with" for p in rest)):
            if draw < 0.3:
                return self._phrase(label, predicates)
            request = self._phrase(label, predicates, _pick(self.rng, ("choose ", "find ", "pick ", "select ")))
            return sentence(request) if self.rng.random() < 0.5 else request
        text = self._sentences(label, predicates)
        return text.lower() if self.rng.random() < 0.3 else text

    def _sentences(self, label: str, predicates: Sequence[Predicate]) -> str:
        words = [p.value for p in in_order(predicates)]
        rest = [p for p in predicates if p.name not in ATTRIBUTES]
        noun, draw = self.noun(label), self.rng.random()
        compared = words and any(p.name in SUPERLATIVES for p in rest)  # "the closest one. it is black": one is closer
        if rest and draw < 0.3 and not compared:
            clauses = self._clauses(rest, label, f"the {noun}")
            return " ".join(map(sentence, [*clauses, *([f"it is {' and '.join(words)}"] if words else [])]))
        opening = _pick(self.rng, ("there is", "this is", "it is"))
        first = f"{opening} {with_article(' '.join([*words, noun]))}"
        return " ".join(map(sentence, [first, *self._clauses(rest, label)]))

    def caption(self, label: str, predicates: Sequence[Predicate]) -> str:
        """One or two sentences in lower case that say all predicates: "this is a brown desk. it is by the window."."""
        words = [p.value for p in in_order(predicates)]
        rest = [p for p in predicates if p.name not in ATTRIBUTES]
        noun, made_of = self.noun(label), ""
        if words and words[-1] in _MADE_OF and self.rng.random() < 0.15:
            made_of = f" made of {_MADE_OF[words.pop()]}"
        opening = _pick(self.rng, ("this is ", "this is ", "there is ", "it is ", ""))
        first = opening + with_article(" ".join([*words, noun])) + made_of
        plain = [p for p in rest if not p.view and p.name not in SUPERLATIVES]
        if plain and not made_of and (opening == "" or self.rng.random() < 0.4):
            first += f" {self.post(plain[0], label)}"
            rest = [p for p in rest if p is not plain[0]]
        parts = [first, *self._clauses(rest, label, _pick(self.rng, ("it", "it", f"the {noun}")))]
        return " ".join(f"{part}." for part in parts)


def in_order(predicates: Sequence[Predicate]) -> list[Predicate]:
    """The attributes among the predicates, in the order in which English says them."""
    return sorted((p for p in predicates if p.name in ATTRIBUTES), key=lambda p: ATTRIBUTES.index(p.name))
