"""Three peers that edit, replicate and resolve in any order: what must hold in the end.

Real stores, the real replicator, the real resolver. A partition is that nobody replicates.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from agent.documents.policies import (
    Best,
    Keep,
    Newest,
    Policy,
    PolicyContext,
    Python,
    Side,
    ThreeWay,
)
from agent.documents.revision import Rev, canonical
from agent.documents.selector import parse_selector
from agent.documents.tree import RevTree
from agent.peers.local import LocalPeer
from agent.replication.conflicts import Resolver
from agent.replication.replicator import Replicator
from agent.store.databases import Databases
from agent.store.store import Store
from agent.store.transaction import Edit

_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
PEERS = ("cloud", "edge-1", "edge-2")
IDS = ("a", "b")
ANCESTORS = 3


def longest_wins(base: Any, leaves: list[dict[str, Any]], context: PolicyContext) -> Any:
    """A policy as somebody would write it: the body with the most members, then the best one."""
    chosen = max(leaves, key=len)
    return {name: value for name, value in chosen.items() if not name.startswith("_")}


CLOUD = parse_selector({"by": "cloud"})
RULES = {
    "winner": Keep(Best()),
    "newest": Keep(Newest(("time",))),
    "prefer-cloud": Keep(Side(CLOUD, prefer_cloud=True)),
    "prefer-edge": Keep(Side(CLOUD, prefer_cloud=False)),
    "merge": ThreeWay(),
    "merge, then winner": ThreeWay(Best()),
    "merge, then newest": ThreeWay(Newest(("time",))),
    "python": Python(longest_wins, PolicyContext("", "db", "python", {}), needs_base=False),
    "manual": None,
}


class Peer:
    """A store with its resolver; what it writes says by whom and when."""

    def __init__(self, name: str, databases: Databases, store: Store, policy: Policy) -> None:
        self.name = name
        self.databases = databases
        self.store = store
        self.store.ancestors_kept = policy.ancestors
        self.resolver = Resolver(databases, "db", [policy], clock=lambda: 1e9)

    async def leaves(self, id: str) -> list[tuple[Rev, dict[str, Any]]]:
        """The live ones with their bodies, the winner first."""
        conflict = await self.store.conflict(id)
        return [] if conflict is None else [(leaf.rev, dict(leaf.body)) for leaf in conflict.leaves]

    async def state(self) -> Any:
        """All that has to be the same everywhere."""
        page = await self.store.changes(0, limit=1000)
        return {
            document.id: (document.rev, document.deleted, document.body, _tree(document.tree()))
            for document in page.documents
        }


def _tree(tree: RevTree) -> tuple[dict[Rev, Rev | None], dict[Rev, bool]]:
    """Parents, and which leaves are tombstones: whether an ancestor was one is not replicated."""
    leaves = {leaf: tree.is_deleted(leaf) for leaf in tree.leaves()}
    return {rev: tree.parent(rev) for rev in tree.all_revs()}, leaves


class OwnFields(RuleBasedStateMachine):
    """Each peer changes a field of its own, and everything is merged.

    `edits` are the revisions that somebody made by hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=_MEMORY)
        self.runner = asyncio.Runner()
        self.peers: dict[str, Peer] = {}
        self.rule_name = ""
        self.time = 0
        self.edits: set[tuple[str, Rev]] = set()
        self.own: dict[tuple[str, str], int] = {}
        """The last value that each peer gave to its own field of a document."""
        self.deleted: set[str] = set()
        """Documents that somebody has deleted once."""
        self.clashes = False

    @initialize()
    def begin(self) -> None:
        self.open_peers("merge")

    # What may happen.

    def open_peers(self, name: str) -> None:
        self.rule_name = name
        policy = Policy(name, parse_selector({}), RULES[name], ANCESTORS)

        async def opened() -> None:
            for peer in PEERS:
                databases = Databases(Path(self.folder.name, peer))
                store = await databases.create("db")
                self.peers[peer] = Peer(peer, databases, store, policy)

        self.runner.run(opened())

    @rule(peer=st.sampled_from(PEERS), id=st.sampled_from(IDS))
    def edit_own_field(self, peer: str, id: str) -> None:
        self.runner.run(self._resolve(peer))  # as agents do, at once
        self._edit(peer, id, **{peer: self.time + 1})
        self.own[id, peer] = self.time

    @rule(ends=st.permutations(PEERS))
    def replicate(self, ends: list[str]) -> None:
        self.runner.run(self._replicate(*ends[:2]))

    @rule(peer=st.sampled_from(PEERS))
    def resolve(self, peer: str) -> None:
        self.runner.run(self._resolve(peer))

    @rule(peer=st.sampled_from(PEERS))
    def compact(self, peer: str) -> None:
        async def compacted() -> None:
            await self.peers[peer].store.start_compaction()

        self.runner.run(compacted())

    @rule()
    def resolve_the_same_at_once(self) -> None:
        """All know all; then each resolves by itself. Who does so makes the same revisions."""

        async def at_once() -> None:
            ring = list(zip(PEERS, (*PEERS[1:], PEERS[0]), strict=True))
            for source, target in 2 * ring:
                await self._replicate(source, target)
            before = [await peer.state() for peer in self.peers.values()]
            for peer in PEERS:
                await self._resolve(peer)
            after = [await peer.state() for peer in self.peers.values()]
            for id, known in before[0].items():
                assert all(state[id] == known for state in before)
                made = [state[id] for state in after if state[id] != known]
                assert all(each == made[0] for each in made)

        self.runner.run(at_once())

    # How.

    def _edit(self, peer: str, id: str, **changes: Any) -> None:
        self.time += 1

        async def edited() -> None:
            leaves = await self.peers[peer].leaves(id)
            rev, body = leaves[0] if leaves else (None, {})
            body = {**body, **changes, "by": peer, "time": self.time}
            if self.rule_name == "merge":  # which has no say where both have written
                del body["by"], body["time"]
            text = canonical(body)
            await self._write(peer, Edit(id, rev, False, text.decode(), text))

        self.runner.run(edited())

    async def _write(self, peer: str, edit: Edit) -> None:
        [rev] = await self.peers[peer].store.edit([edit])
        assert rev is not None
        self.edits.add((edit.id, rev))

    async def _replicate(self, source: str, target: str) -> None:
        peers = self.peers
        await Replicator(LocalPeer(peers[source].store), LocalPeer(peers[target].store)).run()

    async def _resolve(self, peer: str) -> None:
        await self.peers[peer].resolver.catch_up(self.peers[peer].store)

    # What holds in the end.

    def teardown(self) -> None:
        async def ended() -> None:
            try:
                if self.peers:
                    await self._settle()
                    await self._check()
            finally:
                for peer in self.peers.values():
                    await peer.databases.close()

        try:
            self.runner.run(ended())
        finally:
            self.runner.close()
            self.folder.cleanup()

    async def _settle(self) -> None:
        """Everybody reaches everybody, in a ring and with a resolution at each step."""
        before: Any = None
        for _ in range(12):
            for source, target in zip(PEERS, (*PEERS[1:], PEERS[0]), strict=True):
                await self._replicate(source, target)
                await self._resolve(target)
            states = [await peer.state() for peer in self.peers.values()]
            if states == before:
                return
            before = states
        pytest.fail("the peers do not come to rest")

    async def _check(self) -> None:
        first, *others = [await peer.state() for peer in self.peers.values()]
        for other in others:
            assert other == first
        trees = {id: found[3] for id, found in first.items()}
        made = sum(len(parents) for parents, _ in trees.values()) - len(self.edits)
        # Each edit makes another leaf at most, so that is how many conflicts there can be; and
        # three peers may have seen each of them differently before they saw the same.
        assert made <= 2 * len(self.edits)
        outlooks = {}
        for id in trees:
            conflict = await self.peers[PEERS[0]].store.conflict(id)
            if conflict is not None and len(conflict.revs) > 1:
                outlooks[id] = self.peers[PEERS[0]].resolver.outlook(conflict)
        self._check_promise(outlooks)
        leaves = {id: await self.peers[PEERS[0]].leaves(id) for id in trees}
        self._check_nothing_is_lost(leaves)

    def _check_promise(self, outlooks: Mapping[str, tuple[str | None, str, str | None]]) -> None:
        """Whatever a policy can decide is decided everywhere."""
        for _, state, reason in outlooks.values():
            if self.rule_name == "manual":
                assert state == "waiting"
            elif self.rule_name.startswith("prefer"):
                assert reason == f"no revision is the {self.rule_name.removeprefix('prefer-')}'s"
            else:
                assert self.rule_name.startswith("merge"), reason
                assert reason is not None
                assert "is not kept here" in reason or (
                    self.rule_name == "merge"
                    and (self.clashes or self.deleted)
                    and "both sides have changed" in reason
                )

    def _check_nothing_is_lost(self, leaves: Mapping[str, Any]) -> None:
        """Of what is merged, and of what is left to people, every peer's last word is there."""
        if self.rule_name not in ("merge", "manual") or self.deleted:
            return
        for (id, peer), value in self.own.items():
            assert any(body.get(peer) == value for _, body in leaves[id]), (id, peer, value)


class AnyEdits(OwnFields):
    """All peers also change the same field, and delete, under any policy."""

    @initialize(name=st.sampled_from(sorted(RULES)))
    def begin(self, name: str) -> None:  # type: ignore[override]
        self.open_peers(name)

    @rule(peer=st.sampled_from(PEERS), id=st.sampled_from(IDS))
    def edit_a_common_field(self, peer: str, id: str) -> None:
        self.clashes = True
        self._edit(peer, id, common=self.time + 1)

    @rule(peer=st.sampled_from(PEERS), id=st.sampled_from(IDS))
    def delete(self, peer: str, id: str) -> None:
        async def deleted() -> None:
            leaves = await self.peers[peer].leaves(id)
            if leaves:
                await self._write(peer, Edit(id, leaves[0][0], True, "{}", b"{}"))
                self.deleted.add(id)

        self.runner.run(deleted())


@pytest.mark.parametrize(("machine", "examples"), [(OwnFields, 40), (AnyEdits, 80)])
def test_three_peers_come_to_the_same_end(machine: type[OwnFields], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
