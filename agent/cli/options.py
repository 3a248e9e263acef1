"""Options that several commands share, and how they print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

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

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
)


def print_json(value: Any) -> None:
    click.echo(msgspec.json.encode(value))
