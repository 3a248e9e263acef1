"""Finds out which firmware adapter understands what a port says, and at which baud rate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from agent.errors import PortError
from agent.sensors.link import SerialLink
from agent.sensors.opening import LineFormat
from agent.sensors.polling import Polling
from firmware_adapters import Adapter, Event, PollingAdapter, Reading, adapter_names, create

_8N1 = LineFormat()
_8E1 = LineFormat(parity="even")
_7E1 = LineFormat(data_bits=7, parity="even")

# Boards of one's own; sensors; VE.Direct; NMEA and AIS; radio modems; smart meters before DSMR 4.
_LISTENING = [
    *((baud, _8N1) for baud in (115_200, 9600, 19_200, 4800, 38_400, 57_600)),
    (9600, _7E1),
]

_UNDERSTOOD = frozenset({"heartbeat", "log", "no-value", "refused", "settings"})
"""The events that only a device which speaks the format causes."""

_STEP = 0.05


class Attempt(msgspec.Struct, frozen=True):
    """A way to open a port, and the adapters, with their settings, that hear what it says.

    At most one of them may be a `PollingAdapter`; it asks.
    """

    baud: int
    line: LineFormat
    adapters: Mapping[str, Mapping[str, Any]]


class Heard(msgspec.Struct, frozen=True):
    """What speaks on a port, and the first thing that it said: a reading, or an event when the
    device had no value to tell."""

    adapter: str
    baud: int
    line: LineFormat
    said: Reading | Event


def listening_adapters() -> list[str]:
    """The adapters that never ask and need no settings, among those whose packages are there.

    Loads them, which may take a fraction of a second.
    """
    made = {name: _made(name, {}) for name in adapter_names()}
    return [
        name
        for name, adapter in made.items()
        if adapter is not None and not isinstance(adapter, PollingAdapter)
    ]


def _made(name: str, settings: Mapping[str, Any]) -> Adapter | None:
    try:
        return create(name, settings)
    except ValueError:  # it needs settings, or a package that is not installed
        return None


def attempts(port: str, *, ask: bool) -> list[Attempt]:
    """What is worth trying on a port, in that order; `ask` allows what sends bytes."""
    adapters: dict[str, Mapping[str, Any]] = {name: {} for name in listening_adapters()}
    tried = [Attempt(baud, line, adapters) for baud, line in _LISTENING]
    if ask:
        tried += _asking()
    if port.startswith("socket://"):  # the baud rate is the converter's
        tried = list({tuple(attempt.adapters): attempt for attempt in reversed(tried)}.values())
        tried.reverse()
    return tried


def _asking() -> list[Attempt]:
    """For the one meter on an M-Bus, and for the Modbus addresses that devices mostly come with."""
    meter = {"name": "meter", "address": 254, "interval": 1}
    mbus = {"mbus": {"meter": [meter]}}
    register = {"name": "holding-0", "address": 0}
    slaves = [
        {"name": f"slave-{address}", "address": address, "map": "first", "interval": 5}
        for address in range(1, 11)
    ]
    first = {"name": "first", "register": [register]}
    modbus = {"modbus-rtu": {"timeout": 0.2, "map": [first], "slave": slaves}}
    lines = ((19_200, _8E1), (9600, _8N1), (9600, _8E1), (19_200, _8N1), (115_200, _8N1))
    all_of_them = [
        Attempt(2400, _8E1, mbus),
        *(Attempt(baud, line, modbus) for baud, line in lines),
    ]
    return [
        attempt
        for attempt in all_of_them
        if all(_made(*adapter) is not None for adapter in attempt.adapters.items())
    ]


async def probe(
    port: str, tried: list[Attempt], seconds: float, advance: Callable[[], None]
) -> Heard | None:
    """Make one attempt after the other, of so many `seconds` each, until one is understood.

    `advance` is called after each. A port that refuses some settings is tried with the others.
    Raises PortError when it could not be opened at all.
    """
    failure: PortError | None = None
    opened = False
    for attempt in tried:
        try:
            heard = await listen(port, attempt, seconds)
            opened = True
        except PortError as error:
            failure = failure or error
            heard = None
        advance()
        if heard is not None:
            return heard
    if failure is not None and not opened:
        raise failure
    return None


async def listen(port: str, attempt: Attempt, seconds: float) -> Heard | None:
    """Wait for the first reading, for at most `seconds` once the port is open.

    Opening a port may reset the device on it, once. Raises PortError when it cannot be opened, and
    ValueError for adapters that cannot be had, or have other settings.
    """
    ear = await asyncio.to_thread(_Ear, attempt.adapters)
    link = SerialLink(port, attempt.baud, line=attempt.line)
    polling = [Polling(asker, link, lambda _: None) for asker in ear.askers]

    def opened() -> None:
        ear.reset()
        stir()

    def received(data: bytes) -> None:
        ear.receive(data)
        stir()

    def stir() -> None:
        for each in polling:
            each.stir()

    tasks = [asyncio.create_task(link.run(received, opened))]
    tasks += [asyncio.create_task(each.run()) for each in polling]
    left = seconds
    try:
        while not ear.has_reading and left > 0:
            if link.opens:
                left -= _STEP
            elif link.last_error is not None:
                raise PortError(link.last_error)
            await asyncio.sleep(_STEP)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if ear.heard is None:
        return None
    adapter, said = ear.heard
    return Heard(adapter, attempt.baud, attempt.line, said)


class _Ear:
    """Adapters that hear the same bytes; it keeps the first that one of them understood."""

    def __init__(self, adapters: Mapping[str, Mapping[str, Any]]) -> None:
        """Raises ValueError."""
        self.heard: tuple[str, Reading | Event] | None = None
        self._adapters = {name: create(name, settings) for name, settings in adapters.items()}

    @property
    def askers(self) -> list[PollingAdapter]:
        return [each for each in self._adapters.values() if isinstance(each, PollingAdapter)]

    @property
    def has_reading(self) -> bool:
        return self.heard is not None and isinstance(self.heard[1], Reading)

    def reset(self) -> None:
        for adapter in self._adapters.values():
            adapter.reset()

    def receive(self, data: bytes) -> None:
        for name, adapter in self._adapters.items():
            for item in adapter.receive(data):
                if isinstance(item, Event):
                    if item.kind in _UNDERSTOOD:
                        self.heard = self.heard or (name, item)
                elif not self.has_reading:
                    self.heard = (name, item)
