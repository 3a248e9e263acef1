"""Tells systemd how the program goes: sd_notify(3), and systemd.service(5) on WatchdogSec= and
TimeoutStartSec=."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Mapping

_LOOK = 30.0
"""Seconds between checks where systemd does not ask."""

_PINGS = 3
"""In the time that systemd waits for one: a late one must not end the program."""

_LONGEST_START = 3600.0
"""Seconds after which a start that still works gets no more time: it may go in a circle."""

_LEAST_WORK = 0.01
"""Seconds of work in a second. Tasks that wait and look now and then do less."""

_BLOCKS_A_SECOND = 20_000
"""Of 512 bytes: what a slow disk reads or writes."""


class Notifier:
    """Sends messages to whoever started the program, if it asked for any."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading '@' stands for the null byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = _watchdog(environment) if address else None
        """Seconds after which systemd ends a program that gave no sign of life, or None."""

    def send(self, message: str) -> None:
        """Such as `READY=1`. Nothing happens where nobody listens."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            try:
                channel.sendto(message.encode(), self._address)
            except OSError:
                # systemd is restarting, or its queue is full; the next message comes soon.
                return

    async def keep_alive(self, check: Callable[[], Awaitable[None]]) -> None:
        """Check again and again; each time that `check` returns, systemd is told so.

        A check that hangs, or an event loop that does, lets systemd restart the program. Raises
        what `check` raises.
        """
        while True:
            await check()
            if self.watchdog is not None:
                self.send("WATCHDOG=1")
            await asyncio.sleep(self._pause)

    async def keep_starting(self) -> None:
        """Ask for more time again and again, as long as this process is at work.

        A start may have to bring a large store up to date, or to copy a damaged one. One that hangs
        asks for none.
        """
        end = time.monotonic() + _LONGEST_START
        done, since = _work_done(), time.monotonic()
        while since < end:
            await asyncio.sleep(self._pause)
            before, done = done, _work_done()
            last, since = since, time.monotonic()
            if done - before > _LEAST_WORK * (since - last):
                self.send(f"EXTEND_TIMEOUT_USEC={self._pause * _PINGS * 1e6:.0f}")

    @property
    def _pause(self) -> float:
        return _LOOK if self.watchdog is None else self.watchdog / _PINGS


def _work_done() -> float:
    """In seconds, of processors and disks."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    blocks = used.ru_inblock + used.ru_oublock
    return used.ru_utime + used.ru_stime + blocks / _BLOCKS_A_SECOND


def _watchdog(environment: Mapping[str, str]) -> float | None:
    microseconds = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdecimal() or int(microseconds) == 0 or meant != str(os.getpid()):
        return None
    return int(microseconds) / 1e6
