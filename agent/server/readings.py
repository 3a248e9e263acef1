"""The readings of sensors, for plots and spreadsheets. Not part of CouchDB's API."""

from __future__ import annotations

import csv
import io
import re
from functools import partial
from typing import TypeVar

from aiohttp import web

from agent.documents.readings import LATEST, Readings, Value
from agent.documents.times import microseconds, timestamp
from agent.errors import RequestError
from agent.server.answers import BASIC_HEADERS, Stream, answer
from agent.server.call import DatabaseCall
from agent.store.reading_range import (
    Sensor,
    Steps,
    Work,
    known_range,
    open_parts,
    page_of,
    places,
)
from agent.store.sensors import sensors as known_sensors
from agent.store.series import series as read_series

_T = TypeVar("_T")

_MOST_SENSORS = 10_000
_POINTS = 600
_FEWEST_POINTS, _MOST_POINTS = 2, 5000
_COLUMNS = ("time", "device", "sensor", "value", "unit", "quality")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


async def sensors(call: DatabaseCall) -> web.Response:
    """GET /{db}/_sensors: the sensors that have readings in the database, with the newest ones."""
    found = await _done(call, known_sensors(_MOST_SENSORS))
    return answer(
        {
            "sensors": [
                {
                    "device": each.sensor.device,
                    "sensor": each.sensor.name,
                    "unit": each.unit,
                    "last_time": each.last_time,
                    "last_value": each.last_value,
                    "quality": each.quality,
                }
                for each in found
            ]
        },
        headers={"Cache-Control": "no-cache"},
    )


async def series(call: DatabaseCall) -> web.StreamResponse:
    """GET /{db}/_series?device=&sensor=&start=&end=&points=: a sensor's readings over a time.

    `start` and `end`, which is not included, are RFC 3339; without them it is from the first
    reading on, and to the last one. The answer has columns with `points` (600) members at most;
    with `format=csv`, or where the client prefers text/csv, it is every reading, as CSV. Raises
    RequestError.
    """
    query = call.request.query
    sensor = Sensor(_given(call, "device"), _given(call, "sensor"))
    start, end = _time(call, "start"), _time(call, "end")
    if start is not None and end is not None and start >= end:
        raise _bad("start must be before end")
    form = query.get("format")
    if form not in (None, "csv", "json"):
        raise _bad("format must be csv or json")
    if form == "csv" or (form is None and _prefers_csv(call.request)):
        return await _export(call, sensor, start, end)
    points = call.number("points")
    points = _POINTS if points is None else points
    if not _FEWEST_POINTS <= points <= _MOST_POINTS:
        raise _bad(f"points must be from {_FEWEST_POINTS} to {_MOST_POINTS}")
    made = await _done(call, read_series(sensor, start, end, points))
    return answer(
        {
            "device": sensor.device,
            "sensor": sensor.name,
            "unit": made.unit,
            "start": timestamp(made.range.start),
            "end": timestamp(made.range.end),
            "bucket_ms": made.width // 1000,
            "sampled": made.sampled,
            "columns": made.columns(),
            "gaps": made.gaps(),
        },
        headers={"Cache-Control": "no-cache"},
    )


async def _export(
    call: DatabaseCall, sensor: Sensor, start: int | None, end: int | None
) -> web.StreamResponse:
    """All readings of the range as CSV (RFC 4180), page by page."""
    wanted, _ = await _done(call, known_range(sensor, start, end))
    name = _NOT_IN_NAMES.sub("_", f"{sensor.device}-{sensor.name}")[:100]
    headers = {
        **BASIC_HEADERS,
        "Content-Type": "text/csv; charset=utf-8; header=present",
        "Content-Disposition": f'attachment; filename="{name}.csv"',
        "X-Content-Type-Options": "nosniff",
    }
    stream = Stream(call.request, headers=headers)
    text = io.StringIO(newline="")
    lines = csv.writer(text)  # RFC 4180 is its default

    async def send(page: list[Readings]) -> None:
        for found in page:
            lines.writerows(_rows(found))
        await stream.write(text.getvalue())
        text.seek(0)
        text.truncate()

    lines.writerow(_COLUMNS)
    unfinished, parts = await call.store.query(lambda db: open_parts(db, sensor))
    for place in await _done(call, places(wanted)):
        after: str | None
        after, high = map(sensor.id_at, place)
        while after is not None:
            read = partial(page_of, wanted=wanted, ids=(after, high), without=unfinished)
            page, after = await call.store.query(read)
            await send(page)
            _check_client(call)
    await send([part for part in map(wanted.part_of, parts) if part is not None])
    return await stream.finish()


def _rows(found: Readings) -> list[tuple[object, ...]]:
    """A document's readings as lines of CSV."""
    device, sensor, unit = map(_cell, (found.device, found.sensor, found.unit))
    quality = _cell(found.quality)
    return [
        (timestamp(at), device, sensor, _cell(value), unit, quality)
        for at, value in zip(found.times, found.values, strict=True)
    ]


def _cell(value: Value) -> object:
    """A value as a spreadsheet may see it: a text that it would take for a formula gets an
    apostrophe before it (OWASP, "CSV Injection"). Numbers stay numbers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


async def _done(call: DatabaseCall, work: Work[_T]) -> _T:
    """What the work yields. Others have their turn between its steps.

    Raises ConnectionError once the client has gone.
    """
    steps = Steps(work)
    while not await call.store.query(steps.step):
        _check_client(call)
    return steps.result


def _check_client(call: DatabaseCall) -> None:
    if call.request.transport is None:
        raise ConnectionResetError


def _given(call: DatabaseCall, name: str) -> str:
    value = call.request.query.get(name)
    if not value or any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
        raise _bad(f"{name} is needed, the name of a {name}; _sensors has them")
    return value


def _time(call: DatabaseCall, name: str) -> int | None:
    text = call.request.query.get(name)
    if text is None:
        return None
    try:
        at = microseconds(text)
    except ValueError:
        at = -1
    if not 0 <= at < LATEST:
        raise _bad(f"{name} must be a time like 2026-03-01T08:15:30Z, from 1970 on")
    return at


def _prefers_csv(request: web.Request) -> bool:
    accept = request.headers.get("Accept", "")
    return accept.partition(";")[0].partition(",")[0].strip().lower() == "text/csv"


def _bad(reason: str) -> RequestError:
    return RequestError(400, "query_parse_error", reason)
