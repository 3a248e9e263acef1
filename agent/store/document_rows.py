"""Documents while a write transaction works on them, and the rows that they stand in.

A document's winner stands in `docs`, with the tree; every other body that is kept in `revisions`.
Runs in the writer's thread, blocking.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from time import thread_time
from typing import NamedTuple

import msgspec

from agent.documents.attachment import Attachment, attachments_from_store
from agent.documents.conflict import all_bases, live_leaves
from agent.documents.revision import Rev, Revision
from agent.documents.tree import RevTree
from agent.store.conflicts import read_joins

_LOOKUP = 500

_LONGEST = 0.1
"""Seconds of processor time for the histories of documents in conflict, at a time."""


class Body(NamedTuple):
    """What is stored of a revision: the texts of its body and of its attachments."""

    text: str
    attachments: str | None


EMPTY = Body("{}", None)


class Document(msgspec.Struct):
    """A document while a transaction works on it."""

    id: str
    seq: int  # 0: not stored yet
    winner: Rev
    deleted: bool
    body: Body
    tree: RevTree
    old_leaves: dict[Rev, bool]  # and whether it is a tombstone
    bodies: dict[Rev, Body]  # of revisions that this transaction brought
    changed: bool = False

    @classmethod
    def new(cls, revision: Revision, attachments: str | None) -> Document:
        document = cls(revision.id, 0, revision.rev, False, EMPTY, RevTree.of(revision), {}, {})
        document.bodies[revision.rev] = Body(revision.body, attachments)
        document.changed = True
        return document

    def merge(self, revision: Revision, attachments: str | None) -> bool:
        """True when the revision was not known."""
        new = revision.rev not in self.tree
        if self.tree.merge(revision):
            self.changed = True
        if new:
            self.bodies[revision.rev] = Body(revision.body, attachments)
        return new


class DocumentRows:
    """The tables `docs` and `revisions`, document by document."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def load(self, ids: set[str]) -> dict[str, Document]:
        """Those of `ids` that exist."""
        wanted = list(ids)
        found: dict[str, Document] = {}
        for start in range(0, len(wanted), _LOOKUP):
            part = wanted[start : start + _LOOKUP]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(
                "SELECT id, seq, gen, hash, deleted, body, tree, attachments "  # noqa: S608
                "FROM docs "
                f"WHERE id IN ({marks})",
                part,
            )
            for id, seq, generation, digest, deleted, text, blob, attachments in rows:
                rev = Rev(generation, digest)
                if blob is None:
                    tree = RevTree.of(Revision(id, generation, (digest,), bool(deleted), ""))
                else:
                    tree = RevTree.decode(blob)
                leaves = marked(tree, tree.leaves())
                body = Body(text, attachments)
                found[id] = Document(id, seq, rev, bool(deleted), body, tree, leaves, {})
        return found

    def forget(self, id: str, revs: Iterable[Rev]) -> None:
        """Drop the bodies of these revisions."""
        self._db.executemany(
            "DELETE FROM revisions WHERE id = ? AND gen = ? AND hash = ?",
            [(id, *rev) for rev in revs],
        )

    def move_bodies(self, document: Document, winner: Rev, now: dict[Rev, bool]) -> Body:
        """Keep every body but the winner's in `revisions`; returns the winner's."""
        id = document.id
        bodies = document.bodies
        stored = document.seq != 0
        if stored and winner != document.winner:
            bodies[document.winner] = document.body
        if winner in bodies:
            body = bodies.pop(winner)
        elif stored and winner == document.winner:
            body = document.body
        else:
            body = self._take_body(id, winner)
        tree = document.tree
        self._db.executemany(
            "INSERT OR IGNORE INTO revisions (id, gen, hash, deleted, leaf, body, attachments) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (id, *rev, tree.is_deleted(rev), rev in now, *content)
                for rev, content in bodies.items()
                if rev in tree
            ],
        )
        self._db.executemany(
            "UPDATE revisions SET leaf = 0 WHERE id = ? AND gen = ? AND hash = ?",
            [(id, *rev) for rev in document.old_leaves.keys() - now.keys() - {document.winner}],
        )
        self._db.executemany(  # only histories that contradict each other come to this
            "UPDATE revisions SET leaf = 1, deleted = ? WHERE id = ? AND gen = ? AND hash = ?",
            [
                (deleted, id, *rev)
                for rev, deleted in now.items() - document.old_leaves.items()
                if rev not in bodies and rev != winner
            ],
        )
        return body

    def _take_body(self, id: str, rev: Rev) -> Body:
        """The body of a leaf that wins from now on; it moves into the document's row."""
        row = self._db.execute(
            "DELETE FROM revisions WHERE id = ? AND gen = ? AND hash = ? "
            "RETURNING body, attachments",
            (id, *rev),
        ).fetchall()
        # A leaf without a body needs histories that contradict each other; see RevTree.
        return Body(*row[0]) if row else EMPTY

    def attachments(self, document: Document, rev: Rev) -> tuple[Attachment, ...]:
        """The attachments of a revision whose body is here."""
        text: str | None = None
        if rev in document.bodies:
            text = document.bodies[rev].attachments
        elif document.seq and rev == document.winner:
            text = document.body.attachments
        elif rev in document.tree:
            row = self._db.execute(
                "SELECT attachments FROM revisions WHERE id = ? AND gen = ? AND hash = ?",
                (document.id, *rev),
            ).fetchone()
            text = row[0] if row else None
        return attachments_from_store(text)

    def drop_old_bodies(self, after: int, count: int, *, keep: int = 0) -> int | None:
        """Drop the bodies of revisions that are no leaves, among the next `count` rows.

        The common ancestors of leaves in conflict keep theirs, and with `keep` the newest
        generations behind each winner, so many. `after` is 0 or what the call before returned; None
        when there are no more rows.
        """
        last = self._db.execute(
            "SELECT max(rowid) FROM "
            "(SELECT rowid FROM revisions WHERE rowid > ? ORDER BY rowid LIMIT ?)",
            (after, count),
        ).fetchone()[0]
        if last is None:
            return None
        unneeded, last = self._unneeded(after, last, keep)
        self._db.executemany("DELETE FROM revisions WHERE rowid = ?", unneeded)
        return int(last)

    def _unneeded(self, after: int, last: int, keep: int) -> tuple[list[tuple[int]], int]:
        """The rows of old bodies, among these rows, that no merge is going to ask for.

        With them the row up to which it has looked, `last` unless that takes long; the writer has
        other work.
        """
        rows = self._db.execute(
            "SELECT revisions.rowid, id, revisions.gen, revisions.hash, docs.gen, "
            "CASE WHEN docs.conflicts > 0 THEN docs.tree END "
            "FROM revisions JOIN docs USING (id) "
            "WHERE revisions.rowid > ? AND revisions.rowid <= ? AND NOT revisions.leaf "
            "ORDER BY revisions.rowid",
            (after, last),
        )
        until = thread_time() + _LONGEST
        bases: dict[str, set[Rev]] = {}
        found: list[tuple[int]] = []
        for row, id, generation, digest, newest, encoded in rows:
            if keep and generation >= newest - keep:
                continue
            if encoded is not None:
                if id not in bases:
                    if bases and thread_time() > until:
                        return found, row - 1
                    tree = RevTree.decode(encoded)
                    bases[id] = all_bases(read_joins(self._db, id, tree, live_leaves(tree)))
                if Rev(generation, digest) in bases[id]:
                    continue
            found.append((row,))
        return found, last


def marked(tree: RevTree, leaves: Iterable[Rev]) -> dict[Rev, bool]:
    """Each leaf, and whether it is a tombstone."""
    return {leaf: tree.is_deleted(leaf) for leaf in leaves}
