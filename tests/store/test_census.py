"""Conflicts are counted exactly, in databases that are open and in those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.store import census
from agent.store.census import Census
from agent.store.databases import Databases
from tests.store.helpers import put, revision


async def conflicts(databases: Databases, name: str, *ids: str) -> None:
    store = await databases.ensure(name)
    for id in ids:
        await store.graft([revision(id, letter) for letter in "ab"])


async def test_databases_that_are_closed_count_too(tmp_path: Path) -> None:
    first = Databases(tmp_path)
    await conflicts(first, "one", "x", "y")
    await conflicts(first, "site/a+b", "x")
    await put(await first.ensure("peaceful"), "x")
    await first.close()
    databases = Databases(tmp_path, most_open=1)
    counted = Census(databases)
    assert await counted.take() == {"one": 2, "site/a+b": 1}
    assert databases.open_names == []
    await conflicts(databases, "one", "z")
    assert await counted.take() == {"one": 3, "site/a+b": 1}
    await conflicts(databases, "site/a+b", "y")  # closes the other one
    assert databases.open_names == ["site/a+b"]
    assert await counted.take() == {"one": 3, "site/a+b": 2}
    await databases.delete("one")
    (tmp_path / "rubbish.sqlite").write_bytes(b"rubbish")
    assert await counted.take() == {"site/a+b": 2}
    await databases.close()


async def test_what_has_not_changed_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = Databases(tmp_path)
    await conflicts(databases, "one", "x")
    await databases.close()
    counted = Census(Databases(tmp_path))
    assert await counted.take() == {"one": 1}
    monkeypatch.setattr(census, "_COUNT", "SELECT 99")
    assert await counted.take() == {"one": 1}
