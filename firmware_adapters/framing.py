"""Cuts a stream of bytes at a delimiter, holding no more than one frame."""

from __future__ import annotations

import msgspec


class Overflow(msgspec.Struct, frozen=True):
    """`size` bytes were dropped: the frame they belong to is longer than the limit."""

    size: int


class Splitter:
    """Yields what lies between delimiters, without them.

    `delimiter` is one byte; `limit` the longest frame in bytes, delimiter not counted.
    """

    def __init__(self, delimiter: bytes, limit: int) -> None:
        self._delimiter = delimiter
        self._limit = limit
        self._buffer = bytearray()
        self._overflowing = False
        self._dropped = 0

    def feed(self, data: bytes) -> list[bytes | Overflow]:
        """Return the frames that `data` completes, oldest first; empty ones included.

        A frame that is too long gives an `Overflow` for each `limit` bytes, so that a stream
        with no delimiter at all (the wrong format, say) is noticed, and one for the rest.
        """
        found: list[bytes | Overflow] = []
        *finished, rest = data.split(self._delimiter)
        for piece in finished:
            self._take(piece, found)
            self._finish(found)
        self._take(rest, found)
        return found

    def clear(self) -> None:
        """Forget the unfinished frame."""
        self._buffer.clear()
        self._overflowing = False
        self._dropped = 0

    def _take(self, piece: bytes, found: list[bytes | Overflow]) -> None:
        if not self._overflowing and len(self._buffer) + len(piece) <= self._limit:
            self._buffer += piece
            return
        self._overflowing = True
        self._dropped += len(self._buffer) + len(piece)
        self._buffer.clear()
        while self._dropped >= self._limit:
            found.append(Overflow(self._limit))
            self._dropped -= self._limit

    def _finish(self, found: list[bytes | Overflow]) -> None:
        if not self._overflowing:
            found.append(bytes(self._buffer))
        elif self._dropped:
            found.append(Overflow(self._dropped))
        self.clear()
