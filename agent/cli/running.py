"""Finds a running agent and asks it, for the commands that show what it does."""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote, unquote, urlsplit

import aiohttp
import click
import msgspec

from agent.cli.options import DEFAULT_CONFIG, ca_file_option, read_password
from agent.config import Config, HubConfig, parse_listen
from agent.config_file import load_either
from agent.errors import AuthError, ConfigError, ConnectError, NotCouchDBError, without_login
from agent.peers.authorities import trusting
from agent.peers.http_errors import connection_failures, one_line, refusal
from agent.server.sessions import COOKIE, Sessions, existing_secret

_TIMEOUT = aiohttp.ClientTimeout(total=10)
_HEARTBEAT_MS = 10_000
_FEED_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)
_LONGEST_LINE = 2**20

_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])


def running_options(command: _CommandT) -> _CommandT:
    """--config, --url, --password-file, --ca-file; the command gets them as `where`, a `Where`."""

    @wraps(command)
    def told(
        *args: Any,
        config_path: Path | None,
        url: str | None,
        password_file: Path | None,
        ca_file: Path | None,
        **others: Any,
    ) -> Any:
        where = Where(config_path, url, password_file, ca_file)
        return command(*args, where=where, **others)

    options = [
        click.option(
            "--config",
            "config_path",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The running agent's configuration file.  "
            f"[default: {DEFAULT_CONFIG}, if it exists]",
        ),
        click.option(
            "--url",
            metavar="URL",
            help="The running agent's address, instead of --config: http(s)://[USER@]HOST:PORT.",
        ),
        click.option(
            "--password-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="FILE",
            help="The password for the user in the URL.",
        ),
        ca_file_option,
    ]
    for option in reversed(options):
        told = option(told)
    return cast(_CommandT, told)


database_option = click.option(
    "--database", metavar="NAME", help="The database.  [default: the agent's own]"
)


@dataclass(frozen=True)
class Running:
    """Where an agent runs, and what lets us in."""

    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    tls: aiohttp.Fingerprint | ssl.SSLContext | bool = True


class Where(msgspec.Struct, frozen=True):
    """What a command was told of where the agent runs."""

    config_path: Path | None
    url: str | None
    password_file: Path | None
    ca_file: Path | None
    """For a URL; a configuration names the one certificate there is."""

    def find(self) -> Running:
        """Reads files. Raises ConfigError."""
        if self.url is not None:
            return _at(self.url, self.password_file, self.ca_file)
        return _of_config(self.config_path)


def _at(url: str, password_file: Path | None, ca_file: Path | None) -> Running:
    _check_url(url)
    parts = urlsplit(url)
    tls = trusting(ca_file) if parts.scheme == "https" else True
    if parts.username is None:
        return Running(url, tls=tls)
    password = unquote(parts.password or "")
    if password_file is not None:
        password = read_password(password_file)
    pair = f"{unquote(parts.username)}:{password}".encode()
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    basic = "Basic " + base64.b64encode(pair).decode()
    return Running(address, {"Authorization": basic}, tls)


def _of_config(path: Path | None) -> Running:
    if path is None and not DEFAULT_CONFIG.exists():
        return Running("http://127.0.0.1:5984")
    config = load_either(path or DEFAULT_CONFIG)
    host, port = parse_listen(config.server.listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (all of them)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    certificate = config.server.tls_certificate
    if certificate is None:
        return Running(f"http://{address}", _cookie(config))
    return Running(f"https://{address}", _cookie(config), _only(certificate))


def _cookie(config: Config | HubConfig) -> dict[str, str]:
    """A session that we make ourselves: we have the server's secret, of a gateway."""
    if not isinstance(config, Config):
        return {}
    admin = next((user for user in config.user if "_admin" in user.roles), None)
    secret = existing_secret(Path(config.agent.data)) if admin is not None else None
    if admin is None or secret is None:
        return {}
    sessions = Sessions(secret, {admin.name: admin.password_hash})
    return {"Cookie": f"{COOKIE}={sessions.issue(admin.name)}"}


def _only(certificate: str) -> aiohttp.Fingerprint:
    """Trust in the one certificate that the agent is configured with, whatever its name."""
    try:
        text = Path(certificate).read_text("ascii")
        begin = text.index("-----BEGIN CERTIFICATE-----")
        end = text.index("-----END CERTIFICATE-----", begin) + len("-----END CERTIFICATE-----")
        der = ssl.PEM_cert_to_DER_cert(text[begin:end])
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"tls_certificate {certificate} cannot be used ({one_line(error)}); "
            "give a PEM file that begins with the agent's certificate"
        ) from None
    return aiohttp.Fingerprint(hashlib.sha256(der).digest())


async def ask(
    running: Running,
    method: str,
    path: str,
    *,
    query: Mapping[str, str] | None = None,
    body: Any = None,
) -> tuple[int, Any]:
    """The HTTP status and the JSON (None if it is none) that an agent answers with.

    Raises ConfigError, ConnectError.
    """
    status, _, content = await _exchange(running, method, path, query, body)
    return status, _json_of(content)


async def fetch_status(running: Running) -> Any:
    """The status of a running agent. Raises ConfigError, ConnectError, RemoteError.

    RemoteBusyError where it, or a proxy before it, is out of order at the moment.
    """
    where = running.url
    answered, headers, content = await _exchange(running, "GET", "_status", None, None)
    if answered >= 500:
        raise refusal(where, "the status", answered, headers, content, None)
    status = _json_of(content)
    if answered in (401, 403):
        raise AuthError(
            f"{where}: the status is for the agent's administrators; name one in the URL "
            "(http://USER@HOST:PORT) with --password-file, or give --config",
            status=answered,
        )
    if answered != 200 or not isinstance(status, dict):
        raise NotCouchDBError(
            f"{where}: what answers there is no edge-agent (HTTP {answered}); "
            "name the agent's address with --url",
            status=answered,
        )
    return status


async def own_database(running: Running) -> str:
    """The name of a running gateway's database. Raises ConfigError, ConnectError, RemoteError."""
    database = (await fetch_status(running)).get("database")
    if database is None:
        raise ConfigError(
            f"{running.url}: a hub has any number of databases; name one with --database"
        )
    name: str = database["name"]
    return name


async def request_json(
    running: Running, method: str, path: str, body: Any = None
) -> tuple[int, Any]:
    """The status and the JSON that a running agent answers with, to a path without its first `/`.

    404 and 409 are answers; other refusals raise RemoteError. Raises ConnectError, too.
    """
    status, headers, content = await _exchange(running, method, path, None, body)
    if status >= 300 and status not in (404, 409):
        where = f"{running.url.rstrip('/')}/{path}"
        raise refusal(where, f"the request {method}", status, headers, content, None)
    return status, msgspec.json.decode(content)


async def _exchange(
    running: Running, method: str, path: str, query: Mapping[str, str] | None, body: Any
) -> tuple[int, Mapping[str, str], bytes]:
    """An answer's status, headers and content. Raises ConnectError."""
    where = running.url
    try:
        with connection_failures(where):
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.request(
                    method,
                    f"{where.rstrip('/')}/{path}",
                    params=query,
                    json=body,
                    headers=running.headers,
                    ssl=running.tls,
                    allow_redirects=False,
                ) as response,
            ):
                return response.status, response.headers, await response.read()
    except ConnectError as error:
        raise ConnectError(
            f"no agent answers: {error}; --url or --config names its address"
        ) from None


def _json_of(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        return None


async def follow_readings(
    running: Running, database: str, devices: Sequence[str]
) -> AsyncGenerator[dict[str, Any], None]:
    """The documents of these devices' readings, from now on. Ends when the agent does.

    One whose time is corrected was there before.

    Raises ConnectError, RemoteError.
    """
    where = f"{running.url.rstrip('/')}/{quote(database, safe='')}"
    options = {"feed": "continuous", "since": "now", "include_docs": "true", "filter": "_selector"}
    selector = {"type": {"$in": ["reading", "readings"]}, "device": {"$in": list(devices)}}
    with connection_failures(where):
        async with (
            aiohttp.ClientSession(timeout=_FEED_TIMEOUT, read_bufsize=_LONGEST_LINE) as session,
            session.post(
                f"{where}/_changes",
                params={**options, "heartbeat": f"{_HEARTBEAT_MS}"},
                json={"selector": selector},
                headers=running.headers,
                ssl=running.tls,
                allow_redirects=False,
            ) as response,
        ):
            if response.status != 200:
                body = await response.read()
                request, status, headers = "the changes feed", response.status, response.headers
                raise refusal(where, request, status, headers, body, None)
            async for line in response.content:
                if line.strip():
                    document = msgspec.json.decode(line).get("doc")
                    if document is not None and document.get("clock") != "corrected":
                        yield document


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            f"{without_login(url)!r} is not the address of an agent; give one like "
            "http://127.0.0.1:5984, which it prints when it starts, with --url"
        )
