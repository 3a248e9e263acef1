"""What a responder serves: the databases of this process, or some behind any other peer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

from agent.errors import NotFoundError, RemoteMissingError
from agent.peers.local import LocalPeer
from agent.peers.peer import Peer
from agent.store.databases import Databases


class Served(Protocol):
    """Databases by name. All methods raise what `Peer` raises."""

    @property
    def only(self) -> Sequence[str] | None:
        """The names of all there ever are; None where any may come to be."""

    async def names(self) -> Sequence[str]:
        """Those there are now."""

    async def peer(self, name: str) -> Peer:
        """Raises RemoteMissingError when there is none. It is not closed by who asks for it."""

    async def create(self, name: str) -> None:
        """Make it; no error when it exists."""


class ServedDatabases:
    """The databases of this process, but for the system's own.

    One that was asked for stays open: who follows it here tells gateways of its changes.
    """

    only = None

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._in_use: dict[str, ExitStack] = {}

    async def names(self) -> Sequence[str]:
        return [name for name in await self._databases.names() if not name.startswith("_")]

    async def peer(self, name: str) -> Peer:
        try:
            with ExitStack() as use:
                use.enter_context(self._databases.using(_allowed(name)))
                store = await self._databases.get(name)
                if name not in self._in_use:
                    self._in_use[name] = use.pop_all()
        except NotFoundError:
            raise _missing(name) from None
        return LocalPeer(store)

    async def create(self, name: str) -> None:
        await self._databases.ensure(_allowed(name))


class ServedPeers:
    """Databases elsewhere, which keep their names."""

    def __init__(self, peers: Mapping[str, Peer]) -> None:
        self._peers = peers

    @property
    def only(self) -> Sequence[str]:
        return list(self._peers)

    async def names(self) -> Sequence[str]:
        return self.only

    async def peer(self, name: str) -> Peer:
        try:
            return self._peers[name]
        except KeyError:
            raise _missing(name) from None

    async def create(self, name: str) -> None:
        await (await self.peer(name)).create()


def _allowed(name: str) -> str:
    if name.startswith("_"):
        raise _missing(name)
    return name


def _missing(name: str) -> RemoteMissingError:
    return RemoteMissingError(
        f"there is no database {name!r} here; check the URL or create it", status=404
    )
