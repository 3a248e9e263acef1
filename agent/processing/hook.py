"""A hook: follows a database and passes its changes on, in order, each at least once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any, Final, Literal

import msgspec

from agent.backoff import RETRY_CAP, permanent_backoff, transient_backoff
from agent.documents.selector import Selector
from agent.errors import (
    AttemptError,
    DocumentError,
    EdgeAgentError,
    NotFoundError,
    PermanentError,
    RefusedChangeError,
    StoreError,
    StoreWriteError,
    TransientError,
)
from agent.processing.change import Change, Target, change_of
from agent.processing.checkpoint import Checkpoint
from agent.processing.dead_letters import DeadLetters
from agent.store.databases import Databases
from agent.store.selecting import matching
from agent.store.store import Store
from agent.store.stored import StoredDocument

log = logging.getLogger(__name__)

_PAGE: Final = 100
"""Documents that are in memory at once, and 1 MiB."""

_NEVER: Final = 2**63


class State(StrEnum):
    """What a hook is doing, in the words of the status."""

    STARTING = "starting"
    """There is no such database yet."""
    CATCHING_UP = "catching up"
    LIVE = "live"
    WAITING = "waiting"
    """After a transient error; it is tried again soon."""
    FAILED = "failed"
    """Somebody has to change something; it is tried again now and then in case they did."""


class Options(msgspec.Struct, frozen=True):
    """How a hook is called. `batch` is in documents, `retry_cap` in seconds."""

    name: str
    database: str
    selector: Selector | None = None
    batch: int = 1
    attempts: int = 5
    retry_cap: float = RETRY_CAP
    start: Literal["now", "beginning"] = "now"


class Hook:
    """Calls a target with each change until it is cancelled."""

    def __init__(self, databases: Databases, options: Options, target: Target) -> None:
        self.name = options.name
        self.processed = 0
        """Documents since the start, as the next one."""
        self.failures = 0
        """Calls that failed, whatever the reason."""
        self.last_error: str | None = None
        self.retry_at: float | None = None
        """When it is tried again, in seconds since the epoch."""
        self.letters = DeadLetters(options.name)
        self._databases = databases
        self._options = options
        self._target = target
        self._checkpoint = Checkpoint(options.name, self.letters)
        self._store: Store | None = None
        self._live = False
        self._failed = False
        self._size = options.batch
        """Documents in the next call: fewer after a failure, to find the one that is to blame."""
        self._again: list[str] = []
        """Ids of the documents that were given up and are to be tried again."""
        self._tried: Change | None = None
        """What is waited for, if that is one document."""
        self._skipping = False
        self._woken = asyncio.Event()
        self._transient = transient_backoff(options.retry_cap)
        self._permanent = permanent_backoff(options.retry_cap)

    async def run(self) -> None:
        """Follow the database, whenever there is one. Ends only when it is cancelled."""
        begun = self._options.start == "beginning"
        while True:
            with self._databases.using(self._options.database):
                try:
                    store = await self._databases.get(self._options.database)
                except NotFoundError:
                    store = await self._databases.wait_for(self._options.database)
                    begun = True  # all of it is new
                try:
                    await self._follow(store, from_beginning=begun)
                except StoreError:
                    if not store.closed:
                        raise
                finally:
                    await self._leave(store)
            begun = True

    async def close(self) -> None:
        """Close what is called."""
        await self._target.close()

    # --- what people see and do --------------------------------------------------------

    @property
    def state(self) -> State:
        if self._store is None:
            return State.STARTING
        if self.retry_at is not None:
            return State.FAILED if self._failed else State.WAITING
        return State.LIVE if self._live else State.CATCHING_UP

    @property
    def database(self) -> str:
        return self._options.database

    @property
    def target(self) -> str:
        """What is called, for people."""
        return self._target.label

    @property
    def saved_seq(self) -> int:
        """Everything up to this change was dealt with, which is durable."""
        return self._checkpoint.saved_seq

    async def pending(self) -> int | None:
        """Changes that were not dealt with, also those that the selector leaves out; None while
        there is no database."""
        store = self._store
        if store is None:
            return None
        try:
            return await store.pending(self._checkpoint.seq)
        except StoreError:
            if store.closed:  # it was deleted just now
                return None
            raise

    def dead(self) -> list[dict[str, Any]]:
        """The documents that were given up, the oldest first; plain JSON values."""
        return [msgspec.structs.asdict(letter) for letter in self.letters]

    def retry(self, ids: Collection[str] | None) -> int:
        """Try documents that were given up once more, None: all of them; and what is waited for,
        at once. Returns how many there are."""
        known = self._known(ids)
        self._again += [id for id in known if id not in self._again]
        self._woken.set()
        return len(known)

    async def drop(self, ids: Collection[str] | None) -> int:
        """Forget documents that were given up, None: all of them. Returns how many there were.

        Raises StoreError, StoreWriteError.
        """
        known = self._known(ids)
        for id in known:
            self.letters.remove(id)
        if self._store is not None:
            await self._checkpoint.save(self._store)
        self._woken.set()
        return len(known)

    def skip(self) -> bool:
        """Give up the document that is tried over and over. False: there is none."""
        self._skipping = self._tried is not None
        self._woken.set()
        return self._skipping

    def _known(self, ids: Collection[str] | None) -> list[str]:
        return [letter.id for letter in self.letters if ids is None or letter.id in ids]

    # --- following the store -----------------------------------------------------------

    async def _follow(self, store: Store, *, from_beginning: bool) -> None:
        """Until the database is deleted."""
        checkpoint = self._checkpoint
        await checkpoint.load(store, from_beginning=from_beginning)
        self._store = store
        while not store.closed:
            try:
                await self._try_again(store)
                page = await store.recent_changes(checkpoint.seq, limit=_PAGE, bodies=True)
                self._live = page.complete and not page.documents
                await self._deliver(store, await self._selected(store, page.documents))
                if store.closed:
                    return
                checkpoint.passed(page.last_seq)
                self._live = page.complete
                await checkpoint.save_in_time(store)
            except StoreWriteError as error:  # what was done is remembered, and noted later
                await self._wait(store, error)
                continue
            if page.complete and not self._again:
                await self._pause(store, checkpoint.due(), since=checkpoint.seq)

    async def _leave(self, store: Store) -> None:
        if self._store is not None and not store.closed and self._checkpoint.due() is not None:
            with contextlib.suppress(EdgeAgentError):  # then some calls are made again
                await self._checkpoint.save(store)
        self._store = None
        self._live = False
        self._again.clear()

    async def _selected(self, store: Store, documents: Sequence[StoredDocument]) -> list[Change]:
        """The changes that the selector matches."""
        selector = self._options.selector
        if selector is None:
            return [self._change(store, document) for document in documents]
        found: list[StoredDocument] = []
        # A slow one may fail on a document, which is not to be put down to others.
        size = 1 if selector.slow else _PAGE
        for start in range(0, len(documents), size):
            part = documents[start : start + size]
            revisions = [document.revision() for document in part]
            try:
                matches = await matching(store, selector, revisions)
            except DocumentError as error:
                change = self._change(store, part[0])
                while not (store.closed or await self._give_up(store, change, error, 1)):
                    pass
            else:
                found += [document for document, fits in zip(part, matches, strict=True) if fits]
        return [self._change(store, document) for document in found]

    def _change(self, store: Store, document: StoredDocument) -> Change:
        return change_of(self.name, self._options.database, store, document)

    async def _deliver(
        self, store: Store, changes: Iterable[Change], *, again: bool = False
    ) -> None:
        """Call with each until it is done or given up, or the store is closed; `again`, with one
        that was given up, until somebody forgets it."""
        queue = deque(changes)
        tries = 0
        while queue and not store.closed:
            await self._checkpoint.save_in_time(store)
            if again and queue[0].id not in self.letters:
                self.last_error = None  # nothing is waited for
                return
            part = list(islice(queue, self._size))
            try:
                await self._target.call(part)
            except EdgeAgentError as error:
                self.failures += 1
                of_the_change = isinstance(error, AttemptError | RefusedChangeError)
                if len(part) > 1:
                    self._size = len(part) // 2
                    if not of_the_change:
                        await self._wait(store, error)
                    continue
                tries += of_the_change
                enough = isinstance(error, RefusedChangeError) or tries >= self._options.attempts
                if not (of_the_change and enough):
                    await self._wait(store, error, part[0])
                    if not self._skipping:
                        continue
                    self._skipping = False
                if again and part[0].id not in self.letters:
                    continue
                if not await self._give_up(store, part[0], error, max(tries, 1)):
                    continue
            else:
                for change in part:
                    self.letters.remove(change.id)  # it went through with a later change
                self.processed += len(part)
                self.last_error = None
                self._size = min(self._options.batch, self._size * 2)
                self._transient.reset()
                self._permanent.reset()
            tries = 0
            self._checkpoint.passed(part[-1].number, called=True)
            for _ in part:
                queue.popleft()

    async def _give_up(
        self, store: Store, change: Change, error: EdgeAgentError, attempts: int
    ) -> bool:
        """Put a document aside. False, after some time, where there is no room for it."""
        try:
            self.letters.check_room(change.id)
        except PermanentError as full:
            await self._wait(store, full)
            await self._try_again(store)
            return False
        log.warning("hook %s: %r is given up: %s", self.name, change.id, error)
        self.last_error = None  # nothing is waited for
        self.letters.add(change, str(error), attempts)
        return True

    async def _try_again(self, store: Store) -> None:
        """Call with the documents, as they are now, that somebody wants to be tried again."""
        while self._again and not store.closed:
            id = self._again.pop(0)
            document = await store.get(id)
            if document is None:
                self.letters.remove(id)
            elif document.seq <= self._checkpoint.seq:  # or else it comes anyway
                await self._deliver(store, [self._change(store, document)], again=True)

    # --- waiting -----------------------------------------------------------------------

    async def _wait(self, store: Store, error: EdgeAgentError, tried: Change | None = None) -> None:
        """Back off, unless somebody wants it to be tried at once."""
        self._failed = isinstance(error, PermanentError)
        if not self._failed:
            self._permanent.reset()
        delay = (self._permanent if self._failed else self._transient).next_delay()
        if isinstance(error, TransientError) and error.retry_after is not None:
            delay += error.retry_after
        if str(error) != self.last_error:
            log.warning("hook %s: %s; next try in %.1f s", self.name, error, delay)
        self.last_error = str(error)
        self.retry_at = time.time() + delay
        self._tried = tried
        try:
            await self._pause(store, delay)
        finally:
            self.retry_at = self._tried = None

    async def _pause(self, store: Store, seconds: float | None, *, since: int = _NEVER) -> None:
        """Wait for a change after `since`, for the end of the store, or for somebody."""
        self._woken.clear()
        waiting = [
            asyncio.ensure_future(store.wait(since)),
            asyncio.ensure_future(self._woken.wait()),
        ]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()
