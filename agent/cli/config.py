"""`edge-agent config check`."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.options import config_option, json_option, print_json
from agent.config import Config, parse_listen
from agent.config_file import load_either, naming
from agent.conflict_policies import policies_for
from agent.parts import adapter_for, hook_for, peer_for, selection_for, tls_for
from agent.server.http import check_host
from agent.server.passwords import PasswordHash
from agent.store.databases import Databases
from agent.telemetry.options import telemetry_options


@click.group()
def config_command() -> None:
    """Work with the configuration file."""


@config_command.command()
@config_option
@json_option
def check(config_path: Path, as_json: bool) -> None:
    """Check the configuration file of a gateway or a hub, without starting anything."""
    config = load_either(config_path)
    with naming(config_path):
        for user in config.user:
            PasswordHash.parse(user.password_hash)
        tls_for(config.server)
        check_host(parse_listen(config.server.listen)[0], has_users=bool(config.user))
        own = config.agent.database if isinstance(config, Config) else None
        for hook in config.hook:
            hook_for(hook, Databases(Path()), own)
        names = _check_gateway(config) if isinstance(config, Config) else {}
        policies_for(config.conflict)
    names["conflicts"] = [entry.name for entry in config.conflict]
    names["hooks"] = [hook.name for hook in config.hook]
    names["users"] = [user.name for user in config.user]
    if as_json:
        print_json({"ok": True, "file": str(config_path), **names})
    else:
        listed = "; ".join(f"{key}: {', '.join(found)}" for key, found in names.items() if found)
        click.echo(f"{config_path}: ok ({listed or 'no device, no remote'})")


def _check_gateway(config: Config) -> dict[str, list[str]]:
    for device in config.device:
        adapter_for(device)
    for remote in config.remote:
        peer_for(remote, config.agent.name)
        for direction in ("push", "pull"):
            selection_for(remote, direction)
    for telemetry in config.telemetry:
        telemetry_options(telemetry, config)
    return {
        "devices": [device.name for device in config.device],
        "remotes": [remote.name for remote in config.remote],
        "telemetry": [telemetry.name for telemetry in config.telemetry],
    }
