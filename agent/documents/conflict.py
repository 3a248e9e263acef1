"""A document in conflict: its live leaves, and where their histories part.

What is decided about a conflict is a function of what stands here, so that every side that has the
same leaves decides the same. `Fork` is a revision tree reduced to what a three-way merge needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, TypeAlias

from agent.documents.attachment import Attachment
from agent.documents.revision import Rev
from agent.documents.tree import RevTree

MOST_LEAVES = 100
"""Live leaves of one document whose bodies are looked at."""

MOST_ROUNDS = 16
"""Generations in a row that each resolved a conflict, after which it is left to people."""


@dataclass(frozen=True, slots=True)
class Version:
    """A revision with its body, which is decoded and has no members with an underscore."""

    rev: Rev
    body: Mapping[str, Any]
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Fork:
    """Where branches part. `branches` are leaves or further forks, that of the best leaf first.

    `rev` is the common ancestor, None where there is none. Then `complete` tells whether the
    histories reach back to first revisions, so that there was none, ever: otherwise it has been
    forgotten (`revs_limit`), and another side may know it.
    """

    rev: Rev | None
    branches: tuple[Branch, ...]
    complete: bool = True


Branch: TypeAlias = Fork | Rev


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two or more live leaves of one document, the winner first.

    `bases` are the versions of forks whose bodies are here. A deleted ancestor is empty. `leaves`
    may be fewer than `revs`: only so many as are looked at.
    """

    id: str
    revs: tuple[Rev, ...]
    leaves: tuple[Version, ...]
    branch: Branch
    bases: Mapping[Rev, Version] = field(default_factory=dict)
    rounds: int = 0
    """See `rounds_of`."""

    @property
    def complete(self) -> bool:
        """Whether all leaves are there to look at."""
        return len(self.leaves) == len(self.revs)

    @property
    def base(self) -> Version | None:
        """The common ancestor of all leaves, where its body is here."""
        if isinstance(self.branch, Fork) and self.branch.rev is not None:
            return self.bases.get(self.branch.rev)
        return None

    def doc(self, body: Mapping[str, Any], rev: Rev | None = None) -> dict[str, Any]:
        """A body as selectors and people see it."""
        head = {"_id": self.id} if rev is None else {"_id": self.id, "_rev": str(rev)}
        return {**head, **body}


def fork_of(tree: RevTree, leaves: Sequence[Rev]) -> Branch:
    """How the histories of these leaves, the best first, part. Depends on the tree only."""
    heads: dict[Rev, list[tuple[int, Branch]]] = {
        leaf: [(place, leaf)] for place, leaf in enumerate(leaves)
    }
    newest_first = [(-rev.generation, rev.hash) for rev in heads]
    heapify(newest_first)
    roots: list[tuple[int, Branch]] = []
    complete = True
    while True:
        generation, digest = heappop(newest_first)
        rev = Rev(-generation, digest)
        branch = _joined(rev, heads.pop(rev))
        if not heads and not roots:
            return branch[1]
        parent = tree.parent(rev)
        if parent is None:
            roots.append(branch)
            complete &= rev.generation == 1
        else:
            if parent not in heads:
                heads[parent] = []
                heappush(newest_first, (-parent.generation, parent.hash))
            heads[parent].append(branch)
        if not heads:
            return Fork(None, tuple(branch for _, branch in sorted(roots, key=_place)), complete)


def forks(branch: Branch) -> list[Fork]:
    """All forks, the outermost first."""
    if isinstance(branch, Rev):
        return []
    return [branch, *(fork for inner in branch.branches for fork in forks(inner))]


def is_base(tree: RevTree, rev: Rev) -> bool:
    """Whether live leaves of a tree have their latest common ancestor in `rev`."""
    live = [leaf for leaf in tree.leaves() if not tree.is_deleted(leaf)]
    return any(fork.rev == rev for fork in forks(fork_of(tree, live)))


def rounds_of(tree: RevTree) -> int:
    """How many generations in a row, before the winner, each have a sibling that was deleted.

    A resolution leaves such a trace, and the next one in a row follows upon it. One side that
    decides otherwise than another, or never the same, makes it long: so it is noticed wherever the
    document comes. Not counted beyond `MOST_ROUNDS`; trees with fewer tombstones have 0.
    """
    leaves = tree.leaves()
    beaten = {tree.parent(leaf) for leaf in leaves if tree.is_deleted(leaf)}
    if len(beaten) < MOST_ROUNDS:
        return 0
    siblings = {tree.parent(rev) for rev in beaten if rev is not None}
    rounds = 0
    before = tree.parent(leaves[0])
    step = None if before is None else tree.parent(before)
    while step is not None and step in siblings and rounds < MOST_ROUNDS:
        rounds += 1
        step = tree.parent(step)
    return rounds


def _joined(rev: Rev, found: list[tuple[int, Branch]]) -> tuple[int, Branch]:
    if len(found) == 1:
        return found[0]
    found.sort(key=_place)
    return found[0][0], Fork(rev, tuple(branch for _, branch in found))


def _place(found: tuple[int, Branch]) -> int:
    return found[0]
