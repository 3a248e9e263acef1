"""What one write transaction does to the tables. Runs in the writer's thread, blocking.

The hot case, a document that arrives with one revision and stays so, is one inserted row. Only
documents that exist already, or that come with a history, take the slow path over a `RevTree`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from agent.documents.attachment import Absent, Attachment, attachments_from_store, stored_text
from agent.documents.revision import Rev, Revision, canonical, new_hash
from agent.documents.tree import DEFAULT_REVS_LIMIT
from agent.store.blobs import Blobs
from agent.store.document_rows import Document, DocumentRows, marked
from agent.store.latest import Latest
from agent.store.locals import Locals
from agent.store.mango_index import PREFIX, MangoIndex, synchronise
from agent.store.parts import Parts
from agent.store.ranges import Ranges
from agent.store.record import Record
from agent.store.schema import PURGE_SEQ, SEQ_FLOOR, SETTING
from agent.store.stubs import Stubs

_DATA = (
    "SELECT (page_count - freelist_count) * page_size "
    "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)


class Edit(msgspec.Struct, frozen=True):
    """A user's edit (new_edits=true): `parent` is the revision that it replaces, if any.

    `body` is the JSON text to store, `canonical` the same for hashing (`revision.canonical`).
    """

    id: str
    parent: Rev | None
    deleted: bool
    body: str
    canonical: bytes
    attachments: tuple[Attachment, ...] = ()


class Transaction:
    """Between BEGIN and COMMIT of one group commit; several callers' operations share it."""

    def __init__(
        self, connection: sqlite3.Connection, *, revs_limit: int = DEFAULT_REVS_LIMIT
    ) -> None:
        self._db = connection
        self._revs_limit = revs_limit
        self.rows = DocumentRows(connection)
        self.blobs = Blobs(connection)
        self._stubs = Stubs(self.rows, self.blobs)
        self.locals = Locals(connection)
        self.parts = Parts(connection)
        self.record = Record(connection)
        self.ranges = Ranges(connection)
        newest = connection.execute("SELECT coalesce(max(seq), 0) FROM docs").fetchone()[0]
        counts = dict(
            connection.execute(
                "SELECT key, value FROM meta WHERE key IN (?, 'doc_count', 'doc_del_count')",
                (SEQ_FLOOR,),
            )
        )
        self.update_seq: int = max(newest, counts.get(SEQ_FLOOR, 0))
        self._began_at = self.update_seq
        self._live: int = counts["doc_count"]
        self._tombstones: int = counts["doc_del_count"]
        self._designs_changed = False
        self.new_conflicts = 0
        """Documents that have come into conflict."""
        self.changed_conflicts = 0
        """The same, with those that were in conflict and have other leaves now."""
        self.indexes: list[MangoIndex] | None = None
        """After `finish` the Mango indexes, if they may have changed."""
        self.latest: Latest
        """After `finish` what has changed."""
        self.data = 0
        """After `finish` the bytes of the file's used pages."""

    def checkpoint(self) -> tuple[int, int, int]:
        """State to give to `restore` when an operation is rolled back to its savepoint."""
        return self.update_seq, self._live, self._tombstones

    def restore(self, state: tuple[int, int, int]) -> None:
        self.update_seq, self._live, self._tombstones = state

    def finish(self) -> None:
        """Write what is kept once per transaction."""
        if self._designs_changed:
            self.indexes = synchronise(self._db)
        self._db.executemany(
            "UPDATE meta SET value = ?1 WHERE key = ?2 AND value <> ?1",
            [(self._live, "doc_count"), (self._tombstones, "doc_del_count")],
        )
        self.latest = Latest.read(self._db, self._began_at, self.update_seq)
        (self.data,) = self._db.execute(_DATA).fetchone()

    # --- documents ---------------------------------------------------------------------

    def graft(self, revisions: Sequence[Revision]) -> list[bool]:
        """Store revisions with their histories (new_edits=false); True for each new one.

        A stub stands for what the nearest known ancestor has under this name, or else any revision
        of the document with the same digest. Raises MissingStubError.
        """
        if self._all_fresh(revisions):
            return [True] * len(revisions)
        known = self.rows.load({revision.id for revision in revisions})
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
                begin = first or revision
                attachments = self._stubs.of_revision(begin, None)
                document = known[revision.id] = Document.new(begin, attachments)
                if first is None:
                    results.append(True)
                    continue
            if revision.attachments and revision.rev in document.tree:
                for attachment in revision.attachments:
                    self.blobs.discard(attachment.content)
                attachments = None
            else:
                attachments = self._stubs.of_revision(revision, document)
            results.append(document.merge(revision, attachments))
        self._insert_fresh(fresh.values())
        for document in known.values():
            if document.changed:
                self._save(document)
        return results

    def winner(self, id: str) -> Document | None:
        """A document as it stands in this transaction; its `winner` may be a tombstone."""
        return self.rows.load({id}).get(id)

    def load(self, ids: set[str]) -> dict[str, Document]:
        """Documents as they stand in this transaction, those of `ids` that exist."""
        return self.rows.load(ids)

    def rewrite(self, id: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> bool:
        """Edit a document as it stands; what is attached to it stays.

        `change` makes the new body of the present one, or None to leave it. Returns whether there
        is a new revision: of a document that is missing or deleted there is none.
        """
        found = self.winner(id)
        body = None
        if found is not None and not found.deleted:
            body = change(msgspec.json.decode(found.body.text))
        if found is None or body is None:
            return False
        text = canonical(body)
        attached = attachments_from_store(found.body.attachments)
        stubs = tuple(replace(item, content=Absent.STUB) for item in attached)
        self.edit([Edit(id, found.winner, False, text.decode(), text, stubs)])
        return True

    def edit(
        self, edits: Sequence[Edit], known: dict[str, Document] | None = None
    ) -> list[Rev | None]:
        """Apply edits in order; the new revision of each, None for a conflict.

        `known` are the documents, for who has loaded them. A stub stands for the parent's
        attachment of this name. Raises MissingStubError.
        """
        if not any(edit.parent or edit.attachments for edit in edits):
            created = [_created(edit) for edit in edits]
            if self._all_fresh(created):
                return [revision.rev for revision in created]
        if known is None:
            known = self.rows.load({edit.id for edit in edits})
        results: list[Rev | None] = []
        for edit in edits:
            document = known.get(edit.id)
            parent = _parent_for(edit, document)
            if parent is _CONFLICT:
                results.append(None)
                continue
            attachments, text = edit.attachments, None
            if attachments:
                attachments = self._stubs.of_edit(edit.id, edit.attachments, parent, document)
                text = stored_text(attachments)
            digest = new_hash(
                edit.canonical, parent=parent, deleted=edit.deleted, attachments=attachments
            )
            if document is None or parent is None:
                revision = Revision(edit.id, 1, (digest,), edit.deleted, edit.body)
            else:
                path = (digest, *document.tree.path(parent))
                revision = Revision(edit.id, parent.generation + 1, path, edit.deleted, edit.body)
            if document is None:
                known[edit.id] = Document.new(revision, text)
            else:
                document.merge(revision, text)
            results.append(revision.rev)
        for document in known.values():
            if document.changed:
                self._save(document)
        return results

    def _all_fresh(self, revisions: Sequence[Revision]) -> bool:
        """Insert them without looking their ids up, and take it back unless all were new."""
        if len({revision.id for revision in revisions}) < len(revisions):
            return False
        for revision in revisions:
            if len(revision.path) > 1 or revision.attachments:
                return False
        state = self.checkpoint()
        inserted = self._insert_fresh(revisions)
        if inserted == len(revisions):
            return True
        if inserted:  # a savepoint would cost all others, who insert nothing but new ones
            self._db.execute("DELETE FROM docs WHERE seq > ?", (state[0],))
        self.restore(state)
        return False

    def _insert_fresh(self, revisions: Iterable[Revision]) -> int:
        """One row each; returns how many there were, as documents that exist are left alone."""
        rows = []
        seq = self.update_seq
        deleted = 0
        for revision in revisions:
            seq += 1
            deleted += revision.deleted
            if revision.id.startswith(PREFIX):
                self._designs_changed = True
            rows.append(
                (
                    seq,
                    revision.id,
                    revision.generation,
                    revision.path[0],
                    revision.deleted,
                    revision.body,
                    self._stubs.of_revision(revision, None) if revision.attachments else None,
                )
            )
        inserted = self._db.executemany(
            "INSERT INTO docs (seq, id, gen, hash, deleted, conflicts, body, attachments) "
            "VALUES (?, ?, ?, ?, ?, 0, ?, ?) ON CONFLICT (id) DO NOTHING",
            rows,
        ).rowcount
        self.update_seq = seq
        self._tombstones += deleted
        self._live += len(rows) - deleted
        return max(inserted, 0)  # -1 without rows

    def _save(self, document: Document) -> None:
        self._designs_changed |= document.id.startswith(PREFIX)
        tree = document.tree
        forgotten = tree.stem(self._revs_limit)
        leaves = tree.leaves()
        winner = leaves[0]
        deleted = tree.is_deleted(winner)
        conflicts = sum(not tree.is_deleted(leaf) for leaf in leaves[1:])
        now = marked(tree, leaves)
        if conflicts and document.old_leaves != now:
            self.changed_conflicts += 1
            self.new_conflicts += list(document.old_leaves.values()).count(False) < 2
        body = self.rows.move_bodies(document, winner, now)
        if forgotten and document.seq:
            self.rows.forget(document.id, forgotten)
        blob = None if len(tree) == 1 else tree.encode()
        if document.seq == 0 or document.old_leaves != now:
            self.update_seq += 1
            seq = self.update_seq
        else:
            seq = document.seq  # only older ancestors became known: no change to announce
        values = (seq, *winner, deleted, conflicts, *body, blob, document.id)
        if document.seq == 0:
            self._db.execute(
                "INSERT INTO docs "
                "(seq, gen, hash, deleted, conflicts, body, attachments, tree, id) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        else:
            self._db.execute(
                "UPDATE docs SET seq = ?, gen = ?, hash = ?, deleted = ?, conflicts = ?, "
                "body = ?, attachments = ?, tree = ? WHERE id = ?",
                values,
            )
            self._count(document.deleted, -1)
        self._count(deleted, +1)

    def _count(self, deleted: bool, by: int) -> None:
        if deleted:
            self._tombstones += by
        else:
            self._live += by

    # --- removing ----------------------------------------------------------------------

    def purge(self, asked: Mapping[str, Sequence[Rev]]) -> dict[str, list[Rev]]:
        """Remove leaves as if they had never been; what is no leaf of its document is passed over.

        Returns the removed ones of each document. A document without leaves is gone; another one
        gets a new sequence, as its winner may be another.
        """
        known = self.rows.load(set(asked))
        removed: dict[str, list[Rev]] = {}
        for id, revs in asked.items():
            document = known.get(id)
            leaves = document.old_leaves if document is not None else {}
            removed[id] = [rev for rev in dict.fromkeys(revs) if rev in leaves]
            if document is None or not removed[id]:
                continue
            if len(removed[id]) == len(leaves):
                self._designs_changed |= id.startswith(PREFIX)
                self._db.execute("DELETE FROM docs WHERE id = ?", (id,))
                self._db.execute("DELETE FROM revisions WHERE id = ?", (id,))
                self._count(document.deleted, -1)
                continue
            forgotten = document.tree.remove(removed[id])
            self._save(document)
            self.rows.forget(id, forgotten)
        self._note_purged(sum(map(bool, removed.values())))
        return removed

    def retire(self, seqs: Iterable[int]) -> list[int]:
        """Remove documents as they were at these changes, as if they had never been.

        Passes over those that have changed since. Returns the changes whose documents are gone.
        They have to be live, without conflicts and without attachments.
        """
        gone = []
        for seq in seqs:
            row = self._db.execute(
                "DELETE FROM docs WHERE seq = ? RETURNING id, tree IS NULL", (seq,)
            ).fetchone()
            if row is None:
                continue
            gone.append(seq)
            if not row[1]:
                self._db.execute("DELETE FROM revisions WHERE id = ?", (row[0],))
        self._live -= len(gone)
        self._note_purged(len(gone))
        return gone

    def _note_purged(self, documents: int) -> None:
        if documents:
            self._db.execute(
                "INSERT INTO meta (key, value) VALUES (?1, ?2) "
                "ON CONFLICT (key) DO UPDATE SET value = value + ?2",
                (PURGE_SEQ, documents),
            )
            self._set_meta(SEQ_FLOOR, self.update_seq)

    # --- space -------------------------------------------------------------------------

    def release_pages(self, count: int, *, keep: int = 0) -> int:
        """Give up to `count` unused pages back to the file system, and leave `keep`; returns how
        many are left."""
        unused = self._unused_pages()
        for _ in range(min(count, unused - keep)):
            # One by one: Python takes the first page's turn for the end of the statement.
            self._db.execute("PRAGMA incremental_vacuum(1)")
        return self._unused_pages()

    def _unused_pages(self) -> int:
        return int(self._db.execute("PRAGMA freelist_count").fetchone()[0])

    # --- settings ----------------------------------------------------------------------

    def _set_meta(self, key: str, value: object) -> None:
        self._db.execute(
            "INSERT INTO meta (key, value) VALUES (?1, ?2) "
            "ON CONFLICT (key) DO UPDATE SET value = ?2",
            (key, value),
        )

    def set_setting(self, name: str, text: str | None) -> None:
        """Keep a setting (JSON text); None removes it."""
        if text is None:
            self._db.execute("DELETE FROM meta WHERE key = ?", (SETTING + name,))
        else:
            self._set_meta(SETTING + name, text)


_CONFLICT = Rev(0, "")


def _created(edit: Edit) -> Revision:
    """The revision that an edit without a parent makes of a document that does not exist yet."""
    digest = new_hash(edit.canonical, parent=None, deleted=edit.deleted)
    return Revision(edit.id, 1, (digest,), edit.deleted, edit.body)


def _parent_for(edit: Edit, document: Document | None) -> Rev | None:
    """The revision that an edit extends: None for a first one, _CONFLICT when it may not."""
    if document is None:
        return None if edit.parent is None else _CONFLICT
    leaves = document.tree.leaves()
    if edit.parent is None:
        # A deleted document may be created again, on top of its tombstone.
        return leaves[0] if document.tree.is_deleted(leaves[0]) and not edit.deleted else _CONFLICT
    return edit.parent if edit.parent in leaves else _CONFLICT
