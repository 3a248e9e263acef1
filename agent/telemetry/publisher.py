"""Publishes the readings of a gateway's devices on an MQTT broker, as they become durable.

It follows the store, not the devices: what is published is stored. A broker that is away is tried
again, as long as it takes; without `backlog` what was recorded meanwhile is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from agent.backoff import Backoff, transient_backoff
from agent.errors import EdgeAgentError, TooLargeError
from agent.peers.mqtt_client import Publication, Received
from agent.peers.mqtt_connection import Connection
from agent.peers.mqtt_presence import gateway_announcement
from agent.peers.mqtt_topics import Topics
from agent.store.store import Store
from agent.store.stored import StoredDocument
from agent.telemetry.home_assistant import (
    BIRTH,
    Sensor,
    birth_topic,
    config_topic,
    device_config,
    sensor_of,
)
from agent.telemetry.options import Options
from agent.telemetry.readings import Reading, reading_of

log = logging.getLogger(__name__)

_PAGE: Final = 100
"""Documents that are in memory at once."""

_MOST_BEHIND: Final = 1000
"""Changes; who is further behind goes on from the present, unless every reading is wanted."""

_MOST_SENSORS: Final = 500
"""Sensors of a device: noise on a line without checksums may look like ever new ones."""

_BIRTH_PAUSE: Final = 1.0
"""Seconds at most, so that not everybody answers Home Assistant at once."""

_SAVE_EVERY: Final = 60.0

_json = msgspec.json.Encoder()


class State(msgspec.Struct):
    """What is kept in `_local/telemetry:{name}`.

    `seq` is that of the last change that was dealt with, where a backlog is wanted; `discovery` is
    the prefix below which the devices were made known.
    """

    devices: dict[str, dict[str, Sensor]] = {}
    seq: int | None = None
    discovery: str | None = None


class Publisher:
    """Publishes until it is cancelled or the store is closed."""

    def __init__(self, name: str, store: Store, options: Options) -> None:
        self.name = name
        self.last_error: str | None = None
        """Why nothing is published."""
        self.published = 0
        """Readings since the start, as the next one."""
        self.skipped = 0
        """Readings that are too large, or of sensors that are too many."""
        self._store = store
        self._options = options
        self._topics = Topics(options.broker.prefix)
        self._local_id = f"telemetry:{name}"
        self._state = State()
        self._since = store.update_seq
        self._saved = time.monotonic()
        self._latest: dict[tuple[str, str], float] = {}
        """When each sensor's latest reading was published, by the monotonic clock."""
        self._born = False
        """Whether Home Assistant has to be told of the devices."""
        self._greeting: asyncio.TimerHandle | None = None
        self._woken = asyncio.Event()
        discovery = options.discovery
        self._connection = Connection(
            options.broker,
            options.credentials,
            client_id=f"{options.gateway}/{name}/telemetry",
            tls=options.tls,
            keepalive=options.heartbeat,
            subscriptions=[] if discovery is None else [birth_topic(discovery)],
            announcement=gateway_announcement(self._topics, options.gateway),
            received=self._take,
            lost=lambda _: self._woken.set(),
        )

    async def run(self) -> None:
        """An error in the program ends it, for a supervisor to start it again."""
        await self._load()
        backoff = transient_backoff()
        try:
            while not self._store.closed:
                try:
                    await self._connection.open()
                    await self._follow(backoff)
                except EdgeAgentError as error:
                    if str(error) != self.last_error:
                        log.warning("telemetry %s: %s", self.name, error)
                    self.last_error = str(error)
                await asyncio.sleep(backoff.next_delay())
        finally:
            if self._options.backlog and not self._store.closed:
                with contextlib.suppress(EdgeAgentError):  # then a little is published again
                    await self._save()
            await self._connection.close()

    @property
    def backlog(self) -> bool:
        """Whether everything is to be published, however late."""
        return self._options.backlog

    @property
    def saved_seq(self) -> int:
        """With a backlog everything up to this change was published, which is durable."""
        return self._state.seq or 0

    def status(self) -> dict[str, Any]:
        """For the agent's status: plain JSON values."""
        return {
            "name": self.name,
            "broker": str(self._options.broker),
            "state": "connected" if self._connection.connected else "waiting",
            "last_error": self.last_error,
            "published": self.published,
            "skipped": self.skipped,
            "bytes_sent": self._connection.traffic.sent,
        }

    # --- following the store -----------------------------------------------------------

    async def _follow(self, backoff: Backoff) -> None:
        """Publish while there is a connection. Raises ConnectError when there is none any more."""
        if not self._options.backlog:
            self._since = self._store.update_seq
        await self._forget_devices()
        self._born = True
        while not self._store.closed:
            self._woken.clear()
            if not self._connection.connected:
                raise self._connection.broken()
            if self._born:
                self._born = False
                await self._make_known(self._state.devices)
            if not self._options.backlog and self._store.update_seq - self._since > _MOST_BEHIND:
                self._since = self._store.update_seq
            page = await self._store.changes(self._since, limit=_PAGE)
            await self._publish(self._readings(page.documents))
            self._since = page.last_seq
            self.last_error = None
            backoff.reset()
            if self._options.backlog and time.monotonic() - self._saved > _SAVE_EVERY:
                await self._save()
            if not page.pending:
                await self._news()

    async def _news(self) -> None:
        """Wait for a change, the end of the connection or a word from Home Assistant."""
        waiting = [
            asyncio.ensure_future(self._store.wait(self._since)),
            asyncio.ensure_future(self._woken.wait()),
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()

    def _readings(self, documents: Iterable[StoredDocument]) -> list[Reading]:
        found = [reading_of(document.body) for document in documents if not document.deleted]
        return [
            reading
            for reading in found
            if reading is not None
            and reading.device in self._options.devices
            and (self._options.backlog or not reading.corrected)
        ]

    async def _publish(self, readings: Sequence[Reading]) -> None:
        await self._meet(readings)
        publications = []
        for reading in readings:
            if reading.sensor not in self._state.devices[reading.device]:
                self.skipped += 1
            elif self._is_due(reading):
                topic = self._topics.reading(self._options.gateway, reading.device, reading.sensor)
                # What was corrected is an old one, not the latest.
                retain = self._options.retain and not reading.corrected
                payload = reading.payload()
                publications.append(Publication(topic, payload, self._options.qos, retain))
        results = await asyncio.gather(*map(self._send, publications), return_exceptions=True)
        for result in results:
            if isinstance(result, TooLargeError):
                self.skipped += 1
            elif isinstance(result, BaseException):
                raise result
            else:
                self.published += 1

    async def _send(self, publication: Publication) -> None:
        if not self._connection.connected:  # or else each of many would connect again
            raise self._connection.broken()
        await self._connection.publish(publication)

    def _is_due(self, reading: Reading) -> bool:
        if not self._options.interval:
            return True
        key = (reading.device, reading.sensor)
        now = time.monotonic()
        if now - self._latest.get(key, -self._options.interval) < self._options.interval:
            return False
        self._latest[key] = now
        return True

    # --- devices and sensors -----------------------------------------------------------

    async def _meet(self, readings: Iterable[Reading]) -> None:
        """Take note of sensors that are new, or have changed, and make them known."""
        changed = {}
        for reading in readings:
            sensors = self._state.devices.setdefault(reading.device, {})
            sensor = sensor_of(reading.value, reading.unit)
            known = sensors.get(reading.sensor)
            if known is None and len(sensors) >= _MOST_SENSORS:
                continue
            if known is None or (known.kind == sensor.kind and known != sensor):
                # A sensor's kind stays as it was: Home Assistant does not change it, either.
                sensors[reading.sensor] = sensor
                changed[reading.device] = sensors
        if changed:
            await self._save()
            await self._make_known(changed)

    async def _make_known(self, devices: Iterable[str]) -> None:
        """Tell Home Assistant of devices; it keeps what it knows already."""
        prefix = self._options.discovery
        if prefix is None:
            return
        for device in devices:
            config = device_config(
                self._topics,
                self._options.gateway,
                device,
                self._state.devices[device],
                qos=self._options.qos,
            )
            await self._retain(
                config_topic(prefix, self._options.gateway, device), _json.encode(config)
            )
        if self._state.discovery != prefix:
            self._state.discovery = prefix
            await self._save()

    async def _forget_devices(self) -> None:
        """Take away what is retained of devices that are configured no more."""
        gateway, before = self._options.gateway, self._state.discovery
        gone = self._state.devices.keys() - self._options.devices
        if before is not None:
            moved = before != self._options.discovery
            for device in self._state.devices if moved else gone:
                await self._retain(config_topic(before, gateway, device), b"")
            if moved:
                self._state.discovery = None
        for device in gone:
            for sensor in self._state.devices[device]:
                await self._retain(self._topics.reading(gateway, device, sensor), b"")
        if gone or before != self._state.discovery:
            for device in gone:
                del self._state.devices[device]
            await self._save()

    async def _retain(self, topic: str, payload: bytes) -> None:
        try:
            await self._connection.publish(Publication(topic, payload, retain=True))
        except TooLargeError as error:  # the readings are published all the same
            log.warning("telemetry %s: %s: %s", self.name, topic, error)

    def _take(self, message: Received) -> None:
        """What came on the one topic that is subscribed to."""
        # What was retained is from before this connection, which began with all devices.
        if message.payload == BIRTH and not message.retained and self._greeting is None:
            delay = random.uniform(0, _BIRTH_PAUSE)  # noqa: S311 - spreads load, guards nothing
            self._greeting = asyncio.get_running_loop().call_later(delay, self._greet)

    def _greet(self) -> None:
        self._greeting = None
        self._born = True
        self._woken.set()

    # --- the state ---------------------------------------------------------------------

    async def _load(self) -> None:
        found = await self._store.get_local(self._local_id)
        if found is not None:
            try:
                self._state = msgspec.json.decode(found[1], type=State)
            except msgspec.DecodeError as error:
                log.warning("_local/%s is no use: %s", self._local_id, error)
        if not self._options.backlog:
            return
        if self._state.seq is None:
            await self._save()  # whatever comes from now on counts, before any connection
        else:
            self._since = min(self._state.seq, self._store.update_seq)

    async def _save(self) -> None:
        self._state.seq = self._since if self._options.backlog else None
        self._saved = time.monotonic()
        found = await self._store.get_local(self._local_id)
        rev = None if found is None else found[0]
        await self._store.put_local(self._local_id, rev, _json.encode(self._state).decode())
