"""Readings that are deleted to make room, and what is remembered of them.

They go as if they had never been: no tombstone is left, which would delete them elsewhere. Only
readings, and windows of readings, are touched, with the ids that the recorder gives them and
without conflicts. What was deleted before a remote had it leaves a document of the type "gap",
written in the same transaction.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from agent.documents.floors import RETENTION, Floors, sensor_of
from agent.documents.revision import canonical
from agent.store.store import Store
from agent.store.transaction import Edit, Transaction

log = logging.getLogger(__name__)

PAGE = 500
"""Documents that are looked at, or deleted, at once."""

MOST_SENSORS = 5000
"""Of which something is remembered: more than a gateway has, as each that was forgotten begins
another gap."""

Reason: TypeAlias = Literal["drop-oldest", "thin"]

_json = msgspec.json.Encoder()


class SensorRecord(Struct, omit_defaults=True):
    """What is remembered of a sensor, as long as the store lasts."""

    floor: str = ""
    """The last id up to which its readings were deleted."""
    deleted: int = 0
    """Readings that every remote had."""
    dropped: int = 0
    """Readings that were deleted though some remote did not have them."""
    gap: str | None = None
    """The id of the gap that grows if more are dropped."""


class Counts(Struct, omit_defaults=True):
    """As in `SensorRecord`."""

    deleted: int = 0
    dropped: int = 0


class Record(Struct, omit_defaults=True):
    """The document `_local/retention`."""

    sensors: dict[str, SensorRecord] = msgspec.field(default_factory=dict)
    others: Counts = msgspec.field(default_factory=Counts)
    """Of sensors that are forgotten."""
    thinned: int = 0
    """The sequence up to which thinning has come."""

    def forget(self) -> None:
        """Keep half of too many sensors: those whose readings go on, and not what noise on a line
        without checks has made of their names."""
        if len(self.sensors) <= MOST_SENSORS:
            return
        newest_last = sorted(self.sensors, key=lambda name: self.sensors[name].floor[len(name) :])
        for name in newest_last[: -MOST_SENSORS // 2]:
            sensor = self.sensors.pop(name)
            self.others.deleted += sensor.deleted
            self.others.dropped += sensor.dropped


class Found(NamedTuple):
    """A document that was looked at. `readings` is 0 if it is not to be deleted at all."""

    seq: int
    id: str
    rev: str
    device: str
    sensor: str
    time: str
    readings: int
    lasts: int
    """Microseconds from the first of the readings to the last one."""
    provisional: bool
    """The time was not known when it was recorded, and may still be corrected."""
    size: int
    """Bytes that its row takes, about."""

    @property
    def key(self) -> str:
        return f"{self.device}:{self.sensor}:"

    @property
    def end(self) -> str:
        """The time of the last reading."""
        if not self.lasts:
            return self.time
        last = datetime.fromisoformat(self.time) + timedelta(microseconds=self.lasts)
        return f"{last:%Y-%m-%dT%H:%M:%S.%f}Z"


class Space(NamedTuple):
    """In bytes: `data` and `unused` pages of the file, and the WAL, which each write lets grow."""

    data: int
    unused: int
    wal: int

    @property
    def used(self) -> int:
        """What counts against the budget."""
        return self.data + self.wal


async def space(store: Store) -> Space:
    """Raises StoreError."""
    return await store.query(partial(_space, wal=store.path.with_name(store.path.name + "-wal")))


def _space(db: sqlite3.Connection, *, wal: Path) -> Space:
    data, unused = db.execute(
        "SELECT (page_count - freelist_count) * page_size, freelist_count * page_size "
        "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    ).fetchone()
    return Space(data, unused, wal.stat().st_size if wal.exists() else 0)


_COLUMNS = (
    "seq, id, gen || '-' || hash, body ->> '$.device', body ->> '$.sensor', body ->> '$.time', "
    "NOT conflicts AND attachments IS NULL AND NOT deleted, body ->> '$.type', "
    "json_array_length(body, '$.columns.value'), body ->> '$.columns.time[#-1]', "
    "body ->> '$.clock', 2 * length(id) + length(body) + coalesce(length(tree), 0)"
)


def by_seq(db: sqlite3.Connection, *, after: int, until: int) -> list[Found]:
    """The next documents by the sequences of their last changes, up to one."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM docs WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",  # noqa: S608
        (after, until, PAGE),
    )
    return [_found(*row) for row in rows]


def by_time(db: sqlite3.Connection, *, sensor: str, after: str, before: str) -> list[Found]:
    """The next documents of `device:sensor:` by their ids, up to a time (RFC 3339)."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM docs WHERE id > ? AND id < ? ORDER BY id LIMIT ?",  # noqa: S608
        (max(sensor, after), sensor + before, PAGE),
    )
    return [_found(*row) for row in rows]


def sensors(db: sqlite3.Connection, *, after: str) -> tuple[list[str], str | None]:
    """Sensors that have readings, and from where on to ask for more, if there may be any.

    One search in the index for each, and one for each other document.
    """
    names: list[str] = []
    for _ in range(PAGE):
        row = db.execute("SELECT id FROM docs WHERE id > ? ORDER BY id LIMIT 1", (after,))
        id = next((id for (id,) in row), None)
        if id is None:
            return names, None
        name = sensor_of(id)
        # Times begin with digits; what comes after all of them begins with a colon at least.
        after = id if name is None else name + ":"
        if name is not None:
            names.append(name)
    return names, after


def _found(
    seq: int,
    id: str,
    rev: str,
    device: object,
    sensor: object,
    time: object,
    whole: int,
    type: object,
    rows: int | None,
    lasts: object,
    clock: object,
    size: int,
) -> Found:
    names = isinstance(device, str) and isinstance(sensor, str) and isinstance(time, str)
    readings = 0
    if whole and names and sensor_of(id) == f"{device}:{sensor}:":
        if type == "reading":
            readings = 1
        elif type == "readings":
            readings = rows or 1
    return Found(
        seq,
        id,
        rev,
        str(device),
        str(sensor),
        str(time),
        readings,
        lasts if type == "readings" and isinstance(lasts, int) else 0,
        clock == "unset",
        size,
    )


class Retained:
    """What a store remembers of deleted readings; deletes more of them."""

    def __init__(self, store: Store) -> None:
        self.record = Record()
        self._store = store
        self._rev = 0
        self.floors = Floors({})

    @property
    def dropped(self) -> int:
        """Readings that were deleted though some remote did not have them."""
        singly = sum(sensor.dropped for sensor in self.record.sensors.values())
        return singly + self.record.others.dropped

    async def load(self) -> None:
        """Go on from what was done before. Raises StoreError."""
        found = await self._store.get_local(RETENTION)
        if found is not None:
            self._rev = int(found[0].partition("-")[2])
            try:
                self._now(msgspec.json.decode(found[1], type=Record))
            except msgspec.DecodeError as error:
                log.warning("%s: _local/%s is no use: %s", self._store.path, RETENTION, error)

    async def delete(
        self,
        documents: Sequence[Found],
        reason: Reason | None = None,
        *,
        now: str,
        thinned: int | None = None,
    ) -> int:
        """Delete documents, unless they have changed since they were found; how many there were.

        With a `reason` they count as dropped, and their gaps grow. Floors rise up to the time `now`
        at most: a clock that was wrong once must not keep all of a sensor from coming. Raises
        StoreWriteError.
        """

        def operation(transaction: Transaction) -> tuple[int, Record, str]:
            record = msgspec.json.decode(_json.encode(self.record), type=Record)
            gone = set(transaction.retire([document.seq for document in documents]))
            deleted = [document for document in documents if document.seq in gone]
            for document in deleted:
                _note(record, document, now, dropped=reason is not None)
            if reason is not None:
                _grow_gaps(transaction, record, deleted, reason)
            if thinned is not None:
                record.thinned = thinned
            record.forget()
            rev = transaction.locals.overwrite(RETENTION, self._rev, _json.encode(record).decode())
            return len(deleted), record, rev

        count, record, rev = await self._store.write(operation)
        self._rev = int(rev.partition("-")[2])
        self._now(record)
        return count

    def _now(self, record: Record) -> None:
        self.record = record
        self.floors = Floors({name: sensor.floor for name, sensor in record.sensors.items()})


def _note(record: Record, document: Found, now: str, *, dropped: bool) -> None:
    sensor = record.sensors.setdefault(document.key, SensorRecord())
    if document.id < document.key + now:
        sensor.floor = max(sensor.floor, document.id)
    if dropped:
        sensor.dropped += document.readings
    else:
        sensor.deleted += document.readings
        sensor.gap = None  # what is dropped after this was not next to what was dropped before


def _grow_gaps(
    transaction: Transaction, record: Record, dropped: Sequence[Found], reason: Reason
) -> None:
    by_sensor: dict[str, list[Found]] = {}
    for document in dropped:
        by_sensor.setdefault(document.key, []).append(document)
    gaps: dict[str, dict[str, Any]] = {}
    for name, documents in by_sensor.items():
        sensor = record.sensors[name]
        gap: dict[str, Any] = {
            "type": "gap",
            "device": documents[0].device,
            "sensor": documents[0].sensor,
            "from": min(document.time for document in documents),
            "to": max(document.end for document in documents),
            "count": sum(document.readings for document in documents),
            "reason": reason,
        }
        if sensor.gap is None or not sensor.gap.endswith(f":{reason}"):
            sensor.gap = f"gap:{name}{gap['from']}:{reason}"
        gaps[sensor.gap] = gap
    there = transaction.load(set(gaps))
    edits = []
    for id, gap in gaps.items():
        before, parent = there.get(id), None
        if before is not None and not before.deleted:
            parent = before.winner
            gap = _joined(msgspec.json.decode(before.body.text), gap)
        text = canonical(gap)
        edits.append(Edit(id, parent, False, text.decode(), text))
    transaction.edit(edits, there)


def _joined(gap: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Somebody may have written into a gap's document; that stays."""
    return {
        **gap,
        **more,
        "from": min(str(gap.get("from", more["from"])), more["from"]),
        "to": max(str(gap.get("to", more["to"])), more["to"]),
        "count": gap["count"] + more["count"]
        if isinstance(gap.get("count"), int)
        else more["count"],
    }
