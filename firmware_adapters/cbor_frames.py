"""CBOR frames: small binary frames with a check value.

The format is described in docs/firmware.md: one CBOR map (RFC 8949) followed by its
CRC-16/CCITT-FALSE, byte-stuffed with COBS (Cheshire and Baker, 1999) and ended by 0x00.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
from cobs import cobs  # type: ignore[import-untyped]

from firmware_adapters import fields
from firmware_adapters.adapter import Event, EventKind, Reading, Value
from firmware_adapters.cbor_subset import check_subset
from firmware_adapters.framing import Overflow, Splitter

MAX_FRAME = 1024
"""Longest frame a device may send: bytes between two 0x00, as they are on the wire."""

MAX_COMMAND = 256
"""Longest frame sent to a device; small enough for a microcontroller to hold."""

_MAX_UNIX_MS = 253_402_300_799_999  # the last millisecond of the year 9999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CRC_SIZE = 2


class CborFrames:
    """A `SettableAdapter` for CBOR maps in COBS frames with a CRC-16."""

    def __init__(self) -> None:
        self._frames = Splitter(b"\0", MAX_FRAME)
        self._listening_since_start_of_frame = False

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Decode the frames that `data` completes; see `Adapter.receive`."""
        items: list[Reading | Event] = []
        for frame in self._frames.feed(data):
            if isinstance(frame, Overflow):
                items.append(Event("too-long", f"no 0x00 within {MAX_FRAME} bytes", frame.size))
                continue
            if frame:  # nothing between two delimiters: a sender may begin with one
                items += self._frame(frame)
            self._listening_since_start_of_frame = True
        return items

    def encode(self, command: Mapping[str, Any]) -> bytes:
        """Encode a command as one frame, with a delimiter before it and one after it.

        The one before ends whatever noise the device may have heard. Raises ValueError when
        the command is not JSON-like, nested too deep or longer than MAX_COMMAND.
        """
        payload = cbor2.dumps(fields.plain(command))
        frame: bytes = cobs.encode(payload + _crc(payload))
        if len(frame) > MAX_COMMAND:
            raise ValueError(f"the command takes {len(frame)} bytes, {MAX_COMMAND} are allowed")
        return b"\0" + frame + b"\0"

    def check(self, settings: Mapping[str, Value]) -> None:
        """See `SettableAdapter.check`."""
        self.command(fields.MAX_NUMBER, settings)

    def command(self, number: int, settings: Mapping[str, Value]) -> bytes:
        """See `SettableAdapter.command`."""
        return self.encode(fields.set_command(number, settings))

    def reset(self) -> None:
        """Forget the unfinished frame."""
        self._frames.clear()
        self._listening_since_start_of_frame = False

    def _frame(self, frame: bytes) -> list[Reading | Event]:
        try:
            content: bytes = cobs.decode(frame)
        except cobs.DecodeError:
            return [self._damage("cut-frame", "the frame ends too early", frame)]
        payload, crc = content[:-_CRC_SIZE], content[-_CRC_SIZE:]
        if not payload:
            return [self._damage("noise", "too short to be a frame", frame)]
        if crc != _crc(payload):
            return [self._damage("bad-crc", "the CRC does not match", frame)]
        try:
            return _items(payload)
        except fields.MalformedError as error:
            return [fields.malformed(error, len(frame))]

    def _damage(self, kind: EventKind, detail: str, frame: bytes) -> Event:
        # What follows the opening of a port is usually the end of a frame: no sign of noise.
        if not self._listening_since_start_of_frame:
            return Event("cut-frame", "the first frame after opening is not whole", len(frame))
        return Event(kind, detail, len(frame))


def _crc(payload: bytes) -> bytes:
    """CRC-16/CCITT-FALSE (polynomial 0x1021, initial value 0xFFFF), most significant first."""
    return binascii.crc_hqx(payload, 0xFFFF).to_bytes(_CRC_SIZE, "big")


def _items(payload: bytes) -> list[Reading | Event]:
    message = _decode(payload)
    header, complaints = fields.read_header(
        sequence=message.get("q"),
        boot=message.get("b"),
        uptime_ms=message.get("t"),
        time=_utc(message.get("w")),
        age_ms=message.get("g"),
        oldest=message.get("a"),
        dropped=message.get("d"),
    )
    report = fields.read_report(header, message.get("n"), message.get("s"), message.get("e"))
    return complaints + fields.frame_items(
        header, message.get("r", {}), message.get("u"), message.get("l"), report
    )


def _decode(payload: bytes) -> dict[str, Any]:
    count = check_subset(payload)
    try:
        message = cbor2.loads(payload)
    except (cbor2.CBORDecodeError, ValueError) as error:  # text that is not UTF-8
        raise fields.MalformedError("text that is not UTF-8") from error
    if not isinstance(message, dict):
        raise fields.MalformedError("a frame must hold a map")
    if _count(message) != count:
        raise fields.MalformedError("a name occurs twice in one map")
    return message


def _count(item: Any) -> int:
    """Count a decoded item and everything in it, map keys too, as `check_subset` does."""
    if isinstance(item, dict):
        return 1 + sum(1 + _count(value) for value in item.values())
    if isinstance(item, list):
        return 1 + sum(map(_count, item))
    return 1


def _utc(unix_ms: object) -> object:
    """Turn milliseconds since 1970 into RFC 3339; what is no such number is left as it is."""
    if isinstance(unix_ms, bool) or not isinstance(unix_ms, int):
        return unix_ms
    if not 0 <= unix_ms <= _MAX_UNIX_MS:
        return unix_ms
    moment = _EPOCH + timedelta(milliseconds=unix_ms)
    return moment.isoformat(timespec="milliseconds")
