"""The readings of a sensor over a range of time, for plots: as they are, or summed up in buckets.

A bucket is a range of ids. Single readings are summed up by SQL, without parsing a time and without
the interpreter's lock. What needs more is read one by one: corrected readings, which are rare, and
windows of fast sensors, of which one document has up to a thousand values.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from agent.documents.readings import (
    CLOCK_CORRECTED,
    CLOCK_UNSET,
    NOT_GOOD,
    Readings,
    readings_of,
)
from agent.store.reading_range import (
    ReadingRange,
    Sensor,
    Work,
    each_of,
    known_range,
    open_parts,
    places,
)

EXACT_DOCUMENTS = 100_000
"""As many documents are all read; of more, some of each bucket are."""

_EXACT_READINGS = 1_000_000

_SAMPLED = 16
"""Documents of each slice of a bucket that are read then: neighbours, which share pages."""

_SLICES = 600
"""In all buckets, unless there are more of these; each is a search, and so some reads of a slow
card. (Counting all documents would read the whole index of ids, which takes longer by far.)"""

_SLICES_EACH = 4
_NO_LIMIT = -1

# `plain`: a reading whose id has its time. The limit also keeps SQLite from merging the two
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
        CASE WHEN json_extract(body, '$.type') = 'reading'
            AND instr(id, json_extract(body, '$.time')) THEN id END AS plain,
        CASE WHEN json_type(body, '$.value') IN ('integer', 'real', 'true', 'false')
            THEN json_extract(body, '$.value') END AS value,
        json_extract(body, '$.quality') AS quality,
        json_extract(body, '$.clock') AS clock
    FROM docs WHERE id >= ? AND id < ? AND NOT deleted ORDER BY id LIMIT ?
)
"""  # noqa: S608
_OTHERS = """
SELECT id, body FROM (
    SELECT id, body FROM docs WHERE id >= ? AND id < ? AND NOT deleted ORDER BY id LIMIT ?
)
WHERE json_extract(body, '$.type') IS NOT 'reading'
    OR NOT coalesce(instr(id, json_extract(body, '$.time')), 0)
"""
_ENDS = """
SELECT (SELECT min(id) FROM docs WHERE id >= ?1 AND id < ?2),
    (SELECT max(id) FROM docs WHERE id >= ?1 AND id < ?2)
"""
_COUNTED_UP_TO = "SELECT count(*) FROM (SELECT 1 FROM docs WHERE id >= ? AND id < ? LIMIT ?)"


class Point(msgspec.Struct):
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


class Series(msgspec.Struct):
    """`width` is that of the buckets, in microseconds; 0 where each reading is a point.

    `sampled`: not all readings were read. The counts are estimates then, from how close to each
    other those are that were read; extremes and means are theirs alone.
    """

    range: ReadingRange
    unit: str | None
    width: int = 0
    sampled: bool = False
    points: list[Point] = msgspec.field(default_factory=list)

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


def series(sensor: Sensor, start: int | None, end: int | None, most: int) -> Work[Series]:
    """The readings of a range of time, in `most` points at most; see `known_range` for its ends."""
    wanted, newest = yield from known_range(sensor, start, end)
    made = Series(wanted, newest.unit if newest is not None else None)
    if newest is None or wanted.start >= wanted.end:
        return made
    db = yield
    unfinished, parts = open_parts(db, sensor)
    ranges = yield from places(wanted)
    documents = 0
    for place in ranges:
        db = yield
        ids = tuple(map(sensor.id_at, place))
        documents += db.execute(_COUNTED_UP_TO, (*ids, EXACT_DOCUMENTS + 1)).fetchone()[0]
    each = len(newest.times) if documents else 1
    parts = [part for part in map(wanted.part_of, parts) if part is not None]
    if documents * each <= 2 * most + len(newest.times):
        found = list(parts)
        for place in ranges:
            yield from each_of(wanted, place, found.append, unfinished)
        if sum(len(part.times) for part in found) <= most:
            made.points = _single(found)
            return made
    buckets = _Buckets(wanted, most, unfinished)
    for part in parts:
        buckets.take(part)
    made.sampled = documents > EXACT_DOCUMENTS or documents * each > _EXACT_READINGS
    for place in ranges:
        if place == (wanted.start, wanted.end):
            yield from buckets.sum_up(each if made.sampled else None)
        elif made.sampled:
            yield from buckets.sample_others(place, each)
        else:
            yield from each_of(wanted, place, buckets.take, unfinished)
    made.width = buckets.width
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


class _Span(NamedTuple):
    """So many readings, one after the other, from the first to the last of which it takes `length`
    microseconds."""

    readings: int
    length: int


class _Buckets:
    """Buckets of the same width, in whole milliseconds, that cover a range."""

    def __init__(self, wanted: ReadingRange, most: int, without: Collection[str]) -> None:
        """Documents whose ids are in `without` are left out."""
        width = -(-(wanted.end - wanted.start) // most)
        self.width = -(-width // 1000) * 1000
        self.points = [Point(at) for at in range(wanted.start, wanted.end, self.width)]
        self._wanted = wanted
        self._without = without

    def take(self, found: Readings) -> None:
        """Add readings of the range to the buckets that they are in."""
        start = 0
        while start < len(found.times):
            point = self.points[(found.times[start] - self._wanted.start) // self.width]
            stop = bisect_left(found.times, point.at + self.width, lo=start)
            point.take(found, start, stop)
            start = stop

    def sum_up(self, each: int | None) -> Work[None]:
        """Read the documents whose ids are in the range: all of them, or some of each bucket, of
        which each has `each` readings or so."""
        for point in self.points:
            db = yield
            place = (point.at, min(point.at + self.width, self._wanted.end))
            if each is None:
                self._read(db, point, place, _NO_LIMIT)
            else:
                self._sample(db, point, place, each)

    def _sample(
        self, db: sqlite3.Connection, point: Point, place: tuple[int, int], each: int
    ) -> None:
        sensor = self._wanted.sensor
        first, last = db.execute(_ENDS, self._ids(place)).fetchone()
        if first is None:
            return
        limit = max(1, _SAMPLED // each)
        spans: list[_Span] = []
        complete = True
        for part in _slices(place, max(1, min(_SLICES // len(self.points), _SLICES_EACH))):
            documents = self._read(db, point, part, limit, spans)
            complete = complete and documents < limit
        intervals = sum(span.readings - 1 for span in spans)
        length = sum(span.length for span in spans)
        begin, end = sensor.time_in(first), sensor.time_in(last)
        if complete or not length or begin is None or end is None:
            return
        interval = length / intervals
        point.count = max(point.count, each + round((end - begin) / interval))
        point.reach(begin, end + round((each - 1) * interval))

    def sample_others(self, place: tuple[int, int], each: int) -> Work[None]:
        """Read some of the documents whose ids have other times than their readings."""
        for part in _slices(place, _SLICES):
            db = yield
            self._read_others(db, part, max(1, _SAMPLED // each))

    def _read(
        self,
        db: sqlite3.Connection,
        point: Point,
        place: tuple[int, int],
        limit: int,
        spans: list[_Span] | None = None,
    ) -> int:
        """Read the first documents there, which are in the bucket `point`, or else others.

        Returns how many there were; what is known of neighbouring readings is added to `spans`.
        """
        row = db.execute(_SUMMED_UP, (*self._ids(place), limit)).fetchone()
        documents, plain, first, last, *sums = row
        if plain:
            point.add(plain, *sums)
            begin, end = map(self._wanted.sensor.time_in, (first, last))
            point.reach(begin, end)
            if spans is not None and begin is not None and end is not None:
                spans.append(_Span(plain, end - begin))
        if plain < documents:
            self._read_others(db, place, limit, spans)
        return int(documents)

    def _read_others(
        self,
        db: sqlite3.Connection,
        place: tuple[int, int],
        limit: int,
        spans: list[_Span] | None = None,
    ) -> None:
        for id, body in db.execute(_OTHERS, (*self._ids(place), limit)):
            found = readings_of(body) if id not in self._without else None
            part = self._wanted.part_of(found) if found is not None else None
            if part is not None:
                self.take(part)
                if spans is not None:
                    spans.append(_Span(len(part.times), part.times[-1] - part.times[0]))

    def _ids(self, place: tuple[int, int]) -> tuple[str, str]:
        low, high = map(self._wanted.sensor.id_at, place)
        return low, high


def _slices(place: tuple[int, int], count: int) -> Iterator[tuple[int, int]]:
    begin, end = place
    bounds = (begin + (end - begin) * number // count for number in range(count + 1))
    return ((low, high) for low, high in pairwise(bounds) if low < high)
