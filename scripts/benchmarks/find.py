"""How long `_find` takes with an index over 1,000,000 documents, beside the same SQL by hand.

The query: the readings of one sensor from a time on, in order, an equality and a range on an index
of two fields. By hand there is an index on the same two JSON values, in a copy of the file, and the
rows become the same JSON text. Two peers have that query: behind a bare aiohttp handler that runs
it in a thread, as any server in Python would, and in the client's own process, without a server.
All take turns query by query.

The target is judged beside the bare handler: that is the same SQL with the same delivery. Beside
SQL without any server the ratio is mostly HTTP's, which makes the bare handler itself 1.6 times as
slow with 1000 documents, and ten times with 25; those rows are there to be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from agent.documents.revision import first_revision
from agent.store.store import Store
from scripts.benchmarks.by_hand import make_index, open_by_hand, query
from scripts.benchmarks.harness import BenchError, Options, Row, Target, milliseconds
from scripts.benchmarks.http_client import Connection, connected
from scripts.benchmarks.processes import running_agent, running_server
from scripts.benchmarks.readings import bodies
from scripts.benchmarks.servers import DATABASE

DOCUMENTS = 1_000_000
QUICK_DOCUMENTS = 5_000
LIMITS = (25, 200, 1000)
QUERIES = 100
QUICK_QUERIES = 3
TARGET = Target(ratio_at_most=2.0)

_BARE = "SQL by hand, no server"
_SERVED = "SQL by hand, bare aiohttp"
_SENSOR = "co2"
_FIELDS = ["sensor", "time"]
_PIECE = 5_000


class _Ask(Protocol):
    def __call__(self, since: str, limit: int) -> bytes:
        """The answer to the query."""


async def run(options: Options) -> list[Row]:
    count = QUICK_DOCUMENTS if options.quick else DOCUMENTS
    options.note(f"making {count:,} documents and indexes")
    data, copy = options.folder / "hub", options.folder / "by-hand.sqlite"
    times = await _make(data, copy, count)
    chance = random.Random(7)
    asked = chance.sample(times, QUICK_QUERIES if options.quick else QUERIES)
    samples: dict[int, list[list[float]]] = {}
    async with _sides(data, copy) as sides:
        await asyncio.to_thread(_check, sides, asked)
        for limit in LIMITS:
            options.note(f"{limit} documents each")
            limited = [partial(ask, limit=limit) for ask in sides]
            rounds = [
                await asyncio.to_thread(milliseconds, limited, asked) for _ in range(options.rounds)
            ]
            samples[limit] = [
                [statistics.median(took) for took in side] for side in zip(*rounds, strict=True)
            ]
    rows = []
    for limit, (ours, served, bare) in samples.items():
        what = f"_find, {limit:,} of {count:,} documents"
        rows.append(Row(what, "ms", ours, served, _SERVED, TARGET))
        rows.append(Row("  not judged: beside SQL alone", "ms", ours, bare, _BARE))
    return rows


async def _make(data: Path, copy: Path, count: int) -> list[str]:
    """A hub's folder with the documents and an index on them, and a copy of the file with another.

    Returns the times from which on there are as many readings as any query asks for.
    """
    await asyncio.to_thread(data.mkdir)
    path = data / f"{DATABASE}.sqlite"
    times = []
    store = await Store.open(path)
    try:
        for start in range(0, count, _PIECE):
            piece = bodies(min(_PIECE, count - start), start=start)
            times += [body["time"] for _, body in piece if body["sensor"] == _SENSOR]
            await store.graft([first_revision(id, body) for id, body in piece])
    finally:
        await store.close()
    await asyncio.to_thread(shutil.copy, path, copy)
    await asyncio.to_thread(make_index, copy)
    return times[: -max(LIMITS)]


@contextlib.asynccontextmanager
async def _sides(data: Path, copy: Path) -> AsyncIterator[list[_Ask]]:
    """Ours, and SQL by hand behind HTTP, and without it."""
    hub = running_agent("hub", "--data", str(data), "--listen", "127.0.0.1:0")
    by_hand = running_server(sys.executable, "-m", "scripts.benchmarks.by_hand", str(copy))
    async with hub as ours, by_hand as peer:
        with (
            connected(f"{ours.url}/{DATABASE}") as connection,
            connected(f"{peer.url}/{DATABASE}") as other,
            closing(open_by_hand(copy)) as db,
        ):
            index = {"index": {"fields": _FIELDS}, "type": "json"}
            await asyncio.to_thread(connection.ask, "POST", "_index", index)
            yield [
                lambda since, limit: _find(connection, since, limit),
                lambda since, limit: other.read(
                    "POST", "query", msgspec.json.encode([_SENSOR, since, limit])
                ),
                lambda since, limit: query(db, _SENSOR, since, limit),
            ]


def _find(connection: Connection, since: str, limit: int) -> bytes:
    asked: dict[str, Any] = {"selector": {"sensor": _SENSOR, "time": {"$gte": since}}}
    asked["limit"] = limit
    return connection.read("POST", "_find", msgspec.json.encode(asked))


def _check(sides: list[_Ask], asked: list[str]) -> None:
    """That all give the same documents; it also brings them into the page cache."""
    for since in asked:
        for limit in LIMITS:
            found = [msgspec.json.decode(ask(since, limit))["docs"] for ask in sides]
            if len(found[0]) != limit or any(docs != found[0] for docs in found):
                raise BenchError(f"_find from {since} on does not give what SQL gives")
