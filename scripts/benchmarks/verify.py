"""Verification: two stores of 1,000,000 documents compared, one of them a hub's, over HTTP.

First equal ones, then with ten documents edited on one side. The digests are there already, as they
are after the first verification; what that takes stands beside.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from agent.documents.revision import Rev, canonical
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.replication.verification import Verification
from agent.store.store import Store
from agent.store.transaction import Edit
from scripts.benchmarks.harness import BenchError, Options, Row, Target
from scripts.benchmarks.large import make_store
from scripts.benchmarks.processes import running_agent
from scripts.benchmarks.servers import DATABASE
from scripts.benchmarks.wire import Wire

DOCUMENTS = 1_000_000
QUICK_DOCUMENTS = 20_000
DIFFERENT = 10


@dataclass(frozen=True, slots=True)
class _Sample:
    """Seconds, and KiB in both directions."""

    first: float
    equal: float
    equal_kib: float
    different: float
    different_kib: float


async def run(options: Options) -> list[Row]:
    count = QUICK_DOCUMENTS if options.quick else DOCUMENTS
    options.note(f"making {count:,} documents")
    made = options.folder / "made" / f"{DATABASE}.sqlite"
    await asyncio.to_thread(_make, made, count)
    samples = []
    for number in range(options.rounds):
        options.note(f"round {number + 1} of {options.rounds}")
        samples.append(await _measure(options.folder / f"round-{number}", made, count))
    shown = f"{count:,} documents"

    def row(what: str, unit: str, field: str, most: float | None) -> Row:
        target = None if most is None else Target(at_most=most)
        return Row(what, unit, [getattr(sample, field) for sample in samples], target=target)

    return [
        row(f"verify {shown} for the first time", "s", "first", None),
        row(f"verify {shown}, equal", "s", "equal", 1.0),
        row("  exchanged", "KiB", "equal_kib", 64),
        row(f"find {DIFFERENT} that differ among {shown}", "s", "different", 3.0),
        row("  exchanged", "KiB", "different_kib", None),
    ]


def _make(path: Path, count: int) -> None:
    if shutil.disk_usage(path.parent.parent).free < 4 * 300 * count:
        raise BenchError(f"{count:,} documents do not fit on this disk")
    make_store(path, count)


async def _measure(folder: Path, made: Path, count: int) -> _Sample:
    (folder / "hub").mkdir(parents=True)
    here = folder / "here.sqlite"
    for copy in (here, folder / "hub" / f"{DATABASE}.sqlite"):
        await asyncio.to_thread(shutil.copyfile, made, copy)
    store = await Store.open(here, create=False)
    hub = running_agent("hub", "--data", str(folder / "hub"), "--listen", "127.0.0.1:0")
    async with hub as process:
        wire = Wire(urlsplit(process.url).port or 0)
        async with wire.open():
            peer = CouchPeer.from_url(f"http://127.0.0.1:{wire.port}/{DATABASE}")
            first, _ = await _verify(store, peer, wire, 0)
            equal, equal_kib = await _verify(store, peer, wire, 0)
            for number in random.sample(range(1, count + 1), DIFFERENT):
                await _edit(store, f"reading:{number:010d}")
            different, different_kib = await _verify(store, peer, wire, DIFFERENT)
            await peer.close()
    await store.close()
    await asyncio.to_thread(shutil.rmtree, folder)
    return _Sample(first, equal, equal_kib, different, different_kib)


async def _verify(store: Store, peer: CouchPeer, wire: Wire, expected: int) -> tuple[float, float]:
    before = wire.bytes
    started = time.perf_counter()
    check = Verification(LocalPeer(store), peer)
    found = [item async for item in check.differences(settle=0)]
    took = time.perf_counter() - started
    if (check.by, len(found)) != ("ranges", expected):
        raise BenchError(f"{len(found)} documents were found by {check.by}, not {expected}")
    return took, (wire.bytes - before) / 1024


async def _edit(store: Store, id: str) -> None:
    document = await store.get(id)
    if document is None:
        raise BenchError(f"{id} is not there")
    body = {"edited": True}
    parent: Rev = document.rev
    await store.edit([Edit(id, parent, False, msgspec.json.encode(body).decode(), canonical(body))])
