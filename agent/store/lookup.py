"""Documents and revisions that are asked for by name: queries.

Blocking, as all queries are; see `agent.store.reader`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from agent.documents.attachment import Attachment, attachments_from_store
from agent.documents.revision import Rev, Revision
from agent.errors import TooLargeError
from agent.store.stored import PAGE_BYTES, StoredDocument, columns, document_of, size_of, sound

_LOOKUP = 500
_MOST_AT_ONCE = 16 * 1024 * 1024
_TOO_MUCH = "too much to read at once; ask for fewer documents"


class MissingRevs(msgspec.Struct, frozen=True):
    """Revisions that a document lacks, and its leaves that may be ancestors of them."""

    revs: list[str]
    possible_ancestors: list[Rev]


def documents_of(
    db: sqlite3.Connection, ids: Sequence[str], *, bounded: bool = False
) -> dict[str, StoredDocument]:
    """Those of `ids` that exist, tombstones included.

    With `bounded` raises TooLargeError when several together exceed 16 MiB.
    """
    return _documents(db, ids, most=_MOST_AT_ONCE if bounded else None)


def first_documents(
    db: sqlite3.Connection, ids: Sequence[str], *, bodies: bool = True
) -> dict[str, StoredDocument | None]:
    """A page of `ids`, from the first on: each document, or None where there is none.

    Tombstones are included. Without `bodies` every body is empty.
    """
    sql = f"SELECT {columns(bodies=bodies)} FROM docs WHERE id = ?"  # noqa: S608
    found: dict[str, StoredDocument | None] = {}
    size = 0
    for id in ids:
        row = db.execute(sql, (id,)).fetchone()
        found[id] = row and document_of(row)
        size += size_of(row) if row else 0
        if size > PAGE_BYTES:
            break
    return found


def revisions_of(
    db: sqlite3.Connection,
    wanted: Sequence[tuple[str, Sequence[str]]],
    *,
    bounded: bool = False,
) -> list[list[tuple[str, Revision | None]]]:
    """For each `(id, revs)` each revision asked for, None where its body is not here.

    Raises TooLargeError when several documents together exceed 16 MiB, with `bounded` also when
    several revisions of one do.
    """
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


def revs_diff(db: sqlite3.Connection, revs: Mapping[str, Sequence[str]]) -> dict[str, MissingRevs]:
    """Which revisions are not in the documents' trees (CouchDB's _revs_diff)."""
    found = _documents(db, list(revs), bodies=False)
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


def attachments_of(db: sqlite3.Connection, id: str) -> list[Attachment]:
    """The attachments of all revisions of a document whose bodies are here."""
    rows = db.execute(
        "SELECT attachments FROM docs WHERE id = ?1 AND attachments IS NOT NULL UNION ALL "
        "SELECT attachments FROM revisions WHERE id = ?1 AND attachments IS NOT NULL",
        (id,),
    )
    return [found for (text,) in rows for found in attachments_from_store(text)]


def _documents(
    db: sqlite3.Connection, ids: Sequence[str], *, bodies: bool = True, most: int | None = None
) -> dict[str, StoredDocument]:
    select = f"SELECT {columns(bodies=bodies)} FROM docs WHERE id IN "  # noqa: S608
    found: dict[str, StoredDocument] = {}
    size = 0
    for start in range(0, len(ids), _LOOKUP):
        part = ids[start : start + _LOOKUP]
        marks = ",".join("?" * len(part))
        for row in db.execute(f"{select}({marks})", part):
            found[row[1]] = document_of(row)
            size += len(row[6])
            if most is not None and size > most and len(found) > 1:
                raise TooLargeError(_TOO_MUCH)
    return found


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
        sound(row[0]),
        attachments_from_store(row[1]),
    )


def _possible_ancestors(document: StoredDocument | None, lacking: Sequence[str]) -> list[Rev]:
    generation = max((rev.generation for text in lacking if (rev := _parsed(text))), default=0)
    leaves = document.leaves() if document is not None else []
    return [leaf for leaf in leaves if leaf.generation < generation]


def _parsed(rev: str) -> Rev | None:
    """None for what is no revision id: no document has such a revision."""
    try:
        return Rev.parse(rev)
    except ValueError:
        return None
