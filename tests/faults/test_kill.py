"""kill -9 at any moment of recording, pushing and pulling.

What counts as acknowledged, and has to be there afterwards:

- a write over HTTP that was answered with 201, before whichever kill;
- what a reader has got to see over HTTP, at either side, which includes everything that was
  replicated there;
- what was in a store before the agent was started.

A frame that a device sends while no agent runs, or that an agent has not stored when it is killed,
is not acknowledged: a device that only talks cannot know. The firmware's own account of what it
sent tells what may be there, and how often.

The moments are random, from a seed that is printed; the variable FAULTS_SEED sets another one.
Some are a time after a start, so that the start itself is hit too, some a number of revisions that
have arrived, so that on a machine of any speed most hit work under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec
import pytest

from agent.documents.revision import Revision, first_revision
from agent.store.store import Store
from tests import agents
from tests.devices.micropython import SensorNode, Witness
from tests.faults.site import Contents, Known, Place, Site, Writer, contents, get
from tests.patience import until

SEED = int(os.environ.get("FAULTS_SEED", "20260801"))

LATEST = 1.5
"""Seconds after a start."""

PRELOADED = 4000
FED = 100
PADDING = "x" * 300


async def kill_at_random(
    site: Site, chance: random.Random, *, gateway: int, hub: int, arrivals: int, at: Place
) -> None:
    """Kill the gateway and the hub so many times, and start each again at once.

    Every other time waits until up to `arrivals` revisions more have been seen `at` a place.
    """
    victims = [site.gateway] * gateway + [site.hub] * hub
    chance.shuffle(victims)
    for number, victim in enumerate(victims):
        if number % 2:
            seconds = chance.uniform(0, LATEST)
            print(f"{victim.name} killed {seconds:.3f} s later")
            await asyncio.sleep(seconds)
        else:
            more = chance.randint(1, arrivals)
            await until(partial(has_arrived, at, len(at.seen) + more), "something arrives")
            print(f"{victim.name} killed after {more} revisions more had arrived")
        victim.kill()
        victim.start()


def has_arrived(at: Place, count: int) -> bool:
    return len(at.seen) >= count


def check(site: Site, *acknowledged: Known) -> Contents:
    """Both stores are whole and equal, and hold all that was acknowledged or seen."""
    ours, theirs = contents(site.gateway.file), contents(site.hub.file)
    # Only what differs: pytest would show all of it.
    ids = ours.winners.keys() | theirs.winners.keys()
    assert [id for id in ids if ours.winners.get(id) != theirs.winners.get(id)] == []
    assert [id for id in ids if ours.leaves[id] != theirs.leaves[id]] == []
    for known in (site.gateway.seen, site.hub.seen, *acknowledged):
        assert known - ours.known == set()
    return ours


@pytest.mark.may_block("compares two stores at once")
async def test_kill_while_recording_and_writing(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    node = SensorNode(tmp_path / "device", tmp_path / "sent.txt", interval_ms=10)
    device = agents.table("device", name="node", port=str(node.port), adapter="cbor-frames")
    site = Site(tmp_path, device)
    writers = [Writer(place) for place in site.places]
    kills = 9

    with node:
        async with asyncio.TaskGroup() as writing, site.running() as session:
            tasks = [writing.create_task(writer.write(session)) for writer in writers]
            await kill_at_random(site, chance, gateway=kills, hub=4, arrivals=150, at=site.gateway)
            now = node.witnesses()[-1].sequence

            async def goes_on() -> bool:
                return await newest_sequence(site.gateway, session) > now

            await until(goes_on, "recording goes on")
            for task in tasks:
                task.cancel()
            node.stop()
            await site.converge(session)

    found = check(site, *(set(writer.acknowledged) for writer in writers))
    for writer in writers:
        assert len(writer.acknowledged) > 50
    check_writes(found, writers)
    check_readings(found, node.witnesses(), kills)


async def newest_sequence(gateway: Place, session: aiohttp.ClientSession) -> int:
    """The number of the last frame that is stored, -1 without any."""
    query = '/edge/_all_docs?descending=true&limit=1&startkey="node:temperature:~"'
    page = await get(session, gateway.url + query)
    id = page["rows"][0]["id"] if page and page.get("rows") else ""
    return int(id.rpartition(":")[2]) if id.startswith("node:temperature:") else -1


def check_writes(found: Contents, writers: Sequence[Writer]) -> None:
    """What was acknowledged is as it was written; edits by one client alone are no conflict."""
    for writer in writers:
        for (id, rev), body in writer.acknowledged.items():
            if rev in found.leaves[id]:
                assert found.leaves[id][rev].body == body
    assert len(found.leaves["only-at-gateway"]) == len(found.leaves["only-at-hub"]) == 1


def check_readings(found: Contents, witnesses: Sequence[Witness], kills: int) -> None:
    """Each reading is there once at most, as it was sent; frames are missing around kills only."""
    readings = Counter(
        (doc["boot"], doc["sequence"], doc["sensor"], repr(doc["value"]))
        for doc in found.documents().values()
        if doc["type"] == "reading"
    )
    assert readings
    assert max(readings.values()) == 1
    sent = list(witnesses)
    assert readings.keys() <= {
        (witness.boot, witness.sequence, sensor, value)
        for witness in sent
        for sensor, value in witness.values.items()
    }
    counts = Counter(sequence for _, sequence, _, _ in readings)
    there = [sequence in counts for sequence in (witness.sequence for witness in sent)]
    assert set(counts.values()) == {len(sent[0].values)}, "a frame is there by half"
    gaps = "".join("+" if each else "-" for each in there).strip("-").split("+")
    print(f"{len(counts)} of {len(sent)} frames stored; missing: {[len(g) for g in gaps if g]}")
    assert sum(bool(gap) for gap in gaps) <= kills


@pytest.mark.may_block("compares two stores at once")
@pytest.mark.parametrize("direction", ["push", "pull"])
async def test_kill_while_replicating(direction: Literal["push", "pull"], tmp_path: Path) -> None:
    """From a full store to one that has other edits of some documents, while more is written."""
    chance = random.Random(f"{SEED} {direction}")
    print(f"seed {SEED}")
    site = Site(tmp_path)
    source, target = site.gateway, site.hub
    if direction == "pull":
        source, target = target, source
    feeder = Feeder(source, chance)
    here = await preload(source.file, histories("here", chance, range(PRELOADED)))
    there = await preload(target.file, histories("there", chance, range(0, PRELOADED, 10)))

    async with asyncio.TaskGroup() as feeding, site.running() as session:
        task = feeding.create_task(feeder.write(session))
        await kill_at_random(site, chance, gateway=6, hub=4, arrivals=400, at=target)
        task.cancel()
        await site.converge(session)

    found = check(site, here, there, feeder.acknowledged)
    assert len(feeder.acknowledged) > 1000
    leaves = {(id, rev) for id, revs in found.leaves.items() for rev in revs}
    assert leaves <= here | there | feeder.offered


class Feeder:
    """A client that writes revisions with their histories, and repeats what was not answered."""

    def __init__(self, place: Place, chance: random.Random) -> None:
        self.offered: Known = set()
        self.acknowledged: Known = set()
        self._place = place
        self._chance = chance

    async def write(self, session: aiohttp.ClientSession) -> None:
        url = f"{self._place.url}/edge/_bulk_docs"
        for start in itertools.count(PRELOADED, FED):
            batch = histories("fed", self._chance, range(start, start + FED))
            known = {(each.id, str(each.rev)) for each in batch}
            self.offered |= known
            body = {"docs": [on_the_wire(each) for each in batch], "new_edits": False}
            while not known <= self.acknowledged:
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    async with session.post(url, json=body) as response:
                        if response.status == 201:
                            assert await response.json() == []
                            self.acknowledged |= known
                await asyncio.sleep(0.05)


def on_the_wire(revision: Revision) -> dict[str, Any]:
    """A revision as CouchDB's replication protocol carries it."""
    return {
        **msgspec.json.decode(revision.body),
        "_id": revision.id,
        "_rev": str(revision.rev),
        "_revisions": {"start": revision.generation, "ids": list(revision.path)},
        **({"_deleted": True} if revision.deleted else {}),
    }


def histories(side: str, chance: random.Random, numbers: range) -> list[Revision]:
    """Documents as they are after years: most with one revision, some edited, deleted, in conflict.

    The two sides have the first revision in common and nothing else.
    """
    made = []
    for number in numbers:
        id = f"doc:{number:06}"
        first = first_revision(id, {"type": "note", "n": number, "padding": PADDING})
        made.append(first)
        if numbers.step > 1 or chance.random() < 0.1:
            for branch in range(chance.randint(1, 3)):
                made += edits(first, f"{side} {branch}", chance)
    return made


def edits(revision: Revision, by: str, chance: random.Random) -> list[Revision]:
    """A branch of one to four further revisions, sometimes with a deletion at its end."""
    path = revision.path
    count = chance.randint(1, 4)
    made = []
    for step in range(count):
        digest = hashlib.blake2b(f"{revision.id} {by} {step}".encode(), digest_size=16)
        path = (digest.hexdigest(), *path)
        deleted = step == count - 1 and chance.random() < 0.2
        body = "{}" if deleted else f'{{"type":"note","by":"{by}","step":{step}}}'
        made.append(Revision(revision.id, len(path), path, deleted, body))
    return made


async def preload(file: Path, revisions: Sequence[Revision]) -> Known:
    """Write to a store that no agent has open yet."""
    file.parent.mkdir()
    store = await Store.open(file)
    for start in range(0, len(revisions), 1000):
        await store.graft(revisions[start : start + 1000])
    await store.close()
    return {(each.id, str(each.rev)) for each in revisions}
