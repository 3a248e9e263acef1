"""Puts the parts together from a configuration, keeps them running, and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agent import __version__
from agent.attention import attention
from agent.config import (
    Config,
    RemoteConfig,
    ServerConfig,
    UserConfig,
    parse_listen,
)
from agent.config_conflicts import ConflictConfig
from agent.config_hooks import HookConfig
from agent.conflict_policies import policies_for
from agent.device import Device
from agent.figures import Figures, HubFigures, system
from agent.parts import (
    access_for,
    first_on_brokers,
    hook_for,
    publisher_for,
    responder_for,
    retention_for,
)
from agent.rates import Uptime
from agent.remote import Remote
from agent.replication.arrivals import Arrivals
from agent.replication.conflicts import ConflictService
from agent.replication.service import ReplicationService
from agent.sensors.clock import AgentClock
from agent.sensors.device_settings import follow_documents
from agent.sensors.machine import LinuxMachine, kernel_boot_id
from agent.sensors.recorder import finish_windows
from agent.server.app import make_app
from agent.server.http import Server, serve
from agent.status import device_status, hook_status, remote_status, responder_status, timestamp
from agent.store.databases import Databases
from agent.store.salvage import Salvage, salvaged
from agent.store.store import Store
from agent.supervisor import Supervisor

if TYPE_CHECKING:
    from agent.processing.hook import Hook
    from agent.replication.confirmations import Confirmation
    from agent.replication.retention import Retention
    from agent.server.mqtt import Broker, Responder
    from agent.telemetry.publisher import Publisher


class Agent:
    """A running agent. A hub is one without devices and remotes, and without a database of its
    own; with a `broker` it serves its databases there, too."""

    def __init__(
        self,
        data: Path,
        server: ServerConfig,
        users: Sequence[UserConfig] = (),
        config: Config | None = None,
        broker: Broker | None = None,
        conflicts: Sequence[ConflictConfig] = (),
        hooks: Sequence[HookConfig] = (),
    ) -> None:
        self.databases = Databases(data)
        self.server: Server | None = None
        self._server_config = server
        self._users = users
        self._config = config
        self._broker = broker
        self._policies = conflicts
        self._conflicts = ConflictService(self.databases, {})
        self._hook_configs = hooks
        self._responder: Responder | None = None
        self._store: Store | None = None
        self._clock: AgentClock | None = None
        self._devices: list[Device] = []
        self._remotes: list[Remote] = []
        self._publishers: list[Publisher] = []
        self._resolving = Supervisor()
        self._hooks: list[Hook] = []
        self._figures: Figures | HubFigures = HubFigures(self.databases.tally, self._processed)
        self._retention: Retention | None = None
        self._responding = Supervisor()
        self._publishing = Supervisor()
        self._processing = Supervisor()
        self._links = Supervisor()
        self._timing = Supervisor()
        self._recorders = Supervisor()
        self._replications = Supervisor()
        self._retaining = Supervisor()
        self._replication = ReplicationService(self.databases, self._replications.start)
        self._uptime = Uptime()
        self._salvaged: Salvage | None = None

    @classmethod
    def from_config(cls, config: Config) -> Agent:
        return cls(
            Path(config.agent.data),
            config.server,
            config.user,
            config,
            hooks=config.hook,
            conflicts=config.conflict,
        )

    async def run(self, stop: asyncio.Event, ready: Callable[[Agent], None]) -> None:
        """Run until `stop` is set. Raises EdgeAgentError when it cannot start."""
        try:
            await self._start()
            ready(self)
            await stop.wait()
        finally:
            await self._close()

    async def _start(self) -> None:
        await self.databases.make_folder()
        access, tls = await asyncio.to_thread(
            access_for, self.databases.folder, self._server_config, self._users
        )
        host, port = parse_listen(self._server_config.listen)
        own = None if self._config is None else self._config.agent.database
        policies = await asyncio.to_thread(policies_for, self._policies, own)
        if own is not None:
            policies.setdefault(own, [])  # what is left to people there is logged
        self._conflicts = ConflictService(self.databases, policies)
        if self._config is not None:
            self._store = await self.databases.ensure(self._config.agent.database)
            self.databases.hold(self._config.agent.database)
            self._salvaged = await salvaged(self._store)
            await asyncio.to_thread(self._build, self._config, self._store)
            assert self._clock is not None  # noqa: S101
            configured = {device.name for device in self._config.device}
            for name in await self._store.devices_with_parts():
                gone = name not in configured
                await finish_windows(self._store, name, all=gone, boot_id=self._clock.boot_id)
            await self._clock.open(self._store, self._config.agent.name, configured)
            self._timing.start("clock", self._clock.run)
            self._timing.start("clock correction", self._clock.correct)
        self._hooks = await asyncio.to_thread(self._build_hooks)
        if self._retention is not None:
            await self._retention.load()
            self._retention.confirmations += self._confirmations()
            self._retaining.start("retention", self._retention.run)
        app = make_app(
            self.databases,
            access=access,
            status=self.status,
            replications=self._replication,
            outlooks=self._conflicts,
            hooks={hook.name: hook for hook in self._hooks},
        )
        self.server = await serve(app, host, port, has_users=bool(access.accounts), tls=tls)
        self._conflicts.start(self._resolving.start)
        if self._broker is not None:
            self._responder = responder_for(self._broker, self.databases)
            self._responding.start("MQTT responder", self._responder.run)
        self._publishing.start("figures", self._figures.run)
        if isinstance(self._figures, Figures):
            self._publishing.start("presence", self._figures.announce)
        for publisher in self._publishers:
            self._publishing.start(f"telemetry {publisher.name}", publisher.run)
        for hook in self._hooks:
            self._processing.start(f"hook {hook.name}", hook.run)
        for device in self._devices:
            self._recorders.start(f"recorder {device.config.name}", device.recorder.run)
            self._links.start(f"device {device.config.name}", device.run_link)
            if device.polling is not None:
                self._links.start(f"polling {device.config.name}", device.polling.run)
            self._links.start(f"settings {device.config.name}", device.settings.run)
        if self._store is not None and self._devices:
            settings = [device.settings for device in self._devices]
            following = partial(follow_documents, self._store, settings)
            self._links.start("device documents", following)
        for remote in self._remotes:
            for job in remote.jobs.values():
                self._replication.adopt(job, remote.database)
            if remote.verifier is not None:
                name = f"verification {remote.config.name}"
                self._replications.start(name, remote.verifier.run)
        self._replication.start()

    def _build(self, config: Config, store: Store) -> None:
        """Reads files: passwords, and what firmware adapters are installed."""
        clock = self._clock = AgentClock(config.clock, LinuxMachine(kernel_boot_id()))
        self._devices = [Device(entry, store, config.agent, clock) for entry in config.device]
        if config.retention is not None:
            self._retention = retention_for(config.retention, store, clock)
        arrivals = Arrivals()
        announcing = first_on_brokers(config.remote)
        self._remotes = [
            Remote(
                entry,
                store,
                config.agent,
                arrivals,
                announce=entry.name in announcing,
                unwanted=self._unwanted(entry, config),
                on_date=partial(clock.date, entry.name, tls=entry.url.startswith("https:")),
            )
            for entry in config.remote
        ]
        self._publishers = [publisher_for(entry, store, config) for entry in config.telemetry]
        self._figures = Figures(
            store,
            [device.recorder for device in self._devices],
            {remote.config.name: (remote.peer, remote.jobs) for remote in self._remotes},
            self._processed,
        )

    def _processed(self) -> int:
        """Documents that hooks are done with."""
        return sum(hook.processed for hook in self._hooks)

    def _unwanted(self, remote: RemoteConfig, config: Config) -> Callable[[str], bool] | None:
        """What is not to be pulled from a remote, as retention has deleted it. Readings of other
        gateways may be late and new to another remote; so they pass unless there is none."""
        if self._retention is None:
            return None
        others = [entry for entry in config.remote if entry.required and entry.direction != "pull"]
        devices = {device.name for device in config.device}
        only = all(entry.name == remote.name for entry in others)
        return partial(self._retention.unwanted, devices=None if only else devices)

    def _confirmations(self) -> list[Confirmation]:
        """All that have to have what retention deletes."""
        from agent.replication.confirmations import Followed, Pushed

        own = self._config and self._config.agent.database
        return [
            *(
                Pushed(f"remote {remote.config.name!r}", remote.jobs["push"].replicator)
                for remote in self._remotes
                if remote.config.required and "push" in remote.jobs
            ),
            *(Followed("hook", hook) for hook in self._hooks if hook.database == own),
            *(Followed("telemetry", entry) for entry in self._publishers if entry.backlog),
        ]

    def _build_hooks(self) -> list[Hook]:
        """Reads files, as `_build` does."""
        own = None if self._config is None else self._config.agent.database
        return [hook_for(entry, self.databases, own) for entry in self._hook_configs]

    async def _close(self) -> None:
        """From the wire inwards: nothing that was read is left unstored."""
        async with contextlib.AsyncExitStack() as last_first:
            last_first.push_async_callback(self.databases.close)
            if self.server is not None:
                last_first.push_async_callback(self.server.close)
            last_first.push_async_callback(self._retaining.stop)
            last_first.push_async_callback(self._resolving.stop)
            last_first.push_async_callback(self._responding.stop)
            last_first.push_async_callback(self._publishing.stop)
            for hook in self._hooks:
                last_first.push_async_callback(hook.close)
            last_first.push_async_callback(self._processing.stop)
            for remote in self._remotes:
                last_first.push_async_callback(remote.close)
            last_first.push_async_callback(self._replication.close)
            last_first.push_async_callback(self._replications.stop)
            last_first.push_async_callback(self._timing.stop)
            last_first.push_async_callback(self._recorders.stop)
            last_first.push_async_callback(self._store_the_rest)
            last_first.push_async_callback(self._links.stop)

    async def _store_the_rest(self) -> None:
        """Raises StoreWriteError when readings are lost."""
        await asyncio.gather(*(device.store_the_rest() for device in self._devices))

    async def check(self) -> None:
        """Returns while what is read or accepted gets to the disk. Raises StoreDamagedError."""
        await self.databases.check()
        for device in self._devices:
            await device.recorder.check()

    async def status(self) -> dict[str, Any]:
        """What the agent is doing, as `edge-agent status --json` prints it."""
        status = await self._status()
        status["system"] = await asyncio.to_thread(system, self.databases.folder)
        status["attention"] = attention(status)
        return status

    async def _status(self) -> dict[str, Any]:
        restarts = {
            **self._resolving.restarts,
            **self._responding.restarts,
            **self._publishing.restarts,
            **self._processing.restarts,
            **self._timing.restarts,
            **self._links.restarts,
            **self._recorders.restarts,
            **self._replications.restarts,
            **self._retaining.restarts,
        }
        status: dict[str, Any] = {
            "version": __version__,
            "pid": os.getpid(),
            "started": timestamp(self._uptime.started),
            "uptime": round(self._uptime.seconds, 3),
            "data": str(self.databases.folder),
            "restarts": {name: count for name, count in restarts.items() if count},
            "conflicts": await self._conflicts.status(),
            "damaged": msgspec.to_builtins(await self.databases.damaged()),
        }
        if self._responder is not None:
            status |= responder_status(self._responder)
        status["hooks"] = [await hook_status(hook) for hook in self._hooks]
        status["pipeline"] = self._figures.pipeline()
        if self._store is None or self._config is None or self._clock is None:
            return status
        info = await self._store.info()
        status["name"] = self._config.agent.name
        status["database"] = {
            "name": self._config.agent.database,
            "doc_count": info.doc_count,
            "doc_del_count": info.doc_del_count,
            "update_seq": info.update_seq,
            "conflicts": info.conflict_count,
            "file_size": info.file_size,
            "salvaged": msgspec.to_builtins(self._salvaged),
        }
        status["clock"] = self._clock.status()
        status["devices"] = [
            device_status(device.config, device.link, device.recorder, device.settings)
            for device in self._devices
        ]
        assert isinstance(self._figures, Figures)  # noqa: S101  (made with the store)
        status["remotes"] = [
            await self._figures.of_remote(await remote_status(remote)) for remote in self._remotes
        ]
        status["retention"] = None if self._retention is None else self._retention.status()
        status["telemetry"] = [publisher.status() for publisher in self._publishers]
        return status
