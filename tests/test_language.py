"""Texts about procedural rooms: true, about one object where they say so, and English."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from test_relations import room_of, thing

from gapmllm.scenes.synth.language import captions, describe_room, referring_expressions
from gapmllm.scenes.synth.layout import build_room
from gapmllm.scenes.synth.predicates import Predicate, Statements
from gapmllm.scenes.synth.relations import SceneGraph
from gapmllm.scenes.synth.wording import Wording, plural, with_article

# Random rooms: what stands at walls, what stands free, what lies on top. They are wilder than those of the layout.
AT_WALL = {"couch": (2, 0.9, 0.8), "desk": (1.4, 0.7, 0.75), "bed": (1.6, 2.0, 0.6), "cabinet": (0.9, 0.45, 1.8)}
AT_WALL |= {"shelf": (1.0, 0.35, 1.9), "toilet": (0.4, 0.65, 0.8), "refrigerator": (0.7, 0.7, 1.8)}
FREE = {"chair": (0.5, 0.5, 0.9), "table": (1.2, 0.8, 0.75), "plant": (0.4, 0.4, 1.0), "bin": (0.3, 0.3, 0.35)}
FREE |= {"ottoman": (0.6, 0.6, 0.4), "lamp": (0.35, 0.35, 1.6)}
ON_TOP = {"lamp": (0.25, 0.25, 0.5), "book": (0.2, 0.15, 0.05), "monitor": (0.5, 0.2, 0.45), "plant": (0.2, 0.2, 0.3)}
HUNG = {"picture": (0.6, 0.04, 0.5), "window": (1.3, 0.1, 1.2), "mirror": (0.5, 0.04, 0.8), "curtain": (0.4, 0.1, 1.3)}
YAWS = [0, np.pi / 2, np.pi, -np.pi / 2]


def random_room(seed):
    rng = np.random.default_rng(seed)
    half = rng.uniform(2.0, 3.2, 2)
    objects, taken = [], []

    def place(label, size, at, yaw, support=None, low=0.0):
        size = np.array(size) * rng.uniform(0.75, 1.25)
        color, material = rng.choice(["black", "white", "brown", "red", "blue"]), rng.choice(["wooden", "metal"])
        words = {"size": str(rng.choice(["large", "small"]))} if rng.random() < 0.2 else {}
        words |= {"color": str(color), "material": str(material)}
        item = thing(
            len(objects), str(label), size, (*at, low), yaw=yaw, support=support, front=label in FRONTS, more=words
        )
        box = (*item.footprint().min(0), *item.footprint().max(0))
        clash = any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
        if support is None and low == 0:
            if clash or (np.abs(box) > [half[0], half[1]] * 2).any():
                return
            taken.append(box)
        objects.append(item)

    def at_wall(label, size, low=0.0):
        side, depth = int(rng.integers(4)), size[1] / 2 + 0.05
        along = rng.uniform(-1, 1) * (half[side % 2] - size[0] / 2 - 0.1)
        at = [(along, half[1] - depth), (-half[0] + depth, along), (along, -half[1] + depth), (half[0] - depth, along)]
        place(label, size, at[side], YAWS[side], low=low)

    at_wall("door", (0.9, 0.1, 2.0))
    for label in rng.choice(list(AT_WALL), 6):
        at_wall(label, AT_WALL[label])
    for label in [*rng.choice(list(FREE), 7), "chair", "chair", "chair"]:
        place(label, FREE[label], rng.uniform(-0.8, 0.8, 2) * half, rng.uniform(-np.pi, np.pi))
    for label in rng.choice(list(HUNG), 4):
        at_wall(label, HUNG[label], low=1.1)
    tops = [item for item in objects if item.label in ("desk", "table", "cabinet")]
    for base, label in zip(tops, rng.choice(list(ON_TOP), len(tops)), strict=True):
        place(label, ON_TOP[label], base.center[:2], base.id, support=base.id, low=float(base.size[2]))
    shell = thing(len(objects), "wall", (2 * half[0], 0.1, 2.6), (0, half[1] + 0.05, 0), front=False)
    return room_of(*objects, shell, size=(*(2 * half), 2.6))


FRONTS = {"couch", "desk", "bed", "cabinet", "shelf", "toilet", "refrigerator", "chair", "door", "window", "monitor"}


# An independent judge: plain definitions without margins, one object and one statement at a time


@cache
def outline(item):
    """Many points around a footprint."""
    corners = item.footprint()
    steps = np.linspace(0, 1, 30, endpoint=False)[:, None]
    return np.concatenate([corners[i] + steps * (corners[(i + 1) % 4] - corners[i]) for i in range(4)])


def inside(item, points, pad=0.0):
    """Whether points (..., 2 or more) are within the footprint, widened by pad."""
    local = (points[..., :2] - item.pose[:2, 3]) @ item.pose[:2, :2]
    return ((item.low[:2] - pad <= local) & (local <= item.high[:2] + pad)).all(-1)


@cache
def gap(one, other):
    a, b = outline(one), outline(other)
    if inside(one, b).any() or inside(other, a).any():
        return 0.0
    return float(np.hypot(*(a[:, None] - b).transpose(2, 0, 1)).min())


def bottom(item):
    return float(item.center[2] - item.size[2] / 2)


def top(item):
    return float(item.center[2] + item.size[2] / 2)


def wall_distances(room, item):
    """From the nearer of the two walls across x, and across y."""
    reach = np.abs(outline(item)).max(0)
    return room.size[:2] / 2 - reach


def inward(item):
    """Unit direction into the room through a door or window: along its thin side, towards the middle."""
    axis = int(np.ptp(item.footprint(), axis=0).argmin())
    return -np.sign(item.center[axis]) * np.eye(2)[axis]


def seen_from(room, viewer, view, item):
    """Metres to the right and ahead of the centre of `item`."""
    ahead = inward(viewer) if viewer.label in ("door", "window") else viewer.front[:2]
    ahead = -ahead if view == "face" else ahead
    offset = item.center[:2] - viewer.center[:2]
    return float(ahead[1] * offset[0] - ahead[0] * offset[1]), float(ahead @ offset)


def beyond(item, anchor, direction):
    """Within the sector that opens from one side of the anchor's box, in its own axes."""
    x, y = (item.center - anchor.center)[:2] @ anchor.pose[:2, :2]
    half_x, half_y = anchor.size[:2] / 2
    far, aside = {"front": (-y - half_y, abs(x) - half_x), "back": (y - half_y, abs(x) - half_x)}.get(
        direction, ((x if direction == "+x" else -x) - half_x, abs(y) - half_y)
    )
    return far > 0 and aside < 0.2 + 0.3 * far


def holds_for(room, item, predicate, anchor):
    """A relation to one anchor."""
    name = predicate.name
    if item.id == anchor.id:
        return False
    supported = item.support == anchor.id
    if name == "on":
        rug = anchor.label == "rug" and bottom(item) < 0.1 and inside(anchor, item.center)
        return supported or rug
    if name == "with":
        return anchor.support == item.id
    if name == "above":
        return not supported and bottom(item) > top(anchor) - 0.1 and inside(anchor, item.center, 0.25)
    if name == "under":
        within = inside(anchor, item.center, 0.1) and item.center[2] < anchor.center[2]
        return within or (top(item) < bottom(anchor) + 0.1 and inside(item, anchor.center, 0.25))
    if name in ("next to", "near"):
        limit = 1.3 if name == "near" else 0.9 if anchor.label in ("door", "window") else 0.5
        return not supported and anchor.support != item.id and gap(item, anchor) < limit
    if name in ("in front of", "behind"):
        return beyond(item, anchor, "front" if name == "in front of" else "back")
    assert (predicate.view, name) in {("door", "left"), ("door", "right")}
    viewer, sign = room.object(predicate.viewer.ids[0]), -1 if name == "left" else 1
    (right, ahead), (its_right, its_ahead) = (seen_from(room, viewer, "door", which) for which in (item, anchor))
    turn = np.arctan2(right, max(ahead, 0.05)) - np.arctan2(its_right, max(its_ahead, 0.05))
    return sign * (right - its_right) > 0.05 or sign * np.degrees(turn) > 0.5


def holds(room, item, predicate):
    """Whether a statement, no superlative, is true of an object by its plain definition."""
    name, distances = predicate.name, wall_distances(room, item)
    hangs = item.support is None or room.object(item.support).label in ("wall", "floor", "ceiling")
    if name in ("color", "material", "size", "shape"):
        return item.attributes.get(name) == predicate.value
    if name == "corner":
        return distances.max() < 0.5
    if name == "wall":
        return distances.min() < 0.27 and bottom(item) < 0.3
    if name == "hung":
        return distances.min() < 0.25 and bottom(item) > 0.2 and hangs
    if name == "ceiling":
        return top(item) > room.size[2] - 0.2 and hangs
    if name == "middle of the room":
        return (np.abs(item.center[:2]) < 0.42 * room.size[:2] / 2).all()
    if name == "between":
        first, second = (room.object(i).center[:2] for anchor in predicate.anchors for i in anchor.ids)
        along = (item.center[:2] - first) @ (second - first) / ((second - first) ** 2).sum()
        aside = np.linalg.norm(item.center[:2] - first - along * (second - first))
        return abs(along - 0.5) < 0.35 and aside < 0.5 * np.linalg.norm(second - first)
    if name == "count":
        others = [o for o in room.objects if o.label == predicate.anchors[0].term and o.id != item.id]
        limit = 0.9 if item.label in ("door", "window") else 0.5
        return sum(gap(o, item) < limit and item.id != o.support for o in others) == int(predicate.value)
    if name.endswith(" side"):
        viewer, sign = room.object(predicate.viewer.ids[0]), -1 if name == "left side" else 1
        return sign * seen_from(room, viewer, "door", item)[0] > 0
    if predicate.view in ("face", "sit"):
        viewer = room.object(predicate.viewer.ids[0])
        return item is not viewer and beyond(
            item, viewer, "+x" if (name == "right") == (predicate.view == "face") else "-x"
        )
    return any(holds_for(room, item, predicate, room.object(i)) for i in predicate.anchors[0].ids)


def scores(room, item, predicate):
    """What a superlative makes large; all of them must agree."""
    name = predicate.name
    if name in ("nearest", "farthest"):
        anchor, sign = room.object(predicate.anchors[0].ids[0]), -1 if name == "nearest" else 1
        return sign * gap(item, anchor), sign * float(np.linalg.norm(item.center[:2] - anchor.center[:2]))
    if name in ("largest", "smallest"):
        sign = 1 if name == "largest" else -1
        return sign * float(np.prod(item.size)), sign * float(item.size.max())
    if name in ("tallest", "lowest"):
        sign = 1 if name == "tallest" else -1
        return sign * float(item.size[2]), sign * top(item)
    right, ahead = seen_from(room, room.object(predicate.viewer.ids[0]), predicate.view, item)
    if predicate.view == "face":
        return (right if name == "rightmost" else -right,)
    sign = -1 if name == "leftmost" else 1
    return sign * right, sign * float(np.arctan2(right, max(ahead, 0.05)))


BEST = ("nearest", "farthest", "largest", "smallest", "tallest", "lowest", "leftmost", "rightmost", "middle")


def judged(room, term, predicates):
    """Ids of the objects that an expression fits."""
    left = [item for item in room.objects if item.label == term]
    for predicate in sorted(predicates, key=lambda p: p.name in BEST):
        if predicate.name == "middle":
            order = sorted(left, key=lambda item: scores(room, item, predicate)[0])
            left = order[1:2] if len(order) == 3 else []
        elif predicate.name in BEST:
            rows = np.array([scores(room, item, predicate) for item in left])
            winners = set(rows.argmax(0).tolist()) if left else set()
            left = [left[i] for i in winners]
        else:
            left = [item for item in left if holds(room, item, predicate)]
    return {item.id for item in left}


def assert_anchors_are_clear(room, predicates):
    for anchor in (a for p in predicates for a in (*p.anchors, *([p.viewer] if p.viewer else [])) if a.definite):
        fitting = [
            o.id for o in room.objects if o.label == anchor.term and set(anchor.words) <= set(o.attributes.values())
        ]
        assert fitting == list(anchor.ids), anchor


@pytest.fixture(scope="module")
def rooms():
    return [random_room(seed) for seed in range(20)] + [build_room(np.random.default_rng(seed)) for seed in range(6)]


@pytest.fixture(scope="module")
def described(rooms):
    """(room, its texts)"""
    return [(room, describe_room(room, np.random.default_rng(seed))) for seed, room in enumerate(rooms)]


def test_every_expression_fits_its_object_and_no_other(rooms):
    for seed, room in enumerate(rooms):
        for said in referring_expressions(room, np.random.default_rng(seed)):
            assert judged(room, said.term, said.predicates) == {said.object_id}, (seed, said)
            assert said.term == room.object(said.object_id).label
            assert_anchors_are_clear(room, said.predicates)


def test_every_caption_is_true_and_says_unique_only_where_it_is(rooms):
    for seed, room in enumerate(rooms):
        for said in captions(room, np.random.default_rng(seed)):
            for predicate in said.predicates:
                assert said.object_id in judged(room, said.term, [predicate]), (seed, said)
            fitting = judged(room, said.term, said.predicates)
            if said.unique:
                assert fitting <= {said.object_id}, (seed, said)
            if said.unique is False:
                assert len(fitting) > 1, (seed, said)
            assert_anchors_are_clear(room, said.predicates)


def test_the_judge_can_say_no():
    near, far = thing(0, "chair", (0.5, 0.5, 0.9), (0.6, 0, 0)), thing(1, "chair", (0.5, 0.5, 0.9), (2, 0, 0))
    room = room_of(near, far, thing(2, "desk", (0.6, 1.2, 0.75), (0, 0, 0)))
    desk = Statements(SceneGraph(room)).definite[2]
    assert judged(room, "chair", [Predicate("next to", (desk,))]) == {0}
    assert judged(room, "chair", [Predicate("farthest", (desk,))]) == {1}
    assert judged(room, "chair", []) == {0, 1}


# English --------------------------------------------------------------------------------------------------------------


def test_articles_and_plurals():
    assert [with_article(word) for word in ("orange chair", "desk", "L-shaped couch", "unicorn")] == [
        "an orange chair",
        "a desk",
        "an L-shaped couch",
        "a unicorn",
    ]
    assert [plural(word) for word in ("chair", "shelf", "couch", "box")] == ["chairs", "shelves", "couches", "boxes"]


def test_texts_are_english(described):
    for _, texts in described:
        for said in texts:
            text = said.text
            assert not re.search(r"  |\bthe (the|a|an)\b|\ban? (a|an|the)\b|[{}_]|\bNone\b| [.,]|\.\.", text), text
            assert not re.search(r"\ba [aeio]", text.lower()), text
            assert not re.search(r"\ban [^aeioul]", text.lower()), text
            assert text == text.strip()
            if ". " in text or said.kind == "caption" or text[0].isupper():
                assert text.endswith("."), text
            starts = [part[0] for part in re.split(r"(?<=\.) ", text)]
            assert all(c.isupper() for c in starts) or all(c.islower() for c in starts), text
            assert len(re.findall(r"\. ", text)) <= 3, text


def test_a_text_names_its_viewpoint_where_it_has_one(described):
    for _, texts in described:
        for said in texts:
            names_one = re.search(r"(?i)look into|looking into|facing|you face|look at|\bsit\b|sitting", said.text)
            assert bool(names_one) == said.view_dependent, said


def test_the_label_is_in_most_texts(described):
    pairs = [(room.object(said.object_id).label, said.text.lower()) for room, texts in described for said in texts]
    assert np.mean([label in text for label, text in pairs]) > 0.9


def fresh():
    return np.random.default_rng(5)


def test_wording_of_a_viewpoint_is_complete():
    door = thing(0, "door", (0.9, 0.1, 2), (0, -2.95, 0), yaw=np.pi)
    desk = thing(1, "desk", (1.2, 0.6, 0.75), (0, 0, 0))
    viewer, anchor = Statements(SceneGraph(room_of(door, desk))).definite
    left = Predicate("left", (anchor,), view="door", viewer=viewer)
    texts = {Wording(np.random.default_rng(i)).refer("chair", [left]).lower() for i in range(60)}
    assert "when you stand in the door and look into the room, the chair to the left of the desk" in texts
    assert all("desk" in text and "door" in text and "left" in text for text in texts)


def test_a_superlative_comes_after_the_attribute_that_it_rests_on():
    black, largest = Predicate("color", value="black"), Predicate("largest")
    texts = {Wording(np.random.default_rng(i)).refer("chair", [black, largest]).lower() for i in range(100)}
    assert "there is a black chair. it is the largest one." in texts
    assert not any(text.startswith("the chair is") for text in texts)  # a white one may be larger


# What a room gets -----------------------------------------------------------------------------------------------------


def test_same_generator_same_texts(rooms):
    first, second = (describe_room(rooms[-1], np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert [said.id for said in first] == [str(i) for i in range(len(first))]
    assert first != describe_room(rooms[-1], np.random.default_rng(4))


def test_every_object_gets_three_to_five_captions_and_walls_get_no_text(described):
    for room, said in described:
        counts = Counter(item.object_id for item in said if item.kind == "caption")
        things = {item.id for item in room.objects if item.label not in ("wall", "floor", "ceiling")}
        assert set(counts) == things == {item.object_id for item in said} | things
        assert set(counts.values()) <= {3, 4, 5}
        texts = [(item.object_id, item.text) for item in said if item.kind == "caption"]
        assert len(set(texts)) == len(texts)


def test_expressions_are_marked_unique_and_captions_only_where_known(described):
    said = [item for _, texts in described for item in texts]
    assert {item.unique for item in said if item.kind != "caption"} == {True}
    assert {item.unique for item in said if item.kind == "caption"} == {True, False, None}


KINDS = {"attribute", "on", "with", "under", "above", "next to", "near", "in front of", "behind", "left", "right"}
KINDS |= {"left side", "right side", "between", "corner", "wall", "hung", "middle of the room", "ceiling", *BEST}


def test_every_kind_occurs_and_most_objects_get_three_expressions(described):
    assert {item.kind for _, texts in described for item in texts} == KINDS | {"caption"}
    many = []
    for _, texts in described:
        many += Counter(item.object_id for item in texts if item.kind != "caption").values()
    assert np.mean(np.array(many) >= 3) > 0.7


def test_an_empty_room_has_no_texts():
    assert describe_room(room_of(), fresh()) == ()
    assert describe_room(room_of(thing(0, "floor", (6, 6, 0.1), (0, 0, -0.1))), fresh()) == ()


def test_a_lonely_thing_still_has_captions():
    texts = [said.text for said in describe_room(room_of(thing(0, "bed", (2, 1.5, 0.5), (1.4, 0, 0))), fresh())]
    assert any("gray" in text for text in texts)
    assert len(texts) >= 4
