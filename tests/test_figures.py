"""The figures of an agent, as far as a running one does not show them at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from agent.documents.revision import first_revision
from agent.documents.times import timestamp
from agent.errors import EdgeAgentError
from agent.figures import Figures, HubFigures, system
from agent.peers.local import LocalPeer
from agent.replication.job import Job
from agent.replication.replicator import Replicator
from agent.store.databases import Databases
from agent.store.store import Store
from tests.sensors.recording import line, recording
from tests.store.helpers import put


@pytest.fixture
async def store(tmp_path: Path) -> Store:
    return await Store.open(tmp_path / "db.sqlite")


def figures_of(store: Store) -> tuple[Figures, Job]:
    """With one remote, `r`, whose push has not begun."""
    peer = LocalPeer(store)
    job = Job("r push", Replicator(peer, peer), patient=True)
    return Figures(store, [], {"r": (peer, {"push": job})}), job


async def told(figures: Figures, pending: int | None) -> Any:
    """Of the push."""
    known = {"name": "r", "push": {"pending": pending, "state": "live"}}
    told = (await figures.of_remote(known))["push"]
    assert told["state"] == "live"
    return told


async def test_the_age_of_what_waits_since_before_the_start(store: Store) -> None:
    at = timestamp(int((time.time() - 3600) * 1_000_000))
    body = {"type": "reading", "device": "d", "sensor": "t", "time": at, "value": 1}
    await store.graft([first_revision(f"d:t:{at}:0", body)])
    figures, _ = figures_of(store)
    assert (await told(figures, 1))["backlog_seconds"] == pytest.approx(3600, abs=60)
    assert (await told(figures, 0))["backlog_seconds"] == 0
    assert (await told(figures, None))["backlog_seconds"] is None
    await store.close()


async def test_the_age_of_another_document_from_before_is_not_known(store: Store) -> None:
    await put(store, "a", value=1)
    figures, job = figures_of(store)
    assert (await told(figures, 1))["backlog_seconds"] is None
    figures._passages.note(store.update_seq)
    job.progress.confirmed_seq = store.update_seq
    await put(store, "b", value=1)
    figures._passages.note(store.update_seq)
    assert (await told(figures, 1))["backlog_seconds"] == pytest.approx(0, abs=60)
    await store.close()


async def test_a_clock_that_is_set_makes_nothing_older(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, job = figures_of(store)
    figures._passages.note(store.update_seq)
    await put(store, "a", value=1)
    figures._passages.note(store.update_seq)
    job.progress.confirmed_seq, job.progress.pending = 0, 0
    job.progress.note_up_to_date()
    years = 50 * 365 * 86_400
    for clock in (time.time() + years, time.time() - years):
        monkeypatch.setattr(time, "time", lambda at=clock: at)
        assert (await told(figures, 1))["backlog_seconds"] < 10
        lag = job.lag()
        assert lag is not None
        assert 0 < lag < 10
    await store.close()


async def test_the_time_to_drain(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, _ = figures_of(store)
    rates = dict.fromkeys(figures._rates.now(), 0.0)
    monkeypatch.setattr(figures._rates, "now", lambda: rates)
    assert (await told(figures, 0))["drain_seconds"] == 0
    assert (await told(figures, 100))["drain_seconds"] is None
    rates["push r"] = 10.0
    assert (await told(figures, 100))["drain_seconds"] == 10
    rates["changes"] = 8.0  # come meanwhile
    assert (await told(figures, 100))["drain_seconds"] == 50
    rates["changes"] = 10.0
    assert (await told(figures, 100))["drain_seconds"] is None
    assert (await told(figures, None))["drain_seconds"] is None
    await store.close()


async def test_what_was_lost_before_the_start_is_not_news(store: Store) -> None:
    for numbers, known in (((1, 4), 2), ((9,), 4)):
        async with recording(store) as recorder:
            for number in numbers:
                await recorder.feed(line(seq=number, t=1))
            await recorder.drain()
            assert recorder.lost_since_start == known
    assert recorder.state.lost == 6
    await store.close()


async def test_what_comes_into_a_hub(tmp_path: Path) -> None:
    databases = Databases(tmp_path)
    figures = HubFigures(databases.tally, lambda: 3)
    for name in ("a", "b"):
        await put(await databases.create(name), "edited here", value=1)
    store = await databases.get("a")
    brought = [first_revision("brought", {})]
    await store.graft(brought)
    await store.graft(brought)  # the answer was lost
    store.refusal = "full"
    with pytest.raises(EdgeAgentError):
        await store.graft([first_revision("no room", {})])
    counts = {stage: told["count"] for stage, told in figures.pipeline().items()}
    assert counts == {"detect": 3, "transfer": 3, "confirm": 2, "process": 3}
    await databases.close()


def test_the_system(tmp_path: Path) -> None:
    assert all(value is not None for value in system(tmp_path).values())
    assert system(None)["disk_free"] is None
