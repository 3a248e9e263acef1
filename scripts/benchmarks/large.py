"""What does not depend on how much there is: 5,000,000 documents beside 50,000.

Opening the store in a process that runs already; then, of a hub, `GET /db` and the last changes of
its feed. The two files are written directly, by SQL, with the store's own schema.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from agent.store.connection import open_writer
from agent.store.store import Store
from scripts.benchmarks.harness import BenchError, Options, Row, Target, milliseconds, take_turns
from scripts.benchmarks.http_client import connected
from scripts.benchmarks.processes import running_agent
from scripts.benchmarks.servers import DATABASE

DOCUMENTS = 5_000_000
BASELINE = 50_000
QUICK_DOCUMENTS = 20_000
QUICK_BASELINE = 200
LAST = 100
TARGET = Target(ratio_at_most=1.5)

_OPENED = 10
_ASKED = 50
_BYTES_EACH = 250

_FILL = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
INSERT INTO docs (seq, id, gen, hash, deleted, conflicts, body)
SELECT n, printf('reading:%010d', n), 1, lower(hex(randomblob(16))), 0, 0,
       printf('{"type":"reading","sequence":%d,"value":%d}', n, n % 1000)
FROM numbers
"""


@dataclass(frozen=True, slots=True)
class _Sample:
    """Milliseconds."""

    open: float
    info: float
    changes: float


async def run(options: Options) -> list[Row]:
    sizes = [
        QUICK_DOCUMENTS if options.quick else DOCUMENTS,
        QUICK_BASELINE if options.quick else BASELINE,
    ]
    free = shutil.disk_usage(options.folder).free
    if free < 2 * _BYTES_EACH * sizes[0]:
        raise BenchError(f"{sizes[0]:,} documents do not fit on this disk")
    for size in sizes:
        options.note(f"making {size:,} documents")
        await asyncio.to_thread(make_store, _folder(options, size) / f"{DATABASE}.sqlite", size)

    async def measure(size: int) -> _Sample:
        return await _measure(_folder(options, size), size)

    large, small = await take_turns(options, sizes, measure)
    peer = f"with {sizes[1]:,}"

    def row(what: str, field: str) -> Row:
        ours, theirs = [[getattr(sample, field) for sample in side] for side in (large, small)]
        return Row(what, "ms", ours, theirs, peer, TARGET)

    return [
        row(f"open a store with {sizes[0]:,} documents", "open"),
        row("  GET /db", "info"),
        row(f"  _changes, the last {LAST}", "changes"),
    ]


def _folder(options: Options, size: int) -> Path:
    return options.folder / str(size)


def make_store(path: Path, count: int) -> None:
    """A store file with so many readings, of one revision each."""
    path.parent.mkdir()
    with closing(open_writer(path, create=True)) as db:
        # Nobody else has the file yet, and nobody needs it after a crash.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        db.execute(_FILL, (count,))
        db.execute("UPDATE meta SET value = ? WHERE key = 'doc_count'", (count,))
        db.execute("COMMIT")


async def _measure(folder: Path, count: int) -> _Sample:
    path = folder / f"{DATABASE}.sqlite"
    opened = []
    for _ in range(_OPENED):
        started = time.perf_counter()
        store = await Store.open(path, create=False)
        opened.append((time.perf_counter() - started) * 1000)
        await store.close()
    async with running_agent("hub", "--data", str(folder), "--listen", "127.0.0.1:0") as hub:
        return await asyncio.to_thread(
            _ask, f"{hub.url}/{DATABASE}", count, statistics.median(opened)
        )


def _ask(url: str, count: int, opened: float) -> _Sample:
    with connected(url) as connection:
        if connection.ask("GET")["doc_count"] != count:
            raise BenchError(f"there are not {count} documents")
        if len(connection.ask("GET", f"_changes?since={count - LAST}")["results"]) != LAST:
            raise BenchError(f"there are not {LAST} last changes")
        # From another place on each time: followers of the same one share an answer.
        [info] = milliseconds([lambda _: connection.read("GET")], range(_ASKED))
        [changes] = milliseconds(
            [lambda number: connection.read("GET", f"_changes?since={count - LAST + number}")],
            range(_ASKED),
        )
    return _Sample(opened, statistics.median(info), statistics.median(changes))
