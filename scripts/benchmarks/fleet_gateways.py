"""Some of a fleet's gateways, in one process of their own: `fleet` runs several of these.

    python -m scripts.benchmarks.fleet_gateways BROKER FIRST COUNT READINGS PATIENCE

Each is what an agent is for its remote, a job with a replicator and an `MqttPeer`, but for the
store: its readings wait in memory. PATIENCE is how many seconds it waits for an answer that does
not come, as it is with a bridge that was killed. It prints `ready`, begins when a line comes on its
standard input, and prints how many seconds each gateway took until the remote had everything.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec

from agent.documents.attachment import Attachment
from agent.documents.revision import Revision, first_revision
from agent.peers.mqtt import MqttPeer
from agent.peers.peer import Change, ChangeBatch, Contents, PeerInfo, Seq, WriteResult
from agent.replication.job import Job
from agent.replication.replicator import Replicator
from scripts.benchmarks.readings import bodies
from scripts.benchmarks.servers import DATABASE


class WaitingReadings:
    """A source that has everything in memory."""

    def __init__(self, node: str, count: int) -> None:
        self.identity = f"store:{node}"
        self.label = node
        self._revisions = {}
        for id, body in bodies(count):
            revision = first_revision(f"{node}:{id}", {**body, "device": node})
            self._revisions[revision.id] = revision
        self._local: dict[str, dict[str, Any]] = {}

    async def info(self) -> PeerInfo:
        count = len(self._revisions)
        return PeerInfo(count, count, "1", "bench")

    async def create(self) -> None:
        """It exists."""

    async def changes(
        self,
        since: Seq,
        *,
        follow: bool,
        limit: int,
        selector: Mapping[str, Any] | None = None,
        doc_ids: Sequence[str] | None = None,
    ) -> AsyncGenerator[ChangeBatch, None]:
        revisions = list(self._revisions.values())
        while True:
            page = revisions[since : since + limit]
            changes = tuple(
                Change(seq, revision.id, (str(revision.rev),), False)
                for seq, revision in enumerate(page, since + 1)
            )
            since += len(page)
            yield ChangeBatch(changes, since, len(revisions) - since)
            if since == len(revisions):
                return

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        return {id: missing for id, missing in revs.items() if id not in self._revisions}

    async def fetch(
        self, wanted: Sequence[tuple[str, Sequence[str]]]
    ) -> Sequence[Revision | WriteResult]:
        return [self._revisions[id] for id, _ in wanted]

    def attachment(self, revision: Revision, attachment: Attachment) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError

    async def store(
        self, revisions: Sequence[Revision], contents: Contents | None = None
    ) -> Sequence[WriteResult]:
        raise NotImplementedError

    async def get_local(self, id: str) -> dict[str, Any] | None:
        return self._local.get(id)

    async def put_local(self, id: str, doc: Mapping[str, Any]) -> str:
        generation = int(self._local.get(id, {"_rev": "0-0"})["_rev"][2:]) + 1
        rev = f"0-{generation}"
        self._local[id] = {**doc, "_rev": rev}
        return rev

    async def ensure_full_commit(self) -> str:
        return "1"

    async def close(self) -> None:
        """Nothing is open."""


async def _replicate(url: str, source: WaitingReadings, patience: float) -> float:
    """Seconds until it has converged."""
    started = time.perf_counter()
    node = source.label
    peer = MqttPeer.from_url(f"{url}/{DATABASE}", node=node, announce=True, timeout=patience)
    try:
        await Job(node, Replicator(source, peer), patient=True).run()
    finally:
        await peer.close()
    return time.perf_counter() - started


async def _run(url: str, sources: list[WaitingReadings], patience: float) -> list[float]:
    return await asyncio.gather(*(_replicate(url, source, patience) for source in sources))


def main() -> None:
    url, patience = sys.argv[1], float(sys.argv[5])
    first, count, readings = map(int, sys.argv[2:5])
    nodes = [f"gateway-{number:04d}" for number in range(first, first + count)]
    sources = [WaitingReadings(node, readings) for node in nodes]
    print("ready", flush=True)
    sys.stdin.readline()
    print(msgspec.json.encode(asyncio.run(_run(url, sources, patience))).decode(), flush=True)


if __name__ == "__main__":
    main()
