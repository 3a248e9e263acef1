"""Speaks with a board before and after it is flashed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from agent.errors import PortError
from agent.sensors.link import SerialLink
from firmware_adapters import Event, Reading, create

ADAPTER = "cbor-frames"
BAUD = 115_200

_RESTART = b"\x04"
"""Ctrl-D: at its prompt MicroPython begins anew, with main.py."""

_STOP_SECONDS = 1.0


async def stop_firmware(port: str) -> None:
    """End firmware of ours that runs under MicroPython: it lets nobody interrupt it. No effect on
    anything else. Raises PortError."""
    stop = create(ADAPTER, {}).encode({"stop": True})
    await _exchange(port, stop, _stopped, _STOP_SECONDS)


async def first_reading(port: str, seconds: float, *, restart: bool) -> Reading | None:
    """The first thing that a board measures, or None if there is nothing for so many `seconds`.

    `restart`: it is at MicroPython's prompt. Raises PortError.
    """
    sent = _RESTART if restart else b""
    said = await _exchange(port, sent, lambda said: isinstance(said, Reading), seconds)
    return said if isinstance(said, Reading) else None


def _stopped(said: Reading | Event) -> bool:
    return isinstance(said, Event) and said.kind == "log" and said.detail == "stopped"


async def _exchange(
    port: str, sent: bytes, is_it: Callable[[Reading | Event], bool], seconds: float
) -> Reading | Event | None:
    """Open a port, send something, and wait for the answer. Raises PortError if it stays shut."""
    link = SerialLink(port, BAUD)
    adapter = create(ADAPTER, {})
    answer: asyncio.Future[Reading | Event] = asyncio.get_running_loop().create_future()

    def opened() -> None:
        adapter.reset()
        if sent:
            link.send(sent)

    def received(data: bytes) -> None:
        for said in adapter.receive(data):
            if is_it(said) and not answer.done():
                answer.set_result(said)

    serving = asyncio.create_task(link.run(received, opened))
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        if link.last_error is not None:
            raise PortError(link.last_error) from None
        return None
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
