"""How fast one HTTP client writes readings with `_bulk_docs`, batch after batch.

To a hub, beside pouchdb-server on LevelDB, and with --couchdb beside that server: each time to a
new database, and to a server that has just started where it is started here. The agent has made
each batch durable when it answers; LevelDB does not wait for the disk.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass

import msgspec

from scripts.benchmarks.harness import BenchError, Options, Row, Target, take_turns
from scripts.benchmarks.http_client import connected
from scripts.benchmarks.processes import cpu_seconds
from scripts.benchmarks.readings import BATCH, bodies
from scripts.benchmarks.servers import Place, Server, peers

READINGS = 20_000
QUICK_READINGS = 2_000
TARGET = Target(ratio_at_least=4.0)
COUCHDB_TARGET = Target(ratio_at_least=1.0)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Readings a second, and the server's processor seconds for all of them."""

    rate: float
    cpu: float


async def run(options: Options) -> list[Row]:
    count = QUICK_READINGS if options.quick else READINGS
    requests = _requests(count)
    ours, *others = peers(options)

    async def measure(side: tuple[str, Server]) -> _Sample:
        folder = options.folder / "round"
        await asyncio.to_thread(folder.mkdir)
        try:
            async with side[1].empty(folder) as place:
                return await asyncio.to_thread(_write, place, requests, count)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder)

    own, *samples = await take_turns(options, [ours, *others], measure)
    rows = []
    for number, ((name, _), sample) in enumerate(zip(others, samples, strict=True)):
        rows.append(
            Row(
                f"_bulk_docs of {count:,} readings, {BATCH} each",
                "1/s",
                [one.rate for one in own],
                [one.rate for one in sample],
                name,
                COUCHDB_TARGET if number else TARGET,
            )
        )
    rows.append(
        Row(
            "  server's processor time",
            "s",
            [one.cpu for one in own],
            [one.cpu for one in samples[0]],
            others[0][0],
        )
    )
    return rows


def _requests(count: int) -> list[bytes]:
    """The bodies of the requests."""
    docs = [{"_id": id, **body} for id, body in bodies(count)]
    return [
        msgspec.json.encode({"docs": docs[start : start + BATCH]})
        for start in range(0, count, BATCH)
    ]


def _write(place: Place, requests: list[bytes], count: int) -> _Sample:
    url, pid = place
    with connected(url) as connection:
        connection.create()
        before, started = cpu_seconds(pid) if pid else 0.0, time.perf_counter()
        answers = [connection.read("POST", "_bulk_docs", body) for body in requests]
        seconds = time.perf_counter() - started
        cpu = cpu_seconds(pid) - before if pid else 0.0
        stored = connection.ask("GET")["doc_count"]
    if stored != count or any(b'"error"' in answer for answer in answers):
        raise BenchError(f"{stored} of {count} readings were stored")
    return _Sample(count / seconds, cpu)
