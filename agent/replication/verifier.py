"""Verifies a configured remote now and then, and remembers how that ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from agent.errors import EdgeAgentError
from agent.peers.local import LocalPeer
from agent.peers.peer import Peer
from agent.replication.budget import Budget
from agent.replication.job import Job, State
from agent.replication.lanes import FAR_BEHIND, Lane
from agent.replication.verification import Difference, Verification
from agent.store.store import Store

log = logging.getLogger(__name__)

_JITTER: Final = 0.1
"""The part of an interval by which a verification may be later, so that gateways that were started
together do not ask their hub together. One that failed is made again after this part."""

_LOOK: Final = 10.0
"""Seconds between looks at replications that are behind."""

_SETTLE: Final = 5.0
_KEPT_IDS: Final = 20


_Count = Annotated[int, Meta(ge=0, le=2**53)]


class Verified(msgspec.Struct, frozen=True):
    """How the latest verification ended; `error` is why the one after that has not."""

    time: Annotated[float, Meta(ge=0, le=2**33)] | None = None
    """When it ended, in seconds since the epoch; None if none has."""
    by: str = ""
    """As `Verification.by`."""
    documents: _Count = 0
    different: _Count = 0
    ids: Annotated[tuple[str, ...], Meta(max_length=_KEPT_IDS)] = ()
    """Of the first documents that differ."""
    error: str | None = None


class Verifier:
    """Compares a store with a remote, as often as is configured.

    What one side has and replication is not to bring to the other is no difference: with a
    `direction` "push" or "pull" only what the other side lacks of it counts.
    """

    def __init__(
        self,
        name: str,
        interval: float,
        store: Store,
        peer: Peer,
        jobs: Iterable[Job],
        *,
        direction: str = "both",
        budget: Budget | None = None,
    ) -> None:
        """`name` is the remote's; `interval` in seconds; `jobs` are the replications with it."""
        self.name = name
        self.last = Verified()
        self._interval = interval
        self._store = store
        self._peer = peer
        self._jobs = list(jobs)
        self._direction = direction
        self._budget = budget
        self._key = f"verified:{name}"

    async def run(self) -> None:
        """Verify until it is cancelled. Raises what the store does."""
        self.last = await self._kept()
        await asyncio.sleep(self._first_wait())
        while True:
            await self._wait_for_replication()
            await self._verify()
            wait = self._interval if self.last.error is None else 0
            await asyncio.sleep(wait + self._jitter())

    def _first_wait(self) -> float:
        if self.last.time is None:
            return self._interval * random.random()  # noqa: S311 - spreads load
        # A clock that was set makes it no later than an interval.
        left = self.last.time + self._interval - time.time()
        return min(max(0, left), self._interval) + self._jitter()

    def _jitter(self) -> float:
        return self._interval * random.uniform(_JITTER / 2, _JITTER)  # noqa: S311

    async def _wait_for_replication(self) -> None:
        """Return when nothing much is on its way, and the link has bytes for it."""
        while await self._behind():  # noqa: ASYNC110 - nobody tells when it has caught up
            await asyncio.sleep(_LOOK)
        if self._budget is not None:
            await self._budget.wait(Lane.BACKLOG)

    async def _behind(self) -> bool:
        for job in self._jobs:
            if job.state not in (State.LIVE, State.CATCHING_UP):
                return True
            if (await job.pending() or 0) > FAR_BEHIND:
                return True
        return False

    async def _verify(self) -> None:
        verification = Verification(LocalPeer(self._store), self._peer)
        different = 0
        ids: list[str] = []
        try:
            async with contextlib.aclosing(verification.differences(settle=_SETTLE)) as found:
                async for difference in found:
                    if self._counts(difference):
                        different += 1
                        ids += [difference.id] if len(ids) < _KEPT_IDS else []
        except EdgeAgentError as error:
            if str(error) != self.last.error:
                log.warning("verification of remote %s: %s", self.name, error)
            self.last = replace(self.last, error=str(error))
        else:
            if different:
                log.warning(
                    "remote %s: %d documents differ, such as %r", self.name, different, ids[0]
                )
            documents = verification.documents
            self.last = Verified(time.time(), verification.by, documents, different, tuple(ids))
        await self._keep()

    def _counts(self, difference: Difference) -> bool:
        return bool(
            (self._direction != "pull" and difference.missing_in_target)
            or (self._direction != "push" and difference.missing_in_source)
        )

    async def _kept(self) -> Verified:
        found = await self._store.get_local(self._key)
        if found is None:
            return Verified()
        # Members of a database may write what they like into `_local` documents.
        try:
            return msgspec.json.decode(found[1], type=Verified)
        except msgspec.DecodeError:
            return Verified()

    async def _keep(self) -> None:
        found = await self._store.get_local(self._key)
        body = msgspec.json.encode(self.last).decode()
        await self._store.put_local(self._key, None if found is None else found[0], body)
