"""Remotes over HTTP: from the name to the database, each step only if the one before went well."""

from __future__ import annotations

import asyncio
import re
import shlex
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from agent import __version__
from agent.config import RemoteConfig
from agent.config_login import Login
from agent.doctor import network
from agent.doctor.finding import Finding, Level, failed
from agent.errors import AuthError, EdgeAgentError, RemoteMissingError
from agent.peers.http import HttpClient
from agent.peers.http_errors import one_line
from agent.peers.http_messages import Answer
from agent.peers.mqtt_tls import TlsFiles
from agent.peers.urls import Credentials, DatabaseUrl, parse_database_url

_TIMEOUT = 8.0
_SKEW = 60.0
"""Seconds by which clocks may differ."""

_OLDEST = 2
_MAINTAINED = 3
"""CouchDB's major versions that work, and that are maintained."""


class _Welcome(msgspec.Struct):
    couchdb: str | None = None
    express_pouchdb: str | None = msgspec.field(default=None, name="express-pouchdb")
    version: str = ""
    vendor: Any = None


class _User(msgspec.Struct):
    name: str | None = None
    roles: list[str] = []


class _Session(msgspec.Struct):
    user: _User = msgspec.field(name="userCtx", default_factory=_User)


class _Security(msgspec.Struct):
    """Cloudant's own permissions, by user."""

    cloudant: dict[str, list[str]] = {}


async def http_remote(config: RemoteConfig, path: Path) -> Sequence[Finding]:
    """Look at a remote as its table in the file `path` says. Nothing is written there."""
    url, known = parse_database_url(config.url)
    credentials = await asyncio.to_thread(credentials_of, config, known)
    subject = config.label
    parts = urlsplit(str(url))
    host = parts.hostname or ""
    findings = [await network.name(subject, host)]
    if failed(findings):
        return findings
    if parts.scheme == "https":
        tls = TlsFiles(config.ca_file)
        findings += await network.certificate(subject, host, parts.port or 443, tls)
        if failed(findings):
            return findings
    anyone = _client(config, url, None)
    user = _client(config, url, credentials)
    try:
        findings += await _server(subject, anyone, url)
        if failed(findings):
            return findings
        findings += await _login(subject, user, config, credentials, path)
        if not failed(findings):
            findings += await _database(subject, user, config, url, credentials)
    finally:
        await anyone.close()
        await user.close()
    return findings


def credentials_of(config: RemoteConfig, known: Credentials | None) -> Credentials | None:
    """Those of the table come before those in the URL, `known`. Blocks. Raises ConfigError."""
    user = config.user or (known.user if known else None)
    secret = config.secret()
    if not user:
        return None
    return Credentials(user, secret if secret is not None else known.password if known else "")


def _client(config: RemoteConfig, url: DatabaseUrl, credentials: Credentials | None) -> HttpClient:
    return HttpClient(url, credentials, auth=config.auth, ca_file=config.ca_file, timeout=_TIMEOUT)


async def _server(subject: str, client: HttpClient, url: DatabaseUrl) -> list[Finding]:
    """Who answers, and what its clock shows."""
    try:
        # Some servers want a log-in even for that.
        answer = await client.request("GET", "/", accept={200, 401, 403})
        welcome = answer.json(_Welcome) if answer.status == 200 else _Welcome()
    except EdgeAgentError as error:
        mend = f"curl -v {url.server}/"
        return [Finding("server", subject, Level.ERROR, _without(error, url), mend)]
    findings = _skew(subject, answer)
    if answer.status == 200:
        findings.append(_version(subject, welcome))
    else:
        findings.append(Finding("server", subject, Level.OK, "it answers, to those who log in"))
    return findings


def _version(subject: str, welcome: _Welcome) -> Finding:
    vendor = welcome.vendor if isinstance(welcome.vendor, dict) else {}
    maker, shown = str(vendor.get("name", "")), one_line(welcome.version)
    if maker == "edge-sync-agent":
        theirs = one_line(vendor.get("version", ""))
        text = f"edge-sync-agent {theirs}"
        if theirs != __version__:
            text += f"; this is {__version__}"
        return Finding("version", subject, Level.OK, text)
    if welcome.express_pouchdb is not None:
        return Finding("version", subject, Level.OK, f"PouchDB Server {welcome.express_pouchdb}")
    major = re.match(r"\d+", shown)
    if welcome.couchdb is None or major is None:
        text = "what answers there is no CouchDB"
        return Finding("version", subject, Level.WARNING, text, f"{subject}: check its url")
    text = f"{one_line(maker) or 'CouchDB'} {shown}"
    mend = "https://docs.couchdb.org/en/stable/install/upgrading.html"
    if int(major[0]) < _OLDEST:
        text += ", which is not supported: it has no selectors and no _bulk_get"
        return Finding("version", subject, Level.ERROR, text, mend)
    if int(major[0]) < _MAINTAINED:
        text += ", which is not maintained any more"
        return Finding("version", subject, Level.WARNING, text, mend)
    return Finding("version", subject, Level.OK, text)


def _skew(subject: str, answer: Answer) -> list[Finding]:
    try:
        theirs = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except ValueError:
        return []
    ahead = time.time() - theirs
    if abs(ahead) < _SKEW:
        return []
    which = "ahead of" if ahead > 0 else "behind"
    text = f"our clock is {abs(ahead):.0f} s {which} the server's"
    return [Finding("clock", subject, Level.WARNING, text, "sudo timedatectl set-ntp true")]


async def _login(
    subject: str,
    client: HttpClient,
    config: RemoteConfig,
    credentials: Credentials | None,
    path: Path,
) -> list[Finding]:
    if credentials is None:
        return [Finding("login", subject, Level.OK, "there is no user, so nobody logs in")]
    try:
        answer = await client.request("GET", "/_session", accept={200, 404, 405, 501})
        session = answer.json(_Session) if answer.status == 200 else _Session()
    except AuthError as error:
        return [Finding("login", subject, Level.ERROR, _without(error), place_of(config, path))]
    except EdgeAgentError as error:
        mend = f"curl -v {client.url.server}/_session"
        return [Finding("login", subject, Level.ERROR, _without(error), mend)]
    if answer.status == 200 and session.user.name is None:
        text = f"the server takes no notice of user {credentials.user!r}; nobody is logged in there"
        return [Finding("login", subject, Level.WARNING, text, place_of(config, path))]
    roles = f" (roles: {one_line(', '.join(session.user.roles))})" if session.user.roles else ""
    return [Finding("login", subject, Level.OK, f"user {credentials.user!r} is let in{roles}")]


async def _database(
    subject: str,
    client: HttpClient,
    config: RemoteConfig,
    url: DatabaseUrl,
    credentials: Credentials | None,
) -> list[Finding]:
    db = f"/{url.segment}"
    try:
        await client.request("GET", db)
    except RemoteMissingError as error:
        if config.create:
            text = "there is none yet; it will be made"
            return [Finding("database", subject, Level.OK, text)]
        return [Finding("database", subject, Level.ERROR, _without(error, url), "create = true")]
    except AuthError as error:
        who = "" if credentials is None else f", with {credentials.user!r} among its members"
        mend = f"curl {url}/_security, as an administrator{who}"
        return [Finding("database", subject, Level.ERROR, _without(error, url), mend)]
    except EdgeAgentError as error:
        mend = f"curl -v {url}"
        return [Finding("database", subject, Level.ERROR, _without(error, url), mend)]
    if credentials is not None and config.direction != "pull":
        refused = await _may_not_write(client, db, credentials.user)
        if refused:
            text = f"Cloudant does not let {credentials.user!r} write"
            mend = f"{url}/_security: give it _writer, too"
            return [Finding("database", subject, Level.ERROR, text, mend)]
    return [Finding("database", subject, Level.OK, f"{url} may be read")]


async def _may_not_write(client: HttpClient, db: str, user: str) -> bool:
    """Only where a server tells; nothing is written to find it out."""
    answer = await client.request("GET", f"{db}/_security", accept={200, 401, 403, 404})
    if answer.status != 200:
        return False
    try:
        permissions = msgspec.json.decode(answer.body, type=_Security).cloudant.get(user)
    except msgspec.DecodeError:
        return False
    return permissions is not None and not {"_writer", "_admin"} & {*permissions}


def place_of(login: Login, path: Path) -> str:
    """How to change a password."""
    if login.password_file is not None:
        return f"sudoedit {shlex.quote(login.password_file)}"
    if login.password_env is not None:
        return f"{login.password_env}=…, in the agent's environment"
    return f"sudoedit {shlex.quote(str(path))}"


def _without(error: EdgeAgentError, url: DatabaseUrl | None = None) -> str:
    """The text, without the URL that the subject stands for."""
    return str(error).removeprefix(f"{url}").lstrip(": ") if url is not None else str(error)
