"""How readings are published, as a `[[telemetry]]` table of the configuration says it."""

from __future__ import annotations

import msgspec

from agent.config import Config, RemoteConfig, TelemetryConfig
from agent.errors import ConfigError
from agent.peers.mqtt_tls import TlsFiles
from agent.peers.mqtt_topics import (
    READINGS_PREFIX,
    BrokerUrl,
    is_mqtt,
    parse_broker_url,
    parse_mqtt_url,
)
from agent.peers.urls import Credentials
from agent.telemetry.home_assistant import DISCOVERY_PREFIX


class Options(msgspec.Struct, frozen=True):
    """How a gateway publishes the readings of its `devices`. `interval` and `heartbeat` are in
    seconds.

    `discovery` is Home Assistant's prefix for discovery, None where it is not told of anything.
    """

    broker: BrokerUrl
    credentials: Credentials | None
    tls: TlsFiles
    gateway: str
    devices: frozenset[str]
    qos: int = 0
    retain: bool = True
    interval: float = 0.0
    backlog: bool = False
    discovery: str | None = None
    heartbeat: float = 30.0


def telemetry_options(entry: TelemetryConfig, config: Config) -> Options:
    """What one of the tables of a configuration means. Reads files. Raises ConfigError."""
    password = entry.secret()
    entry.check_files()
    try:
        broker, credentials = parse_broker_url(entry.url, READINGS_PREFIX)
    except ConfigError as error:
        raise ConfigError(f"{entry.label}: {error}") from None
    _check_apart(entry, broker, config)
    known = credentials or Credentials("", "")
    user = known.user if entry.user is None else entry.user
    return Options(
        broker,
        Credentials(user, known.password if password is None else password) if user else None,
        TlsFiles(entry.ca_file, entry.client_certificate, entry.client_key),
        config.agent.name,
        frozenset(device.name for device in config.device),
        qos=entry.qos,
        retain=entry.retain,
        interval=entry.interval or 0.0,
        backlog=entry.backlog,
        discovery=_discovery(entry),
        heartbeat=entry.heartbeat,
    )


def _discovery(entry: TelemetryConfig) -> str | None:
    return DISCOVERY_PREFIX if entry.home_assistant is True else entry.home_assistant or None


def _check_apart(entry: TelemetryConfig, broker: BrokerUrl, config: Config) -> None:
    """Nothing else that the agent does on this broker has its topics among those of the readings,
    nor the other way."""
    there: list[tuple[RemoteConfig | TelemetryConfig, BrokerUrl]] = [
        (other, parse_mqtt_url(other.url)[0]) for other in config.remote if is_mqtt(other.url)
    ]
    there += [
        (other, parse_broker_url(other.url, READINGS_PREFIX)[0])
        for other in config.telemetry
        if other is not entry
    ]
    for other, url in there:
        if (url.host, url.port) != (broker.host, broker.port):
            continue
        prefix, taken = f"{broker.prefix}/", f"{url.prefix}/"
        if prefix.startswith(taken) or taken.startswith(prefix):
            raise ConfigError(
                f"{entry.label}: the prefix {broker.prefix} overlaps with {url.prefix}, which is "
                f"that of {other.label} on this broker; write another one at the end of the url, "
                f"for example {BrokerUrl(broker.scheme, broker.host, broker.port, entry.name)}"
            )
        discovery = _discovery(entry)
        if isinstance(other, TelemetryConfig) and discovery and discovery == _discovery(other):
            raise ConfigError(
                f"{entry.label}: {other.label} tells Home Assistant of the same devices on this "
                "broker; take home_assistant out of one of them"
            )
