"""Three-way merging of JSON values: examples, and properties on any values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.documents.merge import Merge, same

Body = dict[str, Any]


def merged(base: Body, mine: Body, theirs: Body, **keys: str) -> tuple[Body, list[str]]:
    """The result, and the clashes."""
    merge = Merge({tuple(path.split("__")): key for path, key in keys.items()})
    result = merge.merge(base, mine, theirs)
    return result, [".".join(path) for path in merge.clashes]


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "result", "clashes"),
    [
        ({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 2}, []),
        ({}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}, []),
        ({}, {"a": 1}, {"a": 1}, {"a": 1}, []),
        ({}, {"a": 1}, {"a": 2}, {"a": 1}, ["a"]),
        ({"a": 0}, {"a": 1}, {"a": 2}, {"a": 1}, ["a"]),
        # Removed by one, untouched by the other; then removed by one and edited by the other.
        ({"a": 1, "b": 1}, {"b": 1}, {"a": 1, "b": 2}, {"b": 2}, []),
        ({"a": 1}, {}, {"a": 2}, {}, ["a"]),
        ({"a": {"x": 1}}, {}, {"a": {"x": 2}}, {}, ["a"]),
        ({"a": 1}, {}, {}, {}, []),
        # Nested, however the objects came.
        (
            {"a": {"x": 1, "y": {"p": 1, "q": 1}}},
            {"a": {"x": 2, "y": {"p": 1, "q": 1}}},
            {"a": {"x": 1, "y": {"p": 1, "q": 2}}},
            {"a": {"x": 2, "y": {"p": 1, "q": 2}}},
            [],
        ),
        ({}, {"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"x": 1, "y": 2}}, []),
        ({"a": 5}, {"a": {"x": 1}}, {"a": {"x": 2, "y": 2}}, {"a": {"x": 1, "y": 2}}, ["a.x"]),
        ({"a": {"x": 1}}, {"a": {"x": 2}}, {"a": 7}, {"a": {"x": 2}}, ["a"]),
        # Arrays are whole.
        ({"a": [1]}, {"a": [1, 2]}, {"a": [1]}, {"a": [1, 2]}, []),
        ({"a": [1]}, {"a": [1, 2]}, {"a": [0, 1]}, {"a": [1, 2]}, ["a"]),
        # 1.0 is 1, true is not, null is a value.
        ({"a": 1.0}, {"a": 1}, {"a": 2}, {"a": 2}, []),
        ({"a": 1}, {"a": True}, {"a": 1}, {"a": True}, []),
        ({"a": [1]}, {"a": [True]}, {"a": [1]}, {"a": [True]}, []),
        ({"a": 1}, {"a": None}, {"a": 1}, {"a": None}, []),
        ({"a": 1}, {"a": None}, {}, {"a": None}, ["a"]),
    ],
)
def test_examples(base: Body, mine: Body, theirs: Body, result: Body, clashes: list[str]) -> None:
    found, where = merged(base, mine, theirs)
    assert same(found, result), found
    assert where == clashes


def points(*pairs: tuple[str | int, int]) -> list[Body]:
    return [{"id": id, "v": value} for id, value in pairs]


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "result", "clashes"),
    [
        # An edit, an addition and a removal, of different elements.
        (
            points(("a", 1), ("b", 1)),
            points(("a", 2), ("b", 1)),
            points(("a", 1), ("c", 1)),
            points(("a", 2), ("c", 1)),
            [],
        ),
        # The new order is of whoever has changed it.
        (points((1, 1), (2, 1)), points((2, 1), (1, 1)), points((1, 5), (2, 1)),
         points((2, 1), (1, 5)), []),
        (points((1, 1), (2, 1)), points((1, 5), (2, 1)), points((2, 1), (1, 1)),
         points((2, 1), (1, 5)), []),
        # Both have added.
        ([], points(("a", 1)), points(("b", 1)), points(("b", 1), ("a", 1)), []),
        # The same field of the same element; an element edited and removed.
        (points(("a", 1)), points(("a", 2)), points(("a", 3)), points(("a", 2)), ["p.v"]),
        (points(("a", 1)), points(("a", 2)), [], points(("a", 2)), ["p"]),
        # No identities: the array is whole.
        ([1], [1, 2], [0, 1], [1, 2], ["p"]),
        (points(("a", 1)), points(("a", 1), ("a", 2)), [], points(("a", 1), ("a", 2)), ["p"]),
        ([], [{"id": True}], [{"id": 1.5}], [{"id": True}], ["p"]),
    ],
)  # fmt: skip
def test_arrays_whose_elements_have_an_identity(
    base: list[Any], mine: list[Any], theirs: list[Any], result: list[Any], clashes: list[str]
) -> None:
    found, where = merged({"p": base}, {"p": mine}, {"p": theirs}, p="id")
    assert found == {"p": result}
    assert where == clashes


def test_arrays_within_elements_of_arrays() -> None:
    def rooms(*values: int) -> Body:
        return {"rooms": [{"name": "x", "sensors": points(*zip("abc", values, strict=False))}]}

    keys = {"rooms": "name", "rooms__sensors": "id"}
    assert merged(rooms(1, 1), rooms(2, 1), rooms(1, 3, 4), **keys) == (rooms(2, 3, 4), [])


def test_what_is_nested_very_deeply_is_whole() -> None:
    def deep(value: int) -> Body:
        body: Body = {"v": value, f"only{value}": value}
        for _ in range(400):
            body = {"a": body}
        return body

    found, [where] = merged(deep(0), deep(1), deep(2))
    assert (found, where) == (deep(1), ".".join("a" * 100))


SCALARS = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([0.0, 1.0, "x"])
NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3)
)
ELEMENTS = st.lists(
    st.fixed_dictionaries({"id": st.integers(0, 3)}, optional={"v": VALUES}),
    max_size=3,
    unique_by=lambda element: element["id"],
)
BODIES = st.dictionaries(NAMES, VALUES | ELEMENTS, max_size=3)
KEYS = {"a": "id", "b__c": "id"}


@given(BODIES, BODIES)
def test_what_one_side_left_alone_is_as_the_other_has_it(base: Body, edited: Body) -> None:
    for result, clashes in (
        merged(base, edited, base, **KEYS),
        merged(base, base, edited, **KEYS),
        merged(base, edited, edited, **KEYS),
    ):
        assert same(result, edited)
        assert clashes == []


@given(BODIES, BODIES, BODIES)
def test_the_sides_may_be_exchanged(base: Body, mine: Body, theirs: Body) -> None:
    one, clashes = merged(base, mine, theirs)
    other, same_clashes = merged(base, theirs, mine)
    assert sorted(clashes) == sorted(same_clashes)
    if not clashes:
        assert same(one, other)
    merge = Merge(prefer=1)
    assert same(merge.merge(base, mine, theirs), other)


@given(BODIES, BODIES, BODIES)
def test_a_merge_is_final(base: Body, mine: Body, theirs: Body) -> None:
    """Merged once more with either side, nothing changes: no side has to write again."""
    result, clashes = merged(base, mine, theirs, **KEYS)
    if not clashes:
        assert same(merged(mine, mine, result, **KEYS)[0], result)
        again, more = merged(base, result, theirs)
        assert same(again, result) or more
