"""What is done about a damaged store: it is set aside, and what can be read of it is copied.

The copy is another database (its `uuid` is new), so no checkpoint of a replication counts for it:
whatever the remotes have and it lacks comes back, and the other way round. Rows are copied one by
one where a scan meets a damaged page, from both ends and then by number; each document is checked,
since a page can be readable and wrong.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agent.documents.attachment import Stored, attachments_from_store
from agent.documents.revision import Rev, Revision
from agent.documents.tree import RevTree
from agent.errors import EdgeAgentError, StoreError
from agent.store.connection import open_writer
from agent.store.schema import SEQ_FLOOR, SETTING
from agent.store.transaction import Transaction

if TYPE_CHECKING:
    from agent.store.store import Store

log = logging.getLogger(__name__)

SALVAGED = "salvaged"
"""The `_local` document of the copy that tells what happened."""

_ROWS = 500
_MOST_TRIED = 10_000_000
"""Rows between two damaged places that are looked for by number."""

_FILES = ("", "-wal", "-shm", "-journal")
_KEPT = 3
"""Damaged files of a store that stay: a card that fails would fill up with them otherwise."""

_json = msgspec.json.Decoder(dict[str, Any])


class Salvage(msgspec.Struct, frozen=True):
    """What became of a damaged store. `time` is RFC 3339, `aside` the path of the old file.

    `documents` were copied, `refused` could be read but were wrong or incomplete. How many could
    not be read nobody knows.
    """

    time: str
    reason: str
    aside: str
    documents: int
    refused: int


def set_aside(path: Path, reason: str) -> Salvage:
    """Move a damaged store away and put a copy of what is readable in its place. Blocking.

    Interrupted anywhere, it can be done again: the old file is moved when the copy is complete.
    Raises StoreError, also when there is no room for the copy.
    """
    remove_unfinished(path)
    size = path.stat().st_size if path.exists() else 0
    wanted = size + size // 8
    _make_way(path, wanted)
    free = shutil.disk_usage(path.parent).free
    if free < wanted:
        raise StoreError(
            f"{path}: the file is damaged ({reason}), and to copy what is readable {size // 2**20} "
            f"MiB have to be free, not {free // 2**20}; free some space and start the agent again",
            path=str(path),
        )
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    fresh = _unfinished(path)
    with _room_wanted(path), closing(open_writer(fresh, create=True)) as copy:
        # A WAL would be as large as the copy once more, and it is of no use until it is complete.
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("PRAGMA synchronous = OFF")
        documents, refused = _copy(path, copy) if size else (0, 0)
        done = Salvage(
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            reason,
            str(aside),
            documents,
            refused,
        )
        copy.execute(
            "INSERT OR REPLACE INTO local (id, rev, body) VALUES (?, 1, ?)",
            (SALVAGED, msgspec.json.encode(done).decode()),
        )
    _sync(fresh)
    for suffix in _FILES:
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.rename(aside.with_name(aside.name + suffix))
    fresh.rename(path)
    _sync(path.parent)
    log.error(
        "%s was damaged (%s): %d documents were copied, %d were wrong; the damaged file is %s, and "
        "what remotes have comes back by replication",
        path,
        reason,
        documents,
        refused,
        aside,
    )
    return done


def remove_unfinished(path: Path) -> None:
    """What a copy that was interrupted has left, which may be the very room that is missing."""
    _remove(_unfinished(path))


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.salvaging")


def _make_way(path: Path, wanted: int) -> None:
    """Remove the oldest of the files that were set aside before: all but a few, and more where
    otherwise so many bytes are not free. What could be read in them was copied then."""
    names = f"{path.name}.damaged-"
    earlier = sorted(
        file
        for file in path.parent.iterdir()
        if file.name.startswith(names) and not file.name.endswith(_FILES[1:])
    )
    while earlier and (len(earlier) >= _KEPT or shutil.disk_usage(path.parent).free < wanted):
        oldest = earlier.pop(0)
        _remove(oldest)
        log.warning("%s: removed, to have room for a copy of the store, which is damaged", oldest)


def _remove(file: Path) -> None:
    for suffix in _FILES:
        file.with_name(file.name + suffix).unlink(missing_ok=True)


@contextmanager
def _room_wanted(path: Path) -> Iterator[None]:
    """A disk that others have filled while the copy was made is an error to be explained."""
    try:
        yield
    except sqlite3.OperationalError as error:
        remove_unfinished(path)
        if error.sqlite_errorname != "SQLITE_FULL":
            raise
        raise StoreError(
            f"{path}: the file is damaged, and the disk is full before what is readable could be "
            "copied; free some space and start the agent again",
            path=str(path),
        ) from None


async def salvaged(store: Store) -> Salvage | None:
    """What was done when the store was made of a damaged one, or None."""
    found = await store.get_local(SALVAGED)
    return None if found is None else msgspec.json.decode(found[1], type=Salvage)


def _copy(path: Path, copy: sqlite3.Connection) -> tuple[int, int]:
    """Copies what can be read. Returns how many documents that were, and how many were wrong."""
    damaged = sqlite3.connect(path, isolation_level=None)
    with closing(damaged):
        try:
            damaged.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.DatabaseError:
            return 0, 0  # not even the first page
        copy.execute("BEGIN IMMEDIATE")
        for key, value in _texts(damaged, "meta", "key, value", "key"):
            if isinstance(key, str) and key.startswith(SETTING):
                copy.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        for id, rev, body in _texts(damaged, "local", "id, rev, body", "id"):
            if isinstance(id, str) and isinstance(rev, int) and _is_object(body):
                copy.execute("INSERT OR IGNORE INTO local VALUES (?, ?, ?)", (id, rev, body))
        _copy_contents(damaged, copy)
        copied, refused, histories = _copy_readings(damaged, copy)
        for row in _numbered(damaged, "parts", "place, device, document, body", "place"):
            if _is_object(row[3]):
                copy.execute("INSERT OR IGNORE INTO parts VALUES (?, ?, ?, ?)", row)
        copy.execute("COMMIT")
        for seq in histories:
            written = _copy_history(damaged, copy, seq)
            copied, refused = copied + written, refused + (not written)
        return copied, refused


def _copy_readings(
    damaged: sqlite3.Connection, copy: sqlite3.Connection
) -> tuple[int, int, list[int]]:
    """Documents with one revision, as they stand; the sequences of all others are returned."""
    copied = refused = newest = live = dead = 0
    histories: list[int] = []
    columns = f"seq, id, gen, hash, deleted, body, {_attachments(damaged)}, tree IS NOT NULL"
    for seq, id, gen, digest, deleted, body, attachments, edited in _numbered(
        damaged, "docs", columns, "seq"
    ):
        newest = max(newest, seq)
        if edited or attachments is not None:
            histories.append(seq)
            continue
        good = isinstance(id, str) and isinstance(gen, int) and isinstance(digest, str)
        if not good or not id or not _is_object(body):
            refused += 1
            continue
        row = (seq, id, gen, digest, bool(deleted), body)
        written = copy.execute(
            "INSERT OR IGNORE INTO docs (seq, id, gen, hash, deleted, conflicts, body) "
            "VALUES (?, ?, ?, ?, ?, 0, ?)",
            row,
        ).rowcount
        copied += written
        live, dead = live + (written and not deleted), dead + (written and bool(deleted))
    copy.executemany(
        "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)",
        [(SEQ_FLOOR, newest), ("doc_count", live), ("doc_del_count", dead)],
    )
    return copied, refused, histories


def _copy_history(damaged: sqlite3.Connection, copy: sqlite3.Connection, seq: int) -> int:
    """A document with a history or attachments: those leaves of which everything is there.

    Leaves that are not are unknown to the copy, so replication asks for them.
    """
    names = _attachments(damaged)
    try:
        id, gen, digest, deleted, body, tree, attachments = damaged.execute(
            f"SELECT id, gen, hash, deleted, body, tree, {names} FROM docs WHERE seq = ?",  # noqa: S608
            (seq,),
        ).fetchone()
        winner = Rev(gen, digest)
        bodies = {winner: (body, attachments)}
        for gen, digest, *content in damaged.execute(
            f"SELECT gen, hash, body, {names} FROM revisions WHERE id = ? AND leaf",  # noqa: S608
            (id,),
        ):
            bodies[Rev(gen, digest)] = (content[0], content[1])
    except (sqlite3.DatabaseError, TypeError):
        return 0
    try:
        known = (
            RevTree.of(Revision(id, winner.generation, (winner.hash,), bool(deleted), body))
            if tree is None
            else RevTree.decode(tree)
        )
        revisions = [
            Revision(
                id,
                leaf.generation,
                known.path(leaf),
                known.is_deleted(leaf),
                bodies[leaf][0],
                attachments_from_store(bodies[leaf][1]),
            )
            for leaf in known.leaves()
            if leaf in bodies and _is_object(bodies[leaf][0])
        ]
    except (ValueError, TypeError, KeyError, EdgeAgentError):
        return 0
    revisions = [revision for revision in revisions if _has_contents(copy, revision)]
    if not revisions:
        return 0
    copy.execute("BEGIN IMMEDIATE")
    transaction = Transaction(copy)
    try:
        transaction.graft(revisions)
    except EdgeAgentError:
        copy.execute("ROLLBACK")
        return 0
    transaction.finish()
    copy.execute("COMMIT")
    return 1


def _copy_contents(damaged: sqlite3.Connection, copy: sqlite3.Connection) -> None:
    """Contents of attachments of which every byte is right."""
    for blob, expected, length in _numbered(damaged, "blobs", "id, sha256, length", "id"):
        if expected is None:
            continue
        copy.execute("SAVEPOINT blob")
        digest, size = hashlib.sha256(), 0
        try:
            chunks = damaged.execute(
                "SELECT place, data FROM chunks WHERE place >= ? AND place < ? ORDER BY place",
                (blob * 2**24, (blob + 1) * 2**24),
            )
            copy.execute("INSERT INTO blobs VALUES (?, ?, ?)", (blob, expected, length))
            for place, data in chunks:
                digest.update(data)
                size += len(data)
                copy.execute("INSERT INTO chunks VALUES (?, ?)", (place, data))
        except (sqlite3.DatabaseError, TypeError):
            size = -1
        if size != length or digest.digest() != expected:
            copy.execute("ROLLBACK TO blob")
        copy.execute("RELEASE blob")


def _has_contents(copy: sqlite3.Connection, revision: Revision) -> bool:
    wanted = {
        attachment.content.blob
        for attachment in revision.attachments
        if isinstance(attachment.content, Stored)
    }
    return all(
        copy.execute("SELECT 1 FROM blobs WHERE sha256 = ?", (bytes.fromhex(blob),)).fetchone()
        for blob in wanted
    )


def _attachments(damaged: sqlite3.Connection) -> str:
    """The column, which a store of the first version that could not be migrated has not got."""
    columns = {row[1] for row in damaged.execute("PRAGMA table_info(docs)")}
    return "attachments" if "attachments" in columns else "NULL"


def _is_object(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        _json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
    return True


# --- reading damaged tables ------------------------------------------------------------


def _numbered(
    db: sqlite3.Connection, table: str, columns: str, key: str
) -> Iterator[tuple[Any, ...]]:
    """The rows of a table with an integer key, which is the first column, that can be read."""
    select = f"SELECT {columns} FROM {table}"  # noqa: S608
    first = 0
    for row in _scan(db, lambda after: f"{select} WHERE {key} > {after} ORDER BY {key}", 0):
        first = row[0]
        yield row
    last = first + 1
    ends = _scan(db, lambda before: f"{select} WHERE {key} < {before} ORDER BY {key} DESC", 2**62)
    for row in ends:
        if row[0] <= first:
            break
        last = row[0]
        yield row
    for number in range(first + 1, min(last, first + _MOST_TRIED)):
        try:
            found = db.execute(f"{select} WHERE {key} = {number}").fetchone()
        except sqlite3.DatabaseError:
            continue
        if found is not None:
            yield found


def _texts(db: sqlite3.Connection, table: str, columns: str, key: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a table with a text key that can be read from either end."""
    seen = set()
    for order in ("", " DESC"):
        try:
            for row in db.execute(f"SELECT {columns} FROM {table} ORDER BY {key}{order}"):  # noqa: S608
                if row[0] not in seen:
                    seen.add(row[0])
                    yield row
        except sqlite3.DatabaseError:
            continue
        return


def _scan(
    db: sqlite3.Connection, sql: Callable[[int], str], start: int
) -> Iterator[tuple[Any, ...]]:
    """Rows in pages, until the first that cannot be read; their keys go away from `start`."""
    place = start
    for limit in (_ROWS, 1):  # what is readable of the page that failed comes row by row
        try:
            while rows := db.execute(f"{sql(place)} LIMIT {limit}").fetchall():
                for row in rows:
                    if not isinstance(row[0], int) or abs(row[0] - start) <= abs(place - start):
                        return  # a b-tree that is out of order might lead in circles
                    place = row[0]
                    yield row
        except sqlite3.DatabaseError:
            continue
        return


def _sync(place: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
