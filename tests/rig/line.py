"""A line between two programs that can be cut, slowed down and left dead. Needs no privileges."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from types import TracebackType
from typing import Self


class Line:
    """Passes TCP connections on to a port of this machine.

    The port at this end stays the same for as long as the line is there, so that who uses it finds
    it again, whatever it is connected to. With `tls` connections are encrypted up to here.
    """

    def __init__(
        self, target: int = 0, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.target = target
        """The port that new connections are passed on to."""
        self.delay = 0.0
        """Seconds that bytes take, each way."""
        self.lifetime: float | None = None
        """Seconds after which a new connection is cut, as impatient proxies do it."""
        self.accepted = 0
        """Connections so far."""
        self.port = 0
        self._host = host
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._dead: set[asyncio.Task[None]] = set()

    @property
    def is_cut(self) -> bool:
        return self._server is None

    async def mend(self) -> None:
        """Take connections; begins with it."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, self._host, self.port, ssl=self._tls
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse connections, and break those that there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.break_all()

    async def break_all(self) -> None:
        """Break all connections; new ones are taken."""
        tasks = list(self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def abandon(self) -> None:
        """What has connections now gets nothing through them any more, and is not told either."""
        self._dead |= self._serving

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.accepted += 1
        far: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self.lifetime):
                far_reader, far = await asyncio.open_connection("127.0.0.1", self.target)
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(task, reader, far))
                    both.create_task(self._pump(task, far_reader, writer))
        except (OSError, TimeoutError, ExceptionGroup, asyncio.CancelledError):
            pass  # cut, refused, or broken by either end
        finally:
            self._serving.discard(task)
            self._dead.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _pump(
        self,
        connection: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        last = 0.0
        while data := await reader.read(65536):
            if connection in self._dead:
                continue
            if self.delay or loop.time() < last:
                # What follows at once is as late, but does not wait for what is before it.
                last = max(last, loop.time() + self.delay)
                loop.call_at(last, _write, writer, data)
            else:
                writer.write(data)
                await writer.drain()
        if connection in self._dead:
            await asyncio.Event().wait()
        await asyncio.sleep(max(0.0, last - loop.time()))
        with contextlib.suppress(OSError):
            writer.write_eof()


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(data)
