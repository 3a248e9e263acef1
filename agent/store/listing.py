"""Documents in the order of their ids: queries.

Blocking, as all queries are; see `agent.store.reader`.
"""

from __future__ import annotations

import sqlite3
from typing import TypedDict, Unpack

import msgspec

from agent.store.stored import PAGE_BYTES, StoredDocument, columns, filled


class IdRange(TypedDict, total=False):
    """Ids by code point, from `start` to `end`, both included unless it is said that they are not.

    With `descending` from the highest on; then `start` is above `end`.
    """

    start: str | None
    inclusive_start: bool
    end: str | None
    inclusive_end: bool
    descending: bool


class DocumentsPage(msgspec.Struct, frozen=True):
    """Documents in the order of their ids; `complete`: nothing came after them."""

    documents: list[StoredDocument]
    complete: bool


def all_docs(
    db: sqlite3.Connection,
    *,
    skip: int = 0,
    limit: int,
    bodies: bool = True,
    **ids: Unpack[IdRange],
) -> DocumentsPage:
    """Live documents in the order of their ids.

    The next page begins behind the last one of this: at its id, without `inclusive_start`.
    Without `bodies` every body is empty, which saves reading them.
    """
    where, order, parameters = _selected(**ids)
    sql = (
        f"SELECT {columns(bodies=bodies)} FROM docs WHERE NOT deleted AND {where} "  # noqa: S608
        f"ORDER BY id {order} LIMIT ? OFFSET ?"
    )
    return _page(db, sql, parameters, limit, skip)


def local_docs(
    db: sqlite3.Connection,
    *,
    skip: int = 0,
    limit: int,
    **ids: Unpack[IdRange],
) -> DocumentsPage:
    """`_local` documents in the order of their ids, which are without `_local/`."""
    where, order, parameters = _selected(**ids)
    sql = (
        "SELECT 0, id, 0, CAST(rev AS TEXT), 0, 0, body, NULL, NULL "  # noqa: S608
        f"FROM local WHERE {where} "
        f"ORDER BY id {order} LIMIT ? OFFSET ?"
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


def _selected(
    start: str | None = None,
    inclusive_start: bool = True,
    end: str | None = None,
    inclusive_end: bool = True,
    descending: bool = False,
) -> tuple[str, str, list[str]]:
    """What a range of ids means: the condition on `id`, the order, and the parameters."""
    conditions = ["1"]
    parameters = []
    for bound, inclusive, operator in (
        (start, inclusive_start, "<" if descending else ">"),
        (end, inclusive_end, ">" if descending else "<"),
    ):
        if bound is not None:
            conditions.append(f"id {operator}{'=' if inclusive else ''} ?")
            parameters.append(bound)
    return " AND ".join(conditions), "DESC" if descending else "ASC", parameters
