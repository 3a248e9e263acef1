"""How damage is found: when a store is opened, and while it is open."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import StoreDamagedError, StoreError
from agent.peers.local import LocalPeer
from agent.replication.replicator import Replicator
from agent.store.databases import Databases
from agent.store.info import read_info
from agent.store.reader import Reader
from agent.store.schema import TABLES
from agent.store.sequences import number_of, text_of
from agent.store.store import Store
from tests.mqtt.site import contents
from tests.store.damaged import (
    COUNT,
    PAGE,
    damage,
    kind_of,
    leave,
    make,
    pages_of,
    rows_of,
    told,
)
from tests.store.helpers import put, reading


def without_end(path: Path) -> None:
    """As it is after a power cut: not closed in order."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("INSERT INTO local VALUES ('x', 1, '{}')")
        db.commit()
        shutil.copy(path, path.with_name("copy"))
        shutil.copy(path.with_name(path.name + "-wal"), path.with_name("copy-wal"))
    path.with_name("copy").replace(path)
    path.with_name("copy-wal").replace(path.with_name(path.name + "-wal"))


async def test_a_power_cut_that_left_nonsense_is_found_when_the_store_is_opened(
    databases: Databases, path: Path
) -> None:
    await make(path, count=300)
    without_end(path)
    damage(path, [*range(8, 16)])
    with pytest.raises(StoreDamagedError):
        await Store.open(path)
    store = await databases.get("db")
    assert len(await contents(store)) > 100
    assert told(path).documents > 100
    await databases.close()


async def test_an_index_that_is_damaged_is_found_when_the_store_is_opened(
    databases: Databases, path: Path
) -> None:
    """A document that its id does not lead to would be stored twice."""
    before = await make(path, count=300)
    without_end(path)
    id = reading(42).id.encode()
    with path.open("r+b") as file:
        content = await asyncio.to_thread(file.read)
        places = [at for at in range(len(content)) if content.startswith(id, at)]
        [place] = [at for at in places if kind_of(path, at // PAGE) == 10]
        file.seek(place)
        file.write(b"x")
    store = await databases.get("db")
    assert await contents(store) == before
    assert "index" in told(path).reason
    await databases.close()


async def test_what_was_written_last_is_looked_at_also_after_a_stop_in_order(
    databases: Databases, path: Path
) -> None:
    before = await make(path)
    [(last,)] = rows_of(path, "SELECT body FROM docs ORDER BY seq DESC LIMIT 1")
    with path.open("r+b") as file:
        content = await asyncio.to_thread(file.read)
        file.seek(content.rindex(str(last).encode()))
        file.write(b"[")
    store = await databases.get("db")
    assert len(await contents(store)) == len(before) - 1
    assert told(path).reason == "1 of the last documents are damaged"
    assert told(path).refused == 1
    await databases.close()


@pytest.mark.parametrize("left", [None, b"", b"\0" * 50_000])
async def test_a_file_that_is_gone_or_emptied_is_never_replaced_silently(
    databases: Databases, path: Path, left: bytes | None
) -> None:
    await make(path, count=10)
    leave(path, left)
    with pytest.raises(StoreError):
        await Store.open(path)
    store = await databases.ensure("db")
    assert (await store.info()).doc_count == 0
    report = told(path)
    # Until somebody removes that file, the status tells.
    [damaged] = await databases.damaged()
    assert (damaged.database, damaged.file) == ("db", report.aside)
    reason = report.reason
    assert reason in ("it is gone", "it is empty, and was not", "it is no SQLite file any more")
    await databases.close()


async def test_what_became_of_it_is_told_once_the_store_can_be_opened(
    databases: Databases, path: Path
) -> None:
    await make(path, count=10)
    leave(path, b"")
    await databases.get("db")
    await databases.close()
    elsewhere = await Store.open(path)  # another program has it
    databases = Databases(path.parent)
    [damaged] = await databases.damaged()
    assert damaged.salvaged is None
    await elsewhere.close()
    await databases.get("db")
    [damaged] = await databases.damaged()
    assert damaged.salvaged is not None
    await databases.close()


async def test_a_report_that_somebody_has_overwritten_is_no_report(
    databases: Databases, path: Path
) -> None:
    await make(path, count=10)
    leave(path, b"")
    store = await databases.get("db")
    (rev, _) = await store.get_local("salvaged") or ("", "")
    await store.put_local("salvaged", rev, "{}")
    [damaged] = await databases.damaged()
    assert damaged.salvaged is None
    await databases.close()


@pytest.mark.parametrize("place", [16, 18, 20, 45, 59, 60, 63, 68])
async def test_a_head_that_makes_no_sense_is_damage(
    databases: Databases, path: Path, place: int
) -> None:
    """Not another program's file, nor a newer version's, which would be refused for ever."""
    before = await make(path, count=100)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\x07" if place == 63 else b"\x77\x77")  # as if it were schema 7
    assert await contents(await databases.get("db")) == before
    await databases.close()


@pytest.mark.parametrize(
    ("text", "damaged"),
    [
        (b"leaf INTEGER NOT NULL,\n    body", b"leaf INTEGER NOT NULL,\n    bo$y"),
        (b"CREATE TABLE chunks (place", b"CREATE TABLE chunks (plact"),
        (b"id TEXT PRIMARY KEY, rev", b"id TEXT PRIMARY KEY, rew"),
    ],
)
async def test_a_schema_with_another_name_in_it_is_damage(
    databases: Databases, path: Path, text: bytes, damaged: bytes
) -> None:
    """SQLite can read it, and refuses what has to do with the old name, again and again."""
    before = await make(path, count=100)
    content = await asyncio.to_thread(path.read_bytes)
    assert content.count(text) == 1
    await asyncio.to_thread(path.write_bytes, content.replace(text, damaged))
    assert await contents(await databases.get("db")) == before
    assert told(path).reason == "its schema makes no sense"
    await databases.close()


async def test_every_column_is_looked_at(path: Path) -> None:
    await make(path, count=1)
    columns = rows_of(
        path,
        "SELECT tables.name, group_concat(columns.name, ', ') "
        "FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns "
        "WHERE tables.type = 'table' AND substr(tables.name, 1, 1) <> '_' GROUP BY tables.name",
    )
    assert dict(columns) == TABLES


async def test_texts_that_are_none_are_damage(databases: Databases, path: Path) -> None:
    await make(path, count=1500)  # what was written last is looked at before
    whole = await asyncio.to_thread(path.read_bytes)
    damaged = whole.replace(b"dev:temp:000000", b"dev:temp:0\xff000\xff", 1)
    await asyncio.to_thread(path.write_bytes, damaged)
    store = await databases.get("db")
    with pytest.raises(StoreDamagedError):
        await contents(store)
    with pytest.raises(StoreDamagedError):
        await store.check()
    await databases.close()
    store = await Databases(path.parent).get("db")
    assert len(await contents(store)) > 100
    await store.close()


DAMAGES = {
    "a body that is none": "UPDATE docs SET body = NULL WHERE seq = (SELECT max(seq) FROM docs)",
    "a body that is a number": "UPDATE docs SET body = 7 WHERE seq = (SELECT max(seq) FROM docs)",
    "a design document": "UPDATE docs SET body = replace(body, '{', '[') WHERE id = '_design/d'",
    "a setting": "UPDATE meta SET value = '[' WHERE key = 'setting:revs_limit'",
    "no number of documents": "UPDATE meta SET key = 'dac_count' WHERE key = 'doc_count'",
    "a sequence that is a text": "INSERT OR REPLACE INTO meta VALUES ('seq_floor', 'x')",
}


@pytest.mark.parametrize("damaged", DAMAGES)
async def test_what_is_readable_and_makes_no_sense_is_damage(
    databases: Databases, path: Path, damaged: str
) -> None:
    """Whatever else it raised would end each start anew."""
    before = await make(path, count=100)
    store = await Store.open(path)
    await store.set_revs_limit(77)
    views = {"x": {"map": {"fields": {"value": "asc"}}}}
    await put(store, "_design/d", language="query", views=views)
    await put(store, "last")
    await store.close()
    with closing(sqlite3.connect(path)) as db:
        db.create_function("couch_key", 1, lambda value: value, deterministic=True)
        table = "SELECT sql FROM sqlite_schema WHERE name = 'docs'"
        ((schema,),) = db.execute(table).fetchall()
        for sql in (schema.replace("body TEXT NOT NULL", "body"), schema):
            db.execute("PRAGMA writable_schema = ON")
            db.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'docs'", (sql,))
            db.execute("PRAGMA writable_schema = RESET")
            if sql != schema:
                db.execute(DAMAGES[damaged])
        db.commit()
    store = await databases.get("db")
    assert before.keys() <= (await contents(store)).keys()
    assert "no sense" in told(path).reason or "damaged" in told(path).reason
    await databases.close()


async def test_a_text_that_is_none_is_told_without_the_text(
    databases: Databases, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be a document of `_replicator`."""
    store = await Store.open(path)
    await put(store, "x", password="secret", target="there")
    await store.close()
    content = await asyncio.to_thread(path.read_bytes)
    await asyncio.to_thread(path.write_bytes, content.replace(b'"target"', b'"t\xffrget"'))
    await databases.get("db")
    assert "not UTF-8" in told(path).reason
    assert "secret" not in told(path).reason + caplog.text
    await databases.close()


async def test_an_open_store_that_is_none_any_more_is_damaged(
    databases: Databases, path: Path
) -> None:
    await make(path, count=10)
    store = await databases.get("db")
    await store._writer.shrink()  # or else the WAL has the head, too
    damage(path, [0])
    reader = Reader(path)
    with pytest.raises(StoreDamagedError):
        await asyncio.to_thread(reader.query, read_info)
    reader.close()
    with pytest.raises(StoreDamagedError):
        await store.check()
    await databases.close()


async def test_a_file_that_is_removed_while_it_is_open_is_damage(
    databases: Databases, path: Path
) -> None:
    """What its WAL has is salvaged then. A database that was deleted is none."""
    deleted = await databases.create("deleted")
    await databases.delete("deleted")
    await deleted.check()
    await put(await databases.create("db"), "in the WAL")
    await databases.check()
    leave(path, None)
    with pytest.raises(StoreDamagedError, match="it is gone"):
        await databases.check()
    await databases.close()
    databases = Databases(path.parent)
    assert await (await databases.ensure("db")).get("in the WAL") is not None
    assert told(path).reason == "it is gone"
    await databases.close()


async def test_damage_that_a_running_store_meets_is_for_the_next_start(
    databases: Databases, path: Path
) -> None:
    await make(path)
    store = await databases.get("db")
    await store.check()
    damage(path, list(range(5, pages_of(path) - 20)))
    with pytest.raises(StoreDamagedError):
        await store.changes(0, limit=COUNT)
    with pytest.raises(StoreDamagedError):
        await store.check()
    await databases.close()
    again = Databases(path.parent)
    store = await again.get("db")
    await store.check()
    await put(store, "new", None, n=1)
    await again.close()


@pytest.mark.parametrize("direction", ["push", "pull"])
async def test_a_damaged_history_is_for_the_next_start_to_mend(
    databases: Databases, path: Path, direction: str
) -> None:
    """And no replication stands still for it."""
    before = await make(path, count=1500)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE docs SET tree = substr(tree, 2) WHERE id = 'edited'")
        db.commit()
    store, other = await databases.get("db"), await databases.create("other")
    await put(other, "edited", None, n=5)
    ends = (LocalPeer(store), LocalPeer(other))
    with pytest.raises(StoreDamagedError, match="history"):
        await Replicator(*(ends if direction == "push" else reversed(ends))).run()
    with pytest.raises(StoreDamagedError):
        await store.check()
    await databases.close()
    again = Databases(path.parent)
    store = await again.get("db")
    assert before.keys() - {"edited"} <= (await contents(store)).keys()
    await again.close()


async def test_a_damaged_side_of_a_conflict_is_for_the_next_start_to_mend(
    databases: Databases, path: Path
) -> None:
    """The resolver reads it again and again, and would be restarted as often."""
    before = await make(path, count=1500)
    with closing(sqlite3.connect(path)) as db:
        changed = db.execute("UPDATE revisions SET body = substr(body, 2) WHERE leaf").rowcount
        db.commit()
    assert changed
    store = await databases.get("db")
    with pytest.raises(StoreDamagedError, match="as JSON"):
        await store.conflicts_after(0, limit=10)
    with pytest.raises(StoreDamagedError):
        await store.check()
    await databases.close()
    again = Databases(path.parent)
    store = await again.get("db")
    assert (await store.conflicts_after(0, limit=10)).conflicts == []
    assert before.keys() == (await contents(store)).keys()
    await again.close()


async def test_another_programs_file_is_left_alone(databases: Databases, path: Path) -> None:
    leave(path, b"not ours" * 1000)
    with pytest.raises(StoreError, match="not a store"):
        await databases.get("db")
    assert await asyncio.to_thread(path.read_bytes) == b"not ours" * 1000


@pytest.mark.parametrize("place", [20, 30_000, 100_000])
async def test_a_wal_that_is_damaged_is_salvaged(tmp_path: Path, place: int) -> None:
    """SQLite takes what comes before the damage for all that there was. The sequences of what was
    lost would be used again."""
    databases = Databases(tmp_path)
    store = await databases.create("db")
    for number in range(40):
        await put(store, f"{number}")
    killed = tmp_path / "killed"
    killed.mkdir()
    for suffix in ("", "-wal", ".lock"):
        shutil.copy(store.path.with_name(store.path.name + suffix), killed)
    await databases.close()
    wal = killed / "db.sqlite-wal"
    content = bytearray(await asyncio.to_thread(wal.read_bytes))
    assert len(content) > 200_000
    content[place] ^= 1
    await asyncio.to_thread(wal.write_bytes, content)
    with pytest.raises(StoreDamagedError, match="its WAL is damaged"):
        await Store.open(killed / "db.sqlite")
    databases = Databases(killed)
    store = await databases.get("db")
    assert [document.id for document in (await store.all_docs(limit=50)).documents] == sorted(
        map(str, range(40))
    )
    assert "its WAL is damaged" in told(killed / "db.sqlite").reason
    assert len(await databases.damaged()) == 1
    await databases.close()


async def test_a_wal_that_is_gone_is_told(tmp_path: Path) -> None:
    """What is in the file is whole; what was written last is lost, and nothing else would tell."""
    path = tmp_path / "db.sqlite"
    databases = Databases(tmp_path)
    await put(await databases.create("db"), "in the file")
    await databases.close()
    databases = Databases(tmp_path)
    store = await databases.get("db")
    await put(store, "in the WAL only")
    seen = text_of(store, store.update_seq)
    killed = tmp_path / "killed"
    killed.mkdir()
    for suffix in ("", ".lock"):
        shutil.copy(path.with_name(path.name + suffix), killed)
    await databases.close()
    for opening, notes in enumerate([1, 1, 1]):
        databases = Databases(killed)
        store = await databases.get("db")
        assert await store.get("in the WAL only") is None
        await put(store, f"new {opening}")
        page = await store.changes(number_of(store, seen), limit=10)
        assert [each.id for each in page.documents] == [f"new {n}" for n in range(opening + 1)]
        damaged = await databases.damaged()
        assert len(damaged) == notes
        assert "its WAL is gone" in str(damaged[0].reason)
        await databases.close()
    # Closed in order, none is missed, even if the file is opened by others meanwhile.
    databases = Databases(tmp_path)
    assert await (await databases.get("db")).get("in the WAL only") is not None
    assert await databases.damaged() == []
    await databases.close()
