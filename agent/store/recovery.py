"""Brings what can be read of a damaged store into a new one.

Rows are told by their shape, as nothing else says which table a page is of. Each is checked, since
a page can be readable and wrong; then what belongs together: histories, attachments.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from agent.documents.attachment import Stored, attachments_from_store
from agent.documents.revision import Rev, Revision
from agent.documents.tree import RevTree
from agent.errors import EdgeAgentError
from agent.store.blobs import CHUNK, NUMBERS
from agent.store.connection import NONSENSE
from agent.store.raw_pages import Row, Value
from agent.store.record import RESOLUTION
from agent.store.schema import SEQ_FLOOR, SETTING
from agent.store.transaction import Transaction

_ROWS = 2000
"""In one transaction, so that the copy needs room for itself and not for as large a WAL."""

_MOST_SEQ = 2**53
"""A larger sequence or key is damage."""

_SHA256 = 32
_NONSENSE = (*NONSENSE, AttributeError, RecursionError, EdgeAgentError)

_NUMBERS_KEPT = (SEQ_FLOOR, "doc_count", "doc_del_count")
_LAST_BLOB = 2**63 // NUMBERS - 2
_RESOLUTION_KEY = re.compile(rf"{re.escape(RESOLUTION)}\d{{16}}", re.ASCII)

_json = msgspec.json.Decoder(Any)
_object = msgspec.json.Decoder(dict[str, Any])


class Recovered(NamedTuple):
    """`documents` are in the copy; `refused` could be read but are wrong or incomplete. `before` is
    how many there were, 0 if that cannot be read either."""

    documents: int
    refused: int
    before: int = 0


def recover(found: Iterable[Row], copy: sqlite3.Connection) -> Recovered:
    """`copy` is a new store. What SQLite raises, such as for a full disk, comes out."""
    refused = _insert(found, copy)
    (before,) = copy.execute(
        "SELECT sum(value) FROM meta WHERE key IN ('doc_count', 'doc_del_count')"
    ).fetchone()
    copy.execute("BEGIN IMMEDIATE")
    _drop_damaged_contents(copy)
    copy.execute("COMMIT")
    refused += _mend_histories(copy)
    refused += _adopt_leaves(copy)
    copy.execute("BEGIN IMMEDIATE")
    copy.execute(
        "DELETE FROM revisions WHERE NOT EXISTS "
        "(SELECT 1 FROM docs WHERE docs.id = revisions.id AND docs.tree IS NOT NULL)"
    )
    live, dead, newest = copy.execute(
        "SELECT count(*) FILTER (WHERE NOT deleted), count(*) FILTER (WHERE deleted), "
        "max(coalesce(max(seq), 0), coalesce((SELECT value FROM meta WHERE key = ?), 0)) FROM docs",
        (SEQ_FLOOR,),
    ).fetchone()
    copy.executemany(
        "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)",
        [(SEQ_FLOOR, newest), ("doc_count", live), ("doc_del_count", dead)],
    )
    copy.execute("COMMIT")
    return Recovered(live + dead, refused, before)


# --- rows ----------------------------------------------------------------------------------


def _insert(found: Iterable[Row], copy: sqlite3.Connection) -> int:
    """Whatever has the shape of a table's row; returns how many documents are wrong."""
    refused = 0
    copy.execute("BEGIN IMMEDIATE")
    for number, row in enumerate(found, 1):
        if row.rowid is None:
            _insert_keyed(row.values, copy)
        elif 0 < row.rowid < _MOST_SEQ or len(row.values) == 2:
            refused += _insert_numbered(row.rowid, row.values, copy)
        if number % _ROWS == 0:
            copy.execute("COMMIT")
            copy.execute("BEGIN IMMEDIATE")
    copy.execute("COMMIT")
    return refused


def _insert_keyed(values: tuple[Value, ...], copy: sqlite3.Connection) -> None:
    match values:
        case (str(key), str(value)) if (
            key.startswith(SETTING) or _RESOLUTION_KEY.fullmatch(key)
        ) and _is_json(value):
            copy.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)
        case (str(key), int(value)) if key in _NUMBERS_KEPT and 0 <= value < _MOST_SEQ:
            copy.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)
        case (str(id), int(), str(body)) if id and _is_object(body):
            copy.execute(
                "INSERT INTO local (id, rev, body) VALUES (?, ?, ?) ON CONFLICT (id) "
                "DO UPDATE SET rev = excluded.rev, body = excluded.body WHERE excluded.rev > rev",
                values,
            )


def _insert_numbered(rowid: int, values: tuple[Value, ...], copy: sqlite3.Connection) -> bool:
    """Whether it is a document that is wrong."""
    match values:
        case (None, str(id), gen, digest, deleted, conflicts, body, tree, *attachments) if (
            len(attachments) < 2
        ):
            attached = attachments[0] if attachments else None
            whole = _is_revision(id, gen, digest, body) and _is_tree(tree, attached)
            if not whole or not isinstance(conflicts, int):
                return True
            # A page that was in use once may have an older state of the document. Of two documents
            # with one sequence one has a damaged one.
            copy.execute(
                "INSERT OR REPLACE INTO docs "
                "(seq, id, gen, hash, deleted, conflicts, body, tree, attachments) "
                "SELECT CASE WHEN EXISTS (SELECT 1 FROM docs WHERE seq = ?1 AND id <> ?2) "
                "THEN (SELECT max(seq) + 1 FROM docs) ELSE ?1 END, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 "
                "WHERE NOT EXISTS (SELECT 1 FROM docs WHERE id = ?2 AND seq > ?1)",
                (rowid, id, gen, digest, bool(deleted), conflicts, body, tree, attached),
            )
        case (str(id), gen, digest, deleted, leaf, body, *attachments) if len(attachments) < 2:
            attached = attachments[0] if attachments else None
            if _is_revision(id, gen, digest, body) and _is_tree(None, attached):
                copy.execute(
                    "INSERT OR IGNORE INTO revisions "
                    "(id, gen, hash, deleted, leaf, body, attachments) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (id, gen, digest, bool(deleted), bool(leaf), body, attached),
                )
        case (None, str(device), str(document), str(body)) if document and _is_object(body):
            copy.execute(
                "INSERT OR IGNORE INTO parts VALUES (?, ?, ?, ?)", (rowid, device, document, body)
            )
        case (None, bytes(digest), int(length)) if (
            len(digest) == _SHA256 and 0 <= rowid <= _LAST_BLOB
        ):
            copy.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", (rowid, digest, length))
        case (None, bytes(data)) if rowid >= 0 and len(data) <= CHUNK:
            copy.execute("INSERT OR IGNORE INTO chunks VALUES (?, ?)", (rowid, data))
    return False


def _is_revision(id: str, gen: Value, digest: Value, body: Value) -> bool:
    return (
        bool(id)
        and isinstance(gen, int)
        and gen > 0
        and isinstance(digest, str)
        and bool(digest)
        and isinstance(body, str)
        and _is_object(body)
    )


def _is_tree(tree: Value, attachments: Value) -> bool:
    return isinstance(tree, bytes | None) and isinstance(attachments, str | None)


def _is_object(text: str) -> bool:
    return _decodes(_object, text)


def _is_json(text: str) -> bool:
    return _decodes(_json, text)


def _decodes(decoder: msgspec.json.Decoder[Any], text: str) -> bool:
    try:
        decoder.decode(text)
    except (msgspec.DecodeError, RecursionError):  # deeper than whatever was written
        return False
    return True


# --- what belongs together -----------------------------------------------------------------


def _drop_damaged_contents(copy: sqlite3.Connection) -> None:
    """Leaves the contents of attachments of which every byte is right."""
    for blob, expected, length in copy.execute("SELECT id, sha256, length FROM blobs").fetchall():
        digest, size = hashlib.sha256(), 0
        ends = (blob * NUMBERS, (blob + 1) * NUMBERS)
        for (data,) in copy.execute(
            "SELECT data FROM chunks WHERE place >= ? AND place < ? ORDER BY place", ends
        ):
            digest.update(data)
            size += len(data)
        if size != length or digest.digest() != expected:
            copy.execute("DELETE FROM blobs WHERE id = ?", (blob,))
    copy.execute(
        "DELETE FROM chunks WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE id = place / ?)",
        (NUMBERS,),
    )


class _Leaf(NamedTuple):
    deleted: bool
    leaf: bool
    body: str
    attachments: str | None


def _mend_histories(copy: sqlite3.Connection) -> int:
    """Documents with a history or attachments of which not everything is there begin anew with
    those leaves that are whole: the others are unknown then, so replication asks for them.

    Returns how many had none.
    """
    last = copy.execute("SELECT max(seq) FROM docs").fetchone()[0]
    after = refused = 0
    while rows := copy.execute(
        "SELECT seq, id, gen, hash, deleted, conflicts, body, tree, attachments FROM docs "
        "WHERE seq > ? AND seq <= ? "
        "AND (tree IS NOT NULL OR attachments IS NOT NULL OR conflicts <> 0) "
        "ORDER BY seq LIMIT ?",
        (after, last, _ROWS),
    ).fetchall():
        after = rows[-1][0]
        copy.execute("BEGIN IMMEDIATE")
        transaction = Transaction(copy)
        for _, id, gen, digest, deleted, conflicts, body, tree, attachments in rows:
            bodies = {
                Rev(gen, digest): _Leaf(*content)
                for gen, digest, *content in copy.execute(
                    "SELECT gen, hash, deleted, leaf, body, attachments FROM revisions "
                    "WHERE id = ?",
                    (id,),
                )
            }
            winner = Rev(gen, digest)
            bodies[winner] = _Leaf(bool(deleted), True, body, attachments)
            known = _tree(tree, Revision(id, gen, (digest,), bool(deleted), body))
            if known is not None and _is_sound(known, winner, conflicts, bodies, copy):
                continue
            copy.execute("DELETE FROM docs WHERE id = ?", (id,))
            copy.execute("DELETE FROM revisions WHERE id = ?", (id,))
            whole = [] if known is None else _whole(id, known, bodies, copy)
            refused += not whole or not _graft(transaction, whole, copy)
        copy.execute("COMMIT")
    return refused


def _tree(tree: bytes | None, alone: Revision) -> RevTree | None:
    """None if it is damaged."""
    if tree is None:
        return RevTree.of(alone)
    try:
        known = RevTree.decode(tree)
        known.leaves()  # compares what has to be comparable
    except _NONSENSE:
        return None
    return known


def _adopt_leaves(copy: sqlite3.Connection) -> int:
    """A side of a conflict whose document is lost is a document then, until the rest comes back.

    Returns how many could not be read completely.
    """
    refused = 0
    copy.execute("BEGIN IMMEDIATE")
    transaction = Transaction(copy)
    for id, gen, digest, body, attachments in copy.execute(
        "SELECT id, gen, hash, body, attachments FROM revisions WHERE leaf AND NOT deleted "
        "AND NOT EXISTS (SELECT 1 FROM docs WHERE docs.id = revisions.id)"
    ).fetchall():
        copy.execute(
            "DELETE FROM revisions WHERE id = ? AND gen = ? AND hash = ?", (id, gen, digest)
        )
        if not _has_contents(attachments, copy):
            refused += 1
            continue
        leaf = Revision(id, gen, (digest,), False, body, attachments_from_store(attachments))
        refused += not _graft(transaction, [leaf], copy)
    copy.execute("COMMIT")
    return refused


def _is_sound(
    known: RevTree,
    winner: Rev,
    conflicts: object,
    bodies: Mapping[Rev, _Leaf],
    copy: sqlite3.Connection,
) -> bool:
    leaves = known.leaves()
    return (
        leaves[:1] == [winner]
        and {rev for rev, body in bodies.items() if body.leaf} == set(leaves)
        and conflicts == sum(not known.is_deleted(leaf) for leaf in leaves[1:])
        and all(
            rev in known
            and bool(body.deleted) == known.is_deleted(rev)
            and _has_contents(body.attachments, copy)
            for rev, body in bodies.items()
        )
    )


def _whole(
    id: str, known: RevTree, bodies: Mapping[Rev, _Leaf], copy: sqlite3.Connection
) -> list[Revision]:
    """The leaves of which the body and every attachment is there."""
    return [
        Revision(
            id,
            leaf.generation,
            known.path(leaf),
            known.is_deleted(leaf),
            bodies[leaf].body,
            attachments_from_store(bodies[leaf].attachments),
        )
        for leaf in known.leaves()
        if leaf in bodies and _has_contents(bodies[leaf].attachments, copy)
    ]


def _graft(transaction: Transaction, revisions: list[Revision], copy: sqlite3.Connection) -> bool:
    copy.execute("SAVEPOINT document")
    state = transaction.checkpoint()
    try:
        transaction.graft(revisions)
    except EdgeAgentError:
        copy.execute("ROLLBACK TO document")
        transaction.restore(state)
        return False
    finally:
        copy.execute("RELEASE document")
    return True


def _has_contents(attachments: str | None, copy: sqlite3.Connection) -> bool:
    try:
        blobs = [
            bytes.fromhex(attachment.content.blob)
            for attachment in attachments_from_store(attachments)
            if isinstance(attachment.content, Stored)
        ]
    except _NONSENSE:
        return False
    return all(
        copy.execute("SELECT 1 FROM blobs WHERE sha256 = ?", (blob,)).fetchone() for blob in blobs
    )
