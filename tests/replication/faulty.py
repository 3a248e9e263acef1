"""A peer that fails at chosen calls, before or after they took effect."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from agent.documents.revision import Revision
from agent.errors import ConnectError, TooLargeError
from agent.peers.local import LocalPeer
from agent.peers.peer import ChangeBatch, Contents, PeerInfo, Seq, WriteResult
from agent.store.store import Store


class FaultyPeer(LocalPeer):
    """Stands in for a remote behind a bad line: a store whose answers get lost.

    `rate` is the probability that a call fails; half of those took effect all the same.
    """

    def __init__(self, store: Store, rng: random.Random, rate: float) -> None:
        super().__init__(store)
        self.rng = rng
        self.rate = rate
        self.failed = 0
        self.most_revisions: int | None = None
        """More in one request are refused as too large."""
        self.most_bytes: int | None = None
        """The same for the bodies of what is stored."""
        self.bytes_refused = 0

    def _maybe_fail(self) -> None:
        if self.rng.random() < self.rate / 2:
            self.failed += 1
            raise ConnectError("the line broke")

    async def info(self) -> PeerInfo:
        self._maybe_fail()
        return await super().info()

    async def changes(self, since: Seq, **options: Any) -> AsyncGenerator[ChangeBatch, None]:
        async for batch in super().changes(since, **options):
            self._maybe_fail()
            yield batch

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        self._maybe_fail()
        return await super().revs_diff(revs)

    async def fetch(
        self, wanted: Sequence[tuple[str, Sequence[str]]]
    ) -> Sequence[Revision | WriteResult]:
        self._maybe_fail()
        if self.most_revisions is not None and len(wanted) > self.most_revisions:
            raise TooLargeError("the answer is too large")
        return await super().fetch(wanted)

    async def store(
        self, revisions: Sequence[Revision], contents: Contents | None = None
    ) -> Sequence[WriteResult]:
        self._maybe_fail()
        if self.most_revisions is not None and len(revisions) > self.most_revisions:
            raise TooLargeError("the request is too large")
        size = sum(len(revision.body) for revision in revisions)
        if self.most_bytes is not None and size > self.most_bytes:
            self.bytes_refused += size
            raise TooLargeError("the request is too large")
        results = await super().store(revisions, contents)
        self._maybe_fail()
        return results

    async def put_local(self, id: str, doc: Mapping[str, Any]) -> str:
        self._maybe_fail()
        rev = await super().put_local(id, doc)
        self._maybe_fail()
        return rev
