"""Which relations hold, in rooms small enough to check by hand. Also the boxes that `test_language.py` builds with."""

from __future__ import annotations

import numpy as np
import pytest

from gapmllm.scenes.synth.language import referring_expressions
from gapmllm.scenes.synth.predicates import Predicate, Statements, may_be_called, same_word
from gapmllm.scenes.synth.relations import FALSE, TRUE, UNKNOWN, SceneGraph
from gapmllm.scenes.synth.room import Material, Part, Room, RoomObject

GRAY = Material(color=(0.5, 0.5, 0.5))


def thing(number, label, size, at, *, yaw=0.0, color="gray", material="wooden", support=None, front=True, more=()):
    """A box with its bottom's centre at `at` (x, y, z); yaw 0 looks towards -y, and turns counter-clockwise."""
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = at
    size = np.asarray(size, dtype=float)
    part = Part(shape="box", center=np.array([0, 0, size[2] / 2]), size=size, material=GRAY)
    fields = {"id": number, "label": label, "support": support, "has_front": front}
    return RoomObject.build([part], pose, attributes={"color": color, "material": material} | dict(more), **fields)


def room_of(*objects, size=(6, 6, 2.6)):
    return Room(objects=objects, lights=(), ambient=(1, 1, 1), size=np.array(size, dtype=float))


def truth(graph, name):
    """Relation of object 0 to object 1."""
    return int(graph.pairs[name][0, 1])


@pytest.mark.parametrize(("distance", "expected"), [(0.2, TRUE), (0.5, UNKNOWN), (0.9, FALSE)])
def test_next_to_is_a_matter_of_the_gap_and_borderline_cases_are_unknown(distance, expected):
    chair = thing(0, "chair", (0.4, 0.4, 0.9), (1.0 + 0.2 + distance, 0, 0))
    graph = SceneGraph(room_of(chair, thing(1, "desk", (2.0, 0.8, 0.75), (0, 0, 0))))
    assert graph.gap[0, 1] == graph.gap[1, 0] == pytest.approx(distance)
    assert truth(graph, "next to") == expected


def test_the_gap_of_turned_boxes():
    # By hand: the corner of a unit square turned by 45 degrees reaches sqrt(1/2) = 0.7071 to the left, the other 0.5.
    turned = thing(0, "table", (1, 1, 1), (2, 0, 0), yaw=np.pi / 4)
    graph = SceneGraph(room_of(turned, thing(1, "desk", (1, 1, 1), (0, 0, 0))))
    assert graph.gap[0, 1] == pytest.approx(2 - 0.5 - np.sqrt(0.5))


def test_on_with_under_and_above():
    lamp = thing(0, "lamp", (0.2, 0.2, 0.4), (0.3, 0, 0.75), support=1, front=False)
    desk = thing(1, "desk", (1.4, 0.7, 0.75), (0, 0, 0))
    bin_below = thing(2, "bin", (0.3, 0.3, 0.35), (-0.3, 0, 0))
    picture = thing(3, "picture", (0.5, 0.04, 0.4), (0, 0.4, 1.4))
    graph = SceneGraph(room_of(lamp, desk, bin_below, picture))
    assert truth(graph, "on") == TRUE
    assert truth(graph, "above") == FALSE  # it stands on it
    assert graph.pairs["under"][2].tolist() == [FALSE, TRUE, FALSE, UNKNOWN]
    assert graph.pairs["above"][3].tolist() == [FALSE, TRUE, UNKNOWN, FALSE]
    assert graph.pairs["under"][1, 3] == TRUE  # the desk is under the picture
    statements = Statements(graph)
    with_lamp = Predicate("with", (statements.some("lamp"),))
    assert statements.values(with_lamp).tolist() == [FALSE, TRUE, FALSE, FALSE]


def test_a_chair_on_a_rug_stands_on_the_floor():
    chair, rug = thing(0, "chair", (0.5, 0.5, 0.9), (0, 0, 0)), thing(1, "rug", (2, 2, 0.01), (0, 0, 0), front=False)
    assert truth(SceneGraph(room_of(chair, rug)), "on") == TRUE
    half = thing(0, "chair", (0.5, 0.5, 0.9), (1, 0, 0))
    assert truth(SceneGraph(room_of(half, rug)), "on") == UNKNOWN


def test_front_left_and_right_of_a_couch():
    # The couch at the +y wall looks towards -y. Who faces it looks towards +y and has -x on the left.
    couch = thing(1, "couch", (2, 0.9, 0.8), (0, 2.5, 0))
    left = SceneGraph(room_of(thing(0, "lamp", (0.3, 0.3, 1.5), (-1.4, 2.5, 0)), couch))
    assert [truth(left, name) for name in ("face left", "face right")] == [TRUE, FALSE]
    assert [truth(left, name) for name in ("sit left", "sit right")] == [FALSE, TRUE]
    front = SceneGraph(room_of(thing(0, "table", (1, 0.6, 0.4), (0.2, 1.4, 0)), couch))
    assert [truth(front, name) for name in ("in front of", "behind", "face left")] == [TRUE, FALSE, FALSE]


@pytest.mark.parametrize(
    ("door_at", "yaw", "left_at", "right_at"),
    [
        ((0, -2.95), np.pi, (-1, 0), (1, 0)),
        ((2.95, 0), -np.pi / 2, (0, -1), (0, 1)),
        ((0, -2.95), 0.0, (-1, 0), (1, 0)),
    ],
    ids=["looking along +y", "looking along -x", "the door's front is outside"],
)
def test_left_and_right_from_the_door(door_at, yaw, left_at, right_at):
    door = thing(0, "door", (0.9, 0.1, 2), (*door_at, 0), yaw=yaw)
    table = thing(1, "table", (0.8, 0.8, 0.7), (0, 0, 0), front=False)
    lamps = [thing(2 + i, "lamp", (0.3, 0.3, 1.5), (*at, 0), front=False) for i, at in enumerate((left_at, right_at))]
    graph = SceneGraph(room_of(door, table, *lamps))
    assert graph.from_door(0, -1)[2:, 1].tolist() == [TRUE, FALSE]
    assert graph.from_door(0, 1)[2:, 1].tolist() == [FALSE, TRUE]
    assert graph.side_of_room(0, -1)[1:].tolist() == [UNKNOWN, TRUE, FALSE]
    statements = Statements(graph)
    leftmost = Predicate("leftmost", view="door", viewer=statements.definite[0])
    assert statements.matching("lamp", [leftmost]).tolist() == [FALSE, FALSE, TRUE, FALSE]


def test_between():
    bed, shelf = thing(0, "bed", (1, 1, 0.5), (-1.5, 0, 0)), thing(1, "shelf", (1, 1, 2), (1.5, 0, 0))
    middle, aside = thing(2, "plant", (0.3, 0.3, 1), (0.1, 0.1, 0)), thing(3, "plant", (0.3, 0.3, 1), (0, 2.5, 0))
    beyond_it = thing(4, "plant", (0.3, 0.3, 1), (2.5, 0, 0))
    graph = SceneGraph(room_of(bed, shelf, middle, aside, beyond_it))
    assert graph.between(0, 1).tolist() == graph.between(1, 0).tolist() == [FALSE, FALSE, TRUE, FALSE, FALSE]


def test_places_in_the_room():
    things = [
        thing(0, "plant", (0.3, 0.3, 1), (2.8, 2.8, 0)),
        thing(1, "couch", (2, 0.8, 0.8), (0, 2.55, 0)),
        thing(2, "picture", (0.5, 0.04, 0.5), (0, -2.97, 1.3)),
        thing(3, "table", (1, 1, 0.7), (0.2, -0.2, 0)),
        thing(4, "light", (0.4, 0.4, 0.2), (0, 0, 2.4)),
        thing(5, "book", (0.2, 0.2, 0.05), (0.2, -0.2, 0.7), support=3),
    ]
    places = SceneGraph(room_of(*things)).places
    for name, inside in [("corner", 0), ("hung", 2), ("ceiling", 4), ("middle of the room", 3)]:
        assert np.flatnonzero(places[name] == TRUE).tolist() == [inside], name
    assert places["wall"].tolist() == [TRUE, TRUE, FALSE, FALSE, FALSE, FALSE]


def nearest_chairs(first, second):
    """Whether each of two chairs is the nearest to a door at (0, -2.95)."""
    chairs = [thing(i, "chair", (0.5, 0.5, 0.9), (x, -1, 0)) for i, x in enumerate((first, second))]
    room = room_of(*chairs, thing(2, "door", (0.9, 0.1, 2), (0, -2.95, 0), yaw=np.pi))
    statements = Statements(SceneGraph(room))
    nearest = Predicate("nearest", (statements.definite[2],))
    texts = [said for said in referring_expressions(room, np.random.default_rng(0)) if said.kind == "nearest"]
    return statements.matching("chair", [nearest])[:2].tolist(), {said.object_id for said in texts}


def test_the_nearest_is_clearly_nearer_and_a_tie_is_not_used():
    assert nearest_chairs(0.3, 2.5)[0] == [TRUE, FALSE]
    assert nearest_chairs(-1.0, 1.1) == ([UNKNOWN, UNKNOWN], set())


def test_size_order_needs_a_margin():
    def largest(width):
        tables = [thing(0, "table", (1, 0.8, 0.7), (0, 0, 0)), thing(1, "table", (width, 0.8, 0.7), (0, 2, 0))]
        return Statements(SceneGraph(room_of(*tables))).matching("table", [Predicate("largest")]).tolist()

    assert largest(1.5) == [FALSE, TRUE]
    assert largest(1.2) == [UNKNOWN, UNKNOWN]


def test_the_middle_of_three_but_not_of_four():
    door = thing(9, "door", (0.9, 0.1, 2), (0, -2.95, 0), yaw=np.pi)
    chairs = [thing(i, "chair", (0.5, 0.5, 0.9), (x, 1, 0)) for i, x in enumerate((1.5, 0, -1.5, 2.5))]

    def middle(number):
        statements = Statements(SceneGraph(room_of(*chairs[:number], door)))
        predicate = Predicate("middle", view="door", viewer=statements.definite[number])
        return statements.matching("chair", [predicate])[:number].tolist()

    assert middle(3) == [FALSE, TRUE, FALSE]
    assert TRUE not in middle(4)


def test_a_superlative_compares_what_the_attributes_leave_over():
    door = thing(9, "door", (0.9, 0.1, 2), (0, -2.95, 0), yaw=np.pi)
    colors = ("red", "black", "black")
    chairs = [thing(i, "chair", (0.5, 0.5, 0.9), (0, i - 2, 0), color=color) for i, color in enumerate(colors)]
    statements = Statements(SceneGraph(room_of(*chairs, door)))
    said = [Predicate("color", value="black"), Predicate("nearest", (statements.definite[3],))]
    assert statements.matching("chair", said).tolist() == [FALSE, TRUE, FALSE, FALSE]


def test_a_distractor_in_doubt_forbids_the_expression():
    desk = thing(0, "desk", (1.2, 0.6, 0.75), (0, 0, 0))
    chairs = [thing(1, "chair", (0.4, 0.4, 0.9), (1.0, 0, 0)), thing(2, "chair", (0.4, 0.4, 0.9), (-1.3, 0, 0))]
    statements = Statements(SceneGraph(room_of(desk, *chairs)))  # gaps 0.2 and 0.5
    assert statements.matching("chair", [Predicate("next to", (statements.definite[0],))]).tolist() == [-1, 1, 0]
    assert not statements.singles_out(1, "chair", [Predicate("next to", (statements.definite[0],))])


def test_an_anchor_is_definite_only_where_it_is_clear():
    def words(*colors):
        desks = [thing(i, "desk", (1, 1, 1), (2 * i, 0, 0), color=color) for i, color in enumerate(colors)]
        found = Statements(SceneGraph(room_of(*desks))).definite
        return [anchor and anchor.words for anchor in found]

    assert words("brown") == [()]
    assert words("brown", "white") == [("brown",), ("white",)]
    assert words("brown", "brown") == [None, None]
    assert words("brown", "beige") == [None, None]  # people do not agree on where one ends


def test_words_that_people_mix_up():
    assert may_be_called("office chair", "chair")
    assert may_be_called("desk", "table")
    assert not may_be_called("coffee table", "dining table")
    assert not may_be_called("bed", "table")
    assert [same_word("brown", other) for other in ("brown", "beige", None, "blue")] == [TRUE, UNKNOWN, UNKNOWN, FALSE]
