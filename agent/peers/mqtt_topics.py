"""Where a database is on an MQTT broker: URLs, and the topics made of them.

    {prefix}/{database}/{node}/req               a gateway asks; whichever responder gets it answers
    {prefix}/{database}/{node}/req/{responder}   what goes to the one responder that has begun
    {prefix}/{database}/{node}/rep               the answers
    {prefix}/{database}/changed                  there is something new
    {prefix}/{node}/status                       presence, retained

Readings for others (telemetry) have a prefix of their own, so that nobody who may publish them may
publish anything of the above:

    {prefix}/{gateway}/{device}/{sensor}         the latest reading of a sensor
    {prefix}/{gateway}/status                    presence, retained

Names are percent-encoded as in one segment of a URL's path, so that a database's `/` and `+` mean
nothing to the broker.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

import msgspec

from agent.errors import ConfigError, without_login
from agent.peers.urls import Credentials

DEFAULT_PREFIX = "edge-sync"
"""Where a URL names no prefix."""

READINGS_PREFIX = "edge-readings"
"""The same, for telemetry."""

DEFAULT_GROUP = "edge-sync"
"""The shared subscription of responders that divide the requests among them."""

SCHEMES = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
"""Schemes of URLs, with their ports."""

WEBSOCKET_PATH = "/mqtt"

_ENCRYPTED = frozenset({"mqtts", "wss"})
_WEBSOCKETS = frozenset({"ws", "wss"})
_NOT_IN_TOPICS = re.compile(r"[+#\x00-\x1f\x7f]|^\$")


class BrokerUrl(msgspec.Struct, frozen=True):
    """A broker and the prefix of all topics, without credentials."""

    scheme: str
    host: str
    port: int
    prefix: str = DEFAULT_PREFIX

    @property
    def encrypted(self) -> bool:
        return self.scheme in _ENCRYPTED

    @property
    def websockets(self) -> bool:
        return self.scheme in _WEBSOCKETS

    def __str__(self) -> str:
        """Normalized: without the scheme's own port and the default prefix."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == SCHEMES[self.scheme] else f":{self.port}"
        prefix = "" if self.prefix == DEFAULT_PREFIX else f"/{quote(self.prefix, safe='/')}"
        return f"{self.scheme}://{host}{port}{prefix}"


def is_mqtt(url: str) -> bool:
    """Whether a URL is one of a broker."""
    return url.strip().partition("://")[0].lower() in SCHEMES


def parse_broker_url(
    text: str, default_prefix: str = DEFAULT_PREFIX
) -> tuple[BrokerUrl, Credentials | None]:
    """Take `mqtt://user:password@host:port/prefix` apart. Raises ConfigError, which repeats no
    password."""
    broker, segments, credentials = _parse(text)
    return _with_prefix(broker, segments, text, default_prefix), credentials


def parse_mqtt_url(text: str) -> tuple[BrokerUrl, str, Credentials | None]:
    """Take `mqtt://user:password@host:port/prefix/database` apart; the prefix may be missing.

    The database's name is returned as it is, not encoded. Raises ConfigError.
    """
    broker, segments, credentials = _parse(text)
    if not segments:
        raise _bad(text, "the database's name is missing; write mqtt://host/database")
    return _with_prefix(broker, segments[:-1], text), segments[-1], credentials


def _with_prefix(
    broker: BrokerUrl, segments: list[str], text: str, default: str = DEFAULT_PREFIX
) -> BrokerUrl:
    if any(not segment or _NOT_IN_TOPICS.search(segment) for segment in segments):
        raise _bad(text, "a topic's levels may not be empty, have + or #, or begin with $")
    prefix = "/".join(segments) or default
    return BrokerUrl(broker.scheme, broker.host, broker.port, prefix)


def _parse(text: str) -> tuple[BrokerUrl, list[str], Credentials | None]:
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _bad(
            text, "host or port cannot be read; write / ? # @ : in a password as %2F %3F %23 %40"
        ) from None
    if parts.scheme not in SCHEMES:
        raise _bad(text, "it must start with mqtt://, mqtts://, ws:// or wss://")
    if not host or not host.isascii():
        raise _bad(text, "the host is missing or not in ASCII; write an international name as xn--")
    if parts.query or parts.fragment or "@" in parts.path:
        raise _bad(text, "it may not contain ? # @; write them as %3F %23 %40 in names")
    if parts.password and not parts.username:
        raise _bad(text, "it has a password but no user")
    path = parts.path.strip("/")
    segments = [unquote(part) for part in path.split("/")] if path else []
    credentials = None
    if parts.username:
        credentials = Credentials(unquote(parts.username), unquote(parts.password or ""))
    broker = BrokerUrl(parts.scheme, host, SCHEMES[parts.scheme] if port is None else port)
    return broker, segments, credentials


def _bad(text: str, why: str) -> ConfigError:
    return ConfigError(f"{without_login(text)!r} is not the URL of a broker: {why}")


class Asked(NamedTuple):
    """What a topic of requests tells. `responder` is empty where any may answer."""

    database: str
    node: str
    responder: str


class Topics(msgspec.Struct, frozen=True):
    """The topics below a prefix."""

    prefix: str

    def request(self, database: str, node: str, responder: str = "") -> str:
        topic = f"{self.prefix}/{_level(database)}/{_level(node)}/req"
        return f"{topic}/{_level(responder)}" if responder else topic

    def reply(self, database: str, node: str) -> str:
        return f"{self.prefix}/{_level(database)}/{_level(node)}/rep"

    def changed(self, database: str) -> str:
        return f"{self.prefix}/{_level(database)}/changed"

    def status(self, node: str) -> str:
        return f"{self.prefix}/{_level(node)}/status"

    def reading(self, gateway: str, device: str, sensor: str) -> str:
        return f"{self.prefix}/{_level(gateway)}/{_level(device)}/{_level(sensor)}"

    def shared_requests(self, group: str, database: str | None) -> str:
        """The filter by which a group of responders divides requests; None: of any database."""
        level = "+" if database is None else _level(database)
        return f"$share/{group}/{self.prefix}/{level}/+/req"

    def requests_to(self, responder: str) -> str:
        """The filter for what goes to one responder."""
        return f"{self.prefix}/+/+/req/{_level(responder)}"

    @property
    def all_statuses(self) -> str:
        """The filter for everybody's presence."""
        return f"{self.prefix}/+/status"

    def asked(self, topic: str) -> Asked | None:
        """A topic of requests in its parts; None for any other topic."""
        levels = self._levels(topic)
        if len(levels) not in (3, 4) or levels[2] != "req":
            return None
        database, node = unquote(levels[0]), unquote(levels[1])
        return Asked(database, node, unquote(levels[3]) if len(levels) == 4 else "")

    def node_of_status(self, topic: str) -> str | None:
        """Whose presence a topic is; None for any other topic."""
        levels = self._levels(topic)
        return unquote(levels[0]) if len(levels) == 2 and levels[1] == "status" else None

    def _levels(self, topic: str) -> list[str]:
        head = f"{self.prefix}/"
        return topic.removeprefix(head).split("/") if topic.startswith(head) else []


def _level(name: str) -> str:
    return quote(name, safe="")
