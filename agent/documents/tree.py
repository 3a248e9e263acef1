"""Revision trees: merging, winners, conflicts, stemming.

Source: CouchDB documentation, "Replication and conflict model"; the winner is the live leaf with
the highest generation, then the highest hash, and a deleted leaf only when no live one is left.
How hashes compare is in CouchDB's `couch_doc.erl` (`parse_revid`, `to_doc_info_path`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cbor2

from agent.documents.revision import Rev, Revision

DEFAULT_REVS_LIMIT = 1000


class DamagedTreeError(ValueError):
    """What was stored as a tree is none any more."""


class RevTree:
    """All known revisions of one document, each with its parent.

    There may be several roots. What a merge yields depends only on the set of what was merged,
    not on its order: when two histories name different parents for a revision (which needs a
    broken or hostile peer) the greater one counts. Stemming forgets; so revisions older than
    `revs_limit` that arrive again may come back as branches, as in CouchDB.
    """

    __slots__ = ("_deleted", "_parents")

    def __init__(self) -> None:
        self._parents: dict[Rev, Rev | None] = {}
        self._deleted: set[Rev] = set()

    @classmethod
    def of(cls, revision: Revision) -> RevTree:
        tree = cls()
        tree.merge(revision)
        return tree

    def __contains__(self, rev: object) -> bool:
        return rev in self._parents

    def __len__(self) -> int:
        return len(self._parents)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RevTree):
            return NotImplemented
        return self._parents == other._parents and self._deleted == other._deleted

    __hash__ = None  # type: ignore[assignment]  # mutable

    def merge(self, revision: Revision) -> bool:
        """Graft a revision with its history; True when that told anything new."""
        parents = self._parents
        rev = revision.rev
        changed = revision.deleted and rev not in self._deleted
        if changed:
            self._deleted.add(rev)
        for parent in [*_ancestors(revision), None]:
            known = parents.get(rev, _UNKNOWN)
            if known is _UNKNOWN or _greater(parent, known):
                parents[rev] = parent
                changed = True
            if parent is not None:
                rev = parent
        return changed

    def leaves(self) -> list[Rev]:
        """Revisions without children, the winner first, live ones before deleted ones."""
        inner = set(self._parents.values())
        found = [rev for rev in self._parents if rev not in inner]
        found.sort(key=self._rank, reverse=True)
        return found

    def all_revs(self) -> list[Rev]:
        """Every known revision, newest generations first."""
        return sorted(self._parents, reverse=True)

    def winner(self) -> Rev:
        return self.leaves()[0]

    def is_deleted(self, rev: Rev) -> bool:
        return rev in self._deleted

    def parent(self, rev: Rev) -> Rev | None:
        """The one that `rev` was made from; None for a first revision, or one that is forgotten."""
        return self._parents[rev]

    def path(self, rev: Rev) -> tuple[str, ...]:
        """The hashes from `rev` back to its oldest known ancestor."""
        hashes = []
        step: Rev | None = rev
        while step is not None:
            hashes.append(step.hash)
            step = self._parents[step]
        return tuple(hashes)

    def descendants(self, rev: Rev) -> list[Rev]:
        """The leaves that descend from `rev`, `rev` itself if it is one, best first."""
        found = []
        for leaf in self.leaves():
            step: Rev | None = leaf
            while step is not None and step.generation >= rev.generation:
                if step == rev:
                    found.append(leaf)
                    break
                step = self._parents[step]
        return found

    def stem(self, limit: int) -> list[Rev]:
        """Forget what is `limit` or more generations behind every leaf; returns the forgotten."""
        if len(self._parents) <= limit:
            return []
        kept: set[Rev] = set()
        for leaf in self.leaves():
            step: Rev | None = leaf
            for _ in range(limit):
                if step is None:
                    break
                kept.add(step)
                step = self._parents[step]
        return self._keep(kept)

    def remove(self, leaves: Iterable[Rev]) -> list[Rev]:
        """Forget leaves, and the ancestors that only they have; returns the forgotten.

        Revisions that are no leaves stay as they are.
        """
        gone = set(leaves)
        kept: set[Rev] = set()
        for leaf in self.leaves():
            step: Rev | None = None if leaf in gone else leaf
            while step is not None and step not in kept:
                kept.add(step)
                step = self._parents[step]
        return self._keep(kept)

    def _keep(self, kept: set[Rev]) -> list[Rev]:
        forgotten = [rev for rev in self._parents if rev not in kept]
        for rev in forgotten:
            del self._parents[rev]
            self._deleted.discard(rev)
        for rev, parent in self._parents.items():
            if parent is not None and parent not in kept:
                self._parents[rev] = None
        return forgotten

    def encode(self) -> bytes:
        """CBOR (RFC 8949): an array of `[generation, hash, back, deleted]`, sorted.

        `back` says how many places earlier in the array the parent stands, 0 that there is none.
        A hash of 32 lower-case hex digits is stored as 16 bytes. Equal trees give equal bytes.
        """
        order = sorted(self._parents)
        place = {rev: index for index, rev in enumerate(order)}
        nodes = []
        for index, rev in enumerate(order):
            parent = self._parents[rev]
            back = 0 if parent is None else index - place[parent]
            nodes.append((rev.generation, _pack(rev.hash), back, rev in self._deleted))
        return cbor2.dumps(nodes)

    @classmethod
    def decode(cls, data: bytes) -> RevTree:
        """The reverse of `encode`. Raises DamagedTreeError."""
        tree = cls()
        order: list[Rev] = []
        try:
            nodes: Sequence[tuple[int, Any, int, bool]] = cbor2.loads(data)
            for generation, digest, back, deleted in nodes:
                rev = Rev(generation, digest if isinstance(digest, str) else digest.hex())
                parent = order[-back] if back else None
                # Or there could be circles, in which who follows a path never comes to its end.
                if parent is not None and parent.generation != generation - 1:
                    raise DamagedTreeError(f"{parent} cannot be the parent of {rev}")
                tree._parents[rev] = parent
                if deleted:
                    tree._deleted.add(rev)
                order.append(rev)
        except (cbor2.CBORError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise DamagedTreeError(str(error)) from error
        return tree

    def _rank(self, rev: Rev) -> tuple[bool, int, bytes, str]:
        return (rev not in self._deleted, rev.generation, _as_couchdb_compares(rev.hash), rev.hash)


_UNKNOWN: Any = object()


def _ancestors(revision: Revision) -> Iterable[Rev]:
    generation = revision.generation
    return (Rev(generation - step, digest) for step, digest in enumerate(revision.path) if step)


def _greater(parent: Rev | None, known: Rev | None) -> bool:
    return parent is not None and (known is None or parent > known)


def _as_couchdb_compares(digest: str) -> bytes:
    """CouchDB keeps a hash of 32 hex digits as 16 bytes, others as text, and compares bytes."""
    if len(digest) == 32 and digest.isascii() and digest.isalnum():
        try:
            return bytes.fromhex(digest)
        except ValueError:
            pass
    return digest.encode("utf-8", "surrogatepass")


def _pack(digest: str) -> str | bytes:
    if len(digest) == 32 and digest.isascii():
        try:
            packed = bytes.fromhex(digest)
        except ValueError:
            return digest
        if packed.hex() == digest:
            return packed
    return digest
