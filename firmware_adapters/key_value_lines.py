"""Key=value lines: names and values in a line, such as `T=21.5 H=40`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from firmware_adapters import fields
from firmware_adapters.adapter import Event, Reading
from firmware_adapters.lines import DamagedError, Lines, ascii_text, without_xor
from firmware_adapters.quantities import Checksum, Quantity
from firmware_adapters.settings import Settings

MAX_LINE = 1024
"""Longest line in bytes, without its line feed, in either direction."""

_BETWEEN_PAIRS = re.compile(r"[\s,;]+")


class Key(Quantity, kw_only=True):
    """`[[device.settings.key]]`: what may follow a key; `name` is the key unless given."""

    key: Annotated[
        str,
        Meta(
            pattern=r"^[!-+.-9<>-~-]{1,32}\Z",
            description="at most 32 ASCII characters without blanks and ,:;=",
            examples=["T"],
        ),
    ]


class KeyValueSettings(Settings):
    """The keys that are recorded; others are passed over."""

    key: list[Key]
    assign: Annotated[
        str,
        Meta(
            pattern=r"^[=:]$",
            description="'=' or ':', what stands between a key and its value",
            examples=[":"],
        ),
    ] = "="
    checksum: Checksum = "none"

    def __post_init__(self) -> None:
        if not 1 <= len(self.key) <= fields.MAX_READINGS:
            raise ValueError(f"{len(self.key)} keys; expected 1 to {fields.MAX_READINGS}")
        for names in ([key.key for key in self.key], [key.name or key.key for key in self.key]):
            if len(set(names)) < len(names):
                raise ValueError("two keys have the same key or name; each needs its own")


class KeyValueLines:
    """An `Adapter` for lines of pairs, separated by blanks, commas or semicolons (ASCII).

    A value may be followed directly by its unit, if the settings name it. Without a check value
    a damaged line may pass: one whose values have their type and are in their range. One value
    that does not cost the whole line, and so does a pair without a key.
    """

    Settings = KeyValueSettings

    def __init__(self, settings: KeyValueSettings) -> None:
        self._keys = {key.key: key for key in settings.key}
        self._assign = settings.assign
        self._checksum = settings.checksum
        self._lines = Lines(MAX_LINE, self._line, checked=settings.checksum != "none")

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Decode the lines that `data` completes; see `Adapter.receive`."""
        return self._lines.receive(data)

    def encode(self, command: Mapping[str, Any]) -> bytes:
        """Encode a command as one line of pairs, without a check value.

        Raises ValueError when a key or value is empty or holds what separates pairs, when a
        value is null, a list or a map, and when the line is longer than MAX_LINE.
        """
        pairs = []
        for key, value in fields.plain(command).items():
            if isinstance(value, dict | list) or value is None:
                raise ValueError(f"{key!r}: a line holds numbers, text, true and false")
            text = str(value).lower() if isinstance(value, bool) else str(value)
            for part in (key, text):
                if not part or self._assign in part or _BETWEEN_PAIRS.search(part):
                    raise ValueError(f"{part!r} cannot be sent in a line of pairs")
                ascii_text(part.encode())
            pairs.append(f"{key}{self._assign}{text}")
        line = " ".join(pairs).encode()
        if len(line) > MAX_LINE:
            raise ValueError(f"the command takes {len(line)} bytes, {MAX_LINE} are allowed")
        return line + b"\n"

    def reset(self) -> None:
        """Forget the unfinished line."""
        self._lines.reset()

    def _line(self, line: bytes) -> list[Reading | Event]:
        if self._checksum == "xor":
            line = without_xor(line)
        items: list[Reading | Event] = []
        seen: set[str] = set()
        for pair in filter(None, _BETWEEN_PAIRS.split(ascii_text(line))):
            key, assigned, text = pair.partition(self._assign)
            if not (assigned and key) or key in seen:
                raise DamagedError("malformed", f"{pair[:32]!r} is no pair, or comes twice")
            seen.add(key)
            if (expected := self._keys.get(key)) is not None:
                items.append(_item(expected, text))
        return items or [Event("heartbeat", "a line without a key that is recorded")]


def _item(key: Key, text: str) -> Reading | Event:
    sensor = key.name or key.key
    if key.unit is not None and key.type != "text":
        text = text.removesuffix(key.unit)
    if not text:
        return Event("no-value", f"sensor {sensor!r} has no value", sensors=(sensor,))
    return Reading(sensor, key.read(text, f"key {key.key!r}"), key.unit)
