"""M-Bus: heat, water and electricity meters on two wires. pymeterbus decodes the telegrams.

Source: The M-Bus: A Documentation, 4.8 (EN 13757-2 and -3). The check value is a sum of all bytes:
it notices neither bytes that changed places nor, in the mean, one of 256 other kinds of damage.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, NoReturn

import meterbus  # type: ignore[import-untyped]
from meterbus.exceptions import MBusError  # type: ignore[import-untyped]
from msgspec import Meta

from firmware_adapters.adapter import Event, Reading, Turn
from firmware_adapters.fields import Header, MalformedError, frame_items, malformed
from firmware_adapters.polling import Question, Rota
from firmware_adapters.settings import Interval, Pause, SensorName, Settings, Timeout

_ACKNOWLEDGED = 0xE5
_SHORTEST_TELEGRAM, _LONGEST_ANSWER = 9, 261
_FIRST_START, _STOP = 0x68, 0x16
_INITIALISE, _REQUEST = 0x40, 0x5B  # SND_NKE, REQ_UD2
_FRAME_COUNT_BIT = 0x20
_IS_RESPONSE = frozenset((0x08, 0x18, 0x28, 0x38))  # RSP_UD, with the bits ACD and DFC
_ANY_ADDRESS = 254
_MOST_TELEGRAMS = 32

_NO_UNITS = frozenset(("", "none", "date", "time", "date time", "date time to second"))
_SHORT_UNITS = {"seconds": "s", "minutes": "min", "hours": "h", "days": "d", "m^3": "m3"}

# The library checks little of a telegram whose sum is right; what it stumbles over is malformed.
_DECODING_ERRORS = (
    MBusError,
    LookupError,
    ArithmeticError,
    ValueError,
    TypeError,
    AttributeError,
    struct.error,
)


class Meter(Settings):
    """`[[device.settings.meter]]`: a meter, and how often it is asked.

    Many battery meters allow only a few questions a day.
    """

    name: SensorName
    address: Annotated[
        int,
        Meta(
            ge=0,
            le=254,
            description="a primary address from 0 to 250, or 254 for the only meter on the line",
            examples=[1],
        ),
    ]
    interval: Interval = 900.0


class MbusSettings(Settings):
    """The meters on the line, and the line's timing.

    `timeout` is for a whole answer: 261 bytes take 1.2 s at 2400 baud, 9.6 s at 300 baud.
    """

    meter: list[Meter]
    timeout: Timeout = 3.0
    pause: Pause = 0.05

    def __post_init__(self) -> None:
        if not self.meter:
            raise ValueError("a table [[device.settings.meter]] is missing")
        names = [entry.name for entry in self.meter]
        addresses = [str(entry.address) for entry in self.meter]
        for used in (names, addresses):
            for one in used:
                if used.count(one) > 1:
                    raise ValueError(f"the meter {one} is there twice; each needs its own")
        if any(250 < entry.address < _ANY_ADDRESS for entry in self.meter):
            raise ValueError("the addresses 251 to 253 are no meter's")


class Mbus:
    """A `PollingAdapter` that asks M-Bus meters by their primary address.

    The sensors are `meter.quantity`, with pymeterbus's names for the quantities, and after them
    `max`, `min` or `error`, `s1` for a stored value, `t1` for a tariff and `u1` for a subunit
    where it says so; the second of the same name ends with `#2`. A meter's dates are texts. The
    meter is initialised before each question, so that it begins with its first telegram.
    """

    Settings = MbusSettings

    def __init__(self, settings: MbusSettings) -> None:
        self._meters = {
            Question(f"meter {meter.name}", _short(_INITIALISE, meter.address), meter.interval): (
                meter
            )
            for meter in settings.meter
        }
        self._rota = Rota([*self._meters], timeout=settings.timeout, pause=settings.pause)
        self._buffer = bytearray()
        self._telegrams = -1  # that have come of the current answer; -1 before the meter is ready
        self._damaged = False
        self._seen: set[str] = set()

    def poll(self, now: float) -> Turn:
        """Ask the next meter when it is time; see `PollingAdapter.poll`."""
        heard = None
        if self._damaged:
            heard = Event("bad-crc", "a telegram whose checksum does not match", len(self._buffer))
        elif self._buffer:
            heard = Event("cut-frame", "bytes that are no whole telegram", len(self._buffer))
        asked = self._rota.current
        turn = self._rota.turn(now, heard)
        if asked is not None and self._rota.current is not asked:
            self._begin()
        if self._rota.current is None or turn.send:
            self._clear()
        return turn

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Decode the answer to what was asked; see `Adapter.receive`."""
        if self._rota.current is None:
            return [Event("noise", "bytes that were not asked for", len(data))] if data else []
        self._buffer += data
        meter = self._meters[self._rota.current]
        if self._telegrams < 0:
            if _ACKNOWLEDGED in self._buffer:
                self._go_on(meter)
            return self._keep_little()
        frame = self._frame(meter.address)
        if frame is None:
            return self._keep_little()
        try:
            items, more = self._decode(meter, frame)
        except MalformedError as error:
            items, more = [malformed(error, len(frame))], False
        except _DECODING_ERRORS as error:
            detail = f"a telegram that cannot be decoded ({type(error).__name__})"
            items, more = [Event("malformed", detail, len(frame))], False
        if more and self._telegrams < _MOST_TELEGRAMS:
            self._go_on(meter)
        else:
            self._rota.answered()
            self._begin()
            self._clear()
        return items

    def encode(self, command: Mapping[str, Any]) -> NoReturn:
        """Raises ValueError: meters are only read."""
        raise ValueError("M-Bus meters are sent no commands: they are only read")

    def reset(self) -> None:
        """Forget the question and what came of its answer."""
        self._rota.reset()
        self._begin()
        self._clear()

    def _begin(self) -> None:
        self._telegrams = -1
        self._seen.clear()

    def _clear(self) -> None:
        self._buffer.clear()
        self._damaged = False

    def _keep_little(self) -> list[Reading | Event]:
        if len(self._buffer) > 2 * _LONGEST_ANSWER:
            del self._buffer[: -_LONGEST_ANSWER + 1]
        return []

    def _go_on(self, meter: Meter) -> None:
        """Ask for the next telegram: the changed frame count bit says that the last one came."""
        self._telegrams += 1
        count = 0 if self._telegrams % 2 else _FRAME_COUNT_BIT
        self._rota.answered(_short(_REQUEST | count, meter.address))
        self._clear()

    def _frame(self, address: int) -> bytes | None:
        """The telegram of a meter, wherever in the noise it is; None while there is no good one."""
        for start in range(len(self._buffer) - _SHORTEST_TELEGRAM + 1):
            head = self._buffer[start : start + 6]
            size = head[1] + 6
            whole = self._buffer[start : start + size]
            if (
                head[0] != _FIRST_START
                or head[3] != _FIRST_START
                or head[1] != head[2]
                or head[4] not in _IS_RESPONSE
                or (address != _ANY_ADDRESS and head[5] != address)
                or len(whole) < size
                or whole[-1] != _STOP
            ):
                continue
            if sum(whole[4:-2]) % 256 == whole[-2]:
                return bytes(whole)
            self._damaged = True
        return None

    def _decode(self, meter: Meter, frame: bytes) -> tuple[list[Reading | Event], bool]:
        """The readings of a telegram, and whether another one follows."""
        telegram = meterbus.TelegramLong.parse(frame)
        values: dict[str, object] = {}
        units: dict[str, str] = {}
        for name, value, unit in _records(telegram):
            sensor = self._unique(f"{meter.name}.{name}")
            values[sensor] = value
            if unit is not None:
                units[sensor] = unit
        return frame_items(Header(), values, units), telegram.more_records_follow

    def _unique(self, name: str) -> str:
        sensor, number = name, 1
        while sensor in self._seen:
            number += 1
            sensor = f"{name}#{number}"
        self._seen.add(sensor)
        return sensor


def _short(control: int, address: int) -> bytes:
    """A frame without data to a meter."""
    return bytes((0x10, control, address, (control + address) % 256, _STOP))


def _records(telegram: Any) -> Iterator[tuple[str, object, str | None]]:
    for record in telegram.records:
        if record.dib.is_eoud:  # what follows is the manufacturer's own
            continue
        says = record.interpreted
        parts = [_last(says["type"])]
        if parts[0].startswith(("password", "access_code")):
            continue
        if "unit_enh" in says:
            parts.append(_last(says["unit_enh"]))
        function = _last(says["function"])
        if function != "instantaneous_value":
            parts.append(function.partition("_")[0].replace("imum", ""))
        for letter, key in (("s", "storage_number"), ("t", "tariff"), ("u", "device")):
            if number := says.get(key):
                parts.append(f"{letter}{number}")
        value, unit = _value(record), record.unit
        if not isinstance(unit, str) or not unit.isprintable() or unit in _NO_UNITS:
            unit = None
        if unit is None and isinstance(value, float) and value.is_integer():
            value = int(value)  # a number of the meter, say
        yield ".".join(parts), value, _SHORT_UNITS.get(unit, unit)


def _last(text: str) -> str:
    """`volume` of `VIFUnit.VOLUME`."""
    return text.rpartition(".")[2].lower()


def _value(record: Any) -> object:
    """A number, a text, or None where the meter says that it has no value."""
    encoding = record.dib.length_encoding[1]
    if encoding == meterbus.DataEncoding.ENCODING_BCD:
        # The library would make a number of digits beyond 9, by which meters say "no value". Only
        # the first may be one: 0xF is a minus.
        *rest, first = record.dataField.parts
        nibbles = [first & 15, *(nibble for byte in rest for nibble in (byte >> 4, byte & 15))]
        if any(nibble > 9 for nibble in nibbles) or 9 < first >> 4 < 15:
            return None
    value = record.value
    if isinstance(value, Decimal):
        number = float(f"{value:.12g}")  # the library multiplies with binary fractions
        return number if math.isfinite(number) else None
    return value
