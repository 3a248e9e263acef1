"""URLs of brokers, the topics made of them, and what the configuration says of MQTT remotes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config_file import load
from agent.errors import ConfigError
from agent.parts import peer_for
from agent.peers.mqtt import MqttPeer
from agent.peers.mqtt_topics import (
    DEFAULT_PREFIX,
    Asked,
    Topics,
    is_mqtt,
    parse_broker_url,
    parse_mqtt_url,
)
from tests import agents

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize(
    ("url", "label", "prefix", "database"),
    [
        ("mqtt://host/edge", "mqtt://host", DEFAULT_PREFIX, "edge"),
        ("MQTT://HOST:1883/edge/", "mqtt://host", DEFAULT_PREFIX, "edge"),
        ("mqtts://host:8883/a/b/edge", "mqtts://host/a/b", "a/b", "edge"),
        ("ws://[::1]:8080/x%2Fy", "ws://[::1]:8080", DEFAULT_PREFIX, "x/y"),
        ("wss://u:p%40@host/edge-sync/edge", "wss://host", DEFAULT_PREFIX, "edge"),
    ],
)
def test_urls(url: str, label: str, prefix: str, database: str) -> None:
    broker, name, credentials = parse_mqtt_url(url)
    assert (str(broker), broker.prefix, name) == (label, prefix, database)
    assert is_mqtt(url)
    if credentials is not None:
        assert (credentials.user, credentials.password) == ("u", "p@")
    again, name, _ = parse_mqtt_url(f"{broker}/{url.rstrip('/').rpartition('/')[2]}")
    assert (again, name) == (broker, database)


@pytest.mark.parametrize(
    "url",
    [
        "http://host/db",
        "mqtt://host",
        "mqtt:///db",
        "mqtt://host:x/db",
        "mqtt://höst/db",
        "mqtt://host/a?b",
        "mqtt://:secret@host/db",
        "mqtt://host/+/db",
        "mqtt://host/a%23/db",
        "mqtt://host/$SYS/db",
        "mqtt://host//x//db",
        "mqtt://u:secret@ho st:1x/db",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mqtt_url(url)
    assert "secret" not in str(caught.value)


def test_no_two_databases_have_the_same_identity() -> None:
    urls = ("mqtt://host/a/b", "mqtt://host/a%2Fb", "mqtt://host/b", "mqtts://host/b")
    assert len({MqttPeer.from_url(url, node="n").identity for url in urls}) == 4


def test_the_prefix_of_a_broker() -> None:
    assert parse_broker_url("mqtt://host")[0].prefix == DEFAULT_PREFIX
    assert parse_broker_url("mqtt://host/a/b/")[0].prefix == "a/b"


@given(names, names)
def test_topics_tell_what_they_were_made_of(database: str, node: str) -> None:
    topics = Topics("a/b")
    for responder in ("", "0a1b2c3d"):
        topic = topics.request(database, node, responder)
        assert not {"+", "#", "\0"} & set(topic)
        assert topics.asked(topic) == Asked(database, node, responder)
    assert topics.node_of_status(topics.status(node)) == node
    for other in (topics.reply(database, node), topics.changed(database), "a/b", "x/y/z/req"):
        assert topics.asked(other) is None
        assert topics.node_of_status(other) is None


def config(folder: Path, **keys: object) -> Path:
    remote = {"name": "cloud", "url": "mqtts://broker.example.org/edge", **keys}
    return agents.gateway_config(folder / "gateway.toml", agents.table("remote", **remote))


def test_a_remote_on_a_broker(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    path = config(tmp_path, user="gateway-1", password_file="secret", heartbeat=60)
    loaded = load(path)
    peer = peer_for(loaded.remote[0], loaded.agent.name)
    assert peer.label == peer.identity == "mqtts://broker.example.org/edge"


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"url": "mqtt://broker.example.org"}, ["remote.url", "mqtt(s)://"]),
        ({"feed": "longpoll"}, ["'cloud'", "feed is only for HTTP"]),
        ({"auth": "basic"}, ["'cloud'", "auth is only for HTTP"]),
        ({"client_key": "k.pem"}, ["client_key needs client_certificate", "for example"]),
        (
            {"url": "https://host/db", "client_certificate": "c.pem"},
            ["client_certificate is only for an MQTT broker"],
        ),
        ({"client_certificate": "gone.pem"}, ["client_certificate", "gone.pem cannot be read"]),
        ({"url": "mqtt://host/#/edge"}, ["'cloud'", "is not the URL of a broker"]),
    ],
)
def test_mistakes_in_the_configuration(
    keys: dict[str, object], parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        peer_for(load(config(tmp_path, **keys)).remote[0], "gateway-1")
    for part in parts:
        assert part in str(caught.value)


def test_who_does_without_mqtt_does_without_the_library() -> None:
    check = "import sys, agent.cli.run, agent.cli.replicate; sys.exit('aiomqtt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=agents.CHECKOUT).returncode == 0
