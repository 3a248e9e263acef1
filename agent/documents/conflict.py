"""A document in conflict: its live leaves, and how their histories part and meet.

What is decided about a conflict is a function of what stands here, so that every side that has the
same leaves decides the same.

A revision tree knows one parent of each revision. Of a revision that resolved a conflict it does
not tell what else went into it; the tombstones that end the other leaves do, in their bodies:
`{"resolved_to": REV}`. Without that an edit of a leaf that was resolved elsewhere meanwhile would
be compared with an ancestor that is too old, and clash with itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from typing import Any

import msgspec

from agent.documents.attachment import Attachment
from agent.documents.revision import Rev
from agent.documents.tree import RevTree

MOST_LEAVES = 32
"""Live leaves of one document whose bodies are looked at."""

MOST_ROUNDS = 16
"""Generations in a row over which sides disagreed, after which a conflict is left to people."""

_MOST_BASES, _MOST_DEPTH = 4, 2
"""Common ancestors that are merged for a join, and how often these have several themselves."""

RESOLVED_TO = "resolved_to"
"""The member of a tombstone that names the revision into which its parent went."""


class Version(msgspec.Struct, frozen=True):
    """A revision with its body, which is decoded and has no members with an underscore."""

    rev: Rev
    body: Mapping[str, Any]
    attachments: tuple[Attachment, ...] = ()


class Join(msgspec.Struct, frozen=True):
    """Two of the leaves, by their places, that are merged into the first one's place.

    `bases` are their latest common ancestors: one, as a rule; several where what went into both has
    met twice, and then `joins` merge these into the first one's place. There may be none. Then
    `complete` tells whether both histories reach back to first revisions, so that there was none,
    ever: otherwise it has been forgotten (`revs_limit`), and another side may know it.
    """

    mine: int
    theirs: int
    bases: tuple[Rev, ...]
    complete: bool = True
    joins: tuple[Join, ...] = ()


class Conflict(msgspec.Struct, frozen=True):
    """Two or more live leaves of one document, the winner first.

    `joins` merge all into the winner's place, the closest relatives first. `bases` are the versions
    of their bases whose bodies are here; a deleted one is empty. `leaves` may be fewer than `revs`:
    only so many as are looked at; then there are no joins, and `unseen` are the attachments of the
    others.
    """

    id: str
    revs: tuple[Rev, ...]
    leaves: tuple[Version, ...]
    joins: tuple[Join, ...] = ()
    bases: Mapping[Rev, Version] = msgspec.field(default_factory=dict)
    rounds: int = 0
    """See `rounds_of`."""
    unseen: tuple[Attachment, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all leaves are there to look at."""
        return len(self.leaves) == len(self.revs)

    @property
    def base(self) -> Version | None:
        """The common ancestor of all leaves, where its body is here."""
        revs = self.joins[-1].bases if self.joins else ()
        return self.bases.get(revs[0]) if revs else None

    def doc(self, body: Mapping[str, Any], rev: Rev | None = None) -> dict[str, Any]:
        """A body as selectors and people see it."""
        head = {"_id": self.id} if rev is None else {"_id": self.id, "_rev": str(rev)}
        return {**head, **body}


def live_leaves(tree: RevTree) -> list[Rev]:
    """The leaves that are no tombstones, the winner first."""
    return [leaf for leaf in tree.leaves() if not tree.is_deleted(leaf)]


def joins_of(
    tree: RevTree,
    leaves: Sequence[Rev],
    resolved: Mapping[Rev, Iterable[Rev]],
    *,
    depth: int = 0,
) -> tuple[Join, ...]:
    """How these leaves, the best first, are merged.

    `resolved`: revisions, and what went into them besides their parents. `depth`: bases of bases.
    """
    lines = {place: _ancestors(tree, leaf, resolved) for place, leaf in enumerate(leaves)}
    joins = []
    while len(lines) > 1:
        mine, theirs, base = max(
            (
                (one, other, max(lines[one] & lines[other], default=None))
                for one, other in combinations(lines, 2)
            ),
            key=lambda found: (found[2] or Rev(0, ""), -found[0], -found[1]),
        )
        bases = _latest(tree, lines[mine] & lines[theirs], resolved)
        bases = bases[: _MOST_BASES if depth < _MOST_DEPTH else 1]
        inner = joins_of(tree, bases, resolved, depth=depth + 1) if len(bases) > 1 else ()
        line = lines[mine] | lines.pop(theirs)
        complete = base is not None or all(
            rev.generation == 1 for rev in line if tree.parent(rev) is None
        )
        joins.append(Join(mine, theirs, bases, complete, inner))
        lines[mine] = line
    return tuple(joins)


def all_bases(joins: Iterable[Join]) -> set[Rev]:
    """All ancestors that these joins compare with."""
    found = set()
    for join in joins:
        found |= {*join.bases, *all_bases(join.joins)}
    return found


def resolved_by(tree: RevTree, tombstones: Iterable[tuple[Rev, object]]) -> dict[Rev, list[Rev]]:
    """What went into which revision, for `joins_of`.

    `tombstones` are leaves, with what their bodies have as `RESOLVED_TO`.
    """
    found: dict[Rev, list[Rev]] = {}
    for tombstone, text in tombstones:
        parent = tree.parent(tombstone)
        if parent is None or not isinstance(text, str):
            continue
        with suppress(ValueError):  # somebody else's tombstone
            found.setdefault(Rev.parse(text), []).append(parent)
    return found


def rounds_of(tree: RevTree) -> int:
    """How many generations in a row, before the winner, each have a disputed sibling.

    That is one with two tombstones, which tell of different resolutions: two sides have decided
    otherwise, or one side never the same. Sides that agree make the same tombstone, however often
    a document comes into conflict. It is noticed wherever the document comes. Not counted beyond
    `MOST_ROUNDS`; trees with fewer disputes have 0.
    """
    leaves = tree.leaves()
    ended = Counter(tree.parent(leaf) for leaf in leaves if tree.is_deleted(leaf))
    disputed = [rev for rev, tombstones in ended.items() if tombstones > 1]
    if len(disputed) < MOST_ROUNDS:
        return 0
    siblings = {tree.parent(rev) for rev in disputed if rev is not None}
    rounds = 0
    before = tree.parent(leaves[0])
    step = None if before is None else tree.parent(before)
    while step is not None and step in siblings and rounds < MOST_ROUNDS:
        rounds += 1
        step = tree.parent(step)
    return rounds


def _ancestors(tree: RevTree, leaf: Rev, resolved: Mapping[Rev, Iterable[Rev]]) -> set[Rev]:
    """All that went into a leaf, itself included."""
    found = set()
    steps = [leaf]
    while steps:
        step: Rev | None = steps.pop()
        while step is not None and step not in found:
            found.add(step)
            steps += resolved.get(step, ())
            step = tree.parent(step)
    return found


def _latest(
    tree: RevTree, revs: set[Rev], resolved: Mapping[Rev, Iterable[Rev]]
) -> tuple[Rev, ...]:
    """Those of `revs`, which have their ancestors among them, that are no ancestors of another."""
    found = []
    left = set(revs)
    while left:
        latest = max(left)
        found.append(latest)
        left -= _ancestors(tree, latest, resolved)
    return tuple(found)
