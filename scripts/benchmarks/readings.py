"""Readings to store and to replicate: the same ones every time, as the recorder makes them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.documents.revision import Revision, first_revision

BATCH = 500
_DEVICE = "greenhouse-north-7"
_SENSORS = (("temperature", "C"), ("humidity", "%"), ("pressure", "hPa"), ("co2", "ppm"))
_START = datetime(2025, 6, 1, tzinfo=UTC)
_INTERVAL = timedelta(milliseconds=250)


def bodies(count: int, *, start: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """`count` pairs of a document's id and its body, about 200 bytes of JSON.

    `start` is the number of the first one.
    """
    chance = random.Random(7 + start)
    made = []
    for number in range(start, start + count):
        frame, place = divmod(number, len(_SENSORS))
        sensor, unit = _SENSORS[place]
        at = f"{_START + frame * _INTERVAL:%Y-%m-%dT%H:%M:%S.%fZ}"
        body = {
            "type": "reading",
            "device": _DEVICE,
            "sensor": sensor,
            "time": at,
            "value": round(chance.uniform(0, 1000), 2),
            "unit": unit,
            "sequence": frame,
            "boot": 2882400001,
            "firmware": "sensor_node 1.4.2",
        }
        made.append((f"{_DEVICE}:{sensor}:{at}:{frame:010d}", body))
    return made


def revisions(count: int) -> list[Revision]:
    """The revisions that these readings become."""
    return [first_revision(id, body) for id, body in bodies(count)]
