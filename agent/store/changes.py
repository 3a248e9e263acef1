"""What has changed after a sequence, in the order of the changes: queries.

Blocking, as all queries are; see `agent.store.reader`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.store.schema import SEQ_FLOOR
from agent.store.stored import COLUMNS, PAGE_BYTES, StoredDocument, columns, filled

_COUNTED_PENDING = 2_000
_URGENT = """seq > ? AND instr(body, '"urgent":true')"""
"""As the index `docs_urgent` has it."""
_LARGEST = 2**63 - 1  # of SQLite's integers


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


def changes_after(
    db: sqlite3.Connection,
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
    select = f"SELECT {columns(bodies=bodies)} FROM docs WHERE "  # noqa: S608
    if descending:
        rows = db.execute(
            select + "seq < ? ORDER BY seq DESC LIMIT ?",
            (_LARGEST if before is None else before, limit),
        )
    else:
        rows = db.execute(select + "seq > ? ORDER BY seq LIMIT ?", (since, limit))
    documents, size = filled(rows)
    complete = len(documents) < limit and size <= PAGE_BYTES
    last = documents[-1].seq if documents else since
    pending = 0
    if not complete and not descending:
        pending = pending_after(db, last)
    elif not descending:
        last = max(last, _floor(db))
    return ChangesPage(documents, last, pending, complete, size)


def changes_of(
    db: sqlite3.Connection,
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
    marks = ",".join("?" * len(ids))
    one = f"SELECT {columns(bodies=bodies)} FROM docs WHERE seq = ?"  # noqa: S608
    found = db.execute(f"SELECT seq FROM docs WHERE id IN ({marks})", ids)  # noqa: S608
    seqs = sorted((seq for (seq,) in found), reverse=descending)
    low, high = (0, before or _LARGEST) if descending else (since, _LARGEST)
    seqs = [seq for seq in seqs if low < seq < high]
    documents, size = filled(db.execute(one, (seq,)).fetchone() for seq in seqs)
    pending = len(seqs) - len(documents)
    last = documents[-1].seq if documents else since
    if not pending and not descending:
        last = max(last, _newest(db), _floor(db))
    return ChangesPage(documents, last, pending, pending == 0, size)


def pending_after(db: sqlite3.Connection, since: int) -> int:
    """How many changes there are after `since`; an upper bound from 2,000 on."""
    counted = db.execute(
        "SELECT count(*) FROM (SELECT 1 FROM docs WHERE seq > ? LIMIT ?)",
        (since, _COUNTED_PENDING),
    ).fetchone()[0]
    if counted < _COUNTED_PENDING:
        return int(counted)
    # Counting millions of rows for every page costs more than the page. Each document has one
    # sequence, so the distance to the newest one is what can be pending at most.
    return _newest(db) - since


def urgent_after(db: sqlite3.Connection, since: int, *, limit: int) -> list[StoredDocument]:
    """Documents with `"urgent": true` that changed after `since`, in that order.

    As many as fill a page, with their bodies; none when there are no more.
    """
    sql = f"SELECT {COLUMNS} FROM docs WHERE {_URGENT} ORDER BY seq LIMIT ?"  # noqa: S608
    return filled(db.execute(sql, (since, limit)))[0]


def count_urgent(db: sqlite3.Connection, since: int) -> int:
    """How many documents with `"urgent": true` changed after `since`."""
    sql = f"SELECT count(*) FROM docs WHERE {_URGENT}"  # noqa: S608
    return int(db.execute(sql, (since,)).fetchone()[0])


def _newest(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(seq), 0) FROM docs").fetchone()[0])


def _floor(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (SEQ_FLOOR,)).fetchone()
    return int(row[0]) if row else 0
