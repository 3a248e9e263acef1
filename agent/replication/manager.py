"""All replications of the agent: those of its configuration, of requests and of documents.

Source: CouchDB documentation, "API Reference > Server > /_replicate" and "Replication >
Introduction to Replication".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from agent.errors import (
    AuthError,
    DocumentError,
    EdgeAgentError,
    NotFoundError,
    RemoteMissingError,
    RequestError,
)
from agent.peers.local import DatabasePeer, LocalPeer
from agent.replication.job import Job
from agent.replication.replicator import Replicator
from agent.replication.scheduler import (
    Replication,
    job_entry,
    result,
    task_entry,
)
from agent.replication.spec import Endpoint, Spec, flag, parse_spec
from agent.store.databases import Databases

Spawn = Callable[[str, Callable[[], Awaitable[None]]], asyncio.Task[None]]
"""Starts a task by a name for people, keeps it going if it fails unexpectedly, and gives it."""

MISSING_WAIT = 5.0
"""Seconds, about, until a database is looked for again that was missing at first: here somebody
asks for a replication and makes the database just after."""

_REOPEN = 1.0
"""Seconds before a followed database that was closed, being deleted, is looked for again."""


class Manager:
    """Starts, finds, lists and cancels replications."""

    def __init__(self, databases: Databases, spawn: Spawn) -> None:
        self.databases = databases
        self._spawn = spawn
        self._tasks: dict[Replication, asyncio.Task[None]] = {}
        self._closed = False

    async def close(self) -> None:
        """Cancel all replications; each writes its last checkpoint. None can be started then."""
        self._closed = True
        await self._end(list(self._tasks))

    def jobs(self) -> list[dict[str, Any]]:
        """`_scheduler/jobs`, by id."""
        entries = [job_entry(replication) for replication in self._tasks]
        return sorted(entries, key=lambda entry: entry["id"] or "")

    def tasks(self) -> list[dict[str, Any]]:
        """The replications in `_active_tasks`: those that run at the moment."""
        return [task_entry(entry) for entry in self._tasks if not entry.crashing]

    def adopt(self, job: Job, database: str) -> None:
        """Run the job of a configured remote, whose side here is `database`."""
        source, target = (
            database if isinstance(peer, LocalPeer) else f"{peer.label}/"
            for peer in (job.replicator.source, job.replicator.target)
        )
        replication = Replication(job, source=source, target=target, name=job.name)
        # Its connections are those of the remote, which both directions share.
        self._start(replication, lambda: _run(job))

    def start(
        self,
        spec: Spec,
        *,
        database: str,
        doc_id: str,
        ended: Callable[[Replication], Awaitable[None]],
    ) -> Replication:
        """Run the replication of a document; `ended` is called once a one-shot one is done."""
        job = self._job(spec, f"{database}/{doc_id}", patient=True)
        replication = _described(job, spec, database=database, doc_id=doc_id)

        async def run() -> None:
            await _run_and_close(job)
            await ended(replication)

        self._start(replication, run)
        return replication

    async def stop(self, replication: Replication) -> None:
        """Cancel a replication, if it has not ended."""
        await self._end([replication])

    async def replicate(self, body: Mapping[str, Any], *, user: str | None) -> dict[str, Any]:
        """`POST /_replicate`, for `user`: replicate, start to do so continuously, or cancel that.

        Returns the body of the answer. The same request while its replication runs joins it.
        Raises RequestError.
        """
        if flag(body, "cancel"):
            return await self._cancel(body)
        spec = parse_spec(body)
        job = self._job(spec, "_replicate", patient=spec.continuous)
        async with AsyncExitStack() as unless_it_runs:
            unless_it_runs.push_async_callback(_close, job)
            await self._open(job.replicator, spec, create=spec.create_target)
            if self._closed:
                raise RequestError(503, "service_unavailable", "the agent is being stopped")
            replication = _described(job, spec, user=user)
            running = self._find(replication.id)
            if running is not None:
                replication = running
            else:
                unless_it_runs.pop_all()
                if spec.continuous:
                    self._start(replication, lambda: _run_and_close(job))
                else:
                    # Not supervised: whatever it raises is for the request that waits for it.
                    self._add(replication, asyncio.create_task(_run_and_close(job)))
            task = self._tasks[replication]
        if spec.continuous:
            return {"ok": True, "_local_id": replication.id}
        return await _result(replication, task, spec)

    async def _cancel(self, body: Mapping[str, Any]) -> dict[str, Any]:
        id = next((body[key] for key in ("replication_id", "_local_id", "id") if key in body), None)
        if id is None:
            spec = parse_spec(body)
            job = self._job(spec, "_replicate", patient=False)
            try:
                await self._open(job.replicator, spec, create=False)
                id = _described(job, spec).id
            finally:
                await _close(job)
        replication = self._find(id)
        if replication is None:
            raise RequestError(404, "not found", "no such job")
        if replication.name is not None:
            raise RequestError(
                403, "forbidden", "this replication is configured in the agent's file; change that"
            )
        await self._end([replication])
        return {"ok": True, "_local_id": id}

    def _job(self, spec: Spec, name: str, *, patient: bool) -> Job:
        replicator = Replicator(
            spec.source.peer(self.databases),
            spec.target.peer(self.databases),
            continuous=spec.continuous,
            create_target=spec.create_target,
            selection=spec.selection,
            since_seq=spec.since_seq,
            use_checkpoints=spec.use_checkpoints,
            checkpoint_interval=spec.checkpoint_interval,
        )
        return Job(name, replicator, patient=patient, permanent_base=MISSING_WAIT)

    async def _open(self, replicator: Replicator, spec: Spec, *, create: bool) -> None:
        """Open the databases that are here: their identities are a part of the id."""
        for peer, endpoint in (
            (replicator.source, spec.source),
            (replicator.target, spec.target),
        ):
            if not isinstance(peer, DatabasePeer):
                continue
            try:
                if create and peer is replicator.target:
                    await peer.create()
                await peer.info()
            except (NotFoundError, DocumentError):
                raise _not_found(endpoint) from None

    def _find(self, id: str | None) -> Replication | None:
        return next((entry for entry in self._tasks if id is not None and entry.id == id), None)

    def _start(self, replication: Replication, run: Callable[[], Awaitable[None]]) -> None:
        job = replication.job

        async def observed() -> None:
            try:
                await run()
            except Exception as error:
                job.broke(error)  # so it looks until it is started again
                raise

        self._add(replication, self._spawn(f"replication {job.name}", observed))

    def _add(self, replication: Replication, task: asyncio.Task[None]) -> None:
        self._tasks[replication] = task
        task.add_done_callback(lambda task: self._ended(replication, task))

    def _ended(self, replication: Replication, task: asyncio.Task[None]) -> None:
        self._tasks.pop(replication, None)
        if not task.cancelled():
            task.exception()  # seen: whoever waits for the task raises it

    async def _end(self, replications: list[Replication]) -> None:
        tasks = [self._tasks[entry] for entry in replications if entry in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(job: Job) -> None:
    """Run a job. A continuous one ends only when it is cancelled."""
    await job.run()
    while job.replicator.continuous:
        # The feed of a database of this process ends when that is closed, being deleted.
        await asyncio.sleep(_REOPEN)
        await job.run()


async def _run_and_close(job: Job) -> None:
    try:
        await _run(job)
    finally:
        await _close(job)


async def _close(job: Job) -> None:
    await job.replicator.source.close()
    await job.replicator.target.close()


async def _result(replication: Replication, task: asyncio.Task[None], spec: Spec) -> dict[str, Any]:
    """The answer to a request, once the replication has ended. Raises RequestError."""
    await asyncio.wait({task})
    if task.cancelled():
        raise RequestError(500, "cancelled", "the replication was cancelled")
    replicator = replication.job.replicator
    try:
        task.result()
    except EdgeAgentError as error:
        raise _refusal(error, replicator, spec) from error
    return result(replicator)


def _described(
    job: Job,
    spec: Spec,
    *,
    user: str | None = None,
    database: str | None = None,
    doc_id: str | None = None,
) -> Replication:
    return Replication(
        job,
        source=str(spec.source),
        target=str(spec.target),
        create_target=spec.create_target,
        user=user,
        database=database,
        doc_id=doc_id,
    )


def _not_found(endpoint: Endpoint) -> RequestError:
    return RequestError(404, "db_not_found", f"could not open {endpoint}")


def _refusal(error: EdgeAgentError, replicator: Replicator, spec: Spec) -> RequestError:
    """What failed a replication, as `POST /_replicate` says it."""
    endpoint = spec.source if replicator.opening == replicator.source.label else spec.target
    match error:
        case RemoteMissingError() | NotFoundError() if replicator.opening is not None:
            return _not_found(endpoint)
        case AuthError() if replicator.opening is not None:
            return RequestError(
                401, "unauthorized", f"unauthorized to access or create database {endpoint}"
            )
        case RequestError():
            return error
        case _:
            return RequestError(500, "replication_failed", str(error))
