"""SQLite connections to a store file: how they are opened, and what their errors mean."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from agent.documents.tree import DamagedTreeError
from agent.durable import sync_folder
from agent.errors import (
    NotFoundError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFilesError,
    StoreWriteError,
)
from agent.store import schema
from agent.store.blobs import remove_uploads
from agent.store.info import read_info, read_settings
from agent.store.mango_index import synchronise
from agent.store.raw_pages import PAGE_SIZE
from agent.store.selector_sql import register_functions

_WRITER_CACHE_KIB = 4096
_READER_CACHE_KIB = 256
"""For each of several readers, which the system's cache serves as fast; it is always full."""

_NO_MORE_FILES = frozenset({errno.EMFILE, errno.ENFILE})
_FILES_OF_A_STORE = 8
_TOO_MANY_FILES = (
    "{}: too many files are open in this process; raise its limit (ulimit -n, or LimitNOFILE= in "
    "the systemd unit)"
)


_NO_TEXT = "Could not decode to UTF-8"
"""The `sqlite3` module's words: what was a text in a row is none. It goes on with that text, which
is nobody's business: documents of `_replicator` have passwords in them."""

_BAD_TEXT = "a text in it is not UTF-8 any more"
_BAD_SCHEMA = "its schema makes no sense"
_BAD_JSON = "a text in it makes no sense as JSON"
_BAD_TREE = "the history of a document makes no sense"
_NONSENSE_IN_SQL = {
    "malformed JSON": _BAD_JSON,
    "no such column": _BAD_SCHEMA,
    "no such table": _BAD_SCHEMA,
}
"""How SQLite's messages begin when what is stored makes no sense; the queries are ours."""
NONSENSE = (ValueError, TypeError, LookupError)
"""What is raised when sense is made of rows that SQLite can read and that are wrong."""

_INCREMENTAL = 2
"""How SQLite calls it that unused pages are given back when they are asked for."""

_FULL = "the disk is full; free some space"
_FAILING = "the disk reports an error ({}); check the card and the system's log"

_STORE, _IN_USE = b"store", b"open"
"""Words in a lock file: the file beside it is a store; and it was not closed in order since."""

_SMALLEST_ROOM = 64 * 1024
"""Bytes; SQLite lets the index of a WAL grow by half of it."""

_CHECKED_WHOLE = 16 * 1024 * 1024
_CHECKED_ROWS = 1000
_CHECKED_CHARACTERS = 8 * 1024 * 1024


class StoreLock:
    """Keeps a second process from writing to a store; the kernel releases it if we are killed."""

    def __init__(self, store: Path) -> None:
        """Raises StoreBusyError, or StoreError where the lock file cannot be made."""
        self.path = store.with_name(store.name + ".lock")
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError as error:
            raise StoreError(
                f"{store}: the folder {store.parent} does not exist; make it, or give another path",
                path=str(store),
            ) from error
        except OSError as error:
            raise unreadable(store, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            written = os.read(self._file, 32).decode("ascii", "replace").split()
            owner = written[0] if written else "unknown"
            os.close(self._file)
            advice = (
                f"another process (pid {owner}); stop that process, or use its URL instead of the "
                "path"
            )
            if owner == str(os.getpid()):
                advice = "this process already; a store cannot be opened twice"
            raise StoreBusyError(f"{store}: in use by {advice}", path=str(store)) from None
        words = os.read(self._file, 64).split()
        self.was_store = _STORE in words
        """The file was a store when it was open the last time."""
        self.was_in_use = _IN_USE in words
        """It was not closed in order, so there has to be a WAL."""
        try:
            self._write(self.was_store, self.was_in_use)
        except StoreError:
            self.release()
            raise

    def opened(self) -> None:
        """The file is a store, with a WAL: either of them is missed if it is gone later on."""
        try:
            sync_folder(self.path.parent)  # before it is said that there is a WAL
        except OSError:  # too many files are open
            self._write(True, False)
        else:
            self._write(True, True)

    def forget(self) -> None:
        """The file is about to be deleted: that it is gone will be no damage."""
        self.was_store = False
        self._write(False, False)
        os.fsync(self._file)

    def closing(self) -> bool:
        """All is in the file, so the WAL may go. Whether that could be written down."""
        self.was_in_use = False
        try:
            self._write(True, False)
            os.fsync(self._file)
        except (StoreError, OSError):
            return False
        return True

    def leaving(self) -> None:
        """The same, and nothing else will be done with the store."""
        if not self.closing():  # without a lock file the next start misses no WAL
            with suppress(OSError):
                self.path.unlink()

    def _write(self, is_store: bool, in_use: bool) -> None:
        """All at once and always as long, so that no kill leaves half of it."""
        words = (_STORE if is_store else b"", _IN_USE if in_use else b"")
        try:
            os.pwrite(self._file, b"%-10d\n%-5b\n%-5b\n" % (os.getpid(), *words), 0)
        except OSError as error:
            reason = _FULL if error.errno == errno.ENOSPC else _FAILING.format(error.strerror)
            raise StoreError(f"{self.path}: {reason}", path=str(self.path)) from error

    def release(self) -> None:
        os.close(self._file)


def open_writer(path: Path, *, create: bool) -> sqlite3.Connection:
    """The one writing connection, with the schema brought up to date.

    Raises NotFoundError (no such file and not `create`) and StoreError.
    """
    if not create and not path.exists():
        raise NotFoundError(f"{path}: no such store", reason="Database does not exist.")
    if path.exists() and not os.access(path, os.W_OK):
        raise StoreError(
            f"{path}: is read-only; give this user the right to write to it (and to its folder)",
            path=str(path),
        )
    with explained(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _check_format(connection, path)
            register_functions(connection)
            # Of a file that is there this would be written again, at each opening.
            if connection.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
                connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
                connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA busy_timeout = 5000")
            connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
            # What a savepoint may bring back is else written to a temporary file: as much again as
            # the changes themselves.
            connection.execute("PRAGMA temp_store = MEMORY")
            if connection.execute("PRAGMA user_version").fetchone()[0] < schema.SCHEMA_VERSION:
                schema.migrate(connection)
            remove_uploads(connection)
            synchronise(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection to a store that a writer has opened. Raises StoreError."""
    with explained(path, is_open=True):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB}")
        register_functions(connection)
    return connection


def _few_files_left() -> bool:
    """SQLite does not tell why it cannot open a file; it may have closed some since."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return len(list(Path("/proc/self/fd").iterdir())) + _FILES_OF_A_STORE > most
    except OSError as error:
        return error.errno in _NO_MORE_FILES


def _no_room(path: Path) -> bool:
    """SQLite calls a disk full only where it writes to the file itself."""
    try:
        return shutil.disk_usage(path.parent).free < _SMALLEST_ROOM
    except OSError:
        return False


def failing(file: Path, error: OSError) -> StoreError:
    """The disk, where what was done cannot be anything else's fault."""
    return StoreError(f"{file}: {_FAILING.format(error.strerror or error)}", path=str(file))


def unreadable(store: Path, error: OSError) -> StoreError:
    """Why what belongs to a store cannot be opened."""
    if error.errno in _NO_MORE_FILES:
        return StoreFilesError(_TOO_MANY_FILES.format(store), path=str(store))
    return StoreError(
        f"{store}: cannot be opened for writing ({error.strerror}); "
        "check the permissions and that the file system is not read-only",
        path=str(store),
    )


def is_gone(path: Path) -> bool:
    """Whether there is no file of this name; an error of the disk does not say so."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return False


def marker(path: Path) -> Path:
    """The file that says, beside a store, how it was found to be damaged."""
    return path.with_name(path.name + ".damaged")


def mark_damaged(path: Path, reason: str) -> None:
    """The next start is to deal with it."""
    with suppress(OSError):  # on a disk that cannot be written the next start finds it anew
        marker(path).write_text(reason, "utf-8")


@contextmanager
def explained(path: Path, *, is_open: bool = False) -> Iterator[None]:
    """Turns SQLite's errors into the agent's, with what to do, and so what is found to be damaged.

    With `is_open` it was a store a moment ago: that it is none any more is damage.
    """
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        damage = ("SQLITE_CORRUPT", "SQLITE_NOTADB") if is_open else "SQLITE_CORRUPT"
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")) or (
            name.startswith("SQLITE_IOERR") and _no_room(path)
        ):
            raise StoreWriteError(f"{path}: {_FULL}") from error
        if name.startswith("SQLITE_IOERR"):
            raise StoreWriteError(f"{path}: {_FAILING.format(name)}") from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise StoreWriteError(
                f"{path}: locked by another program; close what else writes to the file"
            ) from error
        if name.startswith("SQLITE_CANTOPEN") and _few_files_left():
            raise StoreFilesError(_TOO_MANY_FILES.format(path), path=str(path)) from error
        if str(error).startswith(_NO_TEXT):
            mark_damaged(path, _BAD_TEXT)
            raise StoreDamagedError(str(path), _BAD_TEXT) from None
        for words, reason in _NONSENSE_IN_SQL.items():
            if str(error).startswith(words):
                mark_damaged(path, reason)
                raise StoreDamagedError(str(path), reason) from error
        if name.startswith(damage):
            mark_damaged(path, str(error))
            raise StoreDamagedError(str(path), str(error)) from error
        if name.startswith("SQLITE_NOTADB"):
            raise StoreError(
                f"{path}: not a store (no SQLite file); give another path or move the file away",
                path=str(path),
            ) from error
        if name.startswith("SQLITE_READONLY"):
            raise StoreError(
                f"{path}: cannot be written; check the permissions of the file and its folder",
                path=str(path),
            ) from error
        raise StoreError(
            f"{path}: {error}; check the path and its permissions", path=str(path)
        ) from error
    except DamagedTreeError as error:
        mark_damaged(path, _BAD_TREE)
        raise StoreDamagedError(str(path), _BAD_TREE) from error
    except msgspec.DecodeError as error:  # what comes from outside was read before
        mark_damaged(path, _BAD_JSON)
        raise StoreDamagedError(str(path), _BAD_JSON) from error
    except UnicodeDecodeError as error:  # of SQLite's message, which has the schema in it
        mark_damaged(path, _BAD_SCHEMA)
        raise StoreDamagedError(str(path), _BAD_SCHEMA) from error


def look_at(connection: sqlite3.Connection, path: Path, *, in_order: bool) -> None:
    """Read what it says of itself, and what was written last; a small file that was not closed in
    order is checked as a whole.

    Raises StoreDamagedError, and StoreWriteError when the disk reports an error.
    """
    with explained(path, is_open=True):
        try:
            read_info(connection)
            read_settings(connection)
            for table, columns in schema.TABLES.items():
                connection.execute(f"SELECT {columns} FROM {table} LIMIT 0")  # noqa: S608
        except NONSENSE as error:
            raise StoreDamagedError(str(path), "what it says of itself makes no sense") from error
        size = connection.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        ).fetchone()[0]
        if size <= _CHECKED_WHOLE and not in_order:
            # Not `quick_check`: without its entry in an index a document would be stored twice.
            found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0]).strip()
            if found != "ok":
                raise StoreDamagedError(str(path), found)
        bad = characters = 0
        for body, is_whole in connection.execute(
            "SELECT body, typeof(body) = 'text' AND json_valid(body) AND EXISTS "
            "(SELECT 1 FROM docs AS same WHERE same.id = docs.id) "
            "FROM docs ORDER BY seq DESC LIMIT ?",
            (_CHECKED_ROWS,),
        ):
            bad += not is_whole
            characters += len(body) if is_whole else 0
            if characters > _CHECKED_CHARACTERS:
                break
        if bad:
            raise StoreDamagedError(str(path), f"{bad} of the last documents are damaged")


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application_id != schema.APPLICATION_ID:
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise StoreError(
                f"{path}: an SQLite file of another program; give another path", path=str(path)
            )
    elif version != schema.SCHEMA_VERSION and version != schema.migrated_to(connection):
        raise StoreDamagedError(str(path), f"its schema's number makes no sense: {version}")
    elif version > schema.SCHEMA_VERSION:
        raise StoreError(
            f"{path}: written by a newer version (schema {version}, this one knows "
            f"{schema.SCHEMA_VERSION}); upgrade edge-sync-agent",
            path=str(path),
        )
