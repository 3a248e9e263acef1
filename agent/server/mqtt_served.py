"""What a responder serves: the databases of this process, or some behind any other peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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

    def changing(self, begun: Callable[[str], None] | None) -> Sequence[str]:
        """The names of those that may change now. `begun` is called with others as soon as they
        may; there is one such function at a time."""

    def using(self, name: str) -> AbstractContextManager[None]:
        """Meanwhile a peer that was asked for remains usable."""

    async def peer(self, name: str) -> Peer:
        """Raises RemoteMissingError when there is none. It is not closed by who asks for it."""

    async def create(self, name: str) -> None:
        """Make it; no error when it exists."""


class ServedDatabases:
    """The databases of this process, but for the system's own.

    They are followed as long as they are open, and not kept open for that: there may be many.
    """

    only = None

    def __init__(self, databases: Databases) -> None:
        self._databases = databases

    def changing(self, begun: Callable[[str], None] | None) -> Sequence[str]:
        def opened(name: str) -> None:
            if begun is not None and not name.startswith("_"):
                begun(name)

        self._databases.on_open = opened
        return [name for name in self._databases.open_names if not name.startswith("_")]

    def using(self, name: str) -> AbstractContextManager[None]:
        return self._databases.using(name)

    async def peer(self, name: str) -> Peer:
        try:
            return LocalPeer(await self._databases.get(_allowed(name)))
        except NotFoundError:
            raise _missing(name) from None

    async def create(self, name: str) -> None:
        await self._databases.ensure(_allowed(name))


class ServedPeers:
    """Databases elsewhere, which keep their names."""

    def __init__(self, peers: Mapping[str, Peer]) -> None:
        self._peers = peers

    @property
    def only(self) -> Sequence[str]:
        return list(self._peers)

    def changing(self, begun: Callable[[str], None] | None) -> Sequence[str]:
        return self.only

    def using(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

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
