"""Up to where each sensor's readings were deleted to make room: they are not missed. Pure.

Retention deletes a sensor's readings from the oldest on, so one id says of all that come before it
that they are not wanted back. Ids of readings are `device:sensor:time:...`, in the order of their
times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

RETENTION = "retention"
"""The `_local` document of a database that tells its floors, and what was deleted."""

_SENSOR = re.compile(r"([^:]+:.+?:)\d{4}-\d\d-\d\dT", re.DOTALL)


def sensor_of(id: str) -> str | None:
    """The part `device:sensor:` of a reading's id; None for other ids."""
    found = _SENSOR.match(id)
    return None if found is None else found[1]


class Floors:
    """By `device:sensor:`, the last id up to which that sensor's readings are not missed."""

    def __init__(self, floors: Mapping[str, str]) -> None:
        self._floors = floors

    @classmethod
    def of(cls, record: Mapping[str, object] | None) -> Floors:
        """From the document `_local/retention` of any database, whatever is in it."""
        sensors = (record or {}).get("sensors")
        floors = {}
        for name, sensor in (sensors if isinstance(sensors, dict) else {}).items():
            floor = sensor.get("floor") if isinstance(sensor, dict) else None
            if isinstance(floor, str):
                floors[name] = floor
        return cls(floors)

    def above(self, id: str) -> str | None:
        """The floor of the sensor that this id belongs to, if the id is not above it."""
        sensor = sensor_of(id)
        floor = None if sensor is None else self._floors.get(sensor)
        return floor if floor is not None and id <= floor else None
