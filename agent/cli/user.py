"""`edge-agent user add`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import click
import msgspec

from agent.cli.files import replace_file
from agent.cli.options import json_option, print_json
from agent.config_file import check_text, check_user
from agent.errors import ConfigError
from agent.server.passwords import hash_password


@click.group()
def user_command() -> None:
    """Work with the users who may log in to the server."""


@user_command.command()
@click.argument("name")
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE",
    help="A role of the user, any number of times; _admin administers the server, _reader may "
    "change nothing.",
)
@click.option(
    "--password-file",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="The file that the password is in, or - for standard input; else it is asked for.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The configuration file to add the user to; made if there is none.",
)
@json_option
def add(
    name: str,
    roles: tuple[str, ...],
    password_file: TextIO | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Add a user: print what belongs in the configuration, or add it with --config.

    The agent takes notice when it starts the next time.
    """
    check_user(name, roles)
    before = "" if config_path is None else _read(config_path)
    if config_path is not None:  # before anybody types a password in vain
        check_text(before + user_table(name, "$scrypt$", roles), config_path)
    hash = hash_password(_password(password_file))
    table = user_table(name, hash, roles)
    if config_path is not None:
        replace_file(config_path, before + table)
    if as_json:
        print_json({"ok": True, "name": name, "password_hash": hash, "roles": roles})
    elif config_path is None:
        click.echo(table.strip())
    else:
        click.echo(f"{config_path}: user {name} added; restart the agent to let them in")


def _password(file: TextIO | None) -> str:
    """Never from an argument: the process list and the shell's history would show it."""
    if file is not None:
        password = file.read().strip("\r\n")
    elif _is_terminal():
        password = click.prompt(
            "Password", hide_input=True, confirmation_prompt=True, default="", show_default=False
        )
    else:
        raise ConfigError("no password: run this on a terminal, or give --password-file FILE")
    if not password:
        raise ConfigError("the password is empty; give one of at least one character")
    return password


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def user_table(name: str, hash: str, roles: Sequence[str]) -> str:
    """The TOML of a user, to be appended to any file. JSON's strings are TOML's, too."""
    values = {"name": name, "password_hash": hash, "roles": list(roles)}
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in values.items()]
    return "\n".join(["", "[[user]]", *lines, ""])


def _read(path: Path) -> str:
    """The text of a file, with the end of its last line; empty if there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason})") from error
    return text if text.endswith("\n") or not text else text + "\n"
