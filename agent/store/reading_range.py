"""The documents of a sensor's readings over a range of time, read in short steps.

A reading's id tells its time, so a range of time is one of ids. There are two exceptions. A window
of a fast sensor may begin before the range. And a reading whose time was corrected (its second
revision) still has the time in its id as it was thought to be: it is the body's time that counts.
True times rise with the ids, corrected or not, since ids are given in the order of recording; so
what belongs to the range and has an id outside of it comes right before or behind it, and is found
by going on from there.

Each step is a transaction of its own: nothing holds the WAL back, others have their turn between
two steps, and the work ends when nobody asks for the next one.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, replace
from time import thread_time
from typing import Generic, TypeAlias, TypeVar

from agent.documents.readings import Readings, readings_of, timestamp

_T = TypeVar("_T")

Work: TypeAlias = Generator[None, sqlite3.Connection, _T]
"""Reads with the connection that it is sent, and yields after each short query."""

_STEP_SECONDS = 0.1
_PAGE = 500

_NEIGHBOURS = 64
"""Documents beside the range that are looked at for what belongs into it. A window is among them:
only readings that came late can have ids between a window's own and the time of its last one."""

MOST_WALKED = 200_000
"""Corrected readings beside the range that are followed; the work of a second or so."""

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


@dataclass(frozen=True, slots=True)
class ReadingRange:
    """A sensor and a range of time, `end` excluded, in microseconds since the epoch."""

    device: str
    sensor: str
    start: int
    end: int

    def id_at(self, at: int) -> str:
        """Not above any id of readings of that time or later, with or without decimals."""
        return f"{self.device}:{self.sensor}:{timestamp(at).removesuffix('.000000Z')}"

    @property
    def bounds(self) -> tuple[str, str]:
        """The range as one of ids."""
        return self.id_at(self.start), self.id_at(self.end)

    def part_of(self, found: Readings) -> Readings | None:
        """What of a document belongs here; None if nothing does."""
        if (found.device, found.sensor) != (self.device, self.sensor):
            return None
        first, last = bisect_left(found.times, self.start), bisect_left(found.times, self.end)
        if first == last:
            return None
        if (first, last) == (0, len(found.times)):
            return found
        return replace(found, times=found.times[first:last], values=found.values[first:last])


def all_ids(device: str, sensor: str) -> tuple[str, str]:
    """The range that has all ids of a sensor's readings: times begin with a digit."""
    return f"{device}:{sensor}:0", f"{device}:{sensor}::"


def known_range(
    device: str, sensor: str, start: int | None, end: int | None
) -> Work[tuple[ReadingRange, Readings | None]]:
    """The range with its ends: None stands for the first reading, or for behind the last one.

    With it the sensor's newest readings; None where it has none.
    """
    db = yield
    newest = newest_of(db, device, sensor)
    if newest is None:
        now = start if start is not None else end if end is not None else 0
        return ReadingRange(device, sensor, now, now if end is None else end), None
    if start is None:
        first = _outermost(db, _ASCENDING, device, sensor)
        start = min(newest.times[0], first.times[0] if first else newest.times[0])
    end = newest.times[-1] + 1 if end is None else end
    return ReadingRange(device, sensor, start, end), newest


def newest_of(db: sqlite3.Connection, device: str, sensor: str) -> Readings | None:
    """The document, or the part of one that is not finished, with a sensor's newest reading."""
    found = [
        *open_parts(db, device, sensor)[1],
        _outermost(db, _DESCENDING, device, sensor),
    ]
    return max((each for each in found if each), key=lambda each: each.times[-1], default=None)


def _outermost(db: sqlite3.Connection, sql: str, device: str, sensor: str) -> Readings | None:
    """The readings of the first document, as `sql` orders them, that has any."""
    for _, body in db.execute(sql, (*all_ids(device, sensor), _NEIGHBOURS)):
        found = readings_of(body)
        if found is not None and (found.device, found.sensor) == (device, sensor):
            return found
    return None


def open_parts(
    db: sqlite3.Connection, device: str, sensor: str
) -> tuple[frozenset[str], list[Readings]]:
    """The ids of a sensor's windows that are not finished, and what is in them.

    Read before the documents: a window may be finished meanwhile, and is then known by its id.
    """
    rows = db.execute("SELECT document, body FROM parts WHERE device = ? ORDER BY place", (device,))
    ids = set()
    parts = []
    for id, body in rows:
        found = readings_of(body)
        if found is not None and found.sensor == sensor:
            ids.add(id)
            parts.append(found)
    return frozenset(ids), parts


def widened(wanted: ReadingRange) -> Work[tuple[str, str, bool]]:
    """The range of ids that has all readings of the range, and maybe others; and whether that is
    sure, rather than given up."""
    low, high = wanted.bounds
    lowest, highest = all_ids(wanted.device, wanted.sensor)

    def reaches_in(found: Readings) -> bool:
        return found.times[-1] >= wanted.start

    def begins_before(found: Readings) -> bool:
        return found.times[0] < wanted.end

    first, sure = yield from _walked(_DESCENDING, (lowest, low), reaches_in)
    last, sure_too = yield from _walked(_ASCENDING, (high, highest), begins_before)
    return first or low, f"{last}\0" if last else high, sure and sure_too


def _walked(
    sql: str, ids: tuple[str, str], belongs: Callable[[Readings], bool]
) -> Work[tuple[str | None, bool]]:
    """The farthest id that belongs to a range beside these ids; strangers in between are few."""
    low, high = ids
    farthest: str | None = None
    strangers = seen = 0
    while seen < MOST_WALKED:
        db = yield
        rows = db.execute(sql, (low, high, _NEIGHBOURS)).fetchall()
        for id, body in rows:
            found = readings_of(body)
            strangers += 1
            if found is not None and belongs(found):
                farthest, strangers = id, 0
            if strangers == _NEIGHBOURS:
                return farthest, True
        if len(rows) < _NEIGHBOURS:
            return farthest, True
        seen += len(rows)
        if sql is _DESCENDING:
            high = rows[-1][0]
        else:
            low = f"{rows[-1][0]}\0"
    return farthest, False


def each_of(
    wanted: ReadingRange,
    ids: tuple[str, str],
    take: Callable[[Readings], None],
    without: Collection[str] = (),
) -> Work[None]:
    """Give the readings of the range in these documents to `take`, one document after another."""
    low, high = ids
    while low < high:
        db = yield
        page, after = page_of(db, wanted, (low, high), without)
        for found in page:
            take(found)
        if after is None:
            return
        low = after


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
