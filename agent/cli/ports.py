"""`edge-agent ports`."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from agent.cli.options import DEFAULT_CONFIG, json_option, print_json
from agent.cli.showing import plain_console
from agent.config_file import load
from agent.errors import PortError
from agent.peers.http_errors import one_line
from agent.sensors.opening import LineFormat
from agent.sensors.port_errors import explain_failure
from agent.sensors.port_users import users_of
from agent.sensors.ports import PortInfo, find_path, is_network, lasting_name, local_ports
from agent.sensors.probe import Attempt, Heard, attempts, probe
from firmware_adapters import Reading


@click.command()
@click.argument("names", nargs=-1, metavar="[PORT]...")
@click.option(
    "--probe",
    "probing",
    is_flag=True,
    help="Listen to the ports that nobody uses, to find out what speaks on them. "
    "Opening a port may reset the device on it.",
)
@click.option(
    "--ask",
    is_flag=True,
    help="With --probe: send requests of Modbus RTU and M-Bus, too; nothing is sent without it.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=3.0,
    show_default=True,
    help="With --probe: how long to listen in each way, of which there are 7, and 6 with --ask.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration file whose devices are shown with their ports.  "
    f"[default: {DEFAULT_CONFIG}, if it can be read]",
)
@json_option
def ports_command(
    names: tuple[str, ...],
    probing: bool,
    ask: bool,
    seconds: float,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """List the serial ports, or the named ones, as `port` in a [[device]] names them."""
    if ask and not probing:
        raise click.UsageError("--ask is of use with --probe only")
    if config_path is None and os.access(DEFAULT_CONFIG, os.R_OK):
        config_path = DEFAULT_CONFIG
    devices = {} if config_path is None else {d.name: d.port for d in load(config_path).device}
    rows = find_rows(names, devices)
    if probing:
        usable = [row for row in rows if row.usable]
        asyncio.run(probe_rows(usable, seconds, ask=ask, bar=not as_json))
    if as_json:
        print_json({"ports": [_plain(row) for row in rows]})
    else:
        _show(rows, probing)


class Row(msgspec.Struct):
    """A port, how to name it in a configuration, who uses it, and what was heard on it."""

    port: PortInfo
    name: str
    users: dict[int, str]
    permitted: bool
    devices: list[str]
    heard: Heard | None = None
    error: str | None = None

    @property
    def usable(self) -> bool:
        return self.permitted and not self.users


def find_rows(names: Sequence[str], devices: dict[str, str]) -> list[Row]:
    """The ports of those names, or all of this machine; `devices` are those that are configured,
    with their ports. Raises PortError for a name that means no port."""
    listed = local_ports()
    configured = {name: _place(port) for name, port in devices.items()}
    rows = []
    for port in [_named(name, listed) for name in names] or listed:
        network = is_network(port.path)
        rows.append(
            Row(
                port,
                lasting_name(port, listed),
                users={} if network else users_of(port.path),
                permitted=network or os.access(port.path, os.R_OK | os.W_OK),
                devices=[name for name, place in configured.items() if place == port.path],
            )
        )
    return rows


def _named(name: str, listed: Sequence[PortInfo]) -> PortInfo:
    path = name if is_network(name) else str(Path(find_path(name)).resolve())
    if not is_network(name) and not Path(path).exists():
        raise PortError(explain_failure(path, FileNotFoundError(errno.ENOENT, "")))
    return next((port for port in listed if port.path == path), PortInfo(path, ""))


def _place(name: str) -> str | None:
    """The device file, or the URL, that a name means at the moment."""
    if is_network(name):
        return name
    try:
        return str(Path(find_path(name)).resolve())
    except PortError:
        return None


async def probe_rows(rows: Sequence[Row], seconds: float, *, ask: bool, bar: bool) -> None:
    """Listen to all these ports at once; shows a bar on standard error when that is a terminal.

    What was found is in `heard` and `error` then.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not (bar and console.is_terminal)
    ) as progress:

        async def listen(row: Row) -> None:
            tried: list[Attempt] = await asyncio.to_thread(attempts, row.port.path, ask=ask)
            line = progress.add_task(row.port.path, total=len(tried))
            try:
                row.heard = await probe(
                    row.port.path, tried, seconds, lambda: progress.advance(line)
                )
            except PortError as error:
                row.error = str(error)

        await asyncio.gather(*(listen(row) for row in rows))


def _plain(row: Row) -> dict[str, Any]:
    port = row.port
    return {
        "path": port.path,
        "name": row.name,
        "by_id": port.by_id,
        "usb_id": port.usb_id,
        "serial": port.serial,
        "location": port.location,
        "description": port.description,
        "users": [{"pid": process, "program": name} for process, name in row.users.items()],
        "permitted": row.permitted,
        "devices": row.devices,
        "heard": None if row.heard is None else _plain_heard(row.heard),
        "error": row.error,
    }


def _plain_heard(heard: Heard) -> dict[str, Any]:
    is_reading = isinstance(heard.said, Reading)
    return {
        "adapter": heard.adapter,
        "baud": heard.baud,
        "data_bits": heard.line.data_bits,
        "parity": heard.line.parity,
        "stop_bits": heard.line.stop_bits,
        "reading": msgspec.to_builtins(heard.said) if is_reading else None,
        "event": None if is_reading else msgspec.to_builtins(heard.said),
    }


def _show(rows: Sequence[Row], probing: bool) -> None:
    from rich.table import Table

    if not rows:
        click.echo("no serial port is there; plug a device in")
        return
    table = Table("device file", 'port = "…"', "what", "USB, at", "state", "device")
    if probing:
        table.add_column("speaks")
    for row in rows:
        port = row.port
        usb = "\n".join(filter(None, [port.usb_id, port.location])) or "-"
        path = f"{port.path}\n{port.by_id}" if port.by_id else port.path
        cells = [path, row.name, one_line(port.description), usb, state(row)]
        cells.append(", ".join(row.devices) or "-")
        if probing:
            cells.append("-" if not row.usable else said(row))
        table.add_row(*cells)
    console = plain_console()
    console.print(table)
    for row in rows:
        if not row.permitted:
            console.print(explain_failure(row.port.path, PermissionError(errno.EACCES, "")))


def state(row: Row) -> str:
    """Whether a port can be used, for people."""
    if row.users:
        return "used by " + ", ".join(f"{name} ({pid})" for pid, name in row.users.items())
    return "free" if row.permitted else "not permitted"


def said(row: Row) -> str:
    """What probing a port found, for people."""
    if row.heard is None:
        return row.error or "nothing that is understood"
    return f"{row.heard.adapter} at {describe_line(row.heard.baud, row.heard.line)}: " + (
        describe(row.heard.said) if isinstance(row.heard.said, Reading) else row.heard.said.detail
    )


def describe_line(baud: int, line: LineFormat) -> str:
    """Such as `9600 8N1`."""
    return f"{baud} {line.data_bits}{line.parity[0].upper()}{line.stop_bits}"


def describe(reading: Reading) -> str:
    """A reading on one line."""
    unit = f" {reading.unit}" if reading.unit else ""
    return one_line(f"{reading.sensor} = {reading.value}{unit}")
