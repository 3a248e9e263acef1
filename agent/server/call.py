"""A request, and what handlers read from it."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from aiohttp import web

from agent.documents.revision import Rev
from agent.errors import NotFoundError, RequestError
from agent.server.bodies import MAX_QUERY
from agent.server.service import Service
from agent.store.store import Store
from agent.store.stored import StoredDocument

_T = TypeVar("_T")

_BAD_JSON = "invalid UTF-8 JSON"


class Call(msgspec.Struct, frozen=True):
    """A request to the server."""

    service: Service
    request: web.Request

    def flag(self, name: str) -> bool:
        """Whether a query parameter is `true`."""
        return self.request.query.get(name) == "true"

    def number(self, name: str) -> int | None:
        """A query parameter that is a whole number from 0 on. Raises RequestError."""
        text = self.request.query.get(name)
        if text is None:
            return None
        # More digits than an SQLite integer has are refused, as CouchDB refuses no number at all.
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise RequestError(
                400, "query_parse_error", f"Invalid value for positive integer parameter: {name}"
            )
        return int(text)

    def json_parameter(self, name: str) -> Any:
        """A query parameter that is JSON, UNSET without it. Raises RequestError."""
        text = self.request.query.get(name)
        return msgspec.UNSET if text is None else decode(text.encode(errors="replace"), Any)

    def require_json(self) -> None:
        """Raises RequestError (415) unless the request says that its body is JSON."""
        if self.request.content_type != "application/json":
            raise RequestError(415, "bad_content_type", "Content-Type must be application/json")

    async def json(self, kind: type[_T], *, limit: int | None = None) -> _T:
        """The body as `kind`, which writes no documents. Raises RequestError, TooLargeError.

        `limit`, in bytes, stands in for the usual one.
        """
        return decode(await self._read(limit or MAX_QUERY), kind)

    async def form(self, limit: int) -> bytes:
        """The body as it is, of at most `limit` bytes. Raises RequestError, TooLargeError."""
        return await self._read(limit)

    async def documents(self) -> bytes:
        """The body that writes documents, once it is its turn. Raises RequestError, TooLargeError.

        Called last before they are parsed.
        """
        body = await self._read(self.request.client_max_size)
        await self.service.bodies.turn(self.request, body)
        return body

    async def _read(self, limit: int) -> bytes:
        limit = min(limit, self.request.client_max_size)
        return await self.service.bodies.read(self.request, limit)

    def url(self, *segments: str) -> str:
        """A URL on this server, for the Location header."""
        path = "/".join(quote(segment, safe="") for segment in segments)
        # Without the header, `request.host` would look this machine's name up, and block.
        host = self.request.headers.get("Host")
        return f"{self.request.scheme}://{host}/{path}" if host else f"/{path}"


class DatabaseCall(Call, frozen=True):
    """A request to a database."""

    name: str
    store: Store

    async def live_document(self, id: str) -> StoredDocument:
        """Raises NotFoundError, also where it was deleted."""
        document = await self.store.get(id)
        if document is None or document.deleted:
            raise no_document(id, document)
        return document


def no_document(id: str, found: StoredDocument | None) -> NotFoundError:
    """There is none, or only a tombstone."""
    return NotFoundError(
        f"{id}: no such document", reason="missing" if found is None else "deleted"
    )


class DocumentCall(DatabaseCall, frozen=True):
    """A request to a document; `id` is whole, with `_design/` or `_local/`."""

    id: str


def decode(body: bytes | msgspec.Raw, kind: type[_T]) -> _T:
    """Decode JSON. Raises RequestError in CouchDB's words."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise RequestError(400, "bad_request", f"{_BAD_JSON}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RequestError(400, "bad_request", _BAD_JSON) from None
    except RecursionError:
        raise RequestError(400, "bad_request", f"{_BAD_JSON}: nested too deeply") from None


def parse_rev(value: Any) -> Rev:
    """A revision id that a client gave. Raises RequestError."""
    if not isinstance(value, str):
        raise RequestError(400, "bad_request", "Invalid rev format")
    try:
        return Rev.parse(value)
    except ValueError:
        raise RequestError(400, "bad_request", "Invalid rev format") from None
