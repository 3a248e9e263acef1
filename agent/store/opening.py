"""How a store is opened that may be damaged."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from agent.errors import StoreDamagedError, StoreError
from agent.store.connection import (
    NONSENSE,
    StoreLock,
    failing,
    is_gone,
    look_at,
    marker,
    open_writer,
)
from agent.store.raw_file import RawFile
from agent.store.raw_pages import is_sound, numbers
from agent.store.salvage import (
    copies_of,
    note_damage,
    put_in_place,
    remove_unfinished,
    set_aside,
)
from agent.store.schema import APPLICATION_ID, SEQ_FLOOR

_EMPTY = "it is empty, and was not"
_GONE = "it is gone"
_HALF_DONE = "its copy is not in its place yet"
_MARKED = "it was found while it was open"  # a power cut has left the marker without its text
_PIECE = 1024 * 1024
_NO_WAL = (
    "its WAL is gone, and with it what was written last, unless another program has opened the file"
)
_BAD_WAL = "its WAL is damaged"
_SKIPPED = 1_000_000
"""Sequences: more than the changes that a WAL can have had."""

_BAD_HEAD = "its head makes no sense"
_BAD_DESIGN = "a design document makes no sense"
_ANY_VERSION = 100
_NOT_SQLITE = "it is no SQLite file any more"


def exists(path: Path) -> bool:
    """There is a store, or a copy of a damaged one that takes its place when it is opened."""
    return path.exists() or bool(copies_of(path))


def damage_found(path: Path) -> str | None:
    """How an open store was found to be damaged, or None."""
    try:
        return marker(path).read_text("utf-8", "replace").strip("\0") or _MARKED
    except OSError:
        return None


def damage_met(path: Path) -> str | None:
    """The same, or that its file was removed: what is written into it lasts until it is closed."""
    return _GONE if is_gone(path) else damage_found(path)


def open_checked(path: Path, lock: StoreLock, *, create: bool) -> sqlite3.Connection:
    """The writing connection of a store that was found to be sound. Blocking.

    Raises StoreDamagedError, and what `open_writer` raises.
    """
    wal = path.with_name(path.name + "-wal")
    reason = damage_found(path)
    if reason is None and copies_of(path):
        reason = _HALF_DONE
    if reason is None and lock.was_store:
        reason = None if path.exists() else _GONE
        if reason is None and path.stat().st_size == 0:
            reason = _EMPTY
    if reason is not None:
        raise StoreDamagedError(str(path), reason)
    wal_is_gone = lock.was_in_use and not wal.exists()
    in_order = not wal_is_gone and (not wal.exists() or wal.stat().st_size == 0)
    if lock.was_store and not in_order and not wal_is_gone:
        _write_again(wal)
        with RawFile(path) as file:
            if file.wal_is_damaged:
                raise StoreDamagedError(str(path), _BAD_WAL)
    try:
        connection = open_writer(path, create=create)
    except StoreError as error:
        if lock.was_store and _is_not_sqlite(error.__cause__):
            raise StoreDamagedError(str(path), _NOT_SQLITE) from error
        if lock.was_store and type(error) is StoreError and _has_bad_head(path):
            raise StoreDamagedError(str(path), _BAD_HEAD) from error
        raise
    except NONSENSE as error:
        raise StoreDamagedError(str(path), _BAD_DESIGN) from error
    try:
        look_at(connection, path, in_order=in_order)
        if wal_is_gone:
            _skip_sequences(connection)
            note_damage(path, _NO_WAL)
        lock.opened()
    except BaseException:
        connection.close()
        raise
    return connection


def open_or_salvage(path: Path, lock: StoreLock, *, create: bool) -> sqlite3.Connection:
    """As `open_checked`; a damaged store is set aside for a copy of what can be read of it."""
    try:
        if put_in_place(path):
            lock.closing()
        remove_unfinished(path)
        try:
            return open_checked(path, lock, create=create)
        except StoreDamagedError as error:
            set_aside(path, error.reason)
            lock.closing()
        return open_checked(path, lock, create=create)
    except OSError as error:
        raise failing(path, error) from error


def _skip_sequences(connection: sqlite3.Connection) -> None:
    """What was lost had sequences, which clients may have seen: none of them is used again, or who
    goes on after one would miss a change."""
    connection.execute(
        "INSERT OR REPLACE INTO meta (key, value) SELECT ?1, ?2 + max("
        "coalesce((SELECT max(seq) FROM docs), 0), "
        "coalesce((SELECT value FROM meta WHERE key = ?1), 0))",
        (SEQ_FLOOR, _SKIPPED),
    )


def _write_again(wal: Path) -> None:
    """Bring to the disk what an earlier process may have failed to.

    When an fsync fails, Linux takes the pages for written all the same: what is read of the file
    has them, the disk does not, and no later fsync writes them. SQLite would take that for
    committed, and what is written after it would be lost with it in a power cut.
    """
    try:
        file = os.open(wal, os.O_RDWR | os.O_CLOEXEC)
        try:
            place = 0
            while data := os.pread(file, _PIECE, place):
                place += os.pwrite(file, data, place)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise failing(wal, error) from error


def _has_bad_head(path: Path) -> bool:
    """Whether what SQLite refuses is no store any more, rather than one of a newer version."""
    try:
        with RawFile(path) as file:
            head = file.page(1)
    except OSError:  # what SQLite says of that is right
        return False
    if head is None or not is_sound(head):
        return True
    application, version = numbers(head)
    return application != APPLICATION_ID or not 0 < version < _ANY_VERSION


def _is_not_sqlite(error: BaseException | None) -> bool:
    return getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB"
