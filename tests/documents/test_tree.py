"""Revision trees against plain reasoning about the same revisions."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.documents.revision import Rev, Revision
from agent.documents.tree import DEFAULT_REVS_LIMIT, RevTree
from tests.documents.histories import (
    HASHES,
    arrivals,
    contradicting_histories,
    hex_hash,
    histories,
    leaves_of,
    parents_of,
    tombstones_of,
    winner_of,
)


def tree_of(*revisions: Revision) -> RevTree:
    tree = RevTree()
    for revision in revisions:
        tree.merge(revision)
    return tree


def revision(*path: str, deleted: bool = False, generation: int | None = None) -> Revision:
    """`revision("c", "b", "a")` is 3-c, made from 2-b, made from 1-a."""
    return Revision("doc", generation or len(path), path, deleted, "{}")


def live_leaves(tree: RevTree) -> list[str]:
    return [str(leaf) for leaf in tree.leaves() if not tree.is_deleted(leaf)]


# --- CouchDB's own examples ("Replication and conflict model") ---------------------------


def test_winner_and_conflicts_of_couchdbs_example() -> None:
    hashes = [
        "5bc3c6319edf62d4c624277fdd0ae191",
        "65db2a11b5172bf928e3bcf59f728970",
        "b91bb807b4685080c6a651115ff558f5",
    ]
    tree = tree_of(*(revision(digest, "r1") for digest in hashes))
    assert [str(leaf) for leaf in tree.leaves()] == [
        "2-b91bb807b4685080c6a651115ff558f5",
        "2-65db2a11b5172bf928e3bcf59f728970",
        "2-5bc3c6319edf62d4c624277fdd0ae191",
    ]


def test_winner_of_the_guides_example() -> None:
    """ "2-de0ea16f8621cbac506d23a0fbbde08a beats 2-7c971bb974251ae8541b8fe045964219"."""
    tree = tree_of(
        revision("de0ea16f8621cbac506d23a0fbbde08a", "r1"),
        revision("7c971bb974251ae8541b8fe045964219", "r1"),
    )
    assert tree.winner() == Rev(2, "de0ea16f8621cbac506d23a0fbbde08a")


def test_branches_extend_and_are_resolved_by_deleting_their_leaves() -> None:
    tree = tree_of(
        revision("4a", "3a", "2a", "1"), revision("3b", "2b", "1"), revision("3c", "2c", "1")
    )
    assert live_leaves(tree) == ["4-4a", "3-3c", "3-3b"]
    tree.merge(revision("5a", "4a", "3a", "2a", "1"))
    tree.merge(revision("4b", "3b", "2b", "1", deleted=True))
    tree.merge(revision("4c", "3c", "2c", "1", deleted=True))
    assert live_leaves(tree) == ["5-5a"]
    assert [str(leaf) for leaf in tree.leaves()] == ["5-5a", "4-4c", "4-4b"]


# --- winners -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("winner", "losers"),
    [
        (revision("a", "x", "y"), [revision("z")]),
        (revision("a"), [revision("z", "y", "x", deleted=True)]),
        (revision("a", generation=10), [revision("z", generation=9)]),
        (revision("b", deleted=True), [revision("a", deleted=True)]),
        (revision("b", "a", deleted=True), [revision("c", deleted=True)]),
        # CouchDB compares 32 hex digits as the bytes that they stand for: 0x70 > "a" > 0x5f.
        (revision("7" + "0" * 31), [revision("a")]),
        (revision("a"), [revision("5" + "f" * 31)]),
        (revision("a"), [revision("F" * 31 + "g"), revision("5" + "F" * 31)]),
        (revision("F" * 32), [revision("0" * 31 + "a"), revision("e" * 32)]),
        (revision("😀"), [revision("\ufffd")]),  # by code point, not as UTF-16
    ],
)
def test_winner(winner: Revision, losers: list[Revision]) -> None:
    assert tree_of(winner, *losers).winner() == winner.rev
    assert tree_of(*losers, winner).winner() == winner.rev


@given(histories() | contradicting_histories())
def test_leaves_and_winner_by_plain_reasoning(revisions: list[Revision]) -> None:
    tree = tree_of(*revisions)
    parents = parents_of(revisions)
    tombstones = tombstones_of(revisions)
    leaves = leaves_of(parents)
    assert tree.leaves()[0] == tree.winner() == winner_of(leaves, tombstones)
    order = []
    while leaves:
        order.append(winner_of(leaves, tombstones))
        leaves.remove(order[-1])
    assert tree.leaves() == order
    assert {rev for rev in parents if tree.is_deleted(rev)} == tombstones
    assert len(tree) == len(parents)
    assert all(rev in tree for rev in parents)


# --- merging -----------------------------------------------------------------------------


@given(st.data(), histories() | contradicting_histories())
def test_order_batches_and_repetition_do_not_matter(
    data: st.DataObject, revisions: list[Revision]
) -> None:
    expected = tree_of(*revisions)
    tree = RevTree()
    for batch in data.draw(arrivals(revisions)):
        for each in batch:
            tree.merge(each)
        tree = RevTree.decode(tree.encode())  # as a store does between batches
    assert tree == expected
    assert tree.encode() == expected.encode()
    assert tree.leaves() == expected.leaves()


@given(histories() | contradicting_histories(), st.data())
def test_merge_tells_whether_it_learned_anything(
    revisions: list[Revision], data: st.DataObject
) -> None:
    tree = RevTree()
    for each in data.draw(st.permutations(revisions)):
        before = RevTree.decode(tree.encode())
        assert tree.merge(each) is (tree != before)
        assert not tree.merge(each)


def test_an_ancestor_that_arrives_late_connects_branches() -> None:
    tree = tree_of(revision("c", generation=3), revision("b", "a"))
    assert tree.leaves() == [Rev(3, "c"), Rev(2, "b")]
    assert tree.merge(revision("c", "b", generation=3))
    assert tree.leaves() == [Rev(3, "c")]
    assert tree.path(Rev(3, "c")) == ("c", "b", "a")


def test_same_hash_in_another_generation_is_another_revision() -> None:
    tree = tree_of(revision("a", "a", "a"))
    assert tree.leaves() == [Rev(3, "a")]
    assert len(tree) == 3
    assert Rev(2, "a") in tree
    assert Rev(4, "a") not in tree


def test_trees_that_differ_are_not_equal() -> None:
    assert tree_of(revision("a")) != tree_of(revision("b"))
    assert tree_of(revision("a")) != tree_of(revision("a", deleted=True))
    assert tree_of(revision("b", "a")) != tree_of(revision("b", generation=2), revision("a"))
    assert tree_of(revision("a")) != "1-a"
    assert RevTree.of(revision("b", "a")) == tree_of(revision("b", "a"))


# --- walking -----------------------------------------------------------------------------


@given(histories())
def test_path_and_descendants_by_plain_reasoning(revisions: list[Revision]) -> None:
    tree = tree_of(*revisions)
    parents = parents_of(revisions)
    for rev in parents:
        line = [rev]
        while (parent := parents[line[-1]]) is not None:
            line.append(parent)
        assert tree.path(rev) == tuple(step.hash for step in line)
        below = {rev}
        while more := {child for child, parent in parents.items() if parent in below} - below:
            below |= more
        expected = [leaf for leaf in tree.leaves() if leaf in below]
        assert tree.descendants(rev) == expected


def test_path_of_an_unknown_revision() -> None:
    with pytest.raises(KeyError):
        tree_of(revision("a")).path(Rev(1, "b"))
    assert tree_of(revision("a")).descendants(Rev(1, "b")) == []


# --- stemming ----------------------------------------------------------------------------


@given(histories(most=20), st.integers(1, 6))
def test_stem_keeps_the_newest_generations_of_every_leaf(
    revisions: list[Revision], limit: int
) -> None:
    tree = tree_of(*revisions)
    before = parents_of(revisions)
    leaves = tree.leaves()
    kept = set()
    for leaf in leaves:
        line: Rev | None = leaf
        for _ in range(limit):
            if line is not None:
                kept.add(line)
                line = before[line]
    forgotten = tree.stem(limit)
    if len(before) <= limit:
        assert forgotten == []
        return
    assert set(forgotten) == set(before) - kept
    assert len(tree) == len(kept)
    assert all(rev in tree for rev in kept)
    assert not any(rev in tree or tree.is_deleted(rev) for rev in forgotten)
    assert tree.leaves() == leaves
    for rev in kept:
        parent = before[rev]
        assert tree.path(rev)[1:] == (tree.path(parent) if parent in kept and parent else ())
    assert RevTree.decode(tree.encode()) == tree
    assert tree.stem(limit) == []


def test_stem_of_a_long_history() -> None:
    tree = tree_of(revision(*(f"r{step}" for step in range(1200, 0, -1))))
    forgotten = tree.stem(DEFAULT_REVS_LIMIT)
    assert sorted(forgotten) == [Rev(step, f"r{step}") for step in range(1, 201)]
    assert len(tree) == DEFAULT_REVS_LIMIT == len(tree.path(tree.winner()))
    # What is grafted next joins the stemmed history.
    tree.merge(revision(*(f"r{step}" for step in range(1201, 300, -1)), generation=1201))
    assert tree.leaves() == [Rev(1201, "r1201")]


def test_a_tree_within_the_limit_is_left_alone() -> None:
    tree = tree_of(revision("b", "a"))
    assert tree.stem(2) == []
    assert tree.stem(1) == [Rev(1, "a")]


# --- encoding ----------------------------------------------------------------------------


@given(histories() | contradicting_histories())
def test_encoding_round_trip(revisions: list[Revision]) -> None:
    tree = tree_of(*revisions)
    again = RevTree.decode(tree.encode())
    assert again == tree
    assert again.encode() == tree.encode()
    assert again.leaves() == tree.leaves()


@given(histories(most=4), histories(most=4))
def test_equal_bytes_mean_equal_trees(one: list[Revision], two: list[Revision]) -> None:
    first, second = tree_of(*one), tree_of(*two)
    assert (first.encode() == second.encode()) is (first == second)


@given(HASHES)
def test_every_hash_survives(digest: str) -> None:
    tree = tree_of(revision(digest))
    assert RevTree.decode(tree.encode()).winner().hash == digest


def test_hex_hashes_take_half_the_room() -> None:
    path = tuple(hex_hash(step) for step in range(100))
    assert len(tree_of(revision(*path)).encode()) < 100 * (16 + 6)
    ((generation, digest, back, deleted),) = cbor2.loads(tree_of(revision(path[0])).encode())
    assert (generation, digest, back, deleted) == (1, bytes.fromhex(path[0]), 0, False)


@pytest.mark.parametrize(
    "nodes",
    [
        [(1, "a", 0, False), (2, "b", 1, False), (1, "a", 1, False)],
        [(2, "b", 0, False), (1, "a", 1, False), (2, "b", 1, False)],
        [(1, "a", 0, False), (1, "a", 1, False)],
        [(1, "a", 0, False), (3, "b", 1, False)],
    ],
)
def test_a_damaged_tree_in_which_paths_never_end_is_refused(nodes: list[object]) -> None:
    with pytest.raises(ValueError, match="cannot be the parent"):
        RevTree.decode(cbor2.dumps(nodes))
