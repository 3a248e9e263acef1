"""How a store is opened that may be damaged."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from agent.errors import StoreDamagedError, StoreError
from agent.store.connection import StoreLock, damage, marker, open_writer
from agent.store.salvage import remove_unfinished, set_aside

_EMPTY = "it is empty, and was not"
_GONE = "it is gone"
_NOT_SQLITE = "it is no SQLite file any more"


def damage_found(path: Path) -> str | None:
    """How an open store was found to be damaged, or None."""
    try:
        return marker(path).read_text("utf-8")
    except OSError:
        return None


def open_checked(path: Path, lock: StoreLock, *, create: bool) -> sqlite3.Connection:
    """The writing connection of a store that was found to be sound. Blocking.

    Raises StoreDamagedError, and what `open_writer` raises.
    """
    reason = damage_found(path)
    if reason is None and lock.was_store:
        reason = None if path.exists() else _GONE
        if reason is None and path.stat().st_size == 0:
            reason = _EMPTY
    if reason is not None:
        raise StoreDamagedError(str(path), reason)
    wal = path.with_name(path.name + "-wal")
    in_order = not wal.exists() or wal.stat().st_size == 0
    try:
        connection = open_writer(path, create=create)
    except StoreError as error:
        if lock.was_store and _is_not_sqlite(error.__cause__):
            raise StoreDamagedError(str(path), _NOT_SQLITE) from error
        raise
    reason = None if in_order else damage(connection)
    if reason is not None:
        connection.close()
        raise StoreDamagedError(str(path), reason)
    lock.opened()
    return connection


def open_or_salvage(path: Path, lock: StoreLock, *, create: bool) -> sqlite3.Connection:
    """As `open_checked`; a damaged store is set aside for a copy of what can be read of it."""
    remove_unfinished(path)
    try:
        return open_checked(path, lock, create=create)
    except StoreDamagedError as error:
        set_aside(path, error.reason)
        marker(path).unlink(missing_ok=True)
    return open_checked(path, lock, create=create)


def _is_not_sqlite(error: BaseException | None) -> bool:
    return getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB"
