"""Documents in conflict, read with all that a decision needs. Blocking: run in threads.

The partial index `docs_conflicts` finds them; a document that gets another leaf moves to its end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from time import thread_time
from typing import Any

import msgspec

from agent.documents.attachment import Attachment, attachments_from_store
from agent.documents.conflict import (
    MOST_LEAVES,
    RESOLVED_TO,
    Conflict,
    Join,
    Version,
    all_bases,
    joins_of,
    live_leaves,
    resolved_by,
    rounds_of,
)
from agent.documents.revision import Rev
from agent.documents.tree import RevTree

_PAGE_BYTES = 4 * 1024 * 1024
"""A page ends with the conflict that exceeds this."""

_PAGE_SECONDS = 0.25
"""Of processor time; so does a page then: histories may be long, and readers hold the WAL back."""

_MOST_BYTES = 16 * 1024 * 1024
"""Of the bodies of one document that are looked at."""

_MOST_TOMBSTONES = 64
"""Of one document that are looked at, the latest."""

_COLUMNS = "seq, id, gen, hash, body, tree, attachments"

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class ConflictsPage(msgspec.Struct, frozen=True):
    """`last_seq`: everything up to there has been read. `complete`: nothing was behind it."""

    conflicts: list[Conflict]
    last_seq: int
    complete: bool


def conflicts_after(db: sqlite3.Connection, seq: int, limit: int) -> ConflictsPage:
    """Conflicts in the order of the documents' last changes, from after `seq` on."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM docs INDEXED BY docs_conflicts "  # noqa: S608
        "WHERE conflicts > 0 AND seq > ? ORDER BY seq LIMIT ?",
        (seq, limit),
    )
    return _page(db, rows, seq, limit)


def conflicts_by_id(
    db: sqlite3.Connection, start: str, limit: int, *, inclusive: bool = True
) -> ConflictsPage:
    """Conflicts in the order of their ids (by code point), from `start` on."""
    # The ids first: sorting must not carry bodies along.
    ids = db.execute(
        "SELECT id FROM docs INDEXED BY docs_conflicts "  # noqa: S608
        f"WHERE conflicts > 0 AND id {'>=' if inclusive else '>'} ? ORDER BY id LIMIT ?",
        (start, limit),
    ).fetchall()
    one = f"SELECT {_COLUMNS} FROM docs WHERE id = ?"  # noqa: S608
    return _page(db, (db.execute(one, id).fetchone() for id in ids), 0, limit)


def conflict_of(db: sqlite3.Connection, id: str) -> Conflict | None:
    """The live leaves of a document, even if it is only one; None where there is none."""
    sql = f"SELECT {_COLUMNS} FROM docs WHERE id = ? AND NOT deleted"  # noqa: S608
    row = db.execute(sql, (id,)).fetchone()
    return None if row is None else _conflict(db, row)[0]


def _page(
    db: sqlite3.Connection, rows: Iterable[tuple[Any, ...]], seq: int, limit: int
) -> ConflictsPage:
    conflicts = []
    total = 0
    until = thread_time() + _PAGE_SECONDS
    complete = True
    for row in rows:
        conflict, size = _conflict(db, row)
        conflicts.append(conflict)
        seq = row[0]
        total += size
        if total > _PAGE_BYTES or thread_time() > until or len(conflicts) == limit:
            complete = False
            break
    if complete:
        seq = db.execute("SELECT coalesce(max(seq), 0) FROM docs").fetchone()[0]
    return ConflictsPage(conflicts, seq, complete)


def _conflict(db: sqlite3.Connection, row: tuple[Any, ...]) -> tuple[Conflict, int]:
    """A conflict, and the bytes of its bodies."""
    _, id, generation, digest, text, encoded, attachments = row
    winner = Rev(generation, digest)
    leaves = [Version(winner, _decode(text), attachments_from_store(attachments))]
    if encoded is None:
        return Conflict(id, (winner,), tuple(leaves)), len(text)
    tree = RevTree.decode(encoded)
    revs = tuple(live_leaves(tree))
    size = len(text)
    for rev in revs[1:MOST_LEAVES]:
        found, length = _version(db, id, rev)
        size += length
        if found is None or size > _MOST_BYTES:
            break
        leaves.append(found)
    joins = read_joins(db, id, tree, revs) if len(leaves) == len(revs) else ()
    bases: dict[Rev, Version] = {}
    for rev in all_bases(joins):
        if tree.is_deleted(rev):
            bases[rev] = Version(rev, {})
            continue
        found, length = _version(db, id, rev)
        size += length
        if found is not None:
            bases[rev] = found
    unseen = _attachments(db, id, revs[len(leaves) :])
    return Conflict(id, revs, tuple(leaves), joins, bases, rounds_of(tree), unseen), size


def read_joins(
    db: sqlite3.Connection, id: str, tree: RevTree, leaves: Sequence[Rev]
) -> tuple[Join, ...]:
    """How live leaves of a document are merged; reads what its tombstones tell.

    Nothing for more leaves than are looked at.
    """
    if len(leaves) > MOST_LEAVES:
        return ()
    told: list[tuple[Rev, object]] = []
    if len(tree.leaves()) > len(leaves):
        rows = db.execute(
            f"SELECT gen, hash, json_extract(body, '$.{RESOLVED_TO}') FROM revisions "  # noqa: S608
            "WHERE id = ? AND leaf AND deleted ORDER BY gen DESC, hash DESC LIMIT ?",
            (id, _MOST_TOMBSTONES),
        )
        told = [(Rev(generation, digest), text) for generation, digest, text in rows]
    return joins_of(tree, leaves, resolved_by(tree, told))


def _attachments(db: sqlite3.Connection, id: str, revs: Sequence[Rev]) -> tuple[Attachment, ...]:
    """Those of these leaves, in their order."""
    if not revs:
        return ()
    rows = db.execute(
        "SELECT gen, hash, attachments FROM revisions "
        "WHERE id = ? AND leaf AND attachments IS NOT NULL",
        (id,),
    )
    texts = {Rev(generation, digest): text for generation, digest, text in rows}
    return tuple(
        attachment for rev in revs for attachment in attachments_from_store(texts.get(rev))
    )


def _version(db: sqlite3.Connection, id: str, rev: Rev) -> tuple[Version | None, int]:
    row = db.execute(
        "SELECT body, attachments FROM revisions WHERE id = ? AND gen = ? AND hash = ?", (id, *rev)
    ).fetchone()
    if row is None:
        return None, 0
    return Version(rev, _decode(row[0]), attachments_from_store(row[1])), len(row[0])
