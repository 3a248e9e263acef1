"""Carries out a plan of faults, waits until all is quiet, and checks what has been promised."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from scripts.fault_suite.plan import TRIED, Fault, plan
from scripts.fault_suite.world import Gateway, World, readings
from tests.agents import edge_agent
from tests.faults.site import Contents, Place, contents, get, revisions

_PATIENCE = 270.0
"""Seconds in which everything has to settle once it is quiet. A device that measures nothing more
may send the 128 frames that it holds one every two seconds: no newer one shows what is missing."""

_PAGE = 4096

_FULL = "the disk is full; free some space\n"
"""How what a store is told ends that cannot be opened for that."""


class BrokenPromiseError(Exception):
    """Something is not as promised."""


@dataclass
class Account:
    """What was done, and what clients were told."""

    faults: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    """Faults that found their victim in no state for them."""
    written: dict[tuple[str, str], Any] = field(default_factory=dict)
    """By id and revision: what was answered with 201."""
    conflicts: set[str] = field(default_factory=set)
    """Documents that both sides have taken an edit of the same revision of."""
    doubtful: set[str] = field(default_factory=set)
    """Documents with an edit that got no answer: it may have been made."""


class Run:
    """One run."""

    def __init__(self, folder: Path, seed: int, seconds: float, say: Callable[[str], None]) -> None:
        self._faults = plan(seed, seconds)
        self._seed = seed
        self._seconds = seconds
        self._say = say
        self._world = World(folder)
        self._account = Account()
        self._busy: set[str] = set()
        self._damaged: set[str] = set()
        self._session: aiohttp.ClientSession

    async def run(self) -> dict[str, Any]:
        """Returns the result. Raises BrokenPromiseError, or AssertionError from the rig."""
        world = self._world
        async with world.running() as self._session:
            async with asyncio.TaskGroup() as group:
                supervising = group.create_task(self._supervise())
                await self._settle("all runs", self._all_answer)
                await self._let_it_fail()
                for name in self._damaged:
                    # After an end without order the whole file is looked at, so what nobody has
                    # happened to read by now is found, too.
                    world.places[name].kill()
                    world.places[name].start()
                quiet = time.monotonic()
                for gateway in world.gateways.values():
                    gateway.rest()
                await self._settle("devices have handed over what they hold", self._handed_over)
                await self._settle("all sides are equal", self._equal)
                supervising.cancel()
            settled = time.monotonic() - quiet
            dropped = {
                name: await gateway.dropped(self._session)
                for name, gateway in world.gateways.items()
            }
            await self._verify()
            for name in ("north", "south", "hub"):
                await world.places[name].stop()
            result = self._check(dropped)  # before the disks go
        if left := world.processes():
            raise BrokenPromiseError(f"processes are left: {left}")
        return {**result, "seconds_to_settle": round(settled, 1)}

    async def _settle(self, what: str, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + _PATIENCE
        while not await condition():
            if time.monotonic() > end:
                raise BrokenPromiseError(f"waited {_PATIENCE:.0f} s in vain: {what}")
            await asyncio.sleep(0.3)

    async def _supervise(self) -> None:
        """Start again, as systemd does, what has ended by itself; a damaged store is a reason, and
        a disk that is full just when it starts."""
        while True:
            await asyncio.sleep(0.5)
            for name, place in self._world.places.items():
                if name not in self._busy and not place.runs:
                    self._say(f"          {name} has ended by itself")
                    self._check_end(name, await place.end())
                    place.start()

    def _check_end(self, name: str, status: int) -> None:
        """In order; before it had quite started; or since its store is damaged, or cannot be opened
        on a full disk."""
        full = self._world.places[name].log.endswith(_FULL)
        excused = status == 1 and (name in self._damaged or full)
        if status not in (0, -signal.SIGTERM) and not excused:
            raise BrokenPromiseError(f"{name} has ended with the status {status}")

    async def _all_answer(self) -> bool:
        pages = [await get(self._session, f"{p.url}/edge") for p in self._world.places.values()]
        return all(page is not None and "update_seq" in page for page in pages)

    # --- faults ------------------------------------------------------------------------

    async def _let_it_fail(self) -> None:
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in self._faults:
                await asyncio.sleep(max(0.0, started + fault.at - time.monotonic()))
                group.create_task(self._carry_out(fault))

    async def _carry_out(self, fault: Fault) -> None:
        """One fault at a time hits a process; a line, a device and clients have their own."""
        act: Callable[[Fault], Any] = getattr(self, "_" + fault.kind.replace(" ", "_"))
        needed = {f"{fault.kind} {fault.victim}"}
        if fault.kind in ("kill", "terminate", "freeze", "full disk", "damage"):
            needed = {fault.victim}
        elif fault.kind in ("kill broker", "freeze broker"):
            needed = {"broker"}
        elif fault.kind in ("cut", "delay", "short lives", "abandon"):
            needed = {f"line {fault.victim}"}
        elif fault.kind in ("unplug", "noise"):
            needed = {f"device {fault.victim}"}
        if fault.kind == "damage":
            needed |= {"hub", "broker", f"line {fault.victim}", f"device {fault.victim}"}
        no_disk = fault.kind == "full disk" and not self._gateway(fault).has_disk
        if no_disk or needed & self._busy:
            self._account.skipped += 1
            return
        self._busy |= needed
        self._say(str(fault))
        try:
            await act(fault)
        finally:
            self._busy -= needed
        self._account.faults[fault.kind] += 1

    def _place(self, fault: Fault) -> Place:
        return self._world.places[fault.victim]

    def _gateway(self, fault: Fault) -> Gateway:
        return self._world.gateways[fault.victim]

    async def _kill(self, fault: Fault) -> None:
        self._place(fault).kill()
        await asyncio.sleep(fault.seconds)
        self._place(fault).start()

    async def _terminate(self, fault: Fault) -> None:
        self._check_end(fault.victim, await self._place(fault).end())
        await asyncio.sleep(fault.seconds)
        self._place(fault).start()

    async def _freeze(self, fault: Fault) -> None:
        self._place(fault).send(signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        self._place(fault).send(signal.SIGCONT)

    async def _kill_broker(self, fault: Fault) -> None:
        await self._world.broker.kill()
        await asyncio.sleep(fault.seconds)
        await self._world.broker.start()

    async def _freeze_broker(self, fault: Fault) -> None:
        self._world.broker.send(signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        self._world.broker.send(signal.SIGCONT)

    async def _unplug(self, fault: Fault) -> None:
        self._gateway(fault).board.unplug()
        await asyncio.sleep(fault.seconds)
        self._gateway(fault).board.plug_in()

    async def _noise(self, fault: Fault) -> None:
        chance = random.Random(f"{self._seed} {fault.number}")

        def flip_a_bit(data: bytes) -> bytes:
            damaged = bytearray(data)
            if chance.random() < 0.3:
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            return bytes(damaged)

        self._gateway(fault).board.noise = flip_a_bit
        await asyncio.sleep(fault.seconds)
        self._gateway(fault).board.noise = bytes

    async def _cut(self, fault: Fault) -> None:
        await self._gateway(fault).line.cut()
        await asyncio.sleep(fault.seconds)
        await self._gateway(fault).line.mend()

    async def _abandon(self, fault: Fault) -> None:
        self._gateway(fault).line.abandon()

    async def _delay(self, fault: Fault) -> None:
        self._gateway(fault).line.delay = 1.0
        await asyncio.sleep(fault.seconds)
        self._gateway(fault).line.delay = 0.0

    async def _short_lives(self, fault: Fault) -> None:
        self._gateway(fault).line.lifetime = 0.7
        await asyncio.sleep(fault.seconds)
        self._gateway(fault).line.lifetime = None

    async def _full_disk(self, fault: Fault) -> None:
        filler = self._gateway(fault).folder / "filler"
        await asyncio.to_thread(_fill, filler)
        await asyncio.sleep(fault.seconds)
        filler.unlink()

    async def _damage(self, fault: Fault) -> None:
        """A page of a stopped gateway's store, all of which the hub has."""
        place = self._place(fault)
        self._check_end(fault.victim, await place.end())
        copied = await asyncio.to_thread(
            edge_agent, "replicate", str(place.file), f"{self._world.hub.url}/edge"
        )
        if copied.status == 0:  # otherwise the hub is out of order itself
            chance = random.Random(f"{self._seed} {fault.number}")
            page = chance.randrange(1, place.file.stat().st_size // _PAGE)
            with place.file.open("r+b") as file:
                file.seek(page * _PAGE)
                file.write(chance.randbytes(_PAGE))
            self._damaged.add(place.name)
            self._say(f"          page {page} of {place.name} is damaged")
        place.start()

    async def _edit(self, fault: Fault) -> None:
        """Both sides edit the same revision of a document, as far as both have it."""
        id = f"shared-{fault.number}"
        places = (self._world.hub, self._place(fault))
        made = await self._put(places[0], id, {"by": "nobody"})
        if made is None:
            return
        for _ in range(10):
            present = await get(self._session, f"{places[1].url}/edge/{id}")
            if present is not None and present.get("_rev") == made:
                break
            await asyncio.sleep(0.3)
        else:
            return
        edits = [self._put(place, id, {"by": place.name, "_rev": made}) for place in places]
        taken = await asyncio.gather(*edits)
        if all(taken):
            self._account.conflicts.add(id)

    async def _put(self, place: Place, id: str, body: dict[str, Any]) -> str | None:
        document = {"_id": id, **body}
        try:
            # A PUT whose connection breaks is sent once more by aiohttp itself, and what comes of
            # that does not tell what the first one did.
            async with self._session.post(f"{place.url}/edge", json=document) as response:
                if response.status != 201:
                    return None
                rev = str((await response.json())["rev"])
        except aiohttp.ClientConnectorError:
            return None
        except (aiohttp.ClientError, OSError):
            self._account.doubtful.add(id)
            return None
        self._account.written[id, rev] = body
        return rev

    # --- promises ----------------------------------------------------------------------

    async def _handed_over(self) -> bool:
        for name, gateway in self._world.gateways.items():
            status = await get(self._session, f"{gateway.place.url}/_status")
            if status is None or "devices" not in status:
                return False
            if status["devices"][0]["state"] != "open":
                return False
            sent = gateway.sent()
            last = max((sequence for _, sequence, _, _ in sent), default=-1)
            boot = next(iter(sent))[0]
            selector = {"device": f"node-{name}", "boot": boot, "sequence": last}
            body = {"selector": {**selector, "type": "reading"}, "limit": 1}
            try:
                url = f"{gateway.place.url}/edge/_find"
                async with self._session.post(url, json=body) as response:
                    found = await response.json()
            except (aiohttp.ClientError, OSError):
                return False  # on a machine that has much to do; it is asked again
            if not found.get("docs"):
                return False
        return True

    async def _equal(self) -> bool:
        query = "/edge/_changes?style=all_docs"
        pages = [
            await get(self._session, place.url + query) for place in self._world.places.values()
        ]
        found = [revisions(page) if page and "results" in page else None for page in pages]
        return found[0] is not None and all(each == found[0] for each in found)

    async def _verify(self) -> None:
        hub = f"{self._world.hub.url}/edge"
        for gateway in self._world.gateways.values():
            verify = partial(edge_agent, "verify", f"{gateway.place.url}/edge", hub)
            found = await asyncio.to_thread(verify)
            if found.status:
                raise BrokenPromiseError(f"edge-agent verify: {found.stdout}{found.stderr}")

    def _check(self, dropped: dict[str, int]) -> dict[str, Any]:
        world, account = self._world, self._account
        stores = {name: contents(place.file) for name, place in world.places.items()}
        broken: list[str] = []
        first = stores["hub"]
        broken += [
            f"the store of {name} is not the hub's"
            for name, store in stores.items()
            if store.leaves != first.leaves or store.winners != first.winners
        ]
        documents = dict(first.documents())
        sent = stored = missing = duplicated = lost_frames = 0
        for name, gateway in world.gateways.items():
            theirs, ours = gateway.sent(), readings(documents, f"node-{name}")
            lost = theirs - ours
            sent += theirs.total()
            stored += ours.total()
            missing += lost.total()
            duplicated += (ours - theirs).total()
            frames = {(boot, sequence) for boot, sequence, _, _ in lost}
            lost_frames += max(0, len(frames) - dropped[name])
            if len(frames) > dropped[name]:
                broken.append(
                    f"{len(frames)} frames of {name} are missing, but it dropped {dropped[name]}: "
                    f"{sorted(frames)[:5]}"
                )
            if ours - theirs:
                broken.append(f"{name}: not sent, or stored twice: {list(ours - theirs)[:5]}")
        lost_writes = account.written.keys() - first.known
        if lost_writes:
            broken.append(f"acknowledged writes are lost: {sorted(lost_writes)[:5]}")
        broken += _conflicts(first, account)
        for place in world.places.values():
            if "Traceback" in place.log:
                broken.append(f"a traceback in the log of {place.name}")
        if broken:
            raise BrokenPromiseError("; ".join(broken))
        return {
            "seed": self._seed,
            "minutes": round(self._seconds / 60, 2),
            **{name: sum(account.faults[kind] for kind in kinds) for name, kinds in TRIED.items()},
            "faults": dict(sorted(account.faults.items())),
            "skipped": account.skipped,
            "readings_sent": sent,
            "readings_stored": stored,
            "dropped_by_devices": missing,
            "frames_lost": lost_frames,
            "duplicated": duplicated,
            "acknowledged_writes": len(account.written),
            "acknowledged_writes_lost": len(lost_writes),
            "conflicts": len(account.conflicts),
            "converged": True,
        }


def _conflicts(store: Contents, account: Account) -> list[str]:
    """As many as were made; where a client got no answer, either is right."""
    broken = []
    for id, leaves in store.leaves.items():
        live = sum(not leaf.deleted for leaf in leaves.values())
        if id.startswith("shared-") and id not in account.doubtful:
            expected = 2 if id in account.conflicts else 1
            if live != expected:
                broken.append(f"{id} has {live} live revisions, not {expected}")
    return broken


def _fill(file: Path) -> None:
    """Take all the space that there is."""
    with file.open("wb", buffering=0) as out:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    out.write(b"\0" * size)
            except OSError:
                pass
