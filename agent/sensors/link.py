"""One serial port, kept open for as long as it exists and opened again when it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import termios
from collections.abc import Awaitable, Callable
from typing import Literal

from agent.backoff import Backoff
from agent.errors import PortError
from agent.sensors.opening import LineFormat, OpenPort, open_port

LinkState = Literal["open", "waiting"]

_READ_SIZE = 65536
_MOST_OUTGOING = 4096
_MAX_BAUD = 2**31 - 1  # what the system call can express

_log = logging.getLogger(__name__)


class SerialLink:
    """Reads and writes one serial port from the event loop, and never blocks it.

    `path` is any name that `ports` knows; which port it means is looked up whenever it is opened.
    `baud` is bits per second, `line` the format, 8N1 unless given.
    `write_timeout` is how many seconds a device may refuse to take bytes. Raises ValueError for
    a baud rate that no port can have.

    Opening a port raises DTR, which resets many boards, and drops what was received before.
    Closing leaves DTR as it is, so that opening it once more, in another process too, resets
    nothing: a board keeps what it has not got rid of.

    `state` is "open" or "waiting" (for the port). `last_error` says why it is waiting and what
    to do, and is None while it is open. `opens`, `bytes_received` and `bytes_sent` only grow.
    """

    def __init__(
        self,
        path: str,
        baud: int = 115200,
        *,
        line: LineFormat | None = None,
        backoff: Backoff | None = None,
        write_timeout: float = 10.0,
    ) -> None:
        if not 0 < baud <= _MAX_BAUD:
            raise ValueError(f"a baud rate cannot be {baud}")
        self.path = path
        self.baud = baud
        self.line = line or LineFormat()
        self.state: LinkState = "waiting"
        self.last_error: str | None = None
        self.opens = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self._backoff = backoff or Backoff(0.2, 5.0)
        self._write_timeout = write_timeout
        self._port: OpenPort | None = None
        self._write_lock = asyncio.Lock()
        self._write_waiter: asyncio.Future[None] | None = None
        self._outgoing = bytearray()
        self._has_outgoing = asyncio.Event()

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
                    await self._serve(port, on_data)
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
                    written = os.write(port.fileno(), view)
                except BlockingIOError:
                    await self._writable(port)
                    continue
                except OSError as error:
                    raise PortError(self._vanished()) from error
                self.bytes_sent += written
                view = view[written:]

    def send(self, data: bytes) -> bool:
        """Have all of `data` written when the device takes it; never waits.

        False says that it will not be: the port is not open, or 4096 bytes wait already. If the
        port vanishes meanwhile, or takes nothing for `write_timeout` seconds, then `run` opens it
        again, and what waits is forgotten.
        """
        if self._port is None or len(self._outgoing) + len(data) > _MOST_OUTGOING:
            return False
        self._outgoing += data
        self._has_outgoing.set()
        return True

    async def _open(self) -> OpenPort:
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(None, open_port, self.path, self.baud, self.line)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread cannot be stopped: see that it leaves no locked port behind.
            with contextlib.suppress(PortError):
                await asyncio.to_thread(_close, await opening)
            raise

    async def _serve(
        self, port: OpenPort, on_data: Callable[[bytes], Awaitable[None] | None]
    ) -> None:
        """Read the port, and write what is to be sent, until one of the two fails."""
        tasks = {
            asyncio.create_task(self._read(port, on_data)),
            asyncio.create_task(self._write_outgoing()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write_outgoing(self) -> None:
        while True:
            await self._has_outgoing.wait()
            data = bytes(self._outgoing)
            self._outgoing.clear()
            self._has_outgoing.clear()
            await self.write(data)

    async def _read(
        self, port: OpenPort, on_data: Callable[[bytes], Awaitable[None] | None]
    ) -> None:
        while True:
            await _readable(port.fileno())
            try:
                data = os.read(port.fileno(), _READ_SIZE)
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

    async def _writable(self, port: OpenPort) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._write_waiter = waiter
        loop.add_writer(port.fileno(), _wake, waiter)
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
                loop.remove_writer(port.fileno())

    def _opened(self, port: OpenPort) -> None:
        self._port = port
        self.state = "open"
        self.last_error = None
        self.opens += 1
        _log.info("%s: open", self.path)

    def _detach(self, port: OpenPort) -> None:
        """Let go of the descriptor before it is closed: its number is soon somebody else's."""
        self._port = None
        self.state = "waiting"
        self._outgoing.clear()
        self._has_outgoing.clear()
        if self._write_waiter is not None:
            asyncio.get_running_loop().remove_writer(port.fileno())
            _wake(self._write_waiter)

    def _wait_for_port(self, why: str) -> None:
        self.state = "waiting"
        if why != self.last_error:
            _log.warning("%s", why)
        self.last_error = why

    def _vanished(self) -> str:
        return f"{self.path}: the port has vanished; was the device unplugged or reset?"


def _close(port: OpenPort) -> None:
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
