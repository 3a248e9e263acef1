"""What every firmware adapter takes in and gives out.

An adapter turns the bytes a device sends into readings, and commands into the bytes a device
understands. It does no I/O: whoever owns the wire calls it. It never raises because of what
arrived; bytes that mean nothing become an `Event`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

Value = float | int | bool | str

EventKind = Literal[
    "noise",  # bytes that cannot have been a frame
    "cut-frame",  # part of a frame is missing, or listening began in the middle of one
    "bad-crc",  # a whole frame whose check does not hold
    "too-long",  # more bytes without an end of frame than the format allows
    "malformed",  # arrived whole, but does not say what the format asks for
    "no-value",  # the device says that a sensor has no value at present
    "no-answer",  # the device was asked and said nothing
    "refused",  # the device was asked and answered that it will not say
    "heartbeat",  # a good frame with nothing in it
    "log",  # text for people; `detail` is the text
    "settings",  # the device says how it is set; `report` has it
]


class Held(msgspec.Struct, frozen=True):
    """What a device says of the frames that it holds until they are acknowledged.

    It is acknowledged by a command {"ack": [boot, last]}: all up to the number `last` is durable;
    or {"ack": [boot, last, first missing, last missing]}, which also asks for frames once more.
    `oldest`: the lowest sequence number among them; the frame that says so is one of them.
    `dropped`: how many frames the device gave up in this boot, unacknowledged, for lack of room.
    """

    oldest: int
    dropped: int = 0


class Report(msgspec.Struct, frozen=True):
    """What a device says of its settings.

    `settings`: name (1 to 64 printable characters) to value, as they are now. `refused`: the
    settings of a command that the device did not take, each with its reason. `answers`: the number
    of the command that it answers, None if it says so unasked. `complete`: what is not among the
    settings the device does not have.
    """

    settings: Mapping[str, Value]
    refused: Mapping[str, str] = msgspec.field(default_factory=dict)
    answers: int | None = None
    complete: bool = False


class Reading(msgspec.Struct, frozen=True):
    """One value of one sensor.

    `sensor`: 1 to 64 printable characters. `value`: finite, integers within 64 bits.
    `unit`: as the device names it, for example "C" or "%", or None.
    `time`: when it was taken, RFC 3339 in UTC ending in "Z", if the device knows it.
    `sequence`: the frame's number, 0 to 4294967295; readings of one frame share it.
    `boot`: names the device's current run; sequence numbers start anew with it.
    `uptime_ms`: milliseconds since the device started, when the reading was taken.
    `age_ms`: milliseconds from then until the device sent it.
    `held`: set when the device wants its frames acknowledged; then there are a sequence and a
    boot, and `Adapter.encode` can carry the acknowledgement.
    """

    sensor: str
    value: Value
    unit: str | None = None
    time: str | None = None
    sequence: int | None = None
    boot: int | str | None = None
    uptime_ms: int | None = None
    age_ms: int | None = None
    held: Held | None = None


class Event(msgspec.Struct, frozen=True):
    """Anything but a reading: damage on the wire, or a word from the device.

    `detail` is one printable line. `size` is how many bytes were thrown away, 0 if none.
    `sequence`, `boot` and `held` are set when the event stems from a good frame that has them,
    `report` is set for the kind "settings". `sensors` are those that lack a value because of it,
    as far as that is known.
    """

    kind: EventKind
    detail: str
    size: int = 0
    sequence: int | None = None
    boot: int | str | None = None
    held: Held | None = None
    report: Report | None = None
    sensors: tuple[str, ...] = ()


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


@runtime_checkable
class SettableAdapter(Adapter, Protocol):
    """The adapter of devices that can be told settings and say how they are set."""

    def check(self, settings: Mapping[str, Value]) -> None:
        """Raises ValueError, with the reason, when one command cannot carry these settings."""

    def command(self, number: int, settings: Mapping[str, Value]) -> bytes:
        """Have the device take `settings` and report; with none of them it is to report all.

        Returns the bytes to send: none where the adapter is a `PollingAdapter`, which sends what
        is needed when it is polled. `number`, an unsigned 32-bit integer, comes back in
        `Report.answers`. Doing the same again does no harm. Raises ValueError as `check` does.
        """


class Turn(msgspec.Struct, frozen=True):
    """What a `PollingAdapter` wants done now.

    `send`: bytes for the wire, or none. `events`: what became of earlier questions. `wake`: when
    to call `poll` again, in seconds on the clock that it was called with.
    """

    send: bytes
    events: list[Event]
    wake: float


@runtime_checkable
class PollingAdapter(Adapter, Protocol):
    """The adapter of devices that speak only when they are asked, any number on one line.

    There is one question on the line at a time. `reset` withdraws it.
    """

    def poll(self, now: float) -> Turn:
        """Say what to send; `now` is in seconds on any clock that never goes back.

        Call it after `reset`, after each `receive`, and whenever `wake` has come. Never raises.
        """
