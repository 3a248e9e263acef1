"""How long one HTTP client waits for the answer to a single PUT, and to a single GET.

Readings one after the other, over one connection, to a hub, beside pouchdb-server on LevelDB, and
with --couchdb beside that server; databases are new in every round. A figure is the median of all
requests of a round. The agent's answer to a PUT comes after an fsync; LevelDB does not wait for the
disk. They are not asked alternately, since an fsync waits for what others have written, too.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from scripts.benchmarks.harness import Options, Row, Target, milliseconds, take_turns
from scripts.benchmarks.http_client import connected, path_of
from scripts.benchmarks.processes import cpu_seconds
from scripts.benchmarks.readings import bodies
from scripts.benchmarks.servers import Place, Server, peers

READINGS = 1_000
QUICK_READINGS = 50
TARGET = Target(ratio_at_most=0.5)

_WARM = 50
"""Requests that are not counted: Node.js compiles what it runs often."""


_Doc = tuple[str, bytes]
"""Its path and its JSON text."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Milliseconds that half of the requests take at most, and 95 of 100; the server's processor
    milliseconds for one."""

    p50: float
    p95: float
    cpu: float


@dataclass(frozen=True, slots=True)
class _Sample:
    put: _Kind
    get: _Kind


async def run(options: Options) -> list[Row]:
    docs = [
        (path_of(id), msgspec.json.encode(body))
        for id, body in bodies(_WARM + (QUICK_READINGS if options.quick else READINGS))
    ]
    ours, *others = peers(options)

    async def measure(side: tuple[str, Server]) -> _Sample:
        folder = options.folder / "round"
        await asyncio.to_thread(folder.mkdir)
        try:
            async with side[1].empty(folder) as place:
                return await asyncio.to_thread(_measure, place, docs)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder)

    own, *theirs = await take_turns(options, [ours, *others], measure)
    rows = []
    for number, ((name, _), sample) in enumerate(zip(others, theirs, strict=True)):
        target = None if number else TARGET
        for method in ("put", "get"):
            mine = [getattr(one, method) for one in own]
            peer = [getattr(one, method) for one in sample]
            rows += [
                _row(f"single {method.upper()}, p50", "p50", mine, peer, name, target),
                _row("  p95", "p95", mine, peer, name),
            ]
            if not number:
                rows.append(_row("  server's processor time", "cpu", mine, peer, name))
    return rows


def _row(
    what: str,
    field: str,
    ours: list[_Kind],
    peer: list[_Kind],
    peer_name: str,
    target: Target | None = None,
) -> Row:
    mine, theirs = [[getattr(kind, field) for kind in side] for side in (ours, peer)]
    return Row(what, "ms", mine, theirs, peer_name, target)


def _measure(place: Place, docs: Sequence[_Doc]) -> _Sample:
    url, pid = place

    def put(doc: _Doc) -> None:
        connection.read("PUT", *doc)

    def get(doc: _Doc) -> None:
        connection.read("GET", doc[0])

    with connected(url) as connection:
        connection.create()
        written = _timed(pid, put, docs)
        # Not in the order in which they were written.
        read = _timed(pid, get, random.Random(7).sample(docs, len(docs)))
    return _Sample(written, read)


def _timed(pid: int | None, request: Callable[[_Doc], None], docs: Sequence[_Doc]) -> _Kind:
    milliseconds([request], docs[:_WARM])
    before = cpu_seconds(pid) if pid else 0.0
    [took] = milliseconds([request], docs[_WARM:])
    cpu = cpu_seconds(pid) - before if pid else 0.0
    p95 = statistics.quantiles(took, n=20)[-1]
    return _Kind(statistics.median(took), p95, cpu * 1000 / len(took))
