"""How soon a write here is durable there, while a live replication runs.

A gateway with a hub, over MQTT and over HTTP, beside PouchDB with pouchdb-server: both take the
writes from their standard input. Writes are evenly spaced, and none waits for another. The time is
that from the moment at which a write is asked for to the moment at which the remote's own changes
feed tells it to somebody else, who asks by long polling, since pouchdb-server has no other feed
that works. A hub tells what it has committed, pouchdb-server what it has given to LevelDB, which
does not wait for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import msgspec

from scripts.benchmarks.brokers import running_hub
from scripts.benchmarks.harness import BenchError, Options, Row, Target
from scripts.benchmarks.readings import bodies
from scripts.benchmarks.servers import DATABASE
from tests.mqtt.mosquitto import Mosquitto
from tests.peers.pouch import Pouch
from tests.peers.pouchdb_server import PouchDBServer

WRITES = 500
QUICK_WRITES = 20
INTERVAL = 0.05
TARGET = Target(ratio_at_most=0.5)

_PEER = "PouchDB"
_LONGEST_WAIT = 120.0

_Body: TypeAlias = dict[str, Any]
_Place: TypeAlias = tuple[Callable[[str, _Body], Coroutine[Any, Any, None]], str]
"""How a document is written here, and the URL of the database there."""


async def run(options: Options) -> list[Row]:
    count = QUICK_WRITES if options.quick else WRITES
    taken: dict[str, list[list[float]]] = {"MQTT": [], "HTTP": [], _PEER: []}
    async with Mosquitto(options.folder / "mosquitto") as broker:
        for number in range(options.rounds):
            for way in taken if number % 2 else reversed(taken):
                options.note(f"{count} writes over {way}, round {number + 1} of {options.rounds}")
                folder = options.folder / f"{number}-{way}"
                folder.mkdir()
                async with _pair(way, broker, folder) as place:
                    taken[way].append(await _measure(place, count))
    rows = []
    for name, quantile, target in (("p50", 0.50, TARGET), ("p99", 0.99, None)):
        figures = {way: [_quantile(times, quantile) for times in taken[way]] for way in taken}
        for way in ("MQTT", "HTTP"):
            what = f"write to durable at the remote, {way}, {name}"
            rows.append(Row(what, "ms", figures[way], figures[_PEER], _PEER, target))
    return rows


def _quantile(times: list[float], quantile: float) -> float:
    """In milliseconds."""
    return 1000 * statistics.quantiles(times, n=100, method="inclusive")[round(quantile * 100) - 1]


@contextlib.asynccontextmanager
async def _pair(way: str, broker: Mosquitto, folder: Path) -> AsyncIterator[_Place]:
    if way == _PEER:
        async with PouchDBServer(folder / "server") as server, Pouch() as pouch:
            database = await pouch.open(DATABASE, directory=folder / "client")
            url = f"{server.url}/{DATABASE}"
            await database.live(url, retry=True)

            async def put(id: str, body: _Body) -> None:
                await database.put({"_id": id, **body})

            yield put, url
        return
    async with running_hub(folder / "hub", broker) as hub:
        remote = f"{broker.url if way == 'MQTT' else hub.url}/edge"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "scripts.benchmarks.live_gateway", str(folder / "gateway.sqlite"), remote),
            stdin=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        lines = process.stdin

        async def write(id: str, body: _Body) -> None:
            lines.write(msgspec.json.encode({"_id": id, **body}) + b"\n")
            await lines.drain()

        try:
            yield write, f"{hub.url}/edge"
            lines.close()
            await asyncio.wait_for(process.wait(), _LONGEST_WAIT)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


class _Follower:
    """Notes when the remote tells of each document."""

    def __init__(self, url: str) -> None:
        self.seen: dict[str, float] = {}
        self._url = url
        self._news = asyncio.Event()

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            await _wait_for_database(session, self._url)
            since = "0"
            while True:
                params = {"feed": "longpoll", "since": since}
                async with session.get(f"{self._url}/_changes", params=params) as response:
                    page = msgspec.json.decode(await response.read())
                now = time.perf_counter()
                for change in page["results"]:
                    self.seen.setdefault(change["id"], now)
                since = str(page["last_seq"])
                self._news.set()

    async def saw(self, ids: Collection[str]) -> None:
        """Returns once it has seen all of them."""
        while not self.seen.keys() >= ids:
            self._news.clear()
            await self._news.wait()


async def _measure(place: _Place, count: int) -> list[float]:
    """Seconds that each of `count` writes took."""
    write, url = place
    follower = _Follower(url)
    asked: dict[str, float] = {}
    try:
        async with asyncio.timeout(_LONGEST_WAIT + count * INTERVAL), asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follower.run())
            # The first one, which does not count, shows that everything is connected.
            await write("first", {})
            await follower.saw({"first"})
            start = time.perf_counter()
            for number, (id, body) in enumerate(bodies(count)):
                await asyncio.sleep(start + number * INTERVAL - time.perf_counter())
                asked[id] = time.perf_counter()
                tasks.create_task(write(id, body))
            await follower.saw(asked.keys())
            following.cancel()
    except TimeoutError:
        missing = len(asked.keys() - follower.seen.keys())
        raise BenchError(f"{missing} of {len(asked)} writes did not arrive at {url}") from None
    return [follower.seen[id] - asked[id] for id in asked]


async def _wait_for_database(session: aiohttp.ClientSession, url: str) -> None:
    """The live replication makes it."""
    end = time.monotonic() + _LONGEST_WAIT
    while time.monotonic() < end:
        async with session.get(url) as response:
            if response.ok:
                return
        await asyncio.sleep(0.05)
    raise BenchError(f"{url} was not made by the replication")
