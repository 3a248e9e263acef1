"""Compaction and purging, seen from SQLite."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from agent.documents.revision import Rev
from agent.errors import StoreWriteError
from agent.store.conflicts import read_joins
from agent.store.document_rows import DocumentRows
from agent.store.store import Store
from tests.store.helpers import get, put, reading, revision, rows


async def versions(store: Store, id: str, count: int) -> list[Rev]:
    """Edit a document so many times, 10 kB each; returns the revisions."""
    made: list[Rev] = []
    for number in range(count):
        made.append(await put(store, id, made[-1] if made else None, n=number, x="x" * 10_000))
    return made


async def test_only_leaves_keep_their_bodies(store: Store, path: Path) -> None:
    await versions(store, "a", 3)
    await store.graft([revision("b", "b", "a", body='{"v":"b"}')])
    await store.graft([revision("b", "c", "a", body='{"v":"c"}')])
    await store.graft([revision("b", "d", "a", body='{"v":"d"}', deleted=True)])
    before = [await get(store, id) for id in "ab"]
    await store.start_compaction()
    assert rows(path, "SELECT id, gen, hash, leaf FROM revisions ORDER BY hash") == [
        ("b", 2, "b", 1),
        ("b", 2, "d", 1),
    ]
    assert [await get(store, id) for id in "ab"] == before
    assert not store.compacting


async def test_the_common_ancestor_stays_as_long_as_there_is_a_conflict(
    store: Store, path: Path
) -> None:
    """Whatever policies there are: people merge, too."""
    first, second, _ = await versions(store, "a", 3)
    await store.graft([revision("a", "x", second.hash, first.hash)])
    old = "SELECT gen FROM revisions WHERE NOT leaf"
    await store.start_compaction()
    assert rows(path, old) == [2]
    await store.graft([revision("a", "y", "x", second.hash, first.hash, deleted=True)])
    await store.start_compaction()
    assert rows(path, old) == []


@pytest.mark.parametrize("longest", [0, 60])
async def test_documents_in_conflict_do_not_hold_the_writer_up(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch, longest: float
) -> None:
    """Their histories may be long: each is looked at once a step, not once for each old body."""
    looked_at = []

    def counted(db: Any, id: str, *options: Any) -> Any:
        looked_at.append(id)
        return read_joins(db, id, *options)

    monkeypatch.setattr("agent.store.document_rows.read_joins", counted)
    monkeypatch.setattr("agent.store.document_rows._LONGEST", longest)
    store.ancestors_kept = 2
    for id in "abc":
        [first, *_, last] = await versions(store, id, 10)
        await store.graft([revision(id, "x", first.hash)])
        await put(store, id, last)
    await store.start_compaction()
    assert looked_at == list("abc")
    kept = rows(path, "SELECT id, gen FROM revisions WHERE NOT leaf ORDER BY id, gen")
    assert kept == [(id, gen) for id in "abc" for gen in (1, 9, 10)]


def on_disk(path: Path) -> int:
    return path.stat().st_size


async def test_the_file_shrinks_while_others_read_and_write(store: Store, path: Path) -> None:
    last = (await versions(store, "a", 150))[-1]
    before = (await store.info()).file_size
    compaction = store.start_compaction()
    assert store.compacting
    assert store.start_compaction() is compaction
    for number in range(20):
        await store.graft([reading(number)])
        assert (await get(store, "a")).rev == last
    await compaction
    after = await store.info()
    assert before > 1_400_000 > 400_000 > after.file_size
    on_disk = (await asyncio.to_thread(path.stat)).st_size
    assert on_disk == after.file_size == after.active_size
    assert after.doc_count == 21
    assert rows(path, "PRAGMA integrity_check") == ["ok"]


async def test_closing_ends_a_compaction(path: Path) -> None:
    store = await Store.open(path)
    await versions(store, "a", 30)
    compaction = store.start_compaction()
    await asyncio.sleep(0)
    await store.close()
    assert compaction.cancelled()
    store = await Store.open(path)
    assert (await get(store, "a")).rev.generation == 30
    await store.close()


async def test_a_compaction_that_fails_says_so_and_may_be_repeated(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: Path
) -> None:
    await versions(store, "a", 3)

    def full(*_: object, **__: object) -> int:
        raise StoreWriteError("the disk is full")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(DocumentRows, "drop_old_bodies", full)
        await store.start_compaction()
    assert "the disk is full" in caplog.text
    assert len(rows(path, "SELECT 1 FROM revisions")) == 2
    await store.start_compaction()
    assert rows(path, "SELECT 1 FROM revisions") == []


async def test_a_purge_leaves_nothing_of_a_document(store: Store, path: Path) -> None:
    revs = await versions(store, "a", 3)
    await store.graft([revision("a", "z", "y", deleted=True)])
    leaves = (await get(store, "a")).leaves()
    assert await store.purge({"a": [*leaves, revs[0]]}) == {"a": leaves}
    assert rows(path, "SELECT id FROM docs UNION ALL SELECT id FROM revisions") == []
    info = await store.info()
    assert (info.doc_count, info.doc_del_count, info.update_seq, info.purge_seq) == (0, 0, 4, 1)


async def test_a_purged_winner_becomes_its_rival(store: Store, path: Path) -> None:
    await store.graft([revision("a", "c", "b", "a", body='{"v":"c"}')])
    await store.graft([revision("a", "x", "a", body='{"v":"x"}', deleted=True)])
    await store.purge({"a": [Rev(3, "c")]})
    document = await get(store, "a")
    assert (document.rev, document.deleted, document.body) == (Rev(2, "x"), True, '{"v":"x"}')
    assert document.seq == 3
    assert rows(path, "SELECT hash FROM revisions") == []
    info = await store.info()
    assert (info.doc_count, info.doc_del_count) == (0, 1)


async def test_settings_survive_and_are_no_documents(path: Path) -> None:
    store = await Store.open(path)
    assert store.setting("security") is None
    await store.set_setting("security", {"admins": {"names": ["ä"]}})
    await store.set_setting("other", 1)
    await store.set_setting("other", None)
    await store.close()
    store = await Store.open(path)
    assert store.setting("security") == {"admins": {"names": ["ä"]}}
    assert store.setting("other") is None
    assert (await store.info()).update_seq == 0
    await store.close()
