"""What a running agent says of itself, where that is not well."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.attention import copied
from agent.config import Config, HubConfig, RemoteConfig
from agent.doctor.comparing import verify_command
from agent.doctor.finding import Finding, Level
from agent.peers.http_errors import one_line
from agent.words import counted, differing


def status(
    told: Mapping[str, Any], config: Config | HubConfig, options: str = ""
) -> Sequence[Finding]:
    """From the status of the agent that runs with this configuration.

    `options`: what a command needs to find that agent, such as " --config gateway.toml".
    """
    text = f"runs (process {told.get('pid')}, version {told.get('version')})"
    return [Finding("agent", "status", Level.OK, text), *_unwell(told, config, options)]


def _unwell(told: Mapping[str, Any], config: Config | HubConfig, options: str) -> Iterator[Finding]:
    journal = "journalctl -u edge-agent -n 200"
    look = f"edge-agent status{options}"
    remotes = {each.name: each for each in config.remote} if isinstance(config, Config) else {}
    for name, count in told.get("restarts", {}).items():
        text = f"the task {name!r} failed and was started again {counted(count, 'time')}"
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
                yield Finding("agent", subject, Level.ERROR, text, look)
            if job["failures"]:
                text = f"refused there: {counted(len(job['failures']), 'document')}"
                yield Finding("agent", subject, Level.WARNING, text, f"{look} --json")
            if job.get("clone_seen"):
                text = "another agent with this one's identity replicates there, a copy of the card"
                yield Finding("agent", subject, Level.ERROR, text, look)
        verified = remote.get("verified") or {}
        if verified.get("different"):
            text = f"of the documents here and there {differing(verified['different'])}"
            configured = remotes.get(remote["name"])
            mend = look
            if configured is not None and isinstance(config, Config):
                mend = verify_command(config, configured, repair=True)
            subject = f"remote {remote['name']!r}"
            yield Finding("agent", subject, Level.ERROR, text, mend)
    refusing = (told.get("retention") or {}).get("refusing")
    if refusing:
        text = f"nothing is recorded: {one_line(refusing)}"
        yield Finding("agent", "retention", Level.ERROR, text, look)
    for publisher in told.get("telemetry", ()):
        if publisher["last_error"]:
            subject, text = f"telemetry {publisher['name']!r}", one_line(publisher["last_error"])
            yield Finding("agent", subject, Level.ERROR, text, look)
    for hook in told.get("hooks", ()):
        subject, mend = f"hook {hook['name']!r}", f"edge-agent hooks dead {hook['name']}{options}"
        if hook["state"] in ("waiting", "failed"):
            text = f"{hook['state']}: {one_line(hook['last_error'])}"
            yield Finding("agent", subject, Level.ERROR, text, f"edge-agent hooks list{options}")
        if hook["dead"]:
            text = f"could not be processed: {counted(hook['dead'], 'document')}"
            yield Finding("agent", subject, Level.WARNING, text, mend)
    yield from _damaged(told, config)
    yield from _conflicts(told, options)


def _conflicts(told: Mapping[str, Any], options: str) -> Iterator[Finding]:
    database = told.get("database", {})
    own = database.get("name")
    numbers = {own: database["conflicts"]} if database.get("conflicts") else {}
    # Only administrators are told of other databases.
    for name, number in (numbers | told.get("conflicts", {}).get("databases", {})).items():
        text = f"not resolved: {counted(number, 'document')}"
        mend = f"edge-agent conflicts list{options}"
        if name != own:
            mend += f" --database {shlex.quote(name)}"
        subject = "conflicts" if name == own else f"conflicts of {one_line(name)}"
        yield Finding("agent", subject, Level.WARNING, text, mend)


def _damaged(told: Mapping[str, Any], config: Config | HubConfig) -> Iterator[Finding]:
    for damaged in told.get("damaged", ()):
        file, salvaged = one_line(damaged["file"]), damaged.get("salvaged")
        text = "was damaged"
        if salvaged:
            text += f"; {copied(salvaged)}, and {file} is what it was"
        elif damaged["reason"]:
            text += f": {damaged['reason']}"
        compared = []
        if isinstance(config, Config) and damaged["database"] == config.agent.database:
            compared = [verify_command(config, each) for each in config.remote if _has_all(each)]
        if not compared:
            text += "; remove that when those who replicate with it, if any, have sent the rest"
        mend = " && ".join([*compared, f"rm {shlex.quote(file)}*"])
        subject = f"database {one_line(damaged['database'])!r}"
        yield Finding("agent", subject, Level.WARNING, text, mend)


def _has_all(remote: RemoteConfig) -> bool:
    """Whether it is to have, and to send, the same documents as are here."""
    chosen = (
        remote.push_selector, remote.pull_selector, remote.push_doc_ids, remote.pull_doc_ids
    )  # fmt: skip
    return remote.direction == "both" and not any(each is not None for each in chosen)
