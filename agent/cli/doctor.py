"""`edge-agent doctor`."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import click
from msgspec.structs import replace

from agent.cli.options import DEFAULT_CONFIG, json_option, print_json
from agent.cli.running import Where, fetch_status, running_options
from agent.config_file import load_either
from agent.doctor.checks import checks_for
from agent.doctor.comparing import with_user
from agent.doctor.finding import Finding, Level, examine
from agent.errors import AuthError, EdgeAgentError, without_login
from agent.words import counted

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}


@click.command()
@running_options
@json_option
def doctor_command(where: Where, as_json: bool) -> None:
    """Look for what commonly goes wrong, and say how to mend it.

    Ports and groups, the clock, the disk and the card, names, certificates, log-ins, brokers and
    remotes; whether the agent runs or not. Nothing is changed anywhere. The status is 1 if there
    is an error.
    """
    path = where.config_path or DEFAULT_CONFIG
    config = load_either(path)

    async def findings() -> list[Finding]:
        told: Any = None
        unknown = []
        try:
            running = await asyncio.to_thread(replace(where, config_path=path).find)
            told = await fetch_status(running)
        except AuthError as error:
            mend = "edge-agent doctor --url http://USER@HOST:PORT --password-file FILE"
            unknown = [Finding("agent", "status", Level.WARNING, str(error), mend)]
        except EdgeAgentError:
            if where.url is not None:  # somebody expects one there
                raise
        checks = await asyncio.to_thread(
            lambda: [*checks_for(path, config, told, options_for(where))]
        )
        return unknown + await examine(checks)

    found = asyncio.run(findings())
    errors = sum(finding.level is Level.ERROR for finding in found)
    if as_json:
        print_json({"ok": not errors, "findings": found})
    else:
        _show(found)
    click.get_current_context().exit(1 if errors else 0)


def options_for(where: Where) -> str:
    """For a command that is to find the same agent; no password is in it."""
    words = []
    if where.url is not None:
        user = unquote(urlsplit(where.url).username or "")
        words += ["--url", with_user(without_login(where.url), user)]
        if where.password_file is not None:
            words += ["--password-file", str(where.password_file)]
        if where.ca_file is not None:
            words += ["--ca-file", str(where.ca_file)]
    elif where.config_path is not None:
        words += ["--config", str(where.config_path)]
    return "".join(f" {shlex.quote(word)}" for word in words)


def _show(found: Sequence[Finding]) -> None:
    for finding in found:
        level = click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
        click.echo(f"{level} {finding.check:<11} {finding.subject}: {finding.text}")
        if finding.mend is not None and finding.level is not Level.OK:
            click.echo(f"{'':<20} mend: {finding.mend}")
    errors = sum(finding.level is Level.ERROR for finding in found)
    warnings = sum(finding.level is Level.WARNING for finding in found)
    in_order = len(found) - errors - warnings
    said = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}, {in_order} in order"
    click.echo(said)
