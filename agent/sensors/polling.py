"""Asks devices that speak only when they are asked, as their firmware adapter says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from agent.sensors.link import SerialLink
from firmware_adapters.adapter import Event, PollingAdapter


class Polling:
    """Runs the questions of one adapter on one link; `note` takes what became of them.

    What the link receives must reach the adapter, and `stir` be called after that.
    """

    def __init__(
        self, adapter: PollingAdapter, link: SerialLink, note: Callable[[Event], None]
    ) -> None:
        self._adapter = adapter
        self._link = link
        self._note = note
        self._stirred = asyncio.Event()

    def stir(self) -> None:
        """The port was opened, or the adapter received something."""
        self._stirred.set()

    async def run(self) -> None:
        """Ask while the port is open. Never returns."""
        while True:
            self._stirred.clear()
            await self._wait(self._turn() if self._link.state == "open" else None)

    def _turn(self) -> float:
        """One turn; returns when the next one is, on the loop's clock."""
        turn = self._adapter.poll(asyncio.get_running_loop().time())
        for event in turn.events:
            self._note(event)
        if turn.send:
            self._link.send(turn.send)  # what is not sent is not answered, and noted as that
        return turn.wake

    async def _wait(self, wake: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(wake):
                await self._stirred.wait()
