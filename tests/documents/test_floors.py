"""Floors: which readings are not missed, by their ids."""

from __future__ import annotations

from typing import Any

import pytest

from agent.documents.floors import Floors, sensor_of


@pytest.mark.parametrize(
    ("id", "sensor"),
    [
        ("dev:temp:2026-08-01T00:00:00.000000Z:0000000001", "dev:temp:"),
        ("dev:bus:3:temp:2026-08-01T00:00:00Z:boot-0000000001", "dev:bus:3:temp:"),
        ("device:dev", None),
        ("2026-08-01T00:00:00Z", None),
        ("dev:temp:00000001", None),
    ],
)
def test_the_sensor_in_an_id(id: str, sensor: str | None) -> None:
    assert sensor_of(id) == sensor


def test_only_what_a_sensor_had_before_its_floor() -> None:
    floor = "dev:temp:2026-08-01T00:00:00.000000Z:0000000001"
    floors = Floors.of({"sensors": {"dev:temp:": {"floor": floor, "deleted": 3}}})
    assert floors.above(floor) == floor
    assert floors.above("dev:temp:2026-07-31T00:00:00.000000Z:0000000009") == floor
    assert floors.above("dev:temp:2026-08-01T00:00:01.000000Z:0000000001") is None
    assert floors.above("dev:humidity:2026-07-31T00:00:00.000000Z:0000000009") is None
    assert floors.above("dev:a") is None


@pytest.mark.parametrize(
    "record", [None, {}, {"sensors": 1}, {"sensors": {"dev:temp:": []}}, {"sensors": {"x": {}}}]
)
def test_any_document_of_that_name_is_taken(record: Any) -> None:
    assert Floors.of(record).above("dev:temp:2026-08-01T00:00:00Z:1") is None
