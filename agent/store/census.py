"""How many documents of each database in a folder are in conflict, without opening all of them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path

from agent.errors import StoreError, StoreWriteError
from agent.store.databases import Databases

_COUNT = "SELECT count(*) FROM docs INDEXED BY docs_conflicts WHERE conflicts > 0"

_State = tuple[int, int, int]
"""Of a file: another one after anything was written to it."""


class Census:
    """Counts conflicts. Nothing changes in a database that is closed, so it is read once."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._counted: dict[str, tuple[_State, int]] = {}

    async def take(self) -> dict[str, int]:
        """Documents in conflict by database, without those that have none or cannot be read."""
        found: dict[str, int] = {}
        for name, store in self._databases.opened().items():
            with suppress(StoreError, StoreWriteError):  # closed meanwhile, or its disk fails
                found[name] = (await store.info()).conflict_count
        found |= await asyncio.to_thread(self._closed, frozenset(found))
        return {name: count for name, count in sorted(found.items()) if count}

    def _closed(self, opened: Collection[str]) -> dict[str, int]:
        counted = {}
        for name in self._databases.names_now():
            if name not in opened:
                with suppress(OSError, sqlite3.Error):
                    counted[name] = self._of_file(name, self._databases.path(name))
        self._counted = counted
        return {name: count for name, (_, count) in counted.items()}

    def _of_file(self, name: str, path: Path) -> tuple[_State, int]:
        """Raises OSError, sqlite3.Error."""
        stat = path.stat()
        state = stat.st_ino, stat.st_size, stat.st_mtime_ns
        known = self._counted.get(name)
        if known is not None and known[0] == state:
            return known
        # Immutable, or SQLite would make files beside it; whoever opens the store now reads the
        # same, and what a crash has left in a WAL counts once it was opened.
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            return state, int(db.execute(_COUNT).fetchone()[0])
