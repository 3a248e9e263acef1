"""What keeps a replication going."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.documents.revision import first_revision
from agent.errors import AuthError, ConnectError, StoreWriteError
from agent.peers.local import LocalPeer
from agent.peers.peer import ChangeBatch, PeerInfo, Seq
from agent.replication.job import Job, State
from agent.replication.replicator import Replicator
from agent.store.store import Store
from tests.patience import PATIENCE, until
from tests.replication.faulty import FaultyPeer


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    a, b = await Store.open(tmp_path / "a.sqlite"), await Store.open(tmp_path / "b.sqlite")
    await a.graft([first_revision(f"r{n}", {"n": n}) for n in range(30)])
    yield a, b
    await asyncio.gather(a.close(), b.close())


class Refusing(LocalPeer):
    """Stands in for a remote that does not let us in."""

    refuses = True

    async def info(self) -> PeerInfo:
        if self.refuses:
            raise AuthError("remote: wrong password", status=401)
        return await super().info()


class Away(LocalPeer):
    """Stands in for a remote that cannot be reached."""

    away = True

    async def info(self) -> PeerInfo:
        if self.away:
            raise ConnectError("remote: connection refused", retry_after=0.01)
        return await super().info()


@contextlib.asynccontextmanager
async def running(job: Job) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(job.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until_state(job: Job, state: State) -> None:
    await until(lambda: job.state is state, f"{state}", every=0.005)


async def test_an_impatient_job_gives_up_at_once_without_contact(
    stores: tuple[Store, Store],
) -> None:
    a, b = stores
    for peer, error in ((Refusing(b), AuthError), (Away(b), ConnectError)):
        job = Job("test", Replicator(LocalPeer(a), peer), patient=False)
        with pytest.raises(error):
            await job.run()
        assert job.state is State.STOPPED


async def test_an_impatient_job_survives_a_bad_line(stores: tuple[Store, Store]) -> None:
    a, b = stores
    far = FaultyPeer(b, random.Random(5), rate=0)
    job = Job("test", Replicator(LocalPeer(a), far, batch_size=3), patient=False, retry_cap=0.01)
    connected = job._connected

    def then_break() -> None:
        connected()
        far.rate = 0.2

    job._connected = then_break  # type: ignore[method-assign]
    await job.run()
    assert far.failed > 0
    assert (await b.info()).doc_count == 30


class Full(LocalPeer):
    """Stands in for a remote whose disk is full."""

    full = True

    def check(self) -> None:
        if self.full:
            raise StoreWriteError("remote: the disk is full")

    async def store(self, revisions: Any, contents: Any = None) -> Any:
        self.check()
        return await super().store(revisions, contents)

    async def put_local(self, id: str, doc: Any) -> str:
        self.check()
        return await super().put_local(id, doc)


async def test_an_impatient_job_gives_up_when_nothing_gets_through(
    stores: tuple[Store, Store],
) -> None:
    a, b = stores
    job = Job("test", Replicator(LocalPeer(a), Full(b)), patient=False, retry_cap=0.01)
    with pytest.raises(StoreWriteError):
        await job.run()
    assert [event.type for event in job.events].count("started") == 6


async def test_a_patient_job_waits_longer_and_longer_while_nothing_gets_through(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.backoff.RETRY_BASE", 0.01)
    monkeypatch.setattr("agent.backoff.random.Random.uniform", lambda _, low, high: high)
    a, b = stores
    remote = Full(b)
    replicator = Replicator(LocalPeer(a), remote, continuous=True, batch_size=10)
    job = Job("test", replicator, patient=True)
    seen: list[str | None] = []
    connected = job._connected

    def watched() -> None:
        connected()
        seen.append(job.last_error)

    job._connected = watched  # type: ignore[method-assign]
    async with running(job):
        await until(lambda: job.error_count >= 6)
        assert job.last_error == "remote: the disk is full"
        starts = [event.time for event in job.events if event.type == "started"]
        waits = [later - earlier for earlier, later in pairwise(starts)]
        for number, wait in enumerate(waits):
            assert wait >= 0.01 * 2**number
        remote.full = False
        await until_state(job, State.LIVE)
        assert job.last_error is None
        assert job.error_count == 0
    # The error stays in the status until something has got through.
    first, *others = seen
    assert first is None
    assert others == ["remote: the disk is full"] * len(others)
    assert len(others) >= 6


async def test_a_job_is_live_only_while_changes_get_through(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.replication.job._LIVE_LAG", 0.2)
    a, b = stores
    answers = asyncio.Event()
    answers.set()

    class Silent(LocalPeer):
        async def revs_diff(self, revs: Any) -> Any:
            await answers.wait()
            return await super().revs_diff(revs)

    replicator = Replicator(LocalPeer(a), Silent(b), continuous=True)
    job = Job("test", replicator, patient=True)
    async with running(job):
        await until_state(job, State.LIVE)
        await asyncio.sleep(0.3)
        assert (job.state, job.lag()) == (State.LIVE, 0)
        answers.clear()
        await a.graft([first_revision("new", {})])
        await until_state(job, State.CATCHING_UP)
        lag = job.lag()
        assert lag is not None
        assert 0.2 <= lag < PATIENCE
        answers.set()
        await until_state(job, State.LIVE)


async def test_a_patient_job_waits_reports_and_goes_live(stores: tuple[Store, Store]) -> None:
    a, b = stores
    remote = Away(b)
    job = Job(
        "test",
        Replicator(LocalPeer(a), remote, continuous=True),
        patient=True,
        retry_cap=0.02,
    )
    assert job.state is State.STARTING
    async with running(job):
        await until_state(job, State.WAITING)
        assert job.last_error == "remote: connection refused"
        assert job.lag() is None
        assert await job.pending() == 30
        remote.away = False
        await until_state(job, State.LIVE)
        assert job.last_error is None
        assert job.lag() == 0
        assert await job.pending() == 0
        assert job.progress.last_confirmed is not None
    assert job.state is State.STOPPED


async def test_a_patient_job_tries_again_after_a_permanent_error(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.backoff.PERMANENT_CAP", 0.02)
    a, b = stores
    remote = Refusing(b)
    replicator = Replicator(LocalPeer(a), remote, continuous=True)
    job = Job("test", replicator, patient=True, retry_cap=0.01)
    async with running(job):
        await until_state(job, State.FAILED)
        assert job.last_error == "remote: wrong password"
        remote.refuses = False
        await until_state(job, State.LIVE)


class Breaking(LocalPeer):
    """Stands in for a remote whose line breaks."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.broken = asyncio.Event()

    async def changes(self, since: Seq, **options: Any) -> AsyncGenerator[ChangeBatch, None]:
        await self.broken.wait()
        raise ConnectError("the line broke", retry_after=0.01)
        yield  # which makes it a generator


async def test_a_line_that_breaks_while_it_is_stopped_does_not_keep_it_going(
    stores: tuple[Store, Store],
) -> None:
    source = Breaking(stores[0])
    job = Job("test", Replicator(source, LocalPeer(stores[1]), continuous=True), patient=True)
    async with asyncio.timeout(PATIENCE), running(job) as task:
        await until_state(job, State.CATCHING_UP)
        source.broken.set()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert job.state is State.STOPPED
