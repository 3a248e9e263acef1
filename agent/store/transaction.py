"""What one write transaction does to the tables. Runs in the writer's thread, blocking.

The hot case, a document that arrives with one revision and stays so, is one inserted row. Only
documents that exist already, or that come with a history, take the slow path over a `RevTree`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.documents.revision import Rev, Revision, new_hash
from agent.documents.tree import DEFAULT_REVS_LIMIT, RevTree
from agent.errors import ConflictError

_LOOKUP = 500


@dataclass(frozen=True, slots=True)
class Edit:
    """A user's edit (new_edits=true): `parent` is the revision that it replaces, if any.

    `body` is the JSON text to store, `canonical` the same for hashing (`revision.canonical`).
    """

    id: str
    parent: Rev | None
    deleted: bool
    body: str
    canonical: bytes


@dataclass(slots=True)
class _Document:
    """A document while a transaction works on it."""

    id: str
    seq: int  # 0: not stored yet
    winner: Rev
    deleted: bool
    body: str
    tree: RevTree
    old_leaves: dict[Rev, bool]  # and whether it is a tombstone
    bodies: dict[Rev, str]  # of revisions that this transaction brought
    changed: bool = False

    @classmethod
    def new(cls, revision: Revision) -> _Document:
        document = cls(revision.id, 0, revision.rev, False, "", RevTree.of(revision), {}, {})
        document.bodies[revision.rev] = revision.body
        document.changed = True
        return document

    def merge(self, revision: Revision) -> bool:
        """True when the revision was not known."""
        new = revision.rev not in self.tree
        if self.tree.merge(revision):
            self.changed = True
        if new:
            self.bodies[revision.rev] = revision.body
        return new


class Transaction:
    """Between BEGIN and COMMIT of one group commit; several callers' operations share it."""

    def __init__(
        self, connection: sqlite3.Connection, *, revs_limit: int = DEFAULT_REVS_LIMIT
    ) -> None:
        self._db = connection
        self._revs_limit = revs_limit
        self.update_seq: int = connection.execute(
            "SELECT coalesce(max(seq), 0) FROM docs"
        ).fetchone()[0]
        counts = dict(
            connection.execute(
                "SELECT key, value FROM meta WHERE key IN ('doc_count', 'doc_del_count')"
            )
        )
        self._live: int = counts["doc_count"]
        self._tombstones: int = counts["doc_del_count"]

    def checkpoint(self) -> tuple[int, int, int]:
        """State to give to `restore` when an operation is rolled back to its savepoint."""
        return self.update_seq, self._live, self._tombstones

    def restore(self, state: tuple[int, int, int]) -> None:
        self.update_seq, self._live, self._tombstones = state

    def finish(self) -> None:
        """Write what is kept once per transaction."""
        self._db.executemany(
            "UPDATE meta SET value = ?1 WHERE key = ?2 AND value <> ?1",
            [(self._live, "doc_count"), (self._tombstones, "doc_del_count")],
        )

    # --- documents ---------------------------------------------------------------------

    def graft(self, revisions: Sequence[Revision]) -> list[bool]:
        """Store revisions with their histories (new_edits=false); True for each new one."""
        known = self._load({revision.id for revision in revisions})
        fresh: dict[str, Revision] = {}
        results = []
        for revision in revisions:
            document = known.get(revision.id)
            if document is None:
                first = fresh.pop(revision.id, None)
                if first is None and len(revision.path) == 1:
                    fresh[revision.id] = revision
                    results.append(True)
                    continue
                document = known[revision.id] = _Document.new(first or revision)
                if first is None:
                    results.append(True)
                    continue
            results.append(document.merge(revision))
        self._insert_fresh(fresh.values())
        for document in known.values():
            if document.changed:
                self._save(document)
        return results

    def edit(self, edits: Sequence[Edit]) -> list[Rev | None]:
        """Apply edits in order; the new revision of each, None for a conflict."""
        known = self._load({edit.id for edit in edits})
        results: list[Rev | None] = []
        for edit in edits:
            document = known.get(edit.id)
            parent = _parent_for(edit, document)
            if parent is _CONFLICT:
                results.append(None)
                continue
            digest = new_hash(edit.canonical, parent=parent, deleted=edit.deleted)
            if document is None or parent is None:
                revision = Revision(edit.id, 1, (digest,), edit.deleted, edit.body)
            else:
                path = (digest, *document.tree.path(parent))
                revision = Revision(edit.id, parent.generation + 1, path, edit.deleted, edit.body)
            if document is None:
                known[edit.id] = _Document.new(revision)
            else:
                document.merge(revision)
            results.append(revision.rev)
        for document in known.values():
            if document.changed:
                self._save(document)
        return results

    def _load(self, ids: set[str]) -> dict[str, _Document]:
        wanted = list(ids)
        found: dict[str, _Document] = {}
        for start in range(0, len(wanted), _LOOKUP):
            part = wanted[start : start + _LOOKUP]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(
                "SELECT id, seq, gen, hash, deleted, body, tree FROM docs "  # noqa: S608
                f"WHERE id IN ({marks})",
                part,
            )
            for id, seq, generation, digest, deleted, body, blob in rows:
                rev = Rev(generation, digest)
                if blob is None:
                    tree = RevTree.of(Revision(id, generation, (digest,), bool(deleted), ""))
                else:
                    tree = RevTree.decode(blob)
                leaves = _marked(tree, tree.leaves())
                found[id] = _Document(id, seq, rev, bool(deleted), body, tree, leaves, {})
        return found

    def _insert_fresh(self, revisions: Iterable[Revision]) -> None:
        rows = []
        seq = self.update_seq
        deleted = 0
        for revision in revisions:
            seq += 1
            deleted += revision.deleted
            rows.append(
                (
                    seq,
                    revision.id,
                    revision.generation,
                    revision.path[0],
                    revision.deleted,
                    revision.body,
                )
            )
        self._db.executemany(
            "INSERT INTO docs (seq, id, gen, hash, deleted, conflicts, body) "
            "VALUES (?, ?, ?, ?, ?, 0, ?)",
            rows,
        )
        self.update_seq = seq
        self._tombstones += deleted
        self._live += len(rows) - deleted

    def _save(self, document: _Document) -> None:
        tree = document.tree
        forgotten = tree.stem(self._revs_limit)
        leaves = tree.leaves()
        winner = leaves[0]
        deleted = tree.is_deleted(winner)
        conflicts = sum(not tree.is_deleted(leaf) for leaf in leaves[1:])
        now = _marked(tree, leaves)
        body = self._move_bodies(document, winner, now)
        if forgotten and document.seq:
            self._db.executemany(
                "DELETE FROM revisions WHERE id = ? AND gen = ? AND hash = ?",
                [(document.id, *rev) for rev in forgotten],
            )
        blob = None if len(tree) == 1 else tree.encode()
        if document.seq == 0 or document.old_leaves != now:
            self.update_seq += 1
            seq = self.update_seq
        else:
            seq = document.seq  # only older ancestors became known: no change to announce
        values = (seq, *winner, deleted, conflicts, body, blob, document.id)
        if document.seq == 0:
            self._db.execute(
                "INSERT INTO docs (seq, gen, hash, deleted, conflicts, body, tree, id) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        else:
            self._db.execute(
                "UPDATE docs SET seq = ?, gen = ?, hash = ?, deleted = ?, conflicts = ?, "
                "body = ?, tree = ? WHERE id = ?",
                values,
            )
            self._count(document.deleted, -1)
        self._count(deleted, +1)

    def _move_bodies(self, document: _Document, winner: Rev, now: dict[Rev, bool]) -> str:
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
            "INSERT OR IGNORE INTO revisions (id, gen, hash, deleted, leaf, body) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [
                (id, *rev, tree.is_deleted(rev), rev in now, text)
                for rev, text in bodies.items()
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

    def _take_body(self, id: str, rev: Rev) -> str:
        """The body of a leaf that wins from now on; it moves into the document's row."""
        row = self._db.execute(
            "DELETE FROM revisions WHERE id = ? AND gen = ? AND hash = ? RETURNING body",
            (id, *rev),
        ).fetchall()
        # A leaf without a body needs histories that contradict each other; see RevTree.
        return str(row[0][0]) if row else "{}"

    def _count(self, deleted: bool, by: int) -> None:
        if deleted:
            self._tombstones += by
        else:
            self._live += by

    # --- _local documents --------------------------------------------------------------

    def put_local(self, id: str, rev: str | None, body: str) -> str:
        """Write `_local/{id}`; `rev` is its present revision, `0-N`. Returns the new one.

        Raises ConflictError.
        """
        number = self._check_local(id, rev) + 1
        self._db.execute(
            "INSERT INTO local (id, rev, body) VALUES (?1, ?2, ?3) "
            "ON CONFLICT (id) DO UPDATE SET rev = ?2, body = ?3",
            (id, number, body),
        )
        return f"0-{number}"

    def delete_local(self, id: str, rev: str | None) -> bool:
        """Delete `_local/{id}`; False when there is none. Raises ConflictError."""
        if self._check_local(id, rev) == 0 and rev is None:
            return False
        self._db.execute("DELETE FROM local WHERE id = ?", (id,))
        return True

    def _check_local(self, id: str, rev: str | None) -> int:
        row = self._db.execute("SELECT rev FROM local WHERE id = ?", (id,)).fetchone()
        current = row[0] if row else 0
        if rev != (f"0-{current}" if row else None):
            raise ConflictError("Document update conflict.")
        return int(current)


_CONFLICT = Rev(0, "")


def _marked(tree: RevTree, leaves: Iterable[Rev]) -> dict[Rev, bool]:
    return {leaf: tree.is_deleted(leaf) for leaf in leaves}


def _parent_for(edit: Edit, document: _Document | None) -> Rev | None:
    """The revision that an edit extends: None for a first one, _CONFLICT when it may not."""
    if document is None:
        return None if edit.parent is None else _CONFLICT
    leaves = document.tree.leaves()
    if edit.parent is None:
        # A deleted document may be created again, on top of its tombstone.
        return leaves[0] if document.tree.is_deleted(leaves[0]) and not edit.deleted else _CONFLICT
    return edit.parent if edit.parent in leaves else _CONFLICT
