"""`edge-agent device`: how devices are set, and how they are to be set."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import click
import msgspec

from agent.cli.options import json_option, print_json
from agent.cli.running import (
    Running,
    Where,
    database_option,
    own_database,
    request_json,
    running_options,
)
from agent.cli.showing import plain_console
from agent.errors import ConfigError, ConflictError, EdgeAgentError, NotFoundError
from agent.peers.http_errors import one_line
from agent.sensors.device_document import document_id, setting_rows

_PAGE = 200
_POLL = 0.2
_TRIES = 10


@click.group()
def device_command() -> None:
    """Show and change how devices are set, on a running gateway or hub."""


@device_command.command("list")
@running_options
@database_option
@json_option
def list_command(
    where: Where,
    database: str | None,
    as_json: bool,
) -> None:
    """List the devices that have settings."""

    async def listed() -> list[dict[str, Any]]:
        running = where.find()
        return [_shown(body) for body in await _documents(running, await _where(running, database))]

    devices = asyncio.run(listed())
    if as_json:
        print_json({"devices": devices})
    else:
        _print_table(devices)


@device_command.command("show")
@click.argument("name")
@running_options
@database_option
@json_option
def show_command(
    name: str,
    where: Where,
    database: str | None,
    as_json: bool,
) -> None:
    """Show how the device NAME is set, and what is desired of it."""

    async def found() -> dict[str, Any]:
        running = where.find()
        return await _document(running, await _where(running, database), name)

    device = _shown(asyncio.run(found()))
    if as_json:
        print_json(device)
    else:
        _print_table([device])


@device_command.command("set")
@click.argument("name")
@click.argument("pairs", metavar="KEY=VALUE...", nargs=-1, required=True)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until the device has confirmed it; 0: not at all.",
)
@running_options
@database_option
@json_option
def set_command(
    name: str,
    pairs: Sequence[str],
    timeout: float,
    where: Where,
    database: str | None,
    as_json: bool,
) -> None:
    """Have the device NAME set KEY to VALUE, and wait until it has confirmed it.

    VALUE is a number, true, false or text; null takes the wish back. The wish stays: a device that
    is away is told when it comes back. The exit status is 0 only when all is confirmed.
    """
    wishes = dict(map(_pair, pairs))

    async def done() -> dict[str, Any]:
        running = where.find()
        path = await _where(running, database)
        await _desire(running, path, name, wishes)
        end = time.monotonic() + timeout
        while True:
            device = _shown(await _document(running, path, name))
            if not _open(device, wishes) or time.monotonic() >= end:
                return device
            await asyncio.sleep(_POLL)

    device = asyncio.run(done())
    if as_json:
        print_json(device)
    else:
        _print_table([device])
    for key in wishes:
        row = device["settings"].get(key, {})
        if row.get("state") == "refused":
            raise EdgeAgentError(f"{name}: {key} is refused: {one_line(row['reason'])}")
    if timeout and (still := _open(device, wishes)):
        raise EdgeAgentError(
            f"{name}: {', '.join(still)} not confirmed within {timeout:g} s; the wish stays, and "
            "the device is told when it answers: see edge-agent device show"
        )


def _pair(text: str) -> tuple[str, Any]:
    """A wish: its value is JSON or, where it is none, text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r}: give KEY=VALUE, for example interval_ms=500")
    try:
        return key, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return key, value


def _open(device: dict[str, Any], wishes: dict[str, Any]) -> list[str]:
    """The wishes that the device has neither confirmed nor refused."""
    rows = device["settings"]
    return [key for key in wishes if key in rows and rows[key]["state"] == "pending"]


# --- documents -------------------------------------------------------------------------


async def _where(running: Running, database: str | None) -> str:
    return quote(database or await own_database(running), safe="")


async def _documents(running: Running, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    start, skip = document_id(""), 0
    while True:
        options = {"startkey": f'"{start}"', "endkey": f'"{document_id("~")}"', "skip": skip}
        query = urlencode({**options, "limit": _PAGE, "include_docs": "true"})
        status, page = await request_json(running, "GET", f"{path}/_all_docs?{query}")
        if status != 200:
            raise _no_database(running, path)
        found += [row["doc"] for row in page["rows"] if row["doc"].get("type") == "device"]
        if len(page["rows"]) < _PAGE:
            return found
        start, skip = page["rows"][-1]["id"], 1


async def _document(running: Running, path: str, name: str) -> dict[str, Any]:
    place = f"{path}/{quote(document_id(name), safe='')}?conflicts=true"
    status, body = await request_json(running, "GET", place)
    if status == 200:
        document: dict[str, Any] = body
        return document
    if body.get("reason") == "Database does not exist.":
        raise _no_database(running, path)
    known = [each.get("device", "?") for each in await _documents(running, path)]
    raise NotFoundError(
        f"{running.url}: no device {name!r} has said how it is set; "
        f"known are: {', '.join(map(one_line, known)) or 'none'}"
    )


async def _desire(running: Running, path: str, name: str, wishes: dict[str, Any]) -> None:
    """Write what is desired into the document; edits that others make meanwhile are kept."""
    for _ in range(_TRIES):
        document = await _document(running, path, name)
        document.pop("_conflicts", None)
        before = document.get("desired")
        desired = {**(before if isinstance(before, dict) else {}), **wishes}
        desired = {key: value for key, value in desired.items() if value is not None}
        if desired == before:
            return
        place = f"{path}/{quote(document_id(name), safe='')}"
        status, _body = await request_json(running, "PUT", place, {**document, "desired": desired})
        if status == 201:
            return
    raise ConflictError(f"{name}: others edit its document all the time; try again")


def _no_database(running: Running, path: str) -> NotFoundError:
    return NotFoundError(f"{running.url}/{path}: there is no such database; check --database")


# --- how it is shown -------------------------------------------------------------------


def _shown(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "device": body.get("device") or body["_id"].removeprefix(document_id("")),
        "gateway": body.get("gateway"),
        "reported_at": body.get("reported_at"),
        "conflicts": len(body.get("_conflicts", [])),
        "settings": setting_rows(body),
    }


def _print_table(devices: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    console = plain_console()
    table = Table("device", "setting", "desired", "reported", "state")
    for device in devices:
        name = one_line(device["device"])
        for key, row in device["settings"].items():
            values = (_text(row["desired"]), _text(row["reported"]))
            reason = f": {one_line(row['reason'])}" if row["reason"] else ""
            table.add_row(name, one_line(key), *values, row["state"] + reason)
        if not device["settings"]:
            table.add_row(name, "-", "-", "-", "nothing so far")
    console.print(table)
    for device in devices:
        if device["conflicts"]:
            console.print(
                f"{one_line(device['device'])}: {device['conflicts']} more versions of its "
                "document are in conflict; what is shown is done"
            )


def _text(value: Any) -> str:
    return "-" if value is None else one_line(msgspec.json.encode(value).decode())
