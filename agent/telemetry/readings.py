"""What is published of a reading: pure functions from documents to JSON."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from agent.documents.times import microseconds, timestamp

Value = int | float | bool | str

_Name = Annotated[str, Meta(min_length=1, max_length=64)]

_json = msgspec.json.Encoder()


class Reading(msgspec.Struct, frozen=True):
    """A document that is a reading, as far as it is published.

    `time` is RFC 3339 in UTC, `unit` as the device names it.
    """

    type: Literal["reading"]
    device: _Name
    sensor: _Name
    time: _Name
    value: Value
    unit: _Name | None = None
    sequence: int | None = None
    clock: str | None = None

    @property
    def corrected(self) -> bool:
        """Whether it was published before, with another time."""
        return self.clock == "corrected"

    def payload(self) -> bytes:
        """`{"value":21.5,"unit":"C","time":"2026-03-01T08:15:30.250000Z","sequence":4711}`; a unit
        or a sequence that the device does not tell is left out. `clock` is there where the time is
        not known to be right ("unset"), or was not when it was recorded ("corrected")."""
        told: dict[str, Any] = {"value": self.value}
        if self.unit is not None:
            told["unit"] = self.unit
        told["time"] = self.time
        if self.sequence is not None:
            told["sequence"] = self.sequence
        if self.clock is not None:
            told["clock"] = self.clock
        return _json.encode(told)


class _Columns(msgspec.Struct):
    time: list[int]
    value: list[Value]
    sequence: list[int] = []


class _Window(msgspec.Struct):
    """A document with the readings of a packed sensor in the order of their times, which are in
    microseconds after the document's."""

    type: Literal["readings"]
    device: _Name
    sensor: _Name
    time: _Name
    columns: _Columns
    unit: _Name | None = None
    sequence: int | None = None
    clock: str | None = None

    def latest(self) -> Reading:
        """Raises ValueError, IndexError, OverflowError for what is no window."""
        columns = self.columns
        sequence = None
        if self.sequence is not None and columns.sequence:
            sequence = (self.sequence + columns.sequence[-1]) % _MODULUS
        return Reading(
            "reading",
            self.device,
            self.sensor,
            timestamp(microseconds(self.time) + columns.time[-1]),
            columns.value[-1],
            self.unit,
            sequence,
            self.clock,
        )


_MODULUS: Final = 2**32  # of sequence numbers

_decode_reading = msgspec.json.Decoder(Reading).decode
_decode_window = msgspec.json.Decoder(_Window).decode


def reading_of(body: str) -> Reading | None:
    """The reading in a document's body (JSON text), the latest one of a packed sensor's window;
    None for any other document."""
    try:
        if '"type":"readings"' in body:
            return _decode_window(body).latest()
        return _decode_reading(body)
    except (msgspec.DecodeError, ValueError, IndexError, OverflowError, RecursionError):
        return None
