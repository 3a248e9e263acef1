"""Short ways to write revisions and edits, and to look into a store's file from outside."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from agent.documents.revision import Rev, Revision, canonical, first_revision
from agent.store.store import Store
from agent.store.stored import StoredDocument
from agent.store.transaction import Edit


def revision(
    id: str, *path: str, body: str = "{}", deleted: bool = False, generation: int | None = None
) -> Revision:
    """`revision("x", "b", "a")` is 2-b of document x, made from 1-a."""
    return Revision(id, generation or len(path), path, deleted, body)


def migrated_further(db: sqlite3.Connection, version: int) -> None:
    """Say of a store what a newer version, with migrations of its own, would say."""
    db.execute(f"PRAGMA user_version = {version}")
    db.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
        "VALUES ('edge-sync-agent', ?, '2030-01-01')",
        (f"version_{version}",),
    )
    db.commit()


def reading(number: int, **members: Any) -> Revision:
    """A document with one revision, as sensors make them."""
    return first_revision(
        f"dev:temp:{number:08}", {"type": "reading", "sequence": number, **members}
    )


def edit(id: str, parent: str | Rev | None = None, **body: Any) -> Edit:
    """A user's edit; `_deleted=True` makes it a deletion."""
    deleted = body.pop("_deleted", False)
    if isinstance(parent, str):
        parent = Rev.parse(parent)
    return Edit(id, parent, deleted, msgspec.json.encode(body).decode(), canonical(body))


async def put(store: Store, id: str, parent: str | Rev | None = None, **body: Any) -> Rev:
    """Apply an edit that must not be a conflict."""
    (rev,) = await store.edit([edit(id, parent, **body)])
    assert rev is not None
    return rev


async def get(store: Store, id: str) -> StoredDocument:
    """A document that must be there."""
    document = await store.get(id)
    assert document is not None
    return document


async def body(store: Store, id: str, rev: str | Rev) -> str | None:
    """The body of one revision."""
    (((_, found),),) = await store.revisions([(id, [str(rev)])])
    return found.body if found else None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The store's file by nothing but SQLite."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        yield connection


def rows(path: Path, sql: str) -> list[Any]:
    """What a query yields; single columns without their tuple."""
    with opened(path) as connection:
        found = connection.execute(sql).fetchall()
    return [row[0] if len(row) == 1 else row for row in found]
