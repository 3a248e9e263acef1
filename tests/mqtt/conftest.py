"""A broker, a store, and somebody who hears everything on the broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.store.store import Store
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.site import opened
from tests.mqtt.telemetry import Listener


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with Mosquitto(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(tmp_path / "edge.sqlite") as store:
        yield store


@pytest.fixture
async def seen(broker: Mosquitto, tmp_path: Path) -> AsyncIterator[Listener]:
    async with Listener(broker, tmp_path / "seen") as listener:
        yield listener
