"""`edge-agent status`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import click
import msgspec

from agent.cli.options import DEFAULT_CONFIG, json_option, print_json
from agent.config import load, parse_listen
from agent.errors import ConnectError, NotCouchDBError

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
    if url is None:
        url = _url(config_path)
    status = asyncio.run(_fetch(url))
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
    """The status of the agent at `url`. Raises ConnectError, NotCouchDBError."""
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.get(f"{url.rstrip('/')}/_status") as response,
        ):
            body = await response.read()
            answered = response.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ConnectError(
            f"{url}: no agent answers ({error}); is `edge-agent run` running, "
            "and is this its address? Name it with --url or --config"
        ) from error
    try:
        status = msgspec.json.decode(body)
    except msgspec.DecodeError:
        status = None
    if answered != 200 or not isinstance(status, dict):
        raise NotCouchDBError(
            f"{url}: what answers there is no edge-agent (HTTP {answered}); "
            "name the agent's address with --url",
            status=answered,
        )
    return status


def _show(status: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    name = status.get("name", "hub")
    console.print(
        f"[bold]{name}[/bold]  version {status['version']}, up {_duration(status['uptime'])}",
        highlight=False,
    )
    database = status.get("database")
    if database:
        console.print(
            f"database {database['name']}: {database['doc_count']} documents, "
            f"{database['conflicts']} conflicts, {database['file_size'] / 2**20:.1f} MiB",
            highlight=False,
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
    return sensor["name"], f"{sensor['last_value']}{unit}", f"{sensor['rate']:g}/s"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
