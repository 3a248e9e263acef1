"""MQTT brokers: whether they let us in, and whether somebody answers there for a remote."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path

from agent.config import Config, RemoteConfig, TelemetryConfig
from agent.doctor import network
from agent.doctor.finding import Finding, Level, failed
from agent.doctor.remotes import credentials_of, place_of
from agent.errors import AuthError, EdgeAgentError, RemoteMissingError, TlsError
from agent.parts import peer_for
from agent.peers.mqtt_connection import Connection
from agent.peers.mqtt_tls import TlsFiles
from agent.peers.mqtt_topics import BrokerUrl, parse_mqtt_url
from agent.peers.urls import Credentials
from agent.telemetry.options import telemetry_options

_ANSWER = 8.0
"""Seconds that a responder gets."""


async def mqtt_remote(config: RemoteConfig, name: str, path: Path) -> Sequence[Finding]:
    """Look at the remote of the agent of that `name`, beside the agent, which may be connected."""
    broker, _, known = parse_mqtt_url(config.url)
    subject = config.label
    tls = TlsFiles(config.ca_file, config.client_certificate, config.client_key)
    credentials = await asyncio.to_thread(credentials_of, config, known)
    findings = await _broker(subject, broker, credentials, tls, place_of(config, path))
    if failed(findings):
        return findings
    peer = await asyncio.to_thread(peer_for, config, name, announce=False, beside=True)
    try:
        async with asyncio.timeout(_ANSWER):
            await peer.info()
        text = f"a hub or bridge answers for {peer.label}"
        findings.append(Finding("responder", subject, Level.OK, text))
    except RemoteMissingError as error:
        if config.create:
            text = "there is none yet; it will be made"
            findings.append(Finding("database", subject, Level.OK, text))
        else:
            findings.append(Finding("database", subject, Level.ERROR, str(error), "create = true"))
    except (EdgeAgentError, TimeoutError) as error:
        text = str(error) or f"nobody answers for {peer.label} within {_ANSWER:g} s"
        mend = f"edge-agent bridge --broker {broker} --upstream URL, or edge-agent hub --broker"
        findings.append(Finding("responder", subject, Level.ERROR, text, mend))
    finally:
        await peer.close()
    return findings


async def telemetry_broker(entry: TelemetryConfig, config: Config, path: Path) -> Sequence[Finding]:
    """Look at a broker for readings; nothing is published there."""
    options = await asyncio.to_thread(telemetry_options, entry, config)
    mend = place_of(entry, path)
    return await _broker(entry.label, options.broker, options.credentials, options.tls, mend)


async def _broker(
    subject: str, broker: BrokerUrl, credentials: Credentials | None, tls: TlsFiles, mend: str
) -> list[Finding]:
    findings = [await network.name(subject, broker.host)]
    if failed(findings):
        return findings
    if broker.encrypted:
        findings += await network.certificate(subject, broker.host, broker.port, tls)
        if failed(findings):
            return findings
    connection = Connection(
        broker,
        credentials,
        client_id=f"edge-agent-doctor/{secrets.token_hex(4)}",
        tls=tls,
        received=lambda _: None,
    )
    try:
        await connection.open()
        findings.append(Finding("broker", subject, Level.OK, f"{broker} lets us in"))
    except AuthError as error:
        findings.append(Finding("login", subject, Level.ERROR, str(error), mend))
    except TlsError as error:
        shown = network.shown(broker.host, broker.port)
        findings.append(Finding("tls", subject, Level.ERROR, str(error), shown))
    except EdgeAgentError as error:
        reached = f"nc -vz {broker.host} {broker.port}"
        findings.append(Finding("broker", subject, Level.ERROR, str(error), reached))
    finally:
        with contextlib.suppress(EdgeAgentError):
            await connection.close()
    return findings
