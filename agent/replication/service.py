"""All that replicates in an agent, as one thing to start, ask and stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.replication.job import Job
from agent.replication.manager import Manager, Spawn
from agent.replication.replicator_db import ReplicatorDatabase
from agent.store.databases import Databases


class ReplicationService:
    """The replications of the configuration, of `_replicate` and of `_replicator`.

    It is what the HTTP server asks (`agent.server.replication.Replications`).
    """

    def __init__(self, databases: Databases, spawn: Spawn) -> None:
        """`spawn` starts a task under supervision."""
        self._manager = Manager(databases, spawn)
        self._documents = ReplicatorDatabase(self._manager)
        self._spawn = spawn

    def start(self) -> None:
        """Begin to follow `_replicator`, once there is one."""
        self._spawn("database _replicator", self._documents.run)

    def adopt(self, job: Job, database: str) -> None:
        """Run the job of a configured remote; it cannot be cancelled over HTTP.

        `database` is the name of its side here.
        """
        self._manager.adopt(job, database)

    async def close(self) -> None:
        """Stop all replications, once nothing starts new ones."""
        await self._manager.close()

    async def replicate(self, body: Mapping[str, Any], *, user: str | None) -> dict[str, Any]:
        """`POST /_replicate`. Raises RequestError."""
        return await self._manager.replicate(body, user=user)

    def jobs(self) -> list[dict[str, Any]]:
        """`_scheduler/jobs`."""
        return self._manager.jobs()

    async def docs(self) -> list[dict[str, Any]]:
        """`_scheduler/docs`."""
        return await self._documents.docs()

    def tasks(self) -> list[dict[str, Any]]:
        """The replications in `_active_tasks`."""
        return self._manager.tasks()
