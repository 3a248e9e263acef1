"""What is done about a damaged store: it is set aside, and what can be read of it is copied.

The copy is another database (its `uuid` is new), so no checkpoint of a replication counts for it:
whatever the remotes have and it lacks comes back, and the other way round.
"""

from __future__ import annotations

import glob
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.durable import sync_file, sync_folder
from agent.errors import StoreError
from agent.store.connection import mark_damaged, marker, open_writer, unreadable
from agent.store.raw_file import RawFile
from agent.store.recovery import recover

if TYPE_CHECKING:
    from agent.store.view import StoreView

log = logging.getLogger(__name__)

SALVAGED = "salvaged"
"""The `_local` document of the copy that tells what happened."""

COPY = ".salvaged-"
"""Begins what the name of a complete copy has besides the store's; it ends with the time."""

_ASIDE = ".damaged-"
_FILES = ("-shm", "-wal", "-journal", "")
_KEPT = 3
"""Damaged files of a store that stay, and notes: a card that fails would fill up otherwise."""

_LONGEST_NOTE = 500  # bytes: no SQLite file is as small


class Salvage(msgspec.Struct, frozen=True):
    """What became of a damaged store. `time` is RFC 3339, `aside` the path of the old file.

    `documents` were copied, `refused` could be read but were wrong or incomplete. `before` is how
    many the old file says that it had; 0 if nobody knows.
    """

    time: str
    reason: str
    aside: str
    documents: int
    refused: int
    before: int = 0


def set_aside(path: Path, reason: str) -> Salvage:
    """Move a damaged store away and put a copy of what is readable in its place. Blocking.

    Interrupted anywhere, it can be done again, after `put_in_place`. Raises StoreError when there
    is no room for the copy.
    """
    mark_damaged(path, reason)
    remove_unfinished(path)
    size = sum(file.stat().st_size for suffix in _FILES if (file := _beside(path, suffix)).exists())
    wanted = size + size // 8  # pages of the copy may be less full
    _make_way(path, wanted)
    _check_room(path, wanted, reason)
    stamp = _free_stamp(path)
    aside = _aside(path, stamp)
    fresh = _unfinished(path)
    log.warning("%s is damaged (%s); what can be read of it is copied", path, reason)
    with _room_wanted(path), closing(open_writer(fresh, create=True)) as copy:
        # A WAL would be as large as the copy once more, and it is of no use until it is complete.
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("PRAGMA synchronous = OFF")
        with RawFile(path) as damaged:
            found = recover(damaged.rows(), copy)
        done = Salvage(
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            reason,
            str(aside),
            *found,
        )
        copy.execute(
            "INSERT OR REPLACE INTO local (id, rev, body) VALUES (?, 1, ?)",
            (SALVAGED, msgspec.json.encode(done).decode()),
        )
    sync_file(fresh)
    fresh.rename(_beside(path, COPY + stamp))
    put_in_place(path)
    log.error(
        "%s was damaged (%s): %d of %s documents were copied, %d were wrong; the damaged file is "
        "%s, and what remotes have comes back by replication",
        path,
        reason,
        found.documents,
        found.before or "an unknown number of",
        found.refused,
        aside,
    )
    return done


def note_damage(path: Path, reason: str) -> None:
    """Say that something of a store is lost of which nothing could be set aside: in the log, and by
    a note, a small file, which the status tells of until somebody removes it."""
    log.error("%s: %s", path, reason)
    with suppress(OSError):  # on a disk that is full
        _aside(path, _free_stamp(path)).write_text(reason, "utf-8")
        for note in _earlier(path, notes=True)[:-_KEPT]:
            _remove(note)


def note_of(aside: Path) -> str | None:
    """What a note says; None for a damaged file."""
    try:
        return aside.read_text("utf-8", "replace") if _is_note(aside) else None
    except FileNotFoundError:  # removed just now
        return None


def files_aside(folder: Path, stores: str) -> list[Path]:
    """The damaged files in a folder, and notes, of the stores that a pattern names; of each store
    the oldest first."""
    found = folder.glob(f"{stores}{_ASIDE}*")
    return sorted(file for file in found if not file.name.endswith(_FILES[:-1]))


def copies_of(path: Path) -> list[Path]:
    """The complete copy of a damaged store, until it has the store's name. Raises StoreError."""
    try:
        return list(path.parent.glob(glob.escape(path.name + COPY) + "*"))
    except OSError as error:
        raise unreadable(path, error) from error


def put_in_place(path: Path) -> bool:
    """Exchange a damaged store for its copy, if there is one that is complete.

    As long as the copy has its own name, this was not done to the end. Returns whether there was.
    """
    done = False
    for copy in copies_of(path):
        sync_folder(path.parent)
        aside = _aside(path, copy.name.removeprefix(path.name + COPY))
        for suffix in ("-shm", "-wal"):
            if _beside(path, suffix).exists():
                _beside(path, suffix).rename(_beside(aside, suffix))
        if not aside.exists():
            _keep(path, aside)
        marker(path).unlink(missing_ok=True)  # never beside the copy, which is sound
        sync_folder(path.parent)
        copy.rename(path)
        sync_folder(path.parent)
        done = True
    return done


async def salvaged(store: StoreView) -> Salvage | None:
    """What was done when the store was made of a damaged one, or None."""
    found = await store.get_local(SALVAGED)
    if found is None:
        return None
    # Members of a database may write what they like into `_local` documents.
    try:
        return msgspec.json.decode(found[1], type=Salvage)
    except msgspec.DecodeError:
        return None


def remove_unfinished(path: Path) -> None:
    """What a copy that was interrupted has left, which may be the very room that is missing."""
    _remove(_unfinished(path))


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.salvaging")


def _make_way(path: Path, wanted: int) -> None:
    """Remove the oldest of the files that were set aside before: all but a few, and more where
    otherwise so many bytes are not free. What could be read in them was copied then."""
    earlier = _earlier(path, notes=False)
    while earlier and (len(earlier) >= _KEPT or shutil.disk_usage(path.parent).free < wanted):
        oldest = earlier.pop(0)
        _remove(oldest)
        log.warning("%s: removed, to have room for a copy of the store, which is damaged", oldest)


def _earlier(path: Path, *, notes: bool) -> list[Path]:
    """Either the notes about a store or its damaged files, the oldest first; with a WAL, all that
    is left of a store that was gone, a note takes as much room as those."""
    aside = files_aside(path.parent, glob.escape(path.name))
    return [
        file for file in aside if (_is_note(file) and not _beside(file, "-wal").exists()) == notes
    ]


def _is_note(aside: Path) -> bool:
    return aside.stat().st_size < _LONGEST_NOTE


def _remove(file: Path) -> None:
    for suffix in _FILES:
        _beside(file, suffix).unlink(missing_ok=True)


def _check_room(path: Path, wanted: int, reason: str) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < wanted:
        raise StoreError(
            f"{path}: the file is damaged ({reason}), and to copy what is readable "
            f"{-(-wanted // 2**20)} MiB have to be free, not {free // 2**20}; free some space, or "
            "move the folder to a larger disk, and start the agent again",
            path=str(path),
        )


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


def _keep(path: Path, aside: Path) -> None:
    """A second name, so that there is a store at any moment.

    Of a store that is gone a note tells.
    """
    if not path.exists():
        aside.write_text("it is gone", "utf-8")
        return
    try:
        aside.hardlink_to(path)
    except OSError:  # not every file system has that
        path.rename(aside)


def _free_stamp(path: Path) -> str:
    """The time, with a number if there is a file of that: a clock may begin anew at each start."""
    stamp = now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    number = 1
    while any(_beside(_aside(path, stamp), suffix).exists() for suffix in _FILES):
        number += 1
        stamp = f"{now}-{number}"
    return stamp


def _aside(path: Path, stamp: str) -> Path:
    return path.with_name(f"{path.name}{_ASIDE}{stamp}")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
