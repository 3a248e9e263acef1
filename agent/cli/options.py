"""Options that several commands share, and how they print."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from agent.errors import ConfigError

DEFAULT_CONFIG = Path("/etc/edge-agent/config.toml")

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    metavar="FILE",
    help="The configuration file.",
)

ca_file_option = click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The authorities (PEM) that may have signed a certificate, in place of the system's.",
)

_JSON = "agent.cli.json"

_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])


def remember_json(ctx: click.Context) -> None:
    """An error is to be told as JSON."""
    ctx.meta[_JSON] = True


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta[_JSON] = value
    return value


def _json_option(text: str) -> Callable[[_CommandT], _CommandT]:
    return click.option("--json", "as_json", is_flag=True, callback=_remember, help=text)


json_option = _json_option("Print one JSON object and nothing else.")
json_lines_option = _json_option("Print a JSON object a line, one for each reading.")


def read_password(file: Path) -> str:
    """Raises ConfigError."""
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: no password can be read from it ({error})") from None


def password_from(file: Path | None, variable: str | None) -> str | None:
    """The password in a file or an environment variable, whichever is named. Raises ConfigError."""
    if file is not None and variable is not None:
        raise ConfigError("a password is in a file or in an environment variable; name one of them")
    if variable is None:
        return None if file is None else read_password(file)
    try:
        return os.environ[variable]
    except KeyError:
        raise ConfigError(
            f"the environment variable {variable} is not set; set it, or name a file"
        ) from None


def print_json(value: Any) -> None:
    """The one JSON object that `--json` promises."""
    click.echo(msgspec.json.encode(value))
    click.get_current_context().meta[_JSON] = False


def print_json_error(ctx: click.Context, error: str) -> None:
    """With --json an error is an object, too, unless the command has printed one already."""
    if ctx.meta.get(_JSON):
        click.echo(msgspec.json.encode({"ok": False, "error": error}))
