"""Revision ids: their text, their order, and how ours are made."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.documents.revision import Rev, Revision, canonical, first_revision, new_hash

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
BODIES = st.dictionaries(st.text(max_size=4), JSON_VALUES, max_size=4)


@pytest.mark.parametrize(
    ("text", "rev"),
    [
        ("1-967a00dff5e02add41819138abb3284d", Rev(1, "967a00dff5e02add41819138abb3284d")),
        ("3-abc", Rev(3, "abc")),
        ("12-3-abc", Rev(12, "3-abc")),
        ("1--", Rev(1, "-")),
        ("1-é😀\0", Rev(1, "é😀\0")),
        ("999999999999999-a", Rev(999_999_999_999_999, "a")),
    ],
)
def test_parse_and_back(text: str, rev: Rev) -> None:
    assert Rev.parse(text) == rev
    assert str(rev) == text


@pytest.mark.parametrize(
    "text",
    [
        *["", "-", "1", "1-", "-abc", "0-a", "abc", "a-1", "1.0-a", "+1-a", " 1-a", "-1-a"],
        *["²-a", "\u0661-a"],  # digits, but not ASCII
        *["1" * 16 + "-a", "9" * 5000 + "-a"],
    ],
)
def test_what_is_no_revision_id(text: str) -> None:
    with pytest.raises(ValueError, match=r"^Invalid rev format"):
        Rev.parse(text)


@given(st.integers(1, 10**15 - 1), st.text(min_size=1))
def test_every_revision_id_survives_its_text(generation: int, digest: str) -> None:
    rev = Rev(generation, digest)
    assert Rev.parse(str(rev)) == rev


def test_order_is_by_generation_as_a_number() -> None:
    assert Rev(10, "a") > Rev(9, "z")
    assert Rev(2, "b") > Rev(2, "a")


def test_rev_of_a_revision() -> None:
    assert Revision("doc", 3, ("c", "b", "a"), False, "{}").rev == Rev(3, "c")


# --- our hashes ------------------------------------------------------------------------


def test_hashes_stay_what_they_are() -> None:
    """A change here makes the same edit on an old and on a new agent a conflict.

    The hashes were made with `printf '[false,"",{…}]' | b2sum --length 128`.
    """
    body = canonical({"value": 21.5, "name": "é", "list": [1, None, True]})
    assert body == '{"list":[1,null,true],"name":"é","value":21.5}'.encode()
    first = new_hash(body, parent=None, deleted=False)
    assert first == "95239e2c84930d7c2a1cde827ab8b611"
    assert new_hash(b"{}", parent=Rev(1, first), deleted=True) == "ea5880564d4bad30dd5b53a06d7f4a45"


@given(BODIES, st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(body: dict[str, object], random: object) -> None:
    names = list(body)
    random.shuffle(names)  # type: ignore[attr-defined]
    shuffled = {name: body[name] for name in names}
    assert canonical(shuffled) == canonical(body)
    assert first_revision("a", shuffled).rev == first_revision("b", body).rev


@given(BODIES, BODIES)
def test_other_bodies_have_other_hashes(one: dict[str, object], two: dict[str, object]) -> None:
    # By their JSON text: to Python 1 == True.
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (first_revision("doc", one).rev == first_revision("doc", two).rev) is same


def test_parent_and_deletion_count() -> None:
    body = canonical({"a": 1})
    made = {
        new_hash(body, parent=parent, deleted=deleted)
        for parent in (None, Rev(1, "a"), Rev(1, "b"), Rev(2, "a"))
        for deleted in (False, True)
    }
    assert len(made) == 8


def test_first_revision_stores_the_canonical_text() -> None:
    revision = first_revision("x", {"b": 1, "a": 2})
    assert revision.body == canonical({"a": 2, "b": 1}).decode() == '{"a":2,"b":1}'
