"""Schema versions: stamps, files of other versions, and files that older versions wrote."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from agent.documents.revision import Rev
from agent.errors import StoreError
from agent.store import schema
from agent.store.store import Store
from tests.store.fixtures.make import CONFLICT, ODD, READINGS, fill
from tests.store.helpers import body, get, migrated_further, opened, put, rows

FIXTURES = sorted(Path(__file__).with_name("fixtures").glob("v*.sqlite"))
_SCHEMA = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"


async def test_a_new_store_is_stamped(store: Store, path: Path) -> None:
    assert rows(path, "PRAGMA user_version") == [schema.SCHEMA_VERSION]
    assert rows(path, "PRAGMA application_id") == [0x65736167]
    assert rows(path, "PRAGMA auto_vacuum") == [2]
    assert rows(path, "SELECT name FROM _sqlite_migrations") == [
        f"version_{number + 1}" for number in range(schema.SCHEMA_VERSION)
    ]


async def test_opening_again_migrates_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await Store.open(path)
    await store.close()

    def migrate(_: sqlite3.Connection) -> None:
        pytest.fail("the schema is up to date")

    monkeypatch.setattr(schema, "migrate", migrate)
    store = await Store.open(path)
    await store.close()


async def test_a_store_of_a_newer_version_is_left_alone(path: Path) -> None:
    store = await Store.open(path)
    await store.close()
    with opened(path) as connection:
        migrated_further(connection, 7)
    before = await asyncio.to_thread(path.read_bytes)
    with pytest.raises(StoreError) as caught:
        await Store.open(path)
    assert str(caught.value) == (
        f"{path}: written by a newer version (schema 7, this one knows {schema.SCHEMA_VERSION}); "
        "upgrade edge-sync-agent"
    )
    assert caught.value.path == str(path)
    assert await asyncio.to_thread(path.read_bytes) == before


async def test_a_migration_that_fails_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As does one that is cut short by a power cut, which no `except` sees."""

    def stamp(*_: object) -> None:
        raise sqlite3.OperationalError("something is wrong")

    monkeypatch.setattr(schema, "_stamp", stamp)
    with pytest.raises(StoreError, match="something is wrong"):
        await Store.open(path)
    assert rows(path, _SCHEMA) == []
    monkeypatch.undo()
    store = await Store.open(path)
    await put(store, "x")
    await store.close()


@pytest.mark.parametrize("file", FIXTURES, ids=lambda file: file.stem)
async def test_a_file_of_an_older_version_opens_with_all_its_data(file: Path, path: Path) -> None:
    await asyncio.to_thread(shutil.copyfile, file, path)
    store = await Store.open(path, create=False)
    assert rows(path, "PRAGMA user_version") == [schema.SCHEMA_VERSION]
    assert rows(path, "PRAGMA integrity_check") == ["ok"]

    info = await store.info()
    assert (info.doc_count, info.doc_del_count, info.conflict_count) == (24, 1, 1)
    assert re.fullmatch("[0-9a-f]{32}", info.uuid)
    assert re.fullmatch("[0-9]{16}", info.instance_start_time)
    page = await store.changes(0, limit=100)
    assert len(page.documents) == 25
    assert page.last_seq == info.update_seq

    for sent in [*READINGS, ODD]:
        assert (await get(store, sent.id)).revision() == sent
    assert rows(path, "SELECT count(*), sum(value), max(unit) FROM readings") == [(20, 447.5, "°C")]
    conflict = await get(store, "conflict")
    assert conflict.leaves() == [Rev(2, "c"), Rev(2, "b"), Rev(2, "d")]
    for revision in CONFLICT:
        assert await body(store, "conflict", revision.rev) == revision.body
    assert rows(path, "SELECT * FROM conflicts") == [
        ("conflict", "2-c", '{"by":"edge"}', "2-b", '{"by":"cloud"}')
    ]
    edited = await get(store, "edited")
    assert (edited.rev.generation, edited.body) == (3, '{"n":3}')
    (_, *older) = edited.revision().path
    revs = [Rev(2 - step, digest) for step, digest in enumerate(older)]
    assert [await body(store, "edited", rev) for rev in revs] == ['{"n":2}', '{"n":1}']
    gone = await get(store, "gone")
    assert (gone.deleted, gone.body, gone.rev.generation) == (True, '{"why":"old"}', 2)
    again = await get(store, "again")
    assert (again.deleted, again.body, again.rev.generation) == (False, '{"n":2}', 3)
    assert await store.get_local("checkpoint") == ("0-2", '{"seq":2}')

    # And it goes on from there.
    assert await store.graft([*READINGS, *CONFLICT]) == [False] * (len(READINGS) + len(CONFLICT))
    await put(store, "edited", edited.rev, n=4)
    assert store.update_seq == info.update_seq + 1
    await store.close()


@pytest.mark.parametrize("file", FIXTURES, ids=lambda file: file.stem)
async def test_an_older_file_becomes_what_a_new_one_is(
    file: Path, path: Path, tmp_path: Path
) -> None:
    """If this fails without a new migration, a migration that was released has been changed."""
    new = tmp_path / "new.sqlite"
    store = await Store.open(new)
    await fill(store)
    await store.close()
    await asyncio.to_thread(shutil.copyfile, file, path)
    store = await Store.open(path)
    await store.close()
    assert rows(path, _SCHEMA) == rows(new, _SCHEMA)
    for table in ("docs", "revisions", "local"):
        assert rows(path, f"SELECT * FROM {table}") == rows(new, f"SELECT * FROM {table}")


def test_there_is_a_file_of_every_version() -> None:
    assert [file.name for file in FIXTURES] == [
        f"v{number + 1}.sqlite" for number in range(schema.SCHEMA_VERSION)
    ]
    for file in FIXTURES:
        data = file.read_bytes()
        assert len(data) < 100_000
        assert not re.search(rb"/(home|root|tmp|work)/", data)
