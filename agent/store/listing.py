"""Documents in the order of their ids: queries.

Blocking, as all queries are; see `agent.store.reader`.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from agent.store.stored import PAGE_BYTES, StoredDocument, columns, filled


@dataclass(frozen=True, slots=True)
class DocumentsPage:
    """Documents in the order of their ids; `complete`: nothing came after them."""

    documents: list[StoredDocument]
    complete: bool


def all_docs(
    db: sqlite3.Connection,
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
    sql = (
        f"SELECT {columns(bodies=bodies)} FROM docs WHERE NOT deleted AND {where} "  # noqa: S608
        f"ORDER BY id {'DESC' if descending else 'ASC'} LIMIT ? OFFSET ?"
    )
    return _page(db, sql, parameters, limit, skip)


def local_docs(
    db: sqlite3.Connection,
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
    return _page(db, sql, parameters, limit, skip)


def rank(db: sqlite3.Connection, id: str, *, after: str = "") -> int:
    """How many live documents come before `id`, from `after` on (the `offset` of _all_docs)."""
    count = db.execute(
        "SELECT count(*) FROM docs WHERE id >= ? AND id < ? AND NOT deleted", (after, id)
    ).fetchone()[0]
    return int(count)


def _page(
    db: sqlite3.Connection, sql: str, parameters: list[str], limit: int, skip: int
) -> DocumentsPage:
    documents, size = filled(db.execute(sql, [*parameters, limit, skip]))
    return DocumentsPage(documents, len(documents) < limit and size <= PAGE_BYTES)


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
