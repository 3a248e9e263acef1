"""`edge-agent sensors watch`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import click
import msgspec

from agent.cli.options import json_lines_option
from agent.cli.running import (
    Running,
    Where,
    fetch_status,
    follow_readings,
    running_options,
)
from agent.cli.showing import measured, plain_console, sparkline
from agent.documents.times import microseconds, timestamp
from agent.errors import ConfigError, ConnectError
from agent.peers.http_errors import one_line

_WIDTH = 32  # values in a sparkline
_REFRESH = 0.5


@click.group()
def sensors_command() -> None:
    """Look at what the sensors of a running agent say."""


@sensors_command.command()
@running_options
@json_lines_option
def watch(where: Where, as_json: bool) -> None:
    """Show what the sensors say, until Ctrl-C.

    On a terminal it is a table with the latest values and their course, twice a second. Elsewhere
    it is a line for each reading that is stored and, with --json, its document on a line.
    """
    asyncio.run(_watch(where.find, as_json=as_json))


async def _watch(find: Callable[[], Running], *, as_json: bool) -> None:
    running = await asyncio.to_thread(find)
    status = await fetch_status(running)
    if not status.get("devices"):
        raise ConfigError(f"{running.url}: the agent there has no device; add a [[device]] to it")
    on_screen = sys.stdout.isatty() and not as_json
    task = asyncio.create_task(
        _show_table(find) if on_screen else _print_readings(running, status, as_json=as_json)
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _show_table(find: Callable[[], Running]) -> None:
    from rich.live import Live

    console = plain_console()
    courses = Courses()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            # Found anew each time: what lets us in is a session, which expires.
            status = await fetch_status(await asyncio.to_thread(find))
            courses.add(status["devices"])
            live.update(_table(status["devices"], courses), refresh=True)
            await asyncio.sleep(_REFRESH)


async def _print_readings(running: Running, status: dict[str, Any], *, as_json: bool) -> None:
    devices = [device["name"] for device in status["devices"]]
    documents = follow_readings(running, status["database"]["name"], devices)
    async with aclosing(documents):
        async for document in documents:
            if as_json:
                click.echo(msgspec.json.encode(document))
            else:
                for line in _lines(document):
                    click.echo(line)
    raise ConnectError(f"{running.url}: the agent has stopped")


def _lines(document: dict[str, Any]) -> Iterator[str]:
    """A line for each reading; a document of the type `readings` holds those of a time window."""
    try:
        first = microseconds(document["time"])
    except ValueError:  # somebody's document that only looks like a reading
        return
    columns = document.get("columns") or {"time": [0], "value": [document["value"]]}
    for after, value in zip(columns["time"], columns["value"], strict=True):
        named = f"{document['device']} {document['sensor']}"
        shown = measured(value, document.get("unit"))
        yield one_line(f"{timestamp(first + after)} {named} {shown}")


class Course(msgspec.Struct):
    """What one sensor said of late: its numbers, and when, on the monotonic clock."""

    readings: int = 0
    heard: float = 0.0
    numbers: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=_WIDTH))


class Courses:
    """How the sensors' values went on, from one status to the next."""

    def __init__(self) -> None:
        self._courses: dict[tuple[str, str], Course] = {}

    def __getitem__(self, sensor: tuple[str, str]) -> Course:
        return self._courses[sensor]

    def add(self, devices: Sequence[dict[str, Any]]) -> None:
        """Take the devices' part of a status."""
        for device in devices:
            for sensor in device["sensors"]:
                course = self._courses.setdefault((device["name"], sensor["name"]), Course())
                if course.readings != sensor["readings"]:
                    course.readings = sensor["readings"]
                    course.heard = time.monotonic()
                    if isinstance(sensor["last_value"], int | float):
                        course.numbers.append(sensor["last_value"])


def _table(devices: Sequence[dict[str, Any]], courses: Courses) -> Any:
    from rich.table import Table

    table = Table("device", "sensor", "value", "course", "")
    table.columns[3].min_width = _WIDTH
    for device in devices:
        name, error = device["name"], device["last_error"]
        for sensor in device["sensors"]:
            course = courses[name, sensor["name"]]
            value = measured(sensor["last_value"], sensor["unit"])
            note = error or f"{time.monotonic() - course.heard:.0f} s ago"
            line = sparkline(course.numbers)
            table.add_row(name, one_line(sensor["name"]), value, line, note)
        if not device["sensors"]:
            table.add_row(name, "-", "-", "", error or "nothing so far")
    return table
