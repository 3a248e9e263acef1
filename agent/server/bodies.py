"""Bounds what bodies of requests take of memory: once parsed, up to a hundred times their bytes.

A body has to fit its own limit, all of them together have to fit another, JSON may have only so
many values, and only so many large bodies are dealt with at the same time.
"""

from __future__ import annotations

import asyncio
import random
import re
import zlib

from aiohttp import web

from agent.errors import RequestError, TooLargeError

MAX_VALUES = 1_000_000
"""JSON values in a body. Parsed, each takes up to a hundred bytes, be it as short as `{}`."""

MAX_QUERY = 4 * 1024 * 1024
"""Bytes of a body that does not write documents."""

MAX_REVISIONS = 16 * 1024 * 1024
"""Bytes of a body that names revisions: a replicator asks for all leaves of a batch at once."""

_HELD = 256 * 1024 * 1024
"""Bytes of the bodies of all requests together."""

_LARGE = 1024 * 1024
_AT_ONCE = 2
"""Bodies larger than that which are parsed and written at the same time; the others wait."""

_LONGEST_PAUSE = 5
"""Seconds after which who found no room should try again; each gets another number of them."""

_WINDOWS = {"gzip": 31, "deflate": 15}
"""zlib's names for the encodings that bodies may have."""

_MOST_MEMBERS = 10_000
"""Of gzip in a body: each costs some time, even an empty one, of 20 bytes."""

_STEP = 64 * 1024
"""Bytes that are decompressed at once: at the end of each member zlib copies the rest of them."""

# A text that is never closed is one token, too; else it is looked through from each quote in it.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,\[{]', re.DOTALL)


class Bodies:
    """Those of all requests that are under way."""

    def __init__(self) -> None:
        # By the id of the request, which is under way until `release`.
        self._held: dict[int, int] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._unpacking = asyncio.Lock()
        self._having: set[int] = set()

    async def read(self, request: web.Request, limit: int) -> bytes:
        """The whole body, decompressed, which counts until `release`.

        Raises TooLargeError, and RequestError, also when other requests hold too much (503, with a
        Retry-After).
        """
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity" and encoding not in _WINDOWS:
            raise RequestError(415, "bad_content_type", f"Unsupported encoding {encoding}")
        pieces: list[bytes] = []
        size = 0
        async for piece in request.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise TooLargeError("the request entity is too large")
            self._hold(request, len(piece))
        body = b"".join(pieces)
        del pieces
        if encoding != "identity":
            async with self._unpacking:  # one at a time, since none counts before it is done
                body = await asyncio.to_thread(_decompressed, body, encoding, limit)
                self._hold(request, len(body))
        if len(body) > MAX_VALUES and await asyncio.to_thread(_has_too_many_values, body):
            raise RequestError(
                413, "too_large", f"the request has more than {MAX_VALUES:,} values; send less"
            )
        return body

    async def turn(self, request: web.Request, body: bytes) -> None:
        """Wait, with a large body, until others have been dealt with. It lasts until `release`."""
        if len(body) > _LARGE and id(request) not in self._having:
            await self._turns.acquire()
            self._having.add(id(request))

    def release(self, request: web.BaseRequest) -> None:
        """The request has been answered."""
        self._held.pop(id(request), None)
        if id(request) in self._having:
            self._having.discard(id(request))
            self._turns.release()

    def _hold(self, request: web.BaseRequest, size: int) -> None:
        if size > _HELD - sum(self._held.values()):
            raise RequestError(
                503,
                "service_unavailable",
                "other requests take all the room; try again later",
                retry_after=random.randint(1, _LONGEST_PAUSE),  # noqa: S311 - spreads load
            )
        self._held[id(request)] = self._held.get(id(request), 0) + size


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """A body of gzip may have several members, one after the other (RFC 1952, section 2.2)."""
    rest = memoryview(body)
    pieces: list[bytes] = []
    room = limit + 1
    members = 0
    while rest or not members:
        members += 1
        if members > 1 and encoding != "gzip":
            raise _damaged()
        if members > _MOST_MEMBERS:
            raise RequestError(
                413, "too_large", f"the request has more than {_MOST_MEMBERS:,} members of gzip"
            )
        inflate = zlib.decompressobj(wbits=_WINDOWS[encoding])
        while not inflate.eof:
            if not rest:
                raise _damaged()  # it is cut off
            step = rest[:_STEP]
            try:
                piece = inflate.decompress(step, room)
            except zlib.error:
                raise _damaged() from None
            pieces.append(piece)
            room -= len(piece)
            if not room:
                raise TooLargeError("the request entity is too large")
            rest = rest[len(step) - len(inflate.unused_data) :]
    return b"".join(pieces)


def _damaged() -> RequestError:
    return RequestError(400, "bad_request", "the request's body is damaged")


def _has_too_many_values(body: bytes) -> bool:
    """Each value but the first follows a comma, or opens an array or object."""
    if sum(map(body.count, (b",", b"[", b"{"))) <= MAX_VALUES:
        return False
    # Some may be in texts. JSON has two of those for a value at most, a name and the value itself.
    values = 0
    for number, token in enumerate(_TOKENS.finditer(body)):
        values += body[token.start()] != 0x22
        if values > MAX_VALUES or number > 3 * MAX_VALUES:
            return True
    return False
