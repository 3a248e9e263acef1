"""Which checks there are for a configuration."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agent.config import Config, HubConfig, parse_listen
from agent.doctor import files, listening, machine, ports, running
from agent.doctor.account import agent_account
from agent.doctor.brokers import mqtt_remote, telemetry_broker
from agent.doctor.finding import Check, Finding, Level
from agent.doctor.network import webhook
from agent.doctor.remotes import http_remote
from agent.errors import EdgeAgentError
from agent.parts import adapter_for, hook_for, peer_for, selection_for
from agent.peers.mqtt_topics import is_mqtt
from agent.server.http import check_host
from agent.store.databases import Databases
from agent.telemetry.options import telemetry_options


def checks_for(
    path: Path, config: Config | HubConfig, told: Mapping[str, Any] | None, options: str = ""
) -> Iterator[Check]:
    """For the configuration in the file `path`; `told` is the running agent's status, if one runs,
    and `options` what a command needs to find it.

    Blocks.
    """
    process = None if told is None else _process(told)
    data = _data(config, told)
    account = agent_account(process, data)
    if told is not None:
        yield Check.blocking("agent", "status", partial(running.status, told, config, options))
    else:
        yield Check.blocking(
            "listen", config.server.listen, partial(listening.listen, config.server)
        )
    yield Check.blocking("config", str(path), partial(_configuration, path, config))
    yield Check.blocking("secrets", str(path), partial(files.secrets, path, config, account))
    yield Check.blocking("certificate", "server", partial(listening.certificate, config.server))
    trusted = isinstance(config, Config) and config.clock.trust == "system"
    yield Check.blocking("clock", "this machine", partial(machine.clock, trusted=trusted))
    if data is not None:
        uptime = None if told is None else told.get("uptime")
        yield Check.blocking("data", str(data), partial(files.data, data, account))
        yield Check.blocking("disk", str(data), partial(machine.disk, data))
        yield Check.blocking("card", str(data), partial(machine.card, data, process, uptime))
    for hook in config.hook:
        if hook.url is not None:
            yield Check("dns", hook.label, partial(webhook, hook, hook.url))
    if not isinstance(config, Config):
        return
    if told is None and data is not None:
        file = Databases(data).path(config.agent.database)
        yield Check.blocking("store", str(file), partial(files.store, file))
    for device in config.device:
        run = partial(ports.port, device, account, process)
        yield Check.blocking("port", f"device {device.name!r}", run)
    for remote in config.remote:
        if is_mqtt(remote.url):
            yield Check(
                "broker", remote.label, partial(mqtt_remote, remote, config.agent.name, path)
            )
        else:
            yield Check("server", remote.label, partial(http_remote, remote, path))
    for entry in config.telemetry:
        yield Check("broker", entry.label, partial(telemetry_broker, entry, config, path))


def _process(told: Mapping[str, Any]) -> int | None:
    """Of an agent on this machine, which `--url` need not be."""
    pid = told.get("pid")
    return pid if isinstance(pid, int) and Path(f"/proc/{pid}").exists() else None


def _data(config: Config | HubConfig, told: Mapping[str, Any] | None) -> Path | None:
    """A hub's file does not tell; the hub does, if it runs here."""
    if isinstance(config, Config):
        return Path(config.agent.data)
    folder = None if told is None else told.get("data")
    return Path(folder) if isinstance(folder, str) and Path(folder).is_absolute() else None


def _configuration(path: Path, config: Config | HubConfig) -> Sequence[Finding]:
    """Each thing that would keep the agent from starting."""
    own = config.agent.database if isinstance(config, Config) else None
    makers: list[tuple[str, Callable[[], object]]] = []
    host = parse_listen(config.server.listen)[0]
    makers.append(("server", partial(check_host, host, has_users=bool(config.user))))
    for hook in config.hook:
        makers.append((hook.label, partial(hook_for, hook, Databases(Path()), own)))
    if isinstance(config, Config):
        for device in config.device:
            makers.append((f"device {device.name!r}", partial(adapter_for, device)))
        for remote in config.remote:
            makers.append((remote.label, partial(peer_for, remote, config.agent.name)))
            for direction in ("push", "pull"):
                makers.append((remote.label, partial(selection_for, remote, direction)))
        for entry in config.telemetry:
            makers.append((entry.label, partial(telemetry_options, entry, config)))
    findings = []
    for subject, make in makers:
        try:
            make()
        except EdgeAgentError as error:
            text = str(error).removeprefix(f"{subject}: ")
            mend = shlex.join(["edge-agent", "config", "check", "--config", str(path)])
            findings.append(Finding("config", subject, Level.ERROR, text, mend))
    return findings or [Finding("config", "file", Level.OK, "has no mistakes")]
