"""A day's bytes: who stops when, what is kept over restarts, and clocks that are wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.documents.revision import first_revision
from agent.errors import EdgeAgentError
from agent.peers.local import LocalPeer
from agent.replication.budget import SHARES, Budget
from agent.replication.job import Job, State
from agent.replication.lanes import Lane
from agent.replication.replicator import Replicator
from agent.store.store import Store
from tests.patience import until

DAY = 86_400
LIMIT = 1_000_000


@dataclass
class World:
    """A clock, the time that the program has run, and what the link has carried since its start."""

    clock: float = 20_000.5 * DAY
    running: float = 0.0
    sent: int = 0

    def budget(self, store: Store) -> Budget:
        """What a program that starts now has."""
        self.sent = 0
        return Budget(
            "cloud",
            LIMIT,
            store,
            lambda: (self.sent, 0),
            clock=lambda: self.clock,
            monotonic=lambda: self.running,
        )

    def passes(self, seconds: float) -> None:
        self.clock += seconds
        self.running += seconds


async def admitted(budget: Budget) -> list[str]:
    return [str(lane) for lane in Lane if await budget.admits(lane)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "a.sqlite")
    yield store
    await store.close()


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.replication.budget._LOOK", 0.01)


async def test_lanes_stop_one_after_the_other_until_the_next_day(store: Store) -> None:
    world = World()
    budget = world.budget(store)
    assert await admitted(budget) == ["urgent", "news", "backlog"]
    world.sent = 600_000
    assert await admitted(budget) == ["urgent", "news"]
    world.sent = 900_000
    assert await admitted(budget) == ["urgent"]
    world.sent = LIMIT
    assert await admitted(budget) == []
    assert budget.until == 20_001 * DAY
    waiting = asyncio.create_task(budget.wait(Lane.BACKLOG))
    world.passes(DAY / 2 - 1)
    await asyncio.sleep(0.03)
    assert not waiting.done()
    world.passes(1)
    await waiting
    assert budget.used == 0
    assert await admitted(budget) == ["urgent", "news", "backlog"]


async def test_what_was_used_is_kept(store: Store) -> None:
    world = World()
    budget = world.budget(store)
    world.sent = 500_000
    await budget.admits(Lane.NEWS)
    world.sent = 505_000  # killed before it was written
    assert 505_000 <= world.budget(store).used <= 515_000
    budget = world.budget(store)
    world.sent = 300_000
    assert await admitted(budget) == ["urgent", "news"]
    used = budget.used
    await budget.close()
    assert world.budget(store).used == used
    world.passes(DAY)
    assert world.budget(store).used == 0


async def test_it_is_written_some_hundred_times_a_day_at_most(store: Store) -> None:
    world = World()
    budget = world.budget(store)
    writes = 0
    keep = store.set_setting

    async def counted(name: str, value: Any) -> None:
        nonlocal writes
        writes += 1
        await keep(name, value)

    store.set_setting = counted  # type: ignore[method-assign]
    for sent in range(0, LIMIT, 500):
        world.sent = sent
        await budget.admits(Lane.URGENT)
    assert 50 < writes <= 101


async def test_a_clock_that_is_set_back_makes_no_bytes(store: Store) -> None:
    world = World()
    budget = world.budget(store)
    world.sent = LIMIT
    await budget.admits(Lane.URGENT)
    world.clock = 0  # a machine without a battery for its clock
    assert await admitted(budget) == []
    assert budget.until == DAY
    # Nor does a restart then, until the clock is right again and the day is over.
    budget = world.budget(store)
    assert await admitted(budget) == []
    world.passes(DAY / 2)
    assert await admitted(budget) == []
    world.clock = 20_001 * DAY
    assert await admitted(budget) == ["urgent", "news", "backlog"]


async def test_a_clock_that_was_in_the_future_stops_nobody_for_long(store: Store) -> None:
    world = World(clock=90_000 * DAY)
    budget = world.budget(store)
    world.sent = LIMIT
    await budget.admits(Lane.URGENT)
    world.clock = 20_000 * DAY
    assert await admitted(budget) == []
    world.passes(DAY - 1)
    assert await admitted(budget) == []
    world.passes(1)
    assert await admitted(budget) == ["urgent", "news", "backlog"]


async def test_a_clock_that_jumps_ahead_makes_two_days_at_most(store: Store) -> None:
    world = World()
    budget = world.budget(store)
    carried = 0
    for _ in range(50):
        world.clock += 3 * DAY
        world.running += 60
        if await budget.admits(Lane.BACKLOG):
            world.sent += LIMIT
            carried += LIMIT
    assert carried == 2 * LIMIT
    world.passes(DAY)
    assert await budget.admits(Lane.BACKLOG)


async def test_a_kept_value_that_makes_no_sense_counts_for_nothing(store: Store) -> None:
    await store.set_setting("budget:cloud", {"day": "x"})
    assert World().budget(store).used == 0


# --- a replication with a budget -------------------------------------------------------


class Metered(LocalPeer):
    """Stands in for a remote whose link is paid for by the byte."""

    def __init__(self, store: Store, world: World) -> None:
        super().__init__(store)
        self.world = world

    async def store(self, revisions: Any, contents: Any = None) -> Any:
        self.world.sent += sum(len(revision.body) for revision in revisions)
        return await super().store(revisions, contents)

    async def fetch(self, wanted: Any) -> Any:
        found = await super().fetch(wanted)
        self.world.sent += sum(len(revision.body) for revision in found)
        return found


async def write(store: Store, prefix: str, count: int, **body: Any) -> None:
    text = "x" * 1000
    await store.graft(
        [first_revision(f"{prefix}:{n:05}", {"text": text, **body}) for n in range(count)]
    )


@contextlib.asynccontextmanager
async def running(job: Job) -> AsyncIterator[None]:
    task = asyncio.create_task(job.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, EdgeAgentError):
            await task


def has_sent(world: World, count: float) -> bool:
    return world.sent >= count


PIECE = LIMIT // 50 + 1100
"""What may go beyond: a piece, and a document more."""


async def test_a_push_sends_what_goes_first_and_the_rest_on_other_days(
    store: Store, tmp_path: Path
) -> None:
    there = await Store.open(tmp_path / "b.sqlite")
    world = World()
    budget = world.budget(store)
    await write(store, "old", 1500)
    target = Metered(there, world)
    replicator = Replicator(LocalPeer(store), target, continuous=True, lanes=True, budget=budget)
    job = Job("push", replicator, patient=True)
    async with running(job):
        await until(lambda: Lane.BACKLOG in replicator.held)
        backlog = SHARES[Lane.BACKLOG] * LIMIT
        assert backlog <= world.sent <= backlog + PIECE
        await write(store, "new", 100)
        await until(lambda: there.get("new:00099"))
        await write(store, "more", 500)
        await until(lambda: job.state is State.HELD)
        news = SHARES[Lane.NEWS] * LIMIT
        assert news <= world.sent <= news + PIECE
        # Kept before it waits: a power cut now would cost nothing.
        assert replicator.recorded == replicator.progress.confirmed_seq
        await write(store, "alarm", 10, urgent=True)
        await until(lambda: there.get("alarm:00009"))
        assert job.state is State.HELD
        await write(store, "alarm-2", 150, urgent=True)
        await until(lambda: Lane.URGENT in replicator.held)
        assert LIMIT <= world.sent <= LIMIT + PIECE
        lanes = await job.lanes()
        assert lanes[Lane.BACKLOG] > 500
        assert lanes[Lane.URGENT] > 20
        for _ in range(2):
            before = world.sent
            world.passes(DAY)
            await until(partial(has_sent, world, before + backlog))
            await until(lambda: Lane.BACKLOG in replicator.held)
            assert world.sent <= before + LIMIT + PIECE
        world.passes(DAY)
        await until(lambda: job.state is State.LIVE)
    assert (await there.info()).doc_count == (await store.info()).doc_count
    assert replicator.progress.docs_written == (await store.info()).doc_count
    await there.close()


async def test_a_pull_ends_for_the_day(store: Store, tmp_path: Path) -> None:
    there = await Store.open(tmp_path / "b.sqlite")
    world = World()
    await write(there, "doc", 1500)
    source = Metered(there, world)
    replicator = Replicator(
        source, LocalPeer(store), continuous=True, budget=world.budget(store), create_source=True
    )
    job = Job("pull", replicator, patient=True)
    async with running(job):
        await until(lambda: job.state is State.HELD)
        news = SHARES[Lane.NEWS] * LIMIT
        assert news <= world.sent <= news + PIECE
        assert job.last_error is None
        assert "used up" in str(job.events[-2].reason)
        world.passes(DAY)
        await until(lambda: job.state is State.LIVE)
    assert (await store.info()).doc_count == 1500
    assert replicator.progress.docs_written == 1500
    await there.close()
