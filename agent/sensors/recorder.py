"""Turns what a device says into documents, and stores them.

A reading's id, `device:sensor:time:sequence`, orders a sensor's readings by time and is the same
whenever the same reading arrives, so that a device that repeats itself makes no duplicate. Where
the device tells no time it is that of arrival; then repeats are known by the sequence number, and
what was accepted is written together with the readings, in one transaction.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from agent.backoff import Backoff
from agent.documents.revision import Revision, first_revision
from agent.errors import TransientError
from agent.sensors.sequence import SequenceState
from agent.store.store import Store
from agent.store.transaction import Transaction
from firmware_adapters.adapter import Adapter, Event, Reading, Value

log = logging.getLogger(__name__)

_MOST_WAITING = 10_000
"""Readings held in memory while the disk is slow or full; then the port is read no more."""

_MOST_AT_ONCE = 1000
"""Readings in one transaction: bounds the time that the event loop is busy with them."""

_MOST_SENSORS = 1000
"""Sensors of one device that are counted singly; the readings of others are stored all the same."""

_RATE_WINDOW = 60.0
_RATE_SLOTS = 6

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class _Arrival:
    """What a good frame held, and when it arrived, in microseconds since the epoch."""

    at: int
    item: Reading | Event


class SensorStats:
    """What one sensor has sent since the start of the process."""

    def __init__(self) -> None:
        self.readings = 0
        self.last_value: Value | None = None
        self.unit: str | None = None
        self.last_time: str | None = None
        self._started = time.monotonic()
        self._slots: deque[tuple[int, int]] = deque(maxlen=_RATE_SLOTS)

    def add(self, reading: Reading, at: str) -> None:
        self.readings += 1
        self.last_value = reading.value
        self.unit = reading.unit
        self.last_time = at
        slot = _slot()
        count = self._slots.pop()[1] if self._slots and self._slots[-1][0] == slot else 0
        self._slots.append((slot, count + 1))

    def rate(self) -> float:
        """Readings per second, over the last minute at most."""
        oldest = _slot() - _RATE_SLOTS
        recent = sum(count for slot, count in self._slots if slot > oldest)
        running = time.monotonic() - self._started
        return recent / max(1.0, min(_RATE_WINDOW, running))


class Recorder:
    """Records one device. `feed` takes its bytes; `run` stores what they say."""

    def __init__(self, store: Store, device: str, adapter: Adapter) -> None:
        self.device = device
        self.sequence = SequenceState()
        self.sensors: dict[str, SensorStats] = {}
        self.events: Counter[str] = Counter()
        """Damage on the wire and the like since the start, by kind (see `EventKind`)."""
        self.last_error: str | None = None
        self._store = store
        self._adapter = adapter
        self._local_id = f"device:{device}"
        self._local_rev: str | None = None
        self._waiting: list[_Arrival] = []
        self._last_arrival = 0
        self._arrived = asyncio.Event()
        self._stored = asyncio.Event()
        self._stored.set()

    @property
    def waiting(self) -> int:
        """Readings that are not yet durable."""
        return len(self._waiting)

    async def _load(self) -> None:
        """Go on from what was accepted before."""
        found = await self._store.get_local(self._local_id)
        self._local_rev, self.sequence = None, SequenceState()
        if found is not None:
            self._local_rev, body = found
            try:
                self.sequence = msgspec.json.decode(body, type=SequenceState)
            except msgspec.DecodeError as error:
                log.warning(
                    "device %s: _local/%s is no use: %s", self.device, self._local_id, error
                )

    def port_opened(self) -> None:
        """The port was opened anew: half a frame from before means nothing."""
        self._adapter.reset()

    async def feed(self, data: bytes) -> None:
        """Take bytes from the device; waits while too much is not yet stored."""
        for item in self._adapter.receive(data):
            if isinstance(item, Event):
                self._note(item)
            # A frame without readings uses up a sequence number all the same.
            if isinstance(item, Reading) or item.sequence is not None:
                self._waiting.append(_Arrival(self._arrival(), item))
        if self._waiting:
            self._stored.clear()
            self._arrived.set()
        if len(self._waiting) >= _MOST_WAITING:
            await self._stored.wait()

    async def run(self) -> None:
        """Store readings as they come, as many at once as have come meanwhile. Never returns."""
        await self._load()
        while True:
            await self._arrived.wait()
            await self._store_waiting()

    async def drain(self) -> None:
        """Wait until everything fed is durable; `run` has to be running."""
        await self._stored.wait()

    async def _store_waiting(self) -> None:
        arrivals = self._waiting[:_MOST_AT_ONCE]
        backoff = Backoff(0.5, 30.0)
        # On a copy: what the store refuses was not accepted, and is planned again.
        sequence = msgspec.json.decode(_json.encode(self.sequence), type=SequenceState)
        revisions, accepted = _plan(self.device, sequence, arrivals)
        while True:
            try:
                self._local_rev = await self._write(revisions, sequence)
                break
            except TransientError as error:
                if str(error) != self.last_error:
                    log.warning("device %s: readings wait in memory: %s", self.device, error)
                self.last_error = str(error)
                await asyncio.sleep(backoff.next_delay())
        self.last_error = None
        if sequence.lost > self.sequence.lost:
            log.warning(
                "device %s: %d frames are missing", self.device, sequence.lost - self.sequence.lost
            )
        self.sequence = sequence
        for at, reading in accepted:
            self._count(at, reading)
        self._waiting = self._waiting[len(arrivals) :]
        if not self._waiting:
            self._arrived.clear()
            self._stored.set()

    def _count(self, at: str, reading: Reading) -> None:
        stats = self.sensors.get(reading.sensor)
        if stats is None:
            if len(self.sensors) >= _MOST_SENSORS:
                return  # noise on a line without checksums may look like ever new sensors
            stats = self.sensors[reading.sensor] = SensorStats()
        stats.add(reading, at)

    async def _write(self, revisions: Sequence[Revision], sequence: SequenceState) -> str:
        state = _json.encode(sequence).decode()

        def operation(transaction: Transaction) -> str:
            transaction.graft(revisions)
            return transaction.locals.put(self._local_id, self._local_rev, state)

        return await self._store.write(operation)

    def _arrival(self) -> int:
        """Now, but no microsecond twice, so that no two readings share an id."""
        now = time.time_ns() // 1000
        if 0 <= self._last_arrival - now < 1_000_000:  # more than that: the clock was set back
            now = self._last_arrival + 1
        self._last_arrival = now
        return now

    def _note(self, event: Event) -> None:
        self.events[event.kind] += 1
        if event.kind == "log":
            log.info("device %s says: %s", self.device, event.detail)
        else:
            log.debug("device %s: %s: %s", self.device, event.kind, event.detail)


def _plan(
    device: str, sequence: SequenceState, arrivals: Iterable[_Arrival]
) -> tuple[list[Revision], list[tuple[str, Reading]]]:
    """The documents for what is new among `arrivals`, and the readings with their times;
    `sequence` takes note of all of them."""
    accepted: list[tuple[str, Reading]] = []
    for frame in _frames(arrivals):
        new: Iterable[str] = frame.readings
        if frame.sequence is not None:
            values = {sensor: reading.value for sensor, (_, reading) in frame.readings.items()}
            new = sequence.accept(frame.boot, frame.sequence, values)
        accepted += [entry for sensor, entry in frame.readings.items() if sensor in new]
    return [_document(device, at, reading) for at, reading in accepted], accepted


@dataclass(slots=True)
class _Frame:
    """By sensor, the time and the reading; none in a frame that held only an event."""

    boot: int | str | None
    sequence: int | None
    readings: dict[str, tuple[str, Reading]]


def _frames(arrivals: Iterable[_Arrival]) -> Iterator[_Frame]:
    """What arrived in one frame: until the number changes or a sensor comes again."""
    frame: _Frame | None = None
    for arrival in arrivals:
        item = arrival.item
        again = isinstance(item, Reading) and frame is not None and item.sensor in frame.readings
        if frame is None or again or (frame.boot, frame.sequence) != (item.boot, item.sequence):
            if frame is not None:
                yield frame
            frame = _Frame(item.boot, item.sequence, {})
        if isinstance(item, Reading):
            frame.readings[item.sensor] = (item.time or _timestamp(arrival.at), item)
    if frame is not None:
        yield frame


def _document(device: str, at: str, reading: Reading) -> Revision:
    body: dict[str, Any] = {
        "type": "reading",
        "device": device,
        "sensor": reading.sensor,
        "time": at,
        "value": reading.value,
    }
    if reading.unit is not None:
        body["unit"] = reading.unit
    if reading.sequence is not None:
        body["sequence"] = reading.sequence
    if reading.boot is not None:
        body["boot"] = reading.boot
    if reading.uptime_ms is not None:
        body["uptime_ms"] = reading.uptime_ms
    return first_revision(f"{device}:{reading.sensor}:{at}:{_last_part(reading)}", body)


def _last_part(reading: Reading) -> str:
    if reading.sequence is not None:
        number = f"{reading.sequence:010d}"
        # A device whose clock starts anew with each boot tells the same times again.
        again = reading.time is not None and reading.boot is not None
        return f"{reading.boot}-{number}" if again else number
    if reading.time is None:
        return "0"  # the time of arrival is unique
    # Two values with the same time from the device are two readings; a repeat is one.
    return hashlib.blake2b(_json.encode(reading.value), digest_size=4).hexdigest()


def _timestamp(microseconds: int) -> str:
    """RFC 3339 in UTC, always with six decimals, so that text order is time order."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"


def _slot() -> int:
    return int(time.monotonic() / (_RATE_WINDOW / _RATE_SLOTS))
