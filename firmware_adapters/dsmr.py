"""DSMR P1: the customer port of smart meters in the Netherlands, Belgium, Luxembourg and Sweden.

dsmr-parser decodes the telegrams, by a specification for each kind of meter.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NoReturn

from dsmr_parser import telegram_specifications  # type: ignore[import-untyped]
from dsmr_parser.exceptions import (  # type: ignore[import-untyped]
    InvalidChecksumError,
    ParseError,
)
from dsmr_parser.objects import CosemObject, MBusObject  # type: ignore[import-untyped]
from dsmr_parser.parsers import (  # type: ignore[import-untyped]
    CosemParser,
    MBusParser,
    TelegramParser,
)
from msgspec import Meta

from firmware_adapters.adapter import Event, Reading
from firmware_adapters.fields import Header, MalformedError, frame_items, malformed
from firmware_adapters.settings import Settings

MAX_TELEGRAM = 8192
"""Longest telegram in bytes; a text message may take 2048 of them."""

_SPECIFICATIONS: dict[str, Any] = {
    "2.2": telegram_specifications.V2_2,
    "4": telegram_specifications.V4,
    "5": telegram_specifications.V5,
    "belgium": telegram_specifications.BELGIUM_FLUVIUS,
    "luxembourg": telegram_specifications.V5,
    "sweden": telegram_specifications.SWEDEN,
}
_END = re.compile(rb"\r\n!([0-9A-Fa-f]{4})?[ \t]*\r?\n")
_REST = 16
"""As many bytes at the end of the buffer may be a part of `_END`."""


class DsmrSettings(Settings):
    """Which of the standard's versions the meter speaks."""

    version: Annotated[
        Literal["2.2", "4", "5", "belgium", "luxembourg", "sweden"],
        Meta(
            description="'2.2' (2 and 3 as well), '4', '5', 'belgium', 'luxembourg' or 'sweden'",
            examples=["5"],
        ),
    ] = "5"


class Dsmr:
    """An `Adapter` for P1 telegrams.

    The sensors have dsmr-parser's names in lower case; those of a meter that is attached by M-Bus,
    such as a gas meter, begin with `mbus_` and its channel. A CRC-16 protects a telegram, but not
    one of version 2.2. The time is the meter's, which tells summer from winter time; version 2.2
    does not, and gives no time. Encrypted telegrams are not understood.
    """

    Settings = DsmrSettings

    def __init__(self, settings: DsmrSettings) -> None:
        specification = _SPECIFICATIONS[settings.version]
        # The log of power failures is no reading, and its decoder keeps something of each telegram.
        objects = [
            item
            for item in specification["objects"]
            if isinstance(item["value_parser"], CosemParser | MBusParser)
        ]
        self._checked = bool(specification["checksum_support"])
        self._parser = TelegramParser({**specification, "objects": objects})
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Decode the telegrams that `data` completes; see `Adapter.receive`."""
        items: list[Reading | Event] = []
        for start in range(0, len(data), _REST):
            items += self._take(data[start : start + _REST])
        return items

    def encode(self, command: Mapping[str, Any]) -> NoReturn:
        """Raises ValueError: the port only sends."""
        raise ValueError("a P1 port takes no commands")

    def reset(self) -> None:
        """Forget the unfinished telegram."""
        self._buffer.clear()

    def _take(self, piece: bytes) -> Iterator[Reading | Event]:
        """Take at most as many bytes as are looked at again at the end of the buffer."""
        searched = max(0, len(self._buffer) - _REST)
        self._buffer += piece
        while (end := _END.search(self._buffer, searched)) is not None:
            yield from self._telegram(bytes(self._buffer[: end.end()]))
            del self._buffer[: end.end()]
            searched = 0
        if len(self._buffer) > MAX_TELEGRAM:
            yield Event("too-long", f"no '!' within {MAX_TELEGRAM} bytes", len(self._buffer))
            self._buffer.clear()

    def _telegram(self, frame: bytes) -> list[Reading | Event]:
        # The end of a telegram may be missing: then the next one begins in the midst of it.
        _, slash, telegram = frame.rpartition(b"/")
        if not slash:
            return [Event("cut-frame", "a telegram without its beginning", len(frame))]
        try:
            return self._decode("/" + telegram.decode("latin-1"))
        except InvalidChecksumError:
            return [Event("bad-crc", "the CRC of the telegram does not match", len(frame))]
        except MalformedError as error:
            return [malformed(error, len(frame))]
        except (ParseError, ArithmeticError, ValueError, LookupError) as error:
            detail = f"a line that cannot be decoded ({type(error).__name__})"
            return [Event("malformed", detail, len(frame))]

    def _decode(self, text: str) -> list[Reading | Event]:
        if text.count("!") != 1:
            raise MalformedError("a telegram has one '!'")
        telegram = self._parser.parse(text, throw_ex=True)
        own = getattr(telegram, "P1_MESSAGE_TIMESTAMP", None)
        groups: dict[str | None, tuple[dict[str, object], dict[str, str]]] = {}
        for name, item, moment in _objects(telegram, own and own.value):
            value = _number(item.value)
            if value is None or name.endswith("device_type") or name.startswith("text_message"):
                continue
            values, units = groups.setdefault(self._time(moment), ({}, {}))
            values[name] = value
            if item.unit is not None:
                units[name] = item.unit
        if not groups:
            return [Event("heartbeat", "a telegram without readings")]
        items: list[Reading | Event] = []
        for moment, (values, units) in groups.items():
            items += frame_items(Header(time=moment), values, units)
        return items

    def _time(self, moment: object) -> str | None:
        if not self._checked or not isinstance(moment, datetime):
            return None
        return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _objects(telegram: Any, own: object) -> Iterator[tuple[str, Any, object]]:
    """The meter's values and those of the meters attached to it: name, object, time."""
    for name, item in telegram:
        if name == "MBUS_DEVICES":
            for device in item:
                for inner, found in device:
                    moment = found.datetime if isinstance(found, MBusObject) else own
                    sensor = inner.lower().removeprefix("mbus_")
                    yield f"mbus_{device.channel_id}_{sensor}", found, moment
        elif isinstance(item, CosemObject | MBusObject):
            yield name.lower(), item, item.datetime if isinstance(item, MBusObject) else own


def _number(value: object) -> float | int | None:
    """A reading, or None for what only names the meter or is a text."""
    if isinstance(value, Decimal):
        return float(value)
    return value if isinstance(value, int) else None


# The reason comes back as an exception; the library would log it as well, with a traceback.
logging.getLogger("dsmr_parser.parsers").setLevel(logging.CRITICAL)
