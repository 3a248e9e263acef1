"""A bridge: databases of a CouchDB or Cloudant for gateways on an MQTT broker. It keeps nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent import __version__
from agent.attention import attention
from agent.errors import ConfigError
from agent.figures import system
from agent.peers.couchdb import CouchPeer
from agent.peers.peer import Peer
from agent.peers.urls import parse_database_url
from agent.rates import Uptime
from agent.server.http import Server, serve
from agent.server.mqtt import Broker, Responder
from agent.server.mqtt_served import ServedPeers
from agent.server.status_app import make_status_app
from agent.status import responder_status, timestamp
from agent.supervisor import Supervisor


class Bridge:
    """A running bridge. `upstreams` are by the names that gateways know; they are closed here."""

    def __init__(
        self, broker: Broker, upstreams: Mapping[str, Peer], listen: tuple[str, int]
    ) -> None:
        self.server: Server | None = None
        """Answers `GET /_status` and nothing else."""
        self._upstreams = upstreams
        self._listen = listen
        self._responder = Responder(broker, ServedPeers(upstreams), "bridge")
        self._supervisor = Supervisor()
        self._uptime = Uptime()

    @property
    def names(self) -> Sequence[str]:
        """The databases that are served."""
        return list(self._upstreams)

    async def run(self, stop: asyncio.Event, ready: Callable[[Bridge], None]) -> None:
        """Run until `stop` is set. Raises PermanentError when it cannot listen."""
        async with contextlib.AsyncExitStack() as last_first:
            for peer in self._upstreams.values():
                last_first.push_async_callback(peer.close)
            self.server = await serve(make_status_app(self.status), *self._listen)
            last_first.push_async_callback(self.server.close)
            last_first.push_async_callback(self._supervisor.stop)
            self._supervisor.start("MQTT responder", self._responder.run)
            ready(self)
            await stop.wait()

    async def check(self) -> None:
        """Nothing but the event loop has to go on: a bridge keeps nothing."""

    async def status(self) -> dict[str, Any]:
        """As `Agent.status`, as far as a bridge has it."""
        status = {
            "name": "bridge",
            "version": __version__,
            "pid": os.getpid(),
            "started": timestamp(self._uptime.started),
            "uptime": round(self._uptime.seconds, 3),
            "restarts": dict(self._supervisor.restarts),
            "upstreams": [
                {"name": name, "url": peer.label} for name, peer in self._upstreams.items()
            ],
            "system": await asyncio.to_thread(system, None),
            **responder_status(self._responder),
        }
        return {**status, "attention": attention(status)}


def bridge_for(
    broker: Broker,
    upstreams: Sequence[str],
    *,
    password: str | None,
    ca_file: Path | None,
    listen: tuple[str, int],
) -> Bridge:
    """A bridge to these URLs, which share `password` and `ca_file`. Raises ConfigError."""
    peers: dict[str, Peer] = {}
    for text in upstreams:
        url, _ = parse_database_url(text)
        if url.name in peers:
            raise ConfigError(
                f"{url}: the database {url.name!r} is served already; run a second bridge with "
                "another prefix in the broker's URL"
            )
        peers[url.name] = CouchPeer.from_url(text, password=password, ca_file=ca_file)
    return Bridge(broker, peers, listen)
