"""What all requests share, and what the server needs of the rest of the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

import msgspec

from agent.documents.conflict import Conflict
from agent.server.access import Access
from agent.server.bodies import Bodies
from agent.store.databases import Databases

Status = Callable[[], Awaitable[dict[str, Any]]]


Outlook = tuple[str | None, str, str | None]
"""The policy of a conflict, its state ("waiting", "undecided", "failed"), the reason."""


class Outlooks(Protocol):
    """Whoever resolves conflicts by policies."""

    def outlook(self, database: str, conflict: Conflict) -> Outlook:
        """What is to be said of a conflict that is there."""


class Hook(Protocol):
    """Whoever calls a hook."""

    def dead(self) -> list[dict[str, Any]]:
        """The documents that were given up, as JSON; the oldest first."""

    def retry(self, ids: Collection[str] | None) -> int:
        """Try some of them once more, None: all. Returns how many there are."""

    async def drop(self, ids: Collection[str] | None) -> int:
        """Forget some of them, None: all. Returns how many there were. Raises StoreError."""

    def skip(self) -> bool:
        """Give up the document that is tried over and over. False: there is none."""


class Replications(Protocol):
    """Whoever replicates; the entries are CouchDB's, as JSON, without credentials."""

    async def replicate(self, body: dict[str, Any], *, user: str | None) -> dict[str, Any]:
        """Do what a request to `_replicate` says; returns the answer. Raises RequestError."""

    def jobs(self) -> list[dict[str, Any]]:
        """The replications that are not over, by id."""

    async def docs(self) -> list[dict[str, Any]]:
        """The documents of `_replicator` and their states, by id."""

    def tasks(self) -> list[dict[str, Any]]:
        """The replications that run at the moment."""


class Service(msgspec.Struct, frozen=True):
    """What all requests share. `closing` is set once the server stops: feeds end then.

    `max_attachment` is in bytes.
    """

    databases: Databases
    status: Status | None
    uuid: str | None
    closing: asyncio.Event
    access: Access
    max_attachment: int
    replications: Replications | None = None
    outlooks: Outlooks | None = None
    hooks: Mapping[str, Hook] = msgspec.field(default_factory=dict)
    bodies: Bodies = msgspec.field(default_factory=Bodies)
