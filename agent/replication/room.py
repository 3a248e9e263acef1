"""What the lanes of a run share: memory, and the bytes that the link may carry today."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from agent.errors import BudgetSpentError
from agent.replication.budget import Budget
from agent.replication.lanes import Lane

_PIECE_BYTES: Final = 2 * 1024 * 1024
"""Aimed at for one fetch."""

_PIECES: Final = 3
"""In memory at most, by all lanes: fetched, or being stored."""

_OF_A_BUDGET: Final = 50
"""A piece is at most this part of a day's budget, as that much may go beyond it."""


class Room:
    """What the lanes of a run share: pieces in memory, and the remote's bytes for the day."""

    def __init__(
        self,
        budget: Budget | None,
        *,
        holds: bool,
        holding: Callable[[], Awaitable[None]],
    ) -> None:
        """A lane that has used its part of the budget waits if it `holds`, after calling
        `holding`; otherwise BudgetSpentError is raised, so that its feed is closed."""
        self.held: set[Lane] = set()
        """The lanes that wait for another day."""
        self._budget = budget
        self._holds = holds
        self._holding = holding
        # With a budget one by one: what is under way may go beyond it.
        self._all = asyncio.Semaphore(_PIECES if budget is None else 1)
        self._news = asyncio.Semaphore(_PIECES)
        self._backlog = asyncio.Semaphore(_PIECES - 2)

    def divide(self) -> None:
        """Leave a place for what is urgent. Call before anything enters."""
        self._news = asyncio.Semaphore(_PIECES - 1)

    def unite(self) -> None:
        """Nothing is urgent any more: the news may have all of it."""
        self._news.release()

    @property
    def piece_bytes(self) -> int:
        """Aimed at for a piece."""
        if self._budget is None:
            return _PIECE_BYTES
        return min(_PIECE_BYTES, self._budget.bytes_per_day // _OF_A_BUDGET)

    async def admit(self, lane: Lane) -> None:
        """Wait until the budget lets this lane use the link. Raises BudgetSpentError."""
        budget = self._budget
        if budget is None or await budget.admits(lane):
            return
        if not self._holds:
            raise BudgetSpentError("the bytes for today are used up; it goes on tomorrow (UTC)")
        with self._hold(lane):
            await self._holding()
            await budget.wait(lane)

    async def open(self, lane: Lane) -> None:
        """Wait until the budget lets a run begin, whose first lane this is."""
        if self._budget is not None and not await self._budget.admits(lane):
            with self._hold(lane):
                await self._budget.wait(lane)

    @contextmanager
    def _hold(self, lane: Lane) -> Iterator[None]:
        self.held.add(lane)
        try:
            yield
        finally:
            self.held.discard(lane)

    async def enter(self, lane: Lane) -> None:
        """Wait for room for a piece, which is used until `leave`. Raises BudgetSpentError."""
        for part in self._parts(lane):
            await part.acquire()
        while True:
            await self.admit(lane)
            await self._all.acquire()
            if self._budget is None or await self._budget.admits(lane):
                return
            self._all.release()  # others have used the rest meanwhile

    def leave(self, lane: Lane) -> None:
        self._all.release()
        for part in self._parts(lane):
            part.release()

    def _parts(self, lane: Lane) -> tuple[asyncio.Semaphore, ...]:
        """What a lane has to have besides a part of everything: so each leaves room for those
        before it."""
        match lane:
            case Lane.URGENT:
                return ()
            case Lane.NEWS:
                return (self._news,)
            case Lane.BACKLOG:
                return (self._backlog, self._news)
