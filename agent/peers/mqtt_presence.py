"""Who is there: the retained messages on `{prefix}/{node}/status`, in JSON, for people and tools.

A gateway that goes away leaves `offline` behind, which its last will says where it cannot. Hubs
and bridges leave nothing: one of them is as good as another.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from agent import __version__
from agent.peers.mqtt_topics import Topics
from agent.peers.peer import PresenceFigures

Role = Literal["gateway", "hub", "bridge"]

_MOST: Final = 10_000
"""Nodes that are remembered; a stranger on the broker could make up any number."""

_Text = Annotated[str, Meta(max_length=200)]


_Count = Annotated[int, Meta(ge=0)]


class Presence(msgspec.Struct, omit_defaults=True):
    """What is published. `version` is that of the program; of a gateway that is online there may be
    its `lag` in seconds, its `backlog` in changes, and documents in conflict."""

    status: Literal["online", "offline"]
    role: Role
    version: _Text = ""
    lag: Annotated[float, Meta(ge=0)] | None = None
    backlog: _Count | None = None
    conflicts: _Count | None = None


class Announcement(msgspec.Struct, frozen=True):
    """A retained message about a client: what is published when it has connected, and what the
    broker publishes once it is gone (the last will). Empty takes a retained message away."""

    topic: str
    here: bytes
    gone: bytes


def gateway_announcement(
    topics: Topics, node: str, figures: PresenceFigures | None = None
) -> Announcement:
    here = Presence("online", "gateway", __version__)
    if figures is not None:
        here.lag, here.backlog = figures.lag, figures.backlog
        here.conflicts = figures.conflicts
    return Announcement(
        topics.status(node),
        msgspec.json.encode(here),
        msgspec.json.encode(Presence("offline", "gateway")),
    )


def responder_announcement(topics: Topics, node: str, role: Role) -> Announcement:
    return Announcement(
        topics.status(node), msgspec.json.encode(Presence("online", role, __version__)), b""
    )


class Present:
    """Who is there, as the broker has told."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[Presence, float]] = {}

    def take(self, node: str, payload: bytes) -> None:
        """What came on a node's status topic; what cannot be read changes nothing."""
        if not payload:
            self._nodes.pop(node, None)
            return
        try:
            presence = msgspec.json.decode(payload, type=Presence)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        known = self._nodes.get(node)
        if known is None and len(self._nodes) >= _MOST:
            return
        since = time.time()
        if known is not None and _same_state(known[0], presence):
            since = known[1]
        self._nodes[node] = (presence, since)

    def forget(self) -> None:
        """The connection is lost: who goes meanwhile is not heard of, and who is there is told
        again with the next one."""
        self._nodes.clear()

    def gateways(self) -> list[dict[str, Any]]:
        """By name. `since` is in seconds since the epoch: when the status was first heard here.
        `lag` (seconds), `backlog` (changes) and `conflicts` are None where they are not told."""
        return [
            {
                "name": node,
                "status": presence.status,
                "version": presence.version or None,
                "since": since,
                "lag": presence.lag,
                "backlog": presence.backlog,
                "conflicts": presence.conflicts,
            }
            for node, (presence, since) in sorted(self._nodes.items())
            if presence.role == "gateway"
        ]


def _same_state(one: Presence, other: Presence) -> bool:
    """Whether they differ in figures only."""
    return (one.status, one.role, one.version) == (other.status, other.role, other.version)
