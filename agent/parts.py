"""The parts of an agent, each made from its place in the configuration. They do nothing yet."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.config import (
    Config,
    DeviceConfig,
    RemoteConfig,
    ServerConfig,
    TelemetryConfig,
    UserConfig,
    parse_listen,
)
from agent.config_explain import explain
from agent.config_hooks import HookConfig
from agent.documents.selector import Selector, SelectorError, parse_selector
from agent.errors import ConfigError
from agent.peers.couchdb import CouchPeer
from agent.peers.http import OnDate
from agent.peers.mqtt_topics import is_mqtt, parse_mqtt_url
from agent.peers.peer import Peer
from agent.replication.selection import Selection
from agent.server.access import Access
from agent.server.tls import server_context
from agent.store.databases import Databases
from agent.store.store import Store
from firmware_adapters import Adapter, SettingsError
from firmware_adapters import create as create_adapter

if TYPE_CHECKING:
    from agent.config_retention import RetentionConfig
    from agent.processing.change import Target
    from agent.processing.hook import Hook
    from agent.replication.retention import Retention
    from agent.sensors.clock import AgentClock
    from agent.server.mqtt import Broker, Responder
    from agent.telemetry.publisher import Publisher


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


def adapter_for(config: DeviceConfig) -> Adapter:
    """The firmware adapter that a device is configured with. Raises ConfigError."""
    try:
        return create_adapter(config.adapter, config.settings)
    except SettingsError as error:
        if error.kind is None:
            reason = f"device.settings: {error}; take it out"
        else:
            reason = explain(error.reason, config.settings, error.kind, "device.settings")
        raise ConfigError(f"device {config.name!r}: {reason}") from None
    except ValueError as error:
        raise ConfigError(f"device {config.name!r}: adapter: {error}") from None


def selection_for(config: RemoteConfig, direction: str) -> Selection:
    """What is replicated with a remote in a direction, "push" or "pull". Raises ConfigError."""
    selector = getattr(config, f"{direction}_selector")
    doc_ids = getattr(config, f"{direction}_doc_ids")
    if selector is not None:
        _parsed(selector, f"{config.label}: {direction}_selector")
    return Selection(selector, None if doc_ids is None else tuple(doc_ids))


def _parsed(selector: Mapping[str, Any], where: str) -> Selector:
    try:
        return parse_selector(selector)
    except SelectorError as error:
        raise ConfigError(f"{where}: {error}") from None


def first_on_brokers(remotes: Iterable[RemoteConfig]) -> set[str]:
    """The names of the remotes that are the first of theirs on an MQTT broker."""
    first: dict[str, str] = {}
    for config in remotes:
        with contextlib.suppress(ConfigError):  # which `peer_for` raises, and explains
            if is_mqtt(config.url):
                first.setdefault(str(parse_mqtt_url(config.url)[0]), config.name)
    return set(first.values())


def peer_for(
    config: RemoteConfig,
    name: str,
    *,
    announce: bool = True,
    beside: bool = False,
    on_date: OnDate | None = None,
) -> Peer:
    """The other side of a remote of the agent of that name; it does not connect yet.

    On an MQTT broker one connection is to `announce` the agent's presence: the end of any other
    must not say that the agent is gone; and one that is made `beside` the agent's, while that
    runs, must not take its place. A server is heard for the time with `on_date`.
    Raises ConfigError.
    """
    password = config.secret()
    config.check_files()
    try:
        if is_mqtt(config.url):
            client_id = None if beside else f"{name}/{config.name}"
            return _mqtt_peer(config, name, password, client_id, announce=announce)
        return CouchPeer.from_url(
            config.url,
            user=config.user,
            password=password,
            auth=config.auth,
            ca_file=config.ca_file,
            feed=config.feed,
            heartbeat=config.heartbeat,
            on_date=on_date,
        )
    except ConfigError as error:
        raise ConfigError(f"{config.label}: {error}") from None


def _mqtt_peer(
    config: RemoteConfig, name: str, password: str | None, client_id: str | None, *, announce: bool
) -> Peer:
    # Only here: an agent that does without MQTT does without the library.
    from agent.peers.mqtt import MqttPeer
    from agent.peers.mqtt_tls import TlsFiles

    return MqttPeer.from_url(
        config.url,
        user=config.user,
        password=password,
        node=name,
        client_id=client_id,
        tls=TlsFiles(config.ca_file, config.client_certificate, config.client_key),
        announce=announce,
        keepalive=config.heartbeat,
    )


def responder_for(broker: Broker, databases: Databases) -> Responder:
    """What serves a hub's databases on a broker."""
    from agent.server.mqtt import Responder
    from agent.server.mqtt_served import ServedDatabases

    return Responder(broker, ServedDatabases(databases), "hub")


def publisher_for(entry: TelemetryConfig, store: Store, config: Config) -> Publisher:
    """What publishes the readings of an agent's devices; it does not connect yet.

    Raises ConfigError.
    """
    from agent.telemetry.options import telemetry_options
    from agent.telemetry.publisher import Publisher

    return Publisher(entry.name, store, telemetry_options(entry, config))


def retention_for(entry: RetentionConfig, store: Store, clock: AgentClock) -> Retention:
    """What keeps a store within its budget. Nobody has to confirm anything yet."""
    from agent.replication.retention import Options, Retention, Rule

    rules = [Rule(rule.device, rule.sensor, rule.seconds) for rule in entry.rule]
    return Retention(
        store,
        Options(entry.bytes, entry.when_full, rules),
        [],
        clock=clock.seconds,
        known=lambda: not clock.scale().unset,
        correcting=lambda: clock.waiting != 0,
    )


def hook_for(entry: HookConfig, databases: Databases, database: str | None) -> Hook:
    """A hook, by default on that `database`; it does not follow it yet. Raises ConfigError."""
    from agent.processing.hook import Hook, Options

    selector = None
    if entry.selector is not None:
        selector = _parsed(entry.selector, f"{entry.label}: selector")
    followed = entry.database or database
    assert followed is not None  # noqa: S101 - the file was checked
    options = Options(
        entry.name,
        followed,
        selector,
        batch=entry.batch,
        attempts=entry.attempts,
        retry_cap=entry.retry_cap,
        start=entry.start,
    )
    return Hook(databases, options, _target_for(entry))


def _target_for(entry: HookConfig) -> Target:
    """What a hook calls. Reads files. Raises ConfigError."""
    password, signing_key = entry.secret(), entry.kept("signing_key")
    entry.check_files()
    try:
        if entry.command is not None:
            from agent.processing.command import Command

            return Command(entry.command, entry.timeout)
        if entry.entry_point is not None:
            from agent.processing.entry_point import EntryPoint

            return EntryPoint(entry.entry_point, entry.timeout, together=entry.batch > 1)
        from agent.processing.webhook import Webhook, WebhookOptions

        assert entry.url is not None  # noqa: S101 - the file was checked
        bearer = entry.auth == "bearer"
        options = WebhookOptions(
            entry.url,
            entry.timeout,
            together=entry.batch > 1,
            user=entry.user,
            password=None if bearer else password,
            token=password if bearer else None,
            signing_key=signing_key,
            ca_file=entry.ca_file,
            client_certificate=entry.client_certificate,
            client_key=entry.client_key,
        )
        return Webhook(options)
    except ConfigError as error:
        raise ConfigError(f"{entry.label}: {error}") from None
