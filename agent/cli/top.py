"""`edge-agent top`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from agent.cli.running import Running, Where, fetch_status, running_options
from agent.cli.sensors import Courses
from agent.cli.showing import duration, measured, plain_console, size, sparkline
from agent.errors import ConfigError, TransientError
from agent.peers.http_errors import one_line
from agent.words import counted

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_REFRESH = 1.0
_WIDTH = 24
"""Values in a sparkline."""

_WIDEST = 28
_MOST_FINDINGS = 3
_STAGES = {
    "detect": ("change", "seen"),
    "transfer": ("revision", "stored by remotes"),
    "confirm": ("change", "confirmed"),
    "process": ("document", "done by hooks"),
}
_HUB_STAGES = {
    **_STAGES,
    "transfer": ("revision", "received"),
    "confirm": ("revision", "on disk and confirmed"),
}
_COLOURS = {"live": "green", "catching up": "yellow", "open": "green", "online": "green"}


@click.command()
@running_options
@click.option("--once", is_flag=True, help="Print what there is, once, and end.")
def top_command(where: Where, once: bool) -> None:
    """Watch a running agent: its rates, its remotes, its sensors and what needs attention.

    The screen is drawn anew each second, until q or Ctrl-C. As many sensors and remotes are shown
    as fit; those that need attention come first.
    """
    if not once and not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise ConfigError("this is no terminal; use --once, or edge-agent status --json")
    asyncio.run(_once(where.find) if once else _watch(where.find))


async def _once(find: Callable[[], Running]) -> None:
    frames = Frames()
    console = plain_console()
    frames.add(await fetch_status(await asyncio.to_thread(find)))
    console.print(frames.frame(console.width, console.height))


async def _watch(find: Callable[[], Running]) -> None:
    frames = Frames()
    # Before the screen changes: an agent that does not answer is an error like any other.
    frames.add(await fetch_status(await asyncio.to_thread(find)))
    drawing = asyncio.ensure_future(_draw(frames, find))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drawing.cancel)
    with _keys(drawing.cancel), contextlib.suppress(asyncio.CancelledError):
        await drawing


async def _draw(frames: Frames, find: Callable[[], Running]) -> None:
    """Until it is cancelled. An agent that does not answer any more may have been restarted."""
    from rich.live import Live

    console = plain_console()
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(frames.frame(console.width, console.height), refresh=True)
            await asyncio.sleep(_REFRESH)
            try:
                # Found anew each time: what lets us in is a session, which expires.
                frames.add(await fetch_status(await asyncio.to_thread(find)))
            except TransientError as error:
                frames.missed(str(error))


@contextlib.contextmanager
def _keys(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` when q is pressed; what is typed is not shown."""
    loop = asyncio.get_running_loop()
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def pressed() -> None:
        keys = os.read(terminal, 64)
        if not keys or b"q" in keys.lower():
            stop()
            loop.remove_reader(terminal)

    tty.setcbreak(terminal)
    loop.add_reader(terminal, pressed)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class Frames:
    """What the screen shows, made of one status after the other."""

    def __init__(self) -> None:
        self._status: Mapping[str, Any] = {}
        self._courses = Courses()
        self._rates: dict[str, deque[float]] = {}
        self._missed: str | None = None

    def add(self, status: Mapping[str, Any]) -> None:
        """Take a status."""
        self._status = status
        self._missed = None
        self._courses.add(status.get("devices", ()))
        for stage, told in status.get("pipeline", {}).items():
            self._rates.setdefault(stage, deque(maxlen=_WIDTH)).append(told["rate"])

    def missed(self, reason: str) -> None:
        """There is none at the moment."""
        self._missed = reason

    def frame(self, width: int, height: int) -> RenderableType:
        """The screen, at most `height` lines of `width` characters."""
        from rich.console import Group

        status = self._status
        parts: list[RenderableType] = [_head(status)]
        left = height - 2  # one for the cursor
        if self._missed is not None:
            parts.append(_styled(f"What is shown is old: {one_line(self._missed)}", "red"))
            left -= 1
        for heading, make, most in (
            ("", _findings, _MOST_FINDINGS),
            ("", self._stages, len(_STAGES)),
            ("remotes", _remotes, left // 3),
            ("gateways", _gateways, left // 2),
            ("sensors", self._sensors, left),
        ):
            rows = make(status)
            room = min(left - bool(heading), most)
            if not rows or room < 1:
                continue
            if heading:
                parts.append(_ruled(heading, width))
                left -= 1
            lines = _lines(rows, room)
            parts += lines
            left -= len(lines)
        return Group(*parts)

    def _stages(self, status: Mapping[str, Any]) -> list[list[Any]]:
        pipeline = status.get("pipeline", {})
        return [
            [
                _styled(stage, "bold"),
                f"{pipeline[stage]['rate']:,.1f}/s",
                _styled(sparkline(self._rates[stage], lowest=0.0), "cyan"),
                f"{counted(pipeline[stage]['count'], thing)} {done}",
            ]
            for stage, (thing, done) in (_STAGES if "remotes" in status else _HUB_STAGES).items()
            if stage in pipeline
        ]

    def _sensors(self, status: Mapping[str, Any]) -> list[list[Any]]:
        rows = []
        for device in status.get("devices", ()):
            for sensor in device["sensors"]:
                course = self._courses[device["name"], sensor["name"]]
                alarms = [f"alarm {name}" for name in sensor["alarms"]]
                counts = [f"{sensor[of]} {of}" for of in ("gaps", "errors") if sensor[of]]
                told = [*alarms, sensor["quality"], *counts]
                notes = one_line(", ".join(filter(None, told)))
                cells = [
                    one_line(f"{device['name']} {sensor['name']}"),
                    measured(sensor["last_value"], sensor["unit"]),
                    _styled(sparkline(list(course.numbers)[-_WIDTH:]), "cyan"),
                    f"{sensor['rate']:g}/s",
                    _styled(notes, "red"),
                ]
                rows.append((not alarms, cells))
            if not device["sensors"]:
                words = one_line(device["last_error"] or "nothing so far")
                cells = [device["name"], "-", "", "", _styled(words, "red")]
                rows.append((device["state"] == "open", cells))
        return [cells for _, cells in sorted(rows, key=lambda row: row[0])]


def _head(status: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    system = status["system"]
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(one_line(status.get("name", "hub")), "bold")
    told = [f"up {duration(status['uptime'])}", f"load {system['load']}"]
    if system["memory_rss"] is not None:
        told.append(f"memory {size(system['memory_rss'])}")
    if system["disk_free"] is not None:
        told.append(f"disk {size(system['disk_free'])} free")
    if system["bytes_written"] is not None:
        told.append(f"written {size(system['bytes_written'])}")
    database = status.get("database")
    if database:
        told.append(counted(database["doc_count"], "document"))
    text.append("  " + "  ".join(told))
    return text


def _findings(status: Mapping[str, Any]) -> list[list[Any]]:
    found = status.get("attention", ())
    rows: list[list[Any]] = [
        [_styled(one_line(each["what"]), "red" if each["level"] == "error" else "yellow")]
        for each in found
    ]
    more = len(rows) - _MOST_FINDINGS
    if more > 0:
        rows[_MOST_FINDINGS - 1 :] = [[f"and {more + 1} more: edge-agent status --json"]]
    return rows


def _remotes(status: Mapping[str, Any]) -> list[list[Any]]:
    rows = []
    for remote in status.get("remotes", ()):
        for direction in ("push", "pull"):
            job = remote.get(direction)
            if job is None:
                continue
            drain, lag, pending = job["drain_seconds"], job["lag"], job["pending"]
            known = pending and drain is not None
            cells = [
                remote["name"],
                direction,
                _styled(job["state"], _COLOURS.get(job["state"], "red")),
                f"{job['rate']:,.1f}/s",
                "? left" if pending is None else f"{pending:,} left",
                f"done in {duration(drain)}" if known else "",
                f"lag {'?' if lag is None else duration(lag)}",
                one_line(job["last_error"] or ""),
            ]
            rows.append((job["last_error"] is None, cells))
    return [cells for _, cells in sorted(rows, key=lambda row: row[0])]


def _gateways(status: Mapping[str, Any]) -> list[list[Any]]:
    rows = []
    for gateway in status.get("gateways", ()):
        lag, backlog, conflicts = (gateway[name] for name in ("lag", "backlog", "conflicts"))
        cells = [
            one_line(gateway["name"]),
            _styled(gateway["status"], _COLOURS.get(gateway["status"], "red")),
            one_line(gateway["version"] or "-"),
            "" if lag is None else f"lag {duration(lag)}",
            "" if backlog is None else f"{backlog:,} left",
            "" if not conflicts else counted(conflicts, "conflict"),
        ]
        rows.append((gateway["status"] == "online", cells))
    return [cells for _, cells in sorted(rows, key=lambda row: row[0])]


def _lines(rows: list[list[Any]], room: int) -> list[Text]:
    """Rows in columns, as many as there is room for; the end of a line is cut off if need be.

    (In rich's tables the columns that matter would shrink along with the last one.)
    """
    from rich.text import Text

    shown = rows if len(rows) <= room else rows[: room - 1]
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in shown]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        line = Text(no_wrap=True, overflow="ellipsis")
        for cell, width in zip(row, widths, strict=True):
            if width:
                most = _WIDEST if cell is not row[-1] else width
                cell.truncate(min(width, most), overflow="ellipsis")
                line.append_text(cell)
                line.append(" " * (min(width, _WIDEST) - cell.cell_len + 2))
        line.rstrip()
        lines.append(line)
    if len(shown) < len(rows):
        lines.append(Text(f"… {len(rows) - len(shown)} more"))
    return lines


def _ruled(heading: str, width: int) -> Text:
    return _styled(f"── {heading} ".ljust(width, "─"), "dim")


def _styled(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style, no_wrap=True, overflow="ellipsis")
