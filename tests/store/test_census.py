"""Conflicts are counted exactly, in databases that are open and in those that are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent.store import census
from agent.store.census import Census
from agent.store.databases import Databases
from agent.store.store import Store
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
    (tmp_path / "No Name.sqlite").write_bytes(b"rubbish")
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


async def test_what_a_crash_has_left_in_a_wal_counts(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    running = Databases(before)
    await conflicts(running, "one", "x", "y")
    await conflicts(running, "two", "x")
    shutil.copytree(before, after)  # as a crash would leave it
    await running.close()
    assert (after / "one.sqlite-wal").stat().st_size > 0
    databases = Databases(after)
    assert await Census(databases).take() == {"one": 2, "two": 1}
    await databases.close()


async def test_what_cannot_be_opened_is_not_opened_over_and_over(tmp_path: Path) -> None:
    others = Databases(tmp_path)  # another process's
    await conflicts(others, "one", "x")
    tried = []

    class Watched(Databases):
        async def get(self, name: str) -> Store:
            tried.append(name)
            return await super().get(name)

    counted = Census(Watched(tmp_path))
    for _ in range(2):
        await counted.take()
    assert tried == ["one"]
    await conflicts(others, "one", "y")
    assert await counted.take() == {}
    assert tried == ["one", "one"]
    await others.close()
    assert await counted.take() == {"one": 2}
