"""CouchDB's order of values. The sequences are those of its documentation and of ICU."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given

from agent.documents.collation import sort_key, sort_key_of_json, string_key
from tests.documents.json_values import values

DOCUMENTED: list[Any] = [
    None,
    False,
    True,
    -(10**400),
    -1.5,
    0,
    1,
    2,
    3.0,
    4,
    10**400,
    "a",
    "A",
    "aa",
    "b",
    "B",
    "ba",
    "bb",
    ["a"],
    ["b"],
    ["b", "c"],
    ["b", "c", "a"],
    ["b", "d"],
    ["b", "d", "e"],
    {},
    {"a": 1},
    {"a": 2},
    {"b": 1},
    {"b": 2},
    {"b": 2, "a": 1},
    {"b": 2, "c": 2},
]


def test_values_come_in_the_documented_order() -> None:
    shuffled = DOCUMENTED.copy()
    random.Random(1).shuffle(shuffled)
    assert sorted(shuffled, key=sort_key) == DOCUMENTED


@pytest.mark.parametrize(
    "ordered",
    [
        [*"_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789aAbBzZ"],
        ["", " ", "\u00a0a", "a", "a ", "a a", "aa"],
        ["aAA", "AAA", "bAA", "BAA"],
        ["cote", "coté", "côte", "côté"],
        ["resume", "Resume", "résumé", "Résumé", "resumes"],
        ["a", "á", "ä", "ae", "æ", "b"],
        ["sr", "ss", "ß", "st"],
        ["o", "ø", "p", "z", "\u03b1", "я", "あ", "中"],
        ["$", "€", "0", "٣", "4"],
        ["a", "azzz", "a中", "a\ufff0", "a\uffff"],
    ],
)
def test_strings_come_in_the_order_of_icu(ordered: list[str]) -> None:
    backwards = ordered[::-1]
    assert sorted(backwards, key=string_key) == ordered
    assert len({string_key(text) for text in ordered}) == len(ordered)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("aAA", "\u0000aAA"),
        ("é", "e\u0301"),
        ("a\u00adb", "ab"),
        (1, 1.0),
        (0.0, -0.0),
        (2**53, 2**53 + 1),
    ],
)
def test_what_couchdb_holds_equal_has_one_key(one: Any, other: Any) -> None:
    assert sort_key(one) == sort_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", ["a"]), (1, True), (0, False), ("1", 1), ({"a": 1, "b": 2}, {"b": 2, "a": 1})],
)
def test_what_differs_has_two_keys(one: Any, other: Any) -> None:
    assert sort_key(one) != sort_key(other)


@given(values)
def test_a_key_depends_on_the_value_alone(value: Any) -> None:
    assert sort_key_of_json(msgspec.json.encode(value).decode()) == sort_key(value)


@given(values, values)
def test_arrays_compare_element_by_element(one: Any, other: Any) -> None:
    """A key is no beginning of another, so what follows it does not disturb the order."""
    first, second = sort_key(one), sort_key(other)
    if first != second:
        for one_tail, other_tail in itertools.product([None, "", "z", [[]]], repeat=2):
            joined = sort_key([one, one_tail]) < sort_key([other, other_tail])
            assert joined == (first < second)
