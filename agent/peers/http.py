"""Requests to one CouchDB server: connections and limits.

Every failure comes out as one of `agent.errors`, as one line without a secret.
"""

from __future__ import annotations

import asyncio
import errno
import io
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from agent.errors import (
    NotCouchDBError,
    NotFoundError,
    TooLargeError,
)
from agent.peers.authorities import trusting
from agent.peers.http_errors import connection_failures, refusal
from agent.peers.http_login import HttpLogin
from agent.peers.http_messages import OK, Answer, StreamedBody
from agent.peers.traffic import CountedSocket, Traffic
from agent.peers.urls import AuthMode, Credentials, DatabaseUrl

ANSWER_LIMIT = 32 * 1024 * 1024
"""Bytes of an answer that are read at most, after decompression."""

OnDate: TypeAlias = Callable[[str, float], None]
"""Called with an answer's Date, at once, and with when the request was sent, in seconds of
CLOCK_BOOTTIME."""

_CONNECT_SECONDS = 10.0
_CONNECTIONS = 8
_ERROR_LIMIT = 64 * 1024
_SLOWEST_UPLOAD = 4096  # bytes a second; below that a link counts as dead


class HttpClient:
    """HTTP to the server of one database, opened with the first request.

    `timeout` (seconds) is the longest silence while an answer is awaited or read. Redirects are
    not followed: they would take the password to another host.
    """

    def __init__(
        self,
        url: DatabaseUrl,
        credentials: Credentials | None,
        *,
        auth: AuthMode,
        ca_file: str | Path | None,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        on_date: OnDate | None = None,
    ) -> None:
        """`headers` go with every request. `on_date` is told what time answers have."""
        self.url = url
        self.where = str(url)
        self.timeout = timeout
        self.traffic = Traffic()
        self._login = None if credentials is None else HttpLogin(credentials, auth, self._post_form)
        self._on_date = on_date
        self._ca_file = ca_file
        self._headers = {"Accept": "application/json", "User-Agent": "edge-sync-agent"}
        self._headers.update(headers or {})
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        async with self._opening:
            session, self._session = self._session, None
            if session is not None:
                await session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | StreamedBody | None = None,
        accept: Collection[int] = OK,
        limit: int = ANSWER_LIMIT,
        silence: float | None = None,
        unbuffered: bool = False,
    ) -> Answer:
        """Send a request and read the whole answer.

        `path` starts with a slash and is percent-encoded; it is relative to `url.server`. `body`
        is JSON if it is bytes. Raises the matching error for a status that is not in `accept`, and
        TooLargeError when the answer exceeds `limit` bytes. `silence` (seconds) stands in for
        `timeout`. `unbuffered` asks for an answer that is sent as it is made, that is, not
        compressed. After a `silence` all other connections are given up, too.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(connection_failures(self.where))
            if silence is not None:
                await stack.enter_async_context(self._given_up_when_silent())
            response = await self._send(
                method, path, query, body, silence or self.timeout, unbuffered=unbuffered
            )
            async with response:
                if response.status not in accept:
                    raise await self._refusal(method, path, response)
                content = await self._read(response, limit)
                if len(content) > limit:
                    raise TooLargeError(
                        f"{self.where} answered {method} {path} with more than {limit >> 20} MiB; "
                        "ask for less at once"
                    )
                return Answer(self.where, response.status, response.headers, content)

    @asynccontextmanager
    async def stream(
        self, path: str, *, query: Mapping[str, str], silence: float, body: bytes | None = None
    ) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
        """GET an answer without an end, or POST for one if there is a `body`, which is JSON.

        Gives a function that waits for the next bytes.

        It returns b"" at the end and raises ConnectError after `silence` seconds without a byte;
        then all other connections are given up, too.
        """
        method = "GET" if body is None else "POST"
        with connection_failures(self.where):
            response = await self._send(method, path, query, body, silence, unbuffered=True)
        async with response:
            if response.status not in OK:
                with connection_failures(self.where):
                    raise await self._refusal(method, path, response)

            try:
                yield self._reader(response)
            finally:
                response.close()

    def _reader(self, response: aiohttp.ClientResponse) -> Callable[[], Awaitable[bytes]]:
        """Waits for the next bytes of an answer, b"" at the end."""

        async def read() -> bytes:
            with connection_failures(self.where):
                async with self._given_up_when_silent():
                    return await response.content.readany()

        return read

    @asynccontextmanager
    async def _given_up_when_silent(self) -> AsyncIterator[None]:
        """Close all connections when one falls silent that has to show signs of life.

        The others go the same way, and who uses them would wait in vain for longer.
        """
        try:
            yield
        except TimeoutError:
            await self.close()
            raise

    @asynccontextmanager
    async def download(
        self, path: str, *, query: Mapping[str, str], encoding: str | None
    ) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
        """GET something large. Gives a function that waits for the next bytes, b"" at the end.

        `encoding` is that in which it is to come, None for none. Raises NotFoundError for 404.
        """
        extra = {"Accept-Encoding": encoding or "identity"}
        with connection_failures(self.where):
            response = await self._send(
                "GET", path, query, None, self.timeout, extra=extra, decompress=encoding is None
            )
        async with response:
            with connection_failures(self.where):
                if response.status == 404:
                    raise NotFoundError(f"{self.where}: GET {path}: not found")
                if response.status not in OK:
                    raise await self._refusal("GET", path, response)
            if encoding is not None and response.headers.get("Content-Encoding") != encoding:
                raise NotCouchDBError(
                    f"{self.where} did not send {path} as {encoding}, as it is stored; check what "
                    "stands between here and the server",
                    status=response.status,
                )

            try:
                yield self._reader(response)
            finally:
                if not response.content.at_eof():
                    response.close()

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | StreamedBody | None,
        silence: float,
        *,
        unbuffered: bool = False,
        extra: Mapping[str, str] | None = None,
        decompress: bool = True,
    ) -> aiohttp.ClientResponse:
        extra = dict(extra or {})
        if unbuffered:
            # Servers and proxies collect what they compress: heartbeats would be held back.
            extra["Accept-Encoding"] = "identity"
        exchange = partial(
            self._exchange, method, path, query, body, silence, decompress=decompress
        )
        if self._login is None:
            return await exchange(extra)
        headers = await self._login.headers()
        response = await exchange(headers | extra)
        if response.status == 401 and self._login.has_expired(headers):
            response.release()
            response = await exchange(await self._login.headers() | extra)
        self._login.renew(response.cookies)
        return response

    async def _post_form(
        self, path: str, form: bytes, headers: Mapping[str, str], *, accept: Collection[int]
    ) -> tuple[Answer, SimpleCookie]:
        async with await self._exchange(
            "POST", path, None, form, self.timeout, headers
        ) as response:
            if response.status not in accept:
                raise await self._refusal("POST", path, response)
            body = await self._read(response, _ERROR_LIMIT) if response.status in OK else b""
            return Answer(self.where, response.status, response.headers, body), response.cookies

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | StreamedBody | None,
        silence: float,
        headers: Mapping[str, str],
        *,
        decompress: bool = True,
    ) -> aiohttp.ClientResponse:
        text = self.url.server + path
        if query:
            text += "?" + urlencode(query, quote_via=quote)
        size = 0
        if isinstance(body, StreamedBody):
            size = body.length
            sent = {"Content-Type": body.content_type, "Content-Length": str(size)}
            headers = {**sent, **headers}
        elif body is not None or method == "POST":
            size = len(body or b"")
            headers = {"Content-Type": "application/json", **headers}
        # aiohttp's read time-out begins when the body is sent, so sending needs one of its own.
        deadline = _CONNECT_SECONDS + silence + size / _SLOWEST_UPLOAD

        def data() -> Any:
            if isinstance(body, StreamedBody):
                return body.pieces()
            return None if body is None else io.BytesIO(body)  # sent in pieces

        async def attempt() -> aiohttp.ClientResponse:
            session = await self._open()
            sent = time.clock_gettime(time.CLOCK_BOOTTIME)
            async with asyncio.timeout(deadline):
                response = await session.request(
                    method,
                    URL(text, encoded=True),
                    data=data(),
                    headers=headers,
                    auto_decompress=decompress,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=None, sock_connect=_CONNECT_SECONDS, sock_read=silence
                    ),
                )
            date = response.headers.get("Date")
            # With an Age it is from a cache, and that of an earlier answer.
            if self._on_date and date and response.status < 400 and "Age" not in response.headers:
                self._on_date(date, sent)
            return response

        try:
            return await attempt()
        except aiohttp.ClientConnectionError as error:
            if not _closed_while_idle(error):
                raise
            return await attempt()  # repeating is safe: all calls are idempotent

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                context: ssl.SSLContext | bool = True
                if self.url.server.startswith("https:"):
                    context = await asyncio.to_thread(trusting, self._ca_file)  # reads many files
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(
                        limit=_CONNECTIONS, ssl=context, socket_factory=self._socket
                    ),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers=self._headers,
                )
            return self._session

    def _socket(self, address: aiohttp.AddrInfoType) -> CountedSocket:
        family, kind, protocol, _, _ = address
        sock = CountedSocket(family, kind, protocol, self.traffic)
        # Otherwise a connection given up with data unsent would stay, with the data, for long: the
        # kernel goes on for 15 minutes, and for ever with a server that is there but does not read.
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(self.timeout * 1000))
        )
        return sock

    async def _refusal(self, method: str, path: str, response: aiohttp.ClientResponse) -> Exception:
        body = await self._read(response, _ERROR_LIMIT)
        user = None if self._login is None else self._login.user
        request = f"{method} {path}"
        return refusal(self.where, request, response.status, response.headers, body, user)

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """The body; a longer one is cut off somewhere after `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        while size <= limit and (part := await response.content.readany()):
            parts.append(part)
            size += len(part)
        if 300 <= response.status < 400 or response.content_type == "text/html":
            # A network's log-in page. Its connections lead nowhere else, also when it has gone.
            await self.close()
        return b"".join(parts)


def _closed_while_idle(error: aiohttp.ClientConnectionError) -> bool:
    """Whether this is what sending over a connection looks like that the server had closed."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    if isinstance(error, aiohttp.ClientOSError) and error.errno is not None:
        return error.errno in (errno.ECONNRESET, errno.EPIPE)
    return isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientConnectionResetError)
