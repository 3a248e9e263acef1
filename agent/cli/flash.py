"""`edge-agent flash`."""

from __future__ import annotations

import asyncio
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.config_text import DeviceAnswer, device_table
from agent.cli.options import json_option, print_json
from agent.cli.ports import describe
from agent.config import DeviceConfig
from agent.errors import FlashError
from agent.flash.boards import BOARDS, Board, Step, steps
from agent.flash.device import ADAPTER, BAUD, first_reading, stop_firmware
from agent.flash.port import find_port
from agent.flash.programmer import Advance, run
from firmware_adapters import Reading

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_BOARDS = "\n".join(f"{name:<13}{board.what}" for name, board in BOARDS.items())


@click.command(epilog=f"\b\nBoards:\n{_BOARDS}")
@click.argument("board_name", type=click.Choice(list(BOARDS)), metavar="BOARD")
@click.option(
    "--port",
    metavar="PORT",
    help="The board's port, as in a [[device]].  [default: the one that the board can be on]",
)
@click.option(
    "--image",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    metavar="FILE",
    help="For an ESP: MicroPython's image, which is written first and replaces all that is there. "
    "For an AVR: a .hex file to write instead of the reference firmware.",
)
@click.option(
    "--script",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    metavar="FILE",
    help="For boards with MicroPython: what to copy instead of the reference firmware.",
)
@click.option(
    "--name", metavar="NAME", help="The device's name in the [[device]].  [default: BOARD's]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=20.0,
    show_default=True,
    help="How long to wait for the first reading.",
)
@click.option("--dry-run", is_flag=True, help="Print the commands, and run none.")
@json_option
def flash_command(
    board_name: str,
    port: str | None,
    image: Path | None,
    script: Path | None,
    name: str | None,
    seconds: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put the reference firmware onto a board, and show its first reading."""
    board = BOARDS[board_name]
    device_name = _valid_name(name or board_name)
    port_name, path = find_port(board, port)
    with tempfile.TemporaryDirectory(prefix="edge-agent-flash-") as folder:
        tasks = steps(board, path, Path(folder), image, script)
        commands = [shlex.join(step.command) for step in tasks]
        if dry_run:
            if as_json:
                print_json({"board": board_name, "port": path, "commands": commands})
            else:
                click.echo("\n".join(commands))
            return
        if not as_json:
            click.echo(f"{board.what}, at {path}")
        if board.runs_micropython and image is None:
            asyncio.run(stop_firmware(path))
        _run(tasks, bar=not as_json)
    reading = asyncio.run(_proof(board, path, seconds))
    table = device_table(DeviceAnswer(device_name, port_name, ADAPTER, BAUD))
    if as_json:
        print_json(
            {
                "board": board_name,
                "port": path,
                "commands": commands,
                "reading": msgspec.to_builtins(reading),
                "device": table,
            }
        )
        return
    click.echo(f"first reading: {describe(reading)}")
    click.echo(f"add this to the gateway's configuration file:\n\n{table}")


def _valid_name(name: str) -> str:
    try:
        return msgspec.convert({"name": name, "port": "x", "adapter": ADAPTER}, DeviceConfig).name
    except msgspec.ValidationError as error:
        raise click.BadParameter(str(error), param_hint="--name") from None


def _run(tasks: Sequence[Step], *, bar: bool) -> None:
    """Shows a bar on standard error when that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not (bar and console.is_terminal)
    ) as progress:
        for step in tasks:
            line = progress.add_task(step.what, total=None)
            run(step, _shown(progress, line, step.what))
            progress.update(line, total=100, completed=100, description=step.what)


def _shown(progress: Progress, line: TaskID, what: str) -> Advance:
    return lambda doing, percent: progress.update(
        line, total=100, completed=percent, description=f"{what}: {doing}"
    )


async def _proof(board: Board, path: str, seconds: float) -> Reading:
    """Raises FlashError, PortError."""
    reading = await first_reading(path, seconds, restart=board.runs_micropython)
    if reading is None:
        raise FlashError(
            f"{path}: the firmware was written, but no reading came in {seconds:g} s; press the "
            "board's reset button, then try edge-agent ports --probe"
        )
    return reading
