"""Listening: from an application to a port, and back to nothing."""

from __future__ import annotations

import errno
import ipaddress
import logging
import ssl

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agent.errors import PermanentError

log = logging.getLogger(__name__)
_request_log = logging.getLogger(__name__ + ".requests")

_GRACE = 5.0
"""Seconds that requests get to finish once the server stops; feeds end by themselves."""

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

    def __init__(self, runner: web.AppRunner, scheme: str, host: str, port: int) -> None:
        """Use `serve`."""
        self._runner = runner
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
        await self._runner.cleanup()


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
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls)
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise PermanentError(_refusal(host, port, error)) from error
    scheme = "http" if tls is None else "https"
    return Server(runner, scheme, host, int(runner.addresses[0][1]))


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
