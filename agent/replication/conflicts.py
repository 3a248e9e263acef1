"""Resolves conflicts by the configured policies, and knows what was left to people.

A `Resolver` follows one database. It reads the conflicts there are, page by page in the order of
their last change, decides them in a thread of its own, and writes what is decided in one
transaction. A document that changed meanwhile comes again by itself, since it has moved to the end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import asdict

from agent.documents.conflict import Conflict, Join
from agent.documents.policies import Decided, Failed, Policy, Undecided, first_match
from agent.documents.revision import Rev
from agent.documents.selector import SelectorError
from agent.documents.wire import RefusedDocumentError
from agent.errors import MissingStubError, StoreError
from agent.replication.manager import Spawn
from agent.store.census import Census
from agent.store.databases import Databases
from agent.store.resolutions import Overtaken, Resolution, resolution_of, resolve
from agent.store.store import Store
from agent.threads import in_thread_of_its_own

log = logging.getLogger(__name__)

_PAGE = 250
"""Conflicts that are decided, and written, together."""

_REMEMBERED = 10_000
"""Conflicts left to people whose reasons are kept in memory."""

_PATIENCE = 60.0
"""Seconds for the decisions of a page, before it is said that they take long."""

_LONGEST_WAIT = 60.0
"""Seconds after which the clock is looked at again: it may have been set."""


Outcome: TypeAlias = Resolution | Undecided | Failed
"""What comes of a conflict that a policy is asked about."""


class Counts(msgspec.Struct):
    """What a policy has decided since the start; each time that it was asked counts."""

    resolved: int = 0
    undecided: int = 0
    failed: int = 0


class Left(msgspec.Struct, frozen=True):
    """A conflict that was left to people, while these are its leaves, and so they are merged.

    A tombstone that comes later may tell of a nearer ancestor, see `joins_of`.
    """

    revs: tuple[Rev, ...]
    joins: tuple[Join, ...]
    policy: Policy | None
    decision: Undecided | Failed

    @classmethod
    def of(cls, conflict: Conflict, policy: Policy | None, decision: Undecided | Failed) -> Left:
        return cls(conflict.revs, conflict.joins, policy, decision)

    def holds_for(self, conflict: Conflict) -> bool:
        """Whether the conflict is still the one that was decided."""
        return (self.revs, self.joins) == (conflict.revs, conflict.joins)

    @property
    def state(self) -> str:
        if isinstance(self.decision, Failed):
            return "failed"
        return "waiting" if self.policy is None or self.policy.rule is None else "undecided"


class Resolver:
    """Applies policies, in their order, to the conflicts of one database; says what is left."""

    def __init__(
        self,
        databases: Databases,
        database: str,
        policies: Sequence[Policy],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` tells the seconds since the epoch."""
        self.database = database
        self.policies = policies
        self.counts = {policy.name: Counts() for policy in policies}
        self.stuck = False
        """Whether the decisions of a page take longer than they should."""
        self._databases = databases
        self._clock = clock
        self._left: dict[str, Left] = {}
        self._due: float | None = None
        """When the first of those that wait for a time may be decided."""

    async def run(self) -> None:
        """Follow the database, whenever there is one. Ends only when it is cancelled."""
        while True:
            with self._databases.using(self.database):
                store = await self._databases.wait_for(self.database)
                kept = [policy.ancestors for policy in self.policies]
                store.ancestors_kept = max(kept, default=0)
                await self._follow(store)
            self._left.clear()

    async def catch_up(self, store: Store, seq: int = 0) -> int:
        """Deal with all conflicts of documents that changed after `seq`; returns the newest one.

        Raises StoreError, StoreWriteError.
        """
        while True:
            page = await store.conflicts_after(seq, limit=_PAGE)
            if page.conflicts:
                await self._deal(store, page.conflicts)
            seq = page.last_seq
            if page.complete:
                return seq

    def outlook(self, conflict: Conflict) -> tuple[str | None, str, str | None]:
        """The policy of a conflict that is there, what has become of it, and why.

        The second is "waiting" (for people, or for its turn), "undecided" or "failed".
        """
        left = self._left.get(conflict.id)
        if left is not None and left.holds_for(conflict):
            name = None if left.policy is None else left.policy.name
            return name, left.state, left.decision.reason
        try:
            policy = first_match(self.policies, conflict)
        except SelectorError as error:
            return None, "failed", str(error)
        return None if policy is None else policy.name, "waiting", None

    async def _follow(self, store: Store) -> None:
        """Until the database is deleted."""
        seq = 0
        while not store.closed:
            seen = store.conflicts_seen
            try:
                seq = await self.catch_up(store, seq)
            except StoreError:
                if store.closed:
                    return
                raise
            if await self._wait(store, seen):
                seq = 0
                self._due = None

    async def _wait(self, store: Store, seen: int) -> bool:
        """Wait for another conflict. True when the time has come for those that wait for it."""
        while store.conflicts_seen == seen and not store.closed:
            wait = _LONGEST_WAIT
            if self._due is not None:
                left = self._due - self._clock()
                if left <= 0:
                    return True
                wait = min(wait, left)
            await store.wait_a_while(store.update_seq, wait)
        return False

    async def _deal(self, store: Store, conflicts: Sequence[Conflict]) -> None:
        now = self._clock()
        fresh = [conflict for conflict in conflicts if not self._is_left(conflict, now)]
        decisions = await self._decide(fresh, now)
        left = []
        made: list[tuple[Conflict, Any, Resolution]] = []
        for conflict, (policy, decision) in zip(fresh, decisions, strict=True):
            if isinstance(decision, Resolution):
                made.append((conflict, policy, decision))
            else:
                left.append(Left.of(conflict, policy, decision))
                self._leave(conflict, left[-1])
        await self._write(store, made)
        failures = [each.decision.reason for each in left if each.state == "failed"]
        if failures:
            log.error(
                "%s: conflicts on which a policy has failed: %d more; the first one: %s",
                self.database, len(failures), failures[0],
            )  # fmt: skip
        if left:
            log.warning(
                "%s: conflicts left to people: %d more; edge-agent conflicts list shows them",
                self.database, len(left),
            )  # fmt: skip

    async def _decide(
        self, conflicts: Sequence[Conflict], now: float
    ) -> list[tuple[Policy | None, Outcome]]:
        def decided() -> list[tuple[Policy | None, Outcome]]:
            return [decide(self.policies, conflict, now) for conflict in conflicts]

        deciding = asyncio.ensure_future(
            in_thread_of_its_own(decided, name=f"conflicts of {self.database}")
        )
        try:
            await asyncio.wait([deciding], timeout=_PATIENCE)
            self.stuck = not deciding.done()
            if self.stuck:
                log.error(
                    "%s: the policies have not decided on %d conflicts within %d s; see whether a "
                    "function of a package hangs, no conflict is resolved until it returns",
                    self.database, len(conflicts), _PATIENCE,
                )  # fmt: skip
            return await deciding
        finally:
            self.stuck = False
            deciding.cancel()

    async def _write(
        self, store: Store, made: Sequence[tuple[Conflict, Policy, Resolution]]
    ) -> None:
        if not made:
            return
        resolutions = [resolution for _, _, resolution in made]
        operation = partial(resolve, resolutions=resolutions, now=self._clock())
        try:
            results = await store.write(operation)
        except MissingStubError as error:
            if len(made) > 1:  # the others are not to suffer from it
                for each in made:
                    await self._write(store, [each])
                return
            [(conflict, policy, _)] = made
            self._leave(conflict, Left.of(conflict, policy, Failed(str(error))))
            return
        for (conflict, policy, _), result in zip(made, results, strict=True):
            if not isinstance(result, Overtaken):
                self.counts[policy.name].resolved += 1
                self._left.pop(conflict.id, None)
        log.info("%s: conflicts resolved by policies: %d", self.database, len(made))

    def _is_left(self, conflict: Conflict, now: float) -> bool:
        """Whether nothing has changed since it was left to people."""
        left = self._left.get(conflict.id)
        if left is None or not left.holds_for(conflict):
            return False
        until = left.decision.until if isinstance(left.decision, Undecided) else None
        if until is None:
            return True
        self._wake_at(until)
        return until > now

    def _leave(self, conflict: Conflict, left: Left) -> None:
        self._left.pop(conflict.id, None)  # so that it comes to the end
        self._left[conflict.id] = left
        if len(self._left) > _REMEMBERED:
            del self._left[next(iter(self._left))]
        if left.policy is not None and left.state != "waiting":
            counts = self.counts[left.policy.name]
            if left.state == "failed":
                counts.failed += 1
            else:
                counts.undecided += 1
        if isinstance(left.decision, Undecided) and left.decision.until is not None:
            self._wake_at(left.decision.until)

    def _wake_at(self, until: float) -> None:
        self._due = until if self._due is None else min(self._due, until)


class ConflictService:
    """All resolvers of an agent, as one thing to start and to ask."""

    def __init__(self, databases: Databases, policies: Mapping[str, Sequence[Policy]]) -> None:
        """`policies`: by the name of their database."""
        self._census = Census(databases)
        self._resolvers = {
            name: Resolver(databases, name, entries) for name, entries in policies.items()
        }

    def start(self, spawn: Spawn) -> None:
        """`spawn` starts a task under supervision."""
        for name, resolver in self._resolvers.items():
            spawn(f"conflicts of {name}", resolver.run)

    def outlook(self, database: str, conflict: Conflict) -> tuple[str | None, str, str | None]:
        """See `Resolver.outlook`; without policies everything waits for people."""
        resolver = self._resolvers.get(database)
        return (None, "waiting", None) if resolver is None else resolver.outlook(conflict)

    async def status(self) -> dict[str, Any]:
        """`present`: documents in conflict now; `databases`: those that have any, and how many.
        `policies`: their counts since the start, by name; `stuck`: databases in which they do not
        come to an end."""
        present = await self._census.take()
        counts = {
            name: asdict(counted)
            for resolver in self._resolvers.values()
            for name, counted in resolver.counts.items()
        }
        return {
            "present": sum(present.values()),
            "databases": present,
            "policies": counts,
            "stuck": [name for name, resolver in self._resolvers.items() if resolver.stuck],
        }


def decide(
    policies: Sequence[Policy], conflict: Conflict, now: float
) -> tuple[Policy | None, Outcome]:
    """The policy for a conflict, None where there is none, and what it decides.

    A decision that cannot be written is a failure, too. `now`: seconds since the epoch.
    """
    policy = None
    try:
        policy = first_match(policies, conflict)
        if policy is None:
            return None, Undecided("no policy is for it")
        outcome: Outcome | Decided = policy.decide(conflict, now)
        if isinstance(outcome, Decided):
            outcome = resolution_of(conflict, outcome, by=f"policy {policy.name}")
    except (SelectorError, RefusedDocumentError) as error:
        return policy, Failed(str(error))
    else:
        return policy, outcome
