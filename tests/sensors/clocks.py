"""A machine whose clocks a test moves, and an agent's clock on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from agent.config_clock import ClockConfig
from agent.sensors.clock import AgentClock
from agent.store.store import Store

SECOND = 1_000_000
HOUR = 3600 * SECOND
TRUE = 1_780_000_000 * SECOND
"""What the time really is when the machine boots, in microseconds since the epoch."""


@dataclass
class FakeMachine:
    """Its monotonic clock stands still unless a test moves it. All in microseconds."""

    boot_id: str = "11111111-aaaa-4bbb-8ccc-000000000001"
    now: int = 5 * SECOND
    system: int = 0
    """The system clock's time less the monotonic clock's: 0 is what a machine has that starts in
    1970."""
    ntp: bool = False

    def monotonic(self) -> int:
        return self.now

    def offset(self) -> int:
        return self.system

    def synchronised(self) -> bool:
        return self.ntp

    def date(self, offset: int = TRUE) -> str:
        """The Date of an answer that was made just now, where the time is right."""
        return format_datetime(datetime.fromtimestamp((self.now + offset) // SECOND, UTC), True)


@contextlib.asynccontextmanager
async def running_clock(
    store: Store,
    machine: FakeMachine,
    config: ClockConfig | None = None,
    *,
    correcting: bool = True,
) -> AsyncIterator[AgentClock]:
    """An agent's clock, which corrects what the device "dev" has recorded, unless told not to."""
    clock = AgentClock(config or ClockConfig(), machine)
    await clock.open(store, "gateway-1", {"dev"})
    tasks = [asyncio.create_task(clock.run())]
    tasks += [asyncio.create_task(clock.correct())] if correcting else []
    try:
        yield clock
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in ended), ended


def tell(clock: AgentClock, machine: FakeMachine) -> None:
    """A remote's answer has a Date."""
    clock.date("cloud", machine.date(), machine.now / SECOND, tls=True)
