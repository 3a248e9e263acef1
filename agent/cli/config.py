"""`edge-agent config check`."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.options import config_option, json_option, print_json
from agent.config import load
from agent.runtime import adapter_for, peer_for, selection_for, tls_for
from agent.server.passwords import PasswordHash


@click.group()
def config_command() -> None:
    """Work with the configuration file."""


@config_command.command()
@config_option
@json_option
def check(config_path: Path, as_json: bool) -> None:
    """Check a configuration file, without starting anything."""
    config = load(config_path)
    for device in config.device:
        adapter_for(device)
    for remote in config.remote:
        peer_for(remote)
        for direction in ("push", "pull"):
            selection_for(remote, direction)
    for user in config.user:
        PasswordHash.parse(user.password_hash)
    tls_for(config.server)
    names = {
        "devices": [device.name for device in config.device],
        "remotes": [remote.name for remote in config.remote],
    }
    if as_json:
        print_json({"ok": True, "file": str(config_path), **names})
    else:
        listed = "; ".join(f"{key}: {', '.join(names[key]) or 'none'}" for key in names)
        click.echo(f"{config_path}: ok ({listed})")
