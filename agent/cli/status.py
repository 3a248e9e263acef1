"""`edge-agent status`."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import click
import msgspec

from agent.cli.options import DEFAULT_CONFIG, json_option, print_json
from agent.config import load, parse_listen
from agent.errors import ConfigError, ConnectError, NotCouchDBError
from agent.peers.http_errors import connection_failures, one_line

_TIMEOUT = aiohttp.ClientTimeout(total=10)


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The running agent's configuration file.  [default: {DEFAULT_CONFIG}, if it exists]",
)
@click.option("--url", metavar="URL", help="The running agent's address, instead of --config.")
@json_option
def status_command(config_path: Path | None, url: str | None, as_json: bool) -> None:
    """Show what a running agent is doing, by remote and by sensor."""
    status = asyncio.run(_fetch(url or _url(config_path)))
    if as_json:
        print_json(status)
    else:
        _show(status)


def _url(config_path: Path | None) -> str:
    if config_path is None and not DEFAULT_CONFIG.exists():
        return "http://127.0.0.1:5984"
    host, port = parse_listen(load(config_path or DEFAULT_CONFIG).server.listen)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _fetch(url: str) -> Any:
    """The status of the agent at `url`. Raises ConfigError, ConnectError, RemoteError."""
    _check_url(url)
    where = re.sub(r"//.*@", "//", url)  # without a password
    try:
        with connection_failures(where):
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.get(f"{url.rstrip('/')}/_status") as response,
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
