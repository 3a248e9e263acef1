"""NMEA 0183: GPS receivers, wind, depth and compass sensors. pynmeagps decodes the sentences.

The check value is an exclusive or of all bytes. It notices neither two bytes that changed places
nor, in the mean, one of 256 other kinds of damage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import Meta
from pynmeagps import NMEAReader  # type: ignore[import-untyped]
from pynmeagps.exceptions import (  # type: ignore[import-untyped]
    NMEAMessageError,
    NMEAParseError,
    NMEATypeError,
)

from firmware_adapters.adapter import Event, Reading
from firmware_adapters.fields import Header, frame_items
from firmware_adapters.lines import DamagedError, Lines, ascii_text, without_xor
from firmware_adapters.settings import Settings

MAX_SENTENCE = 256
"""Longest line in bytes. The standard allows 82, but receivers send longer ones."""

_SENTENCE = re.compile(r"(?:P[A-Z0-9]{2,10}|[A-Z]{2}([A-Z0-9]{3})),")
_NOT_SENSORS = frozenset({"time", "date", "status", "posMode", "navStatus", "NS", "EW", "mvEW"})
_UNITS = {
    "lat": "deg",
    "lon": "deg",
    "alt": "m",
    "sep": "m",
    "spd": "kn",
    "cog": "deg",
    "mv": "deg",
    "heading": "deg",
    "depth": "m",
}


class NmeaSettings(Settings):
    """Which sentences are recorded."""

    sentence: list[
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Z0-9]{3}$",
                description="three letters, the kinds of sentences that are recorded",
                examples=[["RMC", "GGA"]],
            ),
        ]
    ] = msgspec.field(default_factory=lambda: ["RMC", "GGA"])


class Nmea:
    """An `Adapter` for NMEA 0183 sentences, from any talker.

    The sensors are `RMC.lat` and so on, with pynmeagps's names for the fields; latitude and
    longitude are signed decimal degrees. Only RMC tells date and time. A sentence without a check
    value is refused, one whose receiver has no fix gives no reading.
    """

    Settings = NmeaSettings

    def __init__(self, settings: NmeaSettings) -> None:
        self._kinds = frozenset(settings.sentence)
        self._lines = Lines(MAX_SENTENCE, self._line, checked=True)

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Decode the sentences that `data` completes; see `Adapter.receive`."""
        return self._lines.receive(data)

    def encode(self, command: Mapping[str, Any]) -> NoReturn:
        """Raises ValueError: what receivers understand differs from maker to maker."""
        raise ValueError("an NMEA 0183 device takes no commands")

    def reset(self) -> None:
        """Forget the unfinished sentence."""
        self._lines.reset()

    def _line(self, line: bytes) -> list[Reading | Event]:
        # The end of a sentence may be missing: then the next one begins in the same line.
        _, dollar, sentence = line.rpartition(b"$")
        if not dollar:
            raise DamagedError("noise", "a line without a sentence")
        text = ascii_text(without_xor(sentence))
        match = _SENTENCE.match(text)
        if match is None:
            raise DamagedError("malformed", "a sentence without a talker and a kind")
        if match[1] not in self._kinds:
            return []
        return _items(match[1], b"$" + sentence)


def _items(kind: str, sentence: bytes) -> list[Reading | Event]:
    try:
        message: Any = NMEAReader.parse(sentence)
    except (NMEAMessageError, NMEAParseError, NMEATypeError) as error:
        raise DamagedError("malformed", f"{kind}: {error}") from error
    if message is None:
        raise DamagedError("malformed", f"{kind} is not known")
    found = {name: value for name, value in vars(message).items() if not name.startswith("_")}
    if found.get("status") == "V" or found.get("quality") == 0:
        return [Event("no-value", f"{kind}: the device has no valid values")]
    values = {
        f"{kind}.{name}": value
        for name, value in found.items()
        if name not in _NOT_SENSORS and not name.endswith("Unit") and value != ""
    }
    values = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
    if not values:
        return [Event("no-value", f"{kind}: nothing but empty fields")]
    units = {name: _UNITS[field] for name in values if (field := name.partition(".")[2]) in _UNITS}
    return frame_items(Header(time=_utc(found)), values, units)


def _utc(found: Mapping[str, Any]) -> str | None:
    day, clock = found.get("date"), found.get("time")
    if not isinstance(day, date) or not isinstance(clock, time):
        return None
    return datetime.combine(day, clock).isoformat(timespec="milliseconds") + "Z"
