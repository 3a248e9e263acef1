"""Multipart messages, taken apart as they arrive. No I/O.

Source: RFC 2046, section 5.1; CouchDB documentation, "API Reference > Documents > Attachments >
Creating Multiple Attachments".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import TypeAlias
from urllib.parse import unquote

import msgspec

_LONGEST_HEAD = 16 * 1024
_BOUNDARY = re.compile(
    r"multipart/[a-z0-9.+-]+\s*;.*?\bboundary=(?:\"([^\"]+)\"|([^\s;\"]+))", re.I
)
_FILE_NAME = re.compile(r";\s*filename=(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;\"]+))", re.I)
_EXTENDED_NAME = re.compile(r";\s*filename\*=utf-8'[^']*'([^\s;]+)", re.I)


class MalformedError(ValueError):
    """What arrives is no multipart message, or only the beginning of one."""


class Head(msgspec.Struct, frozen=True):
    """A part begins. Header names are in lower case."""

    headers: Mapping[str, str]

    @property
    def file_name(self) -> str | None:
        """The name in Content-Disposition, if there is one."""
        text = self.headers.get("content-disposition", "")
        if extended := _EXTENDED_NAME.search(text):
            return unquote(extended[1])
        if found := _FILE_NAME.search(text):
            quoted: str | None = found[1]
            return found[2] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        return None


class End(Enum):
    """A part ends, or the whole message."""

    PART = 1
    MESSAGE = 2


Event: TypeAlias = Head | bytes | End


class _State(Enum):
    PREAMBLE = 1
    BODY = 2
    AFTER_BOUNDARY = 3
    HEAD = 4
    EPILOGUE = 5


class Parser:
    """Give it the bytes as they come, then `close` it."""

    def __init__(self, content_type: str) -> None:
        """`content_type` is the message's, with its boundary. Raises MalformedError."""
        found = _BOUNDARY.match(content_type)
        if found is None:
            raise MalformedError("the content type has no boundary")
        boundary = found[1] or found[2]
        self._delimiter = b"\r\n--" + boundary.encode("utf-8", "surrogateescape")
        # The first delimiter may stand at the very beginning, without a line break.
        self._rest = b"\r\n"
        self._state = _State.PREAMBLE

    def feed(self, data: bytes) -> Iterator[Event]:
        """What became known. To be used up before the next call. Raises MalformedError."""
        self._rest += data
        while (event := self._next()) is not None:
            if event:
                yield event

    def close(self) -> None:
        """Raises MalformedError if the message has not ended."""
        if self._state is not _State.EPILOGUE:
            raise MalformedError("the multipart message ends early")

    def _next(self) -> Event | None:
        """None when more is needed first; b"" for what nobody needs to know."""
        match self._state:
            case _State.PREAMBLE | _State.BODY:
                return self._body()
            case _State.AFTER_BOUNDARY:
                return self._after_boundary()
            case _State.HEAD:
                return self._head()
            case _:
                self._rest = b""
                return None

    def _body(self) -> Event | None:
        in_part = self._state is _State.BODY
        place = self._rest.find(self._delimiter)
        if place == 0:
            self._rest = self._rest[len(self._delimiter) :]
            self._state = _State.AFTER_BOUNDARY
            return End.PART if in_part else b""
        if place < 0:  # what may be the beginning of a delimiter waits
            place = len(self._rest) - len(self._delimiter) + 1
            if place <= 0:
                return None
        data, self._rest = self._rest[:place], self._rest[place:]
        return data if in_part else b""

    def _after_boundary(self) -> Event | None:
        if self._rest.startswith(b"--"):
            self._state = _State.EPILOGUE
            return End.MESSAGE
        line, found, rest = self._rest.partition(b"\r\n")
        if not found:
            if len(self._rest) > _LONGEST_HEAD:
                raise MalformedError("a boundary is not followed by a line break")
            return None
        if line.strip(b" \t"):
            raise MalformedError("a boundary is not followed by a line break")
        self._rest = b"\r\n" + rest  # so that no headers look like any number of them
        self._state = _State.HEAD
        return b""

    def _head(self) -> Event | None:
        place = self._rest.find(b"\r\n\r\n")
        if place < 0:
            if len(self._rest) > _LONGEST_HEAD:
                raise MalformedError("the headers of a part are too long")
            return None
        lines = self._rest[:place].decode("utf-8", "replace").split("\r\n")[1:]
        # The line break before the content belongs to the headers, that after it to the boundary;
        # content may be empty and its delimiter follow at once.
        self._rest = self._rest[place + 4 :]
        self._state = _State.BODY
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise MalformedError("a part has a header without a colon")
            headers[name.strip().lower()] = value.strip()
        return Head(headers)
