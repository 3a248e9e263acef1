"""Who may publish readings where: the access rules, and what is refused in the configuration."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.peers.urls import Credentials
from agent.store.store import Store
from tests import agents
from tests.cli.helpers import in_process
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.telemetry import (
    documented,
    numbers,
    publishing,
)
from tests.patience import until


async def test_the_documented_access_rules(store: Store, tmp_path: Path) -> None:
    """They allow a gateway what it needs, and nothing in another's name."""
    folder = tmp_path / "broker"
    folder.mkdir()
    passwords, rules = folder / "passwords", folder / "rules"
    passwords.touch(mode=0o600)
    for user in ("gateway-1", "gateway-2", "gateway_1", "reader"):
        command = ("mosquitto_passwd", "-b", passwords, user, "secret")
        await asyncio.to_thread(subprocess.run, command, check=True)
    blocks = [documented("mosquitto-acl", part) for part in ("edge-readings", "_5f")]
    rules.write_text("\n".join([*blocks, "user reader\ntopic read #\n"]))
    rules.chmod(0o600)
    more = f"password_file {passwords}\nacl_file {rules}\n"
    async with Mosquitto(folder, more=more, anonymous=False) as broker:
        mine, others = Credentials("gateway-1", "secret"), Credentials("gateway-2", "secret")
        async with publishing(
            store, broker, qos=1, discovery="homeassistant", credentials=mine
        ) as publisher:
            await store.graft(numbers(0, 3))
            await until(lambda: publisher.published == 3)
            assert publisher.last_error is None
        async with publishing(store, broker, qos=1, credentials=others) as publisher:
            await until(lambda: publisher.last_error)
            assert "does not allow user 'gateway-2'" in str(publisher.last_error)
            assert "secret" not in str(publisher.status())
        named = {"gateway": "gateway_1", "credentials": Credentials("gateway_1", "secret")}
        async with publishing(
            store, broker, qos=1, discovery="homeassistant", **named
        ) as publisher:
            await store.graft(numbers(3, 5))
            await until(lambda: publisher.published == 2)
            assert publisher.last_error is None


BROKER = "mqtt://broker.example.org"


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        (({"url": "http://h"},), ["telemetry.url", "mqtt(s)://"]),
        (({"url": f"{BROKER}/+"},), ["telemetry 't'", "levels"]),
        (({"url": BROKER, "qos": 2},), ["telemetry.qos", "0 or 1"]),
        (({"url": BROKER, "interval": 0},), ["telemetry.interval", "above 0"]),
        (({"url": BROKER, "interval": 5, "backlog": True},), ["interval and backlog"]),
        (({"url": BROKER, "password": "x"},), ["telemetry 't'", "needs a user"]),
        (({"url": BROKER, "user": "u", "password_file": "gone"},), ["'t'", "password_file"]),
        (({"url": BROKER, "ca_file": "gone"},), ["telemetry 't'", "ca_file", "cannot be read"]),
        (({"url": BROKER, "client_key": "k"},), ["telemetry 't'", "client_certificate"]),
        (({"url": BROKER, "home_assistant": "a/#"},), ["home_assistant"]),
        (({"url": BROKER}, {"url": BROKER}), ["is used twice"]),
        (({"url": BROKER}, {"url": f"{BROKER}:1883", "name": "u"}), ["overlaps", "telemetry 'u'"]),
        (
            (
                {"url": BROKER, "home_assistant": True},
                {"url": f"{BROKER}/u", "name": "u", "home_assistant": "homeassistant"},
            ),
            ["telemetry 'u' tells Home Assistant"],
        ),
    ],
)
def test_mistakes_in_the_configuration(
    tmp_path: Path, tables: Sequence[dict[str, Any]], parts: Sequence[str]
) -> None:
    texts = [agents.table("telemetry", **{"name": "t", **keys}) for keys in tables]
    config = agents.gateway_config(tmp_path / "gateway.toml", *texts)
    complaint = in_process("config", "check", "--config", config).complaint()
    assert all(part in complaint for part in parts), complaint


@pytest.mark.parametrize(
    ("prefix", "overlaps"),
    [("", False), ("/other", False), ("/edge-sync", True), ("/edge-sync/x", True)],
)
def test_prefixes_are_apart(tmp_path: Path, prefix: str, *, overlaps: bool) -> None:
    config = agents.gateway_config(
        tmp_path / "gateway.toml",
        agents.table("remote", name="cloud", url=f"{BROKER}/edge"),
        agents.table("telemetry", name="site", url=BROKER + prefix, home_assistant=True),
    )
    checked = in_process("config", "check", "--config", config)
    if overlaps:
        assert "overlaps with edge-sync, which is that of remote 'cloud'" in checked.complaint()
    else:
        assert "remotes: cloud; telemetry: site" in checked.stdout
