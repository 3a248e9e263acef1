"""`edge-agent status`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import click
import msgspec

from agent.cli.options import DEFAULT_CONFIG, json_option, print_json
from agent.config import Config, HubConfig, load_either, parse_listen
from agent.errors import AuthError, ConfigError, ConnectError, NotCouchDBError
from agent.peers.http_errors import connection_failures, one_line
from agent.server.sessions import COOKIE, Sessions, existing_secret

_TIMEOUT = aiohttp.ClientTimeout(total=10)


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The running agent's configuration file.  [default: {DEFAULT_CONFIG}, if it exists]",
)
@click.option(
    "--url",
    metavar="URL",
    help="The running agent's address, instead of --config: http(s)://[USER@]HOST:PORT.",
)
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The password for the user in the URL.",
)
@json_option
def status_command(
    config_path: Path | None, url: str | None, password_file: Path | None, as_json: bool
) -> None:
    """Show what a running agent is doing, by remote and by sensor.

    With --config nobody needs to log in, since who may read the agent's files may see its status;
    but a hub's file does not say where these are.
    """
    running = _at(url, password_file) if url is not None else _of_config(config_path)
    status = asyncio.run(_fetch(running))
    if as_json:
        print_json(status)
    else:
        _show(status)


@dataclass(frozen=True)
class _Running:
    """Where an agent runs, and what lets us in."""

    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    tls: aiohttp.Fingerprint | bool = True


def _at(url: str, password_file: Path | None) -> _Running:
    _check_url(url)
    parts = urlsplit(url)
    if parts.username is None:
        return _Running(url)
    password = unquote(parts.password or "")
    if password_file is not None:
        password = password_file.read_text("utf-8").strip()
    pair = f"{unquote(parts.username)}:{password}".encode()
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return _Running(address, {"Authorization": "Basic " + base64.b64encode(pair).decode()})


def _of_config(path: Path | None) -> _Running:
    if path is None and not DEFAULT_CONFIG.exists():
        return _Running("http://127.0.0.1:5984")
    config = load_either(path or DEFAULT_CONFIG)
    host, port = parse_listen(config.server.listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (all of them)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    certificate = config.server.tls_certificate
    if certificate is None:
        return _Running(f"http://{address}", _cookie(config))
    return _Running(f"https://{address}", _cookie(config), _only(certificate))


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


async def _fetch(running: _Running) -> Any:
    """The status of a running agent. Raises ConfigError, ConnectError, RemoteError."""
    where = running.url
    try:
        with connection_failures(where):
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.get(
                    f"{where.rstrip('/')}/_status",
                    headers=running.headers,
                    ssl=running.tls,
                    allow_redirects=False,
                ) as response,
            ):
                body = await response.read()
                answered = response.status
    except ConnectError as error:
        raise ConnectError(
            f"no agent answers: {error}; --url or --config names its address"
        ) from None
    try:
        status = msgspec.json.decode(body)
    except msgspec.DecodeError:
        status = None
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


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        shown = re.sub(r"//.*@", "//", url)
        raise ConfigError(
            f"{shown!r} is not the address of an agent; give one like http://127.0.0.1:5984, "
            "which it prints when it starts, with --url"
        )


def _show(status: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    # Names, values and errors come from elsewhere: nothing in them is a style.
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(status.get("name", "hub"), style="bold", end="  ")
    console.print(f"version {status['version']}, up {_duration(status['uptime'])}")
    database = status.get("database")
    if database:
        console.print(
            f"database {database['name']}: {database['doc_count']} documents, "
            f"{database['conflicts']} conflicts, {database['file_size'] / 2**20:.1f} MiB"
        )
    if status.get("remotes"):
        table = Table("remote", "", "state", "pending", "confirmed", "lag", "last error")
        for remote in status["remotes"]:
            for direction in ("push", "pull"):
                job = remote.get(direction)
                if job:
                    table.add_row(remote["name"], direction, *_job_cells(job))
        console.print(table)
    if status.get("devices"):
        table = Table("device", "sensor", "value", "rate", "gaps", "errors", "state")
        for device in status["devices"]:
            state = device["last_error"] or device["state"]
            gaps, errors = str(device["gaps"]), str(device["errors"])
            for sensor in device["sensors"] or [None]:
                cells = _sensor_cells(sensor) if sensor else ("-", "-", "-")
                table.add_row(device["name"], *cells, gaps, errors, state)
        console.print(table)


def _job_cells(job: dict[str, Any]) -> tuple[str, ...]:
    confirmed = job["last_confirmed"]
    ago = "-"
    if confirmed:
        passed = datetime.now(UTC) - datetime.fromisoformat(confirmed)
        ago = f"{_duration(max(0.0, passed.total_seconds()))} ago"
    error = job["last_error"] or ""
    if job["doc_write_failures"]:
        error = f"{job['doc_write_failures']} documents refused  {error}"
    lag = job["lag"]
    pending = "?" if job["pending"] is None else str(job["pending"])
    return (job["state"], pending, ago, "?" if lag is None else _duration(lag), error)


def _sensor_cells(sensor: dict[str, Any]) -> tuple[str, str, str]:
    unit = f" {sensor['unit']}" if sensor["unit"] else ""
    value = one_line(f"{sensor['last_value']}{unit}")
    return one_line(sensor["name"]), value, f"{sensor['rate']:g}/s"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
