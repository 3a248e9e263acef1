"""The documents of a sensor's readings over a range of time, read in short steps.

A reading's id tells its time, so a range of time is one of ids. There are exceptions. A window of
a fast sensor may begin before the range. And where the clock was wrong, the time in an id may be
another than that in the body, which is the one that counts. True times rise with the ids all the
same, since ids are given in the order of recording. So where what is beside the range shows that
ids are off, the ids in question are found by bisection. (The one exception: a clock that is put
back after nobody knew that it was wrong. Then the readings since are found by how far the ids of
the newest ones are off.)

Each step is a transaction of its own: nothing holds the WAL back, others have their turn between
two steps, and the work ends when nobody asks for the next one.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Collection, Generator, Iterator
from time import thread_time
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace

from agent.documents.readings import LATEST, Readings, readings_of
from agent.documents.times import microseconds, timestamp

_T = TypeVar("_T")

Work: TypeAlias = Generator[None, sqlite3.Connection, _T]
"""Reads with the connection that it is sent, and yields after each short query."""

_STEP_SECONDS = 0.1
_PAGE = 500

_NEIGHBOURS = 64
"""Documents on each side of the range that are looked at for readings that belong to it: more than
can come late between a window's id and the time of its last reading."""

_ASCENDING = (
    "SELECT id, body FROM docs WHERE id >= ? AND id < ? AND NOT deleted ORDER BY id LIMIT ?"
)
_DESCENDING = (
    "SELECT id, body FROM docs WHERE id >= ? AND id < ? AND NOT deleted ORDER BY id DESC LIMIT ?"
)


class Steps(Generic[_T]):
    """Work that is done step by step, each with a connection to the same store."""

    def __init__(self, work: Work[_T]) -> None:
        self._work = work
        next(work)
        self.result: _T

    def step(self, db: sqlite3.Connection) -> bool:
        """Go on for a tenth of a second of processor time; True once there is a result."""
        end = thread_time() + _STEP_SECONDS
        while True:
            try:
                self._work.send(db)
            except StopIteration as finished:
                self.result = finished.value
                return True
            if thread_time() > end:
                return False


class Sensor(NamedTuple):
    """A sensor of a device. All times are in microseconds since the epoch."""

    device: str
    name: str

    @property
    def ids(self) -> tuple[str, str]:
        """The range that has the ids of all its readings: times begin with a digit."""
        return f"{self.device}:{self.name}:0", f"{self.device}:{self.name}::"

    def id_at(self, at: int) -> str:
        """Not above any id of readings of that time or later, with or without decimals."""
        return f"{self.device}:{self.name}:{timestamp(at).removesuffix('.000000Z')}"

    def time_in(self, id: str) -> int | None:
        """The time in the id of one of its readings; None if there is none."""
        prefix = len(self.device) + len(self.name) + 2
        try:
            return microseconds(id[prefix:].rpartition(":")[0])
        except ValueError:
            return None

    def has(self, found: Readings) -> bool:
        """Whether these are readings of this sensor."""
        return (found.device, found.sensor) == self


class ReadingRange(msgspec.Struct, frozen=True):
    """The readings of a sensor from `start` to before `end`."""

    sensor: Sensor
    start: int
    end: int

    def part_of(self, found: Readings) -> Readings | None:
        """What of a document belongs here; None if nothing does."""
        first, last = bisect_left(found.times, self.start), bisect_left(found.times, self.end)
        if first == last or not self.sensor.has(found):
            return None
        if (first, last) == (0, len(found.times)):
            return found
        return replace(found, times=found.times[first:last], values=found.values[first:last])


def known_range(
    sensor: Sensor, start: int | None, end: int | None
) -> Work[tuple[ReadingRange, Readings | None]]:
    """The range with its ends: None stands for the first reading, or for behind the last one.

    With it the sensor's newest readings; None where it has none.
    """
    db = yield
    newest = newest_of(db, sensor)
    if newest is not None:
        oldest = next(_found(db, _ASCENDING, sensor, sensor.ids), ("", newest))[1]
        start = min(newest.times[0], oldest.times[0]) if start is None else start
        end = newest.times[-1] + 1 if end is None else end
    start = (end or 0) if start is None else start
    return ReadingRange(sensor, start, start if end is None else end), newest


def newest_of(db: sqlite3.Connection, sensor: Sensor) -> Readings | None:
    """The document, or the part of one that is not finished, with a sensor's newest reading."""
    found = [*open_parts(db, sensor)[1]]
    found += [readings for _, readings in _found(db, _DESCENDING, sensor, sensor.ids, most=1)]
    return max(found, key=lambda each: each.times[-1], default=None)


def _found(
    db: sqlite3.Connection,
    sql: str,
    sensor: Sensor,
    ids: tuple[str, str],
    most: int = _NEIGHBOURS,
) -> Iterator[tuple[str, Readings]]:
    """Up to `most` documents that have readings of the sensor, among the first of these ids as
    `sql` orders them."""
    for id, body in db.execute(sql, (*ids, _NEIGHBOURS)):
        found = readings_of(body)
        if found is not None and sensor.has(found):
            yield id, found
            most -= 1
            if not most:
                return


def open_parts(db: sqlite3.Connection, sensor: Sensor) -> tuple[frozenset[str], list[Readings]]:
    """The ids of a sensor's windows that are not finished, and what is in them.

    Read before the documents: a window may be finished meanwhile, and is then known by its id.
    """
    sql = "SELECT document, body FROM parts WHERE device = ? ORDER BY place"
    ids = set()
    parts = []
    for id, body in db.execute(sql, (sensor.device,)):
        found = readings_of(body)
        if found is not None and sensor.has(found):
            ids.add(id)
            parts.append(found)
    return frozenset(ids), parts


def places(wanted: ReadingRange) -> Work[list[tuple[int, int]]]:
    """The ranges of times in ids that have all readings of the range, and maybe others.

    In rising order; the range itself is one of them.
    """
    db = yield
    sensor, start, end = wanted.sensor, wanted.start, wanted.end
    lowest, highest = sensor.ids

    def from_then_on(at: int) -> Readings | None:
        ids = (sensor.id_at(at), highest)
        return next((found for _, found in _found(db, _ASCENDING, sensor, ids, most=1)), None)

    def first_where(holds: Callable[[Readings], bool]) -> int:
        def key(at: int) -> bool:
            found = from_then_on(at)
            return found is None or holds(found)

        return bisect_left(range(LATEST), True, key=key)

    before = [
        sensor.time_in(id)
        for id, found in _found(db, _DESCENDING, sensor, (lowest, sensor.id_at(start)))
        if found.times[-1] >= start
    ]
    behind = [
        sensor.time_in(id)
        for id, found in _found(db, _ASCENDING, sensor, (sensor.id_at(end), highest))
        if found.times[0] < end
    ]
    first, last = start, end
    if before:
        known = [at for at in before if at is not None]
        first = min(*known, start, first_where(lambda found: found.times[-1] >= start))
    if before or behind:
        known = [at + 1 for at in behind if at is not None]
        last = max(*known, 0, first_where(lambda found: found.times[0] >= end))
    elsewhere = [(first, last)]
    for id, found in _found(db, _DESCENDING, sensor, sensor.ids, most=1):
        # The clock was put back, and what had been recorded before is later than what followed.
        ahead = (sensor.time_in(id) or found.times[0]) - found.times[0]
        if ahead:
            elsewhere.append((start + ahead, end + ahead))
    return _apart((start, end), elsewhere)


def _apart(one: tuple[int, int], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges in rising order, of the others only what is in none of those before."""
    made = [one]
    for begin, stop in others:
        for low, high in sorted(made):
            if begin < min(stop, low):
                made.append((begin, min(stop, low)))
            begin = max(begin, high)
        if begin < stop:
            made.append((begin, stop))
    return sorted(made)


def each_of(
    wanted: ReadingRange,
    place: tuple[int, int],
    take: Callable[[Readings], None],
    without: Collection[str] = (),
) -> Work[None]:
    """Give the readings of the range in these documents to `take`, one document after another."""
    low, high = map(wanted.sensor.id_at, place)
    after: str | None = low
    while after is not None:
        db = yield
        page, after = page_of(db, wanted, (after, high), without)
        for found in page:
            take(found)


def page_of(
    db: sqlite3.Connection,
    wanted: ReadingRange,
    ids: tuple[str, str],
    without: Collection[str] = (),
) -> tuple[list[Readings], str | None]:
    """The readings of the range in the first of these documents, and where the next page begins;
    None at the end. Windows are large: a page ends with a thousand values, too."""
    page: list[Readings] = []
    values = 0
    for number, (id, body) in enumerate(db.execute(_ASCENDING, (*ids, _PAGE)), start=1):
        found = readings_of(body) if id not in without else None
        part = wanted.part_of(found) if found is not None else None
        if part is not None:
            page.append(part)
            values += len(part.times)
        if number == _PAGE or values > 2 * _PAGE:
            return page, f"{id}\0"
    return page, None
