"""Modbus register maps: what they look like in the settings, and how registers become values."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from pymodbus.pdu import ModbusPDU, ReadCoilsRequest, ReadHoldingRegistersRequest
from pymodbus.pdu.bit_message import ReadDiscreteInputsRequest, WriteSingleCoilRequest
from pymodbus.pdu.register_message import (
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)

from firmware_adapters.adapter import Value
from firmware_adapters.fields import MAX_READINGS
from firmware_adapters.settings import (
    Interval,
    Pause,
    SensorName,
    Settings,
    Timeout,
    Unit,
    check_finite,
)

_MOST_REGISTERS = 125
_REQUESTS: dict[str, type[ModbusPDU]] = {
    "holding": ReadHoldingRegistersRequest,
    "input": ReadInputRegistersRequest,
    "coil": ReadCoilsRequest,
    "discrete": ReadDiscreteInputsRequest,
}
_BITS = frozenset(("coil", "discrete"))
_WRITABLE = frozenset(("coil", "holding"))
_FORMATS = {
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "uint64": ">Q",
    "float32": ">f",
    "float64": ">d",
}


Limit = Annotated[float, Meta(description="a number", examples=[5])]


class Register(Settings):
    """`[[device.settings.map.register]]`: one value, `raw * scale + offset`.

    Of a `writable` one that value can be set, if it is not below `min` or above `max`.

    `address` is the one on the wire, from 0; manuals often count from 1, or from 30001 for input
    and from 40001 for holding registers.
    """

    name: SensorName
    address: Annotated[
        int, Meta(ge=0, le=65535, description="an address from 0 to 65535", examples=[12])
    ]
    table: Annotated[
        Literal["holding", "input", "coil", "discrete"],
        Meta(description="'holding', 'input', 'coil' or 'discrete'", examples=["input"]),
    ] = "holding"
    type: (
        Annotated[
            Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"],
            Meta(
                description="(u)int16, (u)int32, (u)int64, float32 or float64", examples=["int16"]
            ),
        ]
        | None
    ) = None
    words: Annotated[
        Literal["high-first", "low-first"],
        Meta(
            description="'high-first' or 'low-first', the order of a value's registers",
            examples=["low-first"],
        ),
    ] = "high-first"
    scale: Annotated[float, Meta(description="a number that is not 0", examples=[0.1])] = 1.0
    offset: Annotated[float, Meta(description="a number", examples=[-40])] = 0.0
    unit: Unit | None = None
    writable: Annotated[
        bool, Meta(description="true: the value can be set, as a setting", examples=[True])
    ] = False
    min: Limit | None = None
    max: Limit | None = None

    def __post_init__(self) -> None:
        check_finite(scale=self.scale, offset=self.offset, min=self.min, max=self.max)
        if self.writable and self.table not in _WRITABLE:
            raise ValueError(f"writable is of no use in the table {self.table}: it is read only")
        if (self.min, self.max) != (None, None) and (not self.writable or self.table in _BITS):
            raise ValueError("min and max need writable = true, in the table holding")
        if self.scale == 0:
            raise ValueError("scale = 0: expected a number that is not 0, for example scale = 0.1")
        if self.table in _BITS and self.type is not None:
            raise ValueError(f"type is of no use in the table {self.table}: it holds single bits")
        if self.address + self.size > 65536:
            raise ValueError("the value ends beyond address 65535")

    @property
    def size(self) -> int:
        """How many addresses the value takes."""
        return 1 if self.table in _BITS else struct.calcsize(self._format) // 2

    @property
    def _format(self) -> str:
        return _FORMATS[self.type or "uint16"]

    def value(self, registers: list[int]) -> float | int | None:
        """What `size` registers hold; None for a float that is not a number."""
        ordered = registers if self.words == "high-first" else registers[::-1]
        content = struct.pack(f">{len(ordered)}H", *ordered)
        raw: float | int = struct.unpack(self._format, content)[0]
        if not math.isfinite(raw):
            return None
        if self.type == "float32":
            raw = float(f"{raw:.7g}")  # the nearest short number: 21.3 rather than 21.299999237
        if self.scale == 1 and self.offset == 0:
            return raw
        # In decimal, so that 235 * 0.1 is 23.5.
        scaled = Decimal(repr(raw)) * Decimal(repr(self.scale)) + Decimal(repr(self.offset))
        return float(scaled)

    def raw(self, value: Value) -> list[int]:
        """The registers, or the one bit, that hold a value, or what is nearest to it.

        Raises ValueError for a value that cannot be set.
        """
        if self.table in _BITS:
            if not isinstance(value, bool):
                raise ValueError("a coil is true or false")
            return [int(value)]
        if isinstance(value, bool | str) or not math.isfinite(value):
            raise ValueError("a register holds a number")
        if (self.min is not None and value < self.min) or (
            self.max is not None and value > self.max
        ):
            low = "" if self.min is None else f"from {self.min:g} "
            raise ValueError(f"it can be {low}{'' if self.max is None else f'up to {self.max:g}'}")
        raw = (Decimal(repr(value)) - Decimal(repr(self.offset))) / Decimal(repr(self.scale))
        number = float(raw) if self._format in (">f", ">d") else round(raw)
        try:
            content = struct.pack(self._format, number)
        except (struct.error, OverflowError):
            raise ValueError(f"{value} is beyond what {self.type or 'uint16'} can hold") from None
        words = [*struct.unpack(f">{len(content) // 2}H", content)]
        return words if self.words == "high-first" else words[::-1]


class Map(Settings):
    """`[[device.settings.map]]`: the registers of one kind of device."""

    name: SensorName
    register: list[Register]

    def __post_init__(self) -> None:
        if not self.register:
            raise ValueError("a map needs a table [[device.settings.map.register]]")
        names = [register.name for register in self.register]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} is used twice; each register needs its own")


class Slave(Settings):
    """`[[device.settings.slave]]`: a device on the line, and how often it is asked."""

    address: Annotated[
        int, Meta(ge=1, le=247, description="an address from 1 to 247", examples=[1])
    ]
    name: SensorName
    map: SensorName
    interval: Interval = 10.0


class ModbusSettings(Settings):
    """The slaves on the line, the maps of their registers, and the line's timing.

    `timeout` is for a whole answer: 255 bytes take 0.3 s at 9600 baud.
    """

    map: list[Map]
    slave: list[Slave]
    timeout: Timeout = 1.0
    pause: Pause = 0.02

    def __post_init__(self) -> None:
        if not self.slave:
            raise ValueError("a table [[device.settings.slave]] is missing")
        maps = [entry.name for entry in self.map]
        addresses = [str(entry.address) for entry in self.slave]
        names = [entry.name for entry in self.slave]
        for what, used in (("map", maps), ("slave", addresses), ("slave", names)):
            for name in used:
                if used.count(name) > 1:
                    raise ValueError(f"the {what} {name} is there twice; each needs its own")
        for entry in self.slave:
            if entry.map not in maps:
                known = ", ".join(maps) or "none"
                raise ValueError(
                    f"slave {entry.name}: no map is called {entry.map!r}; known are: {known}"
                )


class Block(msgspec.Struct, frozen=True):
    """Neighbouring registers of a slave, read with one request.

    `beginning` is how an answer must begin, `refusal` how an exception does.
    """

    slave: Slave
    request: ModbusPDU
    registers: tuple[Register, ...]

    @property
    def what(self) -> str:
        first = self.registers[0]
        return f"{first.table} {first.address} to {first.address + self.request.count - 1}"

    @property
    def beginning(self) -> bytes:
        return bytes((self.slave.address, self.request.function_code, self._content_size))

    @property
    def refusal(self) -> bytes:
        return bytes((self.slave.address, self.request.function_code | 0x80))

    @property
    def answer_size(self) -> int:
        return len(self.beginning) + self._content_size + 2

    @property
    def _content_size(self) -> int:
        count = self.request.count
        return (count + 7) // 8 if self.registers[0].table in _BITS else 2 * count

    @property
    def sensors(self) -> dict[str, Register]:
        """The registers by the names of their sensors."""
        return {f"{self.slave.name}.{register.name}": register for register in self.registers}

    @property
    def settings(self) -> list[tuple[str, Register]]:
        """The registers that can be written, with the names of their settings."""
        return [(name, register) for name, register in self.sensors.items() if register.writable]

    def values(self, answer: ModbusPDU) -> tuple[dict[str, object], dict[str, str]]:
        """Sensors with their values, and those that have one with their unit."""
        values: dict[str, object] = {}
        units: dict[str, str] = {}
        for sensor, register in self.sensors.items():
            start = register.address - self.request.address
            if register.table in _BITS:
                values[sensor] = bool(answer.bits[start])
            else:
                values[sensor] = register.value([*answer.registers[start : start + register.size]])
            if register.unit is not None:
                units[sensor] = register.unit
        return values, units


class Write(msgspec.Struct, frozen=True):
    """A request that sets a value; the members are those of `Block`."""

    slave: Slave
    register: Register
    request: ModbusPDU

    @classmethod
    def of(cls, slave: Slave, register: Register, value: Value) -> Write:
        """Raises ValueError for a value that cannot be set."""
        raw = register.raw(value)
        request: ModbusPDU
        if register.table in _BITS:
            request = WriteSingleCoilRequest(bits=[bool(raw[0])])
        elif len(raw) == 1:
            request = WriteSingleRegisterRequest(registers=raw)
        else:
            request = WriteMultipleRegistersRequest(registers=raw, count=len(raw))
        request.address, request.dev_id = register.address, slave.address
        return cls(slave, register, request)

    @property
    def what(self) -> str:
        return f"writing {self.register.table} {self.register.address}"

    @property
    def setting(self) -> str:
        return f"{self.slave.name}.{self.register.name}"

    @property
    def beginning(self) -> bytes:
        return bytes((self.slave.address, self.request.function_code)) + struct.pack(
            ">H", self.register.address
        )

    @property
    def refusal(self) -> bytes:
        return bytes((self.slave.address, self.request.function_code | 0x80))

    @property
    def answer_size(self) -> int:
        """The address and what was written, or how much, come back."""
        return len(self.beginning) + 4


def blocks(settings: ModbusSettings) -> Iterator[tuple[Slave, Block]]:
    """The fewest requests that read what is wanted and nothing else: some devices refuse to answer
    for registers that they do not have."""
    maps = {entry.name: entry for entry in settings.map}
    for slave in settings.slave:
        for group in _groups(maps[slave.map].register):
            first, last = group[0], max(group, key=lambda one: one.address + one.size)
            count = last.address + last.size - first.address
            request = _REQUESTS[first.table](
                address=first.address, count=count, dev_id=slave.address
            )
            yield slave, Block(slave, request, tuple(group))


def _groups(registers: list[Register]) -> Iterator[list[Register]]:
    ordered = sorted(registers, key=lambda one: (one.table, one.address, one.size))
    group = ordered[:1]
    end = group[0].address + group[0].size
    for before, register in pairwise(ordered):
        reach = max(end, register.address + register.size)
        fits = (
            register.table == before.table
            and register.address <= end
            and reach - group[0].address <= _MOST_REGISTERS
            and len(group) < MAX_READINGS
        )
        if fits:
            group.append(register)
            end = reach
        else:
            yield group
            group, end = [register], register.address + register.size
    yield group
