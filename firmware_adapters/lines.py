"""What the adapters for lines of text have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce
from operator import xor

from firmware_adapters.adapter import Event, EventKind, Reading
from firmware_adapters.fields import MalformedError, malformed
from firmware_adapters.framing import Overflow, Splitter

_XOR = re.compile(rb"(.*)\*([0-9A-Fa-f]{2})", re.DOTALL)


class DamagedError(ValueError):
    """A line that was damaged on its way, `kind` says how; the text says what shows it."""

    def __init__(self, kind: EventKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Lines:
    """Cuts a stream into lines and gives each to `decode`, without white space around it.

    `limit`: the longest line in bytes. `decode` raises DamagedError or MalformedError. What
    follows the opening of a port is usually the end of a line: with `checked` lines that shows,
    others are dropped unread, since the rest of a number is a number too.
    """

    def __init__(
        self, limit: int, decode: Callable[[bytes], list[Reading | Event]], *, checked: bool
    ) -> None:
        self._limit = limit
        self._decode = decode
        self._checked = checked
        self._splitter = Splitter(b"\n", limit)
        self._since_start_of_line = False

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Decode the lines that `data` completes; see `Adapter.receive`."""
        items: list[Reading | Event] = []
        for line in self._splitter.feed(data):
            if isinstance(line, Overflow):
                detail = f"no line feed within {self._limit} bytes"
                items.append(Event("too-long", detail, line.size))
            elif stripped := line.strip(b" \t\r"):
                items += self._line(stripped)
            self._since_start_of_line = True
        return items

    def reset(self) -> None:
        """Forget the unfinished line."""
        self._splitter.clear()
        self._since_start_of_line = False

    def _line(self, line: bytes) -> list[Reading | Event]:
        if not self._since_start_of_line and not self._checked:
            return [Event("cut-frame", "the first line after opening may be cut", len(line))]
        try:
            return self._decode(line)
        except DamagedError as error:
            if not self._since_start_of_line:
                return [Event("cut-frame", "the first line after opening is not whole", len(line))]
            return [Event(error.kind, str(error), len(line))]
        except MalformedError as error:
            return [malformed(error, len(line))]


def without_xor(line: bytes) -> bytes:
    """Take the check value off the end of a line: `*` and two hexadecimal digits.

    It is that of NMEA 0183: all bytes before the `*`, combined by exclusive or. Raises
    DamagedError when there is none, or another one.
    """
    match = _XOR.fullmatch(line)
    if match is None:
        raise DamagedError("cut-frame", "no check value at the end of the line")
    if reduce(xor, match[1], 0) != int(match[2], 16):
        raise DamagedError("bad-crc", "the check value of the line does not match")
    return match[1]


def ascii_text(line: bytes) -> str:
    """Raises DamagedError for bytes that are not printable ASCII."""
    text = line.decode("latin-1")
    if not (text.isascii() and text.replace("\t", " ").isprintable()):
        raise DamagedError("noise", "a line that is not printable ASCII")
    return text
