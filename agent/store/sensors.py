"""Which sensors have readings in a store, found by skipping from one to the next in the index."""

from __future__ import annotations

import sqlite3

import msgspec

from agent.documents.readings import Value, named_in, readings_of
from agent.documents.times import timestamp
from agent.store.reading_range import Sensor, Work, newest_of

_LIKE_READINGS = "*:*:[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*Z:*"
_NEXT = (
    "SELECT id FROM docs WHERE id >= ? AND id < ? AND id GLOB ? ORDER BY id LIMIT 1"  # index only
)
_FIRST = "SELECT body FROM docs WHERE id >= ? AND id < ? AND NOT deleted ORDER BY id LIMIT ?"
_PARTS = "SELECT body FROM parts ORDER BY place"
_LOOKED_AT = 64
"""Documents with the names of a sensor in their ids that are looked at for a reading."""

_BEYOND_ALL = "\U0010ffff"


class KnownSensor(msgspec.Struct, frozen=True):
    """A sensor, and the newest of its readings."""

    sensor: Sensor
    unit: str | None
    last_time: str
    last_value: Value
    quality: str | None


def sensors(most: int) -> Work[list[KnownSensor]]:
    """The sensors that have readings, by device and name, `most` of them."""
    names: set[Sensor] = set()
    db = yield
    for (body,) in db.execute(_PARTS):
        found = readings_of(body)
        if found is not None:
            names.add(Sensor(found.device, found.sensor))
    place = ""
    while len(names) < most:
        db = yield
        row = db.execute(_NEXT, (place, _BEYOND_ALL, _LIKE_READINGS)).fetchone()
        if row is None:
            break
        named = named_in(row[0])
        if named is None:
            place = f"{row[0]}\0"
            continue
        found_here = _sensor_named(db, named)
        if found_here is not None:
            names.add(found_here)
        place = f"{named}::"  # times begin with a digit
    known = []
    for sensor in sorted(names):
        db = yield
        newest = newest_of(db, sensor)
        if newest is not None:
            at = timestamp(newest.times[-1])
            told = (newest.unit, at, newest.values[-1], newest.quality)
            known.append(KnownSensor(sensor, *told))
    return known


def _sensor_named(db: sqlite3.Connection, names: str) -> Sensor | None:
    """The device and the sensor whose readings have `device:sensor` in their ids, if there are."""
    for (body,) in db.execute(_FIRST, (f"{names}:0", f"{names}::", _LOOKED_AT)):
        found = readings_of(body)
        if found is not None and f"{found.device}:{found.sensor}" == names:
            return Sensor(found.device, found.sensor)
    return None
