"""Counts what crosses a TCP connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

_AT_ONCE = 256 * 1024


class Wire:
    """Passes on what comes to a port of its own to another one, and counts the bytes.

    Use it as `async with Wire(port).open():`.
    """

    def __init__(self, port: int) -> None:
        """`port` is that of the server, on the loopback interface."""
        self.port = 0
        """To connect to in place of the server's."""
        self.bytes = 0
        """Of all connections, in both directions, without the headers of TCP."""
        self._to = port
        self._passing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._passing:
                task.cancel()
            await asyncio.gather(*self._passing, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        for source, target in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pass_on(source, target))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.closing(target), contextlib.suppress(ConnectionError):
            while data := await source.read(_AT_ONCE):
                self.bytes += len(data)
                target.write(data)
                await target.drain()
