"""The store as a whole: changes, waiting, `_local` documents, opening, closing, the file."""

# ruff: noqa: ASYNC240 - the folders are small, and nothing else runs in these tests' loops

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.documents.revision import Rev
from agent.errors import (
    ConflictError,
    DocumentError,
    NotFoundError,
    StoreBusyError,
    StoreError,
    StoreExistsError,
    StoreWriteError,
)
from agent.store.databases import Databases
from agent.store.store import Store
from agent.store.transaction import Transaction
from tests.patience import PATIENCE, until
from tests.store.helpers import get, put, reading, revision, rows

# --- changes -------------------------------------------------------------------------------


async def test_each_document_comes_once_at_its_last_change(store: Store) -> None:
    await store.graft([revision("a", "1"), revision("b", "1"), revision("c", "1")])
    await put(store, "a", "1-1")
    await put(store, "c", "1-1", _deleted=True)
    page = await store.changes(0, limit=100)
    assert [(each.seq, each.id, each.deleted) for each in page.documents] == [
        (2, "b", False),
        (4, "a", False),
        (5, "c", True),
    ]
    assert (page.last_seq, page.pending) == (5, 0)
    assert [each.id for each in (await store.changes(4, limit=100)).documents] == ["c"]


async def test_changes_carry_all_leaves(store: Store) -> None:
    await store.graft([revision("a", "x"), revision("a", "y"), revision("a", "z", deleted=True)])
    (change,) = (await store.changes(0, limit=1)).documents
    assert change.leaves() == [Rev(1, "y"), Rev(1, "x"), Rev(1, "z")]


async def test_changes_in_pages(store: Store) -> None:
    await store.graft([reading(number) for number in range(25)])
    seen: list[str] = []
    pending = []
    since = 0
    while True:
        page = await store.changes(since, limit=10)
        if not page.documents:
            break
        seen += [each.id for each in page.documents]
        pending.append(page.pending)
        since = page.last_seq
    assert seen == [reading(number).id for number in range(25)]
    assert pending == [15, 5, 0]
    assert (page.last_seq, page.pending) == (25, 0)
    assert await store.pending(20) == 5
    assert await store.pending(99) == 0


async def test_newest_changes_first(store: Store) -> None:
    await store.graft([reading(number) for number in range(5)])
    page = await store.changes(4, limit=3, descending=True)
    assert [each.seq for each in page.documents] == [5, 4, 3]
    assert page.last_seq == 3
    page = await store.changes(0, limit=3, descending=True, before=page.last_seq)
    assert [each.seq for each in page.documents] == [2, 1]


async def test_lists_without_bodies(store: Store) -> None:
    await store.graft([reading(1)])
    await store.graft([revision("x", "b", "a", body='{"n":1}')])
    whole = (await store.changes(0, limit=9)).documents
    bare = (await store.changes(0, limit=9, bodies=False)).documents
    assert bare == [replace(each, body="") for each in whole]
    assert (await store.all_docs(limit=9, bodies=False)).documents == bare
    assert "" not in {each.body for each in whole}


async def test_many_pending_changes_are_an_upper_bound(store: Store) -> None:
    await store.graft([reading(number) for number in range(2_500)])
    await put(store, reading(2_499).id, reading(2_499).rev)
    page = await store.changes(0, limit=1)
    assert 2_499 <= page.pending <= 2_500
    assert (await store.changes(600, limit=1)).pending == 1_899


async def test_wait_returns_at_the_next_change(store: Store) -> None:
    await store.graft([reading(1)])
    await asyncio.wait_for(store.wait(0), PATIENCE)
    waiting = [asyncio.create_task(store.wait(1)) for _ in range(3)]
    future = asyncio.create_task(store.wait(2))
    await store.put_local("x", None, "{}")  # no change
    await store.graft([reading(1)])  # nothing new
    await asyncio.sleep(0.02)
    assert not any(task.done() for task in waiting)
    await store.graft([reading(2)])
    await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
    await asyncio.sleep(0.02)
    assert not future.done()  # it waits for a change that is still to come
    await store.graft([reading(3)])
    await asyncio.wait_for(future, PATIENCE)


async def test_a_change_can_be_read_once_wait_returned(store: Store) -> None:
    async def follow() -> list[str]:
        seen: list[str] = []
        since = 0
        while len(seen) < 20:
            await store.wait(since)
            page = await store.changes(since, limit=7)
            assert page.documents
            seen += [each.id for each in page.documents]
            since = page.last_seq
        return seen

    following = asyncio.create_task(follow())
    for number in range(20):
        await store.graft([reading(number)])
    assert await asyncio.wait_for(following, PATIENCE) == [
        reading(number).id for number in range(20)
    ]


async def test_wait_ends_when_the_store_closes(path: Path) -> None:
    store = await Store.open(path)
    waiting = asyncio.create_task(store.wait(0))
    await asyncio.sleep(0)
    await store.close()
    await asyncio.wait_for(waiting, PATIENCE)
    await asyncio.wait_for(store.wait(0), PATIENCE)
    assert store.closed


# --- _local documents ----------------------------------------------------------------------


async def test_local_documents(store: Store) -> None:
    assert await store.get_local("x") is None
    assert await store.put_local("x", None, '{"n":1}') == "0-1"
    assert await store.put_local("x", "0-1", '{"n":2}') == "0-2"
    assert await store.get_local("x") == ("0-2", '{"n":2}')
    for rev in (None, "0-1", "0-3", "1-a", ""):
        with pytest.raises(ConflictError):
            await store.put_local("x", rev, "{}")
    with pytest.raises(ConflictError):
        await store.put_local("y", "0-1", "{}")
    assert await store.get_local("x") == ("0-2", '{"n":2}')
    for _ in range(2):
        await store.write(lambda transaction: transaction.locals.overwrite("x", 2, None))
        assert await store.get_local("x") is None
    assert await store.put_local("x", None, "{}") == "0-1"


async def test_local_documents_are_no_documents(store: Store) -> None:
    await store.put_local("x", None, "{}")
    info = await store.info()
    assert (info.doc_count, info.update_seq) == (0, 0)
    assert await store.get("x") is None
    assert (await store.changes(0, limit=1)).documents == []


# --- several writes as one -----------------------------------------------------------------


async def test_a_write_is_done_whole_or_not_at_all(store: Store) -> None:
    def operation(transaction: Transaction) -> None:
        transaction.graft([reading(1), revision("gone", "a", deleted=True)])
        transaction.locals.put("x", None, "{}")
        transaction.locals.put("x", None, "{}")

    neighbours = [store.graft([reading(8)]), store.write(operation), store.graft([reading(9)])]
    results = await asyncio.gather(*neighbours, return_exceptions=True)
    assert isinstance(results[1], ConflictError)
    assert (results[0], results[2]) == ([True], [True])
    assert await store.get(reading(1).id) is None
    assert await store.get_local("x") is None
    info = await store.info()
    assert (info.doc_count, info.doc_del_count, info.update_seq) == (2, 0, 2)
    assert [each.seq for each in (await store.changes(0, limit=9)).documents] == [1, 2]


async def test_a_cancelled_caller_disturbs_nobody(store: Store) -> None:
    tasks = [asyncio.create_task(store.graft([reading(number)])) for number in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result == [True] for result in results[1::2]] == [True] * 25
    assert await store.graft([reading(100)]) == [True]


async def test_more_callers_than_the_queue_holds(store: Store) -> None:
    results = await asyncio.gather(*(store.graft([reading(number)]) for number in range(3000)))
    assert results == [[True]] * 3000
    assert (await store.info()).doc_count == store.update_seq == 3000


# --- opening and closing -------------------------------------------------------------------


async def test_closing_finishes_accepted_writes(path: Path) -> None:
    store = await Store.open(path)
    tasks = [asyncio.create_task(store.graft([reading(number)])) for number in range(500)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*tasks) == [[True]] * 500
    assert not path.with_name(path.name + "-wal").exists()
    assert rows(path, "SELECT count(*) FROM docs") == [500]
    with pytest.raises(StoreWriteError, match="being closed"):
        await store.graft([reading(999)])
    await store.close()


async def test_closing_goes_on_though_who_waits_is_cancelled(path: Path) -> None:
    store = await Store.open(path)
    await store.graft([reading(1)])
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await store.close()
    store = await Store.open(path)
    assert await store.get(reading(1).id) is not None
    await store.close()


async def test_the_file_alone_is_the_whole_store(path: Path, tmp_path: Path) -> None:
    copies: list[Path] = []
    for others_have_it_open in (False, True):
        store = await Store.open(path)
        await store.graft([reading(number) for number in range(store.update_seq, 50)])
        await put(store, "x", None if not copies else (await get(store, "x")).rev)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            if others_have_it_open:
                other.execute("SELECT count(*) FROM docs").fetchall()
            await store.close()
            copies.append(tmp_path / f"copy{others_have_it_open}.sqlite")
            await asyncio.to_thread(shutil.copyfile, path, copies[-1])
    assert [rows(copy, "SELECT count(*), max(seq) FROM docs") for copy in copies] == [
        [(51, 51)],
        [(51, 52)],
    ]
    assert {file.name for file in tmp_path.iterdir()} == {
        *("copyFalse.sqlite", "copyTrue.sqlite"),
        *("db.sqlite", "db.sqlite.lock"),
    }


async def test_everything_is_there_after_reopening(path: Path) -> None:
    store = await Store.open(path)
    await store.graft([reading(1), revision("x", "b", "a"), revision("x", "c", "a")])
    await store.put_local("x", None, "{}")
    before = await store.info(), (await store.changes(0, limit=9)).documents
    await store.close()
    store = await Store.open(path, create=False)
    assert (await store.info(), (await store.changes(0, limit=9)).documents) == before
    assert (store.uuid, store.instance_start_time) == (
        before[0].uuid,
        before[0].instance_start_time,
    )
    assert store.update_seq == 2
    assert await store.get_local("x") == ("0-1", "{}")
    await asyncio.wait_for(store.wait(1), PATIENCE)
    await put(store, "y")
    assert store.update_seq == 3
    await store.close()


async def test_a_store_that_is_not_to_be_made(path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such store"):
        await Store.open(path, create=False)
    assert list(path.parent.iterdir()) == []


async def test_names_that_a_uri_would_take_apart(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "a%2Fb?mode=rw#é 😀.sqlite")
    await store.graft([reading(1)])
    assert (await get(store, reading(1).id)).seq == 1
    await store.close()


async def test_a_page_that_could_not_be_read_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.graft([reading(1)])
    await store.graft([reading(2)])
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise StoreError("the disk", path="")

        patch.setattr(store._reader, "query", fail)
        with pytest.raises(StoreError):
            await store.recent_changes(0, limit=10, bodies=False)
    assert (await store.recent_changes(0, limit=10, bodies=False)).last_seq == 2


async def test_a_second_opening_is_refused(store: Store, path: Path) -> None:
    with pytest.raises(StoreBusyError, match="in use by this process already"):
        await Store.open(path)
    await store.graft([reading(1)])


_OPEN = """
import asyncio, pathlib, sys
from agent.store.store import Store

async def main():
    store = await Store.open(pathlib.Path(sys.argv[1]))
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


async def test_a_store_that_another_process_has_open(path: Path) -> None:
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _OPEN, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert await other.stdout.readline() == b"open\n"
    with pytest.raises(StoreBusyError) as caught:
        await Store.open(path)
    other.kill()
    await other.communicate()
    assert str(caught.value) == (
        f"{path}: in use by another process (pid {other.pid}); "
        "stop that process, or use its URL instead of the path"
    )
    assert caught.value.path == str(path)
    # The kernel gave the lock back; nothing is left to clean up by hand.
    store = await Store.open(path)
    await store.close()


async def test_the_wal_is_truncated(store: Store, path: Path) -> None:
    wal = path.with_name(path.name + "-wal")
    megabyte = '{"a":"' + "x" * 1_000_000 + '"}'
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM docs").fetchone()
        await store.graft([revision(str(number), "a", body=megabyte) for number in range(20)])
        await store.graft([reading(1)])
        assert wal.stat().st_size > 20_000_000  # held back by somebody else's reader
    await store.graft([reading(2)])
    await until(lambda: wal.stat().st_size <= 100_000)  # it is seen to after the answer
    assert (await store.info()).doc_count == 22


async def test_readers_do_not_pin_the_wal(store: Store, path: Path) -> None:
    """No reading transaction stays open between two calls."""
    await store.graft([revision("x", "b", "a"), revision("x", "c", "a")])
    await store.info()
    await store.changes(0, limit=1)
    await store.revisions([("x", ["2-b", "2-c", "2-d"])])
    await store.all_docs(limit=1)
    await store.graft([reading(1)])
    with sqlite3.connect(path) as connection:
        busy, frames, moved = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    connection.close()
    assert (busy, frames, moved) == (0, 0, 0)


async def test_reading_needs_none_of_asyncios_threads(store: Store) -> None:
    """They may all be busy, with look-ups of names that get no answer."""
    release = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(release.wait, 2 * PATIENCE)) for _ in range(64)]
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            assert (await store.info()).doc_count == 0
    finally:
        release.set()
        await asyncio.gather(*busy)


async def test_a_closed_store_is_not_read(path: Path) -> None:
    store = await Store.open(path)
    await store.close()
    with pytest.raises(StoreError, match="the store is closed"):
        await store.info()


async def test_reading_while_closing(path: Path) -> None:
    store = await Store.open(path)
    await store.graft([reading(number) for number in range(100)])
    reads = [asyncio.create_task(store.changes(0, limit=100)) for _ in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert [len((await read).documents) for read in reads] == [100] * 20
    assert store._reader._idle == []


# --- a folder of stores --------------------------------------------------------------------


async def test_databases_by_name(tmp_path: Path) -> None:
    databases = Databases(tmp_path / "made" / "here", revs_limit=7)
    assert await databases.names() == []
    with pytest.raises(NotFoundError, match="no such store"):
        await databases.get("site/a")
    store = await databases.create("site/a")
    assert await databases.get("site/a") is store
    assert await databases.ensure("site/a") is store
    with pytest.raises(StoreExistsError):
        await databases.create("site/a")
    other = await databases.ensure("b")
    assert store.path.parent == other.path.parent == tmp_path / "made" / "here"
    assert await databases.names() == ["b", "site/a"]
    await databases.close()
    assert store.closed
    assert other.closed
    databases = Databases(tmp_path / "made" / "here")
    with pytest.raises(StoreExistsError):
        await databases.create("b")
    assert (await databases.get("b")).uuid == other.uuid
    await databases.close()


async def test_many_ask_for_a_database_at_once(tmp_path: Path) -> None:
    databases = Databases(tmp_path)
    await databases.create("a")
    await databases.close()
    databases = Databases(tmp_path)
    stores = await asyncio.gather(*(databases.get("a") for _ in range(10)))
    assert len(set(map(id, stores))) == 1
    await databases.close()


async def test_a_database_deleted_and_made_again_is_another(tmp_path: Path) -> None:
    databases = Databases(tmp_path)
    store = await databases.create("a")
    await store.graft([reading(1)])
    await databases.delete("a")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFoundError):
        await databases.delete("a")
    again = await databases.create("a")
    assert again.uuid != store.uuid
    assert again.instance_start_time != store.instance_start_time
    assert re.fullmatch(r"[0-9]{16}", again.instance_start_time)
    assert re.fullmatch(r"[0-9a-f]{32}", again.uuid)
    assert (await again.info()).doc_count == 0
    await databases.close()


@pytest.mark.parametrize(
    "name",
    ["", "A", "1a", "_users", "a.b", "a b", "é", "aé", "a\n", "../a", "/a", "a" * 201, "a\0"],
)
async def test_names_that_are_not_allowed(tmp_path: Path, name: str) -> None:
    databases = Databases(tmp_path)
    for call in (databases.get, databases.create, databases.ensure, databases.delete):
        with pytest.raises(DocumentError, match=r"^Name: '"):
            await call(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "z0_$()+-/", "a/b/c", "a" * 200])
async def test_names_that_are_allowed(tmp_path: Path, name: str) -> None:
    databases = Databases(tmp_path)
    store = await databases.create(name)
    assert await databases.names() == [name]
    assert store.path.parent == tmp_path
    await databases.close()
