"""A configured remote: its peer, the replications with it, and the bytes that they may use."""

from __future__ import annotations

from collections.abc import Callable

from agent.config import AgentConfig, RemoteConfig
from agent.parts import peer_for, selection_for
from agent.peers.http import OnDate
from agent.peers.local import LocalPeer
from agent.peers.peer import Peer, traffic_of
from agent.peers.retained import RetainedPeer
from agent.replication.arrivals import Arrivals
from agent.replication.budget import Budget
from agent.replication.job import Job
from agent.replication.replicator import Replicator
from agent.replication.verifier import Verifier
from agent.replication.witnesses import Past
from agent.store.store import Store


class Remote:
    """A configured remote and the replications with it."""

    def __init__(
        self,
        config: RemoteConfig,
        store: Store,
        agent: AgentConfig,
        arrivals: Arrivals,
        *,
        announce: bool,
        on_date: OnDate,
        unwanted: Callable[[str], bool] | None = None,
    ) -> None:
        """`store` is the agent's database, `arrivals` what comes to it, `announce` and `on_date` as
        `peer_for` has them, `unwanted` says by ids what is not pulled. Raises ConfigError.
        """
        self.config = config
        self.database = agent.database
        self._arrivals = arrivals
        self.peer = peer_for(config, agent.name, announce=announce, on_date=on_date)
        self.budget: Budget | None = None
        if config.bytes_per_day is not None:
            self.budget = Budget(config.name, config.bytes_per_day, store, self.traffic)
        local = LocalPeer(store)
        self._past = Past()
        self.jobs: dict[str, Job] = {}
        if config.direction != "pull":
            self._add("push", local, self.peer)
        if config.direction != "push":
            target = local if unwanted is None else RetainedPeer(store, unwanted)
            self._add("pull", self.peer, target)
        self.verifier: Verifier | None = None
        if config.verify_interval is not None:
            self.verifier = Verifier(
                config.name,
                config.verify_interval,
                store,
                self.peer,
                self.jobs.values(),
                direction=config.direction,
                budget=self.budget,
            )

    def _add(self, direction: str, source: Peer, target: Peer) -> None:
        config = self.config
        replicator = Replicator(
            source,
            target,
            continuous=True,
            create_source=config.create and direction == "pull",
            create_target=config.create and direction == "push",
            selection=selection_for(config, direction),
            checkpoint_interval=config.checkpoint_interval,
            brought=self._arrivals if direction == "pull" else None,
            unasked=self._arrivals if direction == "push" else None,
            lanes=direction == "push",
            budget=self.budget,
            past=self._past,
        )
        self.jobs[direction] = Job(
            f"{config.name} {direction}", replicator, patient=True, retry_cap=config.retry_cap
        )

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received over the link since the start."""
        return traffic_of(self.peer)

    async def close(self) -> None:
        """Close the connections; what was used of the budget is kept."""
        await self.peer.close()
        if self.budget is not None:
            await self.budget.close()
