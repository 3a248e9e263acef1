"""The life of a process: it runs until it is signalled, and tells systemd how it does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Protocol, Self, TypeVar

from agent.systemd import Notifier


class Running(Protocol):
    """What runs until it is told to stop."""

    async def run(self, stop: asyncio.Event, ready: Callable[[Self], None]) -> None:
        """Raises EdgeAgentError when it cannot start."""

    async def check(self) -> None:
        """Returns if the work goes on; hangs otherwise, or raises EdgeAgentError to end it."""


_RunningT = TypeVar("_RunningT", bound=Running)


async def run_until_signalled(running: _RunningT, ready: Callable[[_RunningT], None]) -> None:
    """Run an agent or a bridge until SIGTERM or SIGINT, then stop it in order.

    systemd is told that it is still starting, when it is ready, that it is alive, and when it
    stops. Raises what `run` and `check` raise.
    """
    stop = asyncio.Event()
    notifier = Notifier()
    starting = asyncio.create_task(notifier.keep_starting())
    alive: list[asyncio.Task[None]] = []

    def signalled() -> None:
        starting.cancel()  # it would now ask for more time to stop
        notifier.send("STOPPING=1")
        stop.set()

    def told(started: _RunningT) -> None:
        starting.cancel()
        ready(started)
        notifier.send("READY=1")
        alive.append(asyncio.create_task(notifier.keep_alive(running.check)))
        alive[0].add_done_callback(lambda _: stop.set())

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    try:
        await running.run(stop, told)
    finally:
        for task in (starting, *alive):
            task.cancel()
        ends = await asyncio.gather(starting, *alive, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end
