"""A hub and a gateway that can be killed, clients that keep account of what they were told, and
what is in the store files in the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from agent.documents.revision import Rev
from agent.documents.tree import RevTree
from tests import agents
from tests.agents import AgentProcess
from tests.patience import PATIENCE, until
from tests.rig.network import find_free_port
from tests.server.accounts import quick_hash

USER, PASSWORD = "gateway", "kept-dry"

_POLL = 0.02
_BATCH = 10

Known = set[tuple[str, str]]
"""Document ids, each with the id of one of its revisions."""


class Place:
    """An agent that keeps its port and its data over any number of kills."""

    def __init__(
        self, name: str, folder: Path, start: Callable[[int], AgentProcess], *, login: str = ""
    ) -> None:
        self.name = name
        self.file = folder / "edge.sqlite"
        self.port = find_free_port()
        self.url = f"http://{login}127.0.0.1:{self.port}"
        self.seen: Known = set()
        """What a reader has got to see over HTTP."""
        self._start = start
        self._process: AgentProcess | None = None

    def start(self) -> None:
        """Start it; does not wait until it answers."""
        self._process = self._start(self.port)

    def wait_until_ready(self) -> None:
        """Wait until it listens. Blocks."""
        assert self._process is not None
        self._process.wait_until_ready()

    def kill(self) -> None:
        """kill -9. No effect if it does not run."""
        if self._process is not None:
            self._process.kill()

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send(number)

    async def end(self) -> int:
        """SIGTERM; returns the status with which it ends, or has ended before."""
        assert self._process is not None
        return (await asyncio.to_thread(self._process.stop)).status

    async def stop(self) -> None:
        """SIGTERM; it has to end in order."""
        status = await self.end()
        assert status == 0, self.log

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def log(self) -> str:
        """What it has said on standard error so far."""
        assert self._process is not None
        return self._process.log

    def check_it_runs(self) -> None:
        assert self.runs, self.log

    async def read(self, session: aiohttp.ClientSession) -> None:
        """Follow the changes, as a client does that comes back after each kill."""
        since = 0
        while True:
            query = f"/edge/_changes?style=all_docs&limit=2000&since={since}"
            page = await get(session, self.url + query)
            if page is not None and "results" in page:
                since = page["last_seq"]
                self.seen |= revisions(page)
            await asyncio.sleep(_POLL)


class Writer:
    """A client that writes at one place; `acknowledged` is what was answered with 201."""

    def __init__(self, place: Place) -> None:
        self.acknowledged: dict[tuple[str, str], Any] = {}
        """By id and revision: the document's body."""
        self._place = place
        self._turn = 0

    async def write(self, session: aiohttp.ClientSession) -> None:
        while True:
            self._turn += 1
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await self._batch(session)
                for id in (f"only-at-{self._place.name}", "at-both"):
                    await self._edit(session, id)
            await asyncio.sleep(_POLL)

    async def _batch(self, session: aiohttp.ClientSession) -> None:
        name = f"{self._place.name}:{self._turn:06}"
        docs = [{"_id": f"{name}:{n}", "type": "note", "n": n} for n in range(_BATCH)]
        url = f"{self._place.url}/edge/_bulk_docs"
        async with session.post(url, json={"docs": docs}) as response:
            if response.status == 201:
                for doc, row in zip(docs, await response.json(), strict=True):
                    if "rev" in row:
                        self._take_note(str(doc.pop("_id")), row["rev"], doc)

    async def _edit(self, session: aiohttp.ClientSession, id: str) -> None:
        url = f"{self._place.url}/edge/{id}"
        present = await get(session, url) or {}
        body = {"type": "edited", "by": self._place.name, "turn": self._turn}
        parent = {"_rev": present["_rev"]} if "_rev" in present else {}
        async with session.put(url, json=body | parent) as response:
            if response.status == 201:
                self._take_note(id, (await response.json())["rev"], body)

    def _take_note(self, id: str, rev: str, body: Mapping[str, Any]) -> None:
        self.acknowledged[id, rev] = body


class Site:
    """A hub and a gateway that replicates with it in both directions.

    `remote` has settings of the gateway's remote, such as a `url` of something between the two.
    `environment` is added to that of both.
    """

    def __init__(
        self,
        folder: Path,
        *devices: str,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **remote: object,
    ) -> None:
        def start_hub(port: int) -> AgentProcess:
            # With a user, since otherwise it answers to no names but localhost.
            path = folder / "hub.toml"
            hashed = quick_hash(PASSWORD)
            path.write_text(agents.table("user", name=USER, password_hash=hashed, roles=["_admin"]))
            options = ("--config", path)
            return agents.hub(folder / "hub", *options, port=port, environment=environment)

        def start_gateway(port: int) -> AgentProcess:
            settings: dict[str, object] = {
                "name": "hub",
                "url": f"{self.hub.url}/edge",
                "create": True,
                "checkpoint_interval": 0.2,
                "retry_cap": 0.3,
                **remote,
            }
            path = folder / "gateway.toml"
            tables = [*devices, agents.table("remote", **settings)]
            agents.gateway_config(path, *tables, port=port)
            return agents.gateway(path, prefix=prefix, environment=environment)

        self.hub = Place("hub", folder / "hub", start_hub, login=f"{USER}:{PASSWORD}@")
        self.gateway = Place("gateway", folder / "gateway", start_gateway)
        self.places = (self.hub, self.gateway)

    @contextlib.asynccontextmanager
    async def running(self, *clients: Writer) -> AsyncIterator[aiohttp.ClientSession]:
        """Both run and are read from; `clients` write. What still runs at the end is killed."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
            tasks = [group.create_task(place.read(session)) for place in self.places]
            tasks += [group.create_task(client.write(session)) for client in clients]
            try:
                for place in self.places:
                    place.start()
                yield session
            finally:
                for place in self.places:
                    place.kill()
                for task in tasks:
                    task.cancel()

    async def converge(self, session: aiohttp.ClientSession) -> None:
        """Wait until both have the same leaves, but for what a device adds all the time; then stop
        both."""

        async def equal() -> bool:
            for place in self.places:
                place.check_it_runs()
            infos = [await get(session, f"{place.url}/edge") or {} for place in self.places]
            counts = ("doc_count", "doc_del_count")
            here, there = (sum(info.get(count, 0) for count in counts) for info in infos)
            if abs(here - there) > _FEW:  # which spares all the rows, of up to 20,000 documents
                return False
            found: list[Known] = []
            for place in (self.gateway, self.hub, self.gateway):
                page = await get(session, f"{place.url}/edge/_changes?style=all_docs")
                if not page or "results" not in page:
                    return False
                found.append(revisions(page))
            # All that the one had is at the other a moment later, and the reverse.
            return found[0] <= found[1] <= found[2]

        await until(equal, "both sides are equal", every=0.2)
        for place in (self.gateway, self.hub):
            await place.stop()


_FEW = 100
"""Documents that a device adds before they are on the other side."""


async def get(session: aiohttp.ClientSession, url: str) -> Any:
    """The JSON at a URL, None if nobody answers."""
    try:
        async with session.get(url) as response:
            return msgspec.json.decode(await response.read())
    except (aiohttp.ClientError, OSError):
        return None


def revisions(page: Mapping[str, Any]) -> Known:
    """All leaves in an answer to _changes."""
    return {(row["id"], change["rev"]) for row in page["results"] for change in row["changes"]}


# --- what is in a store's file ---------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    deleted: bool
    body: Any
    path: tuple[str, ...]
    """The hashes from this revision back to the oldest known one."""


@dataclass(frozen=True)
class Contents:
    """All of a store that replicates."""

    winners: dict[str, str]
    leaves: dict[str, dict[str, Leaf]]
    known: Known
    """Every revision in every document's tree."""

    def documents(self) -> Mapping[str, Any]:
        """The winners' bodies."""
        return {id: self.leaves[id][rev].body for id, rev in self.winners.items()}


def contents(path: Path) -> Contents:
    """Read a store's file by SQLite alone, after checking that it is whole."""
    winners: dict[str, str] = {}
    leaves: dict[str, dict[str, Leaf]] = {}
    known: Known = set()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        others: dict[str, dict[Rev, str]] = {}
        for id, *rev, body in db.execute("SELECT id, gen, hash, body FROM revisions WHERE leaf"):
            others.setdefault(id, {})[Rev(*rev)] = body
        rows = db.execute("SELECT id, gen, hash, deleted, conflicts, body, tree FROM docs")
        for id, generation, digest, deleted, conflicts, body, blob in rows:
            winner = Rev(generation, digest)
            bodies = {winner: body, **others.pop(id, {})}
            if blob is None:
                found = {winner: Leaf(bool(deleted), msgspec.json.decode(body), (digest,))}
                known.add((id, str(winner)))
            else:
                tree = RevTree.decode(blob)
                assert tree.winner() == winner
                found = {
                    rev: Leaf(tree.is_deleted(rev), msgspec.json.decode(bodies[rev]), path)
                    for rev in tree.leaves()
                    for path in [tree.path(rev)]
                }
                for rev, leaf in found.items():
                    known |= {
                        (id, f"{rev.generation - age}-{step}") for age, step in enumerate(leaf.path)
                    }
            assert bodies.keys() == found.keys(), id
            assert conflicts == sum(not leaf.deleted for leaf in found.values()) - (not deleted)
            winners[id] = str(winner)
            leaves[id] = {str(rev): leaf for rev, leaf in found.items()}
        assert not others, "bodies of revisions that no document has"
        counts = dict(db.execute("SELECT key, value FROM meta WHERE key LIKE 'doc%'"))
        dead = sum(leaves[id][rev].deleted for id, rev in winners.items())
        assert counts == {"doc_count": len(winners) - dead, "doc_del_count": dead}
    return Contents(winners, leaves, known)
