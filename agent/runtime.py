"""Puts the parts together from a configuration, keeps them running, and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from agent import __version__
from agent.backoff import Backoff
from agent.config import (
    Config,
    DeviceConfig,
    RemoteConfig,
    ServerConfig,
    UserConfig,
    parse_listen,
)
from agent.documents.selector import SelectorError, parse_selector
from agent.errors import ConfigError, EdgeAgentError, StoreWriteError
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.replication.job import Job
from agent.replication.replicator import Replicator
from agent.replication.selection import Selection
from agent.replication.service import ReplicationService
from agent.sensors.link import SerialLink
from agent.sensors.recorder import Recorder
from agent.server.access import Access
from agent.server.app import make_app
from agent.server.http import Server, serve
from agent.server.tls import server_context
from agent.status import device_status, job_status, timestamp
from agent.store.databases import Databases
from agent.store.store import Store
from firmware_adapters import create as create_adapter

log = logging.getLogger(__name__)

_RESTART_BASE = 1.0
_RESTART_CAP = 60.0

_LAST_WRITE = 5.0
"""Seconds that the last readings get to become durable when the agent stops."""


class Supervisor:
    """Runs tasks that should run for ever; one that fails is logged, counted and restarted."""

    def __init__(self) -> None:
        self.restarts: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """The task may be cancelled on its own."""
        task = asyncio.create_task(self._keep_running(name, run), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Cancel the tasks and wait for all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_running(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(_RESTART_BASE, _RESTART_CAP)
        while True:
            started = time.monotonic()
            try:
                await run()
            except EdgeAgentError as error:
                log.error("task %s failed and is started again: %s", name, error)  # noqa: TRY400
            except Exception:  # the one place where everything is caught: the rest goes on
                log.exception("task %s failed and is started again", name)
            else:
                return
            self.restarts[name] = self.restarts.get(name, 0) + 1
            if time.monotonic() - started > _RESTART_CAP:
                backoff.reset()
            await asyncio.sleep(backoff.next_delay())


class Device:
    """A configured device: its link, its adapter and its recorder."""

    def __init__(self, config: DeviceConfig, store: Store) -> None:
        """Raises ConfigError for an adapter that does not exist."""
        self.config = config
        self.link = SerialLink(config.port, config.baud)
        self.recorder = Recorder(store, config.name, adapter_for(config))

    async def run_link(self) -> None:
        await self.link.run(self.recorder.feed, self.recorder.port_opened)

    async def store_the_rest(self) -> None:
        """Wait until what was read is durable. Raises StoreWriteError when it is lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WRITE):
                await self.recorder.drain()
        if self.recorder.waiting:
            raise StoreWriteError(
                f"device {self.config.name!r}: {self.recorder.waiting} readings are lost, "
                f"the store did not take them: {self.recorder.last_error}"
            )


class Remote:
    """A configured remote and the replications with it."""

    def __init__(self, config: RemoteConfig, store: Store, database: str) -> None:
        """`store` is the database of that name. Raises ConfigError."""
        self.config = config
        self.database = database
        self.peer = peer_for(config)
        local = LocalPeer(store)
        self.jobs: dict[str, Job] = {}
        if config.direction != "pull":
            self._add("push", local, self.peer, count_pending=store.pending)
        if config.direction != "push":
            self._add("pull", self.peer, local, count_pending=None)

    def _add(
        self,
        direction: str,
        source: LocalPeer | CouchPeer,
        target: LocalPeer | CouchPeer,
        *,
        count_pending: Callable[[Any], Awaitable[int]] | None,
    ) -> None:
        config = self.config
        replicator = Replicator(
            source,
            target,
            continuous=True,
            create_source=config.create and direction == "pull",
            create_target=config.create and direction == "push",
            selection=selection_for(config, direction),
            checkpoint_interval=config.checkpoint_interval,
        )
        self.jobs[direction] = Job(
            f"{config.name} {direction}",
            replicator,
            patient=True,
            retry_cap=config.retry_cap,
            count_pending=count_pending,
        )


class Agent:
    """A running agent. A hub is one without devices and remotes, and without a database of its
    own."""

    def __init__(
        self,
        data: Path,
        server: ServerConfig,
        users: Sequence[UserConfig] = (),
        config: Config | None = None,
    ) -> None:
        self.databases = Databases(data)
        self.server: Server | None = None
        self._server_config = server
        self._users = users
        self._config = config
        self._store: Store | None = None
        self._devices: list[Device] = []
        self._remotes: list[Remote] = []
        self._links = Supervisor()
        self._recorders = Supervisor()
        self._replications = Supervisor()
        self._replication = ReplicationService(self.databases, self._replications.start)
        self._started = time.time()

    @classmethod
    def from_config(cls, config: Config) -> Agent:
        return cls(Path(config.agent.data), config.server, config.user, config)

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
        if self._config is not None:
            self._store = await self.databases.ensure(self._config.agent.database)
            self.databases.hold(self._config.agent.database)
            await asyncio.to_thread(self._build, self._config, self._store)
        app = make_app(
            self.databases, access=access, status=self.status, replications=self._replication
        )
        self.server = await serve(app, host, port, has_users=bool(access.accounts), tls=tls)
        for device in self._devices:
            self._recorders.start(f"recorder {device.config.name}", device.recorder.run)
            self._links.start(f"device {device.config.name}", device.run_link)
        for remote in self._remotes:
            for job in remote.jobs.values():
                self._replication.adopt(job, remote.database)
        self._replication.start()

    def _build(self, config: Config, store: Store) -> None:
        """Reads files: passwords, and what firmware adapters are installed."""
        self._devices = [Device(entry, store) for entry in config.device]
        self._remotes = [Remote(entry, store, config.agent.database) for entry in config.remote]

    async def _close(self) -> None:
        """From the wire inwards: nothing that was read is left unstored."""
        async with contextlib.AsyncExitStack() as last_first:
            last_first.push_async_callback(self.databases.close)
            if self.server is not None:
                last_first.push_async_callback(self.server.close)
            for remote in self._remotes:
                last_first.push_async_callback(remote.peer.close)
            last_first.push_async_callback(self._replication.close)
            last_first.push_async_callback(self._replications.stop)
            last_first.push_async_callback(self._recorders.stop)
            last_first.push_async_callback(self._store_the_rest)
            last_first.push_async_callback(self._links.stop)

    async def _store_the_rest(self) -> None:
        """Raises StoreWriteError when readings are lost."""
        await asyncio.gather(*(device.store_the_rest() for device in self._devices))

    async def status(self) -> dict[str, Any]:
        """What the agent is doing, as `edge-agent status --json` prints it."""
        restarts = {
            **self._links.restarts,
            **self._recorders.restarts,
            **self._replications.restarts,
        }
        status: dict[str, Any] = {
            "version": __version__,
            "pid": os.getpid(),
            "started": timestamp(self._started),
            "uptime": round(time.time() - self._started, 3),
            "data": str(self.databases.folder),
            "restarts": {name: count for name, count in restarts.items() if count},
        }
        if self._store is None or self._config is None:
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
        }
        status["devices"] = [
            device_status(device.config, device.link, device.recorder) for device in self._devices
        ]
        status["remotes"] = [
            {
                "name": remote.config.name,
                "url": remote.peer.label,
                **{direction: await job_status(job) for direction, job in remote.jobs.items()},
            }
            for remote in self._remotes
        ]
        return status


def access_for(
    data: Path, server: ServerConfig, users: Sequence[UserConfig]
) -> tuple[Access, ssl.SSLContext | None]:
    """Who may use a server, and its TLS. Reads files, and keeps a secret in the data's folder.

    Raises ConfigError, PermanentError.
    """
    access = Access.open(
        data,
        [(user.name, user.password_hash, user.roles) for user in users],
        host=parse_listen(server.listen)[0],
        cors_origins=server.cors_origins,
        timeout=server.session_timeout,
    )
    return access, tls_for(server)


def tls_for(server: ServerConfig) -> ssl.SSLContext | None:
    """What the server encrypts with, if it does. Reads files. Raises ConfigError."""
    if server.tls_certificate is None or server.tls_key is None:
        return None
    return server_context(Path(server.tls_certificate), Path(server.tls_key))


def adapter_for(config: DeviceConfig) -> Any:
    """The firmware adapter that a device is configured with. Raises ConfigError."""
    try:
        return create_adapter(config.adapter)
    except ValueError as error:
        raise ConfigError(
            f'device {config.name!r}: adapter: {error}; for example adapter = "cbor-frames"'
        ) from None


def selection_for(config: RemoteConfig, direction: str) -> Selection:
    """What is replicated with a remote in a direction, "push" or "pull". Raises ConfigError."""
    selector = getattr(config, f"{direction}_selector")
    doc_ids = getattr(config, f"{direction}_doc_ids")
    if selector is not None:
        try:
            parse_selector(selector)
        except SelectorError as error:
            raise ConfigError(f"remote {config.name!r}: {direction}_selector: {error}") from None
    return Selection(selector, None if doc_ids is None else tuple(doc_ids))


def peer_for(config: RemoteConfig) -> CouchPeer:
    """The other side of a remote; it does not connect yet. Raises ConfigError."""
    password = config.secret()
    if config.ca_file is not None and not os.access(config.ca_file, os.R_OK):
        raise ConfigError(
            f"remote {config.name!r}: ca_file {config.ca_file} cannot be read; give a file with "
            "certificates in PEM format, readable by this user"
        )
    try:
        return CouchPeer.from_url(
            config.url,
            user=config.user,
            password=password,
            auth=config.auth,
            ca_file=config.ca_file,
            feed=config.feed,
            heartbeat=config.heartbeat,
        )
    except ConfigError as error:
        raise ConfigError(f"remote {config.name!r}: {error}") from None


async def run_until_signalled(agent: Agent, ready: Callable[[Agent], None]) -> None:
    """Run an agent until SIGTERM or SIGINT, then stop it in order."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await agent.run(stop, ready)
