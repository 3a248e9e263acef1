"""A remote that is restored from a backup while replications run, without their being told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.documents.revision import Rev, first_revision
from agent.errors import ConnectError
from agent.peers.local import LocalPeer
from agent.peers.peer import ChangeBatch, Ordered, Seq
from agent.replication.arrivals import Arrivals
from agent.replication.job import Job
from agent.replication.replicator import Replicator
from agent.replication.witnesses import MOST_WITNESSES, Past, Witnesses
from agent.store.store import Store
from tests.patience import until
from tests.replication.test_lanes import contents, edit_at_random
from tests.store.helpers import edit


class Remote(LocalPeer):
    """Stands in for a remote: a store that can be set back between any two calls.

    `calls` counts them, each of which is a request.
    """

    urgent_changes = None  # type: ignore[assignment]

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        assert not isinstance(self, Ordered)
        self.present = store
        self.calls: Counter[str] = Counter()
        self.asked: list[int] = []
        """How many documents each question was about."""
        self.feed_breaks = False
        """Whether it ends its feeds when it is restored; or they go on, as behind some proxies."""
        self._copies = 0
        self.history = asyncio.Lock()
        """Held while a backup is made or put in place: each is of the history that is."""

    async def back_up(self) -> Path:
        """Copy it while it is in use."""
        async with self.history:
            self._copies += 1
            backup = self.present.path.with_suffix(f".{self._copies}")
            await asyncio.to_thread(_copy, self.present.path, backup)
            return backup

    async def restore(self, backup: Path) -> None:
        """Put an older state in its place, between any two calls."""
        async with self.history:
            await self.put_in_place(backup)

    async def put_in_place(self, backup: Path) -> None:
        self._copies += 1
        file = backup.with_suffix(f".{self._copies}")
        await asyncio.to_thread(shutil.copyfile, backup, file)
        old, new = self.present, await Store.open(file)
        self._store = self.present = new
        await old.close()

    async def called(self, name: str) -> None:
        self.calls[name] += 1

    async def changes(self, since: Seq, **options: Any) -> AsyncGenerator[ChangeBatch, None]:
        await self.called("changes")
        store = self._store
        if since > store.update_seq:  # as a hub does it
            since = 0
        async for batch in super().changes(since, **options):
            if self.feed_breaks and store is not self._store:
                raise ConnectError("the feed has ended")
            yield batch

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        await self.called("revs_diff")
        self.asked.append(len(revs))
        return await super().revs_diff(revs)

    async def fetch(self, wanted: Any) -> Any:
        await self.called("fetch")
        return await super().fetch(wanted)

    async def store(self, revisions: Any, contents: Any = None) -> Any:
        await self.called("store")
        return await super().store(revisions, contents)

    async def get_local(self, id: str) -> dict[str, Any] | None:
        await self.called("get_local")
        return await super().get_local(id)

    async def put_local(self, id: str, doc: Mapping[str, Any]) -> str:
        await self.called("put_local")
        return await super().put_local(id, doc)

    async def ensure_full_commit(self) -> str:
        await self.called("ensure_full_commit")
        return await super().ensure_full_commit()


def _copy(file: Path, backup: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(file)) as here,
        contextlib.closing(sqlite3.connect(backup)) as there,
    ):
        here.backup(there)


class Ends:
    """A store here, a remote, and the replications between them, by their direction."""

    def __init__(self, here: Store, remote: Remote) -> None:
        self.here = here
        self.remote = remote
        self.arrivals = Arrivals()
        self.jobs: dict[str, Job] = {}

    def replicator(self, direction: str, **options: Any) -> Replicator:
        local = LocalPeer(self.here)
        if direction == "push":
            options = {"unasked": self.arrivals, "lanes": True, **options}
            return Replicator(local, self.remote, continuous=True, **options)
        options = {"brought": self.arrivals, **options}
        return Replicator(self.remote, local, continuous=True, **options)

    @contextlib.asynccontextmanager
    async def running(self, *directions: str, **options: Any) -> AsyncIterator[dict[str, Job]]:
        options = {"past": Past(), **options}
        jobs = {
            each: Job(each, self.replicator(each, **options), patient=True, retry_cap=0.02)
            for each in directions
        }
        tasks = [asyncio.create_task(job.run()) for job in jobs.values()]
        try:
            yield jobs
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def origin(self, direction: str) -> Store:
        return self.here if direction == "push" else self.remote.present

    async def carry(self, direction: str) -> None:
        """Carry everything once, up to a checkpoint."""
        replicator = self.replicator(direction, lanes=False)
        replicator.continuous = False
        await replicator.run()

    async def have(self, count: int) -> bool:
        """Whether each has so many documents."""
        counts = {(await each.info()).doc_count for each in (self.here, self.remote.present)}
        return counts == {count}

    async def equal(self) -> bool:
        return await contents(self.here) == await contents(self.remote.present)


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[Ends]:
    here, there = [await Store.open(tmp_path / name) for name in ("here", "remote")]
    ends = Ends(here, Remote(there))
    yield ends
    await asyncio.gather(ends.here.close(), ends.remote.present.close())


async def write(store: Store, prefix: str, count: int) -> None:
    await store.graft([first_revision(f"{prefix}:{n:05}", {"n": n}) for n in range(count)])


# --- what came after the latest checkpoint --------------------------------------------------


@pytest.mark.parametrize("more", [0, 1, 50], ids=["idle", "one more", "many more"])
async def test_what_was_pushed_after_the_backups_checkpoint_is_missed(
    ends: Ends, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is in the backup, so it does not tell; nor has any request failed."""
    late = 2.0  # seconds, in which all is done up to the restoring
    monkeypatch.setattr("agent.replication.pace._FIRST", late)
    await write(ends.here, "before", 20)
    await ends.carry("push")
    backup = await ends.remote.back_up()
    async with ends.running("push", checkpoint_interval=late) as jobs:
        await until(lambda: jobs["push"].progress.up_to_date)
        for part in range(3):
            await write(ends.here, f"after-{part}", 10)
            await until(lambda: jobs["push"].progress.confirmed_seq == ends.here.update_seq)
        await ends.remote.restore(backup)
        await write(ends.here, "more", more)
        await until(ends.equal)
        assert jobs["push"].errors == 1
    [crash] = [event for event in jobs["push"].events if event.type == "crashed"]
    assert "was there and has gone, so the database was probably restored" in str(crash.reason)


async def test_what_a_pull_has_read_after_the_backups_checkpoint_is_read_again(
    ends: Ends,
) -> None:
    """The restored remote gives its sequences once more, to other documents."""
    await write(ends.remote.present, "before", 20)
    await ends.carry("pull")
    backup = await ends.remote.back_up()
    async with ends.running("pull", checkpoint_interval=0.5) as jobs:
        await until(lambda: jobs["pull"].progress.up_to_date)
        await write(ends.remote.present, "lost", 30)
        await until(lambda: jobs["pull"].progress.docs_written == 30)
        await ends.remote.restore(backup)
        await write(ends.remote.present, "new", 10)
        await until(lambda: jobs["pull"].progress.docs_written == 40)
        assert jobs["pull"].errors == 1
    await ends.carry("push")
    assert await ends.equal()
    assert (await ends.here.info()).doc_count == 60


async def test_a_witness_is_not_hidden_by_its_successor(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later revision brings its ancestors, but not what was lost with them."""
    late = 2.0
    monkeypatch.setattr("agent.replication.pace._FIRST", late)
    await write(ends.here, "doc", 10)
    async with ends.running("push", checkpoint_interval=late) as jobs:
        await until(lambda: jobs["push"].progress.confirmed_seq == 10)
        backup = await ends.remote.back_up()
        last = [f"doc:{n:05}" for n in range(4, 10)]
        await ends.here.edit([edit(id, await rev(ends, id), by="here") for id in last])
        await until(lambda: jobs["push"].progress.confirmed_seq == ends.here.update_seq)
        await ends.remote.restore(backup)
        await ends.here.edit([edit(last[-1], await rev(ends, last[-1]), by="here again")])
        await until(ends.equal)
        assert jobs["push"].errors == 1


class Sending(Remote):
    """Is set back while a push asks whether it has what a pull has just brought from there."""

    backup: Path | None = None
    restored = False

    async def pulled(self) -> None:
        """Wait until the pull has come to the point in question."""

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        if self.backup is not None and any(id.startswith("there") for id in revs):
            backup, self.backup = self.backup, None
            await self.pulled()
            await self.restore(backup)
            await write(self.present, "new", 3)  # at sequences at which others were
            self.restored = True
        return await super().revs_diff(revs)


@pytest.mark.parametrize("recorded", [False, True], ids=["before a checkpoint", "after one"])
async def test_what_a_push_gives_back_is_no_witness_for_a_pull(
    ends: Ends, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed goes on where the sequences are others, and what it has told of is there again."""
    late = 0.1 if recorded else 5.0
    monkeypatch.setattr("agent.replication.pace._FIRST", late)
    ends.remote = remote = Sending(ends.remote.present)
    await write(remote.present, "before", 20)
    async with ends.running("push", "pull", checkpoint_interval=late) as jobs:
        if recorded:
            pull = jobs["pull"].replicator
            remote.pulled = lambda: until(lambda: pull.recorded == 26)  # type: ignore[method-assign]
        await until(lambda: all(job.progress.up_to_date for job in jobs.values()))
        remote.backup = await remote.back_up()
        await write(remote.present, "there", 6)
        await until(lambda: remote.restored)
        await until(lambda: ends.have(20 + 6 + 3))
        await until(ends.equal)
        assert [job.errors for job in jobs.values()] == [1, 1]


async def test_a_pulls_witness_is_not_hidden_by_what_is_made_of_it_here(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 2.0
    monkeypatch.setattr("agent.replication.pace._FIRST", late)
    async with ends.running("push", "pull", checkpoint_interval=late) as jobs:
        await until(lambda: all(job.progress.up_to_date for job in jobs.values()))
        backup = await ends.remote.back_up()
        await write(ends.remote.present, "there", 1)
        await until(lambda: jobs["push"].progress.confirmed_seq == ends.here.update_seq == 1)
        await ends.remote.restore(backup)
        await write(ends.remote.present, "new", 1)  # at the sequence at which the other one was
        await ends.here.edit([edit("there:00000", await rev(ends, "there:00000"), by="here")])
        await until(lambda: ends.have(2))
        await until(ends.equal)
        assert [job.errors for job in jobs.values()] == [1, 1]


# --- while nothing happens ------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch looks each second, and not every 30."""
    monkeypatch.setattr("agent.replication.replicator._WATCH_INTERVAL", 0.1)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("direction", ["push", "pull"])
async def test_an_idle_replication_notices_it(ends: Ends, direction: str, restarted: bool) -> None:
    """Also one that has carried nothing since its start: the log has a witness."""
    await write(ends.origin(direction), "before", 10)
    await ends.carry(direction)
    backup = await ends.remote.back_up()
    if restarted:
        await write(ends.origin(direction), "after", 10)
        await ends.carry(direction)
    async with ends.running(direction, checkpoint_interval=0.1) as jobs:
        await until(lambda: jobs[direction].progress.up_to_date)
        if not restarted:
            await write(ends.origin(direction), "after", 10)
            await until(lambda: jobs[direction].replicator.recorded == 20)
        await ends.remote.restore(backup)
        await until(lambda: jobs[direction].errors == 1)
        if direction == "push":
            await until(ends.equal)
        else:  # what it reads now has sequences that it has read before
            await write(ends.remote.present, "new", 5)
            await until(lambda: jobs[direction].progress.docs_written >= 5 + 10 * (not restarted))


@pytest.mark.usefixtures("often")
async def test_a_witness_that_was_purged_after_the_checkpoint_is_no_restored_remote(
    ends: Ends,
) -> None:
    async with ends.running("push", checkpoint_interval=0.1) as jobs:
        await write(ends.here, "doc", 3)
        await until(lambda: jobs["push"].replicator.recorded == 3)
        purged = {"doc:00002": [Rev.parse(await rev(ends, "doc:00002"))]}
        ends.remote.calls.clear()
        await ends.remote.present.purge(purged)
        await until(lambda: ends.remote.calls["get_local"] == 1)
        ends.remote.calls.clear()
        await until(lambda: ends.remote.calls["ensure_full_commit"] >= 3)
        # The log was read once, and then there is nothing to ask about.
        assert ends.remote.calls["revs_diff"] == ends.remote.calls["get_local"] == 0
        await write(ends.here, "more", 1)
        await until(lambda: jobs["push"].replicator.recorded == 4)
        assert jobs["push"].errors == 0
    assert (await ends.remote.present.info()).doc_count == 3


async def rev(ends: Ends, id: str) -> str:
    document = await ends.here.get(id)
    assert document is not None
    return str(document.rev)


class Forgetful(Remote):
    """Takes everything, and keeps no readings: they are purged, or its retention deletes them."""

    async def store(self, revisions: Any, contents: Any = None) -> Any:
        results = await super().store(revisions, contents)
        gone = {each.id: [each.rev] for each in revisions if each.id.startswith("reading")}
        await self.present.purge(gone)
        return results


async def test_a_remote_that_does_not_keep_what_it_takes_is_no_endless_loop(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    ends.remote = Forgetful(ends.remote.present)
    async with ends.running("push", checkpoint_interval=0.05) as jobs:
        for part in range(5):
            await write(ends.here, f"reading-{part}", 3)
            await until(lambda: jobs["push"].replicator.recorded == ends.here.update_seq)
        assert jobs["push"].errors == 2
    assert (await ends.remote.present.info()).doc_count == 0
    [warning] = [each for each in caplog.records if "is it purged there" in each.message]
    assert warning.levelno == logging.WARNING
    assert "edge-agent verify --repair" in warning.message


# --- what it costs --------------------------------------------------------------------------


async def test_a_checkpoint_takes_one_question_more(ends: Ends) -> None:
    """Also where thousands were carried: one or two documents for each answer are asked for."""
    await write(ends.here, "before", 4000)
    async with ends.running("push", checkpoint_interval=0.3, lanes=False) as jobs:
        await until(lambda: jobs["push"].replicator.recorded == 4000)
        ends.remote.calls.clear()
        ends.remote.asked.clear()
        for n in range(10):
            await write(ends.here, f"live-{n}", 1)
            await until(lambda: jobs["push"].progress.confirmed_seq == ends.here.update_seq)
        await until(lambda: jobs["push"].replicator.recorded == ends.here.update_seq)
        checkpoints = ends.remote.calls["put_local"]
        assert checkpoints >= 1
        # A live change is one request, a checkpoint four, of which one is about the witnesses.
        assert ends.remote.calls == {
            "store": 10,
            "ensure_full_commit": checkpoints,
            "get_local": checkpoints,
            "put_local": checkpoints,
            "revs_diff": checkpoints,
        }
        assert sum(ends.remote.asked) == 10


def noted(*parts: tuple[Mapping[str, Sequence[str]], bool]) -> Witnesses:
    witnesses = Witnesses()
    for revs, stored in parts:
        witnesses.note(revs, stored=stored)
    return witnesses


def test_witnesses_are_few() -> None:
    many = ({f"doc:{n}": ["1-a"] for n in range(1000)}, True)
    assert noted(many).noted() == (("doc:999", "1-a"),)
    later = {
        **{f"reading:{n}": ["1-a"] for n in range(2)},
        "x": ["4-a"],
        "y": ["5-a"],
        "z": ["7-b"],
    }
    witnesses = noted(many, (later, True), ({"z": ["8-c"]}, False), ({}, True))
    assert witnesses.noted() == (("doc:999", "1-a"), ("reading:1", "1-a"), ("z", "8-c"))
    for n in range(MOST_WITNESSES - 3):
        assert not witnesses.full
        witnesses.note({f"live:{n}": ["1-a"]}, stored=False)
    assert witnesses.newest() == (("z", "8-c"), (f"live:{n}", "1-a"))
    assert witnesses.full


def test_of_a_conflict_all_leaves_are_witnesses() -> None:
    """One of them may have been there for long, and nothing says which."""
    witnesses = noted(({"doc": ["3-b", "2-a"]}, False))
    assert witnesses.noted() == (("doc", "3-b"), ("doc", "2-a"))


def test_a_witness_that_stands_for_others_goes_on_doing_so() -> None:
    batch = {f"doc:{n}": ["2-a"] for n in range(5)}
    witnesses = noted((batch, True))
    assert witnesses.hidden_by({"doc:3": ["3-b"], "doc:4": ["3-b"]}) == {"doc:4": ["2-a"]}
    witnesses.note({"doc:4": ["3-b"]}, stored=True)
    assert witnesses.hidden_by({"doc:4": ["4-c"]}) == {"doc:4": ["3-b"]}
    # One that came alone takes nothing with it that its successor does not bring again.
    witnesses.note({"alone": ["1-a"]}, stored=True)
    assert witnesses.hidden_by({"alone": ["2-b"]}) == {}
    # But what a source tells of says how far it had come.
    witnesses.note({"there": ["1-a"]}, stored=True, told=True)
    assert witnesses.hidden_by({"there": ["2-b"]}) == {"there": ["1-a"]}


async def test_when_there_are_many_witnesses_they_are_asked_for_before_it_is_time(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.replication.witnesses.MOST_WITNESSES", 20)
    monkeypatch.setattr("agent.replication.pace._FIRST", 1000.0)
    async with ends.running("push", checkpoint_interval=1000) as jobs:
        await until(lambda: jobs["push"].progress.up_to_date)
        for n in range(100):
            await write(ends.here, f"live-{n}", 1)
            await until(lambda: jobs["push"].progress.confirmed_seq == ends.here.update_seq)
        await until(lambda: ends.remote.asked == [20] * 5)


# --- anything, at any moment ----------------------------------------------------------------


class Restless(Remote):
    """Is set back between two calls now and then, once there is a backup."""

    def __init__(self, store: Store, rng: random.Random) -> None:
        super().__init__(store)
        self.rng = rng
        self.rate = 0.0
        self.restoring: asyncio.Task[None] | None = None
        self.backups: list[Path] = []

    async def called(self, name: str) -> None:
        await super().called(name)
        if self.backups and self.rng.random() < self.rate:
            self.rate = 0.0  # one at a time
            self.restoring = asyncio.create_task(self.set_back())
            await asyncio.shield(self.restoring)

    async def set_back(self) -> None:
        async with self.history:
            place = self.rng.randrange(len(self.backups))
            del self.backups[place + 1 :]  # they are of a history that did not happen
            await self.put_in_place(self.backups[place])


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("seed", range(8))
async def test_nothing_is_lost_wherever_it_is_set_back(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that was written here is in both in the end, as is all that the remote still had."""
    monkeypatch.setattr("agent.replication.replicator.FAR_BEHIND", 30)
    # It is restored more often than anybody would do it between two checkpoints.
    monkeypatch.setattr("agent.replication.witnesses._MOST_LOSSES", 1000)
    rng = random.Random(seed)
    here, there = [await Store.open(tmp_path / name) for name in ("here", "remote")]
    remote = Restless(there, rng)
    remote.feed_breaks = rng.random() < 0.5
    ends = Ends(here, remote)
    known: dict[str, Rev] = {}
    for _ in range(6):
        interval = rng.choice((0.02, 0.2, 1.0))
        async with ends.running("push", "pull", batch_size=7, checkpoint_interval=interval) as jobs:
            for turn in range(rng.randint(3, 8)):
                await edit_at_random(here, rng, known)
                await edit_there(remote, rng, turn)
                await asyncio.sleep(rng.choice((0, 0.01, 0.1)))
                if rng.random() < 0.4:
                    remote.backups.append(await remote.back_up())
                remote.rate = rng.choice((0, 0.02, 0.1))
            remote.rate = 0.0
            if rng.random() < 0.5:
                await until(lambda: all(job.progress.up_to_date for job in jobs.values()))
    if remote.restoring is None:  # it was never set back by chance
        backup = rng.choice(remote.backups or [await remote.back_up()])
        remote.restoring = asyncio.create_task(remote.restore(backup))
    await remote.restoring
    async with ends.running("push", "pull", checkpoint_interval=0.5):
        await edit_at_random(here, rng, known)
        await until(ends.equal)
    for id, last in known.items():
        assert (await here.missing({id: [str(last)]})) == {}
    await asyncio.gather(here.close(), remote.present.close())


async def edit_there(remote: Remote, rng: random.Random, turn: int) -> None:
    store = remote.present
    await store.edit([edit(f"there:{rng.randrange(10**9)}", None, turn=turn) for _ in range(3)])
