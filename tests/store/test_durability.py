"""Acknowledged means durable, and many callers share one commit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import pytest

from agent.store import opening
from agent.store.connection import open_writer
from agent.store.store import Store
from tests.store.helpers import reading, rows
from tests.store.writing_process import batch

SEED = 20260801


class Killed:
    """What a writing process had said until it was killed."""

    def __init__(self, said: bytes) -> None:
        lines = said.decode().split("\n")[:-1]
        self.opened = lines[:1] == ["open"]
        self.acknowledged = [(id, rev) for line in lines[1:] for id, rev in json.loads(line)]


async def killed_after(
    seconds: float, path: Path, name: str, *, from_its_first_word: bool
) -> Killed:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.store.writing_process", path, name),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    said = await process.stdout.readline() if from_its_first_word else b""
    rest = asyncio.create_task(process.stdout.read())
    await asyncio.sleep(seconds)
    process.kill()
    said += await rest
    await process.wait()
    return Killed(said)


async def check(path: Path, acknowledged: list[tuple[str, str]]) -> None:
    """Nothing acknowledged is gone, nothing is there twice, nothing is there by half."""
    store = await Store.open(path)
    asked: dict[str, list[str]] = {}
    for id, rev in acknowledged:
        asked.setdefault(id, []).append(rev)
    assert await store.missing(asked) == {}
    found = await store.revisions(list(asked.items()))
    assert all(revision is not None for revs in found for _, revision in revs)
    info = await store.info()
    await store.close()

    assert rows(path, "PRAGMA integrity_check") == ["ok"]
    ids = rows(path, "SELECT id FROM docs")
    assert len(ids) == len(set(ids)) == info.doc_count
    assert (info.doc_del_count, info.conflict_count) == (0, 0)
    readings = [id.rsplit(":", 1)[0] for id in ids if not id.endswith(":edited")]
    for whole, count in Counter(readings).items():
        name, writer, turn = whole.split(":")
        assert count == len(batch(name, int(writer), int(turn))), f"{whole} is there by half"


async def test_kill_loses_nothing_that_was_acknowledged(path: Path) -> None:
    chance = random.Random(SEED)
    moments = [round(chance.uniform(0.005, 0.25), 3) for _ in range(10)]
    print(f"seed {SEED}: killed {moments} s after the store was open")
    acknowledged: list[tuple[str, str]] = []
    for number, moment in enumerate(moments):
        killed = await killed_after(moment, path, f"run{number}", from_its_first_word=True)
        acknowledged += killed.acknowledged
        await check(path, acknowledged)
    assert len(acknowledged) > 100


async def test_kill_at_any_moment_of_the_start(tmp_path: Path) -> None:
    """Also while the file is made: the next start finds a whole store or makes one."""
    chance = random.Random(SEED)
    moments = [round(chance.uniform(0.0, 0.5), 3) for _ in range(8)]
    print(f"seed {SEED}: killed {moments} s after the process was started")
    for number, moment in enumerate(moments):
        path = tmp_path / f"{number}.sqlite"
        killed = await killed_after(moment, path, "run", from_its_first_word=False)
        await check(path, killed.acknowledged)


def test_every_commit_reaches_the_disk(path: Path) -> None:
    """FULL: SQLite syncs the WAL before a COMMIT returns."""
    with contextlib.closing(open_writer(path, create=True)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)


async def test_the_writer_keeps_its_settings(store: Store) -> None:
    def setting(name: str) -> int:
        return int(store._writer._db.execute(f"PRAGMA {name}").fetchone()[0])

    await store.graft([reading(1)])
    assert await store.write(lambda _: (setting("synchronous"), setting("busy_timeout"))) == (
        2,
        5000,
    )


async def test_a_write_can_be_read_by_others_once_it_is_acknowledged(
    store: Store, path: Path
) -> None:
    async def write(number: int) -> None:
        await store.graft([reading(number)])
        with contextlib.closing(sqlite3.connect(path)) as other:
            query = "SELECT count(*) FROM docs WHERE id = ?"
            assert other.execute(query, (reading(number).id,)).fetchone() == (1,)

    await asyncio.gather(*(write(number) for number in range(100)))


class _Statements:
    """The statements that a store's writer runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []

        def watched(path: Path, *, create: bool) -> sqlite3.Connection:
            connection = open_writer(path, create=create)
            connection.set_trace_callback(self.seen.append)
            return connection

        monkeypatch.setattr(opening, "open_writer", watched)

    def commits(self) -> int:
        return self.seen.count("COMMIT")


@pytest.fixture
async def statements(monkeypatch: pytest.MonkeyPatch) -> _Statements:
    return _Statements(monkeypatch)


async def test_callers_share_commits(statements: _Statements, path: Path) -> None:
    store = await Store.open(path)
    results = await asyncio.gather(*(store.graft([reading(number)]) for number in range(300)))
    assert results == [[True]] * 300
    assert 2 <= statements.commits() <= 30  # never more than 256 operations in one
    await store.close()


async def test_a_single_caller_gets_a_commit_for_each_call(
    statements: _Statements, path: Path
) -> None:
    store = await Store.open(path)
    for number in range(10):
        await store.graft([reading(number)])
        assert statements.commits() == number + 1
    await store.close()


async def test_new_documents_are_not_looked_up(statements: _Statements, path: Path) -> None:
    store = await Store.open(path)
    statements.seen.clear()  # each table is looked at when a store is opened
    await store.graft([reading(number) for number in range(400)])
    await store.close()
    assert not any(each.startswith("SELECT id, seq") for each in statements.seen)
    assert not any("revisions" in each for each in statements.seen)


async def test_a_batch_is_looked_up_in_one_query(statements: _Statements, path: Path) -> None:
    store = await Store.open(path)
    assert await store.graft([reading(3)]) == [True]
    new = await store.graft([reading(number) for number in range(400)])
    assert new == [number != 3 for number in range(400)]
    info = await store.info()
    assert (info.doc_count, info.update_seq) == (400, 400)
    await store.close()
    assert sum(each.startswith("SELECT id, seq") for each in statements.seen) == 1


async def test_a_wal_that_was_left_is_written_again_before_it_is_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an fsync had failed, it can be read, but is not on the disk."""
    await killed_after(0.1, path, "run", from_its_first_word=True)
    wal = path.with_name(path.name + "-wal").read_bytes()
    assert len(wal) > 4096
    done: list[object] = []

    def written(_: int, data: bytes, place: int) -> int:
        if place or len(data) > 100:  # the lock file is small
            done.append(data)
        return len(data)

    def opened(path: Path, *, create: bool) -> sqlite3.Connection:
        done.append("opened")
        return open_writer(path, create=create)

    monkeypatch.setattr(opening.os, "pwrite", written)
    monkeypatch.setattr(opening.os, "fsync", lambda _: done.append("fsync"))
    monkeypatch.setattr(opening, "open_writer", opened)
    await (await Store.open(path)).close()
    assert b"".join(part for part in done if isinstance(part, bytes)) == wal
    assert [part for part in done if isinstance(part, str)][:2] == ["fsync", "opened"]
