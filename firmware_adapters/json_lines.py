"""JSON lines: one JSON object a line, for devices that print text.

The format is described in docs/firmware.md. It has no check value: a line that was damaged
and still is JSON counts as good. Where the wire is not trusted, use CBOR frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from firmware_adapters import fields
from firmware_adapters.adapter import Event, Reading, Value
from firmware_adapters.lines import DamagedError, Lines

MAX_LINE = 4096
"""Longest line in bytes, without its line feed, in either direction."""

RESERVED = frozenset(
    {
        "seq",
        "boot",
        "time",
        "uptime_ms",
        "age_ms",
        "units",
        "log",
        "ack_from",
        "ack_dropped",
        "answers",
        "settings",
        "refused_settings",
    }
)
"""Members that are never a sensor; with a member "sensor", there are no others that are."""


class JsonLines:
    """A `SettableAdapter` for newline-delimited JSON objects (RFC 8259, UTF-8)."""

    def __init__(self) -> None:
        # The end of a line can never pass for a whole object: it has a brace or a quotation mark
        # too many.
        self._lines = Lines(MAX_LINE, _decode, checked=True)

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Decode the lines that `data` completes; see `Adapter.receive`."""
        return self._lines.receive(data)

    def encode(self, command: Mapping[str, Any]) -> bytes:
        """Encode a command as one line of ASCII JSON.

        Raises ValueError when it is not JSON-like, nested too deep or longer than MAX_LINE.
        """
        line = json.dumps(fields.plain(command), separators=(",", ":"), allow_nan=False).encode()
        if len(line) > MAX_LINE:
            raise ValueError(f"the command takes {len(line)} bytes, {MAX_LINE} are allowed")
        return line + b"\n"

    def check(self, settings: Mapping[str, Value]) -> None:
        """See `SettableAdapter.check`."""
        self.command(fields.MAX_NUMBER, settings)

    def command(self, number: int, settings: Mapping[str, Value]) -> bytes:
        """See `SettableAdapter.command`."""
        return self.encode(fields.set_command(number, settings))

    def reset(self) -> None:
        """Forget the unfinished line."""
        self._lines.reset()


def _decode(line: bytes) -> list[Reading | Event]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise DamagedError("noise", "a line that is not UTF-8") from error
    try:
        message = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedError("malformed", f"not JSON: {error}") from error
    return _items(message)


def _items(message: object) -> list[Reading | Event]:
    if not isinstance(message, dict):
        raise fields.MalformedError("a line must be a JSON object")
    header, complaints = fields.read_header(
        sequence=message.get("seq"),
        boot=message.get("boot"),
        uptime_ms=message.get("uptime_ms"),
        time=message.get("time"),
        age_ms=message.get("age_ms"),
        oldest=message.get("ack_from"),
        dropped=message.get("ack_dropped"),
    )
    report = fields.read_report(
        header,
        message.get("answers"),
        message.get("settings"),
        message.get("refused_settings"),
    )
    if "sensor" in message:
        sensor = message["sensor"]
        if not isinstance(sensor, str):
            raise fields.MalformedError("the sensor's name is not text")
        values = {sensor: message.get("value")}
        units: object = {sensor: message.get("unit")}
    else:
        values = {name: value for name, value in message.items() if name not in RESERVED}
        units = message.get("units")
    return complaints + fields.frame_items(header, values, units, message.get("log"), report)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise fields.MalformedError("a name occurs twice in one object")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise fields.MalformedError(f"{name} is no number")
