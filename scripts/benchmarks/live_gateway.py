"""What a gateway's agent is for one remote, in a process of its own: `live` runs it.

    python -m scripts.benchmarks.live_gateway STORE URL

A store and the two jobs that keep it and the remote equal, as the agent makes them. It stores each
line of its standard input, a JSON object with an `_id`, as the recorder stores a reading.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from agent.documents.revision import first_revision
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.peers.mqtt import MqttPeer
from agent.peers.mqtt_topics import is_mqtt
from agent.peers.peer import Peer
from agent.replication.arrivals import Arrivals
from agent.replication.job import Job
from agent.replication.replicator import Replicator
from agent.store.store import Store


async def _run(path: Path, url: str) -> None:
    store = await Store.open(path)
    local = LocalPeer(store)
    remote: Peer = (
        MqttPeer.from_url(url, node="gateway") if is_mqtt(url) else CouchPeer.from_url(url)
    )
    arrivals = Arrivals()
    push = Replicator(local, remote, continuous=True, create_target=True, unasked=arrivals)
    pull = Replicator(remote, local, continuous=True, create_source=True, brought=arrivals)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            jobs = [
                tasks.create_task(Job(name, replicator, patient=True).run())
                for name, replicator in (("push", push), ("pull", pull))
            ]
            while line := await lines.readline():
                body = msgspec.json.decode(line)
                revision = first_revision(body.pop("_id"), body)
                tasks.create_task(store.graft([revision]))
            for job in jobs:
                job.cancel()
    finally:
        await remote.close()
        await store.close()


if __name__ == "__main__":
    asyncio.run(_run(Path(sys.argv[1]), sys.argv[2]))
