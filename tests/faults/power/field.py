"""A gateway with a device and a hub, recorded while they work, and started again after a power cut
at one of them or at both. Whoever had power all along is as it was at that moment.
"""

from __future__ import annotations

import asyncio
import copy
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from agent.config import ServerConfig, UserConfig
from agent.config_file import load
from agent.errors import EdgeAgentError
from agent.replication.checkpoint import common_entry
from agent.runtime import Agent
from agent.sensors.device_document import document_id
from agent.store.store import Store
from tests import agents
from tests.faults.power.disk import Disk, Tree, cuts, lay_out
from tests.faults.power.record import Event, Marks, environment, read
from tests.faults.power.scenarios import LostError
from tests.faults.power.stores import Told
from tests.faults.site import (
    PASSWORD,
    USER,
    Contents,
    Place,
    Site,
    Writer,
    contents,
    get,
    revisions,
)
from tests.patience import until
from tests.sensors.uart import Uart
from tests.server.accounts import quick_hash

_DEVICE = "node"
_SENSORS = ("level", "fast")
"""One with a document for each reading, one whose readings are packed."""
_READINGS = 40
_WRITES = 40
_SETTINGS = 3
"""So many of everything until an agent is killed, and until the end."""

_SET_EVERY = 0.2
"""Seconds."""

_VICTIMS = (("gateway",), ("gateway",), ("hub",), ("gateway", "hub"))


class _Device:
    """Holds its readings until they are acknowledged, as docs/firmware.md says, and marks which
    were, and how it was set."""

    def __init__(self, marks: Marks) -> None:
        self.uart = Uart(self._say)
        self.stored = 0
        """The last number that was acknowledged."""
        self.settings: dict[str, int] = {}
        self.times_set = 0
        self._marks = marks
        self._read = 0

    def _say(self, number: int) -> bytes:
        again: list[int] = []
        answers: list[dict[str, Any]] = []
        *lines, rest = bytes(self.uart.heard[self._read :]).split(b"\n")
        self._read = len(self.uart.heard) - len(rest)
        for line in lines:
            command = msgspec.json.decode(line)
            if "set" in command:
                self.settings |= command["set"]
                self.times_set += "turn" in command["set"]
                self._marks.add("set", self.settings)
                answers.append({"answers": command["n"], "settings": self.settings})
            if "ack" not in command:
                continue
            _, last, *missing = command["ack"]
            if last > self.stored:
                self.stored = last
                self._marks.add("stored", last)
            if missing:
                again += range(max(missing[0], self.stored + 1), missing[1] + 1)
        readings = [{"seq": each, **dict.fromkeys(_SENSORS, each)} for each in (number, *again)]
        held = {"boot": "b1", "ack_from": self.stored + 1}
        return b"".join(msgspec.json.encode(held | each) + b"\n" for each in readings + answers)


class _Client(Writer):
    """Marks what was acknowledged, and where."""

    def __init__(self, place: Place, marks: Marks) -> None:
        super().__init__(place)
        self._at = place.name
        self._marks = marks

    def _take_note(self, id: str, rev: str, body: Mapping[str, Any]) -> None:
        super()._take_note(id, rev, body)
        self._marks.add("written", self._at, id, rev)


class _Owner:
    """Desires another setting of the device over and over, at the hub."""

    def __init__(self, place: Place) -> None:
        self._place = place

    async def write(self, session: aiohttp.ClientSession) -> None:
        url = f"{self._place.url}/edge/{document_id(_DEVICE)}"
        for turn in count(1):
            with suppress(aiohttp.ClientError, OSError):
                present = await get(session, url) or {}
                kept = present if "_rev" in present else {}
                async with session.put(url, json=kept | {"desired": {"turn": turn}}):
                    pass
            await asyncio.sleep(_SET_EVERY)


class RecordedField:
    """A run that was recorded once; any number of power cuts can be made of it."""

    def __init__(self, site: Site, disk: Disk, events: list[Event]) -> None:
        self.events = events
        self._site = site
        self._disk = disk

    @classmethod
    async def of(cls, library: Path, folder: Path) -> RecordedField:
        """Record it, in a folder that is made for it: two starts, the first ended by a kill."""
        place, log = folder / "recorded", folder / "log"
        place.mkdir(parents=True)
        disk = Disk(place)
        marks = Marks(log)
        device = _Device(marks)
        table = agents.table("device", name=_DEVICE, port=device.uart.path, adapter="json-lines")
        packed = agents.table("device.sensor", name="fast", pack=1)
        site = Site(place, table, packed, environment=environment(library, place, log))
        writers = [_Client(each, marks) for each in site.places]
        with device.uart:
            async with site.running(*writers, _Owner(site.hub)):
                for number in (1, 2):
                    await until(partial(_enough, number, device, site, writers), "enough was done")
                    if number == 1:
                        for each in site.places:
                            each.kill()
                            each.start()
        marks.close()
        return cls(site, disk, read(log))

    async def cut(self, count: int, seed: int, folder: Path, *, started: int) -> None:
        """Cut the power so many times, and look at what is left; start both after some of them.

        Raises LostError at the first loss; what was left is then in the folder.
        """
        chance = random.Random(f"field {seed}")
        disk = copy.deepcopy(self._disk)
        chosen = set(chance.sample(range(count), started))
        for number, cut in enumerate(cuts(disk, self.events, chance, count)):
            victims = chance.choice(_VICTIMS)
            whole = disk.now()
            tree: Tree = {**whole, **{name: cut.left.get(name, {}) for name in victims}}
            place = folder / "left"
            await asyncio.to_thread(lay_out, tree, place)
            try:
                await self._check(place, Told(cut.marks), start=number in chosen)
            except (AssertionError, EdgeAgentError, TimeoutError) as error:
                raise LostError(
                    f"field, seed {seed}, cut after event {cut.moment} of {len(self.events)} "
                    f"at {' and '.join(victims)}: {error}"
                ) from error
            await asyncio.to_thread(shutil.rmtree, place)

    async def _check(self, folder: Path, told: Told, *, start: bool) -> None:
        before: dict[str, Contents] = {}
        for place in ("gateway", "hub"):
            file = folder / place / "edge.sqlite"
            known = {(id, rev) for at, id, rev in told.of("written") if at == place}
            if file.exists():
                store = await Store.open(file, salvage=True)
                await store.close()
                found = before[place] = await asyncio.to_thread(contents, file)
                missing = known - found.known
                assert not missing, f"{place} has lost acknowledged writes: {sorted(missing)[:3]}"
            assert file.exists() or not known, f"{place} has lost its store"
            assert not list((folder / place).glob("*.damaged-*"))
        if told.of("stored"):
            file = folder / "gateway" / "edge.sqlite"
            await asyncio.to_thread(_check_readings, file, told.last("stored"))
        if told.of("set"):
            file = folder / "gateway" / "edge.sqlite"
            await asyncio.to_thread(_check_desired, file, told.last("set"))
        if len(before) == len(self._site.places):
            await asyncio.to_thread(_check_checkpoints, folder, before)
        if start:
            await self._start(folder, before)

    async def _start(self, folder: Path, before: Mapping[str, Contents]) -> None:
        """Power on: both start with what is there, and become equal."""
        async with self._running(folder) as session:
            for place in self._site.places:
                url = f"{place.url}/edge/after-{place.name}"

                async def put(url: str = url) -> bool:
                    async with session.put(url, json={}) as response:
                        return response.status == 201

                await until(put, "writing goes on")
            await _both_have(self._site, session, 2)
        here = await asyncio.to_thread(contents, folder / "gateway" / "edge.sqlite")
        there = await asyncio.to_thread(contents, folder / "hub" / "edge.sqlite")
        assert here.leaves == there.leaves
        assert here.winners == there.winners
        for name, found in before.items():
            lost = found.known - here.known
            assert not lost, f"what {name} had did not come back: {sorted(lost)[:3]}"

    @asynccontextmanager
    async def _running(self, folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
        """Both agents, in this process, with the addresses that they have had, and no device."""
        site = self._site
        config = agents.gateway_config(
            folder / "gateway.toml",
            agents.table(
                "remote",
                name="hub",
                url=f"{site.hub.url}/edge",
                create=True,
                checkpoint_interval=0.2,
                retry_cap=0.3,
            ),
            port=site.gateway.port,
        )
        user = UserConfig(name=USER, password_hash=quick_hash(PASSWORD), roles=["_admin"])
        hub = Agent(folder / "hub", ServerConfig(listen=f"127.0.0.1:{site.hub.port}"), [user])
        gateway = Agent.from_config(await asyncio.to_thread(load, config))
        stop = asyncio.Event()
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for agent in (hub, gateway):
                ready = asyncio.Event()
                group.create_task(agent.run(stop, lambda _, ready=ready: ready.set()))
                await ready.wait()
            try:
                yield session
            finally:
                stop.set()


def _check_readings(file: Path, stored: int) -> None:
    """All that the device was told is stored is there once, packed or not."""
    with closing(sqlite3.connect(file)) as db:
        for sensor in _SENSORS:
            query = "SELECT sequence, value FROM readings WHERE sensor = ?"
            numbers = [number for number, _ in db.execute(query, (sensor,))]
            assert len(numbers) == len(set(numbers)), f"readings of {sensor} are there twice"
            lost = set(range(1, stored + 1)) - set(numbers)
            assert not lost, f"acknowledged readings of {sensor} are lost: {sorted(lost)[:5]}"


def _check_desired(file: Path, settings: Mapping[str, int]) -> None:
    """What the device was told to be set to is still desired, or what came after it."""
    with closing(sqlite3.connect(file)) as db:
        rows = db.execute(
            "SELECT body FROM docs WHERE id = ?1 UNION ALL "
            "SELECT body FROM revisions WHERE id = ?1 AND leaf",
            (document_id(_DEVICE),),
        )
        desired = [msgspec.json.decode(body).get("desired") or {} for (body,) in rows]
    turn = max((each.get("turn", 0) for each in desired), default=0)
    assert turn >= settings.get("turn", 0), "the device is set as nobody desires any more"


def _check_checkpoints(folder: Path, found: Mapping[str, Contents]) -> None:
    """Neither side believes that the other one has what it has not."""
    logs: dict[str, dict[str, Any]] = {}
    changes: dict[str, list[tuple[int, str, str]]] = {}
    for place in found:
        with closing(sqlite3.connect(folder / place / "edge.sqlite")) as db:
            bodies = db.execute("SELECT id, body FROM local WHERE body LIKE '%source_last_seq%'")
            logs[place] = {id: msgspec.json.decode(body) for id, body in bodies}
            query = "SELECT seq, id, gen || '-' || hash FROM docs"
            changes[place] = db.execute(query).fetchall()
    for id in logs["gateway"].keys() & logs["hub"].keys():
        # Sequences of a push are the gateway's own, numbers; those of a pull are texts.
        pushed = isinstance(logs["gateway"][id]["source_last_seq"], int)
        source, target = ("gateway", "hub") if pushed else ("hub", "gateway")
        common = common_entry(logs[source][id], logs[target][id])
        if common is not None:
            last = int(str(common["recorded_seq"]).partition("-")[0])
            passed = {(id, rev) for seq, id, rev in changes[source] if seq <= last}
            missing = passed - found[target].known
            assert not missing, f"{target} has not what is confirmed: {sorted(missing)[:3]}"


def _enough(number: int, device: _Device, site: Site, writers: Sequence[Writer]) -> bool:
    """So many turns: readings and writes were acknowledged, and replicated."""
    enough = device.stored >= number * _READINGS and device.times_set >= number * _SETTINGS
    return enough and all(
        len(writer.acknowledged) >= number * _WRITES
        and {id for id, _ in islice(writer.acknowledged, number * _WRITES)}
        <= {id for id, _ in place.seen}
        for writer in writers
        for place in site.places
    )


async def _both_have(site: Site, session: aiohttp.ClientSession, count: int) -> None:
    """Wait until both have the same leaves, so many at least."""

    async def equal() -> bool:
        pages = [
            await get(session, f"{place.url}/edge/_changes?style=all_docs") for place in site.places
        ]
        found = [revisions(page) if page and "results" in page else set() for page in pages]
        return found[0] == found[1] and len(found[0]) >= count

    await until(equal, "both sides are equal", every=0.1)
