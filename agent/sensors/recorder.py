"""Turns what a device says into documents, and stores them.

A reading's id, `device:sensor:time:sequence`, orders a sensor's readings by time and is the same
whenever the same reading arrives, so that a device that repeats itself makes no duplicate. Where
the device tells no time it is that of arrival, less the age that the reading had when it was sent;
then repeats are known by the sequence number, and what was accepted is written together with the
readings, in one transaction. A device that asks for acknowledgements gets them for what is durable,
and is asked for what has not come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from agent.backoff import Backoff
from agent.errors import TransientError
from agent.sensors.clock import AgentClock
from agent.sensors.packing import Window, restored
from agent.sensors.planning import (
    Arrival,
    DeviceState,
    Plan,
    Sample,
    first_frames,
    plan,
)
from agent.sensors.rules import Rules
from agent.sensors.stats import SensorStats
from agent.store.store import Store
from agent.store.transaction import Transaction
from firmware_adapters.adapter import Adapter, Event, Reading

log = logging.getLogger(__name__)

_MOST_WAITING = 10_000
"""Readings held in memory while the disk is slow or full; then the port is read no more."""

_MOST_AT_ONCE = 1000
"""Readings in one transaction: bounds the time that the event loop is busy with them."""

_GRACE = 1.0
"""Seconds after its time until a window is closed without another reading."""

_CHECK = 0.5
"""Seconds between looks at whether readings that wait are dealt with."""

_MOST_SENSORS = 1000
"""Sensors of one device that are counted singly; the readings of others are stored all the same."""

_json = msgspec.json.Encoder()


class Recorder:
    """Records one device. `feed` takes its bytes; `run` stores what they say.

    `send` takes bytes for the device, and must not wait; without it nothing is acknowledged. With
    an `interval` (seconds) readings are written at its multiples, which are the same moments for
    all devices, so that they share a commit; else as they come. `hear` is given everything that
    the device says, before it is stored. Without a `clock` the system's is taken; a device that
    `tells_time` is one of the clock's sources.
    """

    def __init__(
        self,
        store: Store,
        device: str,
        adapter: Adapter,
        send: Callable[[bytes], object] | None = None,
        rules: Rules | None = None,
        interval: float = 0.0,
        hear: Callable[[Sequence[Reading | Event]], object] | None = None,
        clock: AgentClock | None = None,
        *,
        tells_time: bool = False,
    ) -> None:
        self.device = device
        self.state = DeviceState()
        self._lost_before: int | None = None
        self.sensors: dict[str, SensorStats] = {}
        self.events: Counter[str] = Counter()
        """Damage on the wire and the like since the start, by kind (see `EventKind`)."""
        self.last_error: str | None = None
        self._store = store
        self._adapter = adapter
        self._send = send
        self._rules = rules or Rules()
        self._interval = interval
        self._hear = hear
        self._clock = clock or AgentClock.of_system()
        self._clock.when_known(self._time_known)
        self._tells_time = tells_time
        self._acknowledging = False
        self._local_id = f"device:{device}"
        self._local_rev: str | None = None
        self._local_text = ""
        self._windows: dict[str, Window] = {}
        self._closing: dict[str, float] = {}
        """By a window's id, when it is closed if nothing else does, as `time.monotonic` has it."""
        self._waiting: list[Arrival] = []
        self._rounds = 0
        self._resting = True
        self._last_arrival = 0
        self._arrived = asyncio.Event()
        self._hurry = asyncio.Event()
        """Set when what waits is to be written before the interval is over."""
        self._stored = asyncio.Event()
        self._stored.set()

    @property
    def waiting(self) -> int:
        """Readings that are not yet durable."""
        return len(self._waiting)

    @property
    def lost_since_start(self) -> int:
        """Of `state.lost`, which counts for as long as the store lasts, those since the start."""
        before = self._lost_before
        return 0 if before is None else max(0, self.state.lost - before)

    async def _load(self) -> None:
        """Go on from what was accepted before."""
        found = await self._store.get_local(self._local_id)
        self._local_rev, self._local_text, self.state = None, "", DeviceState()
        if found is not None:
            self._local_rev, self._local_text = found
            try:
                self.state = msgspec.json.decode(self._local_text, type=DeviceState)
            except msgspec.DecodeError as error:
                log.warning(
                    "device %s: _local/%s is no use: %s", self.device, self._local_id, error
                )
        self._clock.at_least(self.state.newest, self.state.ahead)
        if self._lost_before is None:
            self._lost_before = self.state.lost
        self._windows_are(await _windows_left(self._store, self.device))

    def port_opened(self) -> None:
        """The port was opened anew: half a frame from before means nothing, and another device
        may be there, one that expects no bytes."""
        self._adapter.reset()
        self._acknowledging = False

    async def feed(self, data: bytes) -> None:
        """Take bytes from the device; waits while too much is not yet stored."""
        told = ""
        items = self._adapter.receive(data)
        if self._hear is not None:
            self._hear(items)
        for item in items:
            if isinstance(item, Event):
                self.note(item)
            # A frame without readings uses up a sequence number all the same.
            if isinstance(item, Reading) or item.sequence is not None:
                self._waiting.append(Arrival(self._arrival(), item))
                self._acknowledging = item.held is not None
            if isinstance(item, Reading) and item.time is not None:
                told = max(told, item.time)
        if told and self._tells_time:
            self._clock.told(self.device, told, self._last_arrival)
        if self._waiting:
            self._stored.clear()
            self._arrived.set()
        if len(self._waiting) >= _MOST_AT_ONCE:
            self._hurry.set()
        if len(self._waiting) >= _MOST_WAITING:
            await self._stored.wait()

    async def run(self) -> None:
        """Store readings as they come, as many at once as have come meanwhile. Never returns."""
        self._resting = False
        try:
            await self._load()
            while True:
                await self._something_to_do()
                await self._store_waiting()
        finally:
            self._resting = True  # until it is started again

    async def _something_to_do(self) -> None:
        """Wait until something is to be written, or the time of a window is over."""
        if self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(self._closing.values()) - time.monotonic()):
                    await self._arrived.wait()
        else:
            await self._arrived.wait()
        if self._interval and self._waiting:
            self._resting = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval - time.monotonic() % self._interval):
                    await self._hurry.wait()
            self._resting = False

    async def drain(self) -> None:
        """Write at once what was fed, and wait until it is durable; `run` has to be running."""
        self._hurry.set()
        await self._stored.wait()

    async def check(self) -> None:
        """Returns while what was read is stored, or waits on purpose; hangs otherwise."""
        rounds = self._rounds
        while self._waiting and not self._resting and self._rounds == rounds:  # noqa: ASYNC110
            await asyncio.sleep(_CHECK)

    async def _store_waiting(self) -> None:
        self._rounds += 1
        arrivals = first_frames(self._waiting, _MOST_AT_ONCE)
        backoff = Backoff(0.5, 30.0)
        # On a copy: what the store refuses was not accepted, and is planned again.
        state = msgspec.json.decode(_json.encode(self.state), type=DeviceState)
        now = time.monotonic()
        scale = self._clock.scale()
        overdue = [
            window.id
            for window in self._windows.values()
            if self._closing[window.id] <= now
            or (window.shared.unset is not None and not scale.unset)
        ]
        planned = plan(self.device, self._rules, state, arrivals, self._windows, overdue, scale)
        while True:
            try:
                await self._write(planned, _json.encode(state).decode())
                break
            except TransientError as error:
                if str(error) != self.last_error:
                    log.warning("device %s: readings wait in memory: %s", self.device, error)
                self.last_error = str(error)
                self._resting = True
                await asyncio.sleep(backoff.next_delay())
                self._resting = False
        self.last_error = None
        self._tell_what_is_missing(state)
        self.state = state
        self._windows_are(planned.windows)
        self._clock.marked(planned.marked)
        for sample in planned.samples:
            self._count(sample)
        self._waiting = self._waiting[len(arrivals) :]
        if not self._waiting:
            self._arrived.clear()
            self._hurry.clear()
            self._stored.set()
        self._acknowledge()

    def _windows_are(self, windows: dict[str, Window]) -> None:
        """Windows of sensors that fall silent are closed, too: a little after their time, so that
        it is the next reading that closes those of the others."""
        self._windows = windows
        now = time.monotonic()
        closing = {}
        for sensor, window in windows.items():
            length = self._rules.of(sensor).pack or 1
            left = (length - window.rows[0].at % length) / 1_000_000
            closing[window.id] = self._closing.get(window.id, now + left + _GRACE)
        self._closing = closing

    def _tell_what_is_missing(self, state: DeviceState) -> None:
        missing = state.lost - self.state.lost
        dropped = state.dropped - self.state.dropped
        if missing > 0 and state.oldest is None:
            log.warning("device %s: %d frames are missing", self.device, missing)
        elif missing > 0:
            log.info("device %s: %d frames are asked for again", self.device, missing)
        if dropped > 0:
            log.warning(
                "device %s: it had to drop %d frames before they were acknowledged",
                self.device,
                dropped,
            )

    def _acknowledge(self) -> None:
        """Tell the device what is durable, and ask for what has not come by now."""
        confirmed = self.state.confirmed()
        if self._send is None or not self._acknowledging or confirmed is None:
            return
        number, hole = confirmed
        answer = [self.state.boot, number]
        if hole is not None:
            answer += hole
        self._send(self._adapter.encode({"ack": answer}))

    def _count(self, sample: Sample) -> None:
        stats = self._stats(sample.reading.sensor)
        if stats is not None:
            about = sample.at, sample.value, sample.unit, sample.quality
            stats.add(*about, kept=sample.kept, gaps=sample.gaps)

    def _stats(self, sensor: str) -> SensorStats | None:
        """None for one too many: noise on a line without checksums may look like ever new ones."""
        stats = self.sensors.get(sensor)
        if stats is None and len(self.sensors) < _MOST_SENSORS:
            stats = self.sensors[sensor] = SensorStats()
        return stats

    async def _write(self, planned: Plan, state: str) -> None:
        """Raises TransientError."""
        if state == self._local_text and planned.is_empty():
            return  # nothing new was told, and nothing is to be remembered: the disk is spared
        self._store.check_room()

        def operation(transaction: Transaction) -> str:
            transaction.graft(planned.documents)
            for clearing in planned.cleared:
                transaction.rewrite(clearing.id, clearing.applied)
            for document in planned.closed:
                transaction.parts.drop(document)
            for document, body in planned.parts:
                transaction.parts.append(self.device, document, body)
            return transaction.locals.put(self._local_id, self._local_rev, state)

        self._local_rev = await self._store.write(operation)
        self._local_text = state

    def _arrival(self) -> int:
        """Now, but no microsecond twice, so that no two readings share an id."""
        self._last_arrival = max(self._clock.monotonic(), self._last_arrival + 1)
        return self._last_arrival

    def _time_known(self) -> None:
        """Windows with times that are still provisional are closed, to be corrected."""
        self._arrived.set()

    def note(self, event: Event) -> None:
        """Count an event, of which nothing is stored."""
        self.events[event.kind] += 1
        for sensor in event.sensors:
            stats = self._stats(sensor)
            if stats is not None:
                stats.errors += 1
        if event.kind == "log":
            log.info("device %s says: %s", self.device, event.detail)
        else:
            log.debug("device %s: %s: %s", self.device, event.kind, event.detail)


async def finish_windows(store: Store, device: str, *, all: bool, boot_id: str) -> None:
    """Make documents of the windows that a device left: `all` of them, as of one that is not
    configured any more, or those with times of another boot than this, which nothing comes to.

    Raises StoreError, StoreWriteError.
    """
    windows = [
        window
        for window in (await _windows_left(store, device)).values()
        if all or (window.shared.unset is not None and window.shared.unset[0] != boot_id)
    ]

    def operation(transaction: Transaction) -> None:
        transaction.graft([window.document() for window in windows])
        for window in windows:
            transaction.parts.drop(window.id)

    await store.write(operation)


async def _windows_left(store: Store, device: str) -> dict[str, Window]:
    """The windows that were open when a device was recorded last."""
    try:
        return restored(await store.parts(device))
    except (msgspec.DecodeError, ValueError) as error:
        log.warning("device %s: what it has in the table parts is no use: %s", device, error)
        return {}
