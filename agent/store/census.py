"""How many documents of each database in a folder are in conflict, without opening all of them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path

from agent.errors import DocumentError, NotFoundError, StoreError, StoreWriteError
from agent.store.databases import Databases

_COUNT = "SELECT count(*) FROM docs INDEXED BY docs_conflicts WHERE conflicts > 0"

_State = tuple[tuple[int, int, int], ...]
"""Of a file, and of the WAL that a crash has left: another one after anything was written."""


class Census:
    """Counts conflicts. Nothing changes in a database that is closed, so it is read once."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._counted: dict[str, tuple[_State, int]] = {}

    async def take(self) -> dict[str, int]:
        """Documents in conflict by database, without those that have none or cannot be read.

        A database with a WAL that a crash has left is opened; if that fails, once.
        """
        found: dict[str, int] = {}
        for name, store in self._databases.opened().items():
            with suppress(StoreError, StoreWriteError):  # closed meanwhile, or its disk fails
                found[name] = (await store.info()).conflict_count
        counted, left = await asyncio.to_thread(self._closed, frozenset(found))
        found |= counted
        for name in left:
            with self._databases.using(name), suppress(StoreError, StoreWriteError, NotFoundError):
                found[name] = (await (await self._databases.get(name)).info()).conflict_count
        return {name: count for name, count in sorted(found.items()) if count}

    def _closed(self, opened: Collection[str]) -> tuple[dict[str, int], list[str]]:
        """As their files have it, and which of them have a WAL that was not seen before."""
        counted, left = {}, []
        for name in self._databases.names_now():
            if name not in opened:
                with suppress(OSError, DocumentError):  # deleted just now, or another program's
                    path = self._databases.path(name)
                    state = _state(path)
                    known = self._counted.get(name)
                    if known is None or known[0] != state:
                        left += [name] if len(state) > 1 else []
                        known = state, _of_file(path)
                    counted[name] = known
        self._counted = counted
        return {name: count for name, (_, count) in counted.items()}, left


def _state(path: Path) -> _State:
    """Raises OSError."""
    wal = path.with_name(path.name + "-wal")
    stats = [path.stat()]
    with suppress(FileNotFoundError):
        stats += [stat] if (stat := wal.stat()).st_size else []
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


def _of_file(path: Path) -> int:
    """0 if it cannot be read."""
    # Immutable, or SQLite would make files beside it; who opens the store now reads the same.
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True)) as db:
        return int(db.execute(_COUNT).fetchone()[0])
    return 0
