"""`edge-agent hooks`: what became of the calls of hooks, asked of a running agent."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import click

from agent.cli.options import json_option, print_json
from agent.cli.running import Where, fetch_status, request_json, running_options
from agent.cli.showing import folding_table, plain_console
from agent.cli.status import show_hooks
from agent.errors import RemoteError
from agent.peers.http_errors import one_line
from agent.words import counted

_ALL_ROWS = 1_000_000


@click.group()
def hooks_command() -> None:
    """See what hooks do, and deal with the documents that they gave up."""


@hooks_command.command("list")
@running_options
@json_option
def list_hooks(where: Where, as_json: bool) -> None:
    """List the hooks of a running agent, and how they get on."""
    status = asyncio.run(fetch_status(where.find()))
    hooks = status.get("hooks", [])
    if as_json:
        print_json({"hooks": hooks})
    elif hooks:
        show_hooks(plain_console(), hooks)
    else:
        click.echo("no hooks; a [[hook]] table in the configuration file makes one")


@hooks_command.command()
@click.argument("hook")
@running_options
@json_option
def dead(hook: str, where: Where, as_json: bool) -> None:
    """List the documents that HOOK gave up, and why."""
    told = _ask("GET", hook, f"dead?limit={_ALL_ROWS}", where)
    if as_json:
        print_json(told)
        return
    if not told["dead"]:
        click.echo(f"{hook} has given up no document")
        return
    table = folding_table("document", "given up", "attempts", "error")
    for letter in told["dead"]:
        cells = (letter["id"], letter["time"], letter["attempts"], letter["error"])
        table.add_row(*map(one_line, cells))
    plain_console().print(table)


@hooks_command.command()
@click.argument("hook")
@click.argument("ids", nargs=-1, metavar="[DOCUMENT]...")
@running_options
@json_option
def retry(hook: str, ids: tuple[str, ...], where: Where, as_json: bool) -> None:
    """Let HOOK try documents that it gave up once more, by default all of them.

    A hook that waits, since what it calls is out of order, tries at once, too.
    """
    told = _ask("POST", hook, "retry", where, {"ids": ids} if ids else {"all": True})
    _done(told, as_json, _told(told["retried"], ids, "to be tried again"))


@hooks_command.command()
@click.argument("hook")
@click.argument("ids", nargs=-1, metavar="[DOCUMENT]...")
@click.option("--all", "everything", is_flag=True, help="Forget all that the hook has given up.")
@running_options
@json_option
def drop(hook: str, ids: tuple[str, ...], everything: bool, where: Where, as_json: bool) -> None:
    """Forget documents that HOOK gave up. The documents themselves stay as they are."""
    if bool(ids) == everything:
        raise click.UsageError("name the documents, or give --all")
    told = _ask("POST", hook, "drop", where, {"ids": ids} if ids else {"all": True})
    _done(told, as_json, _told(told["dropped"], ids, "forgotten"))


@hooks_command.command()
@click.argument("hook")
@running_options
@json_option
def skip(hook: str, where: Where, as_json: bool) -> None:
    """Let HOOK give up the document that it tries over and over, and go on with the next one."""
    told = _ask("POST", hook, "skip", where, {})
    _done(told, as_json, "the document is given up; edge-agent hooks dead shows it")


def _ask(
    method: str, hook: str, what: str, where: Where, body: dict[str, Any] | None = None
) -> Any:
    running = where.find()
    path = f"_hooks/{quote(hook, safe='')}/{what}"
    status, told = asyncio.run(request_json(running, method, path, body))
    if status >= 400:
        raise RemoteError(f"{running.url}: {one_line(told.get('reason'))}", status=status)
    return told


def _told(number: int, named: tuple[str, ...], what: str) -> str:
    text = f"{counted(number, 'document')} {what}"
    missing = len(set(named)) - number
    return f"{text}; {missing} of those named had not been given up" if missing > 0 else text


def _done(told: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        print_json(told)
    else:
        click.echo(text)
