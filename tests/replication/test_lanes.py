"""Lanes: what is urgent or new goes before the backlog, and nothing is lost for it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.documents.revision import Rev, canonical, first_revision
from agent.errors import ConnectError, EdgeAgentError
from agent.peers.local import LocalPeer
from agent.replication.arrivals import Arrivals
from agent.replication.job import Job
from agent.replication.lanes import MOST_RANGES, Lane, Reached, ranges_from_log
from agent.replication.replicator import Replicator
from agent.replication.room import Room
from agent.store.store import Store
from agent.store.transaction import Edit
from tests.patience import PATIENCE, until
from tests.replication.faulty import FaultyPeer

OLD = 3000


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    a, b = await Store.open(tmp_path / "a.sqlite"), await Store.open(tmp_path / "b.sqlite")
    yield a, b
    await asyncio.gather(a.close(), b.close())


async def write(store: Store, prefix: str, count: int, **body: Any) -> None:
    await store.graft([first_revision(f"{prefix}:{n:05}", {"n": n, **body}) for n in range(count)])


async def arrived(store: Store) -> list[str]:
    """Ids in the order in which they came."""
    return [document.id for document in (await store.changes(0, limit=100_000)).documents]


@contextlib.asynccontextmanager
async def running(replicator: Replicator) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(replicator.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, EdgeAgentError):
            await task


def carries_the_newest(replicator: Replicator, source: Store) -> bool:
    return bool(replicator.progress.newest_seq == source.update_seq)


class Slow(LocalPeer):
    """Stands in for a remote that takes what is old only when it is told to go on."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.goes_on = asyncio.Event()
        self.reached = asyncio.Event()

    async def store(self, revisions: Any, contents: Any = None) -> Any:
        if any(revision.id.startswith("old:02") for revision in revisions):
            self.reached.set()
            await self.goes_on.wait()
        return await super().store(revisions, contents)


# --- what was reached ------------------------------------------------------------------


@given(
    start=st.integers(0, 20),
    added=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 15))),
    end=st.integers(0, 80),
)
def test_what_is_reached_is_what_was_added(
    start: int, added: list[tuple[int, int]], end: int
) -> None:
    reached = Reached(start)
    has = set(range(1, start + 1))
    for since, length in added:
        reached.add(since, since + length)
        has |= set(range(since + 1, since + length + 1))
    assert {seq for seq in range(1, 100) if not reached.lacks(seq)} == has
    lacking = {seq for seq in range(1, end + 1) if seq not in has}
    gaps = reached.gaps(end)
    assert {seq for since, until in gaps for seq in range(since + 1, until + 1)} == lacking
    assert gaps == sorted(gaps)
    assert reached.missing(end) == len(lacking)
    assert reached.newest == max(has, default=0)
    assert ranges_from_log(list(map(list, reached.ranges)), reached.seq) == reached.ranges


def test_only_so_many_ranges_are_kept() -> None:
    reached = Reached(0, tuple((n * 10, n * 10 + 5) for n in range(1, 20)))
    reached.forget_oldest()
    assert len(reached.ranges) == MOST_RANGES - 1
    assert reached.newest == 195


@pytest.mark.parametrize(
    "ranges",
    [None, "x", 7, [7], [[1, 2, 3]], [["1", "2"]], [[3, 8]], [[9, 9]], [[9, 8]], [[6, 9], [8, 12]]],
)
def test_ranges_that_make_no_sense_are_not_believed(ranges: Any) -> None:
    assert ranges_from_log(ranges, 5) == ()
    assert ranges_from_log([[6, 9]], "5-x") == ()
    assert ranges_from_log([[6, 9]], 5) == ((6, 9),)


# --- order -----------------------------------------------------------------------------


async def test_what_is_new_or_urgent_comes_before_the_backlog(
    stores: tuple[Store, Store],
) -> None:
    a, b = stores
    await write(a, "old", OLD)
    await write(a, "alarm", 3, urgent=True)
    await write(a, "older", OLD)
    target = Slow(b)
    replicator = Replicator(LocalPeer(a), target, continuous=True, lanes=True, unasked=Arrivals())
    job = Job("push", replicator, patient=True)
    async with running(replicator):
        await target.reached.wait()
        await write(a, "new", 4)
        await write(a, "alarm-2", 1, urgent=True)
        await until(lambda: replicator.progress.newest_seq == a.update_seq)
        ids = await arrived(b)
        assert {"alarm:00000", "alarm:00002", "new:00003", "alarm-2:00000"} <= set(ids)
        assert len(ids) < OLD
        assert replicator.progress.confirmed_seq < OLD
        assert not replicator.progress.up_to_date
        behind = await job.pending()
        assert behind is not None
        assert OLD < behind < 2 * OLD
        target.goes_on.set()
        await until(lambda: replicator.progress.up_to_date)
        assert replicator.progress.confirmed_seq == a.update_seq
        assert await job.pending() == 0
    ids = await arrived(b)
    assert sorted(ids) == sorted(await arrived(a))
    assert ids.index("alarm:00002") < ids.index("old:02999")
    assert ids.index("new:00003") < ids.index("old:02999")
    assert replicator.progress.docs_written == len(ids)


async def test_urgent_documents_pass_news_that_are_held_up(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await write(a, "old", OLD)

    class Held(Slow):
        async def revs_diff(self, revs: Any) -> Any:
            if any(id.startswith("new") for id in revs):
                self.reached.set()
                await self.goes_on.wait()
            return await super().revs_diff(revs)

    target = Held(b)
    replicator = Replicator(LocalPeer(a), target, continuous=True, lanes=True)
    async with running(replicator):
        await until(lambda: replicator.progress.pending == 0)
        await write(a, "new", 200)
        await target.reached.wait()
        await write(a, "alarm", 1, urgent=True)
        await until(lambda: b.get("alarm:00000"))
        assert await b.get("new:00000") is None
        target.goes_on.set()
        await until(lambda: replicator.progress.up_to_date)
    assert sorted(await arrived(b)) == sorted(await arrived(a))


async def test_with_little_behind_there_is_one_lane(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await write(a, "old", 300)
    await write(a, "alarm", 1, urgent=True)
    replicator = Replicator(LocalPeer(a), LocalPeer(b), continuous=True, lanes=True)
    async with running(replicator):
        await until(lambda: replicator.progress.up_to_date)
        assert replicator.progress.confirmed_seq == 301
    assert await arrived(b) == await arrived(a)


async def test_each_lane_leaves_room_for_those_before_it() -> None:
    async def nothing() -> None:
        """Nobody has to know that a lane waits."""

    room = Room(None, holds=True, holding=nothing)
    room.divide()
    await room.enter(Lane.BACKLOG)
    more = [asyncio.create_task(room.enter(lane)) for lane in (Lane.BACKLOG, Lane.NEWS, Lane.NEWS)]
    await asyncio.wait(more, timeout=0.05)
    assert [task.done() for task in more] == [False, True, False]
    async with asyncio.timeout(PATIENCE):
        await room.enter(Lane.URGENT)
        room.leave(Lane.NEWS)
        await more[2]
        room.leave(Lane.BACKLOG)
        await more[0]


# --- checkpoints -----------------------------------------------------------------------


async def test_another_outage_does_not_repeat_what_the_lanes_have_carried(
    stores: tuple[Store, Store],
) -> None:
    a, b = stores
    await write(a, "old", OLD)
    for outage in range(3):
        target = Slow(b)
        replicator = Replicator(LocalPeer(a), target, continuous=True, lanes=True)
        async with running(replicator):
            await target.reached.wait()
            await write(a, f"new-{outage}", 100)
            await until(partial(carries_the_newest, replicator, a))
        assert replicator.progress.docs_written < OLD
        # What was written while nobody was there is one more gap.
        await write(a, f"away-{outage}", 600)
    log = replicator.checkpoint
    assert log is not None
    assert log.last is not None
    ranges = log.last["history"][0]["ranges"]
    assert ranges == [[3000, 3100], [3700, 3800], [4400, 4500]]
    last = Replicator(LocalPeer(a), LocalPeer(b), continuous=True, lanes=True)
    async with running(last):
        await until(lambda: last.progress.up_to_date)
    assert last.progress.missing_checked == last.progress.docs_written
    assert sorted(await arrived(b)) == sorted(await arrived(a))
    # And everything is one again.
    again = Replicator(LocalPeer(a), LocalPeer(b))
    await again.run()
    assert again.progress.changes_read == 0


async def test_ranges_are_not_believed_of_a_target_that_does_not_know_them(
    stores: tuple[Store, Store], tmp_path: Path
) -> None:
    a, b = stores
    await write(a, "old", OLD)
    target = Slow(b)
    replicator = Replicator(LocalPeer(a), target, continuous=True, lanes=True)
    async with running(replicator):
        await target.reached.wait()
        await write(a, "new", 10)
        await until(lambda: replicator.progress.newest_seq == a.update_seq)
    new = await Store.open(tmp_path / "new.sqlite")
    other = LocalPeer(new)
    other.identity = target.identity  # another database at the same address
    last = Replicator(LocalPeer(a), other, continuous=True, lanes=True)
    async with running(last):
        await until(lambda: last.progress.up_to_date)
    assert last.progress.docs_written == OLD + 10
    assert sorted(await arrived(new)) == sorted(await arrived(a))
    await new.close()


# --- anything may fail -----------------------------------------------------------------


class Mortal(FaultyPeer):
    """A side that is gone, as the other one is, after so many calls: no last checkpoint then."""

    calls_left: list[int]

    def _maybe_fail(self) -> None:
        self.calls_left[0] -= 1
        if self.calls_left[0] < 0:
            raise ConnectError("gone")
        super()._maybe_fail()


async def work(
    replicator: Replicator, task: asyncio.Task[None], source: Mortal, calls: int
) -> None:
    """Let it make so many calls of its two sides, unless it has nothing to do."""
    left = source.calls_left[0] - calls
    while not (task.done() or source.calls_left[0] <= left or replicator.progress.up_to_date):
        await asyncio.sleep(0.001)


async def edit_at_random(store: Store, rng: random.Random, known: dict[str, Rev]) -> None:
    edits = []
    for id in {f"doc:{rng.randrange(3000):04}" for _ in range(rng.randint(1, 40))}:
        body = {"by": rng.random(), **({"urgent": True} if rng.random() < 0.1 else {})}
        text = msgspec.json.encode(body).decode()
        edits.append(Edit(id, known.get(id), False, text, canonical(body)))
    for edit, rev in zip(edits, await store.edit(edits), strict=True):
        assert rev is not None
        known[edit.id] = rev


async def contents(store: Store) -> dict[str, Any]:
    documents = (await store.changes(0, limit=100_000)).documents
    leaves = [(document.id, [str(leaf) for leaf in document.leaves()]) for document in documents]
    return {
        document.id: (str(document.rev), document.deleted, document.conflicts, revisions)
        for document, revisions in zip(documents, await store.revisions(leaves), strict=True)
    }


def back_up(file: Path, backup: Path) -> None:
    """Copy a store that is in use."""
    with (
        contextlib.closing(sqlite3.connect(file)) as here,
        contextlib.closing(sqlite3.connect(backup)) as there,
    ):
        here.backup(there)


@pytest.mark.parametrize("seed", range(12))
async def test_cuts_crashes_and_restored_targets_lose_nothing(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.replication.replicator.FAR_BEHIND", 5)
    rng = random.Random(seed)
    file, backup = tmp_path / "b.sqlite", tmp_path / "backup.sqlite"
    a, b = await Store.open(tmp_path / "a.sqlite"), await Store.open(file)
    known: dict[str, Rev] = {}
    ranges = 0
    for _ in range(25):
        await edit_at_random(a, rng, known)
        source = Mortal(a, rng, rate=0)
        target = Mortal(b, rng, rate=rng.choice((0, 0.1)))
        source.calls_left = target.calls_left = [rng.randint(5, 120)]
        replicator = Replicator(
            source, target, continuous=True, lanes=True, batch_size=7, checkpoint_interval=0.01
        )
        async with running(replicator) as task:
            for _ in range(rng.randint(1, 6)):
                await work(replicator, task, source, rng.randint(0, 12))
                await edit_at_random(a, rng, known)
                if rng.random() < 0.15:
                    await asyncio.to_thread(back_up, file, backup)
        log = replicator.checkpoint
        ranges += log is not None and bool((log.last or {}).get("history", [{}])[0].get("ranges"))
        if backup.exists() and rng.random() < 0.3:  # an older state comes back
            await b.close()
            shutil.copyfile(backup, file)
            b = await Store.open(file)
    assert ranges > 0  # lanes went ahead, and said so
    last = Replicator(LocalPeer(a), LocalPeer(b), continuous=True, lanes=True)
    async with running(last):
        await until(lambda: last.progress.confirmed_seq == a.update_seq)
    assert await contents(a) == await contents(b)
    await asyncio.gather(a.close(), b.close())
