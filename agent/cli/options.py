"""Options that several commands share, and how they print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from agent.errors import EdgeAgentError

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

_JSON = "agent.cli.json"


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta[_JSON] = value
    return value


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    callback=_remember,
    help="Print one JSON object and nothing else.",
)


def print_json(value: Any) -> None:
    """The one JSON object that `--json` promises."""
    click.echo(msgspec.json.encode(value))
    click.get_current_context().meta[_JSON] = False


def print_json_error(ctx: click.Context, error: EdgeAgentError) -> None:
    """With --json an error is an object, too, unless the command has printed one already."""
    if ctx.meta.get(_JSON):
        click.echo(msgspec.json.encode({"ok": False, "error": str(error)}))
