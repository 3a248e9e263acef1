"""Damaged stores: set aside, what is readable copied, and the rest pulled from elsewhere."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.errors import StoreDamagedError, StoreError, StoreExistsError
from agent.peers.local import LocalPeer
from agent.replication.replicator import Replicator
from agent.store import salvage
from agent.store.connection import marker
from agent.store.databases import Databases
from agent.store.salvage import SALVAGED, copies_of
from agent.store.store import Store
from tests.mqtt.site import contents
from tests.store.damaged import (
    COUNT,
    PAGE,
    damage,
    kind_of,
    leave,
    make,
    misplace,
    pages_of,
    rows_of,
    strew,
    told,
)
from tests.store.helpers import get, put, reading, revision, rows


async def test_what_is_readable_is_copied_and_the_rest_comes_back(
    databases: Databases, path: Path, tmp_path: Path
) -> None:
    there = tmp_path / "cloud" / "db.sqlite"
    await make(there)
    before = await make(path)
    uuid = rows(path, "SELECT value FROM meta WHERE key = 'uuid'")
    pages = pages_of(path)
    damage(path, [*range(60, 70), pages // 2, pages - 20])
    (tmp_path / "db.sqlite.damaged").write_text("database disk image is malformed")
    store = await databases.get("db")
    after = await contents(store)
    assert COUNT // 2 < len(after) < len(before)
    assert all(before[id] == found for id, found in after.items())
    report = told(path)
    assert (report.documents, report.reason) == (len(after), "database disk image is malformed")
    assert report.before == len(before)
    assert pages_of(Path(report.aside)) == pages
    assert not marker(path).exists()
    # No checkpoint of the old store counts for this one.
    assert [store.uuid] != uuid
    assert rows(path, "PRAGMA integrity_check") == ["ok"]
    info = await store.info()
    live = [id for id, found in after.items() if not found[1]]  # type: ignore[index]
    assert info.doc_count == len(live)
    cloud = await Store.open(there)
    await Replicator(LocalPeer(cloud), LocalPeer(store)).run()
    assert await contents(store) == before
    await cloud.close()
    await databases.close()


async def test_a_complete_copy_is_put_in_place_by_the_next_start(
    databases: Databases, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await make(path, count=50)
    marker(path).write_text("malformed")

    def rename(file: Path, to: Path) -> None:
        if to == path:
            raise OSError("power cut")
        os.rename(file, to)  # noqa: PTH104

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(StoreError, match="power cut"):
            await databases.get("db")
    [copy] = await asyncio.to_thread(copies_of, path)
    await asyncio.to_thread(path.unlink)  # as a file system without hard links leaves it
    assert await databases.names() == ["db"]
    with pytest.raises(StoreExistsError):
        await databases.create("db")
    store = await databases.get("db")
    assert await contents(store) == before
    assert told(path).reason == "malformed"
    left = {file.name for file in path.parent.iterdir()}
    assert Path(told(path).aside).name in left
    assert copy.name not in left
    await databases.close()


async def test_a_database_that_is_deleted_takes_its_copy_along(
    databases: Databases, path: Path
) -> None:
    await make(path, count=50)
    await asyncio.to_thread(path.rename, path.with_name("db.sqlite.salvaged-20260101T000000Z"))
    await databases.delete("db")
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"\0\0\0", b"\xff"])
async def test_a_marker_counts_whatever_is_left_of_its_text(
    databases: Databases, path: Path, text: bytes
) -> None:
    before = await make(path, count=50)
    marker(path).write_bytes(text)
    assert await contents(await databases.get("db")) == before
    assert told(path).reason in ("it was found while it was open", "\ufffd")
    await databases.close()


async def test_local_documents_and_settings_are_kept(databases: Databases, path: Path) -> None:
    await make(path)
    store = await Store.open(path)
    await store.set_setting("revs_limit", 77)
    await store.close()
    marker(path).write_text("malformed")
    store = await databases.get("db")
    assert await store.get_local("state") == ("0-1", '{"kept":true}')
    assert store.setting("revs_limit") == 77
    await databases.close()


@pytest.mark.parametrize("seed", range(18))
async def test_whatever_is_damaged_the_store_opens_with_nothing_wrong(
    databases: Databases, path: Path, seed: int
) -> None:
    before = await make(path, count=1500)
    chance = random.Random(seed)
    pages = pages_of(path)
    match seed % 3:
        case 0:
            damage(path, chance.sample(range(pages), chance.choice([1, 1, 3, 10, 40])))
        case 1:
            strew(path, chance, chance.choice([1, 10, 100, 1000]))
        case 2:
            misplace(path, chance, chance.choice([1, 10, 100]), chance.choice([512, PAGE]))
    marker(path).write_text("malformed")
    store = await databases.get("db")
    after = await contents(store)
    await put(store, "new", None, n=1)
    assert rows(path, "PRAGMA integrity_check") == ["ok"]
    if seed % 3:
        return  # a byte of a text may be another one, and nothing tells
    assert after.keys() <= before.keys()
    for id, (rev, *_) in after.items():  # type: ignore[misc]
        # A page of nonsense might even be a page of rows; what is copied has its right revision.
        if id not in ("conflict", "edited", "again"):
            assert rev == before[id][0]  # type: ignore[index]
    await databases.close()
    await asyncio.to_thread(shutil.rmtree, path.parent, ignore_errors=True)


TABLES = {
    "docs": "seq, id, gen, hash, deleted, conflicts, body, tree, attachments",
    "revisions": "id, gen, hash, deleted, leaf, body, attachments",
    "blobs": "id, sha256, length",
    "chunks": "place, data",
    "parts": "place, device, document, body",
    "local": "id, rev, body",
}


def tables(path: Path) -> dict[str, list[tuple[object, ...]]]:
    return {
        name: sorted(rows_of(path, f"SELECT {columns} FROM {name}"), key=repr)
        for name, columns in TABLES.items()
    }


async def test_of_a_store_that_is_whole_everything_is_copied(
    databases: Databases, path: Path
) -> None:
    """Histories with the bodies of ancestors, attachments, what is only in the WAL."""
    await make(path)
    store = await Store.open(path)
    await store.write(lambda transaction: transaction.record.add(['{"n":1}', '{"n":2}']))
    await store.write(lambda transaction: transaction.parts.append("dev", "w:1", '{"a":1}'))
    await put(store, "after the last checkpoint", None, text="long " * 3000)
    await put(store, "conflict", str((await get(store, "conflict")).rev), n=2)
    whole = tables(path)
    # As a kill leaves it.
    folder = path.parent / "killed"
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(path.with_name(path.name + suffix), folder)
    await store.close()
    killed = folder / path.name
    assert killed.with_name(killed.name + "-wal").stat().st_size > 0
    marker(killed).write_text("malformed")
    databases = Databases(folder)
    store = await databases.get("db")
    assert [text for _, text in await store.resolutions(limit=9)] == ['{"n":1}', '{"n":2}']
    await databases.close()
    found = tables(killed)
    found["local"] = [row for row in found["local"] if row[0] != SALVAGED]
    assert found == whole


@pytest.mark.parametrize("lost", ["schema", "inner pages", "both", "header"])
async def test_without_what_leads_to_them_the_rows_are_found(
    databases: Databases, path: Path, lost: str
) -> None:
    """Only page 1 says where the tables are, and only inner pages where their leaves are."""
    before = await make(path)
    if lost == "header":
        with path.open("r+b") as file:
            file.write(bytes(100))
    else:
        inner = [page for page in range(1, pages_of(path)) if kind_of(path, page) in (2, 5)]
        assert len(inner) > 1
        damage(path, {"schema": [0], "inner pages": inner, "both": [0, *inner]}[lost])
    marker(path).write_text("malformed")
    store = await databases.get("db")
    assert await contents(store) == before
    assert await store.get_local("state") == ("0-1", '{"kept":true}')
    await databases.close()


async def test_what_was_deleted_does_not_come_back(databases: Databases, path: Path) -> None:
    """Free pages still have the rows that retention took out of them."""
    await make(path, count=3000)
    store = await Store.open(path)
    await store.write(lambda transaction: transaction.retire(range(200, 2800)))
    before = await contents(store)
    await store.close()
    assert rows(path, "PRAGMA freelist_count")[0] > 50
    damage(path, [0])
    marker(path).write_text("malformed")
    assert await contents(await databases.get("db")) == before
    await databases.close()


@pytest.mark.parametrize("steps", range(5))
async def test_an_exchange_that_was_cut_off_is_brought_to_its_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """With each name that changes something may end the agent; the copy is neither lost nor taken
    for a damaged store."""
    before = await make(path, count=50)
    killed = path.with_name(path.name + "-wal")
    killed.write_bytes(b"no WAL")
    marker(path).write_text("malformed")
    done = 0

    def cut_off(change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(file: Path, *arguments: Any, **options: Any) -> Any:
            nonlocal done
            if arguments or file == marker(path):  # before that, there is nothing to remove
                if done == steps:
                    raise KeyboardInterrupt
                done += 1
            return change(file, *arguments, **options)

        return counted

    with monkeypatch.context() as patch:
        for change in ("rename", "unlink", "hardlink_to"):
            patch.setattr(Path, change, cut_off(getattr(Path, change)))
        with pytest.raises(KeyboardInterrupt):
            await asyncio.to_thread(salvage.set_aside, path, "malformed")
    with pytest.raises(StoreDamagedError):  # to nobody who would not bring it to its end
        await Store.open(path)
    databases = Databases(path.parent)
    store = await databases.get("db")
    assert await contents(store) == before
    report = told(path)
    assert report.documents == len(before)
    aside = Path(report.aside)
    left = await asyncio.to_thread(salvage.files_aside, path.parent, path.name)
    assert left == [aside]
    assert await asyncio.to_thread(Path(f"{aside}-wal").read_bytes) == b"no WAL"
    await databases.close()


async def test_of_a_file_that_is_gone_its_wal_is_read(databases: Databases, path: Path) -> None:
    """As a check of the file system may leave it."""
    await make(path, count=300)
    store = await databases.get("db")
    await store.write(lambda transaction: transaction.retire(range(100, 200)))
    await store.graft([reading(number) for number in range(1000, 1100)])
    before = await contents(store)
    wal = path.with_name(path.name + "-wal")
    left = await asyncio.to_thread(wal.read_bytes)
    await databases.close()
    leave(path, None)
    leave(wal, left)
    databases = Databases(path.parent)
    after = await contents(await databases.ensure("db"))
    assert {reading(number).id for number in range(1000, 1100)} <= after.keys()
    assert all(before.get(id) == found for id, found in after.items())
    report = told(path)
    assert (report.reason, report.documents) == ("it is gone", len(after))
    assert report.before == len(before)
    await databases.close()


async def test_without_room_for_the_copy_nothing_is_touched(
    databases: Databases, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path, count=10)
    marker(path).write_text("malformed")
    before = await asyncio.to_thread(path.read_bytes)
    usage = shutil.disk_usage(path.parent)
    monkeypatch.setattr(salvage.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StoreError, match=r"have to be free, not 0; free some space"):
        await databases.get("db")
    assert await asyncio.to_thread(path.read_bytes) == before
    monkeypatch.undo()
    assert (await (await databases.get("db")).info()).doc_count > 10
    await databases.close()


async def test_a_conflict_of_which_one_side_is_lost(databases: Databases, path: Path) -> None:
    """The side that is left is there; the other one is unknown, so replication asks for it."""
    store = await Store.open(path)
    await store.graft([revision("x", "c", "a"), revision("x", "b", "a")])
    await store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM revisions")
        db.commit()
    marker(path).write_text("malformed")
    store = await databases.get("db")
    found = await store.get("x")
    assert found is not None
    assert [str(rev) for rev in found.leaves()] == ["2-c"]
    assert await store.missing({"x": ["2-b", "2-c"]}) == {"x": ["2-b"]}
    await databases.close()


async def test_a_disk_that_fills_while_the_copy_is_made_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "db.sqlite"
    databases = Databases(tmp_path)
    await make(path, count=2000)
    marker(path).write_text("malformed")
    opened = salvage.open_writer

    def on_a_small_disk(path: Path, *, create: bool) -> sqlite3.Connection:
        connection = opened(path, create=create)
        connection.execute("PRAGMA max_page_count = 40")
        return connection

    monkeypatch.setattr(salvage, "open_writer", on_a_small_disk)
    with pytest.raises(StoreError, match=r"the disk is full before .* free some space and start"):
        await databases.get("db")
    left = await asyncio.to_thread(lambda: list(tmp_path.glob("*salvaging*")))
    assert left == []  # it would take the room that is missing
    monkeypatch.undo()
    assert (await (await databases.get("db")).info()).doc_count > 1000
    await databases.close()


async def test_a_copy_takes_the_room_of_one_and_what_a_killed_one_left_goes(
    databases: Databases, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path)
    size = pages_of(path) * PAGE
    marker(path).write_text("malformed")
    left = path.with_name(path.name + ".salvaging")
    left.write_bytes(b"half a copy")
    most = 0
    copied = salvage.recover

    def watched(rows: Any, copy: sqlite3.Connection) -> Any:
        nonlocal most
        found = copied(rows, copy)
        most = sum(file.stat().st_size for file in path.parent.glob("*salvaging*"))
        return found

    monkeypatch.setattr(salvage, "recover", watched)
    await databases.get("db")
    assert 0 < most < size * 9 / 8
    assert not left.exists()
    await databases.close()


async def test_a_card_that_fails_again_and_again_does_not_fill_up_with_damaged_files(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path, count=100)

    def aside() -> list[str]:
        return sorted(file.name for file in path.parent.glob("*.damaged-*"))

    for day in range(1, 7):
        for suffix in ("", "-wal"):
            file = path.with_name(f"{path.name}.damaged-2026010{day}T000000Z{suffix}")
            file.write_bytes(bytes(PAGE))
    marker(path).write_text("malformed")
    await (await Store.open(path, salvage=True)).close()
    kept = aside()
    assert kept[:-1] == [
        f"{path.name}.damaged-2026010{day}T000000Z{suffix}"
        for day in (5, 6)
        for suffix in ("", "-wal")
    ]
    assert told(path).aside.endswith(kept[-1])

    usage = shutil.disk_usage(path.parent)
    monkeypatch.setattr(
        salvage.shutil,
        "disk_usage",
        lambda _: usage._replace(free=usage.free if len(aside()) < 2 else 1000),
    )
    marker(path).write_text("malformed")
    await (await Store.open(path, salvage=True)).close()  # the room of the older ones is needed
    assert aside()[0] == kept[-1]


async def test_of_a_store_that_goes_again_and_again_a_few_wals_are_kept(path: Path) -> None:
    await make(path, count=10)
    for _ in range(6):
        store = await Store.open(path, salvage=True)
        await put(store, "x", str((await get(store, "x")).rev) if await store.get("x") else None)
        await asyncio.to_thread(path.unlink)
        await store.close()
    await (await Store.open(path, salvage=True)).close()
    assert len(list(path.parent.glob("*.damaged-*-wal"))) == 3


async def test_a_few_notes_are_kept_beside_the_damaged_files(path: Path) -> None:
    """They take no room, so none has to give way to another kind."""
    names = [f"{path.name}.damaged-2026010{day}T000000Z" for day in range(1, 7)]
    for name, content in zip(names, [bytes(PAGE)] * 2 + [b"note"] * 4, strict=True):
        path.with_name(name).write_bytes(content)
    await make(path, count=10)
    marker(path).write_text("malformed")
    await (await Store.open(path, salvage=True)).close()

    def aside() -> list[str]:
        return [file.name for file in salvage.files_aside(path.parent, path.name)]

    kept = await asyncio.to_thread(aside)
    assert kept[:-1] == names
    await asyncio.to_thread(salvage.note_damage, path, "its WAL is gone")
    now = await asyncio.to_thread(aside)
    assert now[:-1] == [*names[:2], *names[4:], kept[-1]]
