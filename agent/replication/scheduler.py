"""How replications look in `_scheduler/jobs`, `_scheduler/docs` and `_active_tasks`; plain JSON.

Source: CouchDB documentation, "API Reference > Server > /_active_tasks, /_scheduler/jobs and
/_scheduler/docs". No credentials are in it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from agent.peers.local import DatabasePeer
from agent.peers.peer import Peer
from agent.replication.checkpoint import replication_id
from agent.replication.job import Job, State
from agent.replication.progress import Progress
from agent.replication.replicator import Replicator

NODE = "nonode@nohost"
"""CouchDB's name for a node that is no part of a cluster."""

REPLICATION_ID_VERSION = 4

_CRASHING = frozenset((State.WAITING, State.FAILED))


class Replication:
    """A job and where it comes from: a request, a document of `_replicator`, or the configuration.

    `source` and `target` are for people. `user` asked for it; `name` is that of a configured
    remote and direction.
    """

    _count = 0

    def __init__(
        self,
        job: Job,
        *,
        source: str,
        target: str,
        create_target: bool = False,
        user: str | None = None,
        database: str | None = None,
        doc_id: str | None = None,
        name: str | None = None,
    ) -> None:
        Replication._count += 1
        self.job = job
        self.source = source
        self.target = target
        self.user = user
        self.database = database
        self.doc_id = doc_id
        self.name = name
        self.started = time.time()
        self.pid = f"<0.{Replication._count}.0>"
        self._ending = ("+continuous" if job.replicator.continuous else "") + (
            "+create_target" if create_target else ""
        )

    @property
    def id(self) -> str | None:
        """The replication's id, with CouchDB's endings; None until both databases are known."""
        replicator = self.job.replicator
        peers: tuple[Peer, Peer] = (replicator.source, replicator.target)
        if any(isinstance(peer, DatabasePeer) and not peer.identity for peer in peers):
            return None
        return replication_id(*peers, replicator.selection) + self._ending

    @property
    def crashing(self) -> bool:
        return self.job.state in _CRASHING

    @property
    def updated(self) -> float:
        """When it last got on, or did not."""
        return max(self.job.events[-1].time, self.job.progress.last_confirmed or 0.0)


def iso_time(seconds: float) -> str:
    """Seconds since the epoch as CouchDB's scheduler writes times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def statistics(progress: Progress) -> dict[str, Any]:
    """The counts of a replication, with CouchDB's names for them."""
    return {
        "revisions_checked": progress.missing_checked,
        "missing_revisions_found": progress.missing_found,
        "docs_read": progress.docs_read,
        "docs_written": progress.docs_written,
        "changes_pending": progress.unconfirmed,
        "doc_write_failures": progress.doc_write_failures,
        "checkpointed_source_seq": progress.confirmed_seq,
    }


def information(replication: Replication) -> dict[str, Any]:
    """`info`: the counts while it runs, the error while it does not."""
    job = replication.job
    if replication.crashing:
        return {"error": job.last_error}
    return {
        **statistics(job.progress),
        "source_seq": job.progress.source_seq,
        "through_seq": job.progress.through_seq,
    }


def job_entry(replication: Replication) -> dict[str, Any]:
    """An entry of `_scheduler/jobs`."""
    history = []
    for event in reversed(replication.job.events):
        entry = {"timestamp": iso_time(event.time), "type": event.type}
        history.append(entry if event.reason is None else {**entry, "reason": event.reason})
    return {
        **_common(replication),
        "user": replication.user,
        "history": history,
    }


def doc_entry(replication: Replication) -> dict[str, Any]:
    """An entry of `_scheduler/docs` for a document whose replication has not ended."""
    return {
        **_common(replication),
        "state": "crashing" if replication.crashing else "running",
        "error_count": replication.job.error_count,
        "last_updated": iso_time(replication.updated),
        "source_proxy": None,
        "target_proxy": None,
    }


def task_entry(replication: Replication) -> dict[str, Any]:
    """An entry of `_active_tasks`; times are whole seconds since the epoch."""
    progress = replication.job.progress
    replicator = replication.job.replicator
    entry: dict[str, Any] = {
        "type": "replication",
        "node": NODE,
        "pid": replication.pid,
        "replication_id": replication.id,
        "database": replication.database,
        "doc_id": replication.doc_id,
        "user": replication.user,
        "source": replication.source,
        "target": replication.target,
        "continuous": replicator.continuous,
        "checkpoint_interval": round(replicator.checkpoint_interval * 1000),
        "started_on": int(replication.started),
        "updated_on": int(replication.updated),
        "source_seq": progress.source_seq,
        "through_seq": progress.through_seq,
        **statistics(progress),
    }
    if progress.unconfirmed is not None:
        done = progress.changes_read
        entry["progress"] = 100 * done // max(1, done + progress.unconfirmed)
    return entry if replication.name is None else {**entry, "name": replication.name}


def result(replicator: Replicator) -> dict[str, Any]:
    """What `POST /_replicate` answers once a replication is done."""
    log = replicator.checkpoint
    assert log is not None  # noqa: S101
    changed = log.last is not None
    last = log.last or log.note(replicator.progress.confirmed_seq, replicator.progress.counts())
    return {
        "ok": True,
        **({} if changed else {"no_changes": True}),
        "session_id": last["session_id"],
        "source_last_seq": last["source_last_seq"],
        "replication_id_version": REPLICATION_ID_VERSION,
        "history": [_session(entry) for entry in last["history"]],
    }


def _common(replication: Replication) -> dict[str, Any]:
    entry = {
        "id": replication.id,
        "database": replication.database,
        "doc_id": replication.doc_id,
        "source": replication.source,
        "target": replication.target,
        "start_time": iso_time(replication.started),
        "node": NODE,
        "pid": replication.pid,
        "info": information(replication),
    }
    return entry if replication.name is None else {**entry, "name": replication.name}


def _session(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a log's history, its times as CouchDB writes them there (RFC 1123)."""
    times = {}
    for name in ("start_time", "end_time"):
        moment = _moment(entry.get(name))
        if moment is not None:
            times[name] = format_datetime(moment, usegmt=True)
    return {**entry, **times}


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError):
        return None
