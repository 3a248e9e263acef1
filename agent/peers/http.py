"""Requests to one CouchDB server: connections, log-in, limits.

Every failure comes out as one of `agent.errors`, as one line without a secret.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from agent.errors import (
    AuthError,
    ConfigError,
    ConnectError,
    NotCouchDBError,
    NotFoundError,
    TooLargeError,
)
from agent.peers.http_errors import connection_failures, error_body, not_couchdb, one_line, refusal
from agent.peers.traffic import CountedSocket, Traffic
from agent.peers.urls import AuthMode, Credentials, DatabaseUrl

OK = frozenset({200, 201, 202})
ANSWER_LIMIT = 32 * 1024 * 1024
"""Bytes of an answer that are read at most, after decompression."""

OnDate: TypeAlias = Callable[[str, float], None]
"""Called with an answer's Date, at once, and with when the request was sent, in seconds of
CLOCK_BOOTTIME."""

_T = TypeVar("_T")

_CONNECT_SECONDS = 10.0
_CONNECTIONS = 8
_ERROR_LIMIT = 64 * 1024
_SLOWEST_UPLOAD = 4096  # bytes a second; below that a link counts as dead
_SESSION_SECONDS = 550.0  # CouchDB's sessions end after 600 s unless it says otherwise
_NO_SESSIONS = frozenset({400, 404, 405, 501})


class MalformedJsonError(NotCouchDBError):
    """An answer with something in it that is not JSON: a half surrogate, bytes that are not UTF-8,
    thousands of nested lists."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer that was read completely. `where` is the database's URL."""

    where: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, kind: type[_T]) -> _T:
        """The body as `kind`.

        Raises NotCouchDBError for anything but such JSON: MalformedJsonError for what is almost
        JSON; and ConnectError for the beginning of an answer only.
        """
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.ValidationError as error:
            raise NotCouchDBError(
                f"{self.where} answered in a way that CouchDB does not ({one_line(error)}); check "
                "the URL",
                status=self.status,
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            body = self.body.strip()
            if body[:1] not in (b"{", b"["):
                raise not_couchdb(self.where, self.status, self.headers) from None
            if body[-1:] not in (b"}", b"]"):
                raise ConnectError(f"{self.where} sent half an answer; try again") from None
            raise MalformedJsonError(
                f"{self.where} sent JSON that cannot be read ({one_line(error)}); check the server",
                status=self.status,
            ) from None


@dataclass(frozen=True, slots=True)
class StreamedBody:
    """A request's body that is made as it is sent: `pieces` are `length` bytes together.

    `pieces` is called again when the request has to be repeated.
    """

    content_type: str
    length: int
    pieces: Callable[[], AsyncIterator[bytes]]


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
        self._credentials = credentials
        self._on_date = on_date
        self._auth = auth
        self._ca_file = ca_file
        self._headers = {"Accept": "application/json", "User-Agent": "edge-sync-agent"}
        self._headers.update(headers or {})
        self._basic = auth == "basic"
        self._cookie: str | None = None
        self._cookie_until = 0.0
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._logging_in = asyncio.Lock()

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
        compressed.
        """
        with connection_failures(self.where):
            response = await self._send(
                method, path, query, body, silence or self.timeout, unbuffered=unbuffered
            )
            async with response:
                if response.status not in accept:
                    raise await self._refusal(method, path, response)
                content = await _read(response, limit)
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

        It returns b"" at the end and raises ConnectError after `silence` seconds without a byte.
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
                return await response.content.readany()

        return read

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
        cookie, headers = await self._authorization()
        response = await self._exchange(
            method, path, query, body, silence, headers | extra, decompress=decompress
        )
        if response.status == 401 and cookie is not None:
            response.release()
            if cookie == self._cookie:
                self._cookie = None  # it has expired before its time: a new secret, a restart
            cookie, headers = await self._authorization()
            response = await self._exchange(
                method, path, query, body, silence, headers | extra, decompress=decompress
            )
        if self._credentials is not None and not self._basic:
            self._keep_cookie(response)
        return response

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | StreamedBody | None,
        silence: float,
        headers: dict[str, str],
        *,
        decompress: bool = True,
    ) -> aiohttp.ClientResponse:
        session = await self._open()
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
                    context = await asyncio.to_thread(self._tls_context)  # reads many files
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

    def _tls_context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"ca_file {str(self._ca_file)!r} cannot be used ({one_line(error)}); give a file "
                "with certificates in PEM format"
            ) from None

    async def _refusal(self, method: str, path: str, response: aiohttp.ClientResponse) -> Exception:
        body = await _read(response, _ERROR_LIMIT)
        user = self._credentials.user if self._credentials else None
        request = f"{method} {path}"
        return refusal(self.where, request, response.status, response.headers, body, user)

    # --- log-in: CouchDB documentation, "API Reference > Server > Authentication" ----------

    async def _authorization(self) -> tuple[str | None, dict[str, str]]:
        """The session cookie in use, if any, and the headers that authorize a request."""
        if self._credentials is None:
            return None, {}
        if not self._basic:
            async with self._logging_in:
                # Before it expires, not after: CouchDB takes a request with an expired cookie as
                # anonymous, and a database that is open to all would not answer 401.
                if self._cookie is None or time.monotonic() >= self._cookie_until:
                    await self._log_in(self._credentials)
        if self._basic:
            return None, _basic(self._credentials)
        return self._cookie, {"Cookie": f"AuthSession={self._cookie}"}

    async def _log_in(self, credentials: Credentials) -> None:
        form = urlencode({"name": credentials.user, "password": credentials.password})
        # With require_valid_user CouchDB wants a log-in even for the log-in.
        headers = {"Content-Type": "application/x-www-form-urlencoded", **_basic(credentials)}
        path = "/_session"
        self._cookie = None
        async with await self._exchange(
            "POST", path, None, form.encode(), self.timeout, headers
        ) as response:
            if response.status in OK:
                self._keep_cookie(response)
                if self._cookie is None and error_body(await _read(response, _ERROR_LIMIT)) is None:
                    raise not_couchdb(self.where, response.status, response.headers)
            elif response.status not in _NO_SESSIONS:
                raise await self._refusal("POST", path, response)
        if self._cookie is None:
            if self._auth == "cookie":
                raise AuthError(
                    f"{self.where} offers no sessions ({response.status}); use auth = 'basic'",
                    status=response.status,
                )
            self._basic = True

    def _keep_cookie(self, response: aiohttp.ClientResponse) -> None:
        """Take the session's cookie; CouchDB renews it as it is used."""
        morsel = response.cookies.get("AuthSession")
        if morsel is not None and morsel.value:
            self._cookie = morsel.value
            age = morsel["max-age"]
            seconds = 0.9 * int(age) if age.isascii() and age.isdigit() else _SESSION_SECONDS
            self._cookie_until = time.monotonic() + seconds


def _basic(credentials: Credentials) -> dict[str, str]:
    pair = f"{credentials.user}:{credentials.password}".encode()
    return {"Authorization": "Basic " + base64.b64encode(pair).decode()}


def _closed_while_idle(error: aiohttp.ClientConnectionError) -> bool:
    """Whether this is what sending over a connection looks like that the server had closed."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    if isinstance(error, aiohttp.ClientOSError) and error.errno is not None:
        return error.errno in (errno.ECONNRESET, errno.EPIPE)
    return isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientConnectionResetError)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body; a longer one is cut off somewhere after `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    while size <= limit and (part := await response.content.readany()):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
