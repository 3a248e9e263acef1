"""What devices and remotes look like in the status; plain JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.config import DeviceConfig
from agent.documents.times import millisecond_timestamp
from agent.replication.job import Job
from agent.replication.verifier import Verified
from agent.sensors.device_settings import DeviceSettings
from agent.sensors.link import SerialLink
from agent.sensors.recorder import Recorder

if TYPE_CHECKING:
    from agent.processing.hook import Hook
    from agent.remote import Remote
    from agent.server.mqtt import Responder

_HARMLESS = frozenset(("log", "heartbeat", "no-value", "settings"))


def timestamp(seconds: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339 in UTC."""
    return None if seconds is None else millisecond_timestamp(seconds)


def device_status(
    config: DeviceConfig, link: SerialLink, recorder: Recorder, settings: DeviceSettings
) -> dict[str, Any]:
    """`errors` counts damage on the wire since the start; `gaps`, `missing`, `dropped` (frames
    that the device says it had no room to keep), `repeated` and `restarts` count for as long as
    the store lasts, `missing_since_start` does not. A sensor's counts are since the start: of its
    `readings` `suppressed` told nothing new and were not stored; `gaps` and `errors` are as
    `SensorStats` has them. `rate` is in readings per second; `alarms` are those that are raised."""
    state = recorder.state
    errors = sum(count for kind, count in recorder.events.items() if kind not in _HARMLESS)
    return {
        "name": config.name,
        "port": config.port,
        "adapter": config.adapter,
        "state": link.state,
        "last_error": recorder.last_error or link.last_error,
        "bytes_received": link.bytes_received,
        "errors": errors,
        "events": dict(recorder.events),
        "gaps": state.gaps,
        "missing": state.lost,
        "missing_since_start": recorder.lost_since_start,
        "dropped": state.dropped,
        "repeated": state.repeated,
        "restarts": state.restarts,
        "settings": settings.status(),
        "sensors": [
            {
                "name": name,
                "readings": stats.readings,
                "suppressed": stats.suppressed,
                "rate": round(stats.rate(), 3),
                "gaps": stats.gaps,
                "errors": stats.errors,
                "last_value": stats.last_value,
                "quality": stats.last_quality,
                "unit": stats.unit,
                "last_time": stats.last_time,
                "alarms": state.sensors[name].raised() if name in state.sensors else [],
            }
            for name, stats in recorder.sensors.items()
        ],
    }


async def remote_status(remote: Remote) -> dict[str, Any]:
    """`bytes_sent` and `bytes_received` over the link since the start; `bytes_per_document` and
    `bytes_per_reading` are all of these by what was carried in either direction, None as long as
    that is nothing. `budget` is there where one is set: `used` of today's `bytes_per_day`, and new
    ones at `until`. `verified` is there where that is scheduled: how the latest verification ended,
    and in `error` why the one after it has not."""
    sent, received = remote.traffic()
    done = [job.progress for job in remote.jobs.values()]
    budget = remote.budget
    return {
        "name": remote.config.name,
        "url": remote.peer.label,
        "bytes_sent": sent,
        "bytes_received": received,
        "bytes_per_document": _each(sent + received, sum(each.docs_written for each in done)),
        "bytes_per_reading": _each(sent + received, sum(each.readings for each in done)),
        "budget": None
        if budget is None
        else {
            "bytes_per_day": budget.bytes_per_day,
            "used": budget.used,
            "until": timestamp(budget.until),
        },
        "verified": None if remote.verifier is None else verified_status(remote.verifier.last),
        **{direction: await job_status(job) for direction, job in remote.jobs.items()},
    }


def verified_status(last: Verified) -> dict[str, Any]:
    """`time` is None as long as no verification has ended; `ids` are those of the first documents
    that differ."""
    return {**msgspec.structs.asdict(last), "time": timestamp(last.time)}


def _each(size: int, count: int) -> float | None:
    return round(size / count, 1) if count else None


async def job_status(job: Job) -> dict[str, Any]:
    """`pending` in changes, `lag` in seconds since the target last had everything; `clone_seen` is
    when another agent with the same identity was last noticed, if it was in the last hour.

    `lanes` are those that there are, by name: the changes that each has before it, and whether it
    waits for another day's budget.
    """
    progress = job.progress
    lag = job.lag()
    return {
        "state": str(job.state),
        "last_error": job.last_error,
        "retry_at": timestamp(job.retry_at),
        "pending": await job.pending(),
        "lanes": {
            str(lane): {"pending": pending, "waits_for_budget": lane in job.replicator.held}
            for lane, pending in (await job.lanes()).items()
        },
        "last_confirmed": timestamp(progress.last_confirmed),
        "lag": None if lag is None else round(lag, 3),
        "clone_seen": timestamp(job.replicator.others.seen),
        "confirmed_seq": progress.confirmed_seq,
        "docs_read": progress.docs_read,
        "docs_written": progress.docs_written,
        "doc_write_failures": progress.doc_write_failures,
        "failures": [
            {
                "id": failure.id,
                "rev": failure.rev,
                "error": failure.error,
                "reason": failure.reason,
            }
            for failure in progress.failures
        ],
    }


async def hook_status(hook: Hook) -> dict[str, Any]:
    """`pending` in changes; `processed` documents and `failed` calls since the start; `dead` are
    the documents that were given up and wait for somebody."""
    return {
        "name": hook.name,
        "database": hook.database,
        "target": hook.target,
        "state": str(hook.state),
        "pending": await hook.pending(),
        "processed": hook.processed,
        "failed": hook.failures,
        "dead": len(hook.letters),
        "last_error": hook.last_error,
        "retry_at": timestamp(hook.retry_at),
    }


def responder_status(responder: Responder) -> dict[str, Any]:
    """`mqtt` is the responder's own account; `since` is when a gateway's status was first heard."""
    return {
        "mqtt": responder.status(),
        "gateways": [
            {**gateway, "since": timestamp(gateway["since"])}
            for gateway in responder.present.gateways()
        ],
    }
