"""Queries, on read-only connections of their own. Blocking: run in threads.

Every query is short and fetches all that it returns, so that no reader holds the WAL back; whoever
reads much reads in pages. A page ends after some documents or some bytes, whichever comes first;
it says itself whether there was more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent.documents.attachment import Attachment, attachments_from_store
from agent.documents.revision import Rev, Revision
from agent.documents.tree import RevTree
from agent.errors import TooLargeError
from agent.store.blobs import read_chunks
from agent.store.connection import explained, open_reader
from agent.store.schema import PURGE_SEQ, SEQ_FLOOR, SETTING

_T = TypeVar("_T")

PAGE_BYTES = 1024 * 1024
"""A page ends with the document that exceeds this."""

_LOOKUP = 500
_COUNTED_PENDING = 2_000
_MOST_AT_ONCE = 16 * 1024 * 1024
_COLUMNS = "seq, id, gen, hash, deleted, conflicts, body, tree, attachments"
_NO_BODY = _COLUMNS.replace("body", "''")
_URGENT = """seq > ? AND instr(body, '"urgent":true')"""
"""As the index `docs_urgent` has it."""
_TOO_MUCH = "too much to read at once; ask for fewer documents"
_INFO = (
    "SELECT key, value FROM meta WHERE key IN "
    "('uuid', 'instance_start_time', 'doc_count', 'doc_del_count', ?, ?)"
)
_LARGEST = 2**63 - 1  # of SQLite's integers


class StoredDocument(msgspec.Struct, frozen=True):
    """A row of `docs`: a document as its winning revision shows it."""

    seq: int
    id: str
    rev: Rev
    deleted: bool
    conflicts: int
    body: str
    encoded_tree: bytes | None
    encoded_attachments: str | None = None

    def tree(self) -> RevTree:
        if self.encoded_tree is not None:
            return RevTree.decode(self.encoded_tree)
        return RevTree.of(self.revision())

    def leaves(self) -> list[Rev]:
        """All leaf revisions, the winner first."""
        return [self.rev] if self.encoded_tree is None else self.tree().leaves()

    def revision(self) -> Revision:
        """The winner with its history."""
        if self.encoded_tree is None:
            path: tuple[str, ...] = (self.rev.hash,)
        else:
            path = RevTree.decode(self.encoded_tree).path(self.rev)
        return Revision(
            self.id,
            self.rev.generation,
            path,
            self.deleted,
            self.body,
            attachments_from_store(self.encoded_attachments),
        )


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """Sizes in bytes: `file_size` without the WAL, `active_size` without unused pages too."""

    uuid: str
    instance_start_time: str
    update_seq: int
    doc_count: int
    doc_del_count: int
    conflict_count: int
    file_size: int
    active_size: int
    purge_seq: int


@dataclass(frozen=True, slots=True)
class ChangesPage:
    """`pending`: changes after this page; an upper bound once it exceeds 2,000.

    `complete`: the page was not cut short, so nothing came after it when it was read. `size`: about
    what the documents take, in bytes. `rendered` belongs to those who share the page: what one made
    of it the others may use.
    """

    documents: list[StoredDocument]
    last_seq: int
    pending: int
    complete: bool
    size: int
    rendered: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class DocumentsPage:
    """Documents in the order of their ids; `complete` as for `ChangesPage`."""

    documents: list[StoredDocument]
    complete: bool


@dataclass(frozen=True, slots=True)
class MissingRevs:
    """Revisions that a document lacks, and its leaves that may be ancestors of them."""

    revs: list[str]
    possible_ancestors: list[Rev]


class Reader:
    """Lends a read-only connection to each query and keeps those not in use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    @contextmanager
    def _connection(self, *, snapshot: bool = False) -> Iterator[sqlite3.Connection]:
        """`snapshot`: all queries see the same state, whatever is committed between them."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = open_reader(self._path)
        try:
            with explained(self._path):
                if snapshot:
                    connection.execute("BEGIN")
                yield connection
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)

    def close(self) -> None:
        self._closed = True
        with suppress(IndexError):  # a thread that ends right now may take one of them
            while True:
                self._idle.pop().close()

    def query(self, function: Callable[[sqlite3.Connection], _T]) -> _T:
        """What a function reads from one state of the store."""
        with self._connection(snapshot=True) as db:
            return function(db)

    def info(self) -> StoreInfo:
        with self._connection(snapshot=True) as db:
            meta = dict(db.execute(_INFO, (SEQ_FLOOR, PURGE_SEQ)))
            newest, conflicts, size, unused = db.execute(
                "SELECT (SELECT coalesce(max(seq), 0) FROM docs), "
                "(SELECT count(*) FROM docs WHERE conflicts > 0), "
                "page_count * page_size, freelist_count * page_size "
                "FROM pragma_page_count, pragma_page_size, pragma_freelist_count"
            ).fetchone()
        return StoreInfo(
            uuid=meta["uuid"],
            instance_start_time=meta["instance_start_time"],
            update_seq=max(newest, meta.get(SEQ_FLOOR, 0)),
            doc_count=meta["doc_count"],
            doc_del_count=meta["doc_del_count"],
            conflict_count=conflicts,
            file_size=size,
            active_size=size - unused,
            purge_seq=meta.get(PURGE_SEQ, 0),
        )

    def settings(self) -> dict[str, Any]:
        """The settings of the database (JSON values) by name."""
        with self._connection() as db:
            rows = db.execute("SELECT key, value FROM meta WHERE key GLOB ?", (SETTING + "*",))
            return {key.removeprefix(SETTING): msgspec.json.decode(value) for key, value in rows}

    def documents(self, ids: Sequence[str], *, bounded: bool = False) -> dict[str, StoredDocument]:
        """Those of `ids` that exist, tombstones included.

        With `bounded` raises TooLargeError when several together exceed 16 MiB.
        """
        with self._connection() as db:
            return _documents(db, ids, most=_MOST_AT_ONCE if bounded else None)

    def first_documents(
        self, ids: Sequence[str], *, bodies: bool = True
    ) -> dict[str, StoredDocument | None]:
        """A page of `ids`, from the first on: each document, or None where there is none.

        Tombstones are included. Without `bodies` every body is empty.
        """
        sql = f"SELECT {_COLUMNS if bodies else _NO_BODY} FROM docs WHERE id = ?"  # noqa: S608
        found: dict[str, StoredDocument | None] = {}
        size = 0
        with self._connection(snapshot=True) as db:
            for id in ids:
                row = db.execute(sql, (id,)).fetchone()
                found[id] = row and _document(row)
                size += _size(row) if row else 0
                if size > PAGE_BYTES:
                    break
        return found

    def revisions(
        self, wanted: Sequence[tuple[str, Sequence[str]]], *, bounded: bool = False
    ) -> list[list[tuple[str, Revision | None]]]:
        """For each `(id, revs)` each revision asked for, None where its body is not here.

        Raises TooLargeError when several documents together exceed 16 MiB, with `bounded` also
        when several revisions of one do.
        """
        with self._connection(snapshot=True) as db:
            found = _documents(db, list({id for id, _ in wanted}), most=_MOST_AT_ONCE)
            several = len(found) > 1 or (bounded and sum(len(revs) for _, revs in wanted) > 1)
            size = sum(len(document.body) for document in found.values())
            revisions = []
            for id, revs in wanted:
                document = found.get(id)
                told = []
                for rev in revs:
                    revision = _revision(db, document, rev)
                    if revision is not None and document is not None:
                        size += 0 if revision.body is document.body else len(revision.body)
                    if several and size > _MOST_AT_ONCE:
                        raise TooLargeError(_TOO_MUCH)
                    told.append((rev, revision))
                revisions.append(told)
            return revisions

    def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> dict[str, MissingRevs]:
        """Which revisions are not in the documents' trees (CouchDB's _revs_diff)."""
        with self._connection() as db:
            found = _documents(db, list(revs), body=False)
        missing: dict[str, MissingRevs] = {}
        for id, asked in revs.items():
            document = found.get(id)
            if document is None:
                lacking = list(asked)
            elif document.encoded_tree is None:
                only = document.rev
                lacking = [rev for rev in asked if rev != str(only) and _parsed(rev) != only]
            else:
                tree = document.tree()
                lacking = [rev for rev in asked if _parsed(rev) not in tree]
            if lacking:
                missing[id] = MissingRevs(lacking, _possible_ancestors(document, lacking))
        return missing

    def changes(
        self,
        since: int,
        *,
        limit: int,
        descending: bool = False,
        before: int | None = None,
        bodies: bool = True,
    ) -> ChangesPage:
        """Documents changed after `since`, in the order of their last change.

        With `descending` the newest first, and `since` counts for nothing, as in CouchDB; the next
        page is `before` the last sequence of this one. Without `bodies` every body is empty, which
        saves reading them.
        """
        columns = _COLUMNS if bodies else _NO_BODY
        with self._connection(snapshot=True) as db:
            if descending:
                rows = db.execute(
                    f"SELECT {columns} FROM docs WHERE seq < ? "  # noqa: S608
                    "ORDER BY seq DESC LIMIT ?",
                    (_LARGEST if before is None else before, limit),
                )
            else:
                rows = db.execute(
                    f"SELECT {columns} FROM docs WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608
                    (since, limit),
                )
            documents, size = _filled(rows)
            complete = len(documents) < limit and size <= PAGE_BYTES
            last = documents[-1].seq if documents else since
            pending = 0
            if not complete and not descending:
                pending = _pending(db, last)
            elif not descending:
                last = max(last, _floor(db))
        return ChangesPage(documents, last, pending, complete, size)

    def changes_of(
        self,
        ids: Sequence[str],
        since: int,
        *,
        descending: bool = False,
        before: int | None = None,
        bodies: bool = True,
    ) -> ChangesPage:
        """The same of some documents (500 at most), without reading the others.

        `pending` counts these documents' changes only.
        """
        columns = _COLUMNS if bodies else _NO_BODY
        marks = ",".join("?" * len(ids))
        one = f"SELECT {columns} FROM docs WHERE seq = ?"  # noqa: S608
        with self._connection(snapshot=True) as db:
            found = db.execute(f"SELECT seq FROM docs WHERE id IN ({marks})", ids)  # noqa: S608
            seqs = sorted((seq for (seq,) in found), reverse=descending)
            low, high = (0, before or _LARGEST) if descending else (since, _LARGEST)
            seqs = [seq for seq in seqs if low < seq < high]
            documents, size = _filled(db.execute(one, (seq,)).fetchone() for seq in seqs)
            pending = len(seqs) - len(documents)
            last = documents[-1].seq if documents else since
            if not pending and not descending:
                last = max(last, _newest(db), _floor(db))
        return ChangesPage(documents, last, pending, pending == 0, size)

    def urgent(self, since: int, *, limit: int) -> list[StoredDocument]:
        """Documents with `"urgent": true` that changed after `since`, in that order.

        As many as fill a page, with their bodies; none when there are no more.
        """
        sql = f"SELECT {_COLUMNS} FROM docs WHERE {_URGENT} ORDER BY seq LIMIT ?"  # noqa: S608
        with self._connection() as db:
            return _filled(db.execute(sql, (since, limit)))[0]

    def count_urgent(self, since: int) -> int:
        """How many documents with `"urgent": true` changed after `since`."""
        with self._connection() as db:
            sql = f"SELECT count(*) FROM docs WHERE {_URGENT}"  # noqa: S608
            return int(db.execute(sql, (since,)).fetchone()[0])

    def pending(self, since: int) -> int:
        """How many changes there are after `since`; an upper bound from 2,000 on."""
        with self._connection() as db:
            return _pending(db, since)

    def all_docs(
        self,
        *,
        start: str | None = None,
        inclusive_start: bool = True,
        end: str | None = None,
        inclusive_end: bool = True,
        descending: bool = False,
        skip: int = 0,
        limit: int,
        bodies: bool = True,
    ) -> DocumentsPage:
        """Live documents in the order of their ids (by code point), `start` and `end` included.

        The next page begins behind the last one of this: at its id, without `inclusive_start`.
        Without `bodies` every body is empty, which saves reading them.
        """
        where, parameters = _bounds(start, inclusive_start, end, inclusive_end, descending)
        order = "DESC" if descending else "ASC"
        columns = _COLUMNS if bodies else _NO_BODY
        sql = (
            f"SELECT {columns} FROM docs WHERE NOT deleted AND {where} "  # noqa: S608
            f"ORDER BY id {order} LIMIT ? OFFSET ?"
        )
        with self._connection() as db:
            documents, size = _filled(db.execute(sql, [*parameters, limit, skip]))
        return DocumentsPage(documents, len(documents) < limit and size <= PAGE_BYTES)

    def rank(self, id: str, *, after: str = "") -> int:
        """How many live documents come before `id`, from `after` on (the `offset` of _all_docs)."""
        with self._connection() as db:
            count = db.execute(
                "SELECT count(*) FROM docs WHERE id >= ? AND id < ? AND NOT deleted", (after, id)
            ).fetchone()[0]
        return int(count)

    def locals(
        self,
        *,
        start: str | None = None,
        inclusive_start: bool = True,
        end: str | None = None,
        inclusive_end: bool = True,
        descending: bool = False,
        skip: int = 0,
        limit: int,
    ) -> DocumentsPage:
        """`_local` documents in the order of their ids, which are without `_local/`."""
        where, parameters = _bounds(start, inclusive_start, end, inclusive_end, descending)
        sql = (
            "SELECT 0, id, 0, CAST(rev AS TEXT), 0, 0, body, NULL, NULL "  # noqa: S608
            f"FROM local WHERE {where} "
            f"ORDER BY id {'DESC' if descending else 'ASC'} LIMIT ? OFFSET ?"
        )
        with self._connection() as db:
            documents, size = _filled(db.execute(sql, [*parameters, limit, skip]))
        return DocumentsPage(documents, len(documents) < limit and size <= PAGE_BYTES)

    def chunks(self, blob: str, upload: int | None, first: int, count: int) -> list[bytes]:
        """Up to `count` chunks of an attachment's content, from number `first` on.

        `upload` is the key of what is not stored for good yet. Raises NotFoundError.
        """
        with self._connection() as db:
            return read_chunks(db, blob, upload, first, count)

    def attachments(self, id: str) -> list[Attachment]:
        """The attachments of all revisions of a document whose bodies are here."""
        with self._connection() as db:
            rows = db.execute(
                "SELECT attachments FROM docs WHERE id = ?1 AND attachments IS NOT NULL UNION ALL "
                "SELECT attachments FROM revisions WHERE id = ?1 AND attachments IS NOT NULL",
                (id,),
            ).fetchall()
        return [found for (text,) in rows for found in attachments_from_store(text)]

    def has_content(self, blob: str) -> bool:
        """Whether there is content with this SHA-256 (in hex)."""
        with self._connection() as db:
            sql = "SELECT 1 FROM blobs WHERE sha256 = ?"
            return db.execute(sql, (bytes.fromhex(blob),)).fetchone() is not None

    def local(self, id: str) -> tuple[str, str] | None:
        """The revision and the body of `_local/{id}`."""
        with self._connection() as db:
            row = db.execute("SELECT rev, body FROM local WHERE id = ?", (id,)).fetchone()
        return (f"0-{row[0]}", row[1]) if row else None

    def parts(self, device: str) -> list[tuple[str, str]]:
        """A device's parts of documents, in order: the documents' ids, and bodies."""
        sql = "SELECT document, body FROM parts WHERE device = ? ORDER BY place"
        with self._connection() as db:
            return db.execute(sql, (device,)).fetchall()

    def devices_with_parts(self) -> list[str]:
        """The devices that have parts of documents."""
        with self._connection() as db:
            return [name for (name,) in db.execute("SELECT DISTINCT device FROM parts")]


def _bounds(
    start: str | None,
    inclusive_start: bool,
    end: str | None,
    inclusive_end: bool,
    descending: bool,
) -> tuple[str, list[str]]:
    """The condition on `id` that a range of ids means, and its parameters."""
    conditions = ["1"]
    parameters = []
    for bound, inclusive, operator in (
        (start, inclusive_start, "<" if descending else ">"),
        (end, inclusive_end, ">" if descending else "<"),
    ):
        if bound is not None:
            conditions.append(f"id {operator}{'=' if inclusive else ''} ?")
            parameters.append(bound)
    return " AND ".join(conditions), parameters


def _possible_ancestors(document: StoredDocument | None, lacking: Sequence[str]) -> list[Rev]:
    generation = max((rev.generation for text in lacking if (rev := _parsed(text))), default=0)
    leaves = document.leaves() if document is not None else []
    return [leaf for leaf in leaves if leaf.generation < generation]


def _newest(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(seq), 0) FROM docs").fetchone()[0])


def _floor(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (SEQ_FLOOR,)).fetchone()
    return int(row[0]) if row else 0


def _documents(
    db: sqlite3.Connection, ids: Sequence[str], *, body: bool = True, most: int | None = None
) -> dict[str, StoredDocument]:
    columns = _COLUMNS if body else _NO_BODY
    found: dict[str, StoredDocument] = {}
    size = 0
    for start in range(0, len(ids), _LOOKUP):
        part = ids[start : start + _LOOKUP]
        marks = ",".join("?" * len(part))
        rows = db.execute(f"SELECT {columns} FROM docs WHERE id IN ({marks})", part)  # noqa: S608
        for row in rows:
            found[row[1]] = _document(row)
            size += len(row[6])
            if most is not None and size > most and len(found) > 1:
                raise TooLargeError(_TOO_MUCH)
    return found


def documents_after(
    db: sqlite3.Connection, since: int, *, most_bytes: int
) -> tuple[list[StoredDocument], int]:
    """All documents that changed after `since`, in that order, and their size in bytes.

    Where that is more than `most_bytes` not all have been read.
    """
    sql = f"SELECT {_COLUMNS} FROM docs WHERE seq > ? ORDER BY seq"  # noqa: S608
    return _filled(db.execute(sql, (since,)), most_bytes)


def _filled(
    rows: Iterable[tuple[Any, ...]], most_bytes: int = PAGE_BYTES
) -> tuple[list[StoredDocument], int]:
    """The documents that fill a page; what comes after them is not read. And their size."""
    documents = []
    size = 0
    for row in rows:
        documents.append(_document(row))
        size += _size(row)
        if size > most_bytes:
            break
    return documents, size


def _size(row: tuple[Any, ...]) -> int:
    """About the bytes that a document takes."""
    return len(row[1]) + len(row[6]) + len(row[7] or b"") + len(row[8] or "")


def _document(row: tuple[Any, ...]) -> StoredDocument:
    seq, id, generation, digest, deleted, conflicts, body, tree, attachments = row
    rev = Rev(generation, digest)
    return StoredDocument(seq, id, rev, bool(deleted), conflicts, body, tree, attachments)


def _revision(db: sqlite3.Connection, document: StoredDocument | None, rev: str) -> Revision | None:
    wanted = _parsed(rev)
    if document is None or wanted is None:
        return None
    if wanted == document.rev:
        return document.revision()
    row = db.execute(
        "SELECT body, attachments FROM revisions WHERE id = ? AND gen = ? AND hash = ?",
        (document.id, *wanted),
    ).fetchone()
    if row is None:
        return None
    tree = document.tree()
    return Revision(
        document.id,
        wanted.generation,
        tree.path(wanted),
        tree.is_deleted(wanted),
        row[0],
        attachments_from_store(row[1]),
    )


def _parsed(rev: str) -> Rev | None:
    """None for what is no revision id: no document has such a revision."""
    try:
        return Rev.parse(rev)
    except ValueError:
        return None


def _pending(db: sqlite3.Connection, since: int) -> int:
    counted = db.execute(
        "SELECT count(*) FROM (SELECT 1 FROM docs WHERE seq > ? LIMIT ?)",
        (since, _COUNTED_PENDING),
    ).fetchone()[0]
    if counted < _COUNTED_PENDING:
        return int(counted)
    # Counting millions of rows for every page costs more than the page. Each document has one
    # sequence, so the distance to the newest one is what can be pending at most.
    return _newest(db) - since
