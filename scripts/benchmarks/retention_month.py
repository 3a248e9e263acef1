"""A gateway's month in compressed time: `python -m scripts.benchmarks.retention_month`.

Arguments: the store's file, the URL of the hub's database, and a `Plan` as JSON. Prints a `Month`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.documents.revision import Revision, first_revision
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.replication.confirmations import Pushed
from agent.replication.replicator import Replicator
from agent.replication.retention import Options, Retention
from agent.resources import prepare
from agent.store.store import Store
from scripts.benchmarks.processes import resident_mib

_START = datetime(2026, 8, 1, tzinfo=UTC).timestamp()
_SENSORS = 10
_OUTAGE = range(8, 14)
"""Hours of each day."""
_BATCH = 600
"""Seconds of which the readings are written together."""


class Plan(Struct):
    """`every` so many seconds each sensor tells a value; `budget` in bytes."""

    days: int
    every: int
    budget: int


class Day(Struct):
    """At its end: `size` of the files in bytes, `memory` in MiB. Of the day: bytes that went to
    the disk, and bytes of the documents that were recorded."""

    size: int
    memory: float
    written: int
    payload: int


class Month(Struct):
    """The days, and readings: `recorded`, `arrived` at the hub, and `dropped`."""

    days: list[Day]
    recorded: int
    arrived: int
    dropped: int


class _Gateway:
    def __init__(self, store: Store, hub: CouchPeer, plan: Plan) -> None:
        self.recorded = 0
        self.payload = 0
        self._store = store
        self._plan = plan
        self._now = _START
        self._push = Replicator(LocalPeer(store), hub, create_target=True)
        self.retention = Retention(
            store, Options(plan.budget), [Pushed("hub", self._push)], clock=lambda: self._now
        )

    async def hour(self, hour: int) -> int:
        """Record an hour; returns what the files take then, at most."""
        for _ in range(3600 // _BATCH):
            batch = [
                _reading(sensor, self._now + second)
                for second in range(0, _BATCH, self._plan.every)
                for sensor in range(_SENSORS)
            ]
            self._now += _BATCH
            await self._store.graft(batch)
            self.recorded += len(batch)
            self.payload += sum(len(document.body) for document in batch)
        if hour not in _OUTAGE:
            await self._push.run()
        await self.retention.once()
        return await asyncio.to_thread(_size, self._store.path)


def _reading(sensor: int, at: float) -> Revision:
    time = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
    sequence = int(at - _START)
    body = {
        "type": "reading",
        "device": "greenhouse",
        "sensor": f"sensor-{sensor}",
        "time": time,
        "value": sequence % 1000 / 10,
        "unit": "Cel",
        "sequence": sequence,
    }
    return first_revision(f"greenhouse:sensor-{sensor}:{time}:{sequence:010d}", body)


def _size(path: Path) -> int:
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def _written() -> int:
    """Bytes that this process has made the kernel write to a disk."""
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "write_bytes":
            return int(value)
    return 0


async def _run(path: Path, url: str, plan: Plan) -> Month:
    store = await Store.open(path)
    hub = CouchPeer.from_url(url)
    gateway = _Gateway(store, hub, plan)
    days = []
    for _ in range(plan.days):
        written, payload = _written(), gateway.payload
        size = max([await gateway.hour(hour) for hour in range(24)])
        memory = resident_mib(os.getpid())
        days.append(Day(size, memory, _written() - written, gateway.payload - payload))
    arrived = (await hub.info()).doc_count
    await hub.close()
    await store.close()
    return Month(days, gateway.recorded, arrived, gateway.retention.retained.dropped)


if __name__ == "__main__":
    prepare()
    _plan = msgspec.json.decode(sys.argv[3], type=Plan)
    _month = asyncio.run(_run(Path(sys.argv[1]), sys.argv[2], _plan))
    sys.stdout.buffer.write(msgspec.json.encode(_month))
