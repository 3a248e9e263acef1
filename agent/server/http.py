"""Listening: from an application to a port, and back to nothing."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import resource
import ssl

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agent.errors import PermanentError

log = logging.getLogger(__name__)
_request_log = logging.getLogger(__name__ + ".requests")

_GRACE = 5.0
"""Seconds that requests get to finish once the server stops; feeds end by themselves."""

_MOST_CONNECTIONS = 5000
"""At the same time. Each takes from 8 to 16 KiB, whether it asks for something or not."""

_BACKLOG = 128
"""Connections that the system holds until they are taken."""

_LONGEST_LINE = 32 * 1024
"""Bytes of a request's first line: `open_revs` makes long ones."""


def _without_traceback(record: logging.LogRecord) -> bool:
    """A client that speaks no HTTP is worth a line in the log, no more: it could fill it up."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, "INFO"
        # Its message may have a part of the request, such as a cookie.
        record.msg, record.args = "a request that is not HTTP: %s", (type(error).__name__,)
    return True


_request_log.addFilter(_without_traceback)


class Server:
    """A server that listens. `port` is the one that the system chose where 0 was asked for."""

    def __init__(
        self,
        runner: web.AppRunner,
        listening: asyncio.Server,
        scheme: str,
        host: str,
    ) -> None:
        """Use `serve`."""
        self._runner = runner
        self._listening = listening
        self._scheme = scheme
        self.host = host
        self.port: int = listening.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

    async def close(self) -> None:
        """Stop listening, end the feeds with their `last_seq`, let other requests finish."""
        self._listening.close()
        await self._runner.cleanup()


class _Connections:
    """Makes what answers a connection, unless there are too many."""

    def __init__(self, server: web.Server) -> None:
        self._server = server
        # Databases and devices need files, too.
        self._most = min(_MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._full = False

    def __call__(self) -> asyncio.Protocol:
        was_full, self._full = self._full, len(self._server.connections) >= self._most
        if not self._full:
            return self._server()
        if not was_full:
            log.warning("%d connections are open; no more are taken for now", self._most)
        return _Refused()


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def check_host(host: str, *, has_users: bool) -> None:
    """Raises PermanentError for a host that is no loopback address, where there are no users."""
    if not has_users and not is_loopback(host):
        raise PermanentError(
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

    `has_users`: requests from elsewhere need a log-in. Raises PermanentError: the host is not a
    loopback address and there are no users, or the port is taken.
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
        auto_decompress=False,  # attachments are stored as they come
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - it is set up
    loop = asyncio.get_running_loop()
    try:
        listening = await loop.create_server(
            _Connections(runner.server), host, port, ssl=tls, backlog=_BACKLOG
        )
    except OSError as error:
        await runner.cleanup()
        raise PermanentError(_refusal(host, port, error)) from error
    return Server(runner, listening, "http" if tls is None else "https", host)


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
