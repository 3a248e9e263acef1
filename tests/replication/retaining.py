"""Readings with the ids that the recorder gives them, and what a store has in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent.documents.revision import Revision, first_revision
from agent.store.retention import Found
from agent.store.store import Store
from tests.store.helpers import rows

START = datetime(2026, 8, 1, tzinfo=UTC)


def timestamp(seconds: float) -> str:
    return f"{START + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.%f}Z"


def reading(seconds: float, *, device: str = "dev", sensor: str = "temp", **more: Any) -> Revision:
    at = timestamp(seconds)
    body = {"type": "reading", "device": device, "sensor": sensor, "time": at, "value": 1.5, **more}
    return first_revision(f"{device}:{sensor}:{at}:0000000001", body)


def window(seconds: float, count: int, *, sensor: str = "fast") -> Revision:
    """A packed document with so many readings, one each millisecond."""
    at = timestamp(seconds)
    columns = {"time": [1000 * n for n in range(count)], "value": [0.5] * count}
    body = {"type": "readings", "device": "dev", "sensor": sensor, "time": at, "columns": columns}
    return first_revision(f"dev:{sensor}:{at}:0", body)


class Confirmed:
    """Somebody who has confirmed everything up to `upto`, but for what is in `refused`."""

    def __init__(self, upto: int = 0, name: str = "remote 'cloud'") -> None:
        self.name = name
        self.upto = upto
        self.refused: set[str] = set()

    async def seq(self) -> int:
        return self.upto

    async def had(self, documents: Sequence[Found]) -> Sequence[Found]:
        return [found for found in documents if found.id not in self.refused]


def bodies(path: Path) -> dict[str, Any]:
    """The live documents in a store's file, by id."""
    found = rows(path, "SELECT json_array(id, json(body)) FROM docs WHERE NOT deleted")
    return dict(map(json.loads, found))


def readings_in(body: dict[str, Any]) -> int:
    """How many readings a document has."""
    if body.get("type") == "readings":
        return len(body["columns"]["value"])
    return int(body.get("type") == "reading")


def counted(documents: dict[str, Any]) -> tuple[Counter[str], Counter[str]]:
    """By sensor: readings that are there, and readings that gaps tell of."""
    there: Counter[str] = Counter()
    gone: Counter[str] = Counter()
    for body in documents.values():
        if body.get("type") == "gap":
            gone[body["sensor"]] += body["count"]
        elif "sensor" in body:
            there[body["sensor"]] += readings_in(body)
    return there, gone


async def fill(store: Store, documents: Sequence[Revision]) -> None:
    for start in range(0, len(documents), 500):
        await store.graft(documents[start : start + 500])
