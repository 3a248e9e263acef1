"""How many bytes a remote's link may carry in a day, and what goes first when they run short.

The day is that of UTC. A clock that is wrong does not make bytes: one that was set back goes on
with the day that it had, until the agent has run for as long as a day has; one that jumps ahead
gets no more than two days' bytes beyond those of the days that the agent has run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

from agent.errors import StoreError, StoreWriteError
from agent.replication.lanes import Lane
from agent.store.store import Store

SHARES: Final = {Lane.BACKLOG: 0.6, Lane.NEWS: 0.9, Lane.URGENT: 1.0}
"""The part of a day's bytes after which a lane waits for the next day."""

_DAY: Final = 86_400
_LOOK: Final = 30.0
"""Seconds between looks at the clock while a lane waits: it may be set meanwhile."""

_AHEAD: Final = 100
"""What is kept on disk is ahead by this part of the budget: so it is written that many times a day,
and a kill never makes less of what was used."""


class Budget:
    """Counts the bytes of a remote's link, in both directions, for all its replications."""

    def __init__(
        self,
        name: str,
        bytes_per_day: int,
        store: Store,
        traffic: Callable[[], tuple[int, int]],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is the remote's; `store` keeps what was used; `traffic` as `Metered.traffic`."""
        self.bytes_per_day = bytes_per_day
        self._key = f"budget:{name}"
        self._store = store
        self._traffic = traffic
        self._clock = clock
        self._monotonic = monotonic
        self._started = self._day_begun = monotonic()
        self._days = 0
        self._day, self._before = _kept(store.setting(self._key)) or (self._today(), 0)
        self._mark = sum(traffic())
        self._on_disk = self._before

    @property
    def used(self) -> int:
        """Bytes of the present day, about a hundredth of the budget more after a kill."""
        self._turn_the_page()
        return self._before + sum(self._traffic()) - self._mark

    @property
    def until(self) -> float:
        """When there are new bytes, in seconds since the epoch."""
        if self._today() >= self._day:
            return float((self._today() + 1) * _DAY)
        return self._clock() + _DAY - (self._monotonic() - self._day_begun)

    async def admits(self, lane: Lane) -> bool:
        """Whether the lane may use the link now. Raises what the store does."""
        used = self.used
        if used >= self._on_disk:
            await self._keep(used + self.bytes_per_day // _AHEAD)
        return used < SHARES[lane] * self.bytes_per_day

    async def wait(self, lane: Lane) -> None:
        """Return when the lane may use the link."""
        while not await self.admits(lane):  # noqa: ASYNC110 - nobody tells of a clock that was set
            await asyncio.sleep(_LOOK)

    async def close(self) -> None:
        """Keep exactly what was used."""
        # Where that fails, what is on disk is the upper bound that it always is.
        with contextlib.suppress(StoreError, StoreWriteError):
            if self.used != self._on_disk:
                await self._keep(self.used)

    async def _keep(self, used: int) -> None:
        self._on_disk = used
        await self._store.set_setting(self._key, {"day": self._day, "used": used})

    def _today(self) -> int:
        """Days since the epoch."""
        return int(self._clock() // _DAY)

    def _turn_the_page(self) -> None:
        today = self._today()
        if today == self._day:
            return
        now = self._monotonic()
        if today > self._day:
            begins = self._days < 2 + (now - self._started) // _DAY
        else:
            begins = now - self._day_begun >= _DAY
        if begins:
            self._day, self._day_begun = today, now
            self._days += 1
            self._before = self._on_disk = 0
            self._mark = sum(self._traffic())


def _kept(value: Any) -> tuple[int, int] | None:
    """The day and its bytes as they were kept."""
    match value:
        case {"day": int(day), "used": int(used)}:
            return day, used
    return None
