"""A folder of stores, one per database."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote
from weakref import WeakValueDictionary

import msgspec

from agent.documents.tree import DEFAULT_REVS_LIMIT
from agent.durable import make_folder, sync_folder
from agent.errors import DocumentError, NotFoundError, StoreError, StoreExistsError, StoreHeldError
from agent.store.connection import StoreLock, marker
from agent.store.opening import exists
from agent.store.salvage import COPY, Salvage, copies_of, files_aside, note_of, salvaged
from agent.store.store import Store, Tally

_T = TypeVar("_T")

_NAME = re.compile(r"[a-z][a-z0-9_$()+/-]*\Z")
_SYSTEM = frozenset({"_replicator"})
_SUFFIX = ".sqlite"
_MOST_OPEN = 64
"""Databases that are open at once, unless more are in use. Each has two threads or more, six files
and about 0.5 MB."""

_LONGEST_NAME = 200  # as a file name, with its suffixes, within what file systems allow

BAD_NAME = (
    "Name: '{}'. Only lowercase characters (a-z), digits (0-9), and any of the characters "
    "_, $, (, ), +, -, and / are allowed. Must begin with a letter."
)


class Damaged(msgspec.Struct):
    """A database that was damaged, and the file that it was then.

    `reason` is there where there is nothing else in the file; `salvaged` where the database that is
    there now was made of it.
    """

    database: str
    file: str
    reason: str | None
    salvaged: Salvage | None = None


def _nothing(_: str) -> None:
    """Nobody wants to know."""


class Databases:
    """Opens, creates and deletes databases by name (CouchDB's rules for names).

    When many are open, those that were not asked for the longest are closed again, so a store is
    worked with inside `using`, or held. `get`, `create`, `ensure` and `wait_for` return a store
    that may otherwise be closed as soon as another one is opened.
    """

    def __init__(
        self, folder: Path, *, revs_limit: int = DEFAULT_REVS_LIMIT, most_open: int = _MOST_OPEN
    ) -> None:
        self.folder = folder
        self._revs_limit = revs_limit
        self._most_open = most_open
        self._open: dict[str, Store] = {}
        """In the order in which they were last asked for."""
        self._users: Counter[str] = Counter()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of names that are being opened, closed, made or deleted."""
        self._created = asyncio.Event()
        self._closed = False
        self._held: set[str] = set()
        self.on_open: Callable[[str], None] = _nothing
        """Called with the name of each database that is opened: only those that are open change."""
        self.tally = Tally()
        """Of all databases."""
        self._salvages: dict[str, dict[str, Salvage | None]] = {}
        """By the database and the file that was set aside, as it was when it was opened last."""

    def path(self, name: str) -> Path:
        """The file of a database. Raises DocumentError for a name that is not allowed."""
        allowed = name in _SYSTEM or _NAME.match(name)
        if not allowed or len(quote(name, safe="")) > _LONGEST_NAME:
            raise DocumentError(BAD_NAME.format(name))
        return self.folder / (quote(name, safe="") + _SUFFIX)

    @property
    def open_names(self) -> list[str]:
        """Of those that are open at the moment."""
        return list(self._open)

    async def names(self) -> list[str]:
        return await asyncio.to_thread(self.names_now)

    def opened(self) -> dict[str, Store]:
        """Those that are open at the moment; they may be closed at any time."""
        return dict(self._open)

    async def get(self, name: str) -> Store:
        """The database, opened. Raises NotFoundError, StoreError, DocumentError."""
        store = self._open.pop(name, None)
        if store is not None:
            self._open[name] = store  # the last in the order
            return store
        return await _to_the_end(self._get(name))

    async def _get(self, name: str) -> Store:
        # In a task of its own, as is `_create`: the thread that opens a file cannot be cancelled,
        # so neither may be who waits for it; the store would stay open and belong to nobody.
        async with self._lock(name):
            if name not in self._open:
                self._check_open()
                await self._make_room()
                store = await Store.open(
                    self.path(name), create=False, revs_limit=self._revs_limit, salvage=True
                )
                self._opened(name, store)
            return self._open[name]

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Meanwhile the database of this name is closed only to be deleted."""
        self._users[name] += 1
        try:
            yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]

    async def create(self, name: str) -> Store:
        """A new database. Raises StoreExistsError, StoreError, DocumentError."""
        return await _to_the_end(self._create(name))

    async def _create(self, name: str) -> Store:
        path = self.path(name)
        async with self._lock(name):
            self._check_open()
            if name in self._open or await asyncio.to_thread(exists, path):
                raise StoreExistsError(
                    "The database could not be created, the file already exists.", path=str(path)
                )
            await self.make_folder()
            await self._make_room()
            store = await Store.open(path, revs_limit=self._revs_limit, salvage=True)
            self._opened(name, store)
            self._created.set()
            self._created = asyncio.Event()
            return store

    def _opened(self, name: str, store: Store) -> None:
        store.tally = self.tally
        self._open[name] = store
        self._salvages.pop(name, None)
        self.on_open(name)

    async def ensure(self, name: str) -> Store:
        """The database, made if there is none."""
        with contextlib.suppress(NotFoundError):
            return await self.get(name)
        try:
            return await self.create(name)
        except StoreExistsError:  # somebody else made it just now
            return await self.get(name)

    async def wait_for(self, name: str) -> Store:
        """The database, opened, as soon as there is one."""
        while True:
            created = self._created
            try:
                return await self.get(name)
            except NotFoundError:
                await created.wait()

    async def make_folder(self) -> None:
        """Make it, if it is missing, for this user only. Raises StoreError."""
        await asyncio.to_thread(self._make_folder)

    def hold(self, name: str) -> None:
        """Somebody here depends on this database: it is neither closed nor deleted any more."""
        self._held.add(name)

    async def delete(self, name: str) -> None:
        """Delete a database with all its documents.

        Raises NotFoundError, StoreHeldError, StoreBusyError (another process uses it).
        """
        path = self.path(name)
        if name in self._held:
            raise StoreHeldError(
                f"{name} is the database of this agent: stop it, then delete {path.name}",
                path=str(path),
            )
        await _to_the_end(self._delete(name, path))

    async def _delete(self, name: str, path: Path) -> None:
        async with self._lock(name):
            store = self._open.pop(name, None)
            if store is not None:
                await store.close()
            await asyncio.to_thread(_unlink, path)

    async def damaged(self) -> list[Damaged]:
        """What was damaged, as long as the file that it was is there. A database that was never
        open is opened, once, to be asked what could be copied."""
        found = await asyncio.to_thread(self._damaged)
        for each in found:
            if each.file not in self._salvages.get(each.database, ()):
                made = await self._salvage(each)
                self._salvages.setdefault(each.database, {})[each.file] = made
            each.salvaged = self._salvages[each.database][each.file]
        return found

    async def _salvage(self, damaged: Damaged) -> Salvage | None:
        with (
            self.using(damaged.database),
            contextlib.suppress(NotFoundError, StoreError, DocumentError),
        ):
            made = await salvaged(await self.get(damaged.database))
            if made is not None and Path(made.aside).name == Path(damaged.file).name:
                return made
        return None

    async def check(self) -> None:
        """Returns when the writer of each open store has had its turn. Raises StoreDamagedError."""
        for store in list(self._open.values()):
            await store.check()

    def wake(self) -> None:
        """Let everybody go who waits for a change in any database."""
        for store in self._open.values():
            store.wake()

    async def close(self) -> None:
        self._closed = True
        for name in {*self._open, *self._locks}:
            async with self._lock(name):
                store = self._open.pop(name, None)
                if store is not None:
                    await store.close()

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _make_room(self) -> None:
        """Close what was not asked for the longest, where the next one would be too many."""
        while len(self._open) >= self._most_open:
            name = next(filter(self._unused, self._open), None)
            if name is None:
                return
            # Nobody has the lock, so nobody waits here who has another one.
            async with self._lock(name):
                await self._open.pop(name).close()

    def _unused(self, name: str) -> bool:
        return not (
            name in self._users
            or name in self._held
            or name in self._locks
            or self._open[name].compacting
        )

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the databases are closed", path=str(self.folder))

    def names_now(self) -> list[str]:
        """As `names`; blocks."""
        files = {*self.folder.glob("*" + _SUFFIX)}
        files |= {
            file.with_name(file.name.partition(COPY)[0])
            for file in self.folder.glob(f"*{_SUFFIX}{COPY}*")
        }
        return sorted(unquote(file.name.removesuffix(_SUFFIX)) for file in files)

    def _damaged(self) -> list[Damaged]:
        return [
            Damaged(unquote(file.name.partition(_SUFFIX)[0]), str(file), note_of(file))
            for file in files_aside(self.folder, f"*{_SUFFIX}")
        ]

    def _make_folder(self) -> None:
        try:
            # Documents of `_replicator` have passwords in them.
            make_folder(self.folder, 0o700)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: the folder cannot be made ({error.strerror}); "
                "make it, or name another one",
                path=str(self.folder),
            ) from error


async def _to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Shielded; who was cancelled while waiting does not want to hear of what went wrong either."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


def _unlink(path: Path) -> None:
    if not exists(path):
        raise NotFoundError(f"{path.name}: no such database", reason="Database does not exist.")
    lock = StoreLock(path)
    try:
        lock.forget()
        for file in (marker(path), *copies_of(path), path):
            file.unlink(missing_ok=True)
        sync_folder(path.parent)  # what is left means nothing then; never the file without its WAL
        for suffix in ("-wal", "-shm", ".lock"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    finally:
        lock.release()
