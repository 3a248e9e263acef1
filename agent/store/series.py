"""The readings of a sensor over a range of time, for plots: as they are, or summed up in buckets.

A bucket is a range of ids. Single readings are summed up by SQL, without parsing a time and without
the interpreter's lock. What needs more is read one by one: corrected readings, which are rare, and
windows of fast sensors, of which one document has up to a thousand values.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from agent.documents.readings import (
    CLOCK_CORRECTED,
    CLOCK_UNSET,
    NOT_GOOD,
    Readings,
    from_id,
    readings_of,
)
from agent.store.reading_range import (
    ReadingRange,
    Work,
    each_of,
    known_range,
    open_parts,
    widened,
)

EXACT_DOCUMENTS = 100_000
"""As many documents are all read; of more, some of each bucket are."""

_EXACT_READINGS = 1_000_000

_SAMPLED = 16
"""Documents of each slice of a bucket that are read then: neighbours, which share pages."""

_SLICES = 2400
"""In all buckets; each is a search, and so some reads of a slow card."""

_SLICES_EACH = 4
_NO_LIMIT = -1

# `plain`: a reading whose id tells its true time. The limit also keeps SQLite from merging the two
# queries, and so from parsing the JSON for each mention of a column.
_PLAIN = "FILTER (WHERE plain IS NOT NULL)"
_SUMMED_UP = f"""
SELECT count(*), count(plain), min(plain), max(plain), count(value) {_PLAIN},
    min(value) {_PLAIN}, max(value) {_PLAIN}, total(value) {_PLAIN},
    {NOT_GOOD} * coalesce(max(quality <> 'good') {_PLAIN}, 0)
        | {CLOCK_CORRECTED} * coalesce(max(clock = 'corrected') {_PLAIN}, 0)
        | {CLOCK_UNSET} * coalesce(max(clock <> 'corrected') {_PLAIN}, 0)
FROM (
    SELECT
        CASE WHEN gen = 1 AND json_extract(body, '$.type') = 'reading' THEN id END AS plain,
        CASE WHEN json_type(body, '$.value') IN ('integer', 'real', 'true', 'false')
            THEN json_extract(body, '$.value') END AS value,
        json_extract(body, '$.quality') AS quality,
        json_extract(body, '$.clock') AS clock
    FROM docs WHERE id >= ? AND id < ? AND NOT deleted ORDER BY id LIMIT ?
)
"""  # noqa: S608
_OTHERS = """
SELECT id, body FROM (
    SELECT id, gen, body FROM docs WHERE id >= ? AND id < ? AND NOT deleted ORDER BY id LIMIT ?
) WHERE gen > 1 OR json_extract(body, '$.type') IS NOT 'reading'
"""
_COUNTED = "SELECT count(*), min(id), max(id) FROM docs WHERE id >= ? AND id < ?"
_COUNTED_UP_TO = "SELECT count(*) FROM (SELECT 1 FROM docs WHERE id >= ? AND id < ? LIMIT ?)"


@dataclass(slots=True)
class Point:
    """A reading, or what is known of those of a bucket; times in microseconds since the epoch."""

    at: int
    count: int = 0
    numbers: int = 0
    low: Any = None
    high: Any = None
    total: float = 0.0
    flags: int = 0
    first: int | None = None
    last: int | None = None

    def add(self, count: int, numbers: int, low: Any, high: Any, total: float, flags: int) -> None:
        """Add this many readings, and the sum and the extremes of those that are numbers."""
        self.count += count
        self.flags |= flags
        if numbers:
            self.low = low if self.low is None else min(self.low, low)
            self.high = high if self.high is None else max(self.high, high)
            self.numbers += numbers
            self.total += total

    def reach(self, first: int | None, last: int | None) -> None:
        """Note the times of two of its readings."""
        if first is not None and last is not None:
            self.first = first if self.first is None else min(self.first, first)
            self.last = last if self.last is None else max(self.last, last)

    def take(self, found: Readings, start: int, stop: int) -> None:
        """Add a document's readings from number `start` to before `stop`."""
        values = found.values[start:stop]
        numbers = [value for value in values if isinstance(value, int | float)]
        low, high = min(numbers, default=None), max(numbers, default=None)
        self.add(len(values), len(numbers), low, high, float(sum(numbers)), found.flags)
        self.reach(found.times[start], found.times[stop - 1])


@dataclass(slots=True)
class Series:
    """`width` is that of the buckets, in microseconds; 0 where each reading is a point.

    `sampled`: not all readings were read. The counts are right then, as far as documents are
    single readings, and so are gaps between buckets; extremes and means are those of what was read.
    """

    range: ReadingRange
    unit: str | None
    width: int = 0
    sampled: bool = False
    points: list[Point] = field(default_factory=list)

    def columns(self) -> dict[str, list[Any]]:
        """Times in milliseconds since the epoch: of the reading, or of the bucket's beginning."""
        return {
            "time": [point.at // 1000 for point in self.points],
            "min": [point.low for point in self.points],
            "max": [point.high for point in self.points],
            "mean": [
                point.total / point.numbers if point.numbers else None for point in self.points
            ],
            "count": [point.count for point in self.points],
            "flags": [point.flags for point in self.points],
        }

    def gaps(self) -> list[list[int]]:
        """From one reading to the next, in milliseconds since the epoch, where these are much
        farther apart than usual: four times as far as three quarters of them are at most."""
        known = [
            (point.first, point.last, point.count)
            for point in self.points
            if point.first is not None and point.last is not None
        ]
        pauses = [(one[1], other[0]) for one, other in pairwise(known)]
        usual = [(last - first) // (count - 1) for first, last, count in known if count > 1]
        usual = sorted(usual or [later - earlier for earlier, later in pauses])
        if not usual:
            return []
        longest = max(4 * usual[3 * (len(usual) - 1) // 4], self.width)
        return [
            [earlier // 1000, later // 1000]
            for earlier, later in pauses
            if later - earlier > longest
        ]


def series(device: str, sensor: str, start: int | None, end: int | None, most: int) -> Work[Series]:
    """The readings of a range of time, in `most` points at most; see `known_range` for its ends."""
    wanted, newest = yield from known_range(device, sensor, start, end)
    made = Series(wanted, newest.unit if newest is not None else None)
    if newest is None or wanted.start >= wanted.end:
        return made
    db = yield
    unfinished, parts = open_parts(db, device, sensor)
    first, last, sure = yield from widened(wanted)
    db = yield
    (documents,) = db.execute(_COUNTED_UP_TO, (first, last, EXACT_DOCUMENTS + 1)).fetchone()
    each = len(newest.times) if documents else 1
    readings = documents * each + sum(len(part.times) for part in parts)
    parts = [part for part in map(wanted.part_of, parts) if part is not None]
    if readings <= 2 * most + len(newest.times):
        found: list[Readings] = []
        yield from each_of(wanted, (first, last), found.append, unfinished)
        if sum(len(part.times) for part in found + parts) <= most:
            made.points = _single(found + parts)
            made.sampled = not sure
            return made
    buckets = _Buckets(wanted, most)
    for part in parts:
        buckets.take(part)
    low, high = wanted.bounds
    yield from each_of(wanted, (first, low), buckets.take)
    yield from each_of(wanted, (high, last), buckets.take)
    exact = documents <= EXACT_DOCUMENTS and readings <= _EXACT_READINGS
    for number in range(len(buckets.points)):
        db = yield
        if exact:
            buckets.read(db, number, buckets.ids(number), _NO_LIMIT, unfinished)
        else:
            buckets.sample(db, number, each, unfinished)
    made.width, made.sampled = buckets.width, not (exact and sure)
    made.points = [point for point in buckets.points if point.count]
    return made


def _single(found: Collection[Readings]) -> list[Point]:
    """A point for each reading, in the order of their times."""
    points = []
    for readings in found:
        for number, at in enumerate(readings.times):
            point = Point(at)
            point.take(readings, number, number + 1)
            points.append(point)
    return sorted(points, key=lambda point: point.at)


class _Buckets:
    """Buckets of the same width, in whole milliseconds, that cover a range."""

    def __init__(self, wanted: ReadingRange, most: int) -> None:
        width = -(-(wanted.end - wanted.start) // most)
        self.width = -(-width // 1000) * 1000
        self.points = [Point(at) for at in range(wanted.start, wanted.end, self.width)]
        self._wanted = wanted
        self._slices = max(1, min(_SLICES // len(self.points), _SLICES_EACH))

    def ids(self, number: int, part: int = 0, parts: int = 1) -> tuple[str, str]:
        """The ids of a bucket, or of one of so many parts of it."""
        begin = self.points[number].at
        end = min(begin + self.width, self._wanted.end)
        bounds = (begin + (end - begin) * place // parts for place in (part, part + 1))
        low, high = map(self._wanted.id_at, bounds)
        return low, high

    def take(self, found: Readings) -> None:
        """Add readings of the range to the buckets that they are in."""
        start = 0
        while start < len(found.times):
            point = self.points[(found.times[start] - self._wanted.start) // self.width]
            stop = bisect_left(found.times, point.at + self.width, lo=start)
            point.take(found, start, stop)
            start = stop

    def read(
        self,
        db: sqlite3.Connection,
        number: int,
        ids: tuple[str, str],
        limit: int,
        without: Collection[str],
    ) -> None:
        """Read the first documents of these, which are in the bucket of that number."""
        documents, plain, first, last, *sums = db.execute(_SUMMED_UP, (*ids, limit)).fetchone()
        if plain:
            self.points[number].add(plain, *sums)
            self.points[number].reach(self._time(first), self._time(last))
        if plain < documents:
            for id, body in db.execute(_OTHERS, (*ids, limit)):
                found = readings_of(body) if id not in without else None
                part = self._wanted.part_of(found) if found is not None else None
                if part is not None:
                    self.take(part)

    def sample(
        self, db: sqlite3.Connection, number: int, each: int, without: Collection[str]
    ) -> None:
        """Read some documents of a bucket, each with about that many readings, and count all."""
        documents, first, last = db.execute(_COUNTED, self.ids(number)).fetchone()
        if not documents:
            return
        limit = max(1, _SAMPLED // each)
        slices = self._slices if documents > self._slices * limit else 1
        for part in range(slices):
            self.read(db, number, self.ids(number, part, slices), limit, without)
        self.points[number].count = documents * each
        self.points[number].reach(self._time(first), self._time(last))

    def _time(self, id: str) -> int | None:
        """The time in an id."""
        return from_id(id, f"{self._wanted.device}:{self._wanted.sensor}")
