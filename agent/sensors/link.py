"""One serial port, kept open for as long as it exists and opened again when it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import termios
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import serial  # type: ignore[import-untyped]

from agent.backoff import Backoff
from agent.errors import PortError
from agent.sensors.port_errors import explain_failure

LinkState = Literal["open", "waiting"]

_READ_SIZE = 65536
_MAX_BAUD = 2**31 - 1  # what the system call can express

_log = logging.getLogger(__name__)


class SerialLink:
    """Reads and writes one serial port from the event loop, and never blocks it.

    `path` is a device file; a name below /dev/serial/by-id stays the same when the device
    is plugged in elsewhere. `baud` is bits per second; the format is 8N1, without flow control.
    `write_timeout` is how many seconds a device may refuse to take bytes. Raises ValueError for
    a baud rate that no port can have.

    Opening a port raises DTR, which resets many boards, and drops what was received before.

    `state` is "open" or "waiting" (for the port). `last_error` says why it is waiting and what
    to do, and is None while it is open. `opens`, `bytes_received` and `bytes_sent` only grow.
    """

    def __init__(
        self,
        path: str,
        baud: int = 115200,
        *,
        backoff: Backoff | None = None,
        write_timeout: float = 10.0,
    ) -> None:
        if not 0 < baud <= _MAX_BAUD:
            raise ValueError(f"a baud rate cannot be {baud}")
        self.path = path
        self.baud = baud
        self.state: LinkState = "waiting"
        self.last_error: str | None = None
        self.opens = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self._backoff = backoff or Backoff(0.2, 5.0)
        self._write_timeout = write_timeout
        self._port: Any = None  # a serial.Serial while open; pyserial has no types
        self._write_lock = asyncio.Lock()
        self._write_waiter: asyncio.Future[None] | None = None

    async def run(
        self,
        on_data: Callable[[bytes], Awaitable[None] | None],
        on_open: Callable[[], None],
    ) -> None:
        """Serve the port until cancelled: `on_open` after each opening, then `on_data`.

        While an awaitable from `on_data` is pending nothing is read; the kernel holds a few
        kilobytes meanwhile, and what comes on top is lost. Never returns, and raises nothing
        because of the port: see `last_error`. A PortError out of the two callbacks (an answer
        that could not be written) makes it open the port again; anything else ends the run.
        """
        while True:
            try:
                port = await self._open()
                try:
                    self._opened(port)
                    on_open()
                    await self._read(port, on_data)
                finally:
                    self._detach(port)
                    # Closing waits until the device took what was written, which may be long.
                    await asyncio.to_thread(_close, port)
            except PortError as error:
                self._wait_for_port(str(error))
            await asyncio.sleep(self._backoff.next_delay())

    async def write(self, data: bytes) -> None:
        """Hand all of `data` to the operating system, in one piece among concurrent writers.

        Raises PortError when the port is not open, vanishes, or takes nothing for
        `write_timeout` seconds; part of `data` may have been sent then.
        """
        async with self._write_lock:
            port = self._port
            if port is None:
                raise PortError(self.last_error or f"{self.path}: the port is not open yet")
            view = memoryview(data)
            while view:
                if self._port is not port:
                    raise PortError(self._vanished())
                try:
                    written = os.write(port.fd, view)
                except BlockingIOError:
                    await self._writable(port)
                    continue
                except OSError as error:
                    raise PortError(self._vanished()) from error
                self.bytes_sent += written
                view = view[written:]

    async def _open(self) -> Any:
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(None, _open, self.path, self.baud)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread cannot be stopped: see that it leaves no locked port behind.
            with contextlib.suppress(PortError):
                await asyncio.to_thread(_close, await opening)
            raise

    async def _read(self, port: Any, on_data: Callable[[bytes], Awaitable[None] | None]) -> None:
        while True:
            await _readable(port.fd)
            try:
                data = os.read(port.fd, _READ_SIZE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise PortError(self._vanished()) from error
            if not data:
                raise PortError(self._vanished())
            self._backoff.reset()
            self.bytes_received += len(data)
            pending = on_data(data)
            if inspect.isawaitable(pending):
                await pending

    async def _writable(self, port: Any) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._write_waiter = waiter
        loop.add_writer(port.fd, _wake, waiter)
        try:
            async with asyncio.timeout(self._write_timeout):
                await waiter
        except TimeoutError as error:
            raise PortError(
                f"{self.path}: the device took no bytes for {self._write_timeout:g} s"
            ) from error
        finally:
            self._write_waiter = None
            if self._port is port:
                loop.remove_writer(port.fd)

    def _opened(self, port: Any) -> None:
        self._port = port
        self.state = "open"
        self.last_error = None
        self.opens += 1
        _log.info("%s: open", self.path)

    def _detach(self, port: Any) -> None:
        """Let go of the descriptor before it is closed: its number is soon somebody else's."""
        self._port = None
        self.state = "waiting"
        if self._write_waiter is not None:
            asyncio.get_running_loop().remove_writer(port.fd)
            _wake(self._write_waiter)

    def _wait_for_port(self, why: str) -> None:
        self.state = "waiting"
        if why != self.last_error:
            _log.warning("%s", why)
        self.last_error = why

    def _vanished(self) -> str:
        return f"{self.path}: the port has vanished; was the device unplugged or reset?"


def _open(path: str, baud: int) -> Any:
    """Open and configure the port. Blocks. Raises PortError."""
    try:
        # With this inter-byte timeout pyserial sets VMIN to 1. A read then returns nothing
        # only when the port is gone; with 0, "no data yet" would look the same.
        return serial.Serial(path, baud, exclusive=True, inter_byte_timeout=0)
    except (OSError, termios.error, ValueError) as error:
        raise PortError(explain_failure(path, error)) from error


def _close(port: Any) -> None:
    with contextlib.suppress(OSError, termios.error):
        port.close()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _wake, waiter)
    try:
        await waiter
    finally:
        loop.remove_reader(descriptor)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
