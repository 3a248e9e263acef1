"""A store for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.store.databases import Databases
from agent.store.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db.sqlite"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    store = await Store.open(path)
    yield store
    await store.close()


@pytest.fixture
async def databases(tmp_path: Path) -> Databases:
    """The folder in which `path` is the database `db`; whoever uses it closes it."""
    return Databases(tmp_path)
