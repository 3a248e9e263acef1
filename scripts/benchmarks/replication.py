"""How fast readings replicate, each way, and what that takes both sides.

`edge-agent replicate` with a hub, over HTTP, beside PouchDB with pouchdb-server: databases,
processes and connections are new in every round. With --couchdb both clients replicate with that
server, too. The time is that of the replication itself, from its first request to the last
checkpoint. The agents make everything durable; PouchDB's LevelDB does not wait for the disk.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.clients import Client, EdgeAgent, PouchClient
from scripts.benchmarks.harness import Options, Row, Target
from scripts.benchmarks.processes import cpu_seconds, peak_mib
from scripts.benchmarks.readings import revisions
from scripts.benchmarks.servers import CouchDB, Hub, PouchServer, Server, fill_store

READINGS = 20_000
QUICK_READINGS = 2_000
TARGET = Target(ratio_at_least=5.0)
DIRECTIONS = ("push", "pull")

_POUCHDB_DEFAULT = 100
_BATCH_SIZES = (_POUCHDB_DEFAULT, 500, 1000)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A client and a server."""

    name: str
    client: Client
    server: Server


@dataclass(frozen=True, slots=True)
class _Sample:
    """Documents a second; processor seconds and peak memory in MiB, of client and server."""

    rate: float
    client_cpu: float
    client_peak: float
    server_cpu: float | None
    server_peak: float | None


@dataclass(frozen=True, slots=True)
class _Match:
    """Two pairs beside each other: ours, and the peer."""

    label: str
    ours: _Pair
    peer: _Pair
    target: Target | None


async def run(options: Options) -> list[Row]:
    count = QUICK_READINGS if options.quick else READINGS
    options.note(f"making {count:,} readings")
    matches, pouch = await _matches(options, count)
    if not options.quick:
        await _find_best(options, matches, pouch, count)
    rows: list[Row] = []
    for direction in DIRECTIONS:
        samples: dict[str, list[_Sample]] = {}
        for number in range(options.rounds):
            options.note(f"{direction}, round {number + 1} of {options.rounds}")
            for match in matches:
                pairs = (match.ours, match.peer) if number % 2 else (match.peer, match.ours)
                for pair in pairs:
                    sample = await _measure(pair, direction, options.folder / "round", count)
                    samples.setdefault(pair.name, []).append(sample)
        size = pouch.batch_size.get(direction, _POUCHDB_DEFAULT)
        for match in matches:
            rows += _rows(match, direction, samples, count, size)
    return rows


async def _matches(options: Options, count: int) -> tuple[list[_Match], PouchClient]:
    every = revisions(count)
    folder = options.folder
    await fill_store(folder / "template.sqlite", every)
    edge_agent = EdgeAgent(folder / "template.sqlite", count)
    pouch = PouchClient(folder / "pouchdb", count)
    await pouch.make_template(every)
    pouch_server = PouchServer(folder / "pouchdb-server")
    await pouch_server.make_template(every)
    matches = [
        _Match(
            "agent",
            _Pair("edge-agent", edge_agent, Hub(folder / "template.sqlite")),
            _Pair("PouchDB", pouch, pouch_server),
            TARGET,
        )
    ]
    if options.couchdb is not None:
        couchdb = CouchDB(options.couchdb, every)
        matches.append(
            _Match(
                "CouchDB",
                _Pair("edge-agent, CouchDB", edge_agent, couchdb),
                _Pair("PouchDB, CouchDB", pouch, couchdb),
                None,
            )
        )
    return matches, pouch


async def _find_best(
    options: Options, matches: list[_Match], pouch: PouchClient, count: int
) -> None:
    """Give PouchDB the batch size that serves it best here, each way."""
    for direction in DIRECTIONS:
        rates = {}
        for size in _BATCH_SIZES:
            pouch.batch_size[direction] = size
            sample = await _measure(matches[0].peer, direction, options.folder / "round", count)
            rates[size] = sample.rate
            options.note(f"{direction}, PouchDB in batches of {size}: {sample.rate:,.0f} a second")
        pouch.batch_size[direction] = max(rates, key=rates.__getitem__)


async def _measure(pair: _Pair, direction: str, folder: Path, count: int) -> _Sample:
    await asyncio.to_thread(folder.mkdir)
    try:
        push = direction == "push"
        place = pair.server.empty(folder) if push else pair.server.filled(folder)
        async with place as (url, pid):
            before = cpu_seconds(pid) if pid else 0.0
            client = pair.client
            done = await (client.push(url, folder) if push else client.pull(url, folder))
            return _Sample(
                rate=count / done.seconds,
                client_cpu=done.cpu,
                client_peak=done.peak,
                server_cpu=cpu_seconds(pid) - before if pid else None,
                server_peak=peak_mib(pid) if pid else None,
            )
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)


def _rows(
    match: _Match, direction: str, samples: dict[str, list[_Sample]], count: int, batch_size: int
) -> list[Row]:
    ours, peer = samples[match.ours.name], samples[match.peer.name]
    way = f"{direction} {'to' if direction == 'push' else 'from'} {match.label}"
    peer_name = f"PouchDB, batches of {batch_size}"
    rows = [
        Row(
            f"{way}, {count:,} readings",
            "1/s",
            [sample.rate for sample in ours],
            [sample.rate for sample in peer],
            peer_name,
            match.target,
        )
    ]
    for what, unit, field in (
        ("client's processor time", "s", "client_cpu"),
        ("server's processor time", "s", "server_cpu"),
        ("client's peak memory", "MiB", "client_peak"),
        ("server's peak memory", "MiB", "server_peak"),
    ):
        figures = [[getattr(sample, field) for sample in side] for side in (ours, peer)]
        if None not in figures[0]:
            rows.append(Row(f"  {what}", unit, figures[0], figures[1], peer_name))
    return rows
