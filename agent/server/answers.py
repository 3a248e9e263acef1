"""Answers: JSON, streams of JSON, and CouchDB's errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from agent import __version__
from agent.errors import (
    ConflictError,
    DocumentError,
    EdgeAgentError,
    MissingStubError,
    NotFoundError,
    RequestError,
    StoreBusyError,
    StoreExistsError,
    StoreFilesError,
    StoreHeldError,
    StoreWriteError,
    TooLargeError,
)

_COLLECTED = 64 * 1024
"""Bytes of a stream that come together before they are sent, unless said otherwise."""

_LATER = "10"
"""Seconds: what keeps a write from being stored, such as a full disk, seldom passes sooner."""

_HEADERS = {
    "Cache-Control": "must-revalidate",
    "Content-Type": "application/json",
    "Server": f"edge-sync-agent/{__version__}",
}
_encoder = msgspec.json.Encoder()
_TAGS = re.compile(r'(?:W/)?("[^"]*")')
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


def json_text(value: Any) -> str:
    """The JSON text of a value."""
    return _encoder.encode(value).decode()


def answer(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON answer. It ends with a line break, as CouchDB's do."""
    return text_answer(_encoder.encode(value), status=status, headers=headers)


def text_answer(
    body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An answer whose body is JSON already."""
    return web.Response(
        body=body + b"\n", status=status, headers={**_HEADERS, **headers} if headers else _HEADERS
    )


def etag(rev: object) -> str:
    """The ETag of a revision. What headers cannot have in them, a foreign hash may, is escaped."""
    text = _CONTROLS.sub(lambda found: f"%{ord(found[0]):02X}", str(rev))
    return f'"{text}"'


def has_already(request: web.Request, tag: str) -> bool:
    """Whether `If-None-Match` says that the client has what `tag` stands for (RFC 9110, 13.1.2)."""
    given = ", ".join(request.headers.getall("If-None-Match", ())).strip()
    return given in (tag, "*") or tag in _TAGS.findall(given)


def accepts_encoding(request: web.Request, encoding: str) -> bool:
    """Whether `Accept-Encoding` lists an encoding (RFC 9110, 12.5.3)."""
    for entry in request.headers.get("Accept-Encoding", "").split(","):
        name, *parameters = [part.strip().lower() for part in entry.split(";")]
        if name == encoding:
            return "q=0" not in parameters
    return False


def not_modified(tag: str) -> web.Response:
    """304, without a body."""
    return web.Response(status=304, headers={**_HEADERS, "ETag": tag})


BASIC_HEADERS = {name: value for name, value in _HEADERS.items() if name != "Content-Type"}
"""For answers that are not JSON."""


class Stream:
    """An answer of any length, of which only a piece is in memory.

    Nothing is sent before `collected` bytes have come together or `flush` is called, so an error up
    to then still gets its own status, and a short answer its length. A client that does not read
    holds `write` up.
    """

    def __init__(
        self,
        request: web.Request,
        *,
        headers: Mapping[str, str] | None = None,
        collected: int = _COLLECTED,
    ) -> None:
        self._request = request
        self._collected = collected
        self._headers = {**_HEADERS, **headers} if headers else _HEADERS
        self._parts: list[str] = []
        self._size = 0
        self._response: web.StreamResponse | None = None

    async def write(self, text: str) -> None:
        self._parts.append(text)
        self._size += len(text)
        if self._size >= self._collected:
            await self.flush()

    async def flush(self) -> None:
        """Send what has come together. For HEAD, only the headers."""
        if self._response is None:
            self._response = web.StreamResponse(headers=self._headers)
            await self._response.prepare(self._request)
        body = self._take()
        if body and self._request.method != "HEAD":
            await self._response.write(body)

    async def write_bytes(self, data: bytes) -> None:
        """Send bytes as they are, after what was written before."""
        await self.flush()
        if self._response is not None and self._request.method != "HEAD":
            await self._response.write(data)

    @property
    def begun(self) -> bool:
        """Whether the client has got the status already."""
        return self._response is not None

    def abort(self) -> None:
        """Cut the connection: the client must not take what it has for the whole answer."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def finish(self) -> web.StreamResponse:
        """Send the rest; the handler returns the result."""
        if self._response is None:
            return web.Response(body=self._take(), headers=self._headers)
        await self.flush()
        await self._response.write_eof()
        return self._response

    def _take(self) -> bytes:
        body = "".join(self._parts).encode()
        self._parts.clear()
        self._size = 0
        return body


def error_answer(error: EdgeAgentError) -> web.Response:
    """CouchDB's form of an error: `{"error": its word, "reason": for people}`, and the status.

    Source: CouchDB documentation, "API Basics > HTTP Status Codes"; the words are chttpd's.
    Retry-After: RFC 9110, section 10.2.3.
    """
    status, word, reason = _describe(error)
    headers = {}
    if isinstance(error, RequestError) and error.allow:
        headers["Allow"] = error.allow
    if isinstance(error, RequestError) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    elif status == 503:
        headers["Retry-After"] = _LATER
    return answer({"error": word, "reason": reason}, status=status, headers=headers)


def _describe(error: EdgeAgentError) -> tuple[int, str, str]:
    reason = str(error)
    match error:
        case RequestError():
            return error.status, error.error, reason
        case NotFoundError():
            return 404, "not_found", error.reason
        case ConflictError():
            return 409, "conflict", "Document update conflict."
        case MissingStubError():
            return 412, "missing_stub", reason
        case StoreExistsError():
            return 412, "file_exists", reason
        case StoreHeldError():
            return 403, "forbidden", reason
        case DocumentError():
            return 400, "bad_request", reason
        case TooLargeError():
            return 413, "too_large", "the request entity is too large"
        case StoreWriteError() | StoreBusyError() | StoreFilesError():
            return 503, "service_unavailable", reason
        case _:
            return 500, "internal_server_error", reason
