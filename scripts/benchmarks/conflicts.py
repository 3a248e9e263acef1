"""How fast a policy merges conflicts, and how many revisions that makes in the whole system.

Two stores have the same conflicts: each document was edited on both sides, another field on each.
The time is that of one side, from the first conflict that it reads to the commit of the last. Then
the other side resolves them too, as if at the same moment, both replicate, and the revisions are
counted that neither had before. Beside it stands the policy that keeps the winner.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from agent.documents.policies import Best, Keep, Policy, Rule, ThreeWay
from agent.documents.revision import Revision, canonical, new_hash
from agent.documents.selector import parse_selector
from agent.peers.local import LocalPeer
from agent.replication.conflicts import Resolver
from agent.replication.replicator import Replicator
from agent.store.databases import Databases
from agent.store.store import Store
from scripts.benchmarks.harness import BenchError, Options, Row, Target, take_turns

CONFLICTS = 10_000
QUICK_CONFLICTS = 500
REVISIONS = Target(at_most=2.0)
_BATCH = 500


@dataclass(frozen=True, slots=True)
class _Sample:
    """Documents a second, and new revisions for each conflict."""

    rate: float
    revisions: float


async def run(options: Options) -> list[Row]:
    count = QUICK_CONFLICTS if options.quick else CONFLICTS
    revisions = _revisions(count)
    sides: list[Rule] = [ThreeWay(), Keep(Best())]
    measure = partial(_measure, options.folder / "round", revisions, count)
    merged, kept = await take_turns(options, sides, measure)
    what = f"{count:,} conflicts"
    return [
        Row(
            f"{what}, merged by field",
            "documents/s",
            [sample.rate for sample in merged],
            [sample.rate for sample in kept],
            "keeping the winner",
        ),
        Row(
            f"{what}, revisions made for each in the whole system",
            "revisions",
            [sample.revisions for sample in merged],
            [sample.revisions for sample in kept],
            "keeping the winner",
            target=REVISIONS,
        ),
    ]


def _revisions(count: int) -> list[Revision]:
    """Of each document the first revision and two edits of it."""
    made = []
    for number in range(count):
        id = f"setpoint:{number:06}"
        body = {"type": "setpoint", "zone": f"zone {number}", "day": 21.5, "night": 17.0}
        first = _revision(id, body)
        made += [first]
        made += [_revision(id, {**body, name: 20.0}, first) for name in ("day", "night")]
    return made


def _revision(id: str, body: dict[str, Any], parent: Revision | None = None) -> Revision:
    text = canonical(body)
    digest = new_hash(text, parent=None if parent is None else parent.rev, deleted=False)
    path = (digest,) if parent is None else (digest, *parent.path)
    return Revision(id, len(path), path, False, msgspec.json.encode(body).decode())


async def _measure(folder: Path, revisions: list[Revision], count: int, rule: Rule) -> _Sample:
    policy = Policy("bench", parse_selector({"type": "setpoint"}), rule)
    databases = Databases(folder)
    stores = [await databases.create(name) for name in ("gateway", "cloud")]
    for store in stores:
        for start in range(0, len(revisions), 3 * _BATCH):
            part = revisions[start : start + 3 * _BATCH]
            for kind in range(3):  # the first revisions, then the edits, as they came
                await store.graft(part[kind::3])
    before = await _known(stores)
    took = []
    for name, store in zip(("gateway", "cloud"), stores, strict=True):
        started = time.perf_counter()
        await Resolver(databases, name, [policy]).catch_up(store)
        took.append(time.perf_counter() - started)
    for source, target in (stores, stores[::-1]):
        await Replicator(LocalPeer(source), LocalPeer(target)).run()
    for store in stores:
        left = (await store.info()).conflict_count
        if left:
            raise BenchError(f"{left} conflicts are left")
    made = len(await _known(stores) - before)
    await databases.close()
    await asyncio.to_thread(shutil.rmtree, folder)
    return _Sample(count / took[0], made / count)


async def _known(stores: list[Store]) -> set[tuple[str, str]]:
    """All revisions that any of the stores knows."""
    known = set()
    for store in stores:
        seq, complete = 0, False
        while not complete:
            page = await store.changes(seq, limit=1000, bodies=False)
            for document in page.documents:
                known |= {(document.id, str(rev)) for rev in document.tree().all_revs()}
            seq, complete = page.last_seq, page.complete
    return known
