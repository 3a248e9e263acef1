"""What is sent without asking first, and what is not sent back to where it came from."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.documents.revision import Revision, first_revision
from agent.peers.local import LocalPeer
from agent.replication.arrivals import Arrivals
from agent.replication.replicator import Replicator
from agent.store.store import Store
from tests.mqtt.site import contents, opened
from tests.patience import until


class Counting(LocalPeer):
    """Counts what it is asked and sent."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked = 0
        self.sent: list[str] = []

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        self.asked += 1
        return await super().revs_diff(revs)

    async def store(self, revisions: Sequence[Revision], contents: object = None):  # type: ignore[no-untyped-def]
        self.sent += [revision.id for revision in revisions]
        return await super().store(revisions, contents)  # type: ignore[arg-type]


def revision(name: str, **body: object) -> Revision:
    return first_revision(name, body)


async def test_news_are_sent_unasked_and_arrivals_are_not_sent_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "here.sqlite") as here, opened(tmp_path / "there.sqlite") as there:
        far, arrivals = Counting(there), Arrivals()
        push = Replicator(LocalPeer(here), far, continuous=True, unasked=arrivals)
        pull = Replicator(far, LocalPeer(here), continuous=True, brought=arrivals)
        tasks = [asyncio.create_task(job.run()) for job in (push, pull)]
        await here.graft([revision("mine")])
        await until(lambda: far.sent == ["mine"])
        assert far.asked == 0
        await there.graft([revision("theirs")])
        await until(lambda: far.asked == 1)  # it is in the feed here, and may be there
        await until(lambda: push.progress.changes_read == 2 and push.progress.up_to_date)
        assert far.sent == ["mine"]
        assert (await contents(here)) == (await contents(there))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_many_at_once_are_asked_for(tmp_path: Path) -> None:
    async with opened(tmp_path / "here.sqlite") as here, opened(tmp_path / "there.sqlite") as there:
        many = [revision(f"d{number}") for number in range(10)]
        await here.graft(many)
        await there.graft(many[1:])
        far = Counting(there)
        await Replicator(LocalPeer(here), far, unasked=Arrivals()).run()
        assert far.asked == 1
        assert far.sent == ["d0"]


def test_what_came_long_ago_is_forgotten() -> None:
    arrivals = Arrivals()
    old, new = revision("old"), revision("new")
    arrivals.note([old])
    arrivals.note([revision(f"d{number}") for number in range(999)])
    assert not arrivals.are_news({"old": [str(old.rev)]})
    arrivals.note([new])
    assert arrivals.are_news({"old": [str(old.rev)]})
    assert not arrivals.are_news({"new": [str(new.rev)]})
    assert arrivals.are_news({"new": ["2-of-another-revision"]})
