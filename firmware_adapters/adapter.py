"""What every firmware adapter takes in and gives out.

An adapter turns the bytes a device sends into readings, and commands into the bytes a device
understands. It does no I/O: whoever owns the wire calls it. It never raises because of what
arrived; bytes that mean nothing become an `Event`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Value = float | int | bool | str

EventKind = Literal[
    "noise",  # bytes that cannot have been a frame
    "cut-frame",  # part of a frame is missing, or listening began in the middle of one
    "bad-crc",  # a whole frame whose check does not hold
    "too-long",  # more bytes without an end of frame than the format allows
    "malformed",  # arrived whole, but does not say what the format asks for
    "no-value",  # the device says that a sensor has no value at present
    "heartbeat",  # a good frame with nothing in it
    "log",  # text for people; `detail` is the text
]


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one sensor.

    `sensor`: 1 to 64 printable characters. `value`: finite, integers within 64 bits.
    `unit`: as the device names it, for example "C" or "%", or None.
    `time`: when it was taken, RFC 3339 in UTC ending in "Z", if the device knows it.
    `sequence`: the frame's number, 0 to 4294967295; readings of one frame share it.
    `boot`: names the device's current run; sequence numbers start anew with it.
    `uptime_ms`: milliseconds since the device started, when the reading was taken.
    """

    sensor: str
    value: Value
    unit: str | None = None
    time: str | None = None
    sequence: int | None = None
    boot: int | str | None = None
    uptime_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Anything but a reading: damage on the wire, or a word from the device.

    `detail` is one printable line. `size` is how many bytes were thrown away, 0 if none.
    `sequence` and `boot` are set when the event stems from a good frame.
    """

    kind: EventKind
    detail: str
    size: int = 0
    sequence: int | None = None
    boot: int | str | None = None


class Adapter(Protocol):
    """One device's conversation. Keeps at most one unfinished frame between calls."""

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Take bytes in the order they arrived, in pieces of any size; never raises.

        How the stream was cut into pieces makes no difference to the results.
        """

    def encode(self, command: Mapping[str, Any]) -> bytes:
        """Return the bytes that carry one command, a JSON-like object.

        Raises ValueError for a command the format cannot carry.
        """

    def reset(self) -> None:
        """Forget the unfinished frame; call it whenever the port was opened anew."""
