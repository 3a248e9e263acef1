"""What a replication is to do, read from the JSON in which CouchDB takes it.

The body of `POST /_replicate` and the documents of `_replicator` have the same members.

Source: CouchDB documentation, "API Reference > Server > /_replicate" and "Replication > Replicator
Database"; the refusals are worded as CouchDB's.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from agent.documents.selector import SelectorError, parse_selector
from agent.errors import ConfigError, RequestError
from agent.peers.couchdb import CouchPeer
from agent.peers.local import DatabasePeer
from agent.peers.mqtt_topics import is_mqtt, parse_mqtt_url
from agent.peers.peer import Peer
from agent.peers.urls import Credentials, DatabaseUrl, parse_database_url
from agent.replication.replicator import CHECKPOINT_INTERVAL
from agent.replication.selection import EVERYTHING, Selection
from agent.store.databases import Databases

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name (RFC 9110, 5.6.2)."""

_OF_THE_CONNECTION = frozenset({"connection", "content-length", "host", "transfer-encoding"})
"""Headers that frame and lead requests; another value would make them into other ones."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A source or target: a database of this process by its name, or one elsewhere by its URL."""

    name: str
    url: DatabaseUrl | None = None
    mqtt: str | None = None
    """The URL of a database behind a broker, normalized and without credentials."""
    credentials: Credentials | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """The name, or the URL without credentials."""
        if self.mqtt is not None:
            return self.mqtt
        return self.name if self.url is None else f"{self.url}/"

    def peer(self, databases: Databases) -> Peer:
        """A peer for it; the caller closes it."""
        if self.mqtt is not None:
            # Only here: an agent that does without MQTT does without the library.
            from agent.peers.mqtt import MqttPeer

            known = self.credentials or Credentials("", "")
            return MqttPeer.from_url(self.mqtt, user=known.user, password=known.password)
        if self.url is None:
            return DatabasePeer(databases, self.name)
        return CouchPeer(self.url, self.credentials, headers=self.headers)


class Spec(msgspec.Struct, frozen=True):
    """`checkpoint_interval` is in seconds."""

    source: Endpoint
    target: Endpoint
    continuous: bool = False
    create_target: bool = False
    selection: Selection = EVERYTHING
    since_seq: Any = None
    use_checkpoints: bool = True
    checkpoint_interval: float = CHECKPOINT_INTERVAL

    @property
    def purpose(self) -> tuple[str, str, str, bool]:
        """What two of them agree in that do the same."""
        return str(self.source), str(self.target), self.selection.key(), self.continuous


def parse_spec(body: Mapping[str, Any]) -> Spec:
    """Take a request or a document of `_replicator` apart; unknown members count for nothing.

    Raises RequestError: 400 for what CouchDB refuses, 501 for filters in JavaScript and
    for proxies.
    """
    if any(body.get(name) for name in ("proxy", "source_proxy", "target_proxy")):
        raise RequestError(501, "not_implemented", "Proxies are not supported")
    return Spec(
        source=parse_endpoint(body.get("source"), "source"),
        target=parse_endpoint(body.get("target"), "target"),
        continuous=flag(body, "continuous"),
        create_target=flag(body, "create_target"),
        selection=_selection(body),
        since_seq=body.get("since_seq"),
        use_checkpoints=flag(body, "use_checkpoints", default=True),
        checkpoint_interval=_milliseconds(body, "checkpoint_interval"),
    )


def flag(body: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """A member that is true or false. Raises RequestError."""
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise _bad(f"parameter `{name}` must be a boolean")
    return value


def _selection(body: Mapping[str, Any]) -> Selection:
    doc_ids, selector = body.get("doc_ids"), body.get("selector")
    script = body.get("filter")
    if sum(part is not None for part in (doc_ids, selector, script)) > 1:
        raise _bad("`doc_ids`,`filter`,`selector` are mutually exclusive")
    if script is not None:
        raise RequestError(
            501,
            "not_implemented",
            "Filters in JavaScript are not supported; `selector` takes a Mango selector instead",
        )
    ids = None
    if doc_ids is not None:
        if not isinstance(doc_ids, list) or not all(isinstance(id, str) for id in doc_ids):
            raise _bad("parameter `doc_ids` must be an array")
        # CouchDB takes them percent-encoded, for the sake of its first version.
        ids = tuple(sorted({unquote(id) for id in doc_ids}))
    if selector is not None:
        if not isinstance(selector, dict):
            raise _bad("parameter `selector` must be a JSON object")
        try:
            parse_selector(selector)
        except SelectorError as error:
            raise RequestError(400, error.error, str(error)) from None
    return Selection(selector, ids, flag(body, "winning_revs_only"))


def parse_endpoint(value: Any, side: str) -> Endpoint:
    """A `source` or `target`: a name, a URL, or an object with `url`, `headers` and `auth`.

    Raises RequestError.
    """
    if isinstance(value, str):
        value = {"url": value}
    if not isinstance(value, dict):
        raise _bad(f"`{side}` must be the name or the URL of a database, or an object with `url`")
    place = value.get("url")
    if not isinstance(place, str) or not place:
        raise _bad(f"`{side}` has an invalid url")
    if is_mqtt(place):
        return _mqtt_endpoint(place, value, side)
    if not place.lower().startswith(("http://", "https://")):
        if ":" in place or "@" in place:  # no name; and it may have a password in it
            raise _bad(f"`{side}` has an invalid url")
        return Endpoint(place)
    try:
        url, credentials = parse_database_url(place)
    except ConfigError as error:
        raise _bad(f"`{side}`: {error}") from None
    headers = _headers(value.get("headers", {}), side)
    basic = next((name for name in headers if name.lower() == "authorization"), None)
    if basic is not None and (sent := _basic(headers[basic])) is not None:
        credentials = sent
        del headers[basic]
    credentials = _auth(value.get("auth"), side) or credentials
    return Endpoint(url.name, url, credentials=credentials, headers=headers)


def _mqtt_endpoint(place: str, value: Mapping[str, Any], side: str) -> Endpoint:
    if value.get("headers"):
        raise _bad(f"`{side}.headers` cannot go to a broker; give `auth` instead")
    try:
        broker, name, credentials = parse_mqtt_url(place)
    except ConfigError as error:
        raise _bad(f"`{side}`: {error}") from None
    return Endpoint(
        name,
        mqtt=f"{broker}/{quote(name, safe='')}",
        credentials=_auth(value.get("auth"), side) or credentials,
    )


def _headers(value: Any, side: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _bad(f"`{side}.headers` must be an object")
    for name, text in value.items():
        if not _TOKEN.fullmatch(name) or name.lower() in _OF_THE_CONNECTION:
            raise _bad(f"`{side}.headers` cannot have {name!r}")
        # What would end a header's line is nothing that a header can have.
        if not isinstance(text, str) or not text.isprintable():
            raise _bad(f"`{side}.headers` must have strings of printable characters")
    return dict(value)


def _auth(value: Any, side: str) -> Credentials | None:
    if value is None or value == {}:
        return None
    basic = value.get("basic") if isinstance(value, dict) else None
    if not isinstance(basic, dict):
        raise _bad(f"`{side}.auth` must be an object with `basic`; other ways are not supported")
    user, password = basic.get("username"), basic.get("password")
    if not isinstance(user, str) or not isinstance(password, str):
        raise _bad(f"`{side}.auth.basic` must have the strings `username` and `password`")
    return Credentials(user, password)


def _basic(header: str) -> Credentials | None:
    """The credentials in an Authorization header; None for another scheme than Basic."""
    scheme, _, coded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        pair = base64.b64decode(coded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, colon, password = pair.partition(":")
    return Credentials(user, password) if colon else None


def _milliseconds(body: Mapping[str, Any], name: str) -> float:
    value = body.get(name)
    if value is None:
        return CHECKPOINT_INTERVAL
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise _bad(f"parameter `{name}` must be a positive number of milliseconds")
    return value / 1000


def _bad(reason: str) -> RequestError:
    return RequestError(400, "bad_request", reason)
