"""How long a sensor with 1,000,000 readings takes to open, over its month and over its last day.

Beside each range the bare count of it by SQL, in the client's own process: what walking the index
of ids takes, without reading a single value. "Cold" is after the file was put out of the system's
memory. The file is written directly, by SQL, with the store's own schema.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from agent.documents.times import microseconds, timestamp
from agent.store.connection import open_writer
from scripts.benchmarks.harness import BenchError, Options, Row, Target, take_turns
from scripts.benchmarks.http_client import Connection, connected
from scripts.benchmarks.processes import forget, running_agent
from scripts.benchmarks.servers import DATABASE

READINGS = 1_000_000
QUICK_READINGS = 2_000
TARGET = Target(at_most=1000.0)

_COUNT = "SELECT count(*) FROM docs WHERE id >= ? AND id < ?"
_START = microseconds("2026-03-01T00:00:00Z")
_DAYS = 30
_DAY = 86_400 * 1_000_000
_INSERT = (
    "INSERT INTO docs (seq, id, gen, hash, deleted, conflicts, body) VALUES (?, ?, 1, ?, 0, 0, ?)"
)
_BODY = (
    '{"boot":2882400001,"device":"greenhouse","sensor":"temperature","sequence":%d,"time":"%s",'
    '"type":"reading","unit":"C","value":%.2f}'
)


async def run(options: Options) -> list[Row]:
    count = QUICK_READINGS if options.quick else READINGS
    options.note(f"making {count:,} readings")
    data = options.folder / "hub"
    data.mkdir()
    path = data / f"{DATABASE}.sqlite"
    await asyncio.to_thread(_make, path, count)
    rows = []
    async with running_agent("hub", "--data", str(data), "--listen", "127.0.0.1:0") as hub:
        with connected(f"{hub.url}/{DATABASE}") as connection, closing(_opened(path)) as db:
            for days in (_DAYS, 1):
                for cold in (False, True):
                    ours, peer = await _measure(options, connection, db, path, days, count, cold)
                    what = f"{count:,} readings, {'the month' if days > 1 else 'the last day'}"
                    name = f"{what}, {'cold' if cold else 'warm'}"
                    rows.append(Row(name, "ms", ours, peer, "SQL, count alone", TARGET))
    return rows


def _make(path: Path, count: int) -> None:
    chance = random.Random(7)
    with closing(open_writer(path, create=True)) as db:
        # Nobody else has the file yet, and nobody needs it after a crash.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        times = (timestamp(_START + n * _DAYS * _DAY // count) for n in range(count))
        db.executemany(
            _INSERT,
            (
                (
                    n + 1,
                    f"greenhouse:temperature:{at}:{n:010d}",
                    f"{n:032x}",
                    _BODY % (n, at, 20 + 5 * chance.random()),
                )
                for n, at in enumerate(times)
            ),
        )
        db.execute("UPDATE meta SET value = ? WHERE key = 'doc_count'", (count,))
        db.execute("COMMIT")
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is dirty stays in memory


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)


async def _measure(
    options: Options,
    connection: Connection,
    db: sqlite3.Connection,
    path: Path,
    days: int,
    count: int,
    cold: bool,
) -> list[list[float]]:
    """Milliseconds of each round: ours, and the count's."""
    end = _START + _DAYS * _DAY
    start = end - days * _DAY
    asked = "_series?device=greenhouse&sensor=temperature"
    asked += f"&start={timestamp(start)}&end={timestamp(end)}"
    ids = tuple(f"greenhouse:temperature:{timestamp(at)}" for at in (start, end))

    def ours() -> int:
        return sum(connection.ask("GET", asked)["columns"]["count"])

    def by_hand() -> int:
        return int(db.execute(_COUNT, ids).fetchone()[0])

    async def measure(ask: Callable[[], int]) -> float:
        if cold:
            forget(path)
        started = time.perf_counter()
        found = await asyncio.to_thread(ask)
        took = (time.perf_counter() - started) * 1000
        if not 0.98 < found * _DAYS / (count * days) < 1.02:  # ours may be an estimate
            raise BenchError(f"{found} readings are not those of {days} days")
        return took

    if not cold:
        await asyncio.to_thread(by_hand)
        await asyncio.to_thread(ours)
    return await take_turns(options, [ours, by_hand], measure)
