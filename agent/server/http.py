"""Listening: from an application to a port, and back to nothing."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import resource
import socket
import ssl
from collections.abc import Callable
from weakref import WeakSet

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agent.errors import ConfigError, PermanentError
from agent.resources import memory

log = logging.getLogger(__name__)
_request_log = logging.getLogger(__name__ + ".requests")

_GRACE = 5.0
"""Seconds that requests get to finish once the server stops; feeds end by themselves."""

_MOST_CONNECTIONS = 5000
"""At the same time, if there is memory for so many."""

_PLAIN, _ENCRYPTED = 16 * 1024, 320 * 1024
"""Bytes that a connection takes, whether it asks for something or not. asyncio has a buffer of
256 KiB for each with TLS, from the first byte of the handshake on, or before that."""

_BACKLOG = 128
"""Connections that the system holds until they are taken."""

_IDLE = 120.0
"""Seconds after which a connection is closed that asks for nothing, or not to the end. Proxies and
clients that keep connections give them up earlier, so that none is closed under a request."""

_LONGEST_LINE = 32 * 1024
"""Bytes of a request's first line: `open_revs` makes long ones."""


def _without_traceback(record: logging.LogRecord) -> bool:
    """A client that speaks no HTTP is worth a line for who asks for information, no more."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, "INFO"
        # Its message may have a part of the request, such as a cookie.
        record.msg, record.args = "a request that is not HTTP: %s", (type(error).__name__,)
        return _request_log.isEnabledFor(record.levelno)
    return True


_request_log.addFilter(_without_traceback)


class Server:
    """A server that listens. `port` is the one that the system chose where 0 was asked for."""

    def __init__(
        self,
        runner: web.AppRunner,
        connections: _Connections,
        scheme: str,
        host: str,
        port: int,
    ) -> None:
        """Use `serve`."""
        self._runner = runner
        self._connections = connections
        self._scheme = scheme
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

    async def close(self) -> None:
        """Stop listening, end the feeds with their `last_seq`, let other requests finish."""
        self._connections.ended = True
        # What asyncio has accepted it makes a transport of in the next turn of the loop, for which
        # the server has to be open; otherwise it leaves the connection to the garbage collector.
        await asyncio.sleep(0)
        await self._runner.cleanup()


class _Connections:
    """Those that are open, which are counted from the beginning: aiohttp knows of none before its
    TLS is set up."""

    def __init__(self, most: int) -> None:
        self.ended = False
        """No more are accepted."""
        self._most = most
        self._open: WeakSet[_Connection] = WeakSet()
        self._full = False

    def take(self, taken: socket.socket) -> socket.socket:
        """Raises ConnectionAbortedError for one too many, which is closed."""
        was_full, self._full = self._full, len(self._open) >= self._most
        if not self._full:
            connection = _Connection(taken, self._open.discard)
            self._open.add(connection)
            return connection
        taken.close()
        if not was_full:
            log.warning("%d connections are open; no more are taken for now", self._most)
        raise ConnectionAbortedError


class _Connection(socket.socket):
    """In place of another socket. `closed` is told when it is closed."""

    def __init__(self, taken: socket.socket, closed: Callable[[_Connection], None]) -> None:
        super().__init__(taken.family, taken.type, taken.proto, taken.detach())
        self._told = closed

    def close(self) -> None:
        super().close()
        self._told(self)


class _Listening(socket.socket):
    """In place of another socket, which is bound."""

    def __init__(self, bound: socket.socket, connections: _Connections) -> None:
        super().__init__(bound.family, bound.type, bound.proto, bound.detach())
        self._connections = connections

    def accept(self) -> tuple[socket.socket, object]:
        """As accept(2) may, it raises ConnectionAbortedError, after which asyncio goes on, and
        BlockingIOError: there is none."""
        if self._connections.ended:
            raise BlockingIOError
        taken, address = super().accept()
        return self._connections.take(taken), address


def check_host(host: str, *, has_users: bool) -> None:
    """Raises ConfigError for a host that is no loopback address, where there are no users."""
    if not has_users and not is_loopback(host):
        raise ConfigError(
            f"{host}: the server listens on loopback only until a user is configured, because "
            "until then everybody is an administrator; add one with edge-agent user add, or "
            "give 127.0.0.1 or ::1"
        )


async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    has_users: bool = False,
    tls: ssl.SSLContext | None = None,
) -> Server:
    """Listen on an address of this machine; port 0 lets the system choose.

    `has_users`: requests from elsewhere need a log-in. Raises ConfigError: the host is not a
    loopback address and there are no users; PermanentError: the port is taken.
    """
    check_host(host, has_users=has_users)
    if tls is None and not is_loopback(host):
        log.warning(
            "passwords and documents cross the network unencrypted, because the server "
            "listens on %s without TLS; set server.tls_certificate and server.tls_key",
            host,
        )
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_request_log,
        max_line_size=_LONGEST_LINE,
        shutdown_timeout=_GRACE,
        keepalive_timeout=_IDLE,
        auto_decompress=False,  # attachments are stored as they come
    )
    await runner.setup()
    most = await asyncio.to_thread(_most_connections, encrypted=tls is not None)
    connections = _Connections(most)
    listening: list[socket.socket] = []
    try:
        listening = [_Listening(each, connections) for each in await _bound(host, port)]
        for each in listening:
            await web.SockSite(runner, each, ssl_context=tls, backlog=_BACKLOG).start()
    except OSError as error:
        await runner.cleanup()
        for each in listening:
            each.close()
        raise PermanentError(_refusal(host, port, error)) from error
    port = listening[0].getsockname()[1]
    return Server(runner, connections, "http" if tls is None else "https", host, port)


def _most_connections(*, encrypted: bool) -> int:
    """Databases and devices need files, and everything needs memory. Reads files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = _ENCRYPTED if encrypted else _PLAIN
    return min(_MOST_CONNECTIONS, files // 2, memory() // 4 // each)


async def _bound(host: str, port: int) -> list[socket.socket]:
    """Sockets for all addresses that a host has. Raises OSError."""
    loop = asyncio.get_running_loop()
    async with await loop.create_server(
        asyncio.Protocol, host, port, start_serving=False
    ) as server:
        return [each.dup() for each in server.sockets]


def _refusal(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{host}:{port} is in use by another program; stop it, or choose another port"
    if error.errno == errno.EACCES:
        return f"{host}:{port} needs root's rights; choose a port above 1023"
    return f"{host}:{port}: cannot listen ({error.strerror}); choose another address"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
