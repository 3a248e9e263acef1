"""What differs between versions, and what became of those that somebody has seen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from agent.documents.differences import (
    Change,
    changed_fields,
    changes_since,
    dotted,
    fields_of,
    value_at,
)
from agent.documents.fields import parse_field
from agent.documents.revision import Rev, Revision
from agent.documents.tree import RevTree
from tests.documents.histories import histories


def tree_of(*paths: str, deleted: str = "") -> RevTree:
    """Of histories, newest first, written as the letters of their hashes."""
    tree = RevTree()
    for path in paths:
        tree.merge(Revision("a", len(path), tuple(path), path[0] in deleted, "{}"))
    return tree


def test_what_became_of_leaves() -> None:
    tree = tree_of("dca", "ba", "zxa", "wxa", "e", deleted="z")
    seen = [Rev(2, "c"), Rev(2, "b"), Rev(2, "x"), Rev(9, "q"), Rev(3, "z"), Rev(2, "c")]
    assert changes_since(tree, seen) == [
        Change(Rev(2, "c"), Rev(3, "d")),
        Change(Rev(2, "x"), Rev(3, "w")),
        Change(Rev(9, "q"), None),
        Change(Rev(3, "z"), Rev(3, "z"), deleted=True),
    ]


def test_long_histories_are_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them by itself would take as many steps as there are leaves and generations."""
    tree = RevTree()
    trunk = tuple(f"t{number}" for number in range(900, 0, -1))
    for leaf in range(900):
        tree.merge(Revision("a", 901, (f"l{leaf}", *trunk), False, "{}"))
    steps = []
    parent = RevTree.parent

    def counted(tree: RevTree, rev: Rev) -> Rev | None:
        steps.append(rev)
        return parent(tree, rev)

    monkeypatch.setattr(RevTree, "parent", counted)
    assert len(changes_since(tree, tree.all_revs())) == len(trunk)
    assert 0 < len(steps) <= len(tree)


@given(histories())
def test_a_leaf_descends_from_what_it_came_of(revisions: list[Revision]) -> None:
    tree = RevTree()
    for revision in revisions:
        tree.merge(revision)
    for change in changes_since(tree, tree.all_revs()):
        assert change.leaf == tree.descendants(change.seen)[0]


@pytest.mark.parametrize(
    ("before", "now", "fields"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["a.c"]),
        ({"a": {"b": 1}}, {"a": 5}, ["a"]),
        ({"a": {}}, {"a": {"b": 1}}, ["a"]),
        ({"a.b": 1}, {"a": {"b": 1}}, [r"a\.b", "a.b"]),
        ({}, {"n": None}, ["n"]),
    ],
)
def test_fields_that_differ(before: dict[str, Any], now: dict[str, Any], fields: list[str]) -> None:
    found = changed_fields(before, now)
    assert [dotted(path) for path in found] == fields
    assert [parse_field(dotted(path)) for path in found] == found


def test_nesting_without_end_is_whole() -> None:
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"a": deep}
    [path] = fields_of([deep])
    assert isinstance(value_at(deep, path), dict)
