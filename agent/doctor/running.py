"""What a running agent says of itself, where that is not well."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.doctor.finding import Finding, Level
from agent.peers.http_errors import one_line
from agent.words import counted, differing


def status(told: Mapping[str, Any]) -> Sequence[Finding]:
    """From the agent's status."""
    text = f"runs (process {told.get('pid')}, version {told.get('version')})"
    return [Finding("agent", "status", Level.OK, text), *_unwell(told)]


def _unwell(told: Mapping[str, Any]) -> Iterator[Finding]:
    journal = "journalctl -u edge-agent -n 200"
    for name, count in told.get("restarts", {}).items():
        text = f"the task {name!r} failed and was started again {count} times"
        yield Finding("agent", name, Level.WARNING, text, journal)
    for device in told.get("devices", ()):
        if device["state"] != "open":
            text = f"{device['state']}: {one_line(device['last_error'] or 'no error yet')}"
            subject = f"device {device['name']!r}"
            yield Finding("agent", subject, Level.ERROR, text, "edge-agent ports")
    for remote in told.get("remotes", ()):
        for direction in ("push", "pull"):
            job = remote.get(direction)
            if job is None:
                continue
            subject = f"remote {remote['name']!r} {direction}"
            if job["state"] in ("waiting", "failed"):
                text = f"{job['state']}: {one_line(job['last_error'])}"
                yield Finding("agent", subject, Level.ERROR, text, "edge-agent status")
            if job["failures"]:
                text = f"refused there: {counted(len(job['failures']), 'document')}"
                yield Finding("agent", subject, Level.WARNING, text, "edge-agent status --json")
            if job.get("clone_seen"):
                text = "another agent with this one's identity replicates there, a copy of the card"
                yield Finding("agent", subject, Level.ERROR, text, "edge-agent status")
        verified = remote.get("verified") or {}
        if verified.get("different"):
            text = f"of the documents here and there {differing(verified['different'])}"
            mend = "edge-agent verify DATABASE REMOTE --repair"
            subject = f"remote {remote['name']!r}"
            yield Finding("agent", subject, Level.ERROR, text, mend)
    refusing = (told.get("retention") or {}).get("refusing")
    if refusing:
        text = f"nothing is recorded: {one_line(refusing)}"
        yield Finding("agent", "retention", Level.ERROR, text, "edge-agent status")
    for publisher in told.get("telemetry", ()):
        if publisher["last_error"]:
            subject, text = f"telemetry {publisher['name']!r}", one_line(publisher["last_error"])
            yield Finding("agent", subject, Level.ERROR, text, "edge-agent status")
    for hook in told.get("hooks", ()):
        subject, mend = f"hook {hook['name']!r}", f"edge-agent hooks dead {hook['name']}"
        if hook["state"] in ("waiting", "failed"):
            text = f"{hook['state']}: {one_line(hook['last_error'])}"
            yield Finding("agent", subject, Level.ERROR, text, "edge-agent hooks list")
        if hook["dead"]:
            text = f"could not be processed: {counted(hook['dead'], 'document')}"
            yield Finding("agent", subject, Level.WARNING, text, mend)
    for damaged in told.get("damaged", ()):
        file = one_line(damaged["file"])
        text = f"was damaged; what can be read of it was copied, and {file} is what it was"
        if damaged["reason"]:
            text = f"was damaged: {damaged['reason']}"
        mend = f"edge-agent verify DATABASE REMOTE && rm {shlex.quote(file)}*"
        subject = f"database {one_line(damaged['database'])!r}"
        yield Finding("agent", subject, Level.WARNING, text, mend)
    conflicts = told.get("database", {}).get("conflicts", 0)
    if conflicts:
        text = f"not resolved: {counted(conflicts, 'document')}"
        yield Finding("agent", "conflicts", Level.WARNING, text, "edge-agent conflicts list")
