"""How fast the store takes readings, beside bare SQLite with the same bytes and durability.

Bare SQLite gets encoded bytes and writes one table. The store gets what the recorder has, a dict
for each reading; it is encoded and hashed, its id is looked up, and it goes into two b-trees. Both
commit batch by batch with WAL and synchronous=FULL, each into a new file in every round. Opening
and closing the files is not counted.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agent.documents.revision import Revision, first_revision
from agent.store.store import Store
from scripts.benchmarks.harness import BenchError, Options, Row, Target
from scripts.benchmarks.readings import BATCH, bodies

READINGS = 100_000
QUICK_READINGS = 5_000
TARGET = Target(ratio_at_least=0.40)

_PEER = "sqlite3.executemany"
_CACHE_KIB = 4096  # as much as the store's writer has

_Body = tuple[str, dict[str, Any]]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Sample:
    """Readings a second, and processor seconds for all of them."""

    rate: float
    cpu: float


@dataclass(frozen=True, slots=True)
class _Data:
    """The same readings, in batches, as each way of storing them gets them."""

    count: int
    bodies: list[list[_Body]]
    revisions: list[list[Revision]]
    encoded: list[list[tuple[str, bytes]]]


async def run(options: Options) -> list[Row]:
    count = QUICK_READINGS if options.quick else READINGS
    data = _data(count)
    # So that what the benchmark holds costs neither side time in the garbage collector.
    gc.collect()
    gc.freeze()
    ways: list[tuple[str, Callable[[Path], _Sample]]] = [
        ("raw", lambda path: _raw(path, data)),
        ("recorder", lambda path: asyncio.run(_record(path, data))),
        ("graft", lambda path: asyncio.run(_graft(path, data))),
    ]
    samples: dict[str, list[_Sample]] = {name: [] for name, _ in ways}
    try:
        for number in range(options.rounds):
            options.note(f"round {number + 1} of {options.rounds}")
            # Another one goes first in each round.
            for name, way in [*ways[number % 3 :], *ways[: number % 3]]:
                path = options.folder / f"{name}-{number}.sqlite"
                samples[name].append(await asyncio.to_thread(way, path))
                _check(path, count)
    finally:
        gc.unfreeze()

    def rates(name: str) -> list[float]:
        return [sample.rate for sample in samples[name]]

    def cpu(name: str) -> list[float]:
        return [sample.cpu for sample in samples[name]]

    shown = f"{count:,} readings"
    return [
        Row(f"ingest {shown}", "1/s", rates("recorder"), rates("raw"), _PEER, TARGET),
        Row("  revisions made before", "1/s", rates("graft"), rates("raw"), _PEER),
        Row("  processor time", "s", cpu("recorder"), cpu("raw"), _PEER),
    ]


def _data(count: int) -> _Data:
    every = bodies(count)
    revisions = [first_revision(id, body) for id, body in every]
    return _Data(
        count,
        _batches(every),
        _batches(revisions),
        _batches([(revision.id, revision.body.encode()) for revision in revisions]),
    )


def _batches(items: Sequence[_T]) -> list[list[_T]]:
    return [list(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]


def _raw(path: Path, data: _Data) -> _Sample:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute("CREATE TABLE docs (id TEXT PRIMARY KEY, body) WITHOUT ROWID")
        stopwatch = _Stopwatch()
        for batch in data.encoded:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO docs VALUES (?, ?)", batch)
            db.execute("COMMIT")
        return stopwatch.sample(data.count)


async def _record(path: Path, data: _Data) -> _Sample:
    """As the recorder does: each batch becomes revisions, which become durable."""
    store = await Store.open(path)
    try:
        stopwatch = _Stopwatch()
        for batch in data.bodies:
            await store.graft([first_revision(id, body) for id, body in batch])
        return stopwatch.sample(data.count)
    finally:
        await store.close()


async def _graft(path: Path, data: _Data) -> _Sample:
    """As the replicator does: the revisions are there already."""
    store = await Store.open(path)
    try:
        stopwatch = _Stopwatch()
        for batch in data.revisions:
            await store.graft(batch)
        return stopwatch.sample(data.count)
    finally:
        await store.close()


class _Stopwatch:
    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def sample(self, count: int) -> _Sample:
        wall = time.perf_counter() - self._wall
        return _Sample(count / wall, time.process_time() - self._cpu)


def _check(path: Path, count: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT count(*) FROM docs").fetchone()[0]
    path.unlink()
    if found != count:
        raise BenchError(f"{found} of {count} readings were stored")
