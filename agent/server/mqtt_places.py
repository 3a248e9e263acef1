"""How many calls over MQTT are worked on at once, and how many only wait for their gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self


class Places:
    """So many calls are worked on. While one waits for its gateway, over a slow line perhaps, its
    place is another's, as long as all that wait hold no more than `most_bytes`."""

    def __init__(self, at_once: int, most_bytes: int) -> None:
        self.free = asyncio.Semaphore(at_once)
        self.most_bytes = most_bytes
        self.waiting_bytes = 0


class Place:
    """One call's place, from the beginning of the work on it to its end."""

    def __init__(self, places: Places, size: int) -> None:
        """`size` is that of the message that is held, in bytes; it may be changed."""
        self.size = size
        self._places = places
        self._taken = False

    async def __aenter__(self) -> Self:
        await self._take()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._taken:  # not if it was cancelled while it waited to have it again
            self._give()

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        """Give the place away while the gateway is waited for."""
        places, size = self._places, self.size
        if places.waiting_bytes + size > places.most_bytes:
            yield
            return
        places.waiting_bytes += size
        self._give()
        try:
            yield
        finally:
            places.waiting_bytes -= size
            await self._take()

    async def _take(self) -> None:
        await self._places.free.acquire()
        self._taken = True

    def _give(self) -> None:
        self._taken = False
        self._places.free.release()
