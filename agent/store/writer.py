"""The one writer of a store: a thread that commits many callers' operations together.

While one commit waits for the disk, further operations queue up; they share the next one. So a
single caller gets one fsync per write, and a hundred callers far fewer than a hundred.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from agent.errors import StoreWriteError
from agent.store.connection import explained, is_gone
from agent.store.transaction import Transaction

_T = TypeVar("_T")
_Operation = Callable[[Transaction], Any]
_Item = tuple[_Operation, "asyncio.Future[Any]"]
_Outcome = tuple["asyncio.Future[Any]", Any, Exception | None]

_MOST_OPERATIONS = 256
"""In one commit: bounds the time that the first of them waits."""

_MOST_WAITING = 1024
"""Operations accepted before callers are made to wait."""

_STEP = 4_000_000
"""Instructions of SQLite's virtual machine, which take from half a second to some seconds."""

_LOOK = 1.0
"""Seconds between looks at whether something long gets on."""

_WAL_BYTES = 8 * 1024 * 1024
"""A WAL file larger than this is truncated when no reader needs it."""


def _hear(future: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more, so its error is nobody's; asyncio would log it as forgotten."""
    if not future.cancelled():
        future.exception()


class Writer:
    """Runs operations on the writing connection, in the order in which they were given."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        revs_limit: int,
        committed: Callable[[Transaction], None],
        closing: Callable[[], None],
    ) -> None:
        """`committed` is called in the event loop after each commit, before the callers get their
        answers: with what was committed, to read its counts and indexes. `closing` is called in
        the writer's thread before the connection is closed, if all is in the file then.
        """
        self._db = connection
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self.revs_limit = revs_limit
        self._shrink = False
        self._committed = committed
        self._closing = closing
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(_MOST_WAITING)
        self._closed = False
        self._steps = 0
        connection.set_progress_handler(self._step, _STEP)
        self._thread = threading.Thread(target=self._run, name=f"writer {path.name}", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[Transaction], _T]) -> _T:
        """Returns once the operation is durable. Raises what it raises, or StoreWriteError."""
        async with self._room:
            if self._closed:
                raise StoreWriteError(f"{self._path}: the store is being closed; try again later")
            future: asyncio.Future[_T] = self._loop.create_future()
            self._queue.put((operation, future))
            try:
                # Shielded: a cancelled caller must not make the writer's answer an error.
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                future.add_done_callback(_hear)
                raise

    async def shrink(self) -> None:
        """Write the WAL into the file, which then has the size that its pages need.

        A reader that is in the way puts it off until the WAL has grown again.
        """

        def operation(_: Transaction) -> None:
            self._shrink = True

        await self.run(operation)

    async def check(self) -> None:
        """Returns when the writer has had a turn or, in something long such as a compaction, has
        got on. A disk that does not answer makes it hang. Nothing is written.
        """
        turn = asyncio.ensure_future(self.run(lambda _: None))
        try:
            steps = self._steps
            while steps == self._steps:
                done, _ = await asyncio.wait({turn}, timeout=_LOOK)
                if done:
                    turn.exception()  # a store that refuses is at work, too
                    return
        finally:
            turn.cancel()

    def _step(self) -> None:
        self._steps += 1

    async def close(self) -> None:
        """Finish what was accepted, then close the connection."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        last = False
        while not last:
            items: list[_Item] = []
            item = self._queue.get()
            while item is not None:
                items.append(item)
                if len(items) == _MOST_OPERATIONS:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            last = item is None
            if items:
                self._commit(items)
        # The file alone is then the whole store, to copy or to move, even if others have it open.
        # Of one that was removed the WAL is all that is left, to be salvaged.
        if not is_gone(self._path) and self._checkpoint():
            self._closing()
        self._db.close()

    def _commit(self, items: list[_Item]) -> None:
        outcomes: list[_Outcome] = []
        done: Transaction | None = None
        try:
            with explained(self._path, is_open=True):
                self._db.execute("BEGIN IMMEDIATE")
                transaction = Transaction(self._db, revs_limit=self.revs_limit)
                if len(items) == 1:
                    # A savepoint costs a copy of each page that changes; the transaction does.
                    operation, future = items[0]
                    outcomes.append((future, operation(transaction), None))
                else:
                    for operation, future in items:
                        outcomes.append((future, *self._attempt(operation, transaction)))
                transaction.finish()
                self._db.execute("COMMIT")
                done = transaction
        except Exception as error:  # noqa: BLE001 - handed to the callers, in their own thread
            if self._db.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # the next BEGIN says what is wrong
                    self._db.execute("ROLLBACK")
            outcomes = [(future, None, error) for _, future in items]
        if self._shrink:
            self._shrink = False
            self._checkpoint()  # before the answers: who asked for it sees the file shrunk
        self._loop.call_soon_threadsafe(self._deliver, outcomes, done)
        self._truncate_wal()

    def _attempt(
        self, operation: _Operation, transaction: Transaction
    ) -> tuple[Any, Exception | None]:
        """One operation of several; when it fails, what it wrote goes and the others stay."""
        state = transaction.checkpoint()
        self._db.execute("SAVEPOINT operation")
        try:
            with explained(self._path, is_open=True):
                result = operation(transaction)
        except Exception as error:
            if not self._db.in_transaction:
                raise  # SQLite gave the whole transaction up, as it does when the disk is full
            self._db.execute("ROLLBACK TO operation")
            self._db.execute("RELEASE operation")
            transaction.restore(state)
            return None, error
        self._db.execute("RELEASE operation")
        return result, None

    def _deliver(self, outcomes: list[_Outcome], done: Transaction | None) -> None:
        if done is not None:
            self._committed(done)
        for future, result, error in outcomes:
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def _truncate_wal(self) -> None:
        with contextlib.suppress(OSError):
            if self._wal.stat().st_size > _WAL_BYTES and self._queue.empty():
                self._checkpoint()

    def _checkpoint(self) -> bool:
        """Whether all is in the file now, and nothing in the WAL."""
        # What goes wrong here costs no write, and meets the next commit too, which reports it.
        with contextlib.suppress(sqlite3.Error):
            # Readers are short; should one stay, the next commit tries again.
            self._db.execute("PRAGMA busy_timeout = 200")
            try:
                busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                return not busy
            finally:
                self._db.execute("PRAGMA busy_timeout = 5000")
        return False
