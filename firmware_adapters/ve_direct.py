"""VE.Direct text mode: what Victron's battery monitors, chargers and inverters send each second.

Source: Victron Energy, "VE.Direct Protocol". A block's bytes add up to 0 modulo 256. That notices
neither bytes that changed places nor, in the mean, one of 256 other kinds of damage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NoReturn

from firmware_adapters.adapter import Event, Reading
from firmware_adapters.fields import Header, MalformedError, frame_items

MAX_BLOCK = 1024
"""Longest block in bytes; the protocol allows 22 fields of at most 43."""

_END = b"\r\nChecksum\t"
_HEX_MESSAGE = re.compile(rb":[0-9A-F]{1,80}\n")
_FIELD = re.compile(rb"([A-Za-z0-9#_]{1,9})\t([ -~]{1,33})")
_INTEGER = re.compile(r"-?\d{1,15}", re.ASCII)

_IDENTITY = frozenset({"PID", "FW", "FWE", "SER#", "BMV"})

# The unit of each field, after division by what it is given in. Others are recorded as they are.
_UNITS = {
    **dict.fromkeys(("V", "V2", "V3", "VS", "VM", "VPV", "H7", "H8", "H15", "H16"), ("V", 1000)),
    **dict.fromkeys(("I", "I2", "I3", "IL"), ("A", 1000)),
    **dict.fromkeys(("CE", "H1", "H2", "H3", "H6"), ("Ah", 1000)),
    **dict.fromkeys(("PPV", "P", "H21", "H23"), ("W", 1)),
    **dict.fromkeys(("H17", "H18", "H19", "H20", "H22"), ("kWh", 100)),
    **dict.fromkeys(("SOC", "DM"), ("%", 10)),
    "AC_OUT_V": ("V", 100),
    "AC_OUT_I": ("A", 10),
    "AC_OUT_S": ("VA", 1),
    "T": ("C", 1),
    "TTG": ("min", 1),
    "H9": ("s", 1),
}


class VeDirect:
    """An `Adapter` for blocks of labelled values.

    The sensors are the labels, in the units V, A, Ah, W, kWh and %. What only names the device
    (PID, FW, SER#) is no reading. Messages of the HEX protocol in between are passed over.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._since_start_of_block = False

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Decode the blocks that `data` completes; see `Adapter.receive`."""
        items: list[Reading | Event] = []
        for byte in data:
            self._buffer.append(byte)
            if len(self._buffer) > len(_END) and self._buffer.startswith(_END, -len(_END) - 1):
                items += self._block(bytes(self._buffer))
                self._buffer.clear()
                self._since_start_of_block = True
            elif len(self._buffer) == MAX_BLOCK:
                items.append(Event("too-long", f"no checksum within {MAX_BLOCK} bytes", MAX_BLOCK))
                self._buffer.clear()
                self._since_start_of_block = False
        return items

    def encode(self, command: Mapping[str, Any]) -> NoReturn:
        """Raises ValueError: text mode has no commands."""
        raise ValueError("a device in VE.Direct text mode takes no commands")

    def reset(self) -> None:
        """Forget the unfinished block."""
        self._buffer.clear()
        self._since_start_of_block = False

    def _block(self, block: bytes) -> list[Reading | Event]:
        text = _HEX_MESSAGE.sub(b"", block)
        if not self._since_start_of_block and (sum(text) % 256 or not text.startswith(b"\r\n")):
            return [Event("cut-frame", "the first block after opening is not whole", len(block))]
        if sum(text) % 256:
            return [Event("bad-crc", "the checksum of the block does not match", len(block))]
        try:
            return _items(text[: -len(_END) - 1])
        except MalformedError as error:
            return [Event("malformed", str(error), len(block))]


def _items(text: bytes) -> list[Reading | Event]:
    start, *lines = text.split(b"\r\n")
    if start:
        raise MalformedError("a block that does not begin with a line of its own")
    values: dict[str, object] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise MalformedError("a line without a label and a value")
        label = match[1].decode()
        if label in values:
            raise MalformedError(f"{label} occurs twice in one block")
        values[label] = _value(label, match[2].decode())
    for label in _IDENTITY:
        values.pop(label, None)
    units = {label: _UNITS[label][0] for label in values if label in _UNITS}
    return frame_items(Header(), values, units)


def _value(label: str, text: str) -> object:
    if text == "---":  # what this device does not measure
        return None
    if text in ("ON", "OFF"):
        return text == "ON"
    if not _INTEGER.fullmatch(text):
        return text
    if label not in _UNITS or (divisor := _UNITS[label][1]) == 1:
        return int(text)
    return float(Decimal(text) / divisor)
